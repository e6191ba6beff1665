"""What the three front ends share: average the statistics of the batches, write them all or none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Literal, Protocol

import numpy as np
from tqdm import tqdm

from bncourse.nn.checks import positive_int
from bncourse.repair.report import Array, Float64, LayerChange, Report

Variance = Literal["averaged", "pooled"]

#: Moving mean and moving variance of one layer, in its own dtype.
Pair = tuple[Array, Array]


@dataclass(frozen=True)
class Measurement:
    """Statistics of one batch at one layer: what would have entered the layer's moving averages."""

    layer: int
    mean: Float64
    variance: Float64
    weight: float


class Target(Protocol):
    """A model as the engine sees it."""

    names: list[str]
    frozen: list[str]

    def read(self) -> list[Pair]:
        """Return copies of the moving statistics."""

    def write(self, statistics: Sequence[Pair]) -> None:
        """Set the moving statistics."""

    def measure(self, batch: Any) -> tuple[int, list[Measurement]]:
        """Return the number of images of a batch, and its statistics at the layers, in the order of the layers."""


class Average:
    """Running averages over batches, in float64; memory does not grow with their number."""

    def __init__(self) -> None:
        self._weight = 0.0
        self._mean: Any = 0.0
        self._within: Any = 0.0
        self._between: Any = 0.0

    def add(self, mean: Float64, variance: Float64, weight: float) -> None:
        """Take in one batch."""
        self._weight += weight
        share = weight / self._weight
        step = mean - self._mean
        self._mean = self._mean + share * step
        self._within = self._within + share * (variance - self._within)
        # Welford's form: a difference of squares would cancel where the mean is large.
        self._between = self._between + weight * step * (mean - self._mean)

    def result(self, variance: Variance) -> tuple[Float64, Float64]:
        """Return mean and variance."""
        between = self._between / self._weight if variance == "pooled" else 0.0
        return self._mean, self._within + between


def run(
    target: Target,
    batches: Iterable[Any],
    *,
    limit: int | None,
    variance: Variance,
    progress: bool,
    source: str,
) -> Report:
    """Re-estimate the statistics of `target`; on any error they are what they were.

    Parameters
    ----------
    target
        The model.
    batches
        What `target` measures.
    limit
        Use at most so many.
    variance
        ``"averaged"`` or ``"pooled"``.
    progress
        Show a bar on standard error.
    source
        Name of the argument that the batches came from, for messages.

    Raises
    ------
    TypeError, ValueError
        If an argument is impossible, there are no batches, or a statistic is not finite.
    """
    if limit is not None:
        positive_int(limit, "batches")
    if variance not in ("averaged", "pooled"):
        raise ValueError(f"variance = {variance!r}; expected 'averaged' or 'pooled'.")
    old = target.read()
    try:
        averages, seen, images = _collect(target, tqdm(islice(batches, limit), disable=not progress, unit="batch"))
        if not seen:
            raise ValueError(f"{source} holds no batches; expected at least one. Is a generator already used up?")
        missed = [name for place, name in enumerate(target.names) if place not in averages]
        if missed:
            raise ValueError(
                f"no batch reached {', '.join(missed)}; the statistics are as they were. If that is meant, name the "
                "other BN layers in layers."
            )
        new = [
            _stored(averages[place].result(variance), *each)
            for place, each in enumerate(zip(old, target.names, strict=True))
        ]
        target.write(new)
    except BaseException:  # an interrupt of the keyboard, too
        target.write(old)
        raise
    # The order in which the batches reached the layers.
    changes = [LayerChange(target.names[place], *old[place], *new[place]) for place in averages]
    return Report(tuple(changes), tuple(target.frozen), seen, images, variance, partial(target.write, old))


def chosen(names: Sequence[str], layers: Iterable[str] | None) -> list[int]:
    """Return the places of the names in `layers` among `names`; all places for None.

    Raises
    ------
    TypeError
        If `layers` is a text.
    ValueError
        If a name is unknown, or there is none.
    """
    if layers is None:
        return list(range(len(names)))
    if isinstance(layers, str):
        raise TypeError(f"layers = {layers!r}; expected several names: [{layers!r}].")
    wanted = set(layers)
    unknown = sorted(wanted - set(names))
    if unknown or not wanted:
        raise ValueError(f"layers = {unknown}; expected names of BN layers, among {', '.join(names)}.")
    return [place for place, name in enumerate(names) if name in wanted]


def _collect(target: Target, batches: Iterable[Any]) -> tuple[dict[int, Average], int, int]:
    """Return the averages by the layers' places, the batches and the images seen."""
    averages: dict[int, Average] = {}
    seen = images = 0
    for batch in batches:
        count, measurements = target.measure(batch)
        for measured in measurements:
            check_finite(measured.mean, measured.variance, target.names[measured.layer], seen)
            averages.setdefault(measured.layer, Average()).add(measured.mean, measured.variance, measured.weight)
        seen, images = seen + 1, images + count
    return averages, seen, images


def check_finite(mean: Array, variance: Array, name: str, batch: int) -> None:
    """Refuse statistics that would spoil the layer for good.

    Raises
    ------
    ValueError
        If one is NaN or infinite.
    """
    bad = ~(np.isfinite(mean) & np.isfinite(variance))
    if bad.any():
        raise ValueError(
            f"batch {batch} gives {name} a mean or variance that is NaN or infinite, in {bad.sum()} of {bad.size} "
            "channels; the statistics are as they were. Look for NaN, infinite or huge numbers in the batch and in "
            "the weights before this layer."
        )


def _stored(statistics: tuple[Float64, Float64], before: Pair, name: str) -> Pair:
    """Return the statistics in the layer's own dtype."""
    with np.errstate(over="ignore"):
        mean, variance = (new.astype(old.dtype) for new, old in zip(statistics, before, strict=True))
    if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
        raise ValueError(
            f"the statistics of {name} do not fit into {mean.dtype}; they are as they were. Scale the data down."
        )
    return mean, variance
