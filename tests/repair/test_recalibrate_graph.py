"""Re-estimation in graphs of tf.compat.v1, and the agreement of the three front ends."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from bncourse.data import batches, load_digits, one_hot
from bncourse.nn import BatchNorm, Conv2D, Dense, Flatten, ReLU, Sequential
from bncourse.repair import recalibrate, recalibrate_graph
from bncourse.tf_layers import tf, tf1
from bncourse.tf_layers.deep_network import build_deep_network
from bncourse.tf_layers.improved_network import build_improved_network
from bncourse.tf_layers.wirings import build_wired_network

import keras  # isort: skip  # after TensorFlow, which bncourse.tf_layers sets up

RNG = np.random.default_rng(0)
X = RNG.normal(3.0, 2.0, (60, 5)).astype(np.float32)
IMAGES = RNG.normal(1.0, 2.0, (24, 6, 6, 2)).astype(np.float32)


def graph_of(build, shape, *, constant=False):
    """Open a session on a small graph; `build` gets the inputs and the mode."""
    with tf1.Graph().as_default() as graph:
        tf1.set_random_seed(0)
        inputs = tf1.placeholder(tf.float32, (None, *shape), name="inputs")
        training = True if constant else tf1.placeholder_with_default(False, ())
        build(inputs, training)
        session = tf1.Session(graph=graph)
        session.run(tf1.global_variables_initializer())
        updates = tf1.get_collection(tf1.GraphKeys.UPDATE_OPS)
        variables = {v.op.name: v for v in tf1.global_variables()}

    def feed(x):
        return {inputs: x} | ({} if constant else {training: True})

    return SimpleNamespace(session=session, updates=updates, variables=variables, feed=feed, inputs=inputs)


def two_layers(momentum=0.99, rate=0.0, frozen=False):
    def build(x, training):
        x = tf1.layers.batch_normalization(x, momentum=momentum, training=training, name="one")
        x = tf1.layers.dropout(tf.nn.relu(x), rate, training=training)
        x = tf1.layers.dense(x, 4, name="dense")
        return tf1.layers.batch_normalization(x, momentum=0.9, training=False if frozen else training, name="two")

    return build


@pytest.fixture(scope="module")
def net():
    return graph_of(two_layers(), (5,))


def values(net):
    return net.session.run(net.variables)


def assert_unchanged(net, before):
    for name, value in values(net).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


# Closed forms


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99, 0.9999])
def test_any_momentum_is_found(momentum, constant):
    net = graph_of(
        lambda x, training: tf1.layers.batch_normalization(x, momentum=momentum, training=training),
        (5,),
        constant=constant,
    )
    parts = [X[:20], X[20:40], X[40:]]
    recalibrate_graph(net.session, net.updates, [net.feed(part) for part in parts])
    _, _, mean, variance = values(net).values()
    tolerance = 3e-7 + 1e-8 / (1 - momentum)
    np.testing.assert_allclose(mean, X.mean(0, dtype=np.float64), rtol=tolerance)
    averaged = np.mean([part.var(0, dtype=np.float64) for part in parts], axis=0)
    np.testing.assert_allclose(variance, averaged, rtol=2e-6 + tolerance)


def test_in_float64_the_only_error_is_that_of_the_momentum_s_constant():
    def build(x, training):
        return tf1.layers.batch_normalization(tf.cast(x, tf.float64), training=training, name="bn")

    net = graph_of(build, (5,), constant=True)
    recalibrate_graph(net.session, net.updates, [net.feed(X[i::3]) for i in range(3)], variance="pooled")
    assert values(net)["bn/moving_mean"].dtype == np.float64
    np.testing.assert_allclose(values(net)["bn/moving_mean"], X.mean(0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(values(net)["bn/moving_variance"], X.var(0, dtype=np.float64), rtol=1e-12)


def test_the_fused_kernel_delivers_the_sample_variance():
    net = graph_of(lambda x, training: tf1.layers.batch_normalization(x, training=training, name="bn"), (6, 6, 2))
    parts = [IMAGES[:12], IMAGES[12:]]
    recalibrate_graph(net.session, net.updates, [net.feed(part) for part in parts])
    expected = np.mean([part.var((0, 1, 2), ddof=1, dtype=np.float64) for part in parts], axis=0)
    np.testing.assert_allclose(values(net)["bn/moving_variance"], expected, rtol=3e-6)
    population = expected * (12 * 36 - 1) / (12 * 36)
    assert (np.abs(values(net)["bn/moving_variance"] / population - 1) > 2e-3).all()


def test_two_layers_with_two_momenta_and_batches_of_two_sizes():
    net = graph_of(two_layers(momentum=0.5), (5,))
    parts = [X[:40], X[40:]]
    report = recalibrate_graph(net.session, net.updates, (net.feed(part) for part in parts), variance="pooled")
    now = values(net)
    np.testing.assert_allclose(now["one/moving_mean"], X.mean(0), rtol=1e-6)
    np.testing.assert_allclose(now["one/moving_variance"], X.var(0), rtol=1e-5)
    hidden = [
        np.maximum((part - part.mean(0)) / np.sqrt(part.var(0) + 1e-3), 0) @ now["dense/kernel"] for part in parts
    ]
    np.testing.assert_allclose(now["two/moving_mean"], np.concatenate(hidden).mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(now["two/moving_variance"], np.concatenate(hidden).var(0), rtol=1e-5)
    assert (report.batches, report.images) == (2, 60)
    assert [layer.name for layer in report.layers] == ["one", "two"]


def test_dropout_drops_as_in_training_and_does_not_disturb_the_momentum():
    net = graph_of(two_layers(rate=0.5), (5,))
    x = RNG.normal(size=(4000, 5)).astype(np.float32)
    recalibrate_graph(net.session, net.updates, [net.feed(x)])
    now = values(net)
    np.testing.assert_allclose(now["one/moving_mean"], x.mean(0), atol=1e-6)
    kept = np.maximum((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3), 0)
    # Doubled or dropped: the second moment of each unit doubles, the mean stays.
    covariance = np.cov(kept, rowvar=False) + np.diag((kept**2).mean(0))
    np.testing.assert_allclose(
        now["two/moving_variance"],
        np.einsum("ij,ik,kj->j", now["dense/kernel"], covariance, now["dense/kernel"]),
        rtol=0.1,
    )


# Three front ends


def test_the_three_front_ends_agree():
    def build(x, training):
        x = tf1.layers.conv2d(x, 3, 3, name="conv")
        x = tf.nn.relu(tf1.layers.batch_normalization(x, training=training, name="one"))
        x = tf1.layers.dense(tf1.layers.flatten(x), 4, name="dense")
        x = tf.nn.relu(tf1.layers.batch_normalization(x, training=training, name="two"))
        return tf1.layers.dense(x, 2, name="out")

    net = graph_of(build, (6, 6, 2))
    w = values(net)
    numpy_network = Sequential(
        [
            Conv2D(3, 3),
            BatchNorm(moving_variance="sample"),  # what the fused kernel of the graph keeps
            ReLU(),
            Flatten(),
            Dense(4),
            BatchNorm(),
            ReLU(),
            Dense(2),
        ]
    )
    numpy_network(IMAGES, training=True)
    for place, name in ((0, "conv"), (4, "dense"), (7, "out")):
        numpy_network.layers[place].set_weights({part: w[f"{name}/{part}"] for part in ("kernel", "bias")})
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(3, 3, name="conv"),
            keras.layers.BatchNormalization(name="one"),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(4, name="dense"),
            keras.layers.BatchNormalization(name="two"),
            keras.layers.ReLU(),
            keras.layers.Dense(2, name="out"),
        ]
    )
    for name in ("conv", "dense", "out"):
        model.get_layer(name).kernel.assign(w[f"{name}/kernel"])
        model.get_layer(name).bias.assign(w[f"{name}/bias"])

    parts = [IMAGES[i::3] for i in range(3)]
    reports = [
        recalibrate(numpy_network, IMAGES, batch_size=8),
        recalibrate(model, IMAGES, batch_size=8),
        recalibrate_graph(net.session, net.updates, [net.feed(part) for part in parts]),
    ]
    n = 8 * 4 * 4
    for place in range(2):
        ours, kerass, graphs = (report.layers[place] for report in reports)
        np.testing.assert_allclose(kerass.new_mean, ours.new_mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(graphs.new_mean, ours.new_mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(graphs.new_variance, ours.new_variance, rtol=1e-5)
        correction = n / (n - 1) if place == 0 else 1.0
        np.testing.assert_allclose(kerass.new_variance * correction, ours.new_variance, rtol=1e-5)


# What stays


def test_nothing_but_the_statistics_changes_and_undo_brings_them_back(net):
    before = values(net)
    operations = len(net.session.graph.get_operations())
    report = recalibrate_graph(net.session, net.updates, [net.feed(X)])
    after = values(net)
    changed = {name for name in after if (after[name] != before[name]).any()}
    assert changed == {f"{layer}/moving_{what}" for layer in ("one", "two") for what in ("mean", "variance")}
    assert len(net.session.graph.get_operations()) == operations
    report.undo()
    assert_unchanged(net, before)


def test_layers_that_are_not_named_keep_their_statistics_even_if_the_update_ops_move_them(net):
    before = values(net)
    report = recalibrate_graph(net.session, net.updates, [net.feed(X[:30]), net.feed(X[30:])], layers=["two"])
    after = values(net)
    assert report.frozen == ("one",)
    assert {name for name in after if (after[name] != before[name]).any()} == {"two/moving_mean", "two/moving_variance"}


def test_variables_made_from_one_tensor_are_all_set():
    def build(x, training):
        start = tf.zeros((5,))
        for scope in ("one", "two"):
            with tf1.variable_scope(scope):
                mean = tf.Variable(start, trainable=False, name="moving_mean")
                variance = tf.Variable(start, trainable=False, name="moving_variance")
            moments = tf.nn.moments(x, [0])
            for variable, moment in zip((mean, variance), moments, strict=True):
                update = variable.assign_sub((variable - moment) * 0.25)
                tf1.add_to_collection(tf1.GraphKeys.UPDATE_OPS, update)
        return x

    net = graph_of(build, (5,), constant=True)
    recalibrate_graph(net.session, net.updates, [net.feed(X)])
    for scope in ("one", "two"):
        np.testing.assert_allclose(values(net)[f"{scope}/moving_mean"], X.mean(0), rtol=1e-6)
        np.testing.assert_allclose(values(net)[f"{scope}/moving_variance"], X.var(0), rtol=1e-5)


# Refusals


def nan_feeds(net):
    bad = X.copy()
    bad[0, 1] = np.nan
    return [net.feed(X), net.feed(bad)]


def broken(net):
    yield net.feed(X)
    raise OSError("the disk is gone")


@pytest.mark.parametrize(
    ("feeds", "options", "error", "message"),
    [
        (nan_feeds, {}, ValueError, "batch 1 gives one a mean or variance that is NaN or infinite, in 1 of 5 channels"),
        (lambda net: nan_feeds(net)[1:], {}, ValueError, "batch 0 gives one a mean"),
        (broken, {}, OSError, "the disk is gone"),
        (lambda _: [], {}, ValueError, "feeds holds no batches"),
        (lambda net: net.feed(X), {}, TypeError, r"feeds is one feed dict; .* for example \[feed\]"),
        (lambda _: [X], {}, TypeError, "feeds holds a ndarray; expected feed dicts"),
        (lambda net: [net.feed(X), net.feed(X[:, :3])], {}, ValueError, "Cannot feed value of shape"),
        (lambda net: [{net.inputs: X}], {}, ValueError, "moved no moving statistic. Feed True for the training mode"),
        (lambda net: [net.feed(1e19 * X)], {}, ValueError, "batch 0 gives one a mean or variance that is NaN"),
        (lambda net: [net.feed(1e12 * X)], {}, ValueError, "one/moving_variance exceed 2e.22; .* Scale the data down"),
        (lambda net: [net.feed(X)], {"layers": ["three"]}, ValueError, r"\['three'\]; expected .* among one, two"),
        (lambda net: [net.feed(X)], {"batches": 0}, ValueError, "batches = 0; expected an integer >= 1"),
        (lambda net: [net.feed(X)], {"variance": "both"}, ValueError, "variance = 'both'"),
        (lambda _: [{}], {}, ValueError, r"lengths \[\]; expected one, .* name the placeholder"),
    ],
)
def test_after_an_error_all_is_what_it_was(net, feeds, options, error, message):
    before = values(net)
    with pytest.raises(error, match=message):
        recalibrate_graph(net.session, net.updates, feeds(net), **options)
    assert_unchanged(net, before)


@pytest.mark.parametrize("kept", [slice(2, None), slice(0, 3), slice(1, None)])
def test_a_layer_without_its_update_ops_is_named(net, kept):
    before = values(net)
    name = "two" if kept.start == 0 else "one"
    with pytest.raises(ValueError, match=f"update_ops did not move both statistics of {name};"):
        recalibrate_graph(net.session, net.updates[kept], [net.feed(X)])
    assert_unchanged(net, before)


def test_a_layer_in_inference_mode_for_good_is_named_and_can_be_left_out():
    net = graph_of(two_layers(frozen=True), (5,))
    with pytest.raises(ValueError, match=r"statistics of two; .* training=False\), name the others in layers"):
        recalibrate_graph(net.session, net.updates, [net.feed(X)])
    recalibrate_graph(net.session, net.updates, [net.feed(X)], layers=["one"])
    np.testing.assert_allclose(values(net)["one/moving_mean"], X.mean(0), rtol=1e-6)


def test_update_ops_that_change_weights_are_refused(net):
    with net.session.graph.as_default():
        train = net.variables["dense/kernel"].assign_add(tf.ones((5, 4)))
    before = values(net)
    with pytest.raises(ValueError, match="update_ops changed dense/kernel; expected updates of moving means and var"):
        recalibrate_graph(net.session, [*net.updates, train], [net.feed(X)])
    assert_unchanged(net, before)


@pytest.mark.parametrize("wiring", ["cond", "cond-in-place"])
def test_update_ops_in_a_branch_cannot_be_run(wiring):
    """TensorFlow's own message named neither the branch nor a remedy."""
    network = build_wired_network(wiring)
    with tf1.Session(graph=network.graph) as session:
        session.run(network.initializer)
        with pytest.raises(
            ValueError, match=r"update_ops holds bn1/\S+, .*inside a branch of tf\.cond.*Call tf\.layers"
        ):
            recalibrate_graph(session, network.update_ops, [{}])


@pytest.mark.parametrize("wiring", ["keras-layer", "not-trainable", "always-false"])
def test_an_empty_collection_has_causes(wiring):
    network = build_wired_network(wiring)
    with (
        tf1.Session(graph=network.graph) as session,
        pytest.raises(ValueError, match=r"none of a layer of tf\.keras .* trainable=False, .* whose training is False"),
    ):
        recalibrate_graph(session, network.update_ops, [{}])


def test_no_update_ops_and_one_update_op(net):
    with pytest.raises(ValueError, match="update_ops is empty; expected the updates of the moving statistics"):
        recalibrate_graph(net.session, [], [net.feed(X)])
    with pytest.raises(ValueError, match="did not move both statistics of one, two"):
        recalibrate_graph(net.session, net.updates[0], [net.feed(X)])


def test_a_graph_without_bn_is_refused():
    net = graph_of(lambda x, _: tf1.layers.dense(x, 2), (5,))
    with pytest.raises(ValueError, match="the session's graph has no BN layer"):
        recalibrate_graph(net.session, [tf.no_op], [net.feed(X)])


def test_renormalising_layers_are_refused():
    net = graph_of(
        lambda x, training: tf1.layers.batch_normalization(x, training=training, renorm=True), (5,), constant=True
    )
    before = values(net)
    with pytest.raises(ValueError, match=r"update_ops changed .*expected updates of moving means and variances only"):
        recalibrate_graph(net.session, net.updates, [net.feed(X)])
    assert_unchanged(net, before)


def test_an_update_that_is_no_moving_average_is_refused():
    def build(x, training):
        with tf1.variable_scope("bn"):
            mean = tf.Variable(tf.zeros((5,)), trainable=False, name="moving_mean")
            variance = tf.Variable(tf.ones((5,)), trainable=False, name="moving_variance")
        for variable in (mean, variance):
            share = [0.1, 0.1, 0.1, 0.1, 0.2]
            tf1.add_to_collection(tf1.GraphKeys.UPDATE_OPS, variable.assign_sub((variable - tf.reduce_mean(x)) * share))
        return x

    net = graph_of(build, (5,), constant=True)
    with pytest.raises(ValueError, match="does not move bn/moving_mean, bn/moving_variance as a moving average does"):
        recalibrate_graph(net.session, net.updates, [net.feed(X)])


def test_the_number_of_images_comes_from_inputs_where_the_arrays_differ(net):
    with net.session.graph.as_default():
        other = tf1.placeholder(tf.float32, (None,))
    feeds = [{**net.feed(X), other: np.zeros(3)}]
    with pytest.raises(ValueError, match=r"lengths \[3, 60\]; expected one"):
        recalibrate_graph(net.session, net.updates, feeds)
    assert recalibrate_graph(net.session, net.updates, feeds, inputs=net.inputs).images == 60
    with pytest.raises(ValueError, match="a feed does not feed inputs:0"):
        recalibrate_graph(net.session, net.updates, [{other: np.zeros(3)}], inputs=net.inputs)


# Real networks


def test_memory_does_not_grow_with_the_feeds(net):
    def peak(count):
        tracemalloc.start()
        stream = (net.feed(RNG.normal(size=(1000, 5)).astype(np.float32)) for _ in range(count))
        recalibrate_graph(net.session, net.updates, stream)
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(3)
    few = peak(6)
    assert peak(60) < 1.2 * few + 20_000 < few + 54 * 1000 * 5 * 4 / 10


def test_a_shorter_network_of_article_a_stands_near_chance_after_60_steps_and_is_healed():
    data, network = load_digits(), build_deep_network(conv_layers=6, learning_rate=0.005, seed=1)
    configuration = tf1.ConfigProto()
    configuration.graph_options.rewrite_options.disable_meta_optimizer = True  # seconds of rewriting
    with tf1.Session(graph=network.graph, config=configuration) as session:
        session.run(network.initializer)
        stream = batches(data.train, 64, seed=0)
        for _ in range(60):
            images, labels = next(stream)
            session.run(
                network.train_op,
                {network.inputs: images, network.labels: one_hot(labels, 10), network.training: True},
            )

        def accuracy():
            feed = {network.inputs: data.test.images, network.labels: one_hot(data.test.labels, 10)}
            return session.run(network.accuracy, {**feed, network.training: False})

        sick = accuracy()
        feeds = ({network.inputs: images, network.training: True} for images, _ in batches(data.train, 64, seed=1))
        report = recalibrate_graph(session, network.update_ops, feeds, batches=15)
        assert sick < 0.35  # 0.14 where this was written, and 0.95 afterwards
        assert accuracy() > 0.8
    assert len(report.layers) == 7
    assert report.images == 15 * 64


def test_a_graph_with_dropout_and_biases_is_re_estimated():
    network = build_improved_network()
    data = load_digits()
    with tf1.Session(graph=network.graph) as session:
        session.run(network.initializer)
        feeds = [{network.inputs: data.train.images[:64], network.training: True}]
        report = recalibrate_graph(session, network.update_ops, feeds)
        hidden = session.run(network.graph.get_tensor_by_name("conv2d/BiasAdd:0"), feeds[0]).astype(np.float64)
    np.testing.assert_allclose(report.layers[0].new_mean, hidden.mean((0, 1, 2)), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(report.layers[0].new_variance, hidden.var((0, 1, 2), ddof=1), rtol=1e-3)
