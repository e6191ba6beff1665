"""Probabilities against their definitions, written anew, and against scikit-learn."""

import numpy as np
import pytest
from scipy import special
from sklearn import metrics

from bncourse.nn import softmax_cross_entropy
from bncourse.nn.calibration import ProbabilityScores, reliability, score_probabilities, softmax


def answers(n=200, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 2, (n, classes)), rng.integers(classes, size=n)


def test_softmax_agrees_with_scipy():
    logits, _ = answers()
    np.testing.assert_allclose(softmax(logits), special.softmax(logits, axis=-1), rtol=1e-13)


def test_softmax_of_huge_logits_is_finite():
    np.testing.assert_allclose(softmax(np.array([[1e4, 0.0], [-1e4, -1e4]])), [[1, 0], [0.5, 0.5]])


def test_the_scores_are_those_of_other_libraries():
    logits, labels = answers()
    probabilities = softmax(logits)
    scores = score_probabilities(probabilities, labels)
    assert scores.loss == pytest.approx(softmax_cross_entropy(logits, labels)[0])
    assert scores.loss == pytest.approx(metrics.log_loss(labels, probabilities))
    assert scores.accuracy == metrics.accuracy_score(labels, probabilities.argmax(axis=1))
    assert scores.confidence == pytest.approx(np.mean([max(row) for row in probabilities]))


def test_a_label_that_was_ruled_out_costs_much_but_not_everything():
    scores = score_probabilities(np.array([[1.0, 0.0]]), [1])
    assert scores == ProbabilityScores(0.0, pytest.approx(-np.log(np.finfo(float).tiny)), 1.0)


def test_reliability_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3], [0.55, 0.45]])
    labels = np.array([0, 1, 0, 1, 0])  # right, right, wrong, wrong, right
    found = reliability(probabilities, labels, groups=2)
    np.testing.assert_allclose(found.confidence, [(0.55 + 0.6 + 0.7) / 3, (0.8 + 0.9) / 2])
    np.testing.assert_allclose(found.accuracy, [2 / 3, 1 / 2])
    np.testing.assert_array_equal(found.sizes, [3, 2])
    assert found.error == pytest.approx((3 * abs(0.6166667 - 2 / 3) + 2 * abs(0.85 - 0.5)) / 5, abs=1e-6)


def test_labels_drawn_from_the_probabilities_are_reliable():
    logits, _ = answers(20_000)
    probabilities = softmax(logits)
    draws = np.random.default_rng(1).random((len(logits), 1))
    labels = (draws > probabilities.cumsum(axis=1)[:, :-1]).sum(axis=1)
    assert reliability(probabilities, labels).error < 0.02
    assert reliability(softmax(3 * logits), labels).error > 0.1  # too sure


def test_one_group_compares_the_means():
    logits, labels = answers()
    probabilities = softmax(logits)
    scores = score_probabilities(probabilities, labels)
    whole = reliability(probabilities, labels, groups=1)
    assert whole.error == pytest.approx(abs(scores.accuracy - scores.confidence))


@pytest.mark.parametrize(
    ("shape", "labels"), [((3,), [0, 0, 0]), ((2, 3), [0]), ((0, 3), np.zeros(0, int)), ((1, 0), [0])]
)
def test_shapes_must_fit(shape, labels):
    with pytest.raises(ValueError, match=r"probabilities have shape .*; expected \(samples, classes\) and"):
        score_probabilities(np.ones(shape), labels)


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_must_be_a_class(label):
    with pytest.raises(ValueError, match=f"labels hold {label}; expected classes from 0 to 1"):
        reliability(np.array([[0.5, 0.5]]), [label], groups=1)


def test_groups_must_not_be_empty():
    with pytest.raises(ValueError, match="groups = 3; expected 2 at most, the number of samples"):
        reliability(np.full((2, 2), 0.5), [0, 1], groups=3)
    with pytest.raises(ValueError, match="groups = 0; expected an integer >= 1"):
        reliability(np.full((2, 2), 0.5), [0, 1], groups=0)


def test_types_must_fit():
    with pytest.raises(TypeError, match="probabilities has dtype int64"):
        score_probabilities(np.array([[1, 0]]), [0])
    with pytest.raises(TypeError, match="labels have dtype float64"):
        score_probabilities(np.array([[1.0, 0.0]]), [0.0])
    with pytest.raises(TypeError, match="logits has dtype int64"):
        softmax(np.array([1, 2]))
