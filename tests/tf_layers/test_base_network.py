"""Article E's base network: its layers and sizes, its numbers beside the NumPy layers', one step, half precision."""

import numpy as np
import pytest

from bncourse.nn import Conv2D, Dense, Flatten, MaxPool, ReLU, Sequential
from bncourse.tf_layers import tf, tf1
from bncourse.tf_layers.base_network import build_base_network

RNG = np.random.default_rng(0)
IMAGES = RNG.random((20, 28, 28, 1), np.float32)
NUMBERS = np.arange(20) % 10
LABELS = np.eye(10, dtype=np.float32)[NUMBERS]


@pytest.fixture(scope="module")
def network():
    return build_base_network(seed=0)


@pytest.fixture
def session(network):
    with tf1.Session(graph=network.graph) as session:
        session.run(network.initializer)
        yield session


def feed(network):
    return {network.inputs: IMAGES, network.labels: LABELS}


def operations(network, kind):
    """Return the operations of one kind, without those of the gradients."""
    return [op for op in network.graph.get_operations() if op.type == kind and not op.name.startswith("gradients")]


def trainable(network):
    return {v.op.name: v for v in network.graph.get_collection("trainable_variables")}


def numpy_network(weights, maps=(16, 32), strides=(1, 2), units=32):
    """Return the same network of NumPy layers, with the given weights, in float64."""
    layers = []
    for number, stride in zip(maps, strides, strict=True):
        layers += [Conv2D(number, 3, stride, "same"), ReLU()]
    layers += [MaxPool(2), Flatten(), Dense(units), ReLU(), Dense(10)]
    network = Sequential(layers)
    network(IMAGES[:1].astype(np.float64), training=False)
    values = (value.astype(np.float64) for value in weights)
    network.set_weights(dict(zip(network.weights, values, strict=True)))
    return network


# The graph


def test_the_layers_are_the_articles(network):
    kinds = ("Conv2D", "Relu", "MaxPool", "MatMul")
    ops = [op for op in network.graph.get_operations() if op.type in kinds and not op.name.startswith("gradients")]
    assert [(op.type, tuple(op.outputs[0].shape[1:])) for op in ops] == [
        ("Conv2D", (28, 28, 16)),
        ("Relu", (28, 28, 16)),
        ("Conv2D", (14, 14, 32)),
        ("Relu", (14, 14, 32)),
        ("MaxPool", (7, 7, 32)),
        ("MatMul", (32,)),
        ("Relu", (32,)),
        ("MatMul", (10,)),
    ]


def test_strides_padding_and_pooling_are_the_articles(network):
    found = [(list(op.get_attr("strides")), op.get_attr("padding")) for op in operations(network, "Conv2D")]
    assert found == [([1, 1, 1, 1], b"SAME"), ([1, 2, 2, 1], b"SAME")]
    [pool] = operations(network, "MaxPool")
    assert list(pool.get_attr("ksize")) == list(pool.get_attr("strides")) == [1, 2, 2, 1]
    assert pool.get_attr("padding") == b"VALID"


def test_the_parameters(network):
    assert {name: tuple(v.shape) for name, v in trainable(network).items()} == {
        "conv2d/kernel": (3, 3, 1, 16),
        "conv2d/bias": (16,),
        "conv2d_1/kernel": (3, 3, 16, 32),
        "conv2d_1/bias": (32,),
        "dense/kernel": (7 * 7 * 32, 32),
        "dense/bias": (32,),
        "dense_1/kernel": (32, 10),
        "dense_1/bias": (10,),
    }


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("inputs", (None, 28, 28, 1), tf.float32),
        ("labels", (None, 10), tf.float32),
        ("training", (), tf.bool),
        ("logits", (None, 10), tf.float32),
        ("loss", (), tf.float32),
        ("accuracy", (), tf.float32),
        ("learning_rate", (), tf.float32),
    ],
)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_ends_of_the_graph_are_the_same_in_every_precision(name, shape, dtype, precision):
    network = build_base_network(precision=precision)
    tensor = getattr(network, name)
    assert (tuple(tensor.shape), tensor.dtype.base_dtype, tensor.graph) == (shape, dtype, network.graph)


def test_there_is_no_bn_and_so_no_update(network):
    assert network.update_ops == ()
    assert not [v.name for v in network.graph.get_collection("variables") if "moving" in v.name]


def test_each_network_has_a_graph_of_its_own(network):
    assert network.graph not in (build_base_network().graph, tf1.get_default_graph())
    assert tf1.get_default_graph().get_operations() == []


# What it computes


@pytest.mark.parametrize(
    "options",
    [{}, {"maps": (3,), "strides": (3,), "units": 5}, {"maps": [4, 2, 3], "strides": [2, 1, 2], "units": 7}],
    ids=["article", "one", "three"],
)
def test_logits_loss_and_accuracy_are_those_of_the_numpy_layers(options):
    network = build_base_network(**options, seed=4)
    with tf1.Session(graph=network.graph) as session:
        session.run(network.initializer)
        for _ in range(3):  # so that the biases are not zero
            session.run(network.train_op, feed(network))
        weights = session.run(list(trainable(network).values()))
        logits, loss, accuracy = session.run([network.logits, network.loss, network.accuracy], feed(network))
    expected = numpy_network(weights, **options)(IMAGES.astype(np.float64), training=False)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    likelihood = np.exp(expected[np.arange(20), NUMBERS]) / np.exp(expected).sum(axis=1)
    assert loss == pytest.approx(-np.log(likelihood).mean(), abs=1e-5)
    assert accuracy == pytest.approx(np.mean(expected.argmax(axis=1) == NUMBERS))


def test_the_mode_changes_nothing_and_need_not_be_fed(network, session):
    unfed = session.run(network.logits, {network.inputs: IMAGES})
    for mode in (True, False):
        assert np.array_equal(unfed, session.run(network.logits, {network.inputs: IMAGES, network.training: mode}))


def test_the_logits_of_a_blank_image_are_zero_at_the_start(network, session):
    assert np.array_equal(session.run(network.logits, {network.inputs: 0 * IMAGES}), np.zeros((20, 10)))


def test_training_lowers_the_loss(network, session):
    first = session.run(network.loss, feed(network))
    assert first == pytest.approx(np.log(10), abs=0.3)
    for _ in range(40):
        session.run(network.train_op, feed(network))
    assert session.run(network.loss, feed(network)) < 0.9 * first


@pytest.mark.parametrize("rate", [None, 0.125])
def test_adams_first_step_is_as_long_as_the_learning_rate(network, session, rate):
    bias = trainable(network)["dense_1/bias"]
    session.run(network.train_op, feed(network) | ({} if rate is None else {network.learning_rate: rate}))
    # But for the epsilon of Adam, 1e-8 / sqrt(1 - 0.999) beside the gradient.
    np.testing.assert_allclose(np.abs(session.run(bias)), rate or 0.001, rtol=1e-2)


def test_a_seed_fixes_the_start_weights_and_another_changes_them():
    def start(seed):
        network = build_base_network(seed=seed)
        with tf1.Session(graph=network.graph) as session:
            session.run(network.initializer)
            return session.run(list(trainable(network).values()))

    first, second, other = start(5), start(5), start(6)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    kernels = [(a, b) for a, b in zip(first, other, strict=True) if a.ndim > 1]
    assert len(kernels) == 4
    assert not any(np.array_equal(a, b) for a, b in kernels)


# Half precision


@pytest.mark.parametrize(("precision", "bits"), [("float16", 11), ("bfloat16", 8)])
def test_half_precision_rounds_activations_and_keeps_variables(precision, bits):
    network, full = build_base_network(precision=precision, seed=2), build_base_network(seed=2)
    assert {v.dtype.base_dtype for v in network.graph.get_collection("variables")} == {tf.float32}
    for kind in ("Conv2D", "Relu", "MaxPool", "MatMul"):
        assert {op.outputs[0].dtype.name for op in operations(network, kind)} == {precision}
    logits = []
    for each in (network, full):
        with tf1.Session(graph=each.graph) as session:
            session.run(each.initializer)
            logits.append(session.run(each.logits, {each.inputs: IMAGES}))
    difference = np.abs(logits[0] - logits[1]).max()
    # A rounding is at most 2**-bits of a number; some roundings pile up, and of numbers as large as the logits.
    assert 0 < difference < 8 * 2.0**-bits * np.abs(logits[1]).max()


def test_half_precision_has_the_variables_of_full_precision_under_the_same_names():
    names = [sorted(trainable(build_base_network(precision=kind))) for kind in ("float32", "float16", "bfloat16")]
    assert names[0] == names[1] == names[2]


# Options


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"maps": (16, 0)}, ValueError, "maps = 0; expected an integer >= 1."),
        ({"maps": (16, 2.0)}, TypeError, "maps = 2.0; expected an integer."),
        ({"strides": (1, 0)}, ValueError, "strides = 0; expected an integer >= 1."),
        ({"strides": ("1", 2)}, TypeError, "strides = '1'; expected an integer."),
        (
            {"maps": (16,)},
            ValueError,
            "maps = (16,), strides = (1, 2); expected one stride for each of 1 or more convolutions.",
        ),
        (
            {"maps": (), "strides": ()},
            ValueError,
            "maps = (), strides = (); expected one stride for each of 1 or more convolutions.",
        ),
        (
            {"strides": (4, 7)},
            ValueError,
            "strides = (4, 7) leave a side of 1; expected 2 or more for the 2x2 pooling.",
        ),
        ({"units": 0}, ValueError, "units = 0; expected an integer >= 1."),
        ({"units": True}, TypeError, "units = True; expected an integer."),
        (
            {"precision": "float64"},
            ValueError,
            "precision = 'float64'; expected one of 'float32', 'float16', 'bfloat16'.",
        ),
        ({"learning_rate": 0}, ValueError, "learning_rate = 0; expected a finite number > 0, for example 0.002."),
        ({"seed": -1}, ValueError, "seed = -1; expected an integer >= 0."),
        ({"seed": 1.0}, TypeError, "seed = 1.0; expected an integer."),
    ],
)
def test_impossible_options_are_refused(options, error, message):
    with pytest.raises(error) as caught:
        build_base_network(**options)
    assert str(caught.value) == message
