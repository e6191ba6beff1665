"""Layers that normalise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from bncourse.nn.axes import Axis, AxisSplit, axis_tuple
from bncourse.nn.batch_norm import (
    Gradients,
    batch_norm_backward,
    batch_norm_inference,
    batch_norm_inference_backward,
    batch_norm_train,
    update_moving,
)
from bncourse.nn.checks import FloatArray, compute_dtype, float_array, fraction, not_negative
from bncourse.nn.layer import Layer

VarianceKind = Literal["population", "sample"]


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

    Attributes
    ----------
    gamma, beta
        Scale and offset; ``None`` before the first call, or if switched off. Of shape (channels,); with several axes
        kept, the lengths of those axes in ascending order. They are float32 for float16 and float32 inputs, float64
        for float64.
    moving_mean, moving_variance
        The moving averages, of the same shape; ``None`` before the first call. They start at 0 and 1.
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
        self.gamma: FloatArray | None = None
        self.beta: FloatArray | None = None
        self.moving_mean: FloatArray | None = None
        self.moving_variance: FloatArray | None = None
        self.updates = np.array(0)
        self._gradients_of_last_call: Callable[[FloatArray], Gradients] | None = None

    def __call__(self, x: npt.ArrayLike, training: bool = True, mask: npt.ArrayLike | None = None) -> FloatArray:
        """Return y for `x`, of the same shape and type.

        Parameters
        ----------
        x
            Array of floats of rank 2 to 5.
        training
            Normalise with the statistics of the batch, and update the moving ones.
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
        axes = AxisSplit.of(x.shape, self.axis)
        if self.moving_mean is not None and self.moving_mean.shape != axes.kept_shape:
            raise ValueError(
                f"x has shape {x.shape}, so {axes.kept_shape} along axis = {self.axis!r}; this layer was built for "
                f"{self.moving_mean.shape}. Use a new layer for other channels."
            )
        if mask is not None:
            axes.expand_mask(mask)
        if self.moving_mean is None:
            self._build(axes.kept_shape, compute_dtype(x))
        y = self._train(x, mask) if training and self.trainable else self._infer(x)
        self._output_shape = y.shape
        return y

    def _build(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.gamma = np.ones(shape, dtype) if self.scale else None
        self.beta = np.zeros(shape, dtype) if self.center else None
        self.moving_mean = np.zeros(shape, dtype)
        self.moving_variance = np.ones(shape, dtype)

    def _train(self, x: FloatArray, mask: npt.ArrayLike | None) -> FloatArray:
        assert self.moving_mean is not None
        assert self.moving_variance is not None
        y, cache = batch_norm_train(x, self.gamma, self.beta, epsilon=self.epsilon, axis=self.axis, mask=mask)
        variance = cache.variance
        if self.variance_kind == "sample":
            variance = variance * (cache.count / max(cache.count - 1, 1))
        seen = int(self.updates)
        momentum = seen / (seen + 1) if self.momentum is None else self.momentum
        self.moving_mean = update_moving(self.moving_mean, cache.mean, momentum)
        self.moving_variance = update_moving(self.moving_variance, variance, momentum)
        self.updates = np.array(seen + 1)
        self._gradients_of_last_call = partial(batch_norm_backward, cache=cache)
        return y

    def _infer(self, x: FloatArray) -> FloatArray:
        given: dict[str, Any] = {"moving_mean": self.moving_mean, "moving_variance": self.moving_variance}
        given |= {"epsilon": self.epsilon, "axis": self.axis}
        y = batch_norm_inference(x, self.gamma, self.beta, **given)
        self._gradients_of_last_call = partial(batch_norm_inference_backward, x=x, gamma=self.gamma, **given)
        return y

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
            f"BatchNorm(axis={self.axis!r}, momentum={self.momentum}, epsilon={self.epsilon}, "
            f"center={self.center}, scale={self.scale}, moving_variance={self.variance_kind!r})"
        )
