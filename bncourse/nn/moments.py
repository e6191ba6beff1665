r"""Mean and variance behind dropout, behind SELU, and behind a layer that follows dropout: in closed form.

Dropout of rate :math:`p` multiplies each number by a *mask*: :math:`1/(1-p)` with probability :math:`1-p`, else 0. It
does so in training mode only. A layer behind it therefore hands on another variance in training than in inference
mode, and Batch Normalization behind that layer remembers the first of the two: the *variance shift* of Li et al.
(2019), Understanding the Disharmony between Dropout and Batch Normalization by Variance Shift.

All functions are pure and calculate in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bncourse.nn.checks import FloatArray, float_array, fraction, not_negative
from bncourse.nn.convolution import conv2d
from bncourse.nn.layers import SELU_ALPHA, SELU_SCALE

#: SELU's limit at minus infinity: the value that alpha dropout drops to.
SELU_LIMIT = -SELU_SCALE * SELU_ALPHA


class Moments(NamedTuple):
    """A mean and a variance: floats, or arrays of one shape. The variance is in the squared units of the mean."""

    mean: Any
    variance: Any


class Line(NamedTuple):
    """The straight line ``scale * x + offset``."""

    scale: float
    offset: float


class Shift(NamedTuple):
    """Moments of the units of a layer behind dropout, in both modes; arrays of shape (units,).

    Attributes
    ----------
    training
        With dropout on.
    inference
        With dropout off.
    """

    training: Moments
    inference: Moments

    @property
    def ratio(self) -> FloatArray:
        """Variance in training over variance in inference mode, shape (units,): 1 means no shift.

        Infinite where only the training mode varies, 1 where neither does.
        """
        above, below = np.asarray(self.training.variance), np.asarray(self.inference.variance)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where((above == 0) & (below == 0), 1.0, above / below)


def dropout_moments(mean: npt.ArrayLike, variance: npt.ArrayLike, rate: float) -> Moments:
    r"""Return the moments of :math:`y`, what inverted dropout makes of a random :math:`x` in training mode.

    .. math:: E[y] = E[x], \qquad Var[y] = Var[x] + \frac{p}{1 - p} E[x^2]

    Parameters
    ----------
    mean, variance
        Of x; numbers or arrays that broadcast. The variance is 0 or more.
    rate
        The share p that is dropped, in [0, 1).

    Raises
    ------
    ValueError
        If `rate` lies outside [0, 1), or a variance is negative or not a number.
    """
    before = _moments(mean, variance)
    square = before.variance + np.square(before.mean)
    return Moments(before.mean, before.variance + _odds(rate) * square)


def alpha_dropout_line(rate: float, mean: float = 0.0, variance: float = 1.0) -> Line:
    r"""Return the line :math:`a x + b` with which alpha dropout restores mean and variance.

    A share p of the numbers is set to :math:`\alpha'`, SELU's limit at minus infinity, and the line is applied to all.
    With :math:`q = 1 - p` (Klambauer et al. 2017, Self-Normalizing Neural Networks):

    .. math:: a = \sqrt{\frac{\nu}{q \nu + p q (\mu - \alpha')^2}}, \qquad b = \mu - a (q \mu + p \alpha')

    Parameters
    ----------
    rate
        The share p, in [0, 1).
    mean, variance
        :math:`\mu` and :math:`\nu`, the moments to restore; the variance is above 0. The layer
        :class:`bncourse.nn.AlphaDropout` is made for 0 and 1, the defaults.

    Raises
    ------
    ValueError
        If `rate` lies outside [0, 1), or the variance is not a finite number above 0.
    """
    keep = 1 - fraction(rate, "rate", end=False)
    if not not_negative(variance, "variance"):
        raise ValueError(f"variance = {variance}; expected a number above 0: there is none to restore.")
    scale = math.sqrt(variance / (keep * variance + keep * rate * (mean - SELU_LIMIT) ** 2))
    return Line(scale, mean - scale * (keep * mean + rate * SELU_LIMIT))


def alpha_dropout_moments(mean: npt.ArrayLike, variance: npt.ArrayLike, rate: float) -> Moments:
    r"""Return the moments behind alpha dropout, whose line is made for mean 0 and variance 1, for any x.

    .. math:: E[y] = a q E[x], \qquad Var[y] = a^2 \left( q Var[x] + p q (E[x] - \alpha')^2 \right)

    Parameters
    ----------
    mean, variance
        Of x; numbers or arrays that broadcast. The variance is 0 or more.
    rate
        The share p that is dropped, in [0, 1).

    Raises
    ------
    ValueError
        If `rate` lies outside [0, 1), or a variance is negative or not a number.
    """
    before, scale = _moments(mean, variance), alpha_dropout_line(rate).scale
    keep = 1 - rate
    noise = keep * rate * np.square(before.mean - SELU_LIMIT)
    return Moments(scale * keep * before.mean, scale**2 * (keep * before.variance + noise))


def selu_constants() -> tuple[float, float]:
    r"""Return SELU's :math:`\alpha` and :math:`\lambda`, solved from the two equations that define them.

    A standard normal input shall give mean 0 and mean square 1. The first equation is linear in :math:`\alpha` and free
    of :math:`\lambda`; the second then gives :math:`\lambda^2`. (Klambauer et al. 2017, Self-Normalizing Neural
    Networks.)
    """
    parts = _selu_parts(0.0, 1.0)
    alpha = -parts.positive / parts.negative
    scale = 1 / math.sqrt(parts.positive_squared + alpha**2 * parts.negative_squared)
    return alpha, scale


def selu_moments(mean: float = 0.0, variance: float = 1.0) -> Moments:
    """Return the moments of SELU of a normally distributed input.

    Parameters
    ----------
    mean, variance
        Of the input; the variance is 0 or more.

    Raises
    ------
    ValueError
        If the variance is negative, infinite or not a number.
    """
    if not not_negative(variance, "variance"):
        return Moments(SELU_SCALE * (mean if mean >= 0 else SELU_ALPHA * math.expm1(mean)), 0.0)
    parts = _selu_parts(mean, variance)
    first = SELU_SCALE * (parts.positive + SELU_ALPHA * parts.negative)
    second = SELU_SCALE**2 * (parts.positive_squared + SELU_ALPHA**2 * parts.negative_squared)
    return Moments(first, second - first**2)


def dense_shift(x: npt.ArrayLike, kernel: npt.ArrayLike, rate: float, *, alpha: bool = False) -> Shift:
    r"""Return the moments of :math:`h_j = \sum_i w_{ij} y_i` in both modes, y being x behind dropout.

    .. math:: Var_{training}[h_j] = Var[\textstyle\sum_i w_{ij} x_i] + \frac{p}{1 - p} \sum_i w_{ij}^2 E[x_i^2]

    for any joint distribution of the inputs, as long as each number is dropped independently. A bias would move both
    means alike, and change no variance.

    Parameters
    ----------
    x
        The numbers in front of dropout, floats of shape (samples, inputs): the population.
    kernel
        Floats of shape (inputs, units).
    rate
        The share p that is dropped, in [0, 1).
    alpha
        Whether it is alpha dropout, with the line for mean 0 and variance 1.

    Returns
    -------
    Shift
        Of the population. The variance that BN computes over a batch of n independent samples is lower on average, by
        1/n of itself.

    Raises
    ------
    TypeError
        If x or the kernel holds no floats.
    ValueError
        If a shape does not fit, or `rate` lies outside [0, 1).
    """
    samples, weights = float_array(x, "x").astype(np.float64), float_array(kernel, "kernel").astype(np.float64)
    if samples.ndim != 2 or 0 in samples.shape:
        raise ValueError(f"x has shape {samples.shape}; expected (samples, inputs), at least one of each.")
    if weights.ndim != 2 or len(weights) != samples.shape[1]:
        raise ValueError(f"kernel has shape {weights.shape}; expected ({samples.shape[1]}, units).")
    return _shift(samples, lambda numbers: numbers @ weights, lambda numbers: numbers**2 @ weights**2, rate, alpha)


def conv_shift(
    x: npt.ArrayLike, kernel: npt.ArrayLike, rate: float, *, alpha: bool = False, spatial: bool = False
) -> Shift:
    """Return the moments of a convolution's output in both modes, the maps x having gone through dropout.

    Stride 1, 'same' padding. Each output is a weighted sum of the numbers in its window, so `dense_shift` holds for it;
    the moments here are those that BN takes, over images and places together. Zeros of the margin bring no noise.

    Parameters
    ----------
    x
        The maps in front of dropout, floats of shape (images, height, width, channels): the population.
    kernel
        Floats of shape (kh, kw, channels, filters).
    rate
        The share p that is dropped, in [0, 1).
    alpha
        Whether it is alpha dropout, with the line for mean 0 and variance 1.
    spatial
        Whether whole maps are dropped instead of single numbers: then the noise of a window's numbers adds up within
        a map before it is squared.

    Returns
    -------
    Shift
        Of the population, arrays of shape (filters,).

    Raises
    ------
    TypeError
        If x or the kernel holds no floats.
    ValueError
        If a shape does not fit, `rate` lies outside [0, 1), or both `alpha` and `spatial` are asked for.
    """
    maps, weights = float_array(x, "x").astype(np.float64), float_array(kernel, "kernel").astype(np.float64)
    if alpha and spatial:
        raise ValueError("alpha = True and spatial = True; expected one of them at most.")

    def convolve(numbers: FloatArray, window: FloatArray) -> FloatArray:
        return conv2d(numbers, window, padding="same")[0]

    def per_map(numbers: FloatArray) -> FloatArray:
        """Return the sum over the channels of the square of what each contributes."""
        channels = range(numbers.shape[-1])
        parts = (convolve(numbers[..., c : c + 1], weights[:, :, c : c + 1]) ** 2 for c in channels)
        total: FloatArray = np.sum(list(parts), axis=0)
        return total

    noise = per_map if spatial else lambda numbers: convolve(numbers**2, weights**2)
    return _shift(maps, lambda numbers: convolve(numbers, weights), noise, rate, alpha)


def _shift(
    x: FloatArray,
    linear: Callable[[FloatArray], FloatArray],
    noise: Callable[[FloatArray], FloatArray],
    rate: float,
    alpha: bool,
) -> Shift:
    """Return the shift of a linear layer.

    By the law of total variance: the variance of the expectation over the masks, plus the expectation of their
    variance. `noise` gives the sum of the squared weighted numbers, which the variance of one mask multiplies.
    """
    outputs = linear(x)
    axes = tuple(range(outputs.ndim - 1))
    inference = Moments(outputs.mean(axis=axes), outputs.var(axis=axes))
    line = alpha_dropout_line(rate) if alpha else Line(1 / (1 - fraction(rate, "rate", end=False)), 0.0)
    gain = line.scale * (1 - rate)  # what is left of x on average over the masks: 1 for plain dropout
    distance = x - SELU_LIMIT if alpha else x  # between what is kept and what stands in its place
    spread = line.scale**2 * rate * (1 - rate) * noise(distance).mean(axis=axes)
    training = Moments(gain * inference.mean, gain**2 * inference.variance + spread)
    return Shift(training, inference)


def _odds(rate: float) -> float:
    """Return p / (1 - p)."""
    return fraction(rate, "rate", end=False) / (1 - rate)


def _moments(mean: npt.ArrayLike, variance: npt.ArrayLike) -> Moments:
    first, second = np.asarray(mean, np.float64), np.asarray(variance, np.float64)
    if not (second >= 0).all():
        raise ValueError(f"variance = {variance!r}; expected numbers >= 0.")
    return Moments(first, second)


class _Parts(NamedTuple):
    """What the positive and the negative z add to the moments of SELU, without its constants."""

    positive: float
    positive_squared: float
    negative: float
    negative_squared: float


def _selu_parts(mean: float, variance: float) -> _Parts:
    """Return E[z; z > 0], E[z^2; z > 0], E[e^z - 1; z < 0] and E[(e^z - 1)^2; z < 0] of a normal z."""
    spread = math.sqrt(variance)
    density = math.exp(-(mean**2) / (2 * variance)) / math.sqrt(2 * math.pi)
    above, below = _normal_cdf(mean / spread), _normal_cdf(-mean / spread)
    once, twice = (_exponential_part(k, mean, variance) for k in (1, 2))
    return _Parts(
        mean * above + spread * density,
        (mean**2 + variance) * above + mean * spread * density,
        once - below,
        twice - 2 * once + below,
    )


def _exponential_part(k: int, mean: float, variance: float) -> float:
    r"""Return :math:`E[e^{kz}; z < 0] = e^{k \mu + k^2 \nu / 2} \, \Phi(-(\mu + k \nu) / \sqrt \nu)`, z normal."""
    x = (mean + k * variance) / math.sqrt(2 * variance)
    if x < 25:
        return math.exp(k * mean + k**2 * variance / 2) * math.erfc(x) / 2
    # The exponential would overflow where erfc is all but 0: their product in terms of 1/x, good to 1e-10 from here on.
    tail = (1 / x) ** 2
    series = 1 - tail / 2 + 3 * tail**2 / 4 - 15 * tail**3 / 8
    return math.exp(-(mean**2) / (2 * variance)) * series / (2 * x * math.sqrt(math.pi))


def _normal_cdf(z: float) -> float:
    return math.erfc(-z / math.sqrt(2)) / 2
