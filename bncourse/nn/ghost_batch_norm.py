"""Ghost Batch Normalization (Hoffer, Hubara and Soudry 2017): a large batch normalised in small parts.

Each virtual batch is normalised with its own statistics, so the noise of the statistics is that of small batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from bncourse.nn.axes import Axis, AxisSplit
from bncourse.nn.batch_norm import BatchNormCache, Gradients, batch_norm_backward, batch_norm_train
from bncourse.nn.checks import FloatArray, float_array, positive_int, same_shape
from bncourse.nn.moving_statistics import MovingState, MovingStatisticsLayer, Trained, VarianceKind


@dataclass(frozen=True)
class GhostBatchNormCache:
    """What the backward pass needs of the forward pass in training mode.

    Attributes
    ----------
    parts
        The cache of each virtual batch, in order; each holds its statistics.
    sizes
        Samples of each virtual batch.
    shape
        Shape of x.
    """

    parts: tuple[BatchNormCache, ...]
    sizes: tuple[int, ...]
    shape: tuple[int, ...]


def virtual_batch_sizes(samples: int, virtual_batch_size: int) -> tuple[int, ...]:
    """Return the sizes of the virtual batches into which `samples` samples are split.

    There are as few as possible, none larger than `virtual_batch_size`, and their sizes differ by one at most, the
    larger ones first. So where the size divides the batch all are of that size, and where it does not no small rest
    is left: 129 samples by 64 give three of 43, not 64, 64 and a single sample (which could only become beta).

    Raises
    ------
    TypeError
        If a number is not an integer.
    ValueError
        If a number is smaller than one.

    Examples
    --------
    >>> virtual_batch_sizes(128, 64), virtual_batch_sizes(129, 64), virtual_batch_sizes(20, 64)
    ((64, 64), (43, 43, 43), (20,))
    """
    samples = positive_int(samples, "samples")
    count = -(-samples // positive_int(virtual_batch_size, "virtual_batch_size"))
    size, larger = divmod(samples, count)
    return (size + 1,) * larger + (size,) * (count - larger)


def ghost_batch_norm_train(
    x: npt.ArrayLike,
    gamma: FloatArray | None,
    beta: FloatArray | None,
    *,
    virtual_batch_size: int,
    epsilon: float,
    axis: Axis,
) -> tuple[FloatArray, GhostBatchNormCache]:
    """Normalise each virtual batch of `x` with the statistics of that virtual batch.

    Parameters
    ----------
    x
        Array of floats of rank 2 to 5, the batch axis first.
    gamma, beta
        Scale and offset, of the shape of the kept axes in ascending order; ``None`` leaves them out.
    virtual_batch_size
        Samples of a virtual batch at most; see :func:`virtual_batch_sizes`. They are consecutive.
    epsilon
        Added to the variances, in the units of x squared.
    axis
        The axes that keep their own statistics; not the batch axis.

    Returns
    -------
    y
        Of the shape and type of x.
    cache
        For :func:`ghost_batch_norm_backward`; the statistics are in ``cache.parts``.

    Raises
    ------
    TypeError
        If x holds no floats or `virtual_batch_size` is no integer.
    ValueError
        If a shape, an axis, epsilon or `virtual_batch_size` is impossible.
    """
    x = float_array(x, "x")
    _not_the_batch_axis(x.shape, axis)
    AxisSplit.of(x.shape, axis)
    sizes = virtual_batch_sizes(len(x), virtual_batch_size)
    y, parts = np.empty_like(x), []
    for where in _slices(sizes):
        y[where], cache = batch_norm_train(x[where], gamma, beta, epsilon=epsilon, axis=axis)
        parts.append(cache)
    return y, GhostBatchNormCache(tuple(parts), sizes, x.shape)


def ghost_batch_norm_backward(dy: npt.ArrayLike, cache: GhostBatchNormCache) -> Gradients:
    """Return the gradients of a loss, given `dy`, its gradient with respect to y.

    Each virtual batch has its own dx, as in Batch Normalization; they share gamma and beta, so those gradients add up.

    Parameters
    ----------
    dy
        Of the shape of y.
    cache
        From :func:`ghost_batch_norm_train`.

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
    dy = same_shape(float_array(dy, "dy"), cache.shape, "dy", "y")
    gradients = [
        batch_norm_backward(dy[where], part) for where, part in zip(_slices(cache.sizes), cache.parts, strict=True)
    ]
    dx, dgamma, dbeta = zip(*gradients, strict=True)
    return np.concatenate(dx), np.sum(dgamma, axis=0), np.sum(dbeta, axis=0)


class GhostBatchNorm(MovingStatisticsLayer):
    r"""Ghost Batch Normalization (Hoffer, Hubara and Soudry 2017): Batch Normalization over virtual batches.

    Training mode splits the batch into consecutive virtual batches and normalises each with its own statistics. The
    moving statistics see the virtual batches one after the other, as if they had been batches. Inference mode is that
    of :class:`bncourse.nn.BatchNorm`.

    Parameters
    ----------
    virtual_batch_size
        Samples of a virtual batch. Where it does not divide the batch, the virtual batches are somewhat smaller, of
        equal size or one sample apart; see :func:`virtual_batch_sizes`. A batch that is not larger is one virtual
        batch: then the layer is `BatchNorm`.
    axis, momentum, epsilon, center, scale
        As in :class:`bncourse.nn.BatchNorm`, but `axis` must not name the batch axis. One batch of k virtual batches
        multiplies the old moving statistics by ``momentum ** k``.
    moving_variance
        Which variance of a virtual batch enters the moving average: ``"population"`` or ``"sample"``. Small batches
        underestimate the variance by (n - 1)/n, so the difference grows as the virtual batches shrink.

    Attributes
    ----------
    gamma, beta, moving_mean, moving_variance, trainable, gradients
        As in :class:`bncourse.nn.BatchNorm`. ``trainable = False`` means inference mode.
    updates
        How many virtual batches the moving averages have seen.

    Raises
    ------
    TypeError
        If `axis` is not made of ints or `virtual_batch_size` is no integer.
    ValueError
        If an argument is out of its range.

    Notes
    -----
    The option `moving_variance` is a word, the attribute `moving_variance` an array; the word is kept in
    `variance_kind`.

    Examples
    --------
    >>> y = GhostBatchNorm(2, epsilon=0.0)(np.array([[1.0], [3.0], [10.0], [50.0]]))
    >>> y.ravel().tolist()
    [-1.0, 1.0, -1.0, 1.0]
    """

    def __init__(
        self,
        virtual_batch_size: int,
        axis: Axis = -1,
        momentum: float | None = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        moving_variance: VarianceKind = "population",
    ) -> None:
        super().__init__(axis, momentum, epsilon, center, scale, moving_variance)
        self.virtual_batch_size = positive_int(virtual_batch_size, "virtual_batch_size")

    def _forward(self, x: FloatArray, training: bool, **given: Any) -> FloatArray:
        _not_the_batch_axis(x.shape, self.axis)
        return super()._forward(x, training, **given)

    def _train(self, x: FloatArray, state: MovingState) -> Trained:
        y, cache = ghost_batch_norm_train(
            x,
            state.gamma,
            state.beta,
            virtual_batch_size=self.virtual_batch_size,
            epsilon=self.epsilon,
            axis=self.axis,
        )
        statistics = [(part.mean, self._averaged(part.variance, part.count)) for part in cache.parts]
        return Trained(y, statistics, partial(ghost_batch_norm_backward, cache=cache))

    def __repr__(self) -> str:
        return (
            f"GhostBatchNorm(virtual_batch_size={self.virtual_batch_size}, axis={self.axis!r}, "
            f"momentum={self.momentum}, epsilon={self.epsilon}, center={self.center}, scale={self.scale}, "
            f"moving_variance={self.variance_kind!r})"
        )


def _slices(sizes: tuple[int, ...]) -> list[slice]:
    ends = np.cumsum(sizes).tolist()
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def _not_the_batch_axis(shape: tuple[int, ...], axis: Axis) -> None:
    axes = AxisSplit.of(shape, axis, empty=True)
    if 0 in axes.kept:
        raise ValueError(
            f"axis = {axis!r} names the batch axis of x (shape {shape}), which is split into virtual batches; "
            "name the axis of the channels."
        )
