r"""Convolution and max pooling of images, as pure functions and as layers.

Images are arrays of shape (batch, height, width, channels), and a *window* of kh × kw places slides over them. What
follows of it is the same for convolution and pooling: where the windows lie (:class:`Windows`), and what a function of
each window's numbers gives. Neither function keeps state; :class:`Conv2D` and :class:`MaxPool` do.

"Convolution" is the field's word for what is, strictly, a cross-correlation: the kernel is not turned round.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from bncourse.nn.checks import FloatArray, IntArray, Seed, compute_dtype, float_array, positive_int, same_shape
from bncourse.nn.layer import Layer
from bncourse.nn.layers import Init, check_init, initial_kernel

Padding: TypeAlias = Literal["valid", "same"]
Pair: TypeAlias = tuple[int, int]


def same_padding(length: int, kernel: int, stride: int) -> Pair:
    """Return how many places 'same' padding adds before and after an axis.

    There shall be ``ceil(length / stride)`` windows. The last one ends at ``(windows - 1) * stride + kernel``; what is
    missing there is shared between the two ends, and of an odd number the *end* gets the greater half, as in
    TensorFlow. (PyTorch's ``padding=1`` adds as much at both ends, and so puts the windows of stride 2 elsewhere.)

    Parameters
    ----------
    length, kernel, stride
        Length of the axis, of the window, and of a step, in places.

    Raises
    ------
    TypeError
        If one of them is not an integer.
    ValueError
        If one of them is smaller than one.

    Examples
    --------
    >>> same_padding(28, 3, 1), same_padding(28, 3, 2), same_padding(28, 2, 2)
    ((1, 1), (0, 1), (0, 0))
    """
    length, kernel = positive_int(length, "length"), positive_int(kernel, "kernel")
    windows = ceil(length / positive_int(stride, "stride"))
    missing = max((windows - 1) * stride + kernel - length, 0)
    return missing // 2, missing - missing // 2


@dataclass(frozen=True)
class Windows:
    """Where the windows lie on a batch of images.

    Attributes
    ----------
    shape
        Shape of the images, (batch, height, width, channels).
    size
        Height and width of a window.
    strides
        Steps between windows, down and across.
    padding
        Places added (before, after) along the height, and along the width.
    """

    shape: tuple[int, int, int, int]
    size: Pair
    strides: Pair
    padding: tuple[Pair, Pair]

    @classmethod
    def of(cls, shape: tuple[int, ...], size: Pair, strides: Pair, padding: Padding) -> Windows:
        """Lay windows on images of `shape`.

        Raises
        ------
        ValueError
            If the shape is not one of images with at least one place and channel, if `padding` is unknown, or if the
            window does not fit into unpadded images.
        """
        batch, height, width, channels = images_shape(shape)
        check_padding(padding)
        if padding == "same":
            pads = same_padding(height, size[0], strides[0]), same_padding(width, size[1], strides[1])
        elif size[0] > height or size[1] > width:
            raise ValueError(
                f"the window {size} does not fit into images of {height} × {width} places (x has shape {shape}); "
                "use a smaller window or padding='same'."
            )
        else:
            pads = (0, 0), (0, 0)
        return cls((batch, height, width, channels), size, strides, pads)

    @property
    def output(self) -> Pair:
        """How many windows there are, down and across."""
        down, across = (
            (length + sum(pads) - size) // stride + 1
            for length, pads, size, stride in zip(self.shape[1:3], self.padding, self.size, self.strides, strict=True)
        )
        return down, across

    def pad(self, x: FloatArray, value: float) -> FloatArray:
        """Return the images with a margin of `value`."""
        if self.padding == ((0, 0), (0, 0)):
            return x
        return np.pad(x, ((0, 0), *self.padding, (0, 0)), constant_values=value)

    def crop(self, padded: FloatArray) -> FloatArray:
        """Return the images without their margin."""
        (top, _), (left, _) = self.padding
        return padded[:, top : top + self.shape[1], left : left + self.shape[2]]

    def empty_padded(self, dtype: npt.DTypeLike) -> FloatArray:
        """Return zeros of the shape of the padded images."""
        batch, height, width, channels = self.shape
        (top, bottom), (left, right) = self.padding
        return np.zeros((batch, top + height + bottom, left + width + right, channels), dtype)

    def columns(self, padded: FloatArray) -> FloatArray:
        """Return the numbers of each window as one row, of shape (batch * windows, kh * kw * channels): im2col."""
        down, across = self.strides
        views = np.lib.stride_tricks.sliding_window_view(padded, self.size, (1, 2))
        views = views[:, ::down, ::across]  # (batch, oh, ow, channels, kh, kw)
        rows = self.shape[0] * self.output[0] * self.output[1]
        return views.transpose(0, 1, 2, 4, 5, 3).reshape(rows, self.size[0] * self.size[1] * self.shape[3])

    def places(self) -> Iterator[tuple[int, tuple[slice, ...]]]:
        """Yield each place of the window, and where the padded images have the numbers that all windows see there.

        Places are numbered row by row. The index takes one number for each window: of shape (batch, oh, ow, channels).
        """
        (down, across), (rows, columns) = self.strides, self.output
        for number in range(self.size[0] * self.size[1]):
            i, j = divmod(number, self.size[1])
            vertical = slice(i, i + down * (rows - 1) + 1, down)
            yield number, (slice(None), vertical, slice(j, j + across * (columns - 1) + 1, across))


@dataclass(frozen=True)
class ConvCache:
    """What the backward pass of a convolution needs of the forward pass.

    Attributes
    ----------
    padded
        The images with their margin. (The rows of windows are built again: they take kh * kw times the memory.)
    kernel
        The kernel that was used, of shape (kh, kw, inputs, filters).
    windows
        Where the windows lie.
    dtype
        Type of x, and so of y and dx.
    """

    padded: FloatArray
    kernel: FloatArray
    windows: Windows
    dtype: np.dtype[Any]


def conv2d(
    x: npt.ArrayLike,
    kernel: FloatArray,
    bias: FloatArray | None = None,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "valid",
) -> tuple[FloatArray, ConvCache]:
    """Slide a kernel over images: one matrix product of all windows and the kernel (im2col).

    Parameters
    ----------
    x
        Images, floats of shape (batch, height, width, inputs).
    kernel
        Of shape (kh, kw, inputs, filters).
    bias
        Of shape (filters,); ``None`` leaves it out.
    strides
        Steps between windows: one for both directions, or (down, across).
    padding
        ``"valid"``: windows within the image only, ``(length - kernel) // stride + 1`` of them. ``"same"``: a margin of
        zeros, so that there are ``ceil(length / stride)``; see :func:`same_padding`.

    Returns
    -------
    y
        Of shape (batch, windows down, windows across, filters) and the type of x.
    cache
        For :func:`conv2d_backward`.

    Raises
    ------
    TypeError
        If x holds no floats, or a stride is not an integer.
    ValueError
        If a shape, a stride or the padding is impossible.
    """
    x = float_array(x, "x")
    inputs = images_shape(x.shape)[3]
    if kernel.ndim != 4 or kernel.shape[2] != inputs or 0 in kernel.shape:
        raise ValueError(
            f"kernel has shape {kernel.shape}; expected (kh, kw, {inputs}, filters), for x has shape {x.shape}."
        )
    filters = kernel.shape[3]
    if bias is not None and bias.shape != (filters,):
        raise ValueError(f"bias has shape {bias.shape}; expected ({filters},), one for each filter.")
    windows = Windows.of(x.shape, (kernel.shape[0], kernel.shape[1]), pair(strides, "strides"), padding)
    padded = windows.pad(x.astype(compute_dtype(x), copy=False), 0.0)
    y = windows.columns(padded) @ kernel.reshape(-1, filters)
    if bias is not None:
        y = y + bias
    y = y.reshape(len(x), *windows.output, filters)
    return y.astype(x.dtype, copy=False), ConvCache(padded, kernel, windows, x.dtype)


def conv2d_backward(dy: npt.ArrayLike, cache: ConvCache) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the gradients of a loss, given `dy`, its gradient with respect to y.

    Forward is ``rows @ kernel``, so ``dkernel = rows.T @ dy`` and ``drows = dy @ kernel.T``. A number of the image
    stands in several rows; its gradient is the sum over them (col2im).

    Parameters
    ----------
    dy
        Of the shape of y.
    cache
        From :func:`conv2d`.

    Returns
    -------
    dx, dkernel, dbias
        `dx` has the shape and type of x, `dkernel` those of the kernel, `dbias` the shape (filters,).

    Raises
    ------
    TypeError
        If dy holds no floats.
    ValueError
        If dy has another shape than y.
    """
    windows, kernel = cache.windows, cache.kernel
    inputs, filters = kernel.shape[2:]
    shape = windows.shape[0], *windows.output, filters
    dy = same_shape(float_array(dy, "dy"), shape, "dy", "y").astype(kernel.dtype, copy=False)
    drows = dy.reshape(dy.size // filters, filters)
    dkernel = (windows.columns(cache.padded).T @ drows).reshape(kernel.shape).astype(kernel.dtype, copy=False)
    dpadded = windows.empty_padded(kernel.dtype)
    weights = kernel.reshape(-1, inputs, filters)
    for place, where in windows.places():
        dpadded[where] += (drows @ weights[place].T).reshape(*shape[:3], inputs)
    return windows.crop(dpadded).astype(cache.dtype, copy=False), dkernel, drows.sum(axis=0)


@dataclass(frozen=True)
class PoolCache:
    """What the backward pass of max pooling needs of the forward pass.

    Attributes
    ----------
    winner
        For each number of y, which place of its window it came from; places are numbered row by row.
    windows
        Where the windows lie.
    dtype
        Type of x, and so of y and dx.
    """

    winner: IntArray
    windows: Windows
    dtype: np.dtype[Any]


def max_pool(
    x: npt.ArrayLike,
    size: int | Sequence[int] = 2,
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "valid",
) -> tuple[FloatArray, PoolCache]:
    """Return the greatest number of each window, channel by channel.

    Parameters
    ----------
    x
        Images, floats of shape (batch, height, width, channels).
    size
        Height and width of the window; an int stands for both.
    strides
        Steps between windows; ``None``: the size, so that windows touch and do not overlap.
    padding
        As in :func:`conv2d`, but the margin of ``"same"`` never wins.

    Returns
    -------
    y
        Of shape (batch, windows down, windows across, channels) and the type of x.
    cache
        For :func:`max_pool_backward`.

    Raises
    ------
    TypeError
        If x holds no floats, or the size or a stride is not made of integers.
    ValueError
        If a shape, the size, a stride or the padding is impossible.
    """
    x = float_array(x, "x")
    size = pair(size, "size")
    windows = Windows.of(x.shape, size, size if strides is None else pair(strides, "strides"), padding)
    padded = windows.pad(x, -np.inf)
    shape = len(x), *windows.output, x.shape[3]
    y, winner = np.full(shape, -np.inf, x.dtype), np.zeros(shape, np.intp)
    for place, where in windows.places():
        candidate = padded[where]
        winner[candidate > y] = place  # strictly: of equal numbers the first one wins
        y = np.maximum(y, candidate)
    return y, PoolCache(winner, windows, x.dtype)


def max_pool_backward(dy: npt.ArrayLike, cache: PoolCache) -> FloatArray:
    """Return the gradient with respect to x, given `dy`, that with respect to y: each goes to its window's winner.

    Of several equal maxima the first, row by row, gets all of it, as in TensorFlow.

    Parameters
    ----------
    dy
        Of the shape of y.
    cache
        From :func:`max_pool`.

    Raises
    ------
    TypeError
        If dy holds no floats.
    ValueError
        If dy has another shape than y.
    """
    dy = same_shape(float_array(dy, "dy"), cache.winner.shape, "dy", "y")
    dy = dy.astype(compute_dtype(dy), copy=False)
    dpadded = cache.windows.empty_padded(dy.dtype)
    for place, where in cache.windows.places():
        dpadded[where] += dy * (cache.winner == place)
    return cache.windows.crop(dpadded).astype(cache.dtype, copy=False)


class Conv2D(Layer):
    """Convolution of images, channels last, with the semantics of Keras.

    Parameters
    ----------
    filters
        Number of kernels, and so of output channels.
    kernel_size
        Height and width of the kernel; an int stands for both.
    strides
        Steps between windows, down and across; an int stands for both.
    padding
        ``"valid"`` or ``"same"``; see :func:`conv2d`.
    use_bias
        Whether to have a bias. In front of Batch Normalization it does nothing.
    init
        As for :class:`bncourse.nn.Dense`. An output has kh * kw * channels inputs, and ``"glorot"`` counts
        kh * kw * filters outputs of an input.
    seed
        Seed of the draw, an int or a sequence of ints; give each layer its own.

    Attributes
    ----------
    kernel, bias
        Of shapes (kh, kw, channels, filters) and (filters,); ``None`` before the first call. They are float32 for
        float16 and float32 inputs, float64 for float64.

    Raises
    ------
    TypeError
        If a number is not an integer.
    ValueError
        If a number is smaller than one, or `padding` or `init` is unknown.

    Examples
    --------
    >>> Conv2D(16, 3, strides=2, padding="same", seed=0)(np.ones((5, 28, 28, 1), np.float32)).shape
    (5, 14, 14, 16)
    """

    _parameter_names: ClassVar = ("kernel", "bias")

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        use_bias: bool = True,
        *,
        init: Init = "glorot",
        seed: Seed = None,
    ) -> None:
        super().__init__()
        self.filters = positive_int(filters, "filters")
        self.kernel_size = pair(kernel_size, "kernel_size")
        self.strides = pair(strides, "strides")
        self.padding = check_padding(padding)
        self.use_bias = use_bias
        self.init = check_init(init)
        self.seed = seed
        self.kernel: FloatArray | None = None
        self.bias: FloatArray | None = None
        self._cache: ConvCache | None = None

    def _forward(self, x: FloatArray, _training: bool) -> FloatArray:
        inputs = images_shape(x.shape)[3]
        kernel, bias = self._start(inputs, compute_dtype(x)) if self.kernel is None else (self.kernel, self.bias)
        if kernel.shape[2] != inputs:
            raise ValueError(
                f"x has shape {x.shape}, so {inputs} channels; this layer was built for {kernel.shape[2]}."
            )
        y, cache = conv2d(x, kernel, bias, strides=self.strides, padding=self.padding)
        self.kernel, self.bias, self._cache = kernel, bias, cache
        return y

    def _start(self, inputs: int, dtype: npt.DTypeLike) -> tuple[FloatArray, FloatArray | None]:
        kernel = initial_kernel((*self.kernel_size, inputs, self.filters), self.init, self.seed).astype(dtype)
        return kernel, np.zeros(self.filters, dtype) if self.use_bias else None

    def _backward(self, dy: FloatArray) -> FloatArray:
        assert self._cache is not None
        dx, dkernel, dbias = conv2d_backward(dy, self._cache)
        self.gradients = {"kernel": dkernel, "bias": dbias} if self.use_bias else {"kernel": dkernel}
        return dx

    def _expected_names(self) -> set[str]:
        return {"kernel", "bias"} if self.use_bias else {"kernel"}

    def _check_weights(self, weights: Mapping[str, npt.ArrayLike]) -> None:
        super()._check_weights(weights)
        shape, (height, width) = np.shape(weights["kernel"]), self.kernel_size
        if len(shape) != 4 or shape[:2] != self.kernel_size or shape[3] != self.filters:
            raise ValueError(
                f"{self!r}: kernel has shape {shape}; expected ({height}, {width}, channels, {self.filters})."
            )
        if self.use_bias and np.shape(weights["bias"]) != (self.filters,):
            raise ValueError(f"{self!r}: bias has shape {np.shape(weights['bias'])}; expected ({self.filters},).")

    def __repr__(self) -> str:
        return (
            f"Conv2D({self.filters}, {self.kernel_size}, strides={self.strides}, padding={self.padding!r}, "
            f"use_bias={self.use_bias}, init={self.init!r}, seed={self.seed})"
        )


class MaxPool(Layer):
    """The greatest number of each window, channel by channel; the gradient goes to the first maximum.

    Parameters
    ----------
    pool_size
        Height and width of the window; an int stands for both.
    strides
        Steps between windows; ``None``: the size of the window.
    padding
        ``"valid"`` or ``"same"``; see :func:`max_pool`.

    Raises
    ------
    TypeError
        If a number is not an integer.
    ValueError
        If a number is smaller than one, or `padding` is unknown.
    """

    def __init__(
        self,
        pool_size: int | Sequence[int] = 2,
        strides: int | Sequence[int] | None = None,
        padding: Padding = "valid",
    ) -> None:
        super().__init__()
        self.pool_size = pair(pool_size, "pool_size")
        self.strides = self.pool_size if strides is None else pair(strides, "strides")
        self.padding = check_padding(padding)
        self._cache: PoolCache | None = None

    def _forward(self, x: FloatArray, _training: bool) -> FloatArray:
        y, self._cache = max_pool(x, self.pool_size, strides=self.strides, padding=self.padding)
        return y

    def _backward(self, dy: FloatArray) -> FloatArray:
        assert self._cache is not None
        return max_pool_backward(dy, self._cache)

    def __repr__(self) -> str:
        return f"MaxPool({self.pool_size}, strides={self.strides}, padding={self.padding!r})"


def pair(value: int | Sequence[int], name: str) -> Pair:
    """Return `value` as (down, across); an int stands for both.

    Raises
    ------
    TypeError
        If it is neither an integer nor a pair of integers.
    ValueError
        If it does not have two entries, or one of them is smaller than one.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        return positive_int(value, name), int(value)
    if len(value) != 2:
        raise ValueError(f"{name} = {value!r}; expected an integer or a pair (down, across).")
    return positive_int(value[0], name), positive_int(value[1], name)


def check_padding(padding: Padding) -> Padding:
    """Return `padding` if it is known.

    Raises
    ------
    ValueError
        If it is not.
    """
    if padding not in ("valid", "same"):
        raise ValueError(f"padding = {padding!r}; expected 'valid' or 'same'.")
    return padding


def images_shape(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return `shape` if it is that of images: (batch, height, width, channels).

    Raises
    ------
    ValueError
        If it has another rank, or no place or no channel.
    """
    if len(shape) != 4 or 0 in shape[1:]:
        raise ValueError(
            f"x has shape {shape}; expected images (batch, height, width, channels) with at least one place and one "
            "channel. For a single image or a single channel, add an axis of length 1."
        )
    return shape[0], shape[1], shape[2], shape[3]
