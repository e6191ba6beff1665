r"""Batch Renormalization (Ioffe 2017): Batch Normalization whose training output agrees with inference.

With the statistics :math:`\mu_B, \sigma_B` of the batch and the moving ones :math:`\mu, \sigma`::

    r = clip(sigma_B / sigma, 1 / r_max, r_max)
    d = clip((mu_B - mu) / sigma, -d_max, d_max)
    y = gamma * (x_hat * r + d) + beta,    x_hat = (x - mu_B) / sigma_B

Where nothing is clipped, ``x_hat * r + d = (x - mu) / sigma``: what inference computes. The gradient takes `r` and `d`
for constants, but still flows through the statistics of the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from bncourse.nn.axes import Axis, AxisSplit
from bncourse.nn.batch_norm import BatchNormCache, Gradients, batch_norm_backward, batch_norm_train
from bncourse.nn.checks import FloatArray, compute_dtype, float_array
from bncourse.nn.moving_statistics import MovingState, MovingStatisticsLayer, Trained


@dataclass(frozen=True)
class BatchRenormCache:
    """What the backward pass needs of the forward pass in training mode.

    Attributes
    ----------
    normalized
        Cache of the Batch Normalization within, without gamma and beta; holds the statistics of the batch.
    r, d
        The corrections after clipping, of the shape of gamma.
    gamma
        The scale that was used; ``None`` means 1.
    axes
        The axes of x: kept and averaged over.
    dtype
        Type of x, and so of y and dx.
    """

    normalized: BatchNormCache
    r: FloatArray
    d: FloatArray
    gamma: FloatArray | None
    axes: AxisSplit
    dtype: np.dtype[Any]

    @property
    def mean(self) -> FloatArray:
        """Means of the batch, of the shape of gamma."""
        return self.normalized.mean

    @property
    def variance(self) -> FloatArray:
        """Population variances of the batch, of the shape of gamma."""
        return self.normalized.variance


def batch_renorm_train(
    x: npt.ArrayLike,
    gamma: FloatArray | None,
    beta: FloatArray | None,
    moving_mean: FloatArray,
    moving_variance: FloatArray,
    *,
    r_max: float,
    d_max: float,
    epsilon: float,
    axis: Axis,
) -> tuple[FloatArray, BatchRenormCache]:
    """Normalise `x` with its own statistics, corrected towards the moving ones.

    Parameters
    ----------
    x
        Array of floats of rank 2 to 5.
    gamma, beta
        Scale and offset, of the shape of the kept axes in ascending order; ``None`` leaves them out.
    moving_mean, moving_variance
        The moving statistics before this batch, of the shape of gamma.
    r_max, d_max
        Bounds of the corrections: ``r_max >= 1`` and ``d_max >= 0``, both without a unit; infinity means no bound.
    epsilon
        Added to both variances, in the units of x squared.
    axis
        The axes that keep their own statistics.

    Returns
    -------
    y
        Of the shape and type of x.
    cache
        For :func:`batch_renorm_backward`; holds ``cache.mean``, ``cache.variance``, ``cache.r`` and ``cache.d``.

    Raises
    ------
    TypeError
        If x holds no floats.
    ValueError
        If a shape, an axis, epsilon or a bound is impossible.
    """
    x = float_array(x, "x")
    axes, dtype = AxisSplit.of(x.shape, axis), compute_dtype(x)
    r_max, d_max = _r_bound(r_max), _d_bound(d_max)
    gamma, beta = (
        None if array is None else axes.parameter(array, name, dtype)
        for array, name in ((gamma, "gamma"), (beta, "beta"))
    )
    mean = axes.parameter(moving_mean, "moving_mean", np.float64)
    variance = axes.parameter(moving_variance, "moving_variance", np.float64)
    # The inner call gets x in the type to calculate in, so that x_hat is not rounded to float16 on the way.
    x_hat, normalized = batch_norm_train(x.astype(dtype, copy=False), None, None, epsilon=epsilon, axis=axis)

    sigma = np.sqrt(variance + epsilon)
    r = np.clip(np.sqrt(normalized.variance + epsilon) / sigma, 1 / r_max, r_max).astype(dtype)
    d = np.clip((normalized.mean - mean) / sigma, -d_max, d_max).astype(dtype)
    y = x_hat * axes.expand(r) + axes.expand(d)
    y = y if gamma is None else axes.expand(gamma) * y
    y = y if beta is None else y + axes.expand(beta)
    return y.astype(x.dtype, copy=False), BatchRenormCache(normalized, r, d, gamma, axes, x.dtype)


def batch_renorm_backward(dy: npt.ArrayLike, cache: BatchRenormCache) -> Gradients:
    """Return the gradients of a loss, given `dy`, its gradient with respect to y; `r` and `d` count as constants.

    Then y is linear in x_hat, and all follows from the gradients of Batch Normalization without gamma and beta:
    ``dx`` times ``gamma * r``, and ``dgamma = r * sum(dy x_hat) + d * sum(dy)``.

    Parameters
    ----------
    dy
        Of the shape of y.
    cache
        From :func:`batch_renorm_train`.

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
    dx, dy_x_hat, dbeta = batch_norm_backward(dy, cache.normalized)
    slope = cache.r if cache.gamma is None else cache.gamma * cache.r
    dx = (dx * cache.axes.expand(slope)).astype(cache.dtype, copy=False)
    return dx, cache.r * dy_x_hat + cache.d * dbeta, dbeta


class BatchRenorm(MovingStatisticsLayer):
    r"""Batch Renormalization (Ioffe 2017, algorithm 1).

    Training mode computes :math:`y = \gamma (\hat x r + d) + \beta`, where :math:`\hat x` is normalised with the
    statistics of the batch; `r` and `d` correct it towards the moving statistics, as far as `r_max` and `d_max` allow.
    Then the moving statistics are updated. Inference mode is that of :class:`bncourse.nn.BatchNorm`.

    With ``r_max=1, d_max=0`` the layer is Batch Normalization. Without bounds, training computes what inference
    computes with the moving statistics before the update.

    Parameters
    ----------
    axis, momentum, epsilon, center, scale
        As in :class:`bncourse.nn.BatchNorm`.
    r_max
        Bound of `r`, the ratio of the standard deviations: ``1/r_max <= r <= r_max``. One or greater; may be infinite.
    d_max
        Bound of `d`, the difference of the means in standard deviations: ``-d_max <= d <= d_max``. Zero or greater;
        may be infinite.

    Attributes
    ----------
    r_max, d_max
        May be set during training. The moving statistics start at 0 and 1, and until they fit the data, `r` and `d`
        correct towards values that mean nothing: so start with 1 and 0, and raise them slowly, as the paper does.
        Their values are not saved with the weights.
    gamma, beta, moving_mean, moving_variance, updates, trainable, gradients
        As in :class:`bncourse.nn.BatchNorm`. ``trainable = False`` means inference mode.

    Raises
    ------
    TypeError
        If `axis` is not made of ints.
    ValueError
        If an argument is out of its range; the same when `r_max` or `d_max` is set later.

    Notes
    -----
    The paper averages the standard deviation, ``sqrt(variance + epsilon)``. This layer averages the variance and takes
    ``sigma = sqrt(moving_variance + epsilon)``: so it is exactly `BatchNorm` for ``r_max=1, d_max=0``, and the two
    can exchange their weights. The root of the average is never below the average of the roots.

    Examples
    --------
    >>> layer, x = BatchRenorm(r_max=np.inf, d_max=np.inf), np.array([[1.0], [3.0]])
    >>> expected = layer(x, training=False)
    >>> bool(np.allclose(layer(x, training=True), expected))
    True
    """

    def __init__(
        self,
        axis: Axis = -1,
        momentum: float | None = 0.99,
        epsilon: float = 1e-3,
        r_max: float = 3.0,
        d_max: float = 5.0,
        center: bool = True,
        scale: bool = True,
    ) -> None:
        super().__init__(axis, momentum, epsilon, center, scale)
        self.r_max = r_max
        self.d_max = d_max

    @property
    def r_max(self) -> float:
        """Bound of the ratio of the standard deviations; one or greater."""
        return self._r_max

    @r_max.setter
    def r_max(self, value: float) -> None:
        self._r_max = _r_bound(value)

    @property
    def d_max(self) -> float:
        """Bound of the difference of the means, in standard deviations; zero or greater."""
        return self._d_max

    @d_max.setter
    def d_max(self, value: float) -> None:
        self._d_max = _d_bound(value)

    def _train(self, x: FloatArray, state: MovingState) -> Trained:
        y, cache = batch_renorm_train(
            x,
            state.gamma,
            state.beta,
            state.moving_mean,
            state.moving_variance,
            r_max=self.r_max,
            d_max=self.d_max,
            epsilon=self.epsilon,
            axis=self.axis,
        )
        return Trained(y, [(cache.mean, cache.variance)], partial(batch_renorm_backward, cache=cache))

    def __repr__(self) -> str:
        return (
            f"BatchRenorm(axis={self.axis!r}, momentum={self.momentum}, epsilon={self.epsilon}, r_max={self.r_max}, "
            f"d_max={self.d_max}, center={self.center}, scale={self.scale})"
        )


def _r_bound(value: float) -> float:
    return _at_least(value, 1, "r_max", "1 switches the correction of the scale off")


def _d_bound(value: float) -> float:
    return _at_least(value, 0, "d_max", "0 switches the correction of the mean off")


def _at_least(value: float, least: int, name: str, hint: str) -> float:
    if math.isnan(value) or value < least:
        raise ValueError(f"{name} = {value}; expected a number >= {least} ({hint}).")
    return float(value)
