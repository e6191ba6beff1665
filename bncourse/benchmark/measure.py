"""Time the contenders in turn, and count the memory that NumPy takes."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bncourse.benchmark.contenders import CONTENDERS, Case, Passes, numpy_layer

#: From a dense layer to images that no cache holds.
CASES: tuple[Case, ...] = (
    Case((64, 100)),
    Case((256, 1024)),
    *(
        Case(shape, axis)
        for last in ((64, 14, 14, 64), (64, 28, 28, 32), (32, 28, 28, 256), (64, 56, 56, 64))
        for shape, axis in ((last, -1), ((last[0], last[3], last[1], last[2]), 1))
    ),
)

#: Seconds that one contender works in one turn, about; many short calls fit in, or one long one.
TURN = 0.02


@dataclass(frozen=True)
class Row:
    """What one contender took for one case.

    Attributes
    ----------
    case, contender
        Which.
    passes
        ``"forward"`` or ``"both"``.
    milliseconds
        Median over the turns of the median call.
    ratio
        bncourse's time in the same round, in times of this one: below 1, bncourse is faster. Median over the turns.
    low, high
        Quartiles of that ratio.
    """

    case: str
    contender: str
    passes: str
    milliseconds: float
    ratio: float
    low: float
    high: float


def measure(
    cases: Sequence[Case] = CASES,
    *,
    rounds: int = 15,
    contenders: Mapping[str, Callable[[Case], Passes | None]] = CONTENDERS,
    report: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """Time all contenders, in turn, and return a row for each.

    In every round each contender has one turn, so that a machine that slows down slows down for all; a ratio is taken
    within a round. The first of `contenders` is compared with the others.

    Parameters
    ----------
    cases
        The inputs.
    rounds
        Turns of every contender, 1 or more.
    contenders
        Who takes part.
    report
        Called with the name of a case when its turns begin.

    Raises
    ------
    ValueError
        If `rounds` is below 1.
    """
    if rounds < 1:
        raise ValueError(f"rounds = {rounds}; expected an integer >= 1.")
    rows = []
    for case in cases:
        report(case.name)
        ready = {name: passes for name, make in contenders.items() if (passes := make(case)) is not None}
        for index, kind in enumerate(("forward", "both")):
            rows += race(case, kind, {name: passes[index] for name, passes in ready.items()}, rounds)
    return rows


def race(case: Case, kind: str, calls: Mapping[str, Callable[[], object]], rounds: int) -> list[Row]:
    """Time `calls` in turn and return a row for each; all are compared with the first."""
    repeats = {name: max(1, round(TURN / _turn(call, 3))) for name, call in calls.items()}
    turns = [{name: _turn(call, repeats[name]) for name, call in calls.items()} for _ in range(rounds)]
    first = next(iter(calls))
    rows = []
    for name in calls:
        ratios = sorted(turn[first] / turn[name] for turn in turns)
        quarter = len(ratios) // 4
        milliseconds = 1000 * median(turn[name] for turn in turns)
        rows.append(Row(case.name, name, kind, milliseconds, median(ratios), ratios[quarter], ratios[-1 - quarter]))
    return rows


def _turn(call: Callable[[], object], repeats: int) -> float:
    """Return the seconds of the median call, after one that is not counted."""
    call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def peak_memory(case: Case, *, fast: bool = True) -> dict[str, float]:
    """Return the most memory that the NumPy layer takes beside x and dy, in times the bytes of x.

    Outputs count: y after the forward pass, y and dx after both.

    Parameters
    ----------
    case
        The input.
    fast
        The layer in blocks, or the plain one.
    """
    forward, both = numpy_layer(case, fast=fast)
    both()  # what is made once is not counted
    size = case.data()[0].nbytes
    peaks = {}
    for kind, call in (("forward", forward), ("both", both)):
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            call()
            peaks[kind] = (tracemalloc.get_traced_memory()[1] - before) / size
        finally:
            tracemalloc.stop()
    return peaks
