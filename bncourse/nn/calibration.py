"""Probabilities and what they are worth: how often right, how sure, and whether the two agree."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bncourse.nn.checks import FloatArray, IntArray, float_array, positive_int
from bncourse.nn.losses import class_labels


class ProbabilityScores(NamedTuple):
    """Scores of predicted probabilities.

    Attributes
    ----------
    accuracy
        Share of the samples whose most probable class is their label, from 0 to 1.
    loss
        Mean of ``-log(probability of the label)``, in nats: the *negative log-likelihood*, or cross-entropy.
    confidence
        Mean probability of the most probable class. Above the accuracy: the network is too sure of itself.
    """

    accuracy: float
    loss: float
    confidence: float


class Reliability(NamedTuple):
    """Confidence against accuracy, for samples grouped by their confidence.

    Attributes
    ----------
    confidence, accuracy
        Means of each group, float64, shape (groups,).
    sizes
        Samples in each group, shape (groups,); none is empty.
    """

    confidence: FloatArray
    accuracy: FloatArray
    sizes: IntArray

    @property
    def error(self) -> float:
        """Mean distance between confidence and accuracy, weighted by the sizes: *expected calibration error*."""
        return float(np.average(np.abs(self.confidence - self.accuracy), weights=self.sizes))


def softmax(logits: npt.ArrayLike) -> FloatArray:
    """Return ``exp(logits)`` divided by its sum over the last axis: float64, without overflow.

    Raises
    ------
    TypeError
        If the logits are no floats.
    """
    z = float_array(logits, "logits").astype(np.float64)
    exponentials = np.exp(z - z.max(axis=-1, keepdims=True))
    probabilities: FloatArray = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def score_probabilities(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> ProbabilityScores:
    """Return accuracy, loss and confidence.

    Parameters
    ----------
    probabilities
        Floats of shape (samples, classes); rows add up to 1. A probability of 0 counts in the loss as the smallest
        float64, so that the loss stays finite.
    labels
        Classes as integers of shape (samples,).

    Raises
    ------
    TypeError, ValueError
        If a type or a shape does not fit, there are no samples, or a label is no class.
    """
    rows, classes = _checked(probabilities, labels)
    of_label = rows[np.arange(len(rows)), classes].astype(np.float64)
    loss = -np.log(np.maximum(of_label, np.finfo(np.float64).tiny)).mean()
    accuracy = (rows.argmax(axis=1) == classes).mean()
    return ProbabilityScores(float(accuracy), float(loss), float(rows.max(axis=1).mean()))


def reliability(probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, groups: int = 10) -> Reliability:
    """Sort the samples by their confidence into groups of equal size; return confidence and accuracy of each.

    Groups of equal size, not of equal width: with a good network, nearly all samples are within the last tenth of the
    scale, and the other groups would hold a handful each.

    Parameters
    ----------
    probabilities, labels
        As in `score_probabilities`.
    groups
        How many, at most one for each sample. Sizes differ by one sample at most.

    Raises
    ------
    TypeError, ValueError
        If a type or a shape does not fit, there are fewer samples than groups, or a label is no class.
    """
    rows, classes = _checked(probabilities, labels)
    if positive_int(groups, "groups") > len(rows):
        raise ValueError(f"groups = {groups}; expected {len(rows)} at most, the number of samples.")
    confidence, right = rows.max(axis=1).astype(np.float64), rows.argmax(axis=1) == classes
    parts = np.array_split(np.argsort(confidence, kind="stable"), groups)
    return Reliability(
        np.array([confidence[part].mean() for part in parts]),
        np.array([right[part].mean() for part in parts]),
        np.array([len(part) for part in parts]),
    )


def _checked(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[FloatArray, IntArray]:
    rows, classes = float_array(probabilities, "probabilities"), class_labels(labels)
    if rows.ndim != 2 or 0 in rows.shape or len(rows) != len(classes):
        raise ValueError(
            f"probabilities have shape {rows.shape} and labels {classes.shape}; expected (samples, classes) and "
            "(samples,), with one sample at least."
        )
    outside = classes[(classes < 0) | (classes >= rows.shape[1])]
    if outside.size:
        raise ValueError(f"labels hold {outside[0]}; expected classes from 0 to {rows.shape[1] - 1}.")
    return rows, classes
