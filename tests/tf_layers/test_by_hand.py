"""BN with tf.nn, article C's layer and the layer of tf.contrib, against tf.layers, NumPy and closed forms."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bncourse import averages
from bncourse.experiments.deep_network import open_session
from bncourse.nn import BatchNorm
from bncourse.tf_layers import tf, tf1
from bncourse.tf_layers.by_hand import (
    ARTICLE_OPTIONS,
    article_batch_norm,
    batch_norm_by_hand,
    build_by_hand_network,
    by_hand_logits,
    contrib_batch_norm,
)

RNG = np.random.default_rng(0)
IMAGES = RNG.random((32, 28, 28, 1), dtype=np.float32)
OPTIMIZER = re.compile("Adam|beta._power")
LABELS = np.eye(10, dtype=np.float32)[RNG.integers(0, 10, 32)]


def normal(*shape):
    """Return columns with different means and spreads."""
    return (RNG.normal(size=shape) * np.linspace(0.5, 3, shape[-1]) + np.linspace(-2, 4, shape[-1])).astype(np.float32)


class Layer:
    """One layer in a graph of its own, with a placeholder for the mode."""

    def __init__(self, build, shape, *, mode="placeholder", known_batch=False):
        self.graph = tf1.Graph()
        with self.graph.as_default():
            self.inputs = tf1.placeholder(tf.float32, shape if known_batch else (None, *shape[1:]))
            self.training = tf1.placeholder(tf.bool, ())
            self.outputs = build(self.inputs, self.training if mode == "placeholder" else mode)
            self.upstream = tf1.placeholder(tf.float32, self.outputs.shape)
            self.updates = tf1.get_collection(tf1.GraphKeys.UPDATE_OPS)
            self.variables = {v.op.name.split("/", 1)[-1]: v for v in tf1.global_variables()}
            self.trainable = [v.op.name.split("/", 1)[-1] for v in tf1.trainable_variables()]
            learnt = [self.inputs, *tf1.trainable_variables()]
            self.gradients = tf.gradients(self.outputs, learnt, self.upstream)
            initializer = tf1.global_variables_initializer()
        self.session = open_session(self.graph)
        self.session.run(initializer)

    def __call__(self, x, training, *, updates=True):
        """Return the outputs; also run the collected updates, as a training step does."""
        fetches = [self.outputs, self.updates if updates else []]
        return self.session.run(fetches, {self.inputs: x, self.training: training})[0]

    def gradient(self, x, training, dy):
        return self.session.run(self.gradients, {self.inputs: x, self.training: training, self.upstream: dy})

    def weights(self):
        return self.session.run(self.variables)

    def load(self, **values):
        with self.graph.as_default():
            for name, value in values.items():
                self.variables[name].load(np.asarray(value, np.float32), self.session)


@pytest.fixture
def layer():
    """Make layers, and close their sessions."""
    made = []

    def make(build, shape, **options):
        made.append(Layer(build, shape, **options))
        return made[-1]

    yield make
    for one in made:
        one.session.close()


def moved(updates, start, momentum, values):
    """Return the average of tf.layers after `values`, in float64."""
    return averages.run(np.asarray(values, np.float64), momentum, start)[updates - 1]


# batch_norm_by_hand


@pytest.mark.parametrize(("shape", "variance"), [((16, 3), "population"), ((8, 5, 4, 3), "sample")])
def test_it_is_tf_layers_in_outputs_gradients_and_moving_statistics(layer, shape, variance):
    def ours(x, training):
        return batch_norm_by_hand(x, training, momentum=0.9, moving_variance=variance)

    def theirs(x, training):
        return tf1.layers.batch_normalization(x, momentum=0.9, training=training)

    pair = layer(ours, shape), layer(theirs, shape)
    for one in pair:
        one.load(gamma=[0.5, 1.5, -2.0], beta=[1.0, 0.0, 3.0])
    for _ in range(4):
        x, dy = normal(*shape), normal(*shape)
        np.testing.assert_allclose(*(one(x, True) for one in pair), atol=2e-5)
        for training in (True, False):
            for ours_gradient, their_gradient in zip(*(one.gradient(x, training, dy) for one in pair), strict=True):
                np.testing.assert_allclose(ours_gradient, their_gradient, rtol=2e-4, atol=2e-4)
    ours_weights, their_weights = (one.weights() for one in pair)
    assert ours_weights.keys() == their_weights.keys() == {"gamma", "beta", "moving_mean", "moving_variance"}
    for name in ours_weights:
        np.testing.assert_allclose(ours_weights[name], their_weights[name], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(*(one(x, False) for one in pair), atol=2e-5)
    assert pair[0].trainable == pair[1].trainable == ["gamma", "beta"]


def test_the_other_variance_is_told_apart_on_images(layer):
    x = normal(4, 2, 2, 3)
    results = {}
    for variance in ("population", "sample"):
        one = layer(
            lambda v, t, variance=variance: batch_norm_by_hand(v, t, momentum=0, moving_variance=variance), x.shape
        )
        one(x, True)
        results[variance] = one.weights()["moving_variance"]
    np.testing.assert_allclose(results["population"], x.var(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(results["sample"] / results["population"], 16 / 15, rtol=1e-6)


@given(
    shape=st.lists(st.integers(2, 4), min_size=2, max_size=5),
    momentum=st.floats(0, 1),
    epsilon=st.sampled_from([1e-3, 1e-1]),
    data=st.data(),
)
@settings(max_examples=15)
def test_it_is_the_numpy_layer_for_every_choice_of_axes(shape, momentum, epsilon, data):
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, max_size=len(shape) - 1, unique=True))
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    ours = Layer(
        lambda v, t: batch_norm_by_hand(v, t, axes=axes, momentum=momentum, epsilon=epsilon), shape, known_batch=True
    )
    numpy_layer = BatchNorm(axis=kept, momentum=momentum, epsilon=epsilon)
    rng = np.random.default_rng(len(shape))
    with ours.session:
        for training in (True, True, False):
            x = rng.normal(1, 2, size=shape).astype(np.float32)
            # Two numbers to a moment may lie close together, and then float32 keeps few digits of their difference.
            np.testing.assert_allclose(ours(x, training), numpy_layer(x, training=training), atol=1e-3)
        weights = ours.weights()
    for name in ("moving_mean", "moving_variance"):
        np.testing.assert_allclose(weights[name], getattr(numpy_layer, name), rtol=1e-5, atol=1e-5)


def test_negative_axes_count_from_the_end(layer):
    x = normal(4, 3, 5)
    one = layer(lambda v, t: batch_norm_by_hand(v, t, axes=(-1, 0)), x.shape)
    assert one.weights()["gamma"].shape == (3,)
    np.testing.assert_allclose(one(x, True), BatchNorm(axis=1)(x), atol=1e-5)


@pytest.mark.parametrize("mode", ["placeholder", True, False])
def test_collected_updates_move_only_when_they_are_run_in_training_mode(layer, mode):
    x = normal(8, 3)
    one = layer(batch_norm_by_hand, x.shape, mode=mode)
    assert len(one.updates) == (0 if mode is False else 2)
    start = one.weights()
    one(x, True, updates=False)
    one(x, False, updates=mode != True)  # noqa: E712
    after = one.weights()
    assert all(np.array_equal(start[name], after[name]) for name in start)
    one(x, True)
    changed = not np.array_equal(one.weights()["moving_mean"], start["moving_mean"])
    assert changed == (mode is not False)


@pytest.mark.parametrize("mode", ["placeholder", True, False])
def test_in_place_everybody_who_reads_the_outputs_in_training_mode_moves(layer, mode):
    x = normal(8, 3)
    one = layer(lambda v, t: batch_norm_by_hand(v, t, momentum=0.75, updates="in_place"), x.shape, mode=mode)
    assert one.updates == []
    if mode is not True:
        one(x, False)
        assert not one.weights()["moving_mean"].any()
    y = one(x, True)
    expected = BatchNorm()(x, training=mode is not False)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    mean = 0 if mode is False else 0.25 * x.mean(axis=0)
    np.testing.assert_allclose(one.weights()["moving_mean"], np.broadcast_to(mean, 3), rtol=1e-5)


def test_in_place_the_gradient_is_that_of_collected_updates(layer):
    x, dy = normal(8, 3), normal(8, 3)
    pair = [layer(lambda v, t, u=u: batch_norm_by_hand(v, t, updates=u), x.shape) for u in ("collected", "in_place")]
    for one, other in zip(*(each.gradient(x, True, dy) for each in pair), strict=True):
        np.testing.assert_array_equal(one, other)


def test_moving_statistics_lead_to_the_closed_form(layer):
    xs = [normal(6, 2) for _ in range(5)]
    one = layer(lambda v, t: batch_norm_by_hand(v, t, momentum=0.8), xs[0].shape)
    for x in xs:
        one(x, True)
    weights = one.weights()
    np.testing.assert_allclose(
        weights["moving_mean"], moved(5, 0.0, 0.8, [x.mean(0) for x in xs]), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(weights["moving_variance"], moved(5, 1.0, 0.8, [x.var(0) for x in xs]), rtol=1e-5)


def test_a_second_call_with_reuse_shares_the_variables():
    x = normal(8, 3)
    with tf1.Graph().as_default() as graph, open_session(graph) as session:
        with tf1.variable_scope("net"):
            train = batch_norm_by_hand(tf.constant(x), True, momentum=0.0)
        with tf1.variable_scope("net", reuse=True):
            test = batch_norm_by_hand(tf.constant(x), False)
        assert len(tf1.global_variables()) == 4
        session.run(tf1.global_variables_initializer())
        session.run([train, tf1.get_collection(tf1.GraphKeys.UPDATE_OPS)])
        np.testing.assert_allclose(*session.run([train, test]), atol=1e-5)


def test_a_single_image_has_finite_outputs_and_statistics(layer):
    one = layer(lambda v, t: batch_norm_by_hand(v, t, momentum=0, moving_variance="sample"), (1, 3))
    np.testing.assert_array_equal(one(np.ones((1, 3), np.float32), True), np.zeros((1, 3)))
    np.testing.assert_array_equal(one.weights()["moving_variance"], np.zeros(3))


def test_float64_stays_float64():
    x = np.random.default_rng(0).normal(size=(8, 3))
    with tf1.Graph().as_default() as graph, open_session(graph) as session:
        y = batch_norm_by_hand(tf.constant(x), True)
        session.run(tf1.global_variables_initializer())
        np.testing.assert_allclose(session.run(y), BatchNorm()(x), rtol=1e-12)


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (normal(4, 3), {"momentum": 1.5}, ValueError, r"momentum = 1\.5; expected a number in \[0, 1\]"),
        (normal(4, 3), {"epsilon": -1.0}, ValueError, r"epsilon = -1\.0; expected a finite number >= 0"),
        (normal(4, 3), {"axes": ()}, ValueError, r"axes = \(\); expected different axes of inputs, which has rank 2"),
        (normal(4, 3), {"axes": (0, -2)}, ValueError, r"axes = \(0, -2\); expected different axes"),
        (normal(4, 3), {"axes": (2,)}, ValueError, r"axes = \(2,\); expected different axes of inputs"),
        (normal(4, 3), {"moving_variance": "n"}, ValueError, r"moving_variance = 'n'; expected one of 'population'"),
        (normal(4, 3), {"updates": "never"}, ValueError, r"updates = 'never'; expected one of 'collected', 'in_place'"),
        (np.zeros((4, 3), np.int32), {}, TypeError, r"inputs has dtype int32; expected floating-point.* tf\.cast"),
        (np.zeros(4, np.float32), {}, ValueError, r"inputs has shape \(4,\); expected a known rank, 2 or more"),
    ],
)
def test_impossible_arguments_of_the_layer_are_refused(x, options, error, message):
    with tf1.Graph().as_default(), pytest.raises(error, match=message):
        batch_norm_by_hand(x, True, **options)


def test_a_kept_axis_of_unknown_size_is_refused():
    with tf1.Graph().as_default():
        x = tf1.placeholder(tf.float32, (None, None, 3))
        assert batch_norm_by_hand(x, True).shape.as_list() == [None, None, 3]
        with pytest.raises(
            ValueError, match=r"expected known sizes along the axes that are not averaged over, axes = "
        ):
            batch_norm_by_hand(x, True, axes=(0,))


# article_batch_norm


def test_the_articles_layer_keeps_the_last_batch_only(layer):
    xs = [normal(6, 2, 2, 3) for _ in range(3)]
    one = layer(article_batch_norm, xs[0].shape, mode=True)
    for x in xs:
        y = one(x, True)
    np.testing.assert_allclose(y, BatchNorm(axis=(1, 2, 3))(xs[-1]), atol=1e-4)
    pop_mean, pop_var = (one.weights()[name] for name in ("pop_mean", "pop_var"))
    assert pop_mean.shape == pop_var.shape == (2, 2, 3)
    np.testing.assert_allclose(pop_mean, xs[-1].mean(0), atol=1e-4)
    np.testing.assert_allclose(pop_var, xs[-1].var(0), atol=2e-4)
    assert not np.array_equal(pop_mean, one.weights()["scale"])


@pytest.mark.parametrize("decay", [1e-5, 0.9])
@pytest.mark.parametrize("axes", [(0,), (0, 1, 2)])
def test_every_mistake_can_be_taken_away_alone(layer, decay, axes):
    shape = (6, 2, 2, 3)
    article = layer(lambda v, t: article_batch_norm(v, t, decay=decay, axes=axes), shape, mode=True)
    mended = layer(lambda v, t: batch_norm_by_hand(v, t, axes=axes, momentum=decay, updates="in_place"), shape)
    for _ in range(3):
        x = normal(*shape)
        np.testing.assert_allclose(article(x, True), mended(x, True), atol=1e-5)
    theirs, ours = article.weights(), mended.weights()
    np.testing.assert_allclose(theirs["pop_mean"], ours["moving_mean"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(theirs["pop_var"], ours["moving_variance"], rtol=1e-5, atol=1e-6)


def test_the_articles_layer_built_for_inference_never_moves(layer):
    x = normal(6, 3)
    one = layer(article_batch_norm, x.shape, mode=False)
    np.testing.assert_allclose(one(x, True), x / np.sqrt(1.001), rtol=1e-6)
    assert not one.weights()["pop_mean"].any()


def test_every_call_of_the_articles_layer_makes_new_variables():
    with tf1.Graph().as_default():
        x = tf.constant(normal(6, 3))
        for calls in (1, 2):
            with tf1.variable_scope("net", reuse=tf1.AUTO_REUSE):
                article_batch_norm(x, True)
            assert len(tf1.global_variables()) == 4 * calls


def test_the_articles_layer_refuses_a_placeholder_and_wrong_arguments():
    with tf1.Graph().as_default():
        x = tf.constant(normal(6, 2, 3))
        with pytest.raises(
            TypeError, match=r"is_training is a .*Tensor; expected True or False, because `if is_training"
        ):
            article_batch_norm(x, tf1.placeholder(tf.bool, ()))
        with pytest.raises(ValueError, match=r"decay = 2; expected a number in \[0, 1\]"):
            article_batch_norm(x, True, decay=2)
        with pytest.raises(ValueError, match=r"axes = \(1,\); expected the first axes in order"):
            article_batch_norm(x, True, axes=(1,))


# contrib_batch_norm


def test_contrib_has_a_beta_no_gamma_and_a_decay_of_0999(layer):
    x = normal(8, 3)
    one = layer(lambda v, t: contrib_batch_norm(v, is_training=t), x.shape)
    assert one.trainable == ["beta"]
    np.testing.assert_allclose(one(x, True), BatchNorm(scale=False)(x), atol=1e-5)
    np.testing.assert_allclose(one.weights()["moving_mean"], 0.001 * x.mean(0), rtol=1e-4)
    np.testing.assert_allclose(one.weights()["moving_variance"], 0.999 + 0.001 * x.var(0, ddof=1), rtol=1e-6)


@pytest.mark.parametrize(
    ("center", "scale", "trainable", "names", "learnt"),
    [
        (True, True, True, {"beta", "gamma"}, {"beta", "gamma"}),
        (False, True, True, {"gamma"}, {"gamma"}),
        (False, False, True, set(), set()),
        (True, True, False, {"beta", "gamma"}, set()),
    ],
)
def test_contribs_parameters(layer, center, scale, trainable, names, learnt):
    x = normal(8, 3)
    one = layer(lambda v, t: contrib_batch_norm(v, 0.5, center, scale, is_training=t, trainable=trainable), x.shape)
    assert set(one.variables) == names | {"moving_mean", "moving_variance"}
    assert set(one.trainable) == learnt
    # trainable=False is no inference mode: the batch's moments normalise, and the average moves.
    np.testing.assert_allclose(one(x, True), BatchNorm()(x), atol=1e-5)
    np.testing.assert_allclose(one.weights()["moving_mean"], 0.5 * x.mean(0), rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "fused", "sample"),
    [
        ((8, 3), None, True),
        ((8, 3), True, True),
        ((8, 3), False, False),
        ((8, 2, 2, 3), None, True),
        ((8, 2, 2, 3), False, False),
        ((8, 2, 3), None, False),
        ((8, 2, 2, 2, 3), None, False),
    ],
)
def test_which_variance_contribs_average_takes_in(layer, shape, fused, sample):
    x = normal(*shape)
    one = layer(lambda v, t: contrib_batch_norm(v, 0.0, is_training=t, fused=fused), shape)
    y = one(x, True)
    np.testing.assert_allclose(y, BatchNorm()(x), atol=1e-5)
    expected = x.reshape(-1, 3).astype(np.float64).var(axis=0, ddof=int(sample))
    np.testing.assert_allclose(one.weights()["moving_variance"], expected, rtol=1e-4)


def test_contrib_on_images_is_tf_layers_fused(layer):
    shape = (8, 4, 4, 3)
    ours = layer(lambda v, t: contrib_batch_norm(v, 0.9, is_training=t, scale=True), shape)
    theirs = layer(lambda v, t: tf1.layers.batch_normalization(v, momentum=0.9, training=t), shape)
    for training in (True, True, False):
        x = normal(*shape)
        np.testing.assert_allclose(ours(x, training), theirs(x, training), atol=2e-5)


def test_contrib_with_channels_first(layer):
    x = normal(8, 2, 2, 3)
    one = layer(lambda v, t: contrib_batch_norm(v, is_training=t, data_format="NCHW"), np.moveaxis(x, -1, 1).shape)
    np.testing.assert_allclose(np.moveaxis(one(np.moveaxis(x, -1, 1), True), 1, -1), BatchNorm()(x), atol=1e-5)


def test_contrib_updates_in_place_without_a_collection(layer):
    x = normal(8, 3)
    one = layer(lambda v, t: contrib_batch_norm(v, 0.5, is_training=t, updates_collections=None), x.shape)
    assert one.updates == []
    one(x, False)
    assert not one.weights()["moving_mean"].any()
    one(x, True)
    np.testing.assert_allclose(one.weights()["moving_mean"], 0.5 * x.mean(0), rtol=1e-5)


def test_contrib_updates_go_to_the_named_collections():
    with tf1.Graph().as_default():
        x = tf.constant(normal(8, 3))
        contrib_batch_norm(x, updates_collections=["mine", "yours"])
        assert [len(tf1.get_collection(name)) for name in ("mine", "yours", "update_ops")] == [2, 2, 0]
        contrib_batch_norm(x, is_training=False)
        assert tf1.get_collection(tf1.GraphKeys.UPDATE_OPS) == []


@pytest.mark.parametrize("mode", ["placeholder", True])
def test_zero_debias_is_tensorflows_own(layer, mode):
    """The function that contrib called is still part of TensorFlow."""
    xs = [normal(8, 3) for _ in range(6)]
    ours = layer(
        lambda v, t: contrib_batch_norm(v, 0.9, is_training=t, zero_debias_moving_mean=True), (8, 3), mode=mode
    )
    with tf1.Graph().as_default() as graph, open_session(graph) as session:
        value = tf1.placeholder(tf.float32, (3,))
        moving_mean = tf1.get_variable("moving_mean", (3,), initializer=tf1.zeros_initializer(), trainable=False)
        move = tf.__internal__.train.assign_moving_average(moving_mean, value, 0.9, zero_debias=True)
        session.run(tf1.global_variables_initializer())
        for x in xs:
            ours(x, True)
            session.run(move, {value: x.mean(axis=0)})
            np.testing.assert_allclose(ours.weights()["moving_mean"], session.run(moving_mean), rtol=1e-5, atol=1e-6)


def test_zero_debias_corrects_the_mean_and_not_the_variance(layer):
    xs = [normal(8, 3) for _ in range(5)]
    one = layer(lambda v, t: contrib_batch_norm(v, is_training=t, zero_debias_moving_mean=True), (8, 3))
    oracle = BatchNorm(momentum=0.999, moving_variance="sample", bias_corrected=True)
    for steps, x in enumerate(xs, 1):
        one(x, True)
        oracle(x, training=True)
        weights = one.weights()
        np.testing.assert_allclose(weights["moving_mean"], oracle.moving_mean, rtol=1e-3, atol=1e-4)
        assert weights["moving_mean/local_step"] == steps
        variances = [seen.var(axis=0, ddof=1) for seen in xs[:steps]]
        np.testing.assert_allclose(weights["moving_variance"], moved(steps, 1.0, 0.999, variances), rtol=1e-6)
    # The corrected variance lies far away: this test can tell the two.
    assert np.abs(weights["moving_variance"] / oracle.moving_variance - 1).max() > 0.5


def test_zero_debias_forgets_a_moving_mean_that_was_loaded_or_initialised(layer):
    x = normal(8, 3)
    one = layer(
        lambda v, t: contrib_batch_norm(
            v,
            is_training=t,
            zero_debias_moving_mean=True,
            param_initializers={"moving_mean": tf1.constant_initializer(50.0)},
        ),
        x.shape,
    )
    np.testing.assert_array_equal(one.weights()["moving_mean"], np.full(3, 50))
    one(x, True)
    np.testing.assert_allclose(one.weights()["moving_mean"], x.mean(0), rtol=1e-3)


def test_zero_debias_moves_nothing_in_inference_mode(layer):
    one = layer(lambda v, t: contrib_batch_norm(v, is_training=t, zero_debias_moving_mean=True), (8, 3))
    one(normal(8, 3), True)
    before = one.weights()
    one(normal(8, 3), False)
    assert all(np.array_equal(before[name], value) for name, value in one.weights().items())


def test_a_layer_for_inference_has_no_variables_of_zero_debias(layer):
    one = layer(lambda v, t: contrib_batch_norm(v, is_training=t, zero_debias_moving_mean=True), (8, 3), mode=False)
    assert set(one.variables) == {"beta", "moving_mean", "moving_variance"}


def test_contribs_weighted_moments(layer):
    x, weights = normal(8, 3), np.array([1, 0, 2, 1, 0.5, 3, 0, 1], np.float32)
    one = layer(lambda v, t: contrib_batch_norm(v, 0.0, is_training=t, batch_weights=weights), x.shape)
    y = one(x, True)
    mean = np.average(x, axis=0, weights=weights)
    variance = np.average((x - mean) ** 2, axis=0, weights=weights)
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 1e-3), atol=1e-4)
    np.testing.assert_allclose(one.weights()["moving_mean"], mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(one.weights()["moving_variance"], variance, rtol=1e-4)


def test_contribs_start_values_and_activation(layer):
    x = normal(8, 3)
    starts = {"beta": 2.0, "gamma": 3.0, "moving_mean": 1.0, "moving_variance": 4.0}
    one = layer(
        lambda v, t: contrib_batch_norm(
            v,
            scale=True,
            is_training=t,
            activation_fn=tf.nn.relu,
            param_initializers={name: tf1.constant_initializer(value) for name, value in starts.items()},
        ),
        x.shape,
    )
    expected = np.maximum(3 * (x - 1) / np.sqrt(4.001) + 2, 0)
    np.testing.assert_allclose(one(x, False), expected, rtol=1e-5, atol=1e-5)


def test_contribs_scope_can_be_reused():
    with tf1.Graph().as_default():
        x = tf.constant(normal(8, 3))
        contrib_batch_norm(x, scope="bn")
        contrib_batch_norm(x, scope="bn", reuse=True, is_training=False)
        assert {v.op.name for v in tf1.global_variables()} == {"bn/beta", "bn/moving_mean", "bn/moving_variance"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"param_regularizers": {"beta": None}},
            NotImplementedError,
            r"param_regularizers = .* is not implemented; add",
        ),
        (
            {"variables_collections": ["a"]},
            NotImplementedError,
            r"variables_collections = \['a'\] is not implemented; f",
        ),
        ({"outputs_collections": "a"}, NotImplementedError, r"outputs_collections = 'a' is not implemented; keep the"),
        ({"renorm": True}, NotImplementedError, r"renorm = True is not implemented; use bncourse\.nn\.BatchRenorm"),
        ({"renorm_clipping": {}}, NotImplementedError, r"renorm_clipping = {} is not implemented; use bncourse"),
        ({"renorm_decay": 0.9}, NotImplementedError, r"renorm_decay = 0\.9 is not implemented; use bncourse"),
        ({"adjustment": len}, NotImplementedError, r"adjustment = .* is not implemented; apply it to the returned"),
        ({"decay": -0.1}, ValueError, r"decay = -0\.1; expected a number in \[0, 1\]"),
        ({"decay": 1.0, "zero_debias_moving_mean": True}, ValueError, r"decay = 1\.0; expected a number in \[0, 1\)\."),
        ({"epsilon": float("nan")}, ValueError, r"epsilon = nan; expected a finite number >= 0"),
        ({"data_format": "NHCW"}, ValueError, r"data_format = 'NHCW'; expected one of 'NHWC', 'NCHW'"),
        (
            {"param_initializers": {"mean": 0}},
            ValueError,
            r"param_initializers has the key 'mean'; expected beta, gamma",
        ),
    ],
)
def test_what_contrib_had_and_this_has_not_is_refused(options, error, message):
    with tf1.Graph().as_default(), pytest.raises(error, match=message):
        contrib_batch_norm(tf.constant(normal(4, 3)), **options)


# The network


def feed(network, training):
    return {network.inputs: IMAGES, network.labels: LABELS, network.training: training}


def state(session, network, part=""):
    variables = network.graph.get_collection("variables")
    return session.run({v.op.name: v for v in variables if part in v.op.name and not OPTIMIZER.search(v.op.name)})


def after(steps, **options):
    """Train; return the losses before every step, and the variables at the end."""
    network = build_by_hand_network(**options)
    with open_session(network.graph) as session:
        session.run(network.initializer)
        losses = [session.run([network.loss, network.train_op], feed(network, True))[0] for _ in range(steps)]
        return losses, state(session, network)


def test_the_networks_layers_and_variables():
    network = build_by_hand_network()
    with open_session(network.graph) as session:
        session.run(network.initializer)
        shapes = {name: value.shape for name, value in state(session, network).items()}
        logits, loss, accuracy = session.run([network.logits, network.loss, network.accuracy], feed(network, True))
    bn = {"gamma", "beta", "moving_mean", "moving_variance"}
    assert shapes == {
        "conv1/kernel": (3, 3, 1, 16),
        **{f"conv1/bn/{name}": (16,) for name in bn},
        "conv2/kernel": (3, 3, 16, 32),
        **{f"conv2/bn/{name}": (32,) for name in bn},
        "dense/kernel": (7 * 7 * 32, 64),
        **{f"dense/bn/{name}": (64,) for name in bn},
        "logits/kernel": (64, 10),
        "logits/bias": (10,),
    }
    assert len(network.update_ops) == 6
    assert accuracy == pytest.approx(np.mean(logits.argmax(1) == LABELS.argmax(1)))
    exponentials = np.exp(logits.astype(np.float64))
    chosen = (exponentials / exponentials.sum(1, keepdims=True) * LABELS).sum(1)
    assert loss == pytest.approx(-np.log(chosen).mean(), rel=1e-5)


def test_by_hand_and_tf_layers_train_alike():
    (ours, ours_after), (theirs, theirs_after) = (after(4, layer=name) for name in ("by_hand", "tf_layers"))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    assert ours[-1] < ours[0]
    assert ours_after.keys() == theirs_after.keys()
    for name in ("conv1/bn/moving_mean", "dense/bn/moving_variance"):
        np.testing.assert_allclose(ours_after[name], theirs_after[name], rtol=1e-2, atol=1e-3)


def test_seeds_give_start_weights():
    (_, one), (_, same), (_, other) = (after(0, seed=seed) for seed in (3, 3, 4))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["conv1/kernel"], other["conv1/kernel"])


@pytest.mark.parametrize(
    ("options", "moves"),
    [
        ({}, True),
        ({"updates": "in_place"}, True),
        ({"updates": "forgotten"}, False),
        ({"layer": "contrib", "momentum": 0.999}, True),
        ({"layer": "contrib", "updates": "in_place"}, True),
        ({"layer": "contrib", "updates": "forgotten"}, False),
        ({"training": True}, True),
        ({"training": False}, False),
        ({"training": True, "updates": "in_place"}, True),
    ],
)
def test_who_moves_the_statistics(options, moves):
    _, variables = after(1, **options)
    for name, value in variables.items():
        if name.endswith("moving_mean"):
            assert value.any() == moves


def test_a_bool_decides_the_mode_for_ever():
    outputs = {}
    for training in (True, False, "placeholder"):
        network = build_by_hand_network(training=training)
        with open_session(network.graph) as session:
            session.run(network.initializer)
            outputs[training] = [session.run(network.logits, feed(network, mode)) for mode in (True, False)]
    np.testing.assert_array_equal(*outputs[True])
    np.testing.assert_array_equal(*outputs[False])
    np.testing.assert_allclose(outputs["placeholder"][0], outputs[True][0], atol=1e-5)
    np.testing.assert_allclose(outputs["placeholder"][1], outputs[False][0], atol=1e-5)
    assert np.abs(outputs[True][0] - outputs[False][0]).max() > 0.1


def test_the_articles_options_give_a_parameter_for_every_pixel():
    _, variables = after(1, **ARTICLE_OPTIONS)
    assert variables["conv1/bn/gamma"].shape == (14, 14, 16)
    assert variables["dense/bn/gamma"].shape == (64,)
    # With a decay of 1e-5 one step is enough to forget the start value 1.
    assert variables["conv1/bn/moving_variance"].max() < 0.9


def test_zero_debias_reaches_every_layer():
    _, variables = after(3, layer="contrib", momentum=0.999, zero_debias_moving_mean=True)
    for name in ("conv1", "conv2", "dense"):
        assert variables[f"{name}/bn/moving_mean/local_step"] == 3
        assert f"{name}/bn/gamma" not in variables
        biased = variables[f"{name}/bn/moving_mean/biased"]
        np.testing.assert_allclose(variables[f"{name}/bn/moving_mean"] * (1 - 0.999**3), biased, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("layer_name", ["by_hand", "contrib", "tf_layers"])
def test_logits_built_twice_share_their_variables(layer_name):
    with tf1.Graph().as_default() as graph, open_session(graph) as session:
        images = tf.constant(IMAGES)
        with tf1.variable_scope("net"):
            by_hand_logits(images, True, layer=layer_name)
        count = len(tf1.global_variables())
        with tf1.variable_scope("net", reuse=True):
            logits = by_hand_logits(images, False, layer=layer_name)
        assert len(tf1.global_variables()) == count
        session.run(tf1.global_variables_initializer())
        assert session.run(logits).shape == (32, 10)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layer": "keras"}, ValueError, r"layer = 'keras'; expected one of 'by_hand', 'tf_layers', 'contrib'"),
        ({"moment_axes": (0,)}, ValueError, r"moment_axes = \(0,\); expected one of 'all', 'batch'"),
        ({"updates": None}, ValueError, r"updates = None; expected one of 'collected', 'in_place', 'forgotten'"),
        ({"momentum": 2.0}, ValueError, r"momentum = 2\.0; expected a number in \[0, 1\]"),
        ({"training": 1}, ValueError, r"training = 1; expected 'placeholder', True or False"),
        ({"learning_rate": 0.0}, ValueError, r"learning_rate = 0\.0; expected a finite number > 0"),
        ({"seed": -1}, ValueError, r"seed = -1; expected an integer >= 0"),
        ({"seed": 1.0}, TypeError, r"seed = 1\.0; expected an integer"),
        (
            {"layer": "contrib", "moment_axes": "batch"},
            ValueError,
            r"moment_axes = 'batch' with layer = 'contrib'; only",
        ),
        (
            {"layer": "tf_layers", "updates": "in_place"},
            ValueError,
            r"updates = 'in_place' with layer = 'tf_layers'; t",
        ),
        ({"zero_debias_moving_mean": True}, ValueError, r"zero_debias_moving_mean = True with layer = 'by_hand'; only"),
    ],
)
def test_impossible_arguments_of_the_network_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        build_by_hand_network(**options)
