"""What all layers have in common."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bncourse.atomic import replacing
from bncourse.nn.checks import FloatArray, float_array, same_shape

Weights = dict[str, npt.NDArray[Any]]


class Layer:
    """A function with memory: ``y = layer(x, training)``, then ``dx = layer.backward(dy)``.

    A layer builds its arrays at the first call, when it sees the shape of x. `backward` belongs to the last call; it
    returns the gradient with respect to x and leaves those with respect to the parameters in `gradients`. A call that
    raises leaves the layer as it was.

    A subclass names its arrays, and writes `_forward` and `_backward`. `_forward` must *assign* its new state, after
    everything that may raise, and not change arrays in place: :class:`bncourse.nn.Sequential` relies on it.

    Attributes
    ----------
    trainable
        False takes the layer's parameters out of `parameters`, so that no optimiser changes them.
    gradients
        Gradients from the last `backward`, by the parameter's name. Empty before.
    """

    _parameter_names: ClassVar[tuple[str, ...]] = ()
    _statistic_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self.trainable = True
        self.gradients: dict[str, FloatArray] = {}
        self._output_shape: tuple[int, ...] | None = None

    def __call__(self, x: npt.ArrayLike, training: bool = True) -> FloatArray:
        """Return y for `x`, in training mode (the default, unlike in Keras) or in inference mode.

        Raises
        ------
        TypeError
            If x holds no floats.
        ValueError
            If the layer cannot work on the shape of x.
        """
        y = self._forward(float_array(x, "x"), training)
        self._output_shape = y.shape
        return y

    def backward(self, dy: npt.ArrayLike) -> FloatArray:
        """Return the gradient with respect to the last x, given `dy`, that with respect to the last y.

        Raises
        ------
        RuntimeError
            If the layer was not called yet.
        TypeError
            If dy holds no floats.
        ValueError
            If dy has another shape than y.
        """
        if self._output_shape is None:
            raise RuntimeError(f"{self!r}: backward before forward; call the layer first.")
        return self._backward(same_shape(float_array(dy, "dy"), self._output_shape, "dy", "y"))

    def _forward(self, x: FloatArray, training: bool) -> FloatArray:
        raise NotImplementedError

    def _backward(self, dy: FloatArray) -> FloatArray:
        raise NotImplementedError

    @property
    def parameters(self) -> dict[str, FloatArray]:
        """The arrays themselves, not copies, that an optimiser may change; none if not `trainable`."""
        return self._arrays(self._parameter_names) if self.trainable else {}

    @property
    def weights(self) -> Weights:
        """All arrays of the layer, not copies, be they parameters or statistics that no gradient reaches."""
        return self._arrays(self._parameter_names + self._statistic_names)

    def set_weights(self, weights: Mapping[str, npt.ArrayLike]) -> None:
        """Take over copies of `weights`, which must have the names of this layer's own: those that `weights` shows.

        A layer that was not called yet counts as built afterwards.

        Raises
        ------
        ValueError
            If a name is missing or unknown, or a shape differs from that of the array it replaces.
        """
        self._check_weights(weights)
        for name, value in weights.items():
            setattr(self, name, np.array(value))

    def save(self, path: str | Path) -> None:
        """Write all weights, moving statistics included, to the npz file `path`.

        The file appears complete or not at all. It holds plain arrays, no pickles, and nothing of an optimiser.

        Raises
        ------
        ValueError
            If it was not called yet and so has no weights.
        OSError
            If the file cannot be written.
        """
        weights = self.weights
        try:
            same_names(weights, self._expected_names(), repr(self))
        except ValueError as error:
            raise ValueError("save before the first call: there are no weights yet; call it once.") from error
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **weights)
            file.flush()
            os.fsync(file.fileno())

    def load(self, path: str | Path) -> None:
        """Take over the weights that `save` wrote; layer or network may be new, but must be built alike.

        Raises
        ------
        ValueError
            If the weights do not fit, or the file holds pickles.
        OSError
            If the file cannot be read.
        """
        with np.load(path, allow_pickle=False) as arrays:
            self.set_weights(dict(arrays))

    def _check_weights(self, weights: Mapping[str, npt.ArrayLike]) -> None:
        same_names(weights, self._expected_names(), repr(self))
        for name, value in weights.items():
            shape, own = np.shape(value), getattr(self, name)
            if own is not None and np.shape(own) != shape:
                raise ValueError(f"{self!r}: {name} has shape {shape}; expected {np.shape(own)}.")

    def _expected_names(self) -> set[str]:
        """Names of the arrays that this layer has once it is built."""
        return {*self._parameter_names, *self._statistic_names}

    def _arrays(self, names: tuple[str, ...]) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def same_names(given: Mapping[str, Any], expected: set[str], owner: str) -> None:
    """Check that `given` has exactly the `expected` names.

    Raises
    ------
    ValueError
        If one is missing or unknown.
    """
    missing, unknown = sorted(expected - set(given)), sorted(set(given) - expected)
    if missing or unknown:
        raise ValueError(
            f"the weights do not fit {owner}: missing {missing}, unknown {unknown}; "
            "were they saved from another network?"
        )
