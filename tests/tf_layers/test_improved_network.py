"""Article E's improved network: its layers in their order, its two modes, its two accuracies."""

from itertools import groupby

import numpy as np
import pytest

from bncourse.tf_layers import tf, tf1
from bncourse.tf_layers.improved_network import DROPOUT_RATES, build_improved_network

pytestmark = pytest.mark.filterwarnings(r"ignore:`tf\.layers\.\w+` is deprecated:UserWarning")

BATCH = 24
RNG = np.random.default_rng(0)
LABELS = np.arange(BATCH) % 10
#: Noise, and a bright bar whose height tells the class.
IMAGES = RNG.random((BATCH, 28, 28, 1), np.float32) / 2
IMAGES[np.arange(BATCH), 2 * LABELS + 4] += 0.5

#: Layers in front of each BN, BN itself, and the number of its channels.
NORMALISED = [
    ("conv2d", "batch_normalization", 16),
    ("conv2d_1", "batch_normalization_1", 32),
    ("dense", "batch_normalization_2", 32),
    ("output", "batch_normalization_3", 10),
]


@pytest.fixture(scope="module")
def network():
    return build_improved_network()


@pytest.fixture(scope="module")
def other():
    """Another network, with none of the default options."""
    return build_improved_network(momentum=0.25, learning_rate=0.125, seed=3)


@pytest.fixture
def session(network):
    """A fresh session."""
    with tf1.Session(graph=network.graph) as session:
        session.run(network.initializer)
        yield session


@pytest.fixture(scope="module")
def trained(network):
    """A session after 30 steps on one batch, for tests that train no further."""
    with tf1.Session(graph=network.graph) as session:
        session.run(network.initializer)
        for _ in range(30):
            session.run(network.train_op, feed(network, training=True))
        yield session


def feed(network, *, training, images=IMAGES, labels=LABELS):
    return {network.inputs: images, network.labels: labels, network.training: training}


def on_the_way(network):
    """Return the operations on the way from the images to the normalised logits, in the order of execution."""
    behind, ways = {network.inputs.op}, [network.normalised_logits.op]
    for operation in network.graph.get_operations():  # inputs always come first
        if any(tensor.op in behind for tensor in operation.inputs):
            behind.add(operation)
    ahead = set()
    while ways:
        operation = ways.pop()
        if operation not in ahead:
            ahead.add(operation)
            ways.extend(tensor.op for tensor in operation.inputs)
    return [operation for operation in network.graph.get_operations() if operation in behind & ahead]


def operation(network, kind):
    """Return the operations of one kind on the way."""
    return [op for op in on_the_way(network) if op.type == kind]


def variables(network):
    return {v.name.removesuffix(":0"): v for v in network.graph.get_collection("variables")}


# The graph


def test_the_layers_stand_in_the_articles_order(network):
    scopes = [scope for scope, _ in groupby(on_the_way(network), lambda op: op.name.split("/")[0])]
    assert scopes == [
        *("inputs", "conv2d", "batch_normalization", "Selu"),
        *("conv2d_1", "batch_normalization_1", "Selu_1"),
        *("max_pooling2d", "flatten", "dropout"),
        *("dense", "batch_normalization_2", "Selu_2", "dropout_1"),
        *("output", "batch_normalization_3"),
    ]


def test_two_convolutions_keep_the_size(network):
    convolutions = operation(network, "Conv2D")
    assert [tuple(op.outputs[0].shape) for op in convolutions] == [(None, 28, 28, 16), (None, 28, 28, 32)]
    assert [(list(op.get_attr("strides")), op.get_attr("padding")) for op in convolutions] == [([1] * 4, b"SAME")] * 2


def test_pooling_halves_the_size(network):
    [pool] = operation(network, "MaxPool")
    assert tuple(pool.outputs[0].shape) == (None, 14, 14, 32)
    assert list(pool.get_attr("ksize")) == list(pool.get_attr("strides")) == [1, 2, 2, 1]


def test_the_dense_layers_have_32_units_and_10_logits(network):
    assert [op.outputs[0].shape[1] for op in operation(network, "MatMul")] == [32, 10]


def test_the_weights(network):
    shapes = {v.name.removesuffix(":0"): tuple(v.shape) for v in network.graph.get_collection("trainable_variables")}
    expected = {
        "conv2d/kernel": (3, 3, 1, 16),
        "conv2d_1/kernel": (3, 3, 16, 32),
        "dense/kernel": (14 * 14 * 32, 32),
        "output/kernel": (32, 10),
    }
    for layer, bn, channels in NORMALISED:
        expected |= dict.fromkeys((f"{layer}/bias", f"{bn}/gamma", f"{bn}/beta"), (channels,))
    assert shapes == expected


def test_the_moving_statistics_are_variables_but_not_trained(network):
    statistics = {name: tuple(v.shape) for name, v in variables(network).items() if "moving" in name}
    assert statistics == {f"{bn}/moving_{what}": (n,) for _, bn, n in NORMALISED for what in ("mean", "variance")}
    assert not [v for v in network.graph.get_collection("trainable_variables") if "moving" in v.name]


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("inputs", (None, 28, 28, 1), tf.float32),
        ("labels", (None,), tf.int64),
        ("training", (), tf.bool),
        ("logits", (None, 10), tf.float32),
        ("normalised_logits", (None, 10), tf.float32),
        ("loss", (), tf.float32),
        ("accuracy_before", (), tf.float32),
        ("accuracy_after", (), tf.float32),
    ],
)
def test_the_ends_of_the_graph(network, name, shape, dtype):
    tensor = getattr(network, name)
    assert (tuple(tensor.shape), tensor.dtype.base_dtype, tensor.graph) == (shape, dtype, network.graph)


def test_each_network_has_a_graph_of_its_own(network, other):
    assert len({network.graph, other.graph, tf1.get_default_graph()}) == 3
    assert tf1.get_default_graph().get_operations() == []


# Batch Normalization in training


@pytest.mark.parametrize("what", ["update_ops", "train_op"])
def test_each_step_moves_the_statistics_a_tenth_of_the_way(network, session, what):
    inputs = {bn: network.graph.get_tensor_by_name(f"{layer}/BiasAdd:0") for layer, bn, _ in NORMALISED}
    # One run: the BN inputs are those of the very dropout that the updates saw.
    seen, _ = session.run((inputs, getattr(network, what)), feed(network, training=True))
    moved = session.run(variables(network))
    for bn, array in seen.items():
        rows = array.reshape(-1, array.shape[-1]).astype(np.float64)
        # TensorFlow's fused BN, which serves images, divides by n - 1 for the moving variance.
        variance = rows.var(axis=0, ddof=1 if array.ndim == 4 else 0)
        np.testing.assert_allclose(moved[f"{bn}/moving_mean"], 0.1 * rows.mean(axis=0), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(moved[f"{bn}/moving_variance"], 0.9 + 0.1 * variance, rtol=1e-4)


def test_there_are_two_updates_for_each_bn(network):
    assert len(network.update_ops) == 8
    assert sorted(op.name.split("/")[0] for op in network.update_ops) == sorted(2 * [bn for _, bn, _ in NORMALISED])


def test_updates_alone_train_nothing(network, session):
    names = network.graph.get_collection("trainable_variables")
    before = session.run(names)
    session.run(network.update_ops, feed(network, training=True))
    assert all(np.array_equal(a, b) for a, b in zip(before, session.run(names), strict=True))


def test_out_of_training_the_statistics_do_not_move(network, session):
    before = session.run(variables(network))
    session.run([network.loss, *network.update_ops], feed(network, training=False))
    after = session.run(variables(network))
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_the_momentum_is_an_option(other):
    with tf1.Session(graph=other.graph) as session:
        session.run(other.initializer)
        logits, _ = session.run((other.logits, other.update_ops), feed(other, training=True))
        moving_mean = session.run(variables(other)["batch_normalization_3/moving_mean"])
    np.testing.assert_allclose(moving_mean, 0.75 * logits.mean(axis=0), rtol=1e-3, atol=1e-5)


def test_in_training_the_last_bn_normalises_over_the_batch(network, session):
    scores = session.run(network.normalised_logits, feed(network, training=True))
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=1e-5)
    assert np.all(np.abs(scores.var(axis=0) - 1) < 0.05)


def test_the_biases_in_front_of_bn_do_nothing_in_training(network, session):
    with network.graph.as_default():
        biases = [variables(network)[f"{layer}/bias"] for layer, _, _ in NORMALISED]
        kernels = [variables(network)[f"{layer}/kernel"] for layer, _, _ in NORMALISED]
        gradients = tf1.gradients(network.loss, biases + kernels)
    norms = [np.abs(g).max() for g in session.run(gradients, feed(network, training=True))]
    assert max(norms[:4]) < 1e-4 * max(norms[4:])


# Dropout


@pytest.mark.parametrize(
    ("before", "after", "rate"),
    [("flatten/Reshape:0", "dropout/cond/Identity:0", 0.25), ("Selu_2:0", "dropout_1/cond/Identity:0", 0.5)],
)
def test_dropout_drops_its_share_and_scales_up_the_rest(network, session, before, after, rate):
    batch = feed(network, training=True, images=np.tile(IMAGES, (10, 1, 1, 1)), labels=np.tile(LABELS, 10))
    x, y = session.run((before, after), batch)
    kept = y != 0
    # Five standard deviations of a binomial share.
    assert abs((1 - kept.mean()) - rate) < 5 * np.sqrt(rate * (1 - rate) / kept.size)
    np.testing.assert_allclose(y[kept], x[kept] / (1 - rate), rtol=1e-5)


def test_the_rates_are_told():
    assert DROPOUT_RATES == (0.25, 0.5)


# Inference


def test_inference_is_the_same_every_time(network, trained):
    first, second = (trained.run(network.normalised_logits, feed(network, training=False)) for _ in range(2))
    np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-5)


def test_in_inference_each_image_is_treated_by_itself(network, trained):
    together = trained.run(network.normalised_logits, feed(network, training=False))
    for part in (slice(0, 1), slice(5, 8)):
        alone = trained.run(network.normalised_logits, {network.inputs: IMAGES[part]})
        np.testing.assert_allclose(alone, together[part], rtol=1e-4, atol=1e-4)


def test_in_training_an_image_depends_on_its_batch(network, trained):
    # Behind the first BN, in front of any dropout.
    whole = trained.run("Selu:0", feed(network, training=True))
    pair = trained.run("Selu:0", feed(network, training=True, images=IMAGES[:2], labels=LABELS[:2]))
    assert np.abs(whole[:2] - pair).max() > 1e-2


def test_inference_is_the_default_mode(network, trained):
    default = trained.run(network.normalised_logits, {network.inputs: IMAGES})
    np.testing.assert_allclose(
        default, trained.run(network.normalised_logits, feed(network, training=False)), rtol=1e-5, atol=1e-5
    )


def test_inference_against_the_written_out_network(network, trained):
    v = {name: value.astype(np.float64) for name, value in trained.run(variables(network)).items()}

    def bn(x, name):
        scale = v[f"{name}/gamma"] / np.sqrt(v[f"{name}/moving_variance"] + 1e-3)
        return (x - v[f"{name}/moving_mean"]) * scale + v[f"{name}/beta"]

    def selu(x):
        return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0)))

    def convolve(x, name):
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (1, 2))
        return np.einsum("nhwcij,ijcm->nhwm", windows, v[f"{name}/kernel"], optimize=True) + v[f"{name}/bias"]

    x = selu(bn(convolve(IMAGES[:4].astype(np.float64), "conv2d"), "batch_normalization"))
    x = selu(bn(convolve(x, "conv2d_1"), "batch_normalization_1"))
    x = x.reshape(4, 14, 2, 14, 2, 32).max(axis=(2, 4)).reshape(4, -1)
    x = selu(bn(x @ v["dense/kernel"] + v["dense/bias"], "batch_normalization_2"))
    logits = x @ v["output/kernel"] + v["output/bias"]

    found = trained.run((network.logits, network.normalised_logits), {network.inputs: IMAGES[:4]})
    np.testing.assert_allclose(found[0], logits, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found[1], bn(logits, "batch_normalization_3"), rtol=1e-3, atol=1e-3)


# Loss and accuracies


def test_the_two_accuracies_read_different_tensors(network, session):
    scores = {
        network.logits: np.eye(10)[[0, 1, 2, 9]],
        network.normalised_logits: np.eye(10)[[0, 9, 9, 9]],
        network.labels: [0, 1, 2, 3],
    }
    assert network.accuracy_before is not network.accuracy_after
    assert session.run((network.accuracy_before, network.accuracy_after), scores) == (0.75, 0.25)


def test_the_loss_reads_the_normalised_logits(network, session):
    scores = {
        network.logits: np.zeros((2, 10)),
        network.normalised_logits: np.log([[0.91] + [0.01] * 9, [0.91] + [0.01] * 9]),
        network.labels: [0, 1],
    }
    assert session.run(network.loss, scores) == pytest.approx(-(np.log(0.91) + np.log(0.01)) / 2, rel=1e-5)


def test_the_last_bn_can_change_the_class(network, session):
    # gamma and beta of the last BN move another class to the front: the accuracies differ through the layer itself.
    variables(network)["batch_normalization_3/beta"].load(100 * np.eye(10, dtype=np.float32)[3], session)
    only_threes = feed(network, training=False, labels=np.full(BATCH, 3))
    before, after = session.run((network.accuracy_before, network.accuracy_after), only_threes)
    assert after == 1 > before


def test_training_lowers_the_loss_on_its_batch(network, session, trained):
    start = session.run(network.loss, feed(network, training=True))
    end = np.mean([trained.run(network.loss, feed(network, training=True)) for _ in range(5)])
    assert end < 0.6 * start


def test_training_moves_every_weight(network, session, trained):
    names = {v.name: v for v in network.graph.get_collection("trainable_variables") if "bias" not in v.name}
    start, end = session.run(names), trained.run(names)
    assert [name for name in names if np.array_equal(start[name], end[name])] == []


# Options


def test_adams_first_step_is_as_long_as_the_learning_rate(other):
    with tf1.Session(graph=other.graph) as session:
        session.run(other.initializer)
        beta = variables(other)["batch_normalization_3/beta"]
        session.run(other.train_op, feed(other, training=True))
        np.testing.assert_allclose(np.abs(session.run(beta)), 0.125, rtol=1e-3)


def test_the_seed_sets_start_weights_and_dropout(network, other):
    def start(network):
        with tf1.Session(graph=network.graph) as session:
            session.run(network.initializer)
            dropped = session.run("dropout/cond/Identity:0", feed(network, training=True)) == 0
            return session.run(variables(network)["dense/kernel"]), dropped

    weights, dropped = start(other)
    same_weights, same_dropped = start(build_improved_network(seed=3))
    other_weights, other_dropped = start(network)
    assert np.array_equal(weights, same_weights)
    assert np.array_equal(dropped, same_dropped)
    assert not np.array_equal(weights, other_weights)
    assert not np.array_equal(dropped, other_dropped)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"momentum": -0.1}, ValueError, "momentum = -0.1; expected a number in [0, 1]."),
        ({"momentum": 1.1}, ValueError, "momentum = 1.1; expected a number in [0, 1]."),
        ({"momentum": np.nan}, ValueError, "momentum = nan; expected a number in [0, 1]."),
        ({"learning_rate": 0}, ValueError, "learning_rate = 0; expected a finite number > 0, for example 0.002."),
        ({"learning_rate": -1.0}, ValueError, "learning_rate = -1.0; expected a finite number > 0, for example 0.002."),
        (
            {"learning_rate": np.inf},
            ValueError,
            "learning_rate = inf; expected a finite number > 0, for example 0.002.",
        ),
        (
            {"learning_rate": np.nan},
            ValueError,
            "learning_rate = nan; expected a finite number > 0, for example 0.002.",
        ),
        ({"seed": 1.0}, TypeError, "seed = 1.0; expected an integer."),
        ({"seed": True}, TypeError, "seed = True; expected an integer."),
        ({"seed": -1}, ValueError, "seed = -1; expected an integer >= 0."),
    ],
)
def test_impossible_options_are_refused(options, error, message):
    with pytest.raises(error) as caught:
        build_improved_network(**options)
    assert str(caught.value) == message


# Options


def test_bn_may_stand_behind_the_pooling_too():
    network = build_improved_network(normalise_pooled=True)
    assert len(network.update_ops) == 10
    kinds = [op.type for op in on_the_way(network) if op.type in ("MaxPool", "If", "Selu", "MatMul")]
    assert kinds.index("MaxPool") + 1 == kinds.index("If", kinds.index("MaxPool"))  # BN before the next dense layer


@pytest.mark.parametrize(
    ("options", "updates"),
    [
        ({"normalise_logits": False}, 6),
        ({"batch_norm": False}, 0),
        ({"batch_norm": False, "normalise_pooled": True}, 0),
    ],
)
def test_bn_may_be_left_out(options, updates):
    network = build_improved_network(**options)
    assert len(network.update_ops) == updates
    with tf1.Session(graph=network.graph) as session:
        session.run(network.initializer)
        session.run(network.train_op, feed(network, training=True))
        before, after = session.run([network.accuracy_before, network.accuracy_after], feed(network, training=False))
    assert before == after  # there is nothing between the two


def test_without_dropout_nothing_is_drawn():
    network = build_improved_network(dropout_rates=(0.0, 0.0))
    assert not [op for op in network.graph.get_operations() if "dropout" in op.name]


def test_relu_may_take_selus_place():
    network = build_improved_network(activation="relu")
    assert (len(operation(network, "Relu")), len(operation(network, "Selu"))) == (3, 0)
