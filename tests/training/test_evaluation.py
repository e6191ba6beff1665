"""Accuracy and loss in chunks."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bncourse.nn.losses import sigmoid_cross_entropy
from bncourse.training import evaluate_in_chunks, predictor, score_in_chunks

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


# Loss and accuracy together


def cross_entropy(scores, labels):
    """Return the mean loss, written anew."""
    z = scores.astype(np.float64)
    return np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), labels])


@st.composite
def scored(draw):
    """Draw scores, labels and a chunk, which may be larger than the number of images."""
    n, classes = draw(st.integers(1, 12)), draw(st.integers(2, 4))
    numbers = st.floats(-20, 20, width=32)
    scores = draw(arrays(np.float32, (n, classes), elements=numbers))
    labels = draw(arrays(np.int64, n, elements=st.integers(0, classes - 1)))
    return scores, labels, draw(st.integers(1, n + 3))


@given(scored())
def test_every_chunk_gives_the_same_loss_and_accuracy(drawn):
    scores, labels, chunk = drawn
    found = score_in_chunks(itself, scores, labels, chunk=chunk)
    assert found.loss == pytest.approx(cross_entropy(scores, labels), rel=1e-12, abs=1e-12)
    assert found.accuracy == np.mean(scores.argmax(axis=1) == labels)
    assert found.accuracy == evaluate_in_chunks(itself, scores, labels, chunk=chunk)


def test_the_mean_of_the_chunks_losses_would_be_another():
    chunks = [score_in_chunks(itself, SCORES[i : i + 3], LABELS[i : i + 3]).loss for i in (0, 3, 6)]
    assert score_in_chunks(itself, SCORES, LABELS, chunk=3).loss != pytest.approx(np.mean(chunks))


def test_the_loss_may_be_another():
    z = SCORES
    expected = np.mean(np.eye(3)[LABELS] * np.log1p(np.exp(-z)) + (1 - np.eye(3)[LABELS]) * np.log1p(np.exp(z)))
    found = score_in_chunks(itself, SCORES, LABELS, chunk=2, loss=sigmoid_cross_entropy)
    assert found.loss == pytest.approx(expected, rel=1e-12)


def test_scores_in_half_precision_have_the_loss_of_their_values():
    half = (SCORES * 3.3).astype(np.float16)
    found = score_in_chunks(itself, half, LABELS, chunk=2)
    assert found.loss == pytest.approx(cross_entropy(half, LABELS), rel=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_spoils_the_loss_without_a_warning(bad):
    scores = SCORES.copy()
    scores[2, 1] = bad
    found = score_in_chunks(itself, scores, LABELS, chunk=2)
    assert np.isnan(found.loss)
    assert found.accuracy == (5 / 7 if bad == -np.inf else 4 / 7)


def test_class_numbers_have_no_loss():
    with pytest.raises(TypeError) as caught:
        score_in_chunks(lambda part: part.argmax(axis=1), SCORES, LABELS)
    assert str(caught.value) == (
        "predict returned class numbers, which have no loss; use evaluate_in_chunks for accuracy."
    )


def test_a_label_beyond_the_classes_has_no_loss_and_is_a_wrong_answer():
    labels = LABELS.copy()
    labels[0] = 3
    assert evaluate_in_chunks(itself, SCORES, labels) == 4 / 7
    with pytest.raises(ValueError, match="labels hold 3; expected classes from 0 to 2"):
        score_in_chunks(itself, SCORES, labels)


# Images that are not in memory


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
@pytest.mark.parametrize("lengths", [[7], [3, 4], [1, 1, 5], [0, 7], [2, 0, 5]])
def test_pairs_give_what_one_array_gives(lengths, chunk):
    ends = np.cumsum(lengths)
    pairs = [(SCORES[end - n : end], LABELS[end - n : end]) for end, n in zip(ends, lengths, strict=True)]
    assert evaluate_in_chunks(itself, pairs, chunk=chunk) == 5 / 7
    assert score_in_chunks(itself, pairs, chunk=chunk).loss == pytest.approx(cross_entropy(SCORES, LABELS), rel=1e-12)


def test_pairs_are_taken_one_after_the_other():
    events = []

    def pairs():
        for number in range(3):
            events.append(f"made {number}")
            yield [SCORES[:2], LABELS[:2]]

    def predict(part):
        events.append("predicted")
        return part

    evaluate_in_chunks(predict, pairs())
    assert events == ["made 0", "predicted", "made 1", "predicted", "made 2", "predicted"]


def test_a_memmap_is_read_a_chunk_at_a_time(tmp_path):
    n, chunk = 64, 4
    stored = np.lib.format.open_memmap(tmp_path / "images.npy", "w+", np.float32, (n, 100, 100))
    labels = np.arange(n) % 2
    stored[:] = labels[:, None, None]
    stored.flush()
    images = np.load(tmp_path / "images.npy", mmap_mode="r")

    def predict(part):
        brightness = np.array(part).mean(axis=(1, 2))  # a copy of a chunk
        return np.stack([0.5 - brightness, brightness - 0.5], axis=1)

    tracemalloc.start()
    try:
        assert evaluate_in_chunks(predict, images, labels, chunk=chunk) == 1.0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert images[:chunk].nbytes < peak < 3 * images[:chunk].nbytes < images.nbytes / 5


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([], ValueError, "images is empty; expected at least one image."),
        ([(SCORES[:0], LABELS[:0])], ValueError, "images is empty; expected at least one image."),
        (SCORES, TypeError, "labels is missing, and images is a ndarray; expected pairs (images, labels)."),
        (7, TypeError, "labels is missing, and images is a int; expected pairs (images, labels)."),
        ((SCORES, LABELS), TypeError, "images gave a ndarray; without labels, expected pairs (images, labels)."),
        ([(SCORES,)], TypeError, "images gave a tuple; without labels, expected pairs (images, labels)."),
        ([(SCORES, LABELS[1:])], ValueError, "labels has shape (6,); expected one label an image, (7,)."),
    ],
)
def test_what_are_no_pairs_is_refused(images, error, message):
    for function in (evaluate_in_chunks, score_in_chunks):
        with pytest.raises(error) as caught:
            function(itself, images)
        assert str(caught.value) == message


# Adapters


class Graph:
    """The ends of a graph that adds up pixels, in the manner of `bncourse.tf_layers`."""

    graph, inputs, training, logits = object(), "inputs", "training", "logits"


class Session:
    def run(self, fetch, feed):
        assert feed["training"] is False
        return {"logits": 1, "normalised_logits": 2}[fetch] * feed["inputs"]


def test_a_graph_is_run_in_inference_mode():
    assert predictor(Graph(), session=Session())(np.ones(3)).tolist() == [1, 1, 1]


def test_of_a_graph_the_outputs_are_taken_that_its_loss_reads():
    network = Graph()
    network.normalised_logits = "normalised_logits"
    assert predictor(network, session=Session())(np.ones(3)).tolist() == [2, 2, 2]


def test_a_model_is_called_in_inference_mode():
    def model(images, *, training):
        return images.tolist() if training is False else None

    answer = predictor(model)(np.ones(3))
    assert isinstance(answer, np.ndarray)
    assert answer.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("model", "session", "message"),
    [
        (Graph(), None, "session is missing; a graph computes nothing without one: predictor(model, session=...)."),
        (
            itself,
            Session(),
            "model is a function; expected the ends of a graph, with a session, "
            "or without one a model that is called as model(images, training=False).",
        ),
        (
            "model",
            None,
            "model is a str; expected the ends of a graph, with a session, "
            "or without one a model that is called as model(images, training=False).",
        ),
    ],
)
def test_what_is_no_model_is_refused(model, session, message):
    with pytest.raises(TypeError) as caught:
        predictor(model, session=session)
    assert str(caught.value) == message
