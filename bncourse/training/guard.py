"""A stopping rule, the latest weights and the best ones, as one thing that survives the death of the process."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bncourse.training.arrays import Arrays, CheckpointError, below, read_arrays, remove_leftovers, write_arrays
from bncourse.training.rule import Decision, StoppingRule, whole

_LATEST, _BEST, _EXTRA = "latest/", "best/", "extra/"
_RUN, _LOG_STEPS, _LOG_VALUES = "run", "log/steps", "log/values"


class Variables(Protocol):
    """All that training changes in a model, moving statistics included (`GraphVariables`, `NetworkVariables`)."""

    def read(self) -> Arrays:
        """Return the present values as arrays that do not change any more."""

    def write(self, values: Mapping[str, npt.NDArray[Any]]) -> None:
        """Set all to `values`; if they do not fit, raise ValueError and change nothing."""


class Guard:
    """Watches a training run: keeps its best state, stops it, goes back, and takes it up again after a crash.

    ::

        guard = Guard("run.npz", EarlyStopping(patience=100, unit="steps", mode="max"), variables)
        step = guard.resume()                       # 0, or where the killed process was saved
        for batch in islice(batches, step, None):
            if guard.should_stop:
                break
            train(batch)
            step += 1
            if step % 10 == 0:
                guard.update(validation_accuracy(), step)
        guard.go_back()

    One file holds everything: the latest state of the model, its best state, what the rule remembers, and the log of
    all evaluations. It is replaced in a single step. So whenever the process dies, the file is that of one moment,
    before or after; there is no best state without its rule, and no rule without its best state. What was trained
    after the last save is trained again, and if the training is repeatable, with the same result.

    Parameters
    ----------
    path : str or path-like, or None
        The file. None keeps everything in memory only: the best state is restored all the same, but not after a crash.
    rule : StoppingRule
        A fresh one: `EarlyStopping` or one of Prechelt's.
    variables : Variables
        The model's variables, to be read and written.

    Attributes
    ----------
    rule : StoppingRule
        As given: `best`, `best_step`, `stopped_step`.
    log : list of (int, float)
        Step and value of every evaluation, also of those before the last crash.
    extra : dict of str to array
        What else belongs to the run, for you to fill: saved with everything, and brought back by `resume`.
    """

    def __init__(self, path: str | os.PathLike[str] | None, rule: StoppingRule, variables: Variables) -> None:
        self.path = None if path is None else Path(path)
        self.rule, self.variables = rule, variables
        self.log: list[tuple[int, float]] = []
        self.extra: Arrays = {}
        self._best: Arrays | None = None
        self._owns_file = False

    @property
    def should_stop(self) -> bool:
        """Whether the rule said stop."""
        return self.rule.should_stop

    def resume(self) -> int:
        """Take up what the file holds, if there is one, and return the step at which it was saved; else 0.

        Raises
        ------
        CheckpointError
            If the file is damaged, or does not fit the variables or the rule. Then nothing changes.
        """
        if self.path is None:
            return 0
        remove_leftovers(self.path)
        if not self.path.exists():
            return 0
        saved = read_arrays(self.path)
        before = self.rule.state()
        try:
            run = json.loads(saved[_RUN].tobytes())
            step = whole(run["step"], "step")
            log = list(zip(saved[_LOG_STEPS].tolist(), saved[_LOG_VALUES].tolist(), strict=True))
            self.rule.restore(run["rule"])
            best = below(saved, _BEST)
            if bool(best) != (self.rule.best_step is not None):
                raise ValueError("its best state and its best value do not belong together")
            self.variables.write(below(saved, _LATEST))
        except (KeyError, TypeError, ValueError) as error:
            self.rule.restore(before)
            raise CheckpointError(
                f"{self.path}: not a checkpoint of this run ({error}). Build model and rule as they were, or delete it."
            ) from error
        self._best, self.log, self.extra = best or None, log, below(saved, _EXTRA)
        self._owns_file = True
        return step

    def update(self, value: float, step: int, *, training_error: float | None = None, save: bool = True) -> Decision:
        """Take in the value of one evaluation of the present state.

        Parameters
        ----------
        value : float
            The monitored value.
        step : int
            Steps of training done so far: greater at every call.
        training_error : float, optional
            For the rules that need it.
        save : bool
            Write the file now. Without, a crash falls back to the last save.

        Returns
        -------
        Decision

        Raises
        ------
        TypeError, ValueError
            If the rule refuses an argument; then nothing changes.
        FileExistsError
            If there is a file of an earlier run, and `resume` was not called.
        """
        self._check_owner()
        present = self.variables.read()
        decision = self.rule.update(value, step, training_error=training_error)
        self.log.append((int(step), float(value)))
        if decision.improved:
            self._best = present
        if save:
            self._write(step, present)
        return decision

    def save(self, step: int) -> None:
        """Write the file, so that `resume` goes on from the present state.

        Parameters
        ----------
        step : int
            Steps of training done so far, not before the last evaluation.

        Raises
        ------
        TypeError, ValueError
            If `step` is no integer, or lies before the last evaluation.
        FileExistsError
            If there is a file of an earlier run, and `resume` was not called.
        CheckpointError
            If a variable or an extra has a type that NumPy's format cannot hold.
        """
        step = whole(step, "step", least=self.log[-1][0] if self.log else 0)
        self._check_owner()
        self._write(step, self.variables.read())

    def go_back(self) -> int:
        """Set the variables to their best state, and return its step.

        Raises
        ------
        RuntimeError
            If there is none: no evaluation so far gave a finite value.
        """
        if self._best is None or self.rule.best_step is None:
            raise RuntimeError(
                f"there is no best state after {len(self.log)} evaluations: none gave a finite value from "
                "start_from on. Look at the log."
            )
        self.variables.write(self._best)
        return self.rule.best_step

    def _write(self, step: int, present: Arrays) -> None:
        if self.path is None:
            return
        run = json.dumps({"step": int(step), "rule": self.rule.state()})
        steps, values = zip(*self.log, strict=True) if self.log else ((), ())
        arrays: dict[str, npt.ArrayLike] = {
            _RUN: np.frombuffer(run.encode(), np.uint8),
            _LOG_STEPS: np.array(steps, np.int64),
            _LOG_VALUES: np.array(values, np.float64),
        }
        for prefix, group in ((_LATEST, present), (_BEST, self._best or {}), (_EXTRA, self.extra)):
            arrays |= {f"{prefix}{name}": value for name, value in group.items()}
        write_arrays(self.path, arrays)
        self._owns_file = True

    def _check_owner(self) -> None:
        """Make sure that the file of another run is not overwritten."""
        if self.path is not None and not self._owns_file and self.path.exists():
            raise FileExistsError(f"{self.path} holds an earlier run. Call resume() first, or delete it.")
