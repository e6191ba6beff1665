"""The layers around Batch Normalization: dense, activations, two kinds of dropout, flatten."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod, sqrt
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from bncourse.nn.checks import BoolArray, FloatArray, Seed, compute_dtype, fraction, positive_int
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
        self.units = positive_int(units, "units")
        self.use_bias = use_bias
        self.init = check_init(init)
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
        dtype = compute_dtype(x)
        self.kernel = initial_kernel((x.shape[-1], self.units), self.init, self.seed).astype(dtype)
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


def check_init(init: Init) -> Init:
    """Return `init` if it is known.

    Raises
    ------
    ValueError
        If it is not.
    """
    if init not in ("glorot", "he"):
        raise ValueError(f"init = {init!r}; expected 'glorot' or 'he'.")
    return init


def initial_kernel(shape: tuple[int, ...], init: Init, seed: Seed) -> FloatArray:
    """Draw a kernel of `shape` (..., inputs, outputs); the axes in front, if any, are those of a window.

    Every place of a window adds to the inputs of an output, and to the outputs that an input has.
    """
    places, inputs, outputs = prod(shape[:-2]), shape[-2], shape[-1]
    rng = np.random.default_rng(seed)
    if init == "he":
        return rng.normal(0.0, sqrt(2 / (places * inputs)), shape)
    limit = sqrt(6 / (places * (inputs + outputs)))
    return rng.uniform(-limit, limit, shape)


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


#: The two constants of SELU (Klambauer et al. 2017): a standard normal input gives mean 0 and variance 1.
SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805


class SELU(Layer):
    r"""Scaled exponential linear unit (Klambauer et al. 2017, equation 2).

    :math:`y = \lambda x` for :math:`x \ge 0` and :math:`y = \lambda \alpha (e^x - 1)` below, with
    :math:`\lambda \approx 1.0507` and :math:`\alpha \approx 1.6733`. These constants are chosen so that normally
    distributed numbers of mean 0 and variance 1 come out with mean 0 and variance 1. The gradient at 0 is taken as
    :math:`\lambda`, as in TensorFlow.
    """

    _slope: FloatArray

    def _forward(self, x: FloatArray, _training: bool) -> FloatArray:
        exact = x.astype(compute_dtype(x), copy=False)
        below = np.expm1(np.minimum(exact, 0))  # the exponent is kept negative, so that it cannot overflow
        self._slope = np.where(exact >= 0, SELU_SCALE, SELU_SCALE * SELU_ALPHA * (below + 1)).astype(exact.dtype)
        y = SELU_SCALE * np.where(exact >= 0, exact, SELU_ALPHA * below)
        return y.astype(x.dtype, copy=False)

    def _backward(self, dy: FloatArray) -> FloatArray:
        return (dy * self._slope).astype(dy.dtype, copy=False)


class _RandomlyKept(Layer):
    """What the two kinds of dropout share: they keep a random share ``1 - rate`` of the numbers.

    Seed and `draws`, how often they have drawn, decide what is kept in the next call.
    """

    def __init__(self, rate: float, *, seed: Seed = None) -> None:
        super().__init__()
        self.rate = fraction(rate, "rate", end=False)
        self.seed = seed
        # A fixed root and a counter instead of a running generator: a call that raises later costs no draw.
        self._root = np.random.SeedSequence(seed).generate_state(4)
        self.draws = 0
        self._factor: FloatArray | None = None

    def _keep(self, shape: tuple[int, ...]) -> BoolArray:
        """Draw which numbers are kept in this call."""
        rng = np.random.default_rng((*self._root, self.draws))
        self.draws += 1
        kept: BoolArray = rng.random(shape, dtype=np.float32) >= self.rate
        return kept

    def _backward(self, dy: FloatArray) -> FloatArray:
        return dy if self._factor is None else dy * self._factor

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.rate}, seed={self.seed})"


class Dropout(_RandomlyKept):
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

    def _forward(self, x: FloatArray, training: bool) -> FloatArray:
        if not training:
            self._factor = None
            return x
        self._factor = self._keep(x.shape).astype(x.dtype) / x.dtype.type(1 - self.rate)
        return x * self._factor


class AlphaDropout(_RandomlyKept):
    r"""Dropout that keeps mean 0 and variance 1, made for :class:`SELU` (Klambauer et al. 2017).

    In training, a share `rate` of the numbers is set to SELU's limit at minus infinity,
    :math:`\alpha' = -\lambda \alpha \approx -1.7581`, instead of 0. Then :math:`y = a x + b` with

    .. math:: a = \left( q + \alpha'^2 q (1 - q) \right)^{-1/2}, \qquad b = -a (1 - q) \alpha', \qquad q = 1 - rate

    brings mean and variance back, if they were 0 and 1. Inference mode passes x on unchanged.

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

    def _forward(self, x: FloatArray, training: bool) -> FloatArray:
        if not training:
            self._factor = None
            return x
        keep, limit = 1 - self.rate, -SELU_SCALE * SELU_ALPHA
        a = (keep + limit**2 * keep * self.rate) ** -0.5
        kept = self._keep(x.shape)
        self._factor = kept * x.dtype.type(a)
        y: FloatArray = a * np.where(kept, x, x.dtype.type(limit)) - a * self.rate * limit
        return y


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
