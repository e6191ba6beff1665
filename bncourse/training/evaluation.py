"""Accuracy over many images, a few at a time, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from bncourse.nn.checks import positive_int


def evaluate_in_chunks(
    predict: Callable[[npt.NDArray[Any]], npt.ArrayLike],
    images: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    *,
    chunk: int = 1000,
) -> float:
    """Return the share of `images` that `predict` puts into the right class.

    The correct answers of all chunks are counted and divided once, so the last chunk may be shorter. (The mean of the
    chunks' accuracies would give each image of a short chunk too much weight.) The result is the same for every
    `chunk` if `predict` treats each image by itself; in training mode Batch Normalization does not.

    Parameters
    ----------
    predict : callable
        Takes images of shape (m, ...), m <= `chunk`; returns scores of shape (m, classes), of which the greatest wins
        and, among equals, the first; or class numbers of shape (m,). Scores that hold a NaN count as a wrong answer.
    images : array, shape (n, ...)
        n is at least 1.
    labels : integer array, shape (n,)
        Class numbers.
    chunk : int
        Images at once, 1 or more.

    Returns
    -------
    float
        Accuracy, from 0 to 1.

    Raises
    ------
    TypeError
        If `chunk` or `labels` are no integers.
    ValueError
        If `chunk` is below 1, if there are no images, if a label is negative, or if a shape does not fit.
    """
    chunk = positive_int(chunk, "chunk")
    images, labels = np.asarray(images), np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"labels has dtype {labels.dtype}; expected class numbers (integers), not one-hot rows.")
    if images.ndim == 0 or labels.shape != images.shape[:1]:
        raise ValueError(f"labels has shape {labels.shape}; expected one label an image, {images.shape[:1]}.")
    if not len(images):
        raise ValueError("images is empty; expected at least one image.")
    if labels.min() < 0:
        raise ValueError(f"labels holds {labels.min()}; expected class numbers, 0 or more.")
    correct = 0
    for start in range(0, len(images), chunk):
        part = slice(start, start + chunk)
        correct += int(np.sum(_classes(predict(images[part]), len(labels[part])) == labels[part]))
    return correct / len(images)


def _classes(answers: npt.ArrayLike, expected: int) -> npt.NDArray[Any]:
    """Return the class number of each answer, and -1 where the scores hold a NaN."""
    array = np.asarray(answers)
    if array.ndim not in (1, 2) or len(array) != expected or (array.ndim == 2 and array.shape[1] < 2):
        raise ValueError(
            f"predict returned shape {array.shape} for {expected} images; "
            f"expected scores of shape ({expected}, 2 or more classes) or class numbers of shape ({expected},)."
        )
    if array.ndim == 1:
        return array
    return np.where(np.isnan(array).any(axis=1), -1, array.argmax(axis=1))
