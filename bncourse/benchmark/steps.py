"""How the fast layer came about: the forward pass once more for each idea, so that each can be timed.

All of them take x with channels last and return y without gamma and beta. They are for the book, not for use: the shift
of data far from zero is left out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import numpy as np

from bncourse.benchmark.contenders import EPSILON, Case
from bncourse.benchmark.measure import Row, race
from bncourse.nn import batch_norm_train, fast
from bncourse.nn.checks import FloatArray

#: The example of the chapter: 50,176 rows of 32 channels, six megabytes.
EXAMPLE = Case((64, 28, 28, 32))
#: Rows in a block of the first steps.
ROWS = 2_048


def plain(x: FloatArray) -> FloatArray:
    """Return y as the plain function computes it."""
    return batch_norm_train(x, None, None, epsilon=EPSILON, axis=-1)[0]


def in_blocks(x: FloatArray) -> FloatArray:
    """Return y, in blocks that stay in the cache: sums first, then the result."""
    return _two_passes(x, _sum_rows, repeat=1)


def with_long_loops(x: FloatArray) -> FloatArray:
    """Return y, the parameters repeated along the rows, so that NumPy's innermost loop is long."""
    return _two_passes(x, _sum_rows, repeat=max(1, fast.LOOP // x.shape[-1]))


def with_products(x: FloatArray) -> FloatArray:
    """Return y, the sums taken as products with ones besides."""
    return _two_passes(x, _multiply_by_ones, repeat=max(1, fast.LOOP // x.shape[-1]))


def all_of_it(x: FloatArray) -> FloatArray:
    """Return y as the fast function computes it: larger blocks, and several threads where there are several cores."""
    return fast.fast_batch_norm_train(x, None, None, epsilon=EPSILON, axis=-1)[0]


STEPS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "plain": plain,
    "in blocks": in_blocks,
    "and long loops": with_long_loops,
    "and sums as products": with_products,
    "all of it": all_of_it,
}


def _two_passes(x: FloatArray, sums: Callable[[FloatArray, int], FloatArray], repeat: int) -> FloatArray:
    rows = x.reshape(-1, x.shape[-1])
    count, channels = rows.shape
    y = np.empty_like(rows)
    scratch = np.empty((ROWS, channels), x.dtype)
    total, squares = np.zeros(channels), np.zeros(channels)
    starts = range(0, count, ROWS)
    for start in starts:
        block = rows[start : start + ROWS]
        total += sums(block, channels)
        squares += sums(np.square(block, out=scratch[: len(block)]), channels)
    mean = total / count
    inverse_std = 1 / np.sqrt(squares / count - mean**2 + EPSILON)
    scale, offset = (np.tile(part.astype(x.dtype), repeat) for part in (inverse_std, -mean * inverse_std))
    wide = (-1, repeat * channels) if len(rows) % repeat == 0 else (-1, channels)
    scale, offset = scale[: wide[1]], offset[: wide[1]]
    source, result = rows.reshape(wide), y.reshape(wide)
    step = max(1, ROWS * channels // wide[1])
    for start in range(0, len(source), step):
        block = np.multiply(source[start : start + step], scale, out=result[start : start + step])
        np.add(block, offset, out=block)
    return y.reshape(x.shape)


def _sum_rows(block: FloatArray, _channels: int) -> FloatArray:
    return block.sum(axis=0, dtype=np.float64)


def _multiply_by_ones(block: FloatArray, channels: int) -> FloatArray:
    wide = block.reshape(-1, 8 * channels) if len(block) % 8 == 0 else block
    total: FloatArray = np.ones(len(wide), block.dtype) @ wide
    return total.reshape(-1, channels).sum(axis=0, dtype=np.float64)


def one_sum(x: FloatArray) -> FloatArray:
    """Return the sums over the rows as NumPy takes them."""
    total: FloatArray = x.reshape(-1, x.shape[-1]).sum(axis=0)
    return total


def one_product(x: FloatArray) -> FloatArray:
    """Return the sums over the rows as one product with ones; BLAS may share it out among threads."""
    rows = x.reshape(-1, 8 * x.shape[-1])
    total: FloatArray = (np.ones(len(rows), x.dtype) @ rows).reshape(8, -1).sum(axis=0)
    return total


def small_products(x: FloatArray) -> FloatArray:
    """Return the sums over the rows as products too small to be shared out."""
    rows = x.reshape(-1, 32, 8 * x.shape[-1])
    parts = np.matmul(np.ones((1, 32), x.dtype), rows)
    total: FloatArray = parts.sum(axis=(0, 1)).reshape(8, -1).sum(axis=0)
    return total


SUMS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "np.sum": one_sum,
    "one product": one_product,
    "small products": small_products,
}


def measure_steps(rounds: int = 15, seconds: float = 1.5) -> list[Row]:
    """Time the steps, and the three ways to sum: alone, and while as many other programs compute as there are cores.

    Of the steps the median call counts. Of the sums it is the call that is slower than nineteen in twenty: what a busy
    machine does to them, it does to some and not to all.

    Parameters
    ----------
    rounds
        Turns of every step.
    seconds
        How long each way to sum is repeated.
    """
    x, _ = EXAMPLE.data()
    rows = race(EXAMPLE, "forward", _bound(STEPS, x), rounds) + _slow_calls("sums", x, seconds)
    with _busy():
        return rows + _slow_calls("sums, busy", x, seconds)


def _slow_calls(kind: str, x: FloatArray, seconds: float) -> list[Row]:
    """Return a row for each way to sum, with the 95th percentile of its calls."""
    slow = {name: _percentile(call, seconds) for name, call in _bound(SUMS, x).items()}
    first = next(iter(slow.values()))
    return [Row(EXAMPLE.name, name, kind, 1000 * value, *[first / value] * 3) for name, value in slow.items()]


def _percentile(call: Callable[[], object], seconds: float) -> float:
    call()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.percentile(times, 95))


def _bound(ways: Mapping[str, Callable[[FloatArray], FloatArray]], x: FloatArray) -> dict[str, Callable[[], object]]:
    return {name: partial(way, x) for name, way in ways.items()}


@contextmanager
def _busy() -> Iterator[None]:
    """Keep every core busy with another program."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    time.sleep(0.5)  # until they have started
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()
