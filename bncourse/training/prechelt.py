"""Prechelt's three families of stopping criteria (1998): GL, PQ and UP.

The functions are the paper's formulas; the classes apply them to one value after the other. What the paper calls an
epoch is an evaluation here, so criteria of one strip length mean the same however often one evaluates.

References
----------
L. Prechelt (1998), Early Stopping - But When?, in: Neural Networks: Tricks of the Trade, Lecture Notes in Computer
Science 1524, Springer.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bncourse.training.rule import Decision, Record, StoppingRule, number, shared_entries, whole

FloatArray = npt.NDArray[np.float64]


def generalization_loss(errors: npt.ArrayLike) -> FloatArray:
    r"""Return how far each validation error lies above the smallest one so far, in per cent.

    .. math:: GL(t) = 100 \left( \frac{E(t)}{\min_{t' \le t} E(t')} - 1 \right)

    Parameters
    ----------
    errors : array_like, shape (evaluations,)
        Validation errors in the order of training, finite, 0 or more: a loss, or 1 minus an accuracy.

    Returns
    -------
    ndarray, shape (evaluations,)
        0 at every new minimum, and infinite after an error of 0.

    Raises
    ------
    ValueError
        If there are no errors, or one is negative or not finite.
    """
    array = _errors(errors, "errors")
    least = np.minimum.accumulate(array)
    # An error of 0 cannot be beaten, so whatever lies above it is infinitely worse.
    with np.errstate(over="ignore"):
        ratio = np.divide(array, least, out=np.where(array > least, np.inf, 1.0), where=least > 0)
    result: FloatArray = 100 * (ratio - 1)
    return result


def training_progress(strip: npt.ArrayLike) -> float:
    r"""Return by how much the mean training error of a strip exceeds its smallest one, in per mille.

    .. math:: P_k = 1000 \left( \frac{\sum E_{tr}}{k \min E_{tr}} - 1 \right)

    It is large while the training error falls, and also while it jumps up and down; it is 0 if nothing moves.

    Parameters
    ----------
    strip : array_like, shape (k,)
        Training errors of k successive evaluations, finite, 0 or more.

    Returns
    -------
    float
        0 or more; infinite if the smallest error is 0 and another is not.

    Raises
    ------
    ValueError
        If the strip is empty, or an error is negative or not finite.
    """
    array = _errors(strip, "strip")
    least = array.min()
    with np.errstate(divide="ignore", over="ignore"):
        # Differences first: the mean divided by the minimum, minus 1, would leave a rounding error where nothing moves.
        excess = np.mean(array - least)
        return float(1000 * np.divide(excess, least)) if excess > 0 else 0.0


def successive_rises(errors: npt.ArrayLike) -> int:
    """Return how many times in a row the error has risen, up to the last one.

    Parameters
    ----------
    errors : array_like, shape (n,)
        Validation errors at the ends of successive strips, finite, 0 or more.

    Raises
    ------
    ValueError
        If there are no errors, or one is negative or not finite.
    """
    rises = np.diff(_errors(errors, "errors")) > 0
    return len(rises) if rises.all() else int(np.argmin(rises[::-1]))


@dataclass(frozen=True)
class _Record(Record):
    #: Those that could be judged.
    evaluations: int = 0
    #: What the criterion needs of former evaluations.
    memory: tuple[float, ...] = ()


class _Prechelt(StoppingRule):
    """What the three families share: the smallest error is the best, and strips are counted in evaluations."""

    #: Whether `training_error` must be given.
    _needs_training = False

    def __init__(self, strip: int, least: int, start_from: int) -> None:
        self.strip = whole(strip, "strip", least=least)
        self.start_from = whole(start_from, "start_from")
        self._record: _Record = _Record()

    def update(self, value: float, step: int, *, training_error: float | None = None) -> Decision:
        """Take in the errors of one evaluation.

        An error that is not finite stops the training at once, and is never the best: no criterion can be computed.

        Parameters
        ----------
        value : float
            Validation error, 0 or more; small is good.
        step : int
            Steps of training done so far: greater at every call.
        training_error : float, optional
            Mean training error since the last evaluation, 0 or more. `ProgressQuotient` needs it, the others do not
            look at it.

        Returns
        -------
        Decision

        Raises
        ------
        TypeError
            If `value` or a needed `training_error` is no number, or `step` no integer.
        ValueError
            If an error is negative, or `step` is not greater than the one before. On errors nothing is remembered.
        """
        value, step = _error(value, "value"), self._next_step(step)
        training = 0.0
        if self._needs_training:
            if training_error is None:
                raise TypeError(f"training_error is missing; {type(self).__name__} needs the mean training error.")
            training = _error(training_error, "training_error")
        record = replace(self._record, last_step=step)
        if step < self.start_from:
            self._record = record
            return Decision(improved=False, should_stop=self.should_stop)

        finite = math.isfinite(value) and math.isfinite(training)
        improved = finite and (record.best is None or value < record.best)
        if improved:
            record = replace(record, best=value, best_step=step)
        stops = True
        if finite:
            record = replace(record, evaluations=record.evaluations + 1)
            record, stops = self._judge(record, value, training, ends=record.evaluations % self.strip == 0)
        if stops and record.stopped_step is None:
            record = replace(record, stopped_step=step)
        self._record = record
        return Decision(improved=improved, should_stop=self.should_stop)

    @abstractmethod
    def _judge(self, record: _Record, value: float, training: float, ends: bool) -> tuple[_Record, bool]:
        """Return the record with its new memory, and whether to stop; `ends`: this evaluation ends a strip."""

    def _remembered(self, evaluations: int) -> int:  # noqa: ARG002
        """Return how many numbers the memory holds after so many evaluations."""
        return 0

    def _checked(self, state: Mapping[str, Any]) -> _Record:
        shared = shared_entries(state, self.start_from)
        if shared["best"] is not None:
            _error(shared["best"], "best")
        evaluations = whole(state["evaluations"], "evaluations")
        last = shared["last_step"]
        if evaluations > (0 if last is None else max(0, last - self.start_from + 1)):
            raise ValueError(
                f"evaluations = {evaluations} with last_step = {last} and start_from = {self.start_from}; "
                "expected at most one a step."
            )
        if not isinstance(state["memory"], list | tuple):
            raise TypeError(f"memory = {state['memory']!r}; expected a list of numbers.")
        memory = tuple(_error(value, "memory") for value in state["memory"])
        if not all(map(math.isfinite, memory)) or len(memory) != self._remembered(evaluations):
            raise ValueError(
                f"memory = {list(memory)} after {evaluations} evaluations; expected {self._remembered(evaluations)} "
                f"finite numbers for {self!r}."
            )
        return _Record(**shared, evaluations=evaluations, memory=memory)


class GeneralizationLoss(_Prechelt):
    """GL: stop as soon as the validation error lies more than `alpha` per cent above the smallest one so far.

    Parameters
    ----------
    alpha : float
        Per cent, 0 or more, finite. Prechelt tried 1, 2, 3 and 5.
    start_from : int
        Evaluations before this step are passed over.

    Raises
    ------
    TypeError
        If `alpha` is no number, or `start_from` no integer.
    ValueError
        If an option lies outside its range.
    """

    def __init__(self, alpha: float, *, start_from: int = 0) -> None:
        super().__init__(1, 1, start_from)
        self.alpha = _threshold(alpha)

    def _judge(self, record: _Record, value: float, training: float, ends: bool) -> tuple[_Record, bool]:  # noqa: ARG002
        assert record.best is not None
        return record, bool(generalization_loss([record.best, value])[-1] > self.alpha)

    def __repr__(self) -> str:
        return f"GeneralizationLoss({self.alpha}, start_from={self.start_from})"


class ProgressQuotient(_Prechelt):
    """PQ: stop at the end of a strip if GL exceeds `alpha` times the training progress of that strip.

    While the training error still falls fast, more generalization loss is borne: it may yet be made good.

    Parameters
    ----------
    alpha : float
        Per cent per per mille, 0 or more, finite. Prechelt tried 0.5, 0.75, 1, 2 and 3.
    strip : int
        Evaluations in a strip, 2 or more (the progress of one is always 0).
    start_from : int
        Evaluations before this step are passed over.

    Raises
    ------
    TypeError
        If `alpha` is no number, or `strip` or `start_from` no integer.
    ValueError
        If an option lies outside its range.
    """

    _needs_training = True

    def __init__(self, alpha: float, *, strip: int = 5, start_from: int = 0) -> None:
        super().__init__(strip, 2, start_from)
        self.alpha = _threshold(alpha)

    def _judge(self, record: _Record, value: float, training: float, ends: bool) -> tuple[_Record, bool]:
        strip = (*record.memory, training)
        if not ends:
            return replace(record, memory=strip), False
        assert record.best is not None
        loss = generalization_loss([record.best, value])[-1]
        # Multiplied out: a strip without progress would need a division by 0.
        return replace(record, memory=()), bool(loss > self.alpha * training_progress(strip))

    def _remembered(self, evaluations: int) -> int:
        return evaluations % self.strip

    def __repr__(self) -> str:
        return f"ProgressQuotient({self.alpha}, strip={self.strip}, start_from={self.start_from})"


class SuccessiveRises(_Prechelt):
    """UP: stop when the validation error has risen in `rises` successive strips, however little.

    Compared are the errors at the ends of the strips. The first strip has nothing before it, and is no rise.

    Parameters
    ----------
    rises : int
        How many in a row, 1 or more. Prechelt tried 2, 3, 4, 6 and 8.
    strip : int
        Evaluations in a strip, 1 or more.
    start_from : int
        Evaluations before this step are passed over.

    Raises
    ------
    TypeError
        If an option is no integer.
    ValueError
        If an option lies outside its range.
    """

    def __init__(self, rises: int, *, strip: int = 5, start_from: int = 0) -> None:
        super().__init__(strip, 1, start_from)
        self.rises = whole(rises, "rises", least=1)

    def _judge(self, record: _Record, value: float, training: float, ends: bool) -> tuple[_Record, bool]:  # noqa: ARG002
        if not ends:
            return record, False
        ends_of_strips = (*record.memory, value)[-self.rises - 1 :]
        return replace(record, memory=ends_of_strips), successive_rises(ends_of_strips) >= self.rises

    def _remembered(self, evaluations: int) -> int:
        return min(evaluations // self.strip, self.rises + 1)

    def __repr__(self) -> str:
        return f"SuccessiveRises({self.rises}, strip={self.strip}, start_from={self.start_from})"


def _errors(values: npt.ArrayLike, name: str) -> FloatArray:
    """Return `values` as an array of errors."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name} has shape {array.shape}; expected one error after the other, at least one.")
    wrong = array[~((array >= 0) & np.isfinite(array))]
    if len(wrong):
        raise ValueError(f"{name} holds {wrong[0]}; expected finite errors >= 0 (1 - accuracy, for an accuracy).")
    return array


def _error(value: Any, name: str) -> float:
    """Return `value` as a float that is not negative; it may be infinite or NaN."""
    error = number(value, name)
    if error < 0:
        raise ValueError(f"{name} = {error}; expected an error >= 0 (1 - accuracy, for an accuracy).")
    return error


def _threshold(alpha: Any) -> float:
    threshold = number(alpha, "alpha")
    if not 0 <= threshold < math.inf:
        raise ValueError(f"alpha = {alpha}; expected a finite number >= 0.")
    return threshold
