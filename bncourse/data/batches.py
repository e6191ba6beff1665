"""Shuffled batches for training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bncourse.data._checks import whole_number
from bncourse.data.splits import FloatArray, IntArray, Split


def batches(
    split: Split, size: int, *, seed: int, drop_last: bool = True, epochs: int | None = None
) -> Iterator[tuple[FloatArray, IntArray]]:
    """Cut a split into batches, in a new random order in every epoch.

    Parameters
    ----------
    split
        The images to draw from, without replacement within an epoch.
    size
        Images in a batch, from 1 to ``len(split)``.
    seed
        Start of the random order, a whole number not below 0.
    drop_last
        Leave out the images that do not fill a batch at the end of an epoch. With False they make a shorter batch,
        which is hard on Batch Normalization: the statistics of very few images are noisy, and in training mode a
        dense layer's output for a batch of one image is beta, whatever the image shows.
    epochs
        Passes over the split; None (the default) never ends.

    Yields
    ------
    images : float32 array, shape (size, 28, 28, 1)
    labels : int64 array, shape (size,)
        Copies, which may be changed.

    Raises
    ------
    TypeError, ValueError
        If an argument is impossible: at the call, not at the first batch.

    Notes
    -----
    For a given split, `size` and `drop_last`, the k-th batch depends on ``(seed, k)`` only: not on the global random
    state, on `epochs` or on other iterators. To go on in the middle of a run, make the iterator anew and skip the
    batches that were used (`itertools.islice`).
    """
    if not isinstance(split, Split):
        raise TypeError(f"split must be a bncourse.data.Split, got {type(split).__name__}")
    size = whole_number("size", size, at_least=1)
    if size > len(split):
        raise ValueError(f"size must be at most {len(split)}, the number of images in the split, got {size}")
    rng = np.random.default_rng(whole_number("seed", seed, at_least=0))
    if epochs is not None:
        epochs = whole_number("epochs", epochs, at_least=1)
    return _draw(split, size, rng, drop_last, epochs)


def _draw(
    split: Split, size: int, rng: np.random.Generator, drop_last: bool, epochs: int | None
) -> Iterator[tuple[FloatArray, IntArray]]:
    n = len(split)
    end = n - n % size if drop_last else n
    epoch = 0
    while epochs is None or epoch < epochs:
        order = rng.permutation(n)
        for start in range(0, end, size):
            chosen = order[start : start + size]
            yield split.images[chosen], split.labels[chosen]
        epoch += 1
