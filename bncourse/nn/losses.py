"""Losses: pure functions that return the mean loss and its gradient with respect to the logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bncourse.nn.checks import FloatArray, IntArray, compute_dtype, float_array, positive_int
from bncourse.nn.layers import sigmoid

Loss: TypeAlias = Callable[[npt.ArrayLike, npt.ArrayLike], tuple[float, FloatArray]]


def softmax_cross_entropy(logits: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[float, FloatArray]:
    """Return the mean over the batch of ``-log softmax(logits)[label]``, and its gradient.

    Parameters
    ----------
    logits
        Floats of shape (batch, classes).
    labels
        Classes as integers of shape (batch,), or one-hot floats of the shape of the logits.

    Returns
    -------
    loss
        In nats.
    dlogits
        ``(softmax(logits) - one_hot) / batch``, of the shape and type of the logits.

    Raises
    ------
    TypeError, ValueError
        If a type or a shape does not fit, or a label is no class.
    """
    z, targets, dtype = _prepare(logits, labels)
    shifted = z - z.max(axis=1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = -(targets * log_softmax).sum(axis=1).mean()
    dlogits = (np.exp(log_softmax) * targets.sum(axis=1, keepdims=True) - targets) / len(z)
    return float(loss), dlogits.astype(dtype, copy=False)


def sigmoid_cross_entropy(logits: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[float, FloatArray]:
    """Return the mean, over batch *and* classes, of the binary cross-entropy of each logit, and its gradient.

    That is ``tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(...))``; with all logits 0 it is ln 2.

    Parameters
    ----------
    logits
        Floats of shape (batch, classes).
    labels
        Classes as integers of shape (batch,), or floats in [0, 1] of the shape of the logits.

    Returns
    -------
    loss
        In nats.
    dlogits
        ``(sigmoid(logits) - labels) / (batch * classes)``, of the shape and type of the logits.

    Raises
    ------
    TypeError, ValueError
        If a type or a shape does not fit, or a label is no class.
    """
    z, targets, dtype = _prepare(logits, labels)
    loss = (np.maximum(z, 0) - z * targets + np.log1p(np.exp(-np.abs(z)))).mean()
    return float(loss), ((sigmoid(z) - targets) / z.size).astype(dtype, copy=False)


def one_hot(labels: npt.ArrayLike, classes: int) -> npt.NDArray[np.float32]:
    """Return the integer `labels` of shape (batch,) as rows of `classes` zeros with a single one, float32.

    Raises
    ------
    TypeError
        If the labels or `classes` are no integers.
    ValueError
        If the labels have another rank than 1, one lies outside ``range(classes)``, or `classes` is below 1.
    """
    indices, classes = class_labels(labels), positive_int(classes, "classes")
    outside = indices[(indices < 0) | (indices >= classes)]
    if outside.size:
        raise ValueError(f"labels hold {outside[0]}; expected classes from 0 to {classes - 1}.")
    return np.eye(classes, dtype=np.float32)[indices]


def class_labels(labels: npt.ArrayLike) -> IntArray:
    """Return `labels` as an array of integers of shape (batch,).

    Raises
    ------
    TypeError
        If they are no integers.
    ValueError
        If they have another rank than 1.
    """
    array = np.asarray(labels)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"labels have dtype {array.dtype}; expected integers.")
    if array.ndim != 1:
        raise ValueError(f"labels have shape {array.shape}; expected (batch,).")
    return array


def _prepare(logits: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[FloatArray, FloatArray, np.dtype[Any]]:
    """Return logits and one-hot labels in the type to calculate in, and the type of the logits."""
    z = float_array(logits, "logits")
    if z.ndim != 2 or 0 in z.shape:
        raise ValueError(f"logits have shape {z.shape}; expected (batch, classes), neither of them 0.")
    array = np.asarray(labels)
    targets = array if np.issubdtype(array.dtype, np.floating) else one_hot(array, z.shape[1])
    if targets.shape != z.shape:
        raise ValueError(
            f"labels have shape {array.shape}; expected ({len(z)},) or {z.shape} for logits of shape {z.shape}."
        )
    dtype = compute_dtype(z)
    return z.astype(dtype, copy=False), targets.astype(dtype, copy=False), z.dtype
