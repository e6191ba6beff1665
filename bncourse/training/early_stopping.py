"""When to stop training: the rule of ``keras.callbacks.EarlyStopping``, for a hand-written loop."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

Mode = Literal["min", "max"]
Unit = Literal["evaluations", "steps"]


@dataclass(frozen=True)
class Decision:
    """What one evaluation means for the training.

    Attributes
    ----------
    improved : bool
        This value is the best so far: save the weights now.
    should_stop : bool
        Patience has run out, now or at an earlier evaluation: leave the loop, and go back to the saved weights.
    """

    improved: bool
    should_stop: bool


@dataclass(frozen=True)
class _Record:
    """Everything that the rule remembers; plain numbers, so that it can be written as JSON."""

    best: float | None = None
    best_step: int | None = None
    last_step: int | None = None
    stopped_step: int | None = None
    waiting_since: int = 0
    evaluations_waited: int = 0


class EarlyStopping:
    """Stop when a value has not improved for a while.

    ::

        stopping = EarlyStopping(patience=2000, unit="steps", mode="max")
        for step, batch in enumerate(batches, start=1):
            train(batch)
            if step % 10 == 0:
                decision = stopping.update(validation_accuracy(), step)
                if decision.improved:
                    checkpoint.save(session)
                if decision.should_stop:
                    break
        checkpoint.restore(session)

    A value improves if it is the first finite one, or beats the best one by more than `min_delta`. NaN and infinities
    never improve. An evaluation without an improvement stops the training once patience has run out. The defaults and
    the rule are those of ``keras.callbacks.EarlyStopping``, but for four points: patience may be counted in steps; NaN
    and infinities do not become the best (in Keras 3 a NaN does as the very first value, and nothing beats it);
    values are compared in double precision (in Keras 3 in single precision, as a rule); and an instance
    belongs to one run. What Keras calls ``restore_best_weights`` is the caller's part here: save where
    `Decision.improved` says so, restore after the loop (see `Checkpoint`).

    Parameters
    ----------
    patience : int
        How long to wait for an improvement, 0 or more. With 0 (as with 1, if counted in evaluations) the first
        evaluation without one stops the training.
    unit : {"evaluations", "steps"}
        What `patience` counts: calls of `update`, as Keras does with epochs; or the distance between their `step`.
    mode : {"min", "max"}
        Whether small values are good (a loss) or great ones (an accuracy).
    min_delta : float
        By how much a value must beat the best one, finite, 0 or more.
    baseline : float, optional
        Patience starts anew only with improvements that beat this value, too, by more than `min_delta`.
    start_from : int
        Evaluations before this step are passed over; patience runs from this step.

    Raises
    ------
    TypeError
        If `patience` or `start_from` is no integer, or `min_delta` or `baseline` no number.
    ValueError
        If an option lies outside its range.
    """

    def __init__(
        self,
        *,
        patience: int = 0,
        unit: Unit = "evaluations",
        mode: Mode = "min",
        min_delta: float = 0.0,
        baseline: float | None = None,
        start_from: int = 0,
    ) -> None:
        if unit not in get_args(Unit):
            raise ValueError(f"unit = {unit!r}; expected 'evaluations' or 'steps'.")
        if mode not in get_args(Mode):
            raise ValueError(f"mode = {mode!r}; expected 'min' for a loss or 'max' for an accuracy.")
        self.patience = _whole(patience, "patience")
        self.unit: Unit = unit
        self.mode: Mode = mode
        self.min_delta = _number(min_delta, "min_delta")
        if not 0 <= self.min_delta < math.inf:
            raise ValueError(f"min_delta = {min_delta}; expected a finite number >= 0, in either mode.")
        self.baseline = None if baseline is None else _number(baseline, "baseline")
        if self.baseline is not None and not math.isfinite(self.baseline):
            raise ValueError(f"baseline = {baseline}; expected a finite number, or None for no baseline.")
        self.start_from = _whole(start_from, "start_from")
        self._record = _Record(waiting_since=self.start_from)

    @property
    def best(self) -> float | None:
        """Best value so far; None before the first finite one."""
        return self._record.best

    @property
    def best_step(self) -> int | None:
        """Step of the best value; None before the first finite one."""
        return self._record.best_step

    @property
    def stopped_step(self) -> int | None:
        """Step at which patience ran out; None while it lasts."""
        return self._record.stopped_step

    @property
    def should_stop(self) -> bool:
        """Whether patience has run out. It stays so, even if the caller trains on and finds a better value."""
        return self.stopped_step is not None

    def update(self, value: float, step: int) -> Decision:
        """Take in the value of one evaluation.

        Parameters
        ----------
        value : float
            The monitored value.
        step : int
            Steps of training done so far (or the epoch): greater at every call.

        Returns
        -------
        Decision

        Raises
        ------
        TypeError
            If `value` is no number or `step` no integer.
        ValueError
            If `step` is not greater than the one before. On errors nothing is remembered.
        """
        value, step = _number(value, "value"), _whole(step, "step")
        record = self._record
        if record.last_step is not None and step <= record.last_step:
            raise ValueError(
                f"step = {step}, after step {record.last_step}; expected a greater one. "
                "Use a new EarlyStopping for every run."
            )
        record = replace(record, last_step=step)
        if step < self.start_from:
            self._record = record
            return Decision(improved=False, should_stop=self.should_stop)

        improved = self._beats(value, record.best)
        if improved:
            record = replace(record, best=value, best_step=step)
        if improved and self._beats(value, self.baseline):
            record = replace(record, waiting_since=step, evaluations_waited=0)
        else:
            record = replace(record, evaluations_waited=record.evaluations_waited + 1)
        waited = record.evaluations_waited if self.unit == "evaluations" else step - record.waiting_since
        if not improved and record.stopped_step is None and waited >= self.patience:
            record = replace(record, stopped_step=step)
        self._record = record
        return Decision(improved=improved, should_stop=self.should_stop)

    def _beats(self, value: float, reference: float | None) -> bool:
        """Tell whether `value` is finite and better than `reference` by more than `min_delta`."""
        if not math.isfinite(value) or reference is None:
            return math.isfinite(value)
        if self.mode == "min":
            return value + self.min_delta < reference
        return value - self.min_delta > reference

    def state(self) -> dict[str, float | int | None]:
        """Return what is remembered, as a dictionary of plain numbers that JSON can hold."""
        return asdict(self._record)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a `state` again, for example after a restart. The options are not part of it.

        Parameters
        ----------
        state : mapping
            What `state` returned.

        Raises
        ------
        TypeError
            If an entry is of the wrong type.
        ValueError
            If entries are missing, unknown or outside their range. On errors nothing changes.
        """
        expected = {field.name for field in fields(_Record)}
        if set(state) != expected:
            raise ValueError(
                f"state has the entries {sorted(state)}; expected {sorted(expected)}, as EarlyStopping.state() gives."
            )
        best = None if state["best"] is None else _number(state["best"], "best")
        if best is not None and not math.isfinite(best):
            raise ValueError(f"best = {best}; expected a finite number or None.")
        if (best is None) != (state["best_step"] is None):
            raise ValueError(f"best = {best} with best_step = {state['best_step']}; expected both or neither.")

        def step_or_none(name: str) -> int | None:
            return None if state[name] is None else _whole(state[name], name)

        self._record = _Record(
            best=best,
            best_step=step_or_none("best_step"),
            last_step=step_or_none("last_step"),
            stopped_step=step_or_none("stopped_step"),
            waiting_since=_whole(state["waiting_since"], "waiting_since"),
            evaluations_waited=_whole(state["evaluations_waited"], "evaluations_waited"),
        )

    def __repr__(self) -> str:
        return (
            f"EarlyStopping(patience={self.patience}, unit={self.unit!r}, mode={self.mode!r}, "
            f"min_delta={self.min_delta}, baseline={self.baseline}, start_from={self.start_from})"
        )


def _whole(value: Any, name: str) -> int:
    """Return `value` as an int of at least 0; NumPy's integers are welcome."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} = {value!r}; expected an integer.") from None
    if number < 0:
        raise ValueError(f"{name} = {number}; expected an integer >= 0.")
    return number


def _number(value: Any, name: str) -> float:
    """Return `value` as a float; NumPy's scalars are welcome, texts are not."""
    try:
        if isinstance(value, str | bytes | bool):
            raise TypeError
        return float(value)
    except TypeError:
        raise TypeError(f"{name} = {value!r}; expected a number.") from None
