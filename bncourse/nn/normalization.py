"""Layers that normalise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from bncourse.nn.axes import Axis, AxisSplit, axis_tuple
from bncourse.nn.batch_norm import (
    BatchNormCache,
    Gradients,
    batch_norm_backward,
    batch_norm_inference,
    batch_norm_inference_backward,
    batch_norm_train,
    momentum_at,
    update_moving,
)
from bncourse.nn.checks import FloatArray, compute_dtype, float_array, fraction, not_negative
from bncourse.nn.fast import (
    FastCache,
    fast_batch_norm_backward,
    fast_batch_norm_inference,
    fast_batch_norm_train,
    supports,
)
from bncourse.nn.layer import Layer

VarianceKind = Literal["population", "sample"]

#: From this many numbers on the fast functions are faster than the plain ones.
WORTH_THE_BLOCKS = 20_000


class BatchNorm(Layer):
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

    _parameter_names: ClassVar = ("gamma", "beta")
    _statistic_names: ClassVar = ("moving_mean", "moving_variance", "updates")

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
        super().__init__()
        axis_tuple(axis)
        if moving_variance not in ("population", "sample"):
            raise ValueError(f"moving_variance = {moving_variance!r}; expected 'population' or 'sample'.")
        self.axis = axis
        self.momentum = None if momentum is None else fraction(momentum, "momentum", end=True)
        self.epsilon = not_negative(epsilon, "epsilon")
        self.center = center
        self.scale = scale
        self.variance_kind = moving_variance
        self.bias_corrected = bias_corrected
        self.starts = {
            name: _start(value, f"{name}_start")
            for name, value in (
                ("gamma", gamma_start),
                ("beta", beta_start),
                ("moving_mean", moving_mean_start),
                ("moving_variance", moving_variance_start),
            )
        }
        if (self.starts["moving_variance"] < 0).any():
            raise ValueError(f"moving_variance_start = {moving_variance_start!r}; expected numbers >= 0.")
        self.fast = fast
        self.gamma: FloatArray | None = None
        self.beta: FloatArray | None = None
        self.moving_mean: FloatArray | None = None
        self.moving_variance: FloatArray | None = None
        self.updates = np.array(0)
        self._gradients_of_last_call: Callable[[FloatArray], Gradients] | None = None

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
        learns = training and self.trainable
        axes = AxisSplit.of(x.shape, self.axis, empty=not learns)
        if self.moving_mean is not None and self.moving_mean.shape != axes.kept_shape:
            raise ValueError(
                f"x has shape {x.shape}, so {axes.kept_shape} along axis = {self.axis!r}; this layer was built for "
                f"{self.moving_mean.shape}. Use a new layer for other channels."
            )
        if mask is not None:
            axes.expand_mask(mask)
        if self.moving_mean is None:
            self._build(axes.kept_shape, compute_dtype(x))
        y = self._train(x, mask) if learns else self._infer(x)
        self._output_shape = y.shape
        return y

    def _build(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        wrong = {name: start.shape for name, start in self.starts.items() if start.shape not in ((), shape)}
        if wrong:
            raise ValueError(f"start values have the shapes {wrong}; expected a number, or {shape} for this x.")
        if self.gamma is not None or self.beta is not None:
            raise ValueError(f"{self!r}: gamma or beta was set before the first call; use gamma_start and beta_start.")
        new = {name: np.full(shape, start) for name, start in self.starts.items()}
        self.gamma = new["gamma"].astype(dtype) if self.scale else None
        self.beta = new["beta"].astype(dtype) if self.center else None
        self.moving_mean, self.moving_variance = new["moving_mean"], new["moving_variance"]

    def _train(self, x: FloatArray, mask: npt.ArrayLike | None) -> FloatArray:
        assert self.moving_mean is not None
        assert self.moving_variance is not None
        given: dict[str, Any] = {"epsilon": self.epsilon, "axis": self.axis}
        cache: BatchNormCache | FastCache
        if mask is None and self._is_fast(x):
            y, cache = fast_batch_norm_train(x, self.gamma, self.beta, **given)
            backward: Callable[[FloatArray], Gradients] = partial(fast_batch_norm_backward, cache=cache)
        else:
            y, cache = batch_norm_train(x, self.gamma, self.beta, **given, mask=mask)
            backward = partial(batch_norm_backward, cache=cache)
        variance = cache.variance
        if self.variance_kind == "sample":
            variance = variance * (cache.count / max(cache.count - 1, 1))
        seen = int(self.updates)
        momentum = momentum_at(self.momentum, seen, self.bias_corrected)
        moved = update_moving(self.moving_mean, cache.mean, momentum)
        self.moving_variance = update_moving(self.moving_variance, variance, momentum)
        self.moving_mean, self.updates = moved, np.array(seen + 1)
        self._gradients_of_last_call = backward
        return y

    def _infer(self, x: FloatArray) -> FloatArray:
        given: dict[str, Any] = {"moving_mean": self.moving_mean, "moving_variance": self.moving_variance}
        given |= {"epsilon": self.epsilon, "axis": self.axis}
        infer = fast_batch_norm_inference if self._is_fast(x) else batch_norm_inference
        y = infer(x, self.gamma, self.beta, **given)
        self._gradients_of_last_call = partial(batch_norm_inference_backward, x=x, gamma=self.gamma, **given)
        return y

    def _is_fast(self, x: FloatArray) -> bool:
        return self.fast and x.size >= WORTH_THE_BLOCKS and supports(x, self.axis)

    def _backward(self, dy: FloatArray) -> FloatArray:
        assert self._gradients_of_last_call is not None
        dx, dgamma, dbeta = self._gradients_of_last_call(dy)
        gradients = {"gamma": dgamma, "beta": dbeta}
        self.gradients = {name: gradients[name] for name in self._expected_names() & gradients.keys()}
        return dx

    def _expected_names(self) -> set[str]:
        absent = {name for name, has in (("gamma", self.scale), ("beta", self.center)) if not has}
        return super()._expected_names() - absent

    def _check_weights(self, weights: Mapping[str, npt.ArrayLike]) -> None:
        super()._check_weights(weights)
        shapes = {name: np.shape(value) for name, value in weights.items() if name != "updates"}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"{self!r}: the weights have different shapes {shapes}; expected one.")

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(axis={self.axis!r}, momentum={self.momentum}, epsilon={self.epsilon}, "
            f"center={self.center}, scale={self.scale}, moving_variance={self.variance_kind!r}"
            f"{', bias_corrected=True' if self.bias_corrected else ''})"
        )


def _start(value: npt.ArrayLike, name: str) -> npt.NDArray[np.float64]:
    """Return a start value as float64, checked to be finite."""
    array = np.asarray(value)
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise ValueError(f"{name} = {value!r}; expected finite numbers.")
    return array.astype(np.float64)
