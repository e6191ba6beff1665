"""When to stop training: the rule of ``keras.callbacks.EarlyStopping``, for a hand-written loop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from bncourse.training.rule import Decision, Record, StoppingRule, number, shared_entries, whole

Mode = Literal["min", "max"]
Unit = Literal["evaluations", "steps"]


@dataclass(frozen=True)
class _Record(Record):
    waiting_since: int = 0
    evaluations_waited: int = 0


class EarlyStopping(StoppingRule):
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
    the rule are those of ``keras.callbacks.EarlyStopping``, but for five points: `mode` is not guessed from a name;
    patience may be counted in steps; NaN and infinities do not become the best (in Keras 3 a NaN does as the very
    first value, and nothing beats it); values are compared in double precision (in Keras 3 in single precision, as a
    rule); and an instance belongs to one run. What Keras calls ``restore_best_weights`` is the caller's part here:
    save where `Decision.improved` says so, restore after the loop (see `Checkpoint`); or leave all of it to a `Guard`.

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
        self.patience = whole(patience, "patience")
        self.unit: Unit = unit
        self.mode: Mode = mode
        self.min_delta = number(min_delta, "min_delta")
        if not 0 <= self.min_delta < math.inf:
            raise ValueError(f"min_delta = {min_delta}; expected a finite number >= 0, in either mode.")
        self.baseline = None if baseline is None else number(baseline, "baseline")
        if self.baseline is not None and not math.isfinite(self.baseline):
            raise ValueError(f"baseline = {baseline}; expected a finite number, or None for no baseline.")
        self.start_from = whole(start_from, "start_from")
        self._record: _Record = _Record(waiting_since=self.start_from)

    def update(self, value: float, step: int, *, training_error: float | None = None) -> Decision:  # noqa: ARG002
        """Take in the value of one evaluation.

        Parameters
        ----------
        value : float
            The monitored value.
        step : int
            Steps of training done so far (or the epoch): greater at every call.
        training_error : float, optional
            Not looked at: so that all rules can be called alike (see `ProgressQuotient`, which needs it).

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
        value, step = number(value, "value"), self._next_step(step)
        record = replace(self._record, last_step=step)
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

    def _checked(self, state: Mapping[str, Any]) -> _Record:
        record = _Record(
            **shared_entries(state, self.start_from),
            waiting_since=whole(state["waiting_since"], "waiting_since"),
            evaluations_waited=whole(state["evaluations_waited"], "evaluations_waited"),
        )
        # Patience runs from start_from, or from an improvement after it.
        latest = self.start_from if record.best_step is None else record.best_step
        if not self.start_from <= record.waiting_since <= latest:
            raise ValueError(
                f"waiting_since = {record.waiting_since} with best_step = {record.best_step} and "
                f"start_from = {self.start_from}; expected a step from start_from to the best step."
            )
        counted = 0 if record.last_step is None else max(0, record.last_step - record.waiting_since + 1)
        if record.evaluations_waited > counted:
            raise ValueError(
                f"evaluations_waited = {record.evaluations_waited} with waiting_since = {record.waiting_since} and "
                f"last_step = {record.last_step}; expected at most one a step."
            )
        return record

    def __repr__(self) -> str:
        return (
            f"EarlyStopping(patience={self.patience}, unit={self.unit!r}, mode={self.mode!r}, "
            f"min_delta={self.min_delta}, baseline={self.baseline}, start_from={self.start_from})"
        )
