"""Article A's network as a graph: its shape, its start, and what one training step does to it."""

import numpy as np
import pytest

from bncourse.nn import BatchNorm
from bncourse.tf_layers import tf, tf1
from bncourse.tf_layers.deep_network import build_deep_network, conv_layer, fully_connected

RNG = np.random.default_rng(0)
IMAGES = RNG.random((16, 28, 28, 1), dtype=np.float32)
LABELS = np.eye(10, dtype=np.float32)[RNG.integers(0, 10, 16)]


@pytest.fixture(scope="module")
def full():
    return build_deep_network(seed=0)


@pytest.fixture(scope="module")
def plain():
    return build_deep_network(seed=0, batch_norm=False)


def feed(network, training):
    return {network.inputs: IMAGES, network.labels: LABELS, network.training: training}


def variables(network, part=""):
    return {v.op.name: v for v in network.graph.get_collection("variables") if part in v.op.name}


def convolutions(network):
    return [op for op in network.graph.get_operations() if op.type == "Conv2D"]


def outputs_of(build, x, training):
    """Run one layer, freshly initialised, on x; return its kernel and its outputs."""
    with tf1.Graph().as_default(), tf1.Session() as session:
        tf1.set_random_seed(1)
        mode = tf1.placeholder(tf.bool, ())
        inputs = tf1.placeholder(tf.float32, (None, *x.shape[1:]))
        layer = build(inputs, mode)
        session.run(tf1.global_variables_initializer())
        names = [v.op.name.split("/")[-1] for v in tf1.global_variables()]
        return names, session.run(tf1.global_variables()[0]), session.run(layer, {inputs: x, mode: training})


def test_there_are_19_convolutions_not_20(full):
    assert len(convolutions(full)) == 19


def test_feature_maps_grow_by_four_a_layer_and_every_third_strides(full):
    convs = convolutions(full)
    assert [op.outputs[0].shape[-1] for op in convs] == [4 * depth for depth in range(1, 20)]
    assert [op.get_attr("strides")[1] for op in convs] == [1, 1, 2] * 6 + [1]
    sides = [28, 28, 14, 14, 14, 7, 7, 7, 4, 4, 4, 2, 2, 2, 1, 1, 1, 1, 1]
    assert [op.outputs[0].shape[1] for op in convs] == sides
    assert {tuple(variables(full)[name].shape[:2]) for name in variables(full, "conv2d") if "Adam" not in name} == {
        (3, 3)
    }


def test_with_bn_only_the_logits_have_a_bias(full):
    biases = [name for name in variables(full, "bias") if "Adam" not in name]
    assert biases == ["dense_1/bias"]
    assert len(variables(full, "moving_mean")) == 20


def test_without_bn_every_layer_has_a_bias(plain):
    assert len([name for name in variables(plain, "bias") if "Adam" not in name]) == 21
    assert plain.update_ops == ()
    assert not variables(plain, "batch_normalization")


def test_every_bn_layer_registers_two_update_ops(full):
    assert len(full.update_ops) == 40


def test_momentum_reaches_every_layer():
    network = build_deep_network(conv_layers=2, momentum=0.75)
    with tf1.Session(graph=network.graph) as session:
        session.run(network.initializer)
        session.run(network.train_op, feed(network, True))
        first = session.run(list(variables(network, "moving_variance").values()))
        zeros = {**feed(network, True), network.inputs: np.zeros_like(IMAGES)}
        session.run(network.train_op, zeros)  # without ink the batch variance is 0 up to the first BN
        second = session.run(list(variables(network, "moving_variance").values()))
    np.testing.assert_allclose(second[0], 0.75 * first[0], rtol=1e-5)
    assert len(first) == 3


def test_the_first_loss_in_inference_mode_is_ln_2(full, plain):
    for network in (full, plain):
        with tf1.Session(graph=network.graph) as session:
            session.run(network.initializer)
            assert session.run(network.loss, feed(network, False)) == pytest.approx(np.log(2), abs=1e-3)


def test_the_first_loss_in_training_mode_is_not(full):
    with tf1.Session(graph=full.graph) as session:
        session.run(full.initializer)
        assert session.run(full.loss, feed(full, True)) > np.log(2) + 0.03


def test_the_loss_is_the_sigmoid_cross_entropy(full):
    with tf1.Session(graph=full.graph) as session:
        session.run(full.initializer)
        logits, loss = session.run([full.logits, full.loss], feed(full, True))
    z = logits.astype(np.float64)
    expected = np.mean(LABELS * np.log1p(np.exp(-z)) + (1 - LABELS) * np.log1p(np.exp(z)))
    assert loss == pytest.approx(expected, rel=1e-5)


def test_accuracy_compares_the_largest_logit_with_the_label(full):
    with tf1.Session(graph=full.graph) as session:
        session.run(full.initializer)
        logits = session.run(full.logits, feed(full, True))
        labels = np.eye(10, dtype=np.float32)[logits.argmax(1)]
        labels[:4] = np.roll(labels[:4], 1, axis=1)
        assert session.run(full.accuracy, {**feed(full, True), full.labels: labels}) == 0.75


@pytest.mark.parametrize("update_ops", [True, False])
def test_a_step_moves_the_statistics_only_with_the_dependency(update_ops):
    network = build_deep_network(conv_layers=2, update_ops=update_ops)
    with tf1.Session(graph=network.graph) as session:
        session.run(network.initializer)
        moving = list(variables(network, "moving_").values())
        before = session.run(moving)
        session.run(network.train_op, feed(network, True))
        moved = [not np.array_equal(old, new) for old, new in zip(before, session.run(moving), strict=True)]
    assert moved == [update_ops] * 6


def test_scoring_in_training_mode_moves_no_statistics():
    network = build_deep_network(conv_layers=2)
    with tf1.Session(graph=network.graph) as session:
        session.run(network.initializer)
        moving = list(variables(network, "moving_").values())
        before = session.run(moving)
        session.run([network.loss, network.accuracy], feed(network, True))
        assert all(np.array_equal(old, new) for old, new in zip(before, session.run(moving), strict=True))


def test_training_lowers_the_loss():
    network = build_deep_network(conv_layers=3, learning_rate=0.01)
    with tf1.Session(graph=network.graph) as session:
        session.run(network.initializer)
        first = session.run(network.loss, feed(network, True))
        for _ in range(15):
            session.run(network.train_op, feed(network, True))
        assert session.run(network.loss, feed(network, True)) < first / 2


def test_a_seed_fixes_the_start_weights_and_another_changes_them():
    def start(seed):
        network = build_deep_network(conv_layers=2, seed=seed)
        with tf1.Session(graph=network.graph) as session:
            session.run(network.initializer)
            return session.run(network.logits, feed(network, True))

    np.testing.assert_array_equal(start(5), start(5))
    assert not np.array_equal(start(5), start(6))


@pytest.mark.parametrize("training", [True, False])
def test_fully_connected_is_dense_bn_relu(training):
    x = RNG.normal(size=(8, 5)).astype(np.float32)
    names, kernel, y = outputs_of(lambda inputs, mode: fully_connected(inputs, 3, mode), x, training)
    assert names == ["kernel", "gamma", "beta", "moving_mean", "moving_variance"]
    np.testing.assert_allclose(y, np.maximum(BatchNorm()(x @ kernel, training=training), 0), atol=1e-5)


def test_fully_connected_without_bn_has_a_bias():
    x = RNG.normal(size=(8, 5)).astype(np.float32)
    names, kernel, y = outputs_of(lambda inputs, mode: fully_connected(inputs, 3, mode, batch_norm=False), x, True)
    assert names == ["kernel", "bias"]
    np.testing.assert_allclose(y, np.maximum(x @ kernel, 0), atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_conv_layer_is_convolution_bn_relu(training):
    # On images of one pixel only the kernel's centre meets anything but padding.
    x = RNG.normal(size=(8, 1, 1, 5)).astype(np.float32)
    names, kernel, y = outputs_of(lambda inputs, mode: conv_layer(inputs, 2, mode), x, training)
    assert names == ["kernel", "gamma", "beta", "moving_mean", "moving_variance"]
    z = x @ kernel[1, 1]
    # The fused kernel divides by n, as BatchNorm does, where it normalises; only its moving variance differs.
    np.testing.assert_allclose(y, np.maximum(BatchNorm()(z, training=training), 0), atol=1e-5)


def test_conv_layer_without_bn_has_a_bias_and_a_relu():
    x = RNG.normal(size=(8, 1, 1, 5)).astype(np.float32)
    names, kernel, y = outputs_of(lambda inputs, mode: conv_layer(inputs, 2, mode, batch_norm=False), x, True)
    assert names == ["kernel", "bias"]
    np.testing.assert_allclose(y, np.maximum(x @ kernel[1, 1], 0), atol=1e-5)


@pytest.mark.parametrize(
    ("argument", "value", "error", "message"),
    [
        ("momentum", 1.5, ValueError, r"momentum = 1\.5; expected a number in \[0, 1\]"),
        ("learning_rate", 0.0, ValueError, r"learning_rate = 0\.0; expected a finite number > 0"),
        ("learning_rate", float("inf"), ValueError, r"learning_rate = inf; expected a finite number > 0"),
        ("conv_layers", 0, ValueError, r"conv_layers = 0; expected an integer >= 1"),
        ("conv_layers", 2.0, TypeError, r"conv_layers = 2\.0; expected an integer"),
        ("seed", -1, ValueError, r"seed = -1; expected an integer >= 0"),
        ("seed", True, TypeError, r"seed = True; expected an integer"),
    ],
)
def test_impossible_arguments_are_refused(argument, value, error, message):
    with pytest.raises(error, match=message):
        build_deep_network(**{argument: value})
