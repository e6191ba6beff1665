"""One evaluation for a graph, a Keras model and a NumPy network: the same result for every chunk size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bncourse.keras_models.runtime import keras
from bncourse.nn import BatchNorm, Conv2D, Dense, Flatten, MaxPool, ReLU, Sequential
from bncourse.tf_layers import tf1
from bncourse.tf_layers.base_network import build_base_network
from bncourse.tf_layers.improved_network import build_improved_network
from bncourse.training import evaluate_in_chunks, predictor, score_in_chunks

N = 23
RNG = np.random.default_rng(0)
LABELS = np.arange(N) % 10
IMAGES = RNG.random((N, 28, 28, 1), np.float32) / 2
IMAGES[np.arange(N), 2 * LABELS + 4] += 0.5
ONE_HOT = np.eye(10, dtype=np.float32)[LABELS]


def opened(network):
    """Return an initialised session. Not as a context: its graph would be the default one of Keras, too."""
    session = tf1.Session(graph=network.graph)
    session.run(network.initializer)
    return session


@pytest.fixture(scope="module")
def base():
    network = build_base_network(maps=(2,), strides=(2,), units=8, learning_rate=0.01, seed=1)
    session = opened(network)
    for _ in range(10):
        session.run(network.train_op, {network.inputs: IMAGES, network.labels: ONE_HOT})
    yield predictor(network, session=session)
    session.close()


@pytest.fixture(scope="module")
def improved():
    """A network with BN, after some steps in training mode, and its session."""
    network = build_improved_network(momentum=0.5, seed=1)
    session = opened(network)
    for _ in range(5):
        session.run(network.train_op, {network.inputs: IMAGES, network.labels: LABELS, network.training: True})
    yield network, session
    session.close()


@pytest.fixture(scope="module")
def improved_predictor(improved):
    return predictor(improved[0], session=improved[1])


@pytest.fixture(scope="module")
def keras_model():
    layers = keras.layers
    seeds = iter(range(2))
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(2, 3, 2, "same", kernel_initializer=keras.initializers.GlorotUniform(next(seeds))),
            layers.BatchNormalization(momentum=0.5),
            layers.ReLU(),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(10, kernel_initializer=keras.initializers.GlorotUniform(next(seeds))),
        ]
    )
    for _ in range(3):
        model(IMAGES, training=True)  # moves the moving statistics
    return predictor(model)


@pytest.fixture(scope="module")
def numpy_network():
    layers = [
        Conv2D(2, 3, 2, "same", seed=0),
        BatchNorm(momentum=0.5),
        ReLU(),
        MaxPool(2),
        Flatten(),
        Dense(10, seed=1),
    ]
    network = Sequential(layers)
    for _ in range(3):
        network(IMAGES, training=True)
    return predictor(network)


@pytest.mark.parametrize("kind", ["base", "improved_predictor", "keras_model", "numpy_network"])
def test_the_result_does_not_depend_on_the_chunk(kind, request):
    predict = request.getfixturevalue(kind)
    scores = np.asarray(predict(IMAGES), np.float64)
    ranked = np.sort(scores, axis=1)
    # Other sizes are rounded otherwise: no image may stand on the edge between two classes.
    assert (ranked[:, -1] - ranked[:, -2]).min() > 1e-4
    accuracy = np.mean(scores.argmax(axis=1) == LABELS)
    loss = np.mean(np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(N), LABELS])

    @settings(max_examples=30)
    @given(st.integers(1, N + 5), st.integers(1, N))
    def check(chunk, batch):
        found = score_in_chunks(predict, IMAGES, LABELS, chunk=chunk)
        assert found.accuracy == accuracy == evaluate_in_chunks(predict, IMAGES, LABELS, chunk=chunk)
        assert found.loss == pytest.approx(loss, abs=1e-5)
        pairs = ((IMAGES[i : i + batch], LABELS[i : i + batch]) for i in range(0, N, batch))
        assert evaluate_in_chunks(predict, pairs, chunk=chunk) == accuracy

    check()


def test_of_the_improved_network_the_normalised_logits_are_scored(improved, improved_predictor):
    network, session = improved
    after, before = session.run([network.normalised_logits, network.logits], {network.inputs: IMAGES})
    np.testing.assert_allclose(improved_predictor(IMAGES), after, atol=1e-5)
    assert np.abs(after - before).max() > 0.1


def test_in_training_mode_the_images_of_a_chunk_judge_each_other(improved):
    network, session = improved

    def predict(part):
        return session.run(network.normalised_logits, {network.inputs: part, network.training: True})

    losses = [score_in_chunks(predict, IMAGES, LABELS, chunk=chunk).loss for chunk in (1, 5, N)]
    assert np.ptp(losses) > 0.1


def test_predicting_changes_nothing(improved, improved_predictor):
    network, session = improved
    variables = network.graph.get_collection("variables")
    before = session.run(variables)
    score_in_chunks(improved_predictor, IMAGES, LABELS, chunk=5)
    assert all(np.array_equal(a, b) for a, b in zip(before, session.run(variables), strict=True))
