"""The course's stopping rules in ``model.fit``: a Keras 3 callback that watches, stops, goes back, and survives."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bncourse.keras_models.runtime import keras
from bncourse.nn.checks import positive_int
from bncourse.training.arrays import Arrays
from bncourse.training.guard import Guard
from bncourse.training.rule import StoppingRule

#: Ends of the names for which ``keras.callbacks.EarlyStopping`` takes large for good.
_LARGE_IS_GOOD = ("acc", "accuracy", "auc")


class ModelVariables:
    """All that training changes in a compiled Keras model, for `bncourse.training.Guard`.

    That is: the weights, the moving statistics of Batch Normalization, the states of dropout's random numbers, and the
    optimizer's variables. Metrics are not part of it.

    Parameters
    ----------
    model : keras.Model
        Built and compiled.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)

    def read(self) -> Arrays:
        """Return copies of all values, by place: names of layers are numbered anew with every model."""
        return {name: np.array(variable.numpy()) for name, variable in self._named().items()}

    def write(self, values: Mapping[str, npt.NDArray[Any]]) -> None:
        """Set all variables, or none if a name, shape or type does not fit.

        Raises
        ------
        ValueError
            If one does not fit.
        """
        variables = self._named()
        if values.keys() != variables.keys():
            odd = sorted(values.keys() ^ variables.keys())
            raise ValueError(f"the values are of another model or optimizer: {odd[0]!r} stands on one side only.")
        for name, variable in variables.items():
            own = variable.numpy()
            if values[name].shape != own.shape or values[name].dtype != own.dtype:
                raise ValueError(
                    f"{name!r} has shape {values[name].shape} and dtype {values[name].dtype}; the model's variable has "
                    f"{own.shape} and {own.dtype}."
                )
        for name, variable in variables.items():
            variable.assign(values[name])

    def _named(self) -> dict[str, Any]:
        groups = {"model": self.model.variables, "optimizer": self.model.optimizer.variables}
        return {f"{group}/{i}": variable for group, variables in groups.items() for i, variable in enumerate(variables)}


class GuardCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """`bncourse.training.Guard` as a Keras 3 callback.

    ::

        rule = EarlyStopping(patience=500, unit="steps", start_from=200)
        model.fit(..., callbacks=[GuardCallback(rule, "val_loss")])

    The rule is asked at the end of every epoch, or every so many steps. When training ends, for whatever reason, the
    model goes back to its best state: weights, moving statistics and optimizer. Steps are ``optimizer.iterations``;
    the rule's `start_from` counts these, too.

    With a file, a killed ``fit`` can be called again, on a model that is built and compiled alike: it goes on behind
    the last epoch that ended, with the rule and the best state as they were. It takes the same decisions if the
    batches are the same, so do not let ``fit`` shuffle (``shuffle=False``, or a ``keras.utils.PyDataset`` whose order
    depends on the epoch).

    Parameters
    ----------
    rule : StoppingRule
        A fresh one. `ProgressQuotient` gets the mean training loss: of the epoch, or since the last evaluation in it.
    monitor : str
        What to watch: a name in the logs of an epoch. Without effect if `score` is given. An accuracy, by its name,
        needs a rule with ``mode="max"``; Keras would guess it.
    score : callable, optional
        Takes the model and returns the value to watch. It must not call ``model.evaluate``, which resets the metrics
        that ``fit`` is counting; ``model.predict_on_batch`` is safe.
    every : int, optional
        Steps between two evaluations; needs `score`. Default: once an epoch.
    path : str or path-like, optional
        The file, written at the end of every epoch. Without one, a crash loses everything.

    Attributes
    ----------
    guard : Guard or None
        After the training has begun: its `log`, and its `rule` with `best`, `best_step` and `stopped_step`.

    Raises
    ------
    TypeError
        If `every` is no integer.
    ValueError
        If `every` is below 1, or given without `score`; if `monitor` is an accuracy and the rule takes small for good;
        while training, if `monitor` is not in the logs.

    Warns
    -----
    UserWarning
        If the training in the file has ended, so that ``fit`` does nothing.
    """

    def __init__(
        self,
        rule: StoppingRule,
        monitor: str = "val_loss",
        *,
        score: Callable[[Any], float] | None = None,
        every: int | None = None,
        path: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        if every is not None and score is None:
            raise ValueError(f"every = {every} without score; Keras validates at the end of an epoch only. Give score.")
        if score is None and monitor.endswith(_LARGE_IS_GOOD) and getattr(rule, "mode", "min") == "min":
            raise ValueError(
                f"monitor = {monitor!r} grows as a network gets better, and for this rule small is good. Take "
                "EarlyStopping(mode='max'), or watch a loss."
            )
        self.rule, self.monitor, self.score, self.path = rule, monitor, score, path
        self.every = None if every is None else positive_int(every, "every")
        self.guard: Guard | None = None

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:  # noqa: ARG002
        """Take up the file, if there is one."""
        if self.guard is None:
            self.guard = Guard(self.path, self.rule, ModelVariables(self.model))
        if self.guard.resume():
            # As keras.callbacks.BackupAndRestore does it.
            self.model._initial_epoch = int(self.guard.extra["epoch"])
            if self.guard.should_stop or self.model._initial_epoch >= self.params["epochs"]:
                warnings.warn(
                    f"{self.path}: this training has ended, after {self.model._initial_epoch} epochs; nothing is "
                    "trained. For a new training take another path.",
                    stacklevel=2,
                )
        if self.guard.should_stop:
            self.model._initial_epoch = self.params["epochs"]
        self._looked = self._step()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:  # noqa: ARG002
        """Count the batches of this epoch from 0."""
        self._batches, self._losses = 0, 0.0

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Ask the rule every so many steps."""
        step = self._step()
        if self.every is None or step // self.every == self._looked // self.every:
            return
        # Keras logs the mean of the epoch so far.
        batches = batch + 1
        losses = batches * (logs or {})["loss"]
        training_error = (losses - self._losses) / (batches - self._batches)
        self._update(max(training_error, 0.0))  # a difference of rounded sums: what should be 0 may come out below
        self._looked, self._batches, self._losses = step, batches, losses

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Ask the rule, unless it is asked by steps, and save."""
        assert self.guard is not None
        found = logs or {}
        if self.every is None:
            if self.score is None and self.monitor not in found:
                raise ValueError(f"monitor = {self.monitor!r} is not in the logs; there are: {', '.join(found)}.")
            self._update(found.get("loss"), found.get(self.monitor))
        self.guard.extra["epoch"] = np.array(epoch + 1)
        self.guard.save(self._step())

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:  # noqa: ARG002
        """Go back to the best state, if there is one."""
        assert self.guard is not None
        self.model._initial_epoch = None
        if self.rule.best_step is not None:
            self.guard.go_back()

    def _update(self, training_error: float | None, value: float | None = None) -> None:
        assert self.guard is not None
        if self.score is not None:
            value = self.score(self.model)
        assert value is not None
        decision = self.guard.update(value, self._step(), training_error=training_error, save=False)
        if decision.should_stop:
            self.model.stop_training = True

    def _step(self) -> int:
        return int(self.model.optimizer.iterations)
