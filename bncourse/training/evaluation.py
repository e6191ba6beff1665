"""Accuracy and loss over many images, a few at a time, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bncourse.nn.checks import positive_int
from bncourse.nn.losses import Loss, softmax_cross_entropy
from bncourse.nn.sequential import Scores

Array: TypeAlias = npt.NDArray[Any]
#: From images of shape (m, ...) to scores of shape (m, classes), or class numbers of shape (m,).
Predict: TypeAlias = Callable[[Array], npt.ArrayLike]
#: All images, or pairs of images and labels, one after the other.
Images: TypeAlias = npt.ArrayLike | Iterable[tuple[npt.ArrayLike, npt.ArrayLike]]


def predictor(model: Any, *, session: Any = None) -> Predict:
    """Return a function from images to scores, in inference mode, whatever the model is made of.

    Parameters
    ----------
    model
        A Keras model or a network of `bncourse.nn`, both called as ``model(images, training=False)``; or the ends of
        a graph, as `bncourse.tf_layers` builds it. Of a graph the outputs are taken that its loss reads:
        ``model.normalised_logits``, if it has them, or ``model.logits``.
    session : tf.compat.v1.Session, optional
        An open session on the graph; for a graph only.

    Returns
    -------
    callable
        From images of shape (m, ...) to scores of shape (m, classes), a NumPy array.

    Raises
    ------
    TypeError
        If a session is missing, or if there is one and the model is no graph, or the model cannot be called.

    Examples
    --------
    >>> from bncourse.nn import Dense
    >>> predictor(Dense(3, seed=0))(np.ones((5, 2))).shape
    (5, 3)
    """
    if hasattr(model, "graph"):
        if session is None:
            raise TypeError("session is missing; a graph computes nothing without one: predictor(model, session=...).")
        outputs = getattr(model, "normalised_logits", model.logits)
        return lambda images: session.run(outputs, {model.inputs: images, model.training: False})
    if session is not None or not callable(model):
        raise TypeError(
            f"model is a {type(model).__name__}; expected the ends of a graph, with a session, "
            "or without one a model that is called as model(images, training=False)."
        )
    return lambda images: np.asarray(model(images, training=False))


def evaluate_in_chunks(
    predict: Predict, images: Images, labels: npt.ArrayLike | None = None, *, chunk: int = 1000
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
        `predictor` makes one of a graph, a Keras model or a NumPy network.
    images : array, shape (n, ...), or iterable of pairs
        n is at least 1. A ``numpy.memmap`` is read a chunk at a time. Without `labels`: pairs (images, labels), each
        of any length, taken one after the other; one that is longer than `chunk` is cut.
    labels : integer array, shape (n,)
        Class numbers; ``None`` if `images` gives pairs.
    chunk : int
        Images at once, 1 or more.

    Returns
    -------
    float
        Accuracy, from 0 to 1.

    Raises
    ------
    TypeError
        If `chunk` or `labels` are no integers, or if `labels` are missing.
    ValueError
        If `chunk` is below 1, if there are no images, if a label is negative, or if a shape does not fit.
    """
    correct = count = 0
    for answers, numbers in _answers(predict, images, labels, chunk):
        correct += _correct(answers, numbers)
        count += len(numbers)
    return correct / count


def score_in_chunks(
    predict: Predict,
    images: Images,
    labels: npt.ArrayLike | None = None,
    *,
    chunk: int = 1000,
    loss: Loss = softmax_cross_entropy,
) -> Scores:
    """Return the mean loss and the accuracy, from one pass over the images.

    As `evaluate_in_chunks`, which see. A chunk's mean loss counts as often as the chunk has images. It is computed and
    added up in float64, so that the chunk size shows in the last digits of float64 at most.

    Parameters
    ----------
    predict, images, labels, chunk
        As there, but `predict` must return scores: class numbers have no loss.
    loss : callable
        From logits and labels to the mean loss in nats, and a gradient that is not used: a loss of `bncourse.nn`.

    Returns
    -------
    Scores
        ``loss`` in nats, and ``accuracy`` from 0 to 1. The loss is NaN if a score is not finite.

    Raises
    ------
    TypeError, ValueError
        As there; and if `predict` returns class numbers, or a label is not among the classes.
    """
    correct, count, total = 0, 0, 0.0
    for answers, numbers in _answers(predict, images, labels, chunk):
        if answers.ndim == 1:
            raise TypeError("predict returned class numbers, which have no loss; use evaluate_in_chunks for accuracy.")
        correct += _correct(answers, numbers)
        count += len(numbers)
        with np.errstate(invalid="ignore"):
            total += len(numbers) * loss(answers.astype(np.float64), numbers)[0]
    return Scores(total / count, correct / count)


def _answers(
    predict: Predict, images: Images, labels: npt.ArrayLike | None, chunk: int
) -> Iterator[tuple[Array, Array]]:
    """Yield the answers and the labels of chunk after chunk; there is at least one."""
    chunk = positive_int(chunk, "chunk")
    empty = True
    for some, numbers in _pairs(images, labels):
        for start in range(0, len(numbers), chunk):
            part = slice(start, start + chunk)
            empty = False
            yield _checked(predict(some[part]), len(numbers[part])), numbers[part]
    if empty:
        raise ValueError("images is empty; expected at least one image.")


def _pairs(images: Any, labels: npt.ArrayLike | None) -> Iterator[tuple[Array, Array]]:
    """Yield checked pairs of images and labels."""
    if labels is not None:
        yield _pair(images, labels)
        return
    if isinstance(images, np.ndarray) or not isinstance(images, Iterable):
        raise TypeError(f"labels is missing, and images is a {type(images).__name__}; expected pairs (images, labels).")
    for pair in images:
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise TypeError(f"images gave a {type(pair).__name__}; without labels, expected pairs (images, labels).")
        yield _pair(*pair)


def _pair(images: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Array, Array]:
    """Return images and labels as arrays, if they belong together. An array on disk stays there."""
    images, labels = np.asarray(images), np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"labels has dtype {labels.dtype}; expected class numbers (integers), not one-hot rows.")
    if images.ndim == 0 or labels.shape != images.shape[:1]:
        raise ValueError(f"labels has shape {labels.shape}; expected one label an image, {images.shape[:1]}.")
    if labels.size and labels.min() < 0:
        raise ValueError(f"labels holds {labels.min()}; expected class numbers, 0 or more.")
    return images, labels


def _checked(answers: npt.ArrayLike, expected: int) -> Array:
    """Return the answers as an array, if there is one for each image."""
    array = np.asarray(answers)
    if array.ndim not in (1, 2) or len(array) != expected or (array.ndim == 2 and array.shape[1] < 2):
        raise ValueError(
            f"predict returned shape {array.shape} for {expected} images; "
            f"expected scores of shape ({expected}, 2 or more classes) or class numbers of shape ({expected},)."
        )
    return array


def _correct(answers: Array, labels: Array) -> int:
    """Return how many answers are right; scores that hold a NaN are not."""
    if answers.ndim == 1:
        return int(np.sum(answers == labels))
    return int(np.sum((answers.argmax(axis=1) == labels) & ~np.isnan(answers).any(axis=1)))
