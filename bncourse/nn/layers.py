"""The layers around Batch Normalization: dense, activations, dropout, flatten."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod, sqrt
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from bncourse.nn.checks import FloatArray, Seed, compute_dtype, fraction, positive_int
from bncourse.nn.layer import Layer

Init = Literal["glorot", "he"]


class Dense(Layer):
    """Fully connected layer: ``y = x @ kernel + bias`` along the last axis.

    Parameters
    ----------
    units
        Number of outputs.
    use_bias
        Whether to have a bias. In front of Batch Normalization it does nothing.
    init
        How the kernel is drawn. ``"glorot"``: uniform within sqrt(6 / (inputs + units)), Keras's default (Glorot and
        Bengio 2010). ``"he"``: normal with standard deviation sqrt(2 / inputs), meant for ReLU (He et al. 2015). The
        bias starts at 0.
    seed
        Seed of the draw, an int or a sequence of ints. Give each layer its own: two layers of one shape and one seed
        start with the same kernel.

    Attributes
    ----------
    kernel, bias
        Of shapes (inputs, units) and (units,); ``None`` before the first call. They are float32 for float16 and
        float32 inputs, float64 for float64.

    Raises
    ------
    TypeError, ValueError
        If `units` is no positive integer or `init` is unknown.
    """

    _parameter_names: ClassVar = ("kernel", "bias")

    def __init__(self, units: int, use_bias: bool = True, *, init: Init = "glorot", seed: Seed = None) -> None:
        super().__init__()
        if init not in ("glorot", "he"):
            raise ValueError(f"init = {init!r}; expected 'glorot' or 'he'.")
        self.units = positive_int(units, "units")
        self.use_bias = use_bias
        self.init = init
        self.seed = seed
        self.kernel: FloatArray | None = None
        self.bias: FloatArray | None = None
        self._x: FloatArray | None = None

    def _forward(self, x: FloatArray, _training: bool) -> FloatArray:
        if x.ndim < 2 or x.shape[-1] == 0:
            raise ValueError(f"x has shape {x.shape}; expected a batch axis and at least one input.")
        if self.kernel is None:
            self._build(x)
        assert self.kernel is not None
        if x.shape[-1] != len(self.kernel):
            raise ValueError(
                f"x has shape {x.shape}, so {x.shape[-1]} inputs; this layer was built for {len(self.kernel)}."
            )
        self._x = x
        y = x @ self.kernel
        if self.bias is not None:
            y = y + self.bias
        return y.astype(x.dtype, copy=False)

    def _build(self, x: FloatArray) -> None:
        inputs, dtype, rng = x.shape[-1], compute_dtype(x), np.random.default_rng(self.seed)
        shape = (inputs, self.units)
        if self.init == "he":
            kernel = rng.normal(0.0, sqrt(2 / inputs), shape)
        else:
            limit = sqrt(6 / (inputs + self.units))
            kernel = rng.uniform(-limit, limit, shape)
        self.kernel = kernel.astype(dtype)
        self.bias = np.zeros(self.units, dtype) if self.use_bias else None

    def _backward(self, dy: FloatArray) -> FloatArray:
        assert self._x is not None
        assert self.kernel is not None
        rows, drows = self._x.reshape(-1, self._x.shape[-1]), dy.reshape(-1, self.units)
        drows = drows.astype(self.kernel.dtype, copy=False)
        self.gradients = {"kernel": rows.T @ drows}
        if self.bias is not None:
            self.gradients["bias"] = drows.sum(axis=0)
        dx: FloatArray = (drows @ self.kernel.T).reshape(self._x.shape)
        return dx.astype(self._x.dtype, copy=False)

    def _expected_names(self) -> set[str]:
        return {"kernel", "bias"} if self.use_bias else {"kernel"}

    def _check_weights(self, weights: Mapping[str, npt.ArrayLike]) -> None:
        super()._check_weights(weights)
        shape = np.shape(weights["kernel"])
        if len(shape) != 2 or shape[1] != self.units:
            raise ValueError(f"{self!r}: kernel has shape {shape}; expected (inputs, {self.units}).")
        if self.use_bias and np.shape(weights["bias"]) != (self.units,):
            raise ValueError(f"{self!r}: bias has shape {np.shape(weights['bias'])}; expected ({self.units},).")

    def __repr__(self) -> str:
        return f"Dense({self.units}, use_bias={self.use_bias}, init={self.init!r}, seed={self.seed})"


class ReLU(Layer):
    """``y = max(x, 0)``; the gradient at 0 is taken as 0."""

    _positive: npt.NDArray[np.bool_]

    def _forward(self, x: FloatArray, _training: bool) -> FloatArray:
        self._positive = x > 0
        return np.maximum(x, 0)

    def _backward(self, dy: FloatArray) -> FloatArray:
        return dy * self._positive


class Sigmoid(Layer):
    """``y = 1 / (1 + exp(-x))``, without overflow."""

    _y: FloatArray

    def _forward(self, x: FloatArray, _training: bool) -> FloatArray:
        self._y = sigmoid(x)
        return self._y

    def _backward(self, dy: FloatArray) -> FloatArray:
        return dy * self._y * (1 - self._y)


def sigmoid(x: FloatArray) -> FloatArray:
    """Return ``1 / (1 + exp(-x))`` with the exponent kept negative, so that it cannot overflow."""
    small = np.exp(-np.abs(x))
    y: FloatArray = np.where(x >= 0, 1, small) / (1 + small)
    return y


class Dropout(Layer):
    """Inverted dropout: in training, set a share `rate` of the numbers to 0 and divide the others by ``1 - rate``.

    Inference mode passes x on unchanged; the expectation is the same.

    Parameters
    ----------
    rate
        Share to drop, in [0, 1).
    seed
        Seed of the draws, an int or a sequence of ints. The n-th training call draws the same numbers in every run.

    Raises
    ------
    ValueError
        If `rate` lies outside [0, 1).
    """

    def __init__(self, rate: float, *, seed: Seed = None) -> None:
        super().__init__()
        self.rate = fraction(rate, "rate", end=False)
        self.seed = seed
        # A fixed root and a counter instead of a running generator: a call that raises later costs no draw.
        self._root = np.random.SeedSequence(seed).generate_state(4)
        self._draws = 0
        self._factor: FloatArray | None = None

    def _forward(self, x: FloatArray, training: bool) -> FloatArray:
        if not training:
            self._factor = None
            return x
        rng = np.random.default_rng((*self._root, self._draws))
        kept = rng.random(x.shape, dtype=np.float32) >= self.rate
        self._draws += 1
        self._factor = kept.astype(x.dtype) / x.dtype.type(1 - self.rate)
        return x * self._factor

    def _backward(self, dy: FloatArray) -> FloatArray:
        return dy if self._factor is None else dy * self._factor

    def __repr__(self) -> str:
        return f"Dropout({self.rate}, seed={self.seed})"


class Flatten(Layer):
    """Reshape (batch, ...) to (batch, everything else)."""

    _input_shape: tuple[int, ...]

    def _forward(self, x: FloatArray, _training: bool) -> FloatArray:
        if x.ndim < 2:
            raise ValueError(f"x has shape {x.shape}; expected a batch axis and at least one more.")
        self._input_shape = x.shape
        return x.reshape(len(x), prod(x.shape[1:]))

    def _backward(self, dy: FloatArray) -> FloatArray:
        return dy.reshape(self._input_shape)
