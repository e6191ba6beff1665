"""Layers that normalise."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy.typing as npt

from bncourse.nn.axes import Axis, AxisSplit
from bncourse.nn.batch_norm import BatchNormCache, Gradients, batch_norm_backward, batch_norm_train
from bncourse.nn.checks import FloatArray, float_array, fraction
from bncourse.nn.fast import FastCache, fast_batch_norm_backward, fast_batch_norm_train
from bncourse.nn.moving_statistics import MovingState, MovingStatisticsLayer, Trained, VarianceKind


class BatchNorm(MovingStatisticsLayer):
    r"""Batch Normalization (Ioffe and Szegedy 2015), with the semantics of Keras 3.

    Training mode normalises with the statistics of the batch and moves `moving_mean` and `moving_variance` towards
    them. Inference mode normalises with the moving statistics and changes nothing. In both,
    :math:`y = \gamma (x - \mu) / \sqrt{v + \epsilon} + \beta`.

    Parameters
    ----------
    axis
        The axis or axes that keep their own statistics: -1 for features and for images NHWC, 1 for images NCHW. All
        others are averaged over, the batch axis among them.
    momentum
        Share of the *old* value in the moving averages, in [0, 1]. ``None`` gives the cumulative average: all batches
        so far count alike, and the start values not at all.
    epsilon
        Added to the variance, in the units of x squared; zero or greater. (With zero, a constant channel has no
        defined output.)
    center, scale
        Whether to have `beta` and `gamma`.
    moving_variance
        Which variance enters the moving average: ``"population"``, divided by n (Keras), or ``"sample"``, divided by
        n - 1 (the fused TensorFlow kernel, PyTorch). The batch itself is normalised with the population variance
        either way. A batch with n = 1 has no sample variance; its population variance, 0, is used.
    bias_corrected
        Whether the moving averages forget their start values at the first update, as Adam's do and as the
        ``zero_debias_moving_mean`` of ``tf.contrib.layers`` did; see :func:`bncourse.nn.momentum_at`.
    gamma_start, beta_start, moving_mean_start, moving_variance_start
        Start values: a number for all channels, or an array of the shape of the parameters.
    fast
        Whether large inputs go to the functions of :mod:`bncourse.nn.fast`. They give the same but for rounding, and
        keep x for `backward`: do not change it in between.

    Attributes
    ----------
    gamma, beta
        Scale and offset; ``None`` before the first call, or if switched off. Of shape (channels,); with several axes
        kept, the lengths of those axes in ascending order. They are float32 for float16 and float32 inputs, float64
        for float64.
    moving_mean, moving_variance
        The moving averages, of the same shape, in float64; ``None`` before the first call. (In float32 an average of
        numbers far from zero stops moving before it arrives.)
    updates
        How many batches the moving averages have seen.
    trainable
        False means inference mode, whatever `training` says, as in Keras 3. (In ``tf.layers`` it does not.)
    gradients
        After `backward`: ``"gamma"`` and ``"beta"``, if the layer has them.

    Raises
    ------
    TypeError
        If `axis` is not made of ints.
    ValueError
        If an argument is out of its range.

    Notes
    -----
    The option `moving_variance` is a word, the attribute `moving_variance` an array; the word is kept in
    `variance_kind`.

    What happens at the edges, where the frameworks agree as they do:

    ================================  ==================================================================================
    a batch of one (n = 1)            y = beta, dx = 0; the variance 0 enters the average
    a constant channel                y = beta, whatever its value
    no samples                        training: an error; inference: an empty y, and gradients of 0
    NaN or infinity in a channel      training: all of this channel's y is NaN, and its moving statistics are NaN or
                                      infinite from then on; inference: y is, only where x is
    overflow                          never silent: NumPy warns. Statistics of float16 are computed in float32; those of
                                      float32 end at values of 1e18, where squares and their sums overflow
    momentum 0; momentum 1            the last batch's statistics; the start values for ever
    ================================  ==================================================================================

    Examples
    --------
    >>> layer = BatchNorm(momentum=0.9)
    >>> y = layer(np.array([[1.0], [3.0]]), training=True)
    >>> y.round(3).ravel().tolist(), layer.moving_mean.round(3).tolist()
    ([-1.0, 1.0], [0.2])
    """

    def __init__(
        self,
        axis: Axis = -1,
        momentum: float | None = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        moving_variance: VarianceKind = "population",
        *,
        bias_corrected: bool = False,
        gamma_start: npt.ArrayLike = 1.0,
        beta_start: npt.ArrayLike = 0.0,
        moving_mean_start: npt.ArrayLike = 0.0,
        moving_variance_start: npt.ArrayLike = 1.0,
        fast: bool = True,
    ) -> None:
        starts = {
            "gamma": gamma_start,
            "beta": beta_start,
            "moving_mean": moving_mean_start,
            "moving_variance": moving_variance_start,
        }
        options: dict[str, Any] = {"bias_corrected": bias_corrected, "starts": starts, "fast": fast}
        super().__init__(axis, momentum, epsilon, center, scale, moving_variance, **options)

    @classmethod
    def like_pytorch(
        cls, *, momentum: float | None = 0.1, eps: float = 1e-5, affine: bool = True, axis: Axis = 1, **options: Any
    ) -> BatchNorm:
        """Return the layer that ``torch.nn.BatchNorm1d``, ``2d`` or ``3d`` is, given their arguments.

        The number of channels is not among them: the layer finds it at the first call, or in the weights it is given.

        Parameters
        ----------
        momentum
            PyTorch's: the share of the *new* value, in [0, 1]; ``None`` gives the cumulative average in both.
        eps
            Epsilon.
        affine
            Whether to have gamma and beta (there ``weight`` and ``bias``).
        axis
            1, as PyTorch always has it.
        options
            Further arguments of :class:`BatchNorm`.

        Raises
        ------
        ValueError
            If an argument is out of its range.

        Notes
        -----
        The moving variance takes the sample variance, as there. PyTorch refuses a training batch with one number a
        channel; this layer returns beta. ``track_running_stats=False`` has no counterpart.

        The arrays have other names: ``weight`` is `gamma`, ``bias`` is `beta`, ``running_mean`` is `moving_mean`,
        ``running_var`` is `moving_variance`, and ``num_batches_tracked`` is `updates`. ``train()`` and ``eval()``
        become the argument `training`.

        Examples
        --------
        A trained layer ``theirs`` of PyTorch, taken over::

            names = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean",
                     "running_var": "moving_variance", "num_batches_tracked": "updates"}
            ours = BatchNorm.like_pytorch(momentum=theirs.momentum, eps=theirs.eps)
            ours.set_weights({names[name]: array.numpy() for name, array in theirs.state_dict().items()})
        """
        share = None if momentum is None else 1.0 - fraction(momentum, "momentum", end=True)
        options = {"moving_variance": "sample", "center": affine, "scale": affine, **options}
        return cls(axis, share, eps, **options)

    def __call__(self, x: npt.ArrayLike, training: bool = True, mask: npt.ArrayLike | None = None) -> FloatArray:
        """Return y for `x`, of the same shape and type.

        Parameters
        ----------
        x
            Array of floats of rank 2 to 5.
        training
            Normalise with the statistics of the batch, and update the moving ones. True is the default, unlike in Keras
            outside of ``fit``: a plain ``layer(x)`` moves the statistics.
        mask
            True where a position counts in the statistics; see :func:`bncourse.nn.batch_norm_train`. Without effect
            in inference mode.

        Raises
        ------
        TypeError
            If x holds no floats.
        ValueError
            If the rank, an axis, the number of channels or the mask does not fit.
        """
        x = float_array(x, "x")
        if mask is not None:
            AxisSplit.of(x.shape, self.axis).expand_mask(mask)  # a mask that does not fit is an error in both modes
        y = self._forward(x, training, mask=mask)
        self._output_shape = y.shape
        return y

    def _train(self, x: FloatArray, state: MovingState, mask: npt.ArrayLike | None = None) -> Trained:
        given: dict[str, Any] = {"epsilon": self.epsilon, "axis": self.axis}
        cache: BatchNormCache | FastCache
        if mask is None and self._is_fast(x):
            y, cache = fast_batch_norm_train(x, state.gamma, state.beta, **given)
            backward: Callable[[FloatArray], Gradients] = partial(fast_batch_norm_backward, cache=cache)
        else:
            y, cache = batch_norm_train(x, state.gamma, state.beta, **given, mask=mask)
            backward = partial(batch_norm_backward, cache=cache)
        return Trained(y, [(cache.mean, self._averaged(cache.variance, cache.count))], backward)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(axis={self.axis!r}, momentum={self.momentum}, epsilon={self.epsilon}, "
            f"center={self.center}, scale={self.scale}, moving_variance={self.variance_kind!r}"
            f"{', bias_corrected=True' if self.bias_corrected else ''})"
        )
