"""One network written three ways: the same outputs, gradients, moving statistics and Adam step."""

import math

import numpy as np
import pytest

from bncourse.keras_models import build_deep_model, graph_step, keras, largest_difference, model_step, read_model
from bncourse.nn import Adam
from bncourse.tf_layers import tf, tf1
from bncourse.tf_layers.deep_network import build_deep_network
from bncourse.tf_layers.deep_network_tf_nn import build_tf_nn_network
from bncourse.tf_layers.network import ImageNetwork

LAYERS, MOMENTUM = 3, 0.75  # float32 holds this momentum exactly
RNG = np.random.default_rng(0)
IMAGES = RNG.random((12, 28, 28, 1), dtype=np.float32)
LABELS = np.eye(10, dtype=np.float32)[RNG.integers(0, 10, 12)]


def random_weights(seed=1):
    """Weights for which no gamma is 1 and no beta is 0, so that a layer left out shows."""
    rng = np.random.default_rng(seed)
    weights = read_model(build_deep_model(conv_layers=LAYERS, seed=seed))
    for name, value in weights.items():
        if "kernel" not in name:
            value[:] = rng.uniform(0.5, 1.5, value.shape)
    return weights


WEIGHTS = random_weights()


def tf_layers_network(dtype):
    """The network with tf.layers in another type, where no kernel is fused; written anew."""
    with tf1.Graph().as_default() as graph:
        inputs, labels = tf1.placeholder(dtype, (None, 28, 28, 1)), tf1.placeholder(dtype, (None, 10))
        training = tf1.placeholder(tf.bool, ())
        layer = inputs
        for depth in range(1, LAYERS + 1):
            layer = tf1.layers.conv2d(layer, 4 * depth, 3, 2 if depth == 3 else 1, "same", use_bias=False)
            layer = tf.nn.relu(tf1.layers.batch_normalization(layer, momentum=MOMENTUM, training=training))
        layer = tf1.layers.dense(tf.reshape(layer, (-1, math.prod(layer.shape[1:]))), 100, use_bias=False)
        layer = tf.nn.relu(tf1.layers.batch_normalization(layer, momentum=MOMENTUM, training=training))
        logits = tf1.layers.dense(layer, 10)
        loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits))
        updates = tuple(graph.get_collection(tf1.GraphKeys.UPDATE_OPS))
        with tf.control_dependencies(updates):
            train_op = tf1.train.AdamOptimizer(0.002).minimize(loss)
        start = tf1.global_variables_initializer()
        return ImageNetwork(graph, inputs, labels, training, logits, loss, loss, train_op, updates, start)


@pytest.fixture(scope="module")
def exact():
    """The three in float64."""
    return {
        "keras": model_step(
            build_deep_model(conv_layers=LAYERS, momentum=MOMENTUM, dtype="float64"), WEIGHTS, IMAGES, LABELS
        ),
        "tf.nn": graph_step(
            build_tf_nn_network(conv_layers=LAYERS, momentum=MOMENTUM, dtype="float64"), WEIGHTS, IMAGES, LABELS
        ),
        "tf.layers": graph_step(tf_layers_network(tf.float64), WEIGHTS, IMAGES, LABELS),
    }


@pytest.fixture(scope="module")
def single():
    """The three in float32, as programs have them."""
    return {
        "keras": model_step(build_deep_model(conv_layers=LAYERS, momentum=MOMENTUM), WEIGHTS, IMAGES, LABELS),
        "tf.nn": graph_step(build_tf_nn_network(conv_layers=LAYERS, momentum=MOMENTUM), WEIGHTS, IMAGES, LABELS),
        "as tf.layers": graph_step(
            build_tf_nn_network(conv_layers=LAYERS, momentum=MOMENTUM, moving_variance="as tf.layers"),
            WEIGHTS,
            IMAGES,
            LABELS,
        ),
        "tf.layers": graph_step(build_deep_network(conv_layers=LAYERS, momentum=MOMENTUM), WEIGHTS, IMAGES, LABELS),
    }


@pytest.mark.parametrize("name", ["tf.nn", "tf.layers"])
def test_in_float64_outputs_gradients_and_moving_statistics_are_the_same(exact, name):
    one, other = exact["keras"], exact[name]
    assert one.inference.dtype == one.training.dtype == other.training.dtype == np.float64
    np.testing.assert_allclose(other.inference, one.inference, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(other.training, one.training, rtol=1e-11, atol=1e-11)
    assert abs(one.loss - other.loss) < 1e-12
    assert largest_difference(one.gradients, other.gradients) < 1e-9
    # tf.layers rounds its momentum to float32 (0.75 is exact there) and Keras nothing.
    assert largest_difference(one.moving, other.moving) < 1e-7


def test_the_two_modes_and_all_sets_of_numbers_are_different_ones(exact):
    step = exact["keras"]
    assert np.abs(step.inference - step.training).max() > 0.1
    assert min(np.abs(gradient).max() for gradient in step.gradients.values()) > 1e-6
    assert len(step.moving) == 2 * (LAYERS + 1)
    assert all(np.abs(value - WEIGHTS[name]).max() > 1e-4 for name, value in step.after.items())


@pytest.mark.parametrize("name", ["tf.nn", "tf.layers"])
def test_one_step_of_adam_is_the_same_with_the_same_epsilon(exact, name):
    # Keras raises its betas to the step's power in float32, which moves each step by some millionths of itself.
    for weight, value in exact["keras"].trained.items():
        np.testing.assert_allclose(exact[name].after[weight], value, rtol=0, atol=0.002 * 1e-4)


def test_that_step_is_adams_with_epsilon_beside_the_uncorrected_root(exact):
    step = exact["keras"]
    for form, right in (("uncorrected", True), ("corrected", False)):
        parameters = {name: WEIGHTS[name].astype(np.float64) for name in step.gradients}
        Adam(0.002, epsilon=1e-8, epsilon_beside=form).update(parameters, step.gradients)
        agree = all(np.allclose(parameters[name], step.after[name], rtol=0, atol=2e-7) for name in parameters)
        assert agree is right


def test_the_default_epsilons_differ_by_ten():
    with tf1.Graph().as_default():
        then = tf1.train.AdamOptimizer()._epsilon
    assert then == 1e-8
    assert keras.optimizers.Adam().epsilon == 1e-7


@pytest.mark.parametrize("name", ["keras", "tf.nn", "tf.layers"])
def test_in_float32_each_is_off_from_float64_by_rounding(single, exact, name):
    step, truth = single[name], exact["keras"]
    np.testing.assert_allclose(step.inference, truth.inference, rtol=0, atol=1e-3)
    np.testing.assert_allclose(step.training, truth.training, rtol=0, atol=5e-3)
    assert abs(step.loss - truth.loss) < 1e-3


def test_the_fused_kernel_averages_the_sample_variance_and_only_behind_convolutions(single):
    for index, name in enumerate(["batch_normalization", "batch_normalization_1", "batch_normalization_2"]):
        side = 14 if index == 2 else 28
        n = len(IMAGES) * side * side
        old = WEIGHTS[f"{name}/moving_variance"].astype(np.float64)
        fused, keras_ = (
            (single[who].after[f"{name}/moving_variance"] - MOMENTUM * old) / (1 - MOMENTUM)
            for who in ("tf.layers", "keras")
        )
        np.testing.assert_allclose(fused / keras_, n / (n - 1), rtol=0, atol=0.3 / n)
    dense = "batch_normalization_3/moving_variance"
    np.testing.assert_allclose(single["tf.layers"].after[dense], single["keras"].after[dense], rtol=1e-4)


def test_the_twin_can_average_as_tf_layers_does(single):
    for name, value in single["tf.layers"].moving.items():
        np.testing.assert_allclose(single["as tf.layers"].after[name], value, rtol=1e-5, atol=1e-6)


def test_difference_is_relative_to_the_largest_number():
    assert largest_difference({"a": [1.0, 100.0]}, {"a": [2.0, 100.0]}) == pytest.approx(0.01)
    assert largest_difference({"a": [0.0]}, {"a": [0.0]}) == 0


@pytest.mark.parametrize(("one", "other"), [({}, {}), ({"a": [1.0]}, {"b": [1.0]})])
def test_difference_of_other_names_is_refused(one, other):
    with pytest.raises(ValueError, match="the two hold other names"):
        largest_difference(one, other)


def test_a_difference_that_is_no_number_shows():
    nan = float("nan")
    assert np.isnan(largest_difference({"a": [1.0], "b": [nan], "c": [2.0]}, {"a": [1.0], "b": [1.0], "c": [2.0]}))
