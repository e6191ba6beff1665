"""What all stopping rules have in common."""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Decision:
    """What one evaluation means for the training.

    Attributes
    ----------
    improved : bool
        This value is the best so far: save the weights now.
    should_stop : bool
        The rule says stop, now or at an earlier evaluation: leave the loop, and go back to the saved weights.
    """

    improved: bool
    should_stop: bool


@dataclass(frozen=True)
class Record:
    """What every rule remembers; each adds what is its own. Plain numbers, so that it can be written as JSON."""

    best: float | None = None
    best_step: int | None = None
    last_step: int | None = None
    stopped_step: int | None = None


class StoppingRule(ABC):
    """Takes in one value after the other, and says when to stop.

    An instance belongs to one run. What it remembers is one frozen record, so an error never leaves half of a change.
    """

    _record: Record

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
        """Step at which the rule said stop; None while the training goes on."""
        return self._record.stopped_step

    @property
    def should_stop(self) -> bool:
        """Whether the rule said stop. It stays so, even if the caller trains on and finds a better value."""
        return self.stopped_step is not None

    @abstractmethod
    def update(self, value: float, step: int, *, training_error: float | None = None) -> Decision:
        """Take in the value of one evaluation."""

    def state(self) -> dict[str, Any]:
        """Return what is remembered, as a dictionary that JSON can hold."""
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
            If entries are missing, unknown, outside their range, or contradict each other or the options. On errors
            nothing changes.
        """
        expected = {field.name for field in fields(self._record)}
        if set(state) != expected:
            raise ValueError(
                f"state has the entries {sorted(state)}; expected {sorted(expected)}, as "
                f"{type(self).__name__}.state() gives."
            )
        self._record = self._checked(state)

    @abstractmethod
    def _checked(self, state: Mapping[str, Any]) -> Record:
        """Return a state, whose entries have the right names, as a record."""

    def _next_step(self, step: Any) -> int:
        """Return the step of a new evaluation, checked to lie after the last one."""
        number, last = whole(step, "step"), self._record.last_step
        if last is not None and number <= last:
            raise ValueError(
                f"step = {number}, after step {last}; expected a greater one. "
                f"Use a new {type(self).__name__} for every run."
            )
        return number


def shared_entries(state: Mapping[str, Any], start_from: int) -> dict[str, Any]:
    """Return the entries of `Record` in a state, checked one by one and against each other.

    Raises
    ------
    TypeError, ValueError
        If an entry is impossible.
    """
    best = None if state["best"] is None else number(state["best"], "best")
    if best is not None and not math.isfinite(best):
        raise ValueError(f"best = {best}; expected a finite number or None.")
    if (best is None) != (state["best_step"] is None):
        raise ValueError(f"best = {best} with best_step = {state['best_step']}; expected both or neither.")
    steps = {
        name: None if state[name] is None else whole(state[name], name)
        for name in ("best_step", "last_step", "stopped_step")
    }
    last = steps["last_step"]
    for name in ("best_step", "stopped_step"):
        step = steps[name]
        if step is None:
            continue
        if last is None or step > last:
            raise ValueError(f"{name} = {step} with last_step = {last}; expected at most the last step.")
        if step < start_from:
            raise ValueError(f"{name} = {step} with start_from = {start_from}; expected the start_from that was saved.")
    if steps["best_step"] is not None and steps["best_step"] == steps["stopped_step"]:
        raise ValueError(f"best_step = stopped_step = {steps['best_step']}; no rule stops at an improvement.")
    return {"best": best, **steps}


def whole(value: Any, name: str, *, least: int = 0) -> int:
    """Return `value` as an int of at least `least`; NumPy's integers are welcome."""
    try:
        if isinstance(value, bool):
            raise TypeError
        integer = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} = {value!r}; expected an integer.") from None
    if integer < least:
        raise ValueError(f"{name} = {integer}; expected an integer >= {least}.")
    return integer


def number(value: Any, name: str) -> float:
    """Return `value` as a float; NumPy's scalars are welcome, texts are not."""
    try:
        if isinstance(value, str | bytes | bool):
            raise TypeError
        return float(value)
    except TypeError:
        raise TypeError(f"{name} = {value!r}; expected a number.") from None
