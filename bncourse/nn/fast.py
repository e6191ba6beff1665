r"""Batch Normalization at the speed of memory: the plain functions of ``bncourse.nn.batch_norm`` again, in blocks.

The plain functions make half a dozen arrays of the size of x, and each of them travels through memory. Here the data
are worked on in blocks that stay in the processor's cache, twice: once for the sums, once for the result. Three more
things make it fast; the book's chapter on exactness and speed measures each.

- *Long inner loops.* Channels last, a parameter is repeated until it is a couple of thousand numbers long; then NumPy's
  innermost loop runs that far, and not just over the channels.
- *Sums as products.* A sum over rows is a product with a row of ones, which BLAS does several times faster than
  ``np.sum``. Each product is kept so small that BLAS takes no second thread for it: on busy processors its threads
  wait for each other for milliseconds. Sums of products come from ``np.einsum``, which stores no products (channels
  last), or from ``np.vecdot``.
- *One pass for mean and variance.* The sum and the sum of squares are enough, but only where the mean is not large
  beside the standard deviation: their difference cancels. Data that need it are shifted by a rough mean first (Chan,
  Golub and LeVeque 1983, "Algorithms for Computing the Sample Variance"), and the result is checked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from itertools import pairwise
from math import prod
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bncourse.nn.axes import Axis, AxisSplit, axis_tuple
from bncourse.nn.batch_norm import Gradients
from bncourse.nn.checks import FloatArray, float_array, not_negative, same_shape

#: Numbers in a block, about, at most: four megabytes in float32.
BLOCK = 1_048_576
#: Numbers in one product with ones at most; OpenBLAS shares out products of more than 9,216 among threads. A sum of
#: squares, or of products of two arrays, is taken in float32 over so many times as many at most.
PRODUCT, MOST_PRODUCTS = 8_192, 32
#: Numbers in one of NumPy's innermost loops, about, and in one row of a product.
LOOP, ROW = 2_048, 32
#: More channels than this, or shorter rows of one channel, are left to the plain functions.
MOST_CHANNELS, SHORTEST_ROW = 4_096, 32
#: Threads that work at once, at most; more of them would only wait for the memory.
MOST_THREADS = 4
THREADS = min(MOST_THREADS, os.cpu_count() or 1)
#: Bytes that a processor's cache fetches together.
CACHE_LINE = 64
#: Rows looked at to choose a shift, at most; with channels first, a grid of as many places or more.
SAMPLE = 32
#: Largest square of a mean, in variances, that needs no shift; the sums then lose some three bits.
NEAR = 4.0

Sums: TypeAlias = npt.NDArray[np.float64]


class _ChannelsLast:
    """x of shape (rows, channels): the channels take turns in memory."""

    def __init__(self, axes: AxisSplit, rows: int, channels: int, dtype: npt.DTypeLike) -> None:
        self.axes = axes
        self.channels, self.count, self.size = channels, rows, rows * channels
        self.row = channels * max(1, ROW // channels)
        # Powers of two, so that a product is made of whole loops, and a block of whole products.
        self.ones = np.ones((1, _power_of_two(PRODUCT // self.row)), dtype)
        self.loop = self.row * min(self.ones.size, _power_of_two(LOOP // self.row))
        self.product = self.row * self.ones.size
        whole = self.size // self.product
        ends = [end * self.product for end in _ends(whole, whole * self.product)]
        self.blocks = [(slice(start, end), self.loop) for start, end in pairwise([0, *ends])]
        if whole * self.product < self.size:
            self.blocks.append((slice(whole * self.product, None), channels))

    def cut(self, x: FloatArray) -> list[FloatArray]:
        """Return the blocks of x; what is left over after the last whole product is one by itself."""
        flat = x.reshape(-1)
        return [flat[numbers].reshape(-1, row) for numbers, row in self.blocks]

    def spread(self, parameters: Sequence[Sums], blocks: list[FloatArray]) -> list[FloatArray]:
        """Return the parameters once for each block, stacked, each in a form that broadcasts with the block."""
        repeats = blocks[0].shape[1] // self.channels
        long = np.empty((len(parameters), repeats, self.channels), blocks[0].dtype)
        for copies, parameter in zip(long, parameters, strict=True):
            copies[:] = parameter
        rows = long.reshape(len(parameters), -1)
        return [rows if block.shape[1] == rows.shape[1] else rows[:, : block.shape[1]] for block in blocks]

    def sample(self, x: FloatArray) -> FloatArray:
        """Return some rows of x."""
        rows = x.reshape(-1, self.channels)
        return rows[:: -(-len(rows) // SAMPLE)]

    def sums(self, some: FloatArray, others: FloatArray, wide: bool) -> tuple[FloatArray, FloatArray]:
        """Return two sums over a block for every channel, in parts: of `some`, and of its products with `others`.

        `wide` leaves all adding up to :meth:`total`, in float64.
        """
        if wide or some.shape[1] < self.loop or some.size % self.product > 0:  # the last two: what is left over
            return some.reshape(-1, self.channels), (some * others).reshape(-1, self.channels)
        products = np.matmul(self.ones, some.reshape(-1, self.ones.size, self.row))
        shape = (-1, _divisor(some.size // self.loop, MOST_PRODUCTS * self.product // self.loop), self.loop)
        dots = np.einsum("prc,prc->pc", some.reshape(shape), others.reshape(shape))  # the products are never stored
        return products.reshape(-1, self.channels), dots.reshape(-1, self.channels)

    def total(self, results: Sequence[tuple[FloatArray, FloatArray]]) -> Sums:
        """Return the two sums for every channel, over all blocks."""
        total = np.empty((2, self.channels))
        for row, parts in zip(total, zip(*results, strict=True), strict=True):
            np.einsum("rc->c", np.concatenate(parts, dtype=np.float64), out=row)
        return total


class _ChannelsFirst:
    """x of shape (outer, channels, inner), seen as rows of `inner` numbers, each of one channel."""

    def __init__(self, axes: AxisSplit, outer: int, channels: int, inner: int, dtype: npt.DTypeLike) -> None:
        self.axes = axes
        self.outer, self.channels, self.count, self.size = outer, channels, outer * inner, outer * channels * inner
        self.loop = inner
        self.ones = np.ones(inner, dtype)
        self.blocks = [slice(start, end) for start, end in pairwise([0, *_ends(outer * channels, self.size)])]

    def cut(self, x: FloatArray) -> list[FloatArray]:
        """Return the blocks of x."""
        rows = x.reshape(-1, self.loop)
        return [rows[block] for block in self.blocks]

    def spread(self, parameters: Sequence[Sums], blocks: list[FloatArray]) -> list[FloatArray]:
        """Return the parameters once for each block, stacked, each in a form that broadcasts with the block."""
        columns = np.tile(np.array(parameters, blocks[0].dtype), self.outer)[..., None]
        return [columns[:, block] for block in self.blocks]

    def sample(self, x: FloatArray) -> FloatArray:
        """Return some rows of x, a channel a column."""
        cube = x.reshape(self.outer, self.channels, self.loop)
        some = cube[:: -(-self.outer // 8), :, :: -(-self.loop // 8)]
        return some.swapaxes(1, 2).reshape(-1, self.channels)

    def sums(self, some: FloatArray, others: FloatArray, wide: bool) -> tuple[FloatArray, FloatArray]:
        """Return two sums over every row of a block: of `some`, and of its products with `others`.

        `wide` adds up in float64.
        """
        if wide:
            return some.sum(axis=1, dtype=np.float64), (some * others).sum(axis=1, dtype=np.float64)
        return _dots_of_rows(some, self.ones), _dots_of_rows(some, others)

    def total(self, results: Sequence[tuple[FloatArray, FloatArray]]) -> Sums:
        """Return the two sums for every channel, over all blocks."""
        rows = np.array([np.concatenate(parts) for parts in zip(*results, strict=True)], np.float64)
        total: Sums = rows.reshape(2, self.outer, self.channels).sum(axis=1)
        return total


_Layout: TypeAlias = _ChannelsLast | _ChannelsFirst


@dataclass(slots=True)
class FastCache:
    """What the backward pass needs of the forward pass in training mode.

    It holds x itself, not a copy: x must not be changed before the backward pass.

    Attributes
    ----------
    mean, variance
        Statistics of the batch (population variance), of the shape of gamma; the mean is float64.
    count
        How many numbers each of them was formed from.
    """

    mean: FloatArray
    variance: FloatArray
    count: int
    x: FloatArray
    shift: Sums | None
    rest: Sums  # the mean of x - shift
    inverse_std: Sums
    gamma: Sums
    layout: _Layout


def supports(x: FloatArray, axis: Axis) -> bool:
    """Tell whether the fast functions work on `x`.

    They need float32 or float64 in C order, and kept axes that are neighbours; with channels last, no more than
    `MOST_CHANNELS` of them, else rows of `SHORTEST_ROW` or more. All else, and every mask, is for the plain functions.

    Raises
    ------
    ValueError
        If the rank or the axis is impossible.
    """
    return _layout(x, axis) is not None


def fast_batch_norm_train(
    x: npt.ArrayLike, gamma: FloatArray | None, beta: FloatArray | None, *, epsilon: float, axis: Axis
) -> tuple[FloatArray, FastCache]:
    """Return what :func:`bncourse.nn.batch_norm_train` returns, several times faster.

    Parameters, result and errors are the same, without a mask; the cache is for :func:`fast_batch_norm_backward`.

    Raises
    ------
    TypeError
        If x holds no floats.
    ValueError
        If a shape, an axis or epsilon is impossible, or :func:`supports` says no.
    """
    x, layout = _prepare(x, axis)
    epsilon = not_negative(epsilon, "epsilon")
    scale, offset = _parameter(gamma, 1.0, "gamma", layout), _parameter(beta, 0.0, "beta", layout)

    blocks = layout.cut(x)
    shift = _rough_mean(layout.sample(x))
    rest, variance = _moments(blocks, shift, layout)
    if not _near(rest, variance):  # the sample misled, or x holds NaN
        shift = _rounded(rest if shift is None else shift + rest, x)
        rest, variance = _moments(blocks, shift, layout)

    inverse_std = 1 / np.sqrt(variance + epsilon)
    factor = scale * inverse_std
    y = _affine(x, blocks, shift, factor, offset - rest * factor, layout)
    mean = rest if shift is None else shift + rest
    shape = layout.axes.kept_shape
    return y, FastCache(
        mean.reshape(shape),
        variance.astype(x.dtype).reshape(shape),
        layout.count,
        x,
        shift,
        rest,
        inverse_std,
        scale,
        layout,
    )


def fast_batch_norm_backward(dy: npt.ArrayLike, cache: FastCache) -> Gradients:
    """Return what :func:`bncourse.nn.batch_norm_backward` returns, several times faster.

    With ``d = x - shift`` the compact form is ``dx = a (dy + b d + c)``, where a, b and c are numbers for each channel.
    Parameters, result and errors are the same.
    """
    x, layout, inverse_std = cache.x, cache.layout, cache.inverse_std
    dy = same_shape(float_array(dy, "dy"), x.shape, "dy", "y")
    dy = np.ascontiguousarray(dy, x.dtype)
    blocks, dy_blocks = layout.cut(x), layout.cut(dy)
    dbeta, products = _gradient_sums(blocks, dy_blocks, cache.shift, layout)
    dgamma = (products - cache.rest * dbeta) * inverse_std

    b = -inverse_std * dgamma / cache.count
    c = -dbeta / cache.count - cache.rest * b
    dx = _combine(x, blocks, dy_blocks, cache.shift, (cache.gamma * inverse_std, b, c), layout)
    shape = layout.axes.kept_shape
    return dx, dgamma.astype(x.dtype).reshape(shape), dbeta.astype(x.dtype).reshape(shape)


def fast_batch_norm_inference(
    x: npt.ArrayLike,
    gamma: FloatArray | None,
    beta: FloatArray | None,
    moving_mean: FloatArray,
    moving_variance: FloatArray,
    *,
    epsilon: float,
    axis: Axis,
) -> FloatArray:
    """Return what :func:`bncourse.nn.batch_norm_inference` returns, several times faster.

    Parameters, result and errors are the same; :func:`supports` must say yes.
    """
    x, layout = _prepare(x, axis)
    scale, offset = _parameter(gamma, 1.0, "gamma", layout), _parameter(beta, 0.0, "beta", layout)
    mean = _parameter(moving_mean, 0.0, "moving_mean", layout)
    variance = _parameter(moving_variance, 1.0, "moving_variance", layout)
    scale = scale / np.sqrt(variance + not_negative(epsilon, "epsilon"))
    # A large mean is subtracted first: the products would cancel. What rounding takes from it, the offset gives back.
    shift = None if _near(mean, variance) else _rounded(mean, x)
    rest = mean if shift is None else mean - shift
    return _affine(x, layout.cut(x), shift, scale, offset - rest * scale, layout)


def _prepare(x: npt.ArrayLike, axis: Axis) -> tuple[FloatArray, _Layout]:
    x = float_array(x, "x")
    layout = _layout(x, axis)
    if layout is None:
        raise ValueError(
            f"x has dtype {x.dtype} and shape {x.shape}, with axis = {axis!r}; the fast functions need float32 or "
            f"float64 in C order, neighbouring axes, and at most {MOST_CHANNELS} channels (last) or at least "
            f"{SHORTEST_ROW} numbers a row (channels first). Use the plain functions."
        )
    return x, layout


def _layout(x: FloatArray, axis: Axis) -> _Layout | None:
    """Return how x lies in memory, or ``None`` if the plain functions must do."""
    layout = _layout_of(x.shape, axis_tuple(axis), x.dtype)
    return layout if x.flags.c_contiguous else None


@lru_cache(maxsize=64)
def _layout_of(shape: tuple[int, ...], axis: tuple[int, ...], dtype: np.dtype[Any]) -> _Layout | None:
    axes = AxisSplit.of(shape, axis)
    first, last = axes.kept[0], axes.kept[-1] + 1
    if dtype not in (np.float32, np.float64) or last - first > len(axes.kept):
        return None
    outer, channels, inner = prod(shape[:first]), prod(axes.kept_shape), prod(shape[last:])
    if inner == 1:
        return _ChannelsLast(axes, outer, channels, dtype) if channels <= MOST_CHANNELS else None
    return _ChannelsFirst(axes, outer, channels, inner, dtype) if inner >= SHORTEST_ROW else None


def _parameter(value: FloatArray | None, default: float, name: str, layout: _Layout) -> Sums:
    """Return a parameter in float64, as one row of channels."""
    if value is None:
        return np.full(layout.channels, default)
    row: Sums = layout.axes.parameter(value, name, np.float64).reshape(-1).astype(np.float64, copy=False)
    return row


def _near(mean: Sums, variance: Sums) -> bool:
    """Tell whether no mean is large beside its standard deviation."""
    return bool((mean * mean <= NEAR * variance).all())


def _rough_mean(sample: FloatArray) -> Sums | None:
    """Return the mean of a few rows to shift by, or ``None`` if x needs no shift."""
    rows = sample.astype(np.float64)
    total, squares = np.einsum("rc->c", rows), np.einsum("rc,rc->c", rows, rows)
    near = total * total <= (len(rows) * NEAR / (1 + NEAR)) * squares  # as in _near, multiplied out
    return None if near.all() else _rounded(total / len(rows), sample)


def _rounded(mean: Sums, x: FloatArray) -> Sums:
    """Return what is left of a mean in the type of x, in which it will be subtracted; 0 if it is infinite or NaN."""
    return np.where(np.isfinite(mean), mean, 0.0).astype(x.dtype).astype(np.float64)


def _moments(blocks: list[FloatArray], shift: Sums | None, layout: _Layout) -> tuple[Sums, Sums]:
    """Return mean and variance of ``x - shift``, in one pass over the blocks of x."""

    def work(wide: bool, block: FloatArray, by: FloatArray | None = None) -> tuple[FloatArray, FloatArray]:
        d = block if by is None else block - by[0]
        return layout.sums(d, d, wide)

    mean, square = _totals(work, layout, blocks, *_given(shift, (), layout, blocks)) / layout.count
    return mean, np.maximum(square - mean * mean, 0.0)


def _affine(
    x: FloatArray, blocks: list[FloatArray], shift: Sums | None, scale: Sums, offset: Sums, layout: _Layout
) -> FloatArray:
    """Return ``(x - shift) * scale + offset``."""

    def work(block: FloatArray, y: FloatArray, given: FloatArray) -> None:
        times, plus, *by = given
        d = np.subtract(block, by[0], out=y) if by else block
        np.multiply(d, times, out=y)
        np.add(y, plus, out=y)

    y = _aligned(x.shape, x.dtype)
    _run(work, layout, blocks, layout.cut(y), *_given(shift, (scale, offset), layout, blocks))
    return y


def _gradient_sums(blocks: list[FloatArray], dy_blocks: list[FloatArray], shift: Sums | None, layout: _Layout) -> Sums:
    """Return the sums of dy, and of dy times ``x - shift``."""

    def work(
        wide: bool, block: FloatArray, dy: FloatArray, by: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray]:
        return layout.sums(dy, block if by is None else block - by[0], wide)

    return _totals(work, layout, blocks, dy_blocks, *_given(shift, (), layout, blocks))


def _combine(
    x: FloatArray,
    blocks: list[FloatArray],
    dy_blocks: list[FloatArray],
    shift: Sums | None,
    factors: tuple[Sums, Sums, Sums],
    layout: _Layout,
) -> FloatArray:
    """Return ``a * (dy + b * (x - shift) + c)``, where a, b and c are the `factors`."""

    def work(block: FloatArray, dy: FloatArray, dx: FloatArray, given: FloatArray) -> None:
        times, of_x, plus, *by = given
        d = np.subtract(block, by[0], out=dx) if by else block
        np.multiply(d, of_x, out=dx)
        np.add(dx, dy, out=dx)
        np.add(dx, plus, out=dx)
        np.multiply(dx, times, out=dx)

    dx = _aligned(x.shape, x.dtype)
    _run(work, layout, blocks, dy_blocks, layout.cut(dx), *_given(shift, factors, layout, blocks))
    return dx


def _totals(work: Callable[..., Any], layout: _Layout, blocks: list[FloatArray], *others: Sequence[FloatArray]) -> Sums:
    """Return the two sums of ``work(wide, block, other, ...)`` for every channel."""
    with np.errstate(over="ignore"):  # what overflows is seen below; einsum would not tell
        total = layout.total(_run(partial(work, False), layout, blocks, *others))
    if not np.isfinite(total).all():  # x or dy is not finite, or a sum of float32 overflowed
        total = layout.total(_run(partial(work, True), layout, blocks, *others))
    return total


def _run(
    work: Callable[..., Any], layout: _Layout, blocks: list[FloatArray], *others: Sequence[FloatArray]
) -> list[Any]:
    """Return ``work(block, other, ...)`` for every block, in order.

    NumPy lets go of the interpreter inside its loops, so several threads get on at once. How the work is cut does not
    depend on their number, and so the result does not, to the last bit.
    """
    tasks = enumerate(zip(blocks, *others, strict=True))  # shared: whoever is free takes the next
    done: SimpleQueue[list[tuple[int, Any]] | BaseException] = SimpleQueue()

    def several() -> list[tuple[int, Any]]:
        return [(i, work(*arrays)) for i, arrays in tasks]

    def help_out() -> None:
        try:
            done.put(several())
        except BaseException as error:  # raised below
            done.put(error)

    with np.errstate():  # its end puts the buffers back as well
        if others and layout.loop >= LOOP // 4:
            np.setbufsize(16)  # or NumPy copies a short factor of a long loop into a buffer each time round
        if layout.size > BLOCK:  # a few rows left over are no work for a second thread
            for _ in range(min(THREADS, len(blocks)) - 1):
                _crew().put(partial(copy_context().run, help_out))  # takes the buffers and the caller's errstate along
        ended = several()
    while len(ended) < len(blocks):  # a helper that never got a processor keeps nobody waiting
        helped = done.get()
        if isinstance(helped, BaseException):
            raise helped
        ended += helped
    results = dict(ended)
    return [results[i] for i in range(len(blocks))]


@cache
def _crew() -> SimpleQueue[Callable[[], None]]:
    """Return the queue from which threads take their work; a pool of ``concurrent.futures`` takes twice as long."""
    queue: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def work() -> None:
        while True:
            queue.get()()

    for number in range(THREADS - 1):
        Thread(target=work, name=f"bncourse-{number}", daemon=True).start()
    return queue


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_crew.cache_clear)  # threads do not survive a fork


def _given(
    shift: Sums | None, parameters: tuple[Sums, ...], layout: _Layout, blocks: list[FloatArray]
) -> list[list[FloatArray]]:
    """Return what :func:`_run` hands to the work on each block: the parameters and, if there is one, the shift last."""
    parameters += () if shift is None else (shift,)
    return [layout.spread(parameters, blocks)] if parameters else []


def _dots_of_rows(some: FloatArray, others: FloatArray) -> FloatArray:
    """Return the sums of the products of `some`, row by row, with `others`; long rows in parts, added up in float64."""
    starts = range(0, some.shape[-1], PRODUCT)
    parts = [np.vecdot(some[..., i : i + PRODUCT], others[..., i : i + PRODUCT]) for i in starts]
    return np.asarray(parts[0] if len(parts) == 1 else np.sum(parts, axis=0, dtype=np.float64))


def _aligned(shape: tuple[int, ...], dtype: npt.DTypeLike) -> FloatArray:
    """Return an empty array that begins at a cache line; elsewhere every other vector written touches two lines."""
    size = prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(size + CACHE_LINE, np.uint8)
    start = -room.__array_interface__["data"][0] % CACHE_LINE
    return np.ndarray(shape, dtype, room, start)


def _ends(things: int, size: int) -> list[int]:
    """Return where the blocks end into which `things`, together `size` numbers, are cut."""
    blocks = -(-size // BLOCK)
    if blocks == 2 and things > 1:  # mostly the caller gets the first; who takes the second has to wake up
        return [min(-(-4 * things // 7), things - 1), things]
    if blocks > 2:  # a multiple, so that no thread waits while another has the last block
        blocks = -(-blocks // MOST_THREADS) * MOST_THREADS
    step = max(1, -(-things // max(1, blocks)))
    return [*range(step, things, step), things] if things else []


@lru_cache(maxsize=64)
def _divisor(number: int, largest: int) -> int:
    """Return the largest divisor of `number` that is not above `largest`."""
    return next(n for n in range(largest, 0, -1) if number % n == 0)


def _power_of_two(largest: int) -> int:
    """Return the largest power of two that is not above `largest`, and 1 at least."""
    return 1 << max(0, largest.bit_length() - 1)
