r"""Batch Normalization as pure functions: what it computes, forward and backward.

Forward, with :math:`n` numbers per channel (Ioffe and Szegedy 2015, algorithm 1)::

    mean     = sum(x) / n
    variance = sum((x - mean)^2) / n
    x_hat    = (x - mean) / sqrt(variance + epsilon)
    y        = gamma * x_hat + beta

Nothing here keeps state; :class:`bncourse.nn.BatchNorm` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bncourse.nn.axes import Axis, AxisSplit
from bncourse.nn.checks import BoolArray, FloatArray, compute_dtype, float_array, not_negative, same_shape

Gradients = tuple[FloatArray, FloatArray, FloatArray]


@dataclass(frozen=True)
class BatchNormCache:
    """What the backward pass needs of the forward pass in training mode.

    Attributes
    ----------
    mean, variance
        Statistics of the batch (population variance), of the shape of gamma; the mean is float64.
    count
        How many numbers each of them was formed from: `n`.
    centred
        ``x - mean``, of the shape of x.
    inverse_std
        ``1 / sqrt(variance + epsilon)``, expanded to the rank of x.
    gamma
        The scale that was used, expanded to the rank of x; ``None`` means 1.
    mask
        The positions that the statistics come from, expanded to the rank of x; ``None`` means all.
    axes
        The axes of x: kept and reduced.
    dtype
        Type of x, and so of y and dx.
    """

    mean: FloatArray
    variance: FloatArray
    count: int
    centred: FloatArray
    inverse_std: FloatArray
    gamma: FloatArray | None
    mask: BoolArray | None
    axes: AxisSplit
    dtype: np.dtype[Any]

    @property
    def x_hat(self) -> FloatArray:
        """The normalised input, before gamma and beta."""
        return self.centred * self.inverse_std


def batch_norm_train(
    x: npt.ArrayLike,
    gamma: FloatArray | None,
    beta: FloatArray | None,
    *,
    epsilon: float,
    axis: Axis,
    mask: npt.ArrayLike | None = None,
) -> tuple[FloatArray, BatchNormCache]:
    """Normalise `x` with the statistics of `x` itself.

    Parameters
    ----------
    x
        Array of floats of rank 2 to 5.
    gamma, beta
        Scale and offset, of the shape of the kept axes in ascending order; ``None`` leaves them out.
    epsilon
        Added to the variance, in the units of x squared.
    axis
        The axes that keep their own statistics.
    mask
        True where a position counts in the statistics; of the shape of x without the kept axes, or broadcastable to
        it. Every position is normalised, also those that do not count. (Keras 3 does the same for ``axis=-1``; for
        another axis it aligns the mask with all axes but the last.)

    Returns
    -------
    y
        Of the shape and type of x.
    cache
        For :func:`batch_norm_backward`; holds the statistics ``cache.mean`` and ``cache.variance`` too.

    Raises
    ------
    TypeError
        If x holds no floats.
    ValueError
        If a shape, an axis, epsilon or the mask is impossible.
    """
    x = float_array(x, "x")
    axes = AxisSplit.of(x.shape, axis)
    epsilon = not_negative(epsilon, "epsilon")
    where = None if mask is None else axes.expand_mask(mask)
    gamma, beta = _affine(x, gamma, beta, axes)

    mean, centred = _centre(x.astype(compute_dtype(x), copy=False), axes, where)
    variance = _mean(np.square(centred), axes, where)
    inverse_std = 1 / np.sqrt(variance + epsilon)
    count = _count(axes, where)
    cache = BatchNormCache(
        mean.reshape(axes.kept_shape),
        variance.reshape(axes.kept_shape),
        count,
        centred,
        inverse_std,
        gamma,
        where,
        axes,
        x.dtype,
    )
    return _scale_and_offset(cache.x_hat, gamma, beta).astype(x.dtype, copy=False), cache


def batch_norm_backward(dy: npt.ArrayLike, cache: BatchNormCache) -> Gradients:
    """Return the gradients of a loss, given `dy`, its gradient with respect to y: the compact form.

    ``dx = gamma / (n sigma) * (n dy - sum(dy) - x_hat sum(dy x_hat))`` with ``sigma = sqrt(variance + epsilon)``.
    Positions that a mask took out of the statistics pass their own gradient on, but bear no share of the two sums.

    Parameters
    ----------
    dy
        Of the shape of y.
    cache
        From :func:`batch_norm_train`.

    Returns
    -------
    dx, dgamma, dbeta
        `dx` has the shape and type of x, the other two have the shape of gamma.

    Raises
    ------
    TypeError
        If dy holds no floats.
    ValueError
        If dy has another shape than y.
    """
    dy = _upstream(dy, cache.axes, cache.centred)
    x_hat, n = cache.x_hat, cache.count
    dbeta = _sum(dy, cache.axes)
    dgamma = _sum(dy * x_hat, cache.axes)
    shared = dbeta + x_hat * dgamma  # what reaches an input through the two statistics
    if cache.mask is not None:
        shared = shared * cache.mask
    dx = cache.inverse_std / n * (n * dy - shared)
    if cache.gamma is not None:
        dx = cache.gamma * dx
    return _as_gradients(dx, dgamma, dbeta, cache.axes, cache.dtype)


def batch_norm_backward_graph(dy: npt.ArrayLike, cache: BatchNormCache) -> Gradients:
    """Return what :func:`batch_norm_backward` returns, one node of the computational graph at a time.

    Slower, and the way to derive it. Parameters, result and errors are the same.
    """
    dy = _upstream(dy, cache.axes, cache.centred)
    axes, n, centred, inverse_std = cache.axes, cache.count, cache.centred, cache.inverse_std
    weight = 1.0 if cache.mask is None else cache.mask.astype(centred.dtype)

    # y = gamma * x_hat + beta
    dbeta = _sum(dy, axes)
    dgamma = _sum(dy * cache.x_hat, axes)
    dx_hat = dy if cache.gamma is None else dy * cache.gamma
    # x_hat = centred * inverse_std
    dcentred = dx_hat * inverse_std
    dinverse_std = _sum(dx_hat * centred, axes)
    # inverse_std = (variance + epsilon) ** (-1/2)
    dvariance = -0.5 * inverse_std**3 * dinverse_std
    # variance = sum(weight * centred^2) / n
    dcentred = dcentred + dvariance * 2 * weight * centred / n
    # centred = x - mean
    dmean = -_sum(dcentred, axes)
    # mean = sum(weight * x) / n
    dx = dcentred + dmean * weight / n
    return _as_gradients(dx, dgamma, dbeta, axes, cache.dtype)


def batch_norm_inference(
    x: npt.ArrayLike,
    gamma: FloatArray | None,
    beta: FloatArray | None,
    moving_mean: FloatArray,
    moving_variance: FloatArray,
    *,
    epsilon: float,
    axis: Axis,
) -> FloatArray:
    """Normalise `x` with given statistics: in inference mode each sample is treated by itself.

    No samples give an empty y.

    Parameters
    ----------
    x, gamma, beta, epsilon, axis
        As in :func:`batch_norm_train`.
    moving_mean, moving_variance
        The statistics, of the shape of gamma.

    Returns
    -------
    y
        Of the shape and type of x.

    Raises
    ------
    TypeError
        If x holds no floats.
    ValueError
        If a shape, an axis or epsilon is impossible.
    """
    x = float_array(x, "x")
    axes = AxisSplit.of(x.shape, axis, empty=True)
    gamma, beta = _affine(x, gamma, beta, axes)
    x_hat, _ = _standardise(x, moving_mean, moving_variance, epsilon, axes)
    return _scale_and_offset(x_hat, gamma, beta).astype(x.dtype, copy=False)


def batch_norm_inference_backward(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    gamma: FloatArray | None,
    moving_mean: FloatArray,
    moving_variance: FloatArray,
    *,
    epsilon: float,
    axis: Axis,
) -> Gradients:
    """Return the gradients of :func:`batch_norm_inference`: the statistics are constants, so y is linear in x.

    Parameters
    ----------
    dy
        Gradient with respect to y, of the shape of y.
    x, gamma, moving_mean, moving_variance, epsilon, axis
        As in the forward call.

    Returns
    -------
    dx, dgamma, dbeta
        As in :func:`batch_norm_backward`.

    Raises
    ------
    TypeError
        If dy or x holds no floats.
    ValueError
        If a shape, an axis or epsilon is impossible.
    """
    x = float_array(x, "x")
    axes = AxisSplit.of(x.shape, axis, empty=True)
    gamma, _ = _affine(x, gamma, None, axes)
    x_hat, inverse_std = _standardise(x, moving_mean, moving_variance, epsilon, axes)
    dy = _upstream(dy, axes, x_hat)
    dx = dy * inverse_std if gamma is None else dy * (gamma * inverse_std)
    return _as_gradients(dx, _sum(dy * x_hat, axes), _sum(dy, axes), axes, x.dtype)


def update_moving(old: FloatArray, new: FloatArray, momentum: float) -> FloatArray:
    """Return the moving average after one more value: ``momentum * old + (1 - momentum) * new``.

    `momentum` is the share of the *old* value, as in TensorFlow and Keras; PyTorch calls ``1 - momentum`` so. The
    result is float64: in float32 an average stops moving where a step is smaller than half its last digit.
    """
    old, new = np.asarray(old, np.float64), np.asarray(new, np.float64)
    return np.asarray(momentum * old + (1.0 - momentum) * new)


def momentum_at(momentum: float | None, seen: int, bias_corrected: bool = False) -> float:
    r"""Return the momentum for the next update, after `seen` updates.

    Averages that forget their start value are moving averages whose momentum grows; in both, the first update has
    momentum 0 and wipes the start value out.

    - cumulative: :math:`t / (t + 1)` after :math:`t` updates;
    - bias-corrected: :math:`m (1 - m^t) / (1 - m^{t + 1})`. Then the average is at any time
      :math:`(a_t - m^t a_0) / (1 - m^t)`, where :math:`a_t` is the plain moving average with the start :math:`a_0`:
      the correction of Adam (Kingma and Ba 2015, section 3).

    Parameters
    ----------
    momentum
        Share of the old value, in [0, 1]; ``None`` for the cumulative average.
    seen
        How many updates there were.
    bias_corrected
        Whether to correct for the start value. With momentum 1 this is the cumulative average.
    """
    if momentum is None or (bias_corrected and momentum == 1.0):
        return seen / (seen + 1)
    if bias_corrected:
        return float(momentum * (1 - momentum**seen) / (1 - momentum ** (seen + 1)))
    return momentum


def _centre(x: FloatArray, axes: AxisSplit, where: BoolArray | None) -> tuple[FloatArray, FloatArray]:
    """Return the mean, expanded and in float64, and x minus the mean."""
    mean = _mean(x, axes, where)
    centred = x - mean
    # The rounded mean may be off by as much as the data spread (offset 1e4, spread 1e-2, float32). What it is off by
    # is the mean of the differences, and they are small enough to give it exactly.
    rest = _mean(centred, axes, where)
    centred -= rest
    whole = mean.astype(np.float64)
    return np.where(np.isfinite(mean), whole + rest, whole), centred  # an infinite mean stays infinite


def _mean(values: FloatArray, axes: AxisSplit, where: BoolArray | None) -> FloatArray:
    # Added up in float64: in float32, NumPy's sum of ten thousand rows is off by as much as 1e-5 of itself.
    kept = True if where is None else where
    result: FloatArray = np.mean(values, axis=axes.reduced, keepdims=True, where=kept, dtype=np.float64)
    return result.astype(values.dtype, copy=False)


def _sum(values: FloatArray, axes: AxisSplit) -> FloatArray:
    result: FloatArray = np.sum(values, axis=axes.reduced, keepdims=True, dtype=np.float64)
    return result.astype(values.dtype, copy=False)


def _count(axes: AxisSplit, where: BoolArray | None) -> int:
    if where is not None:
        return int(np.count_nonzero(where))
    return int(np.prod([axes.shape[a] for a in axes.reduced]))


def _affine(
    x: FloatArray, gamma: FloatArray | None, beta: FloatArray | None, axes: AxisSplit
) -> tuple[FloatArray | None, FloatArray | None]:
    """Return gamma and beta, checked, expanded to the rank of x and in the type to calculate in."""

    def expanded(parameter: FloatArray | None, name: str) -> FloatArray | None:
        return None if parameter is None else _expanded(parameter, name, x, axes)

    return expanded(gamma, "gamma"), expanded(beta, "beta")


def _expanded(parameter: FloatArray, name: str, x: FloatArray, axes: AxisSplit) -> FloatArray:
    return axes.expand(axes.parameter(parameter, name, compute_dtype(x)))


def _standardise(
    x: FloatArray, moving_mean: FloatArray, moving_variance: FloatArray, epsilon: float, axes: AxisSplit
) -> tuple[FloatArray, FloatArray]:
    """Return x_hat from given statistics, and the expanded ``1 / sqrt(moving_variance + epsilon)``."""
    mean = _expanded(moving_mean, "moving_mean", x, axes)
    variance = _expanded(moving_variance, "moving_variance", x, axes)
    inverse_std = 1 / np.sqrt(variance + not_negative(epsilon, "epsilon"))
    # Subtract first: x * inverse_std - mean * inverse_std would cancel when the mean is large. What rounding took from
    # the mean is subtracted afterwards.
    lost = axes.expand(moving_mean) - mean.astype(np.float64)
    return (x - mean - np.where(np.isfinite(lost), lost, 0).astype(mean.dtype)) * inverse_std, inverse_std


def _scale_and_offset(x_hat: FloatArray, gamma: FloatArray | None, beta: FloatArray | None) -> FloatArray:
    y = x_hat if gamma is None else gamma * x_hat
    return y if beta is None else y + beta


def _upstream(dy: npt.ArrayLike, axes: AxisSplit, like: FloatArray) -> FloatArray:
    checked = same_shape(float_array(dy, "dy"), axes.shape, "dy", "y")
    return checked.astype(like.dtype, copy=False)


def _as_gradients(
    dx: FloatArray, dgamma: FloatArray, dbeta: FloatArray, axes: AxisSplit, dtype: np.dtype[Any]
) -> Gradients:
    shape = axes.kept_shape
    return dx.astype(dtype, copy=False), dgamma.reshape(shape), dbeta.reshape(shape)
