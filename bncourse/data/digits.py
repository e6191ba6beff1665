"""The handwritten digits that come with scikit-learn: real data without any download."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from bncourse.data.splits import SIDE, Dataset, FloatArray, Split

_TRAIN, _VALIDATION, _TEST = 1197, 300, 300
_ENLARGEMENT, _MARGIN = 3, 2


@functools.cache
def load_digits() -> Dataset:
    """Return scikit-learn's 1,797 handwritten digits, as 28x28 images and with a fixed split.

    The originals have 8x8 pixels with the values 0 to 16 (number of inked dots in a block of 4x4). Here they are
    divided by 16, enlarged three times by bilinear interpolation and given a margin of two pixels, so that networks
    for MNIST take them unchanged. Enlarging adds no detail: each image still carries 64 numbers.

    Returns
    -------
    Dataset
        `train`: the first 1,197 images of scikit-learn's file; `validation`: the next 300; `test`: the last 300.
        Computed once and shared by all callers (it is read-only).

    Notes
    -----
    **Why in file order, unshuffled.** The file holds the images writer after writer. Neighbours mostly come from the
    same hand, so a shuffled split would put every writer's digits on both sides, and the test would then measure how
    well the network knows these writers, not how well it reads a new one.

    *Reported*: the 1,797 images come from 13 writers (scikit-learn's description of the data), and the file has them
    writer after writer (the scikit-learn course, chapter on sample grouping). No field says who wrote which image.

    *Measured*: the order. For 58 % of the images the most similar other image stands fewer than 130 places away,
    against 14 % for places at random. And the leak: on the same test images, a nearest-neighbour classifier scores
    higher when it learnt from equally many images of which some are neighbours of the test images in the file.

    *Limits*: 300 images are the work of two or three writers, so a score on them depends on how legibly these few
    write; and the two cuts lie at round numbers, so each may run through the middle of one writer's images.

    References
    ----------
    E. Alpaydin, C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning Repository.
    """
    # Imported here because it takes a second, and a reader of MNIST has no use for it.
    from sklearn.datasets import load_digits as load_originals

    originals = load_originals()
    images = _enlarge(originals.images / 16.0)
    labels = originals.target.astype(np.int64)
    labels.setflags(write=False)
    first, second = _TRAIN, _TRAIN + _VALIDATION
    return Dataset(
        name="digits",
        train=Split(images[:first], labels[:first]),
        validation=Split(images[first:second], labels[first:second]),
        test=Split(images[second : second + _TEST], labels[second : second + _TEST]),
        classes=tuple("0123456789"),
        source="scikit-learn's load_digits, a copy of the test set of the UCI handwritten digits of 1998, "
        "enlarged from 8x8 to 28x28 pixels",
    )


def _enlarge(images: npt.NDArray[np.float64]) -> FloatArray:
    """Enlarge images from (n, 8, 8) to (n, 28, 28, 1): three times, bilinearly, and with a margin of zeros."""
    from scipy.ndimage import zoom

    # grid_mode: pixels are areas, so the picture is scaled about its centre and not shifted.
    factors = (1, _ENLARGEMENT, _ENLARGEMENT)
    large = zoom(images, factors, order=1, grid_mode=True, mode="nearest")
    framed = np.pad(large, ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN)))
    # Interpolation of values in [0, 1] may leave the interval by a rounding error.
    result: FloatArray = np.clip(framed, 0.0, 1.0).astype(np.float32)
    result.setflags(write=False)  # before any view is taken: only then no view can be made writable again
    return result.reshape(-1, SIDE, SIDE, 1)
