"""The questions of the table of conventions, and how to find each answer out by feeding a layer known numbers.

A library's documentation may be unclear, or out of date. So nothing here reads it: every answer follows from what a
layer returns, and from what its moving statistics are afterwards.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import ClassVar, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Float32: TypeAlias = npt.NDArray[np.float32]

#: Momentum that the probes hand over: not its own complement, so that the two senses give different numbers.
GIVEN = 0.75

#: Two samples with mean 0, population variance 9 and sample variance 18.
PAIR = (-3.0, 3.0)
#: Four equal samples: mean 1, variance 0.
ONES = (1.0, 1.0, 1.0, 1.0)
ZEROS = (0.0, 0.0, 0.0, 0.0)


class Statistics(NamedTuple):
    """Moving mean and moving variance of the one channel."""

    mean: float
    variance: float


class Request(NamedTuple):
    """What :meth:`Subject.run` was asked for; see there."""

    batches: Sequence[Sequence[float]]
    training: bool | None
    start: Statistics | None
    momentum: float | None
    epsilon: float | None
    frozen: bool


class Subject(ABC):
    """One BN layer of one library, made ready to be asked.

    Every call of :meth:`run` makes a new layer with one channel, gamma 1 and beta 0. Arguments that are ``None`` are
    not handed to the library, so that its own defaults show.

    Attributes
    ----------
    name
        What the table calls it.
    packages
        Distributions that must be installed; the record keeps their versions.
    can_freeze
        Whether the layer has a switch that takes its gamma and beta out of training.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    can_freeze: ClassVar[bool] = True

    def run(
        self,
        batches: Sequence[Sequence[float]],
        *,
        training: bool | None,
        start: Statistics | None = None,
        momentum: float | None = None,
        epsilon: float | None = None,
        frozen: bool = False,
    ) -> tuple[Float32, Statistics]:
        """Feed `batches`, one after the other, to a new layer.

        Parameters
        ----------
        batches
            One or more batches, each a sequence of samples with one number.
        training
            The mode, in the course's sense; ``None``: say nothing about it.
        start
            Moving statistics to begin with; ``None``: the library's.
        momentum, epsilon
            Handed on as they are; ``None``: the library's defaults.
        frozen
            Take gamma and beta out of training first; only if `can_freeze`.

        Returns
        -------
        ndarray of float32, shape (samples,)
            What the layer makes of the last batch.
        Statistics
            The moving statistics after it.

        Raises
        ------
        ValueError
            If there is no batch, or the layer has no switch for `frozen`.
        """
        if not batches:
            raise ValueError("batches is empty; expected one batch or more.")
        if frozen and not self.can_freeze:
            raise ValueError(f"frozen = True; {self.name} has no such switch.")
        return self._run(Request(batches, training, start, momentum, epsilon, frozen))

    def count(self, shape: tuple[int, ...]) -> int:
        """Return how many means the layer keeps for an input of `shape` (rank 4) if nobody names an axis."""
        return self._count(shape)

    @abstractmethod
    def _run(self, request: Request) -> tuple[Float32, Statistics]: ...

    @abstractmethod
    def _count(self, shape: tuple[int, ...]) -> int: ...

    def versions(self) -> dict[str, str] | None:
        """Return the versions of its packages, or ``None`` if one of them is not installed."""
        try:
            # "2.13.0+cpu" and "2.13.0+cu130" are one version.
            return {package: metadata.version(package).partition("+")[0] for package in self.packages}
        except metadata.PackageNotFoundError:
            return None


def sense(subject: Subject) -> str:
    """Find out which share the argument means: that of the old value, or that of the new one."""
    share = _share_of_old(subject, GIVEN)
    if _near(share, GIVEN):
        return "share of the old value"
    if _near(share, 1 - GIVEN):
        return "share of the new value"
    raise ValueError(f"{subject.name}: momentum = {GIVEN} keeps the share {share:.6g} of the old value.")


def default_momentum(subject: Subject) -> str:
    """Find out the momentum that is taken if none is given, in the library's own sense."""
    try:
        share = _share_of_old(subject, None)
    except TypeError:
        return "none, must be given"
    return f"{share if sense(subject) == 'share of the old value' else 1 - share:.3g}"


def start_values(subject: Subject) -> str:
    """Find out whether the start value is part of the average, or corrected away."""
    return "corrected away" if _corrected(subject) else "part of the average"


def default_epsilon(subject: Subject) -> str:
    """Find out the epsilon that is taken if none is given."""
    return f"{_epsilon(subject)[0]:.2g}"


def epsilon_place(subject: Subject) -> str:
    """Find out whether epsilon stands beside the variance (inside the root) or beside the standard deviation."""
    return _epsilon(subject)[1]


def normalising_variance(subject: Subject) -> str:
    """Find out which variance training mode divides by."""
    epsilon = 1e-4
    y, _ = subject.run([PAIR], training=True, momentum=GIVEN, epsilon=epsilon)
    return _kind(subject, (PAIR[-1] / float(y[-1])) ** 2 - epsilon)


def averaged_variance(subject: Subject) -> str:
    """Find out which variance enters the moving average."""
    return _kind(subject, _variance_learnt(subject, PAIR))


def frozen(subject: Subject) -> str:
    """Find out what training mode does once gamma and beta are taken out of training."""
    if not subject.can_freeze:
        return "no such switch"
    start = Statistics(0.0, 1.0)
    y, after = subject.run([PAIR], training=True, start=start, momentum=GIVEN, frozen=True)
    statistics = "batch" if abs(y[-1]) < 2 else "moving"  # 3 divided by 3, or by 1
    moved = "do not move" if after == start else "move on"
    return f"normalises with the {statistics} statistics, the moving ones {moved}"


def default_mode(subject: Subject) -> str:
    """Find out the mode that is taken if none is given."""
    try:
        y, _ = subject.run([PAIR], training=None, start=Statistics(0.0, 1.0), momentum=GIVEN)
    except (TypeError, ValueError, AssertionError):
        return "none, must be given"
    return "training" if abs(y[-1]) < 2 else "inference"


def batch_of_one(subject: Subject) -> str:
    """Find out what training mode makes of a single number."""
    try:
        y, _ = subject.run([(7.0,)], training=True, momentum=GIVEN)
        learnt = _variance_learnt(subject, (7.0,))
    except ValueError:
        return "refuses"
    return f"{_word(float(y[0]))}; learns the variance {_word(learnt)}"


def channel_axis(subject: Subject) -> str:
    """Find out which axis of an image keeps its own statistics if none is given."""
    shape = (2, 3, 4, 5)
    return {5: "last", 3: "first after the batch"}[subject.count(shape)]


@dataclass(frozen=True)
class Question:
    """One column of the table.

    Attributes
    ----------
    key
        Its name in the record.
    title
        Its heading.
    ask
        The probe: finds the answer out by running the layer.
    """

    key: str
    title: str
    ask: Callable[[Subject], str]


QUESTIONS = (
    Question("sense", "momentum means", sense),
    Question("momentum", "default momentum", default_momentum),
    Question("start", "start values 0 and 1", start_values),
    Question("epsilon", "default epsilon", default_epsilon),
    Question("place", "epsilon stands", epsilon_place),
    Question("normalises", "variance that normalises", normalising_variance),
    Question("averaged", "variance that is averaged", averaged_variance),
    Question("frozen", "frozen, in training mode", frozen),
    Question("mode", "mode if not given", default_mode),
    Question("one", "a batch of one", batch_of_one),
    Question("axis", "channels by default", channel_axis),
)


def probe(subject: Subject) -> dict[str, str]:
    """Ask `subject` all questions; return the answers by the question's key."""
    return {question.key: question.ask(subject) for question in QUESTIONS}


def _near(value: float, expected: float) -> bool:
    return math.isclose(value, expected, rel_tol=1e-4, abs_tol=1e-5)


def _means(subject: Subject, momentum: float | None) -> tuple[float, float]:
    """Return the moving mean after a batch of ones, and after a batch of ones and one of zeros."""
    _, first = subject.run([ONES], training=True, momentum=momentum)
    _, second = subject.run([ONES, ZEROS], training=True, momentum=momentum)
    return first.mean, second.mean


def _corrected(subject: Subject) -> bool:
    return _near(_means(subject, GIVEN)[0], 1.0)


def _share_of_old(subject: Subject, momentum: float | None) -> float:
    """Return the share s of the old value.

    The average keeps 1 - s of the first batch, and s (1 - s) of it after the second. Corrected for the start value,
    these are divided by 1 - s and 1 - s^2: 1 and s / (1 + s).
    """
    first, second = _means(subject, momentum)
    return second / (1 - second) if _near(first, 1.0) else second / first


def _variance_learnt(subject: Subject, batch: Sequence[float]) -> float:
    """Return the variance of `batch` that the moving variance took in, whatever it started from."""
    weight = _means(subject, GIVEN)[0]
    learnt, nothing = (subject.run([b], training=True, momentum=GIVEN)[1].variance for b in (batch, ZEROS))
    return (learnt - nothing) / weight


def _epsilon(subject: Subject) -> tuple[float, str]:
    """Return epsilon and its place: only the true place gives the same epsilon for two variances."""
    variances = np.array([1e-3, 4e-3])
    outputs = [
        float(subject.run([(1.0,)], training=False, start=Statistics(0.0, v), momentum=GIVEN)[0][0]) for v in variances
    ]
    divisors = 1 / np.array(outputs)
    places = {"inside the root": divisors**2 - variances, "outside the root": divisors - np.sqrt(variances)}
    place = min(places, key=lambda name: float(np.ptp(places[name])))
    if np.ptp(places[place]) > 1e-2 * abs(places[place].mean()):
        raise ValueError(f"{subject.name}: epsilon stands neither inside nor outside the root: {places}.")
    return float(places[place].mean()), place


def _kind(subject: Subject, variance: float) -> str:
    names = {"population": np.var(PAIR), "sample": np.var(PAIR, ddof=1)}
    for name, value in names.items():
        if _near(variance, float(value)):
            return name
    raise ValueError(f"{subject.name}: the variance of {PAIR} is {variance:.6g} there; expected one of {names}.")


def _word(number: float) -> str:
    return "nan" if math.isnan(number) else f"{round(number, 3) + 0.0:g}"
