r"""Normalization within each sample: layer, group and instance normalization, forward and backward.

All three take the mean and the variance over some axes of one sample and are the same but for these axes::

    x_hat = (x - mean) / sqrt(variance + epsilon)
    y     = gamma * x_hat + beta

No sample depends on another, so there are no moving statistics, and training and inference do the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bncourse.nn.axes import Axis, AxisSplit, axis_tuple
from bncourse.nn.batch_norm import Gradients
from bncourse.nn.checks import FloatArray, compute_dtype, float_array, not_negative, positive_int, same_shape
from bncourse.nn.layer import Layer


@dataclass(frozen=True)
class SampleNormLayout:
    """Which numbers of x share a mean and a variance, and which share gamma and beta.

    Attributes
    ----------
    axes
        The axes of x; those kept are the axes of gamma and beta.
    split_shape
        The shape of x, but with the channel axis split into (groups, channels of a group) if there are groups.
    averaged
        The axes of `split_shape` that are averaged over.
    """

    axes: AxisSplit
    split_shape: tuple[int, ...]
    averaged: tuple[int, ...]

    @classmethod
    def layer(cls, shape: tuple[int, ...], axis: Axis) -> SampleNormLayout:
        """Average over `axis`; gamma and beta have these axes, too.

        Raises
        ------
        TypeError
            If `axis` is not made of ints.
        ValueError
            If the rank is not 2 to 5, if `axis` is impossible or holds the batch axis, or if each mean would be
            formed from one number.
        """
        axes = _within_samples(shape, axis)
        return cls(axes, shape, axes.kept)._checked(
            f"axis = {axis!r}", "average over more axes, or leave the layer out"
        )

    @classmethod
    def group(cls, shape: tuple[int, ...], groups: int, axis: int) -> SampleNormLayout:
        """Average over `groups` groups of neighbouring channels and over all positions; `axis` is the channels'.

        Raises
        ------
        TypeError
            If `axis` or `groups` is no int.
        ValueError
            If the rank is not 2 to 5, if `axis` is impossible or the batch axis, if the channels cannot be divided
            into `groups`, or if each mean would be formed from one number.
        """
        axes = _within_samples(shape, _channel_axis(axis))
        (place,) = axes.kept
        channels = shape[place]
        count = channels if _group_count(groups) == -1 else groups
        if channels % count:
            divisors = [n for n in range(1, channels + 1) if channels % n == 0]
            raise ValueError(
                f"groups = {groups} does not divide the {channels} channels of x (shape {shape}, axis = {axis}); "
                f"choose one of {divisors}."
            )
        split_shape = (*shape[:place], count, channels // count, *shape[place + 1 :])
        averaged = tuple(a for a in range(1, len(split_shape)) if a != place)
        return cls(axes, split_shape, averaged)._checked(f"groups = {groups}", "choose fewer groups")

    @property
    def count(self) -> int:
        """How many numbers each mean is formed from: `n`."""
        return prod(self.split_shape[a] for a in self.averaged)

    def _checked(self, choice: str, remedy: str) -> SampleNormLayout:
        if self.count == 1:
            raise ValueError(
                f"{choice} leaves one number to each mean of x (shape {self.axes.shape}), so y would be beta "
                f"whatever x holds; {remedy}."
            )
        return self


@dataclass(frozen=True)
class SampleNormCache:
    """What the backward pass needs of the forward pass.

    Attributes
    ----------
    x_hat
        The normalised input, before gamma and beta, of the shape of x.
    inverse_std
        ``1 / sqrt(variance + epsilon)``; broadcasts over x in the shape ``layout.split_shape``.
    gamma
        The scale that was used, expanded to the rank of x; ``None`` means 1.
    layout
        What was averaged over.
    dtype
        Type of x, and so of y and dx.
    """

    x_hat: FloatArray
    inverse_std: FloatArray
    gamma: FloatArray | None
    layout: SampleNormLayout
    dtype: np.dtype[Any]


def layer_norm(
    x: npt.ArrayLike, gamma: FloatArray | None, beta: FloatArray | None, *, epsilon: float, axis: Axis
) -> tuple[FloatArray, SampleNormCache]:
    """Normalise each sample over `axis` (Ba, Kiros and Hinton 2016, *Layer Normalization*).

    Parameters
    ----------
    x
        Array of floats of rank 2 to 5, the batch axis first.
    gamma, beta
        Scale and offset, of the shape of the axes averaged over in ascending order; ``None`` leaves them out.
    epsilon
        Added to the variance, in the units of x squared.
    axis
        The axes to average over: all that are not named are treated one by one. (In Batch Normalization, `axis`
        names the axes that are *not* averaged over.)

    Returns
    -------
    y
        Of the shape and type of x.
    cache
        For :func:`sample_norm_backward`.

    Raises
    ------
    TypeError
        If x holds no floats or `axis` is not made of ints.
    ValueError
        If a shape, an axis or epsilon is impossible, or if each mean would be formed from one number.
    """
    x = float_array(x, "x")
    return _sample_norm(x, gamma, beta, epsilon, SampleNormLayout.layer(x.shape, axis))


def group_norm(
    x: npt.ArrayLike,
    gamma: FloatArray | None,
    beta: FloatArray | None,
    *,
    groups: int,
    epsilon: float,
    axis: int = -1,
) -> tuple[FloatArray, SampleNormCache]:
    """Normalise each sample over groups of neighbouring channels and all positions (Wu and He 2018).

    Parameters
    ----------
    x
        Array of floats of rank 2 to 5, the batch axis first.
    gamma, beta
        Scale and offset, of shape (channels,); ``None`` leaves them out.
    groups
        Number of groups, a divisor of the number of channels; -1 puts every channel into a group of its own.
    epsilon
        Added to the variance, in the units of x squared.
    axis
        The axis of the channels.

    Returns
    -------
    y
        Of the shape and type of x.
    cache
        For :func:`sample_norm_backward`.

    Raises
    ------
    TypeError
        If x holds no floats, or `groups` or `axis` is no int.
    ValueError
        If a shape, `groups`, `axis` or epsilon is impossible, or if each mean would be formed from one number.
    """
    x = float_array(x, "x")
    return _sample_norm(x, gamma, beta, epsilon, SampleNormLayout.group(x.shape, groups, axis))


def instance_norm(
    x: npt.ArrayLike, gamma: FloatArray | None, beta: FloatArray | None, *, epsilon: float, axis: int = -1
) -> tuple[FloatArray, SampleNormCache]:
    """Normalise each channel of each sample over its positions (Ulyanov, Vedaldi and Lempitsky 2016).

    It is :func:`group_norm` with one channel in a group; parameters, result and errors are the same, but x needs
    at least rank 3: without positions there is nothing to average over.
    """
    x = float_array(x, "x")
    _with_positions(x)
    return group_norm(x, gamma, beta, groups=-1, epsilon=epsilon, axis=axis)


def sample_norm_backward(dy: npt.ArrayLike, cache: SampleNormCache) -> Gradients:
    """Return the gradients of a loss, given `dy`, its gradient with respect to y: for all three functions.

    ``dx = (dx_hat - mean(dx_hat) - x_hat mean(dx_hat x_hat)) / sigma`` with ``dx_hat = gamma dy`` and
    ``sigma = sqrt(variance + epsilon)``. The means go over the numbers that share a mean in the forward pass. Unlike
    in Batch Normalization gamma differs within them, so it cannot be taken out of the bracket.

    Parameters
    ----------
    dy
        Of the shape of y.
    cache
        From the forward pass.

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
    axes, split_shape = cache.layout.axes, cache.layout.split_shape
    dy = same_shape(float_array(dy, "dy"), axes.shape, "dy", "y").astype(cache.x_hat.dtype, copy=False)
    dgamma, dbeta = (
        np.sum(terms, axis=axes.reduced, dtype=np.float64).astype(dy.dtype) for terms in (dy * cache.x_hat, dy)
    )
    dx_hat = (dy if cache.gamma is None else dy * cache.gamma).reshape(split_shape)
    x_hat = cache.x_hat.reshape(split_shape)

    shared = _mean(dx_hat, cache.layout) + x_hat * _mean(dx_hat * x_hat, cache.layout)
    dx = ((dx_hat - shared) * cache.inverse_std).reshape(axes.shape)
    return dx.astype(cache.dtype, copy=False), dgamma, dbeta


class _SampleNorm(Layer):
    """What the three layers have in common: gamma, beta and their checks."""

    _parameter_names: ClassVar = ("gamma", "beta")

    def __init__(self, epsilon: float, center: bool, scale: bool) -> None:
        super().__init__()
        self.epsilon = not_negative(epsilon, "epsilon")
        self.center = center
        self.scale = scale
        self.gamma: FloatArray | None = None
        self.beta: FloatArray | None = None
        self._cache: SampleNormCache | None = None

    def _layout(self, x: FloatArray) -> SampleNormLayout:
        raise NotImplementedError

    def _forward(self, x: FloatArray, training: bool) -> FloatArray:  # noqa: ARG002
        layout = self._layout(x)
        gamma, beta = self._built(layout.axes, compute_dtype(x))
        y, cache = _sample_norm(x, gamma, beta, self.epsilon, layout)
        self.gamma, self.beta, self._cache = gamma, beta, cache
        return y

    def _built(self, axes: AxisSplit, dtype: npt.DTypeLike) -> tuple[FloatArray | None, FloatArray | None]:
        """Return gamma and beta: the layer's own, or at the first call their start values."""
        shape = axes.kept_shape
        built = next((array.shape for array in (self.gamma, self.beta) if array is not None), None)
        if built is not None:
            if built != shape:
                raise ValueError(
                    f"x has shape {axes.shape}, so gamma and beta have shape {shape}; this layer was built for "
                    f"{built}. Use a new layer for other channels."
                )
            return self.gamma, self.beta
        return (np.ones(shape, dtype) if self.scale else None), (np.zeros(shape, dtype) if self.center else None)

    def _backward(self, dy: FloatArray) -> FloatArray:
        assert self._cache is not None
        dx, dgamma, dbeta = sample_norm_backward(dy, self._cache)
        gradients = {"gamma": dgamma, "beta": dbeta}
        self.gradients = {name: gradients[name] for name in self._expected_names()}
        return dx

    def _expected_names(self) -> set[str]:
        return {name for name, has in (("gamma", self.scale), ("beta", self.center)) if has}

    def _check_weights(self, weights: Mapping[str, npt.ArrayLike]) -> None:
        super()._check_weights(weights)
        shapes = {name: np.shape(value) for name, value in weights.items()}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"{self!r}: the weights have different shapes {shapes}; expected one.")

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self._choice()}, epsilon={self.epsilon}, center={self.center}, scale={self.scale})"
        )

    def _choice(self) -> str:
        raise NotImplementedError


class LayerNorm(_SampleNorm):
    r"""Layer Normalization (Ba, Kiros and Hinton 2016), with the semantics of Keras 3.

    Each sample is normalised with the mean and the variance of its own numbers:
    :math:`y = \gamma (x - \mu) / \sqrt{v + \epsilon} + \beta`. Training and inference mode do the same.

    Parameters
    ----------
    axis
        The axis or axes to average over, in each sample. For features -1; for images NHWC, -1 treats every position
        by itself, and (1, 2, 3) takes the whole image. (The `axis` of `BatchNorm` is *not* averaged over.)
    epsilon
        Added to the variance, in the units of x squared; zero or greater. (With zero, constant samples have no
        defined output.)
    center, scale
        Whether to have `beta` and `gamma`.

    Attributes
    ----------
    gamma, beta
        Scale and offset, of the shape of the axes averaged over in ascending order; ``None`` before the first call,
        or if switched off. They are float32 for float16 and float32 inputs, float64 for float64.
    gradients
        After `backward`: ``"gamma"`` and ``"beta"``, if the layer has them.

    Raises
    ------
    TypeError
        If `axis` is not made of ints.
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> y = LayerNorm(epsilon=0.0)(np.array([[1.0, 3.0], [10.0, 50.0]]))
    >>> y.tolist()
    [[-1.0, 1.0], [-1.0, 1.0]]
    """

    def __init__(self, axis: Axis = -1, epsilon: float = 1e-3, center: bool = True, scale: bool = True) -> None:
        super().__init__(epsilon, center, scale)
        _averaged_axes(axis)
        self.axis = axis

    def _layout(self, x: FloatArray) -> SampleNormLayout:
        return SampleNormLayout.layer(x.shape, self.axis)

    def _choice(self) -> str:
        return f"axis={self.axis!r}"


class GroupNorm(_SampleNorm):
    r"""Group Normalization (Wu and He 2018), with the semantics of Keras 3.

    The channels are divided into groups of neighbours. In each sample, each group is normalised with the mean and the
    variance of its channels at all positions. Training and inference mode do the same.

    Parameters
    ----------
    groups
        Number of groups, a divisor of the number of channels. 1 takes all channels together; -1 gives every channel
        a group of its own, which is :class:`InstanceNorm`.
    axis
        The axis of the channels: -1 for images NHWC, 1 for images NCHW.
    epsilon, center, scale
        As in :class:`LayerNorm`.

    Attributes
    ----------
    gamma, beta
        Scale and offset, of shape (channels,); ``None`` before the first call, or if switched off. They are float32
        for float16 and float32 inputs, float64 for float64.
    gradients
        After `backward`: ``"gamma"`` and ``"beta"``, if the layer has them.

    Raises
    ------
    TypeError
        If `groups` or `axis` is no int.
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> y = GroupNorm(2, epsilon=0.0)(np.array([[1.0, 3.0, 10.0, 50.0]]))
    >>> y.tolist()
    [[-1.0, 1.0, -1.0, 1.0]]
    """

    def __init__(
        self, groups: int, axis: int = -1, epsilon: float = 1e-3, center: bool = True, scale: bool = True
    ) -> None:
        super().__init__(epsilon, center, scale)
        self.groups = _group_count(groups)
        self.axis = _channel_axis(axis)

    def _layout(self, x: FloatArray) -> SampleNormLayout:
        return SampleNormLayout.group(x.shape, self.groups, self.axis)

    def _choice(self) -> str:
        return f"groups={self.groups}, axis={self.axis}"


class InstanceNorm(GroupNorm):
    r"""Instance Normalization (Ulyanov, Vedaldi and Lempitsky 2016): each channel of each sample by itself.

    It is ``GroupNorm(groups=-1)`` for inputs of rank 3 to 5.

    Parameters
    ----------
    axis, epsilon, center, scale
        As in :class:`GroupNorm`, and so are the attributes and errors.

    Examples
    --------
    >>> y = InstanceNorm(epsilon=0.0)(np.array([[[1.0, 10.0], [3.0, 50.0]]]))
    >>> y.tolist()
    [[[-1.0, -1.0], [1.0, 1.0]]]
    """

    def __init__(self, axis: int = -1, epsilon: float = 1e-3, center: bool = True, scale: bool = True) -> None:
        super().__init__(-1, axis, epsilon, center, scale)

    def _layout(self, x: FloatArray) -> SampleNormLayout:
        _with_positions(x)
        return super()._layout(x)

    def _choice(self) -> str:
        return f"axis={self.axis}"


def _sample_norm(
    x: FloatArray, gamma: FloatArray | None, beta: FloatArray | None, epsilon: float, layout: SampleNormLayout
) -> tuple[FloatArray, SampleNormCache]:
    """Return y and the cache: the mathematics that the three share."""
    epsilon = not_negative(epsilon, "epsilon")
    gamma, beta = (_expanded(array, name, x, layout.axes) for array, name in ((gamma, "gamma"), (beta, "beta")))

    centred = _centre(x.astype(compute_dtype(x), copy=False).reshape(layout.split_shape), layout)
    variance = _mean(np.square(centred), layout)
    inverse_std = 1 / np.sqrt(variance + epsilon)
    x_hat = (centred * inverse_std).reshape(x.shape)

    y = x_hat if gamma is None else x_hat * gamma
    y = y if beta is None else y + beta
    # A copy where y would be x_hat itself: who changes y must not change the cache.
    return y.astype(x.dtype, copy=y is x_hat), SampleNormCache(x_hat, inverse_std, gamma, layout, x.dtype)


def _centre(x: FloatArray, layout: SampleNormLayout) -> FloatArray:
    """Return x minus its mean."""
    centred = x - _mean(x, layout)
    # The rounded mean may be off by as much as the data spread (offset 1e4, spread 1e-2, float32). What it is off by
    # is the mean of the differences, and they are small enough to give it exactly.
    centred -= _mean(centred, layout)
    return centred


def _mean(values: FloatArray, layout: SampleNormLayout) -> FloatArray:
    # NumPy adds along an axis that is not the last one number after the other. In float32 the rounding errors of
    # 16,384 positions then reach 1e-4 in y (offset and spread as above), so the sums are formed in float64.
    mean: FloatArray = np.mean(values, axis=layout.averaged, keepdims=True, dtype=np.float64)
    return mean.astype(values.dtype)


def _expanded(parameter: FloatArray | None, name: str, x: FloatArray, axes: AxisSplit) -> FloatArray | None:
    """Return the parameter, checked, expanded to the rank of x and in the type to calculate in."""
    if parameter is None:
        return None
    checked = same_shape(float_array(parameter, name), axes.kept_shape, name, "x along the axes of gamma and beta")
    return axes.expand(checked.astype(compute_dtype(x), copy=False))


def _within_samples(shape: tuple[int, ...], axis: Axis) -> AxisSplit:
    """Split the axes into those of gamma and beta and the others; the batch axis must be among the others."""
    if len(shape) > 1 and any(a in (0, -len(shape)) for a in _averaged_axes(axis)):
        raise ValueError(
            f"axis = {axis!r} names the batch axis of x (shape {shape}), but each sample is treated by itself; "
            "name other axes, or use BatchNorm to average over the batch."
        )
    return AxisSplit.of(shape, axis)


def _averaged_axes(axis: Axis) -> tuple[int, ...]:
    if np.ndim(axis) == 1 and not np.size(axis):
        raise ValueError(f"axis = {axis!r} is empty; name at least one axis to average over.")
    return axis_tuple(axis)


def _channel_axis(axis: int) -> int:
    if isinstance(axis, bool) or not isinstance(axis, int | np.integer):
        raise TypeError(f"axis = {axis!r}; expected one int, the axis of the channels.")
    return int(axis)


def _group_count(groups: int) -> int:
    if not isinstance(groups, int | np.integer) or isinstance(groups, bool) or groups != -1:
        try:
            return positive_int(groups, "groups")
        except ValueError as error:
            raise ValueError(f"{error} (Or -1: every channel is a group of its own.)") from None
    return -1


def _with_positions(x: FloatArray) -> None:
    if x.ndim == 2:
        raise ValueError(
            f"x has rank 2 (shape {x.shape}); instance normalization averages over positions and needs rank 3 to 5. "
            "For features use LayerNorm or GroupNorm."
        )
