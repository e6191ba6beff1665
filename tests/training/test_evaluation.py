"""Accuracy in chunks: the same number whatever the chunks are."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncourse.training import evaluate_in_chunks

IMAGES = np.random.default_rng(0).normal(size=(23, 4)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 4, 23)
CORRECT = sum(int(np.argmax(row)) == label for row, label in zip(IMAGES, LABELS, strict=True))


@pytest.mark.parametrize("chunk", [1, 2, 5, 22, 23, 24, 1000])
def test_every_chunk_size_gives_the_same_accuracy(chunk):
    assert evaluate_in_chunks(lambda x: x, IMAGES, LABELS, chunk=chunk) == float(Fraction(CORRECT, 23))


def test_the_short_last_chunk_weighs_what_it_holds():
    # Mean of the chunks' accuracies: (1 + 1 + 0) / 3.
    labels = np.array([0, 0, 0, 0, 1])
    assert evaluate_in_chunks(lambda x: np.zeros(len(x), int), np.zeros((5, 1)), labels, chunk=2) == 0.8


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.integers(1, 40))
def test_the_chunks_are_the_images_in_their_order(classes, chunk):
    seen = []

    def predict(part):
        assert 1 <= len(part) <= chunk
        seen.extend(part)
        return part

    assert evaluate_in_chunks(predict, np.array(classes), np.array(classes), chunk=chunk) == 1.0
    assert seen == classes


def test_class_numbers_and_scores_are_both_understood():
    by_class = evaluate_in_chunks(lambda x: x.argmax(axis=1), IMAGES, LABELS, chunk=7)
    assert by_class == evaluate_in_chunks(lambda x: x, IMAGES, LABELS, chunk=7)


def test_the_result_is_a_plain_number():
    assert type(evaluate_in_chunks(lambda x: x, IMAGES, LABELS)) is float


@pytest.mark.parametrize("place", [0, 1, 2])
def test_scores_that_hold_a_nan_are_a_wrong_answer(place):
    scores = np.array([[3.0, 2.0, 1.0]])
    scores[0, place] = np.nan
    for label in range(3):
        assert evaluate_in_chunks(lambda _: scores, np.zeros((1, 1)), np.array([label])) == 0.0


def test_a_thousand_images_go_through_at_once():
    sizes = []

    def predict(part):
        sizes.append(len(part))
        return np.zeros(len(part), int)

    evaluate_in_chunks(predict, np.zeros((2300, 1)), np.zeros(2300, int))
    assert sizes == [1000, 1000, 300]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"chunk": 0}, ValueError, r"chunk = 0; expected an integer >= 1"),
        ({"chunk": 2.0}, TypeError, r"chunk = 2.0; expected an integer"),
        ({"labels": LABELS[:5]}, ValueError, r"labels has shape \(5,\); expected one label an image, \(23,\)"),
        ({"labels": np.eye(4, dtype=int)}, ValueError, r"labels has shape \(4, 4\); expected one label an image"),
        ({"labels": LABELS * 1.0}, TypeError, r"labels has dtype float64; expected class numbers"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, ValueError, r"images is empty; expected at least one image"),
        ({"predict": lambda _: IMAGES}, ValueError, r"predict returned shape \(23, 4\) for 10 images"),
        ({"predict": lambda x: x[:, :1]}, ValueError, r"expected scores of shape \(10, 2 or more classes\)"),
        ({"predict": lambda x: x[None]}, ValueError, r"predict returned shape \(1, 10, 4\) for 10 images"),
        ({"predict": lambda _: 1.0}, ValueError, r"predict returned shape \(\) for 10 images"),
    ],
)
def test_what_does_not_fit_is_refused(change, error, message):
    arguments = {"predict": lambda x: x, "images": IMAGES, "labels": LABELS, "chunk": 10, **change}
    predict, images, labels = (arguments.pop(name) for name in ("predict", "images", "labels"))
    with pytest.raises(error, match=message):
        evaluate_in_chunks(predict, images, labels, **arguments)
