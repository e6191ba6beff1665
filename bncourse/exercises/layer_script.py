"""What a reader's layer is asked to do: a fixed script of calls, and the record of what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from bncourse.exercises.observe import Answer, Failure, Observation, Value, changed_names, quietly, value_of
from bncourse.exercises.symptoms import agree
from bncourse.nn.checks import FloatArray

STATISTICS = ("moving_mean", "moving_variance")

#: The outputs of the script, in the order of a reader's questions.
OUTPUTS = (
    "y in training mode",
    "dx in training mode",
    "dgamma in training mode",
    "dbeta in training mode",
    "moving_mean at the start",
    "moving_variance at the start",
    "moving_mean after training",
    "moving_variance after training",
    "y in inference mode",
    "dx in inference mode",
    "dgamma in inference mode",
    "dbeta in inference mode",
    "change of the moving statistics in inference mode",
)


@dataclass(frozen=True)
class Script:
    """Two calls in training mode and one in inference mode, each but the first with a backward pass.

    Attributes
    ----------
    x, dy
        Three batches of one shape, and the gradients that come back.
    gamma, beta
        Set before the first call.
    momentum, epsilon
        Handed to the constructor.
    """

    x: FloatArray
    dy: FloatArray
    gamma: FloatArray
    beta: FloatArray
    momentum: float
    epsilon: float

    def make(self, layer: Answer) -> Any:
        """Return a new layer, or a `Failure`; one that builds its arrays late is called once in inference mode."""

        def build() -> Any:
            made = layer(len(self.gamma), momentum=self.momentum, epsilon=self.epsilon)
            if made is None:
                return Failure("none", "returns None where a layer was expected.")
            if getattr(made, "gamma", None) is None:
                made(self.x[0].copy(), False)
            return made

        return quietly(build)

    def observe(self, answer: Answer) -> Observation:
        """Make a layer and run the script."""
        layer = self.make(answer)
        if isinstance(layer, Failure):
            return Observation(dict.fromkeys(OUTPUTS, layer))
        values: dict[str, Value] = {f"{name} at the start": read(layer, name) for name in STATISTICS}
        failure = quietly(partial(self._set_parameters, layer))
        if isinstance(failure, Failure):
            failure = replace(failure, subject="Setting gamma and beta")
            return Observation({name: values.get(name, failure) for name in OUTPUTS})
        changed: list[str] = []
        self._call(layer, 0, "training", changed)
        values |= self._call(layer, 1, "training", changed)
        before = [read(layer, name) for name in STATISTICS]
        # Where the call itself fails, statistics that did not move say nothing.
        called = values["y in training mode"]
        for name, value in zip(STATISTICS, before, strict=True):
            values[f"{name} after training"] = called if isinstance(called, Failure) else value
        values |= self._call(layer, 2, "inference", changed)
        called = values["y in inference mode"]
        change = _change(before, [read(layer, name) for name in STATISTICS])
        values[OUTPUTS[-1]] = called if isinstance(called, Failure) else change
        return Observation(values, changed)

    def _set_parameters(self, layer: Any) -> None:
        layer.gamma, layer.beta = self.gamma.copy(), self.beta.copy()

    def _call(self, layer: Any, number: int, mode: str, changed: list[str]) -> dict[str, Value]:
        """Call the layer forward and backward; return the four outputs."""
        given = [self.x[number].copy(), self.dy[number].copy()]
        y = value_of(quietly(lambda: layer(given[0], mode == "training")))
        returned = quietly(lambda: layer.backward(given[1]))
        changed += changed_names(["x", "dy"], [self.x[number], self.dy[number]], given)
        changed += [name for name in ("gamma", "beta") if self._has_changed(layer, name)]
        gradients = [_gradient(layer, name) for name in ("gamma", "beta")]
        if isinstance(returned, tuple):
            story = f"returns a tuple of {len(returned)}; expected dx alone. The others belong in gradients."
            returned = Failure("count", story, subject="backward")
        elif isinstance(returned, Failure):
            gradients = [returned, returned]
        dx = value_of(returned)
        if isinstance(y, Failure):
            dx, gradients = y, [y, y]
        names = [f"{name} in {mode} mode" for name in ("y", "dx", "dgamma", "dbeta")]
        return dict(zip(names, [y, dx, *gradients], strict=True))

    def _has_changed(self, layer: Any, name: str) -> bool:
        """Tell whether the layer changed a parameter; another dtype is no change."""
        value, given = read(layer, name), getattr(self, name)
        return isinstance(value, np.ndarray) and not agree(value, given, 1e-6)


def shares_statistics(script: Script, answer: Answer) -> bool:
    """Tell whether training one of two layers moves the statistics of the other."""
    one, other = script.make(answer), script.make(answer)
    if isinstance(one, Failure) or isinstance(other, Failure):
        return False
    before = [read(other, name) for name in STATISTICS]
    if isinstance(quietly(lambda: one(script.x[0].copy(), True)), Failure):
        return False
    change = _change(before, [read(other, name) for name in STATISTICS])
    return not isinstance(change, Failure) and bool(np.any(change != 0))


def read(layer: Any, name: str) -> Value:
    """Return a copy of an array of the layer."""
    return value_of(quietly(lambda: getattr(layer, name)))


def _gradient(layer: Any, name: str) -> Value:
    """Return a copy of a parameter's gradient, or say which keys there are in its place."""
    gradients = quietly(lambda: layer.gradients)
    if isinstance(gradients, Mapping) and name not in gradients:
        keys = f"has the keys {', '.join(map(str, gradients))}" if gradients else "has no keys"
        return Failure("keys", f"{keys}; expected gamma, beta.", subject="gradients")
    if isinstance(gradients, Failure):
        return gradients
    return value_of(quietly(lambda: gradients[name]))


def _change(before: list[Value], after: list[Value]) -> Value:
    """Return the differences of both statistics, one after the other."""
    arrays = []
    for value in (*before, *after):
        if isinstance(value, Failure):
            return value
        arrays.append(value)
    old, new = arrays[:2], arrays[2:]
    return value_of(quietly(lambda: np.concatenate([np.ravel(b - a) for a, b in zip(old, new, strict=True)])))
