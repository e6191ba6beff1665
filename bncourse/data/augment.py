"""Training images that are changed at random, each time anew."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def shifted(images: npt.NDArray[np.float32], pixels: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return images moved down and across, each by a random number of pixels; zeros come in from outside.

    Parameters
    ----------
    images : array, shape (n, height, width, channels)
        They are not changed.
    pixels : int
        By at most so many, in either direction; 0 or more. All moves are equally likely.
    rng : numpy.random.Generator
        Decides.

    Returns
    -------
    array, shape (n, height, width, channels)
    """
    count, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    down, across = rng.integers(0, 2 * pixels + 1, (2, count))
    moved = windows[np.arange(count), down, across]  # channels first
    return np.ascontiguousarray(np.moveaxis(moved, 1, -1))
