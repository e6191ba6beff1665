"""Accuracy in chunks."""

import numpy as np
import pytest

from bncourse.training import evaluate_in_chunks

LABELS = np.array([0, 1, 2, 1, 0, 2, 1])
#: One score row an image; right at 0, 1, 2, 3 and 6.
SCORES = np.eye(3)[[0, 1, 2, 1, 1, 0, 1]]


def itself(part):
    return part


@pytest.mark.parametrize("chunk", range(1, 10))
def test_the_result_is_the_same_for_every_chunk(chunk):
    assert evaluate_in_chunks(itself, SCORES, LABELS, chunk=chunk) == 5 / 7


def test_the_mean_of_the_chunks_accuracies_would_be_another():
    means = [evaluate_in_chunks(itself, SCORES[i : i + 3], LABELS[i : i + 3]) for i in (0, 3, 6)]
    assert np.mean(means) == pytest.approx((1 + 1 / 3 + 1) / 3)
    assert evaluate_in_chunks(itself, SCORES, LABELS, chunk=3) == 5 / 7 != pytest.approx(np.mean(means))


def test_every_image_is_seen_once_in_order_and_chunks_are_no_larger_than_asked():
    seen = []

    def predict(part):
        seen.append(part)
        return part

    evaluate_in_chunks(predict, LABELS, LABELS, chunk=np.int64(3))
    assert [len(part) for part in seen] == [3, 3, 1]
    assert np.array_equal(np.concatenate(seen), LABELS)


def test_the_default_chunk_is_1000():
    sizes = []

    def predict(part):
        sizes.append(len(part))
        return part

    evaluate_in_chunks(predict, np.zeros(2500, int), np.zeros(2500, int))
    assert sizes == [1000, 1000, 500]


def test_class_numbers_are_taken_as_they_are():
    assert evaluate_in_chunks(lambda part: part.argmax(axis=1), SCORES, LABELS, chunk=2) == 5 / 7


def test_lists_will_do():
    assert evaluate_in_chunks(lambda part: part.tolist(), SCORES, LABELS.tolist(), chunk=2) == 5 / 7


def test_among_equal_scores_the_first_wins():
    scores = np.zeros((4, 3))
    assert evaluate_in_chunks(itself, scores, np.array([0, 1, 2, 0])) == 0.5


@pytest.mark.parametrize("column", [0, 1, 2])
@pytest.mark.parametrize("label", [0, 1, 2])
def test_scores_that_hold_a_nan_are_a_wrong_answer(column, label):
    scores = np.eye(3)[[label]]
    scores[0, column] = np.nan
    assert evaluate_in_chunks(itself, scores, np.array([label])) == 0.0


def test_infinite_scores_are_compared():
    assert evaluate_in_chunks(itself, np.array([[-np.inf, 0.0], [np.inf, 0.0]]), np.array([1, 0])) == 1.0


def test_the_result_is_a_plain_float():
    assert type(evaluate_in_chunks(itself, SCORES, LABELS)) is float


@pytest.mark.parametrize(
    ("images", "labels", "chunk", "error", "message"),
    [
        (SCORES, LABELS, 0, ValueError, "chunk = 0; expected an integer >= 1."),
        (SCORES, LABELS, 2.0, TypeError, "chunk = 2.0; expected an integer."),
        (
            SCORES,
            LABELS.astype(float),
            2,
            TypeError,
            "labels has dtype float64; expected class numbers (integers), not one-hot rows.",
        ),
        (SCORES, LABELS[:6], 2, ValueError, "labels has shape (6,); expected one label an image, (7,)."),
        (SCORES, np.eye(7, 3, dtype=int), 2, ValueError, "labels has shape (7, 3); expected one label an image, (7,)."),
        (np.float32(1), np.array(1), 2, ValueError, "labels has shape (); expected one label an image, ()."),
        (SCORES[:0], LABELS[:0], 2, ValueError, "images is empty; expected at least one image."),
        (SCORES, LABELS - 1, 2, ValueError, "labels holds -1; expected class numbers, 0 or more."),
    ],
)
def test_impossible_arguments_are_refused_before_anything_is_predicted(images, labels, chunk, error, message):
    def predict(part):
        pytest.fail("predicted")

    with pytest.raises(error) as caught:
        evaluate_in_chunks(predict, images, labels, chunk=chunk)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "answer", [np.zeros((3, 3)), np.zeros((2, 1)), np.zeros(3), np.zeros((2, 3, 1)), np.float32(0)]
)
def test_answers_of_another_shape_are_refused(answer):
    with pytest.raises(ValueError, match="predict returned shape") as caught:
        evaluate_in_chunks(lambda _: answer, SCORES, LABELS, chunk=2)
    assert str(caught.value) == (
        f"predict returned shape {answer.shape} for 2 images; "
        "expected scores of shape (2, 2 or more classes) or class numbers of shape (2,)."
    )


def test_an_answer_for_a_whole_chunk_is_refused_at_the_shorter_last_one():
    with pytest.raises(ValueError, match=r"^predict returned shape \(2, 3\) for 1 images"):
        evaluate_in_chunks(lambda _: np.zeros((2, 3)), SCORES, LABELS, chunk=2)
