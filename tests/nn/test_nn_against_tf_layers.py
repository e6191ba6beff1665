"""BatchNorm against ``tf.layers`` in a graph, ``tf.nn``, and the fused kernel with its gradient."""

from types import SimpleNamespace

import numpy as np
import pytest

from bncourse.nn import BatchNorm
from bncourse.tf_layers import tf, tf1

pytestmark = pytest.mark.filterwarnings(r"ignore:`tf\.layers\.\w+` is deprecated:UserWarning")

MOMENTUM, EPSILON = 0.75, 2e-3  # float32 holds this momentum exactly; tf.layers rounds any other
PRECISION = {np.float32: 2e-5, np.float64: 1e-10}
#: Shape, options of tf.layers, our options, type. Of rank 4, the fused kernel is tf.layers' own choice.
LAYERS = [
    ((6, 3), {}, {}, np.float32),
    ((6, 3), {}, {}, np.float64),
    ((4, 5, 3), {}, {}, np.float64),
    ((3, 4, 5, 2), {}, {"moving_variance": "sample"}, np.float32),
    ((3, 4, 5, 2), {"fused": True}, {"moving_variance": "sample"}, np.float32),
    ((3, 4, 5, 2), {"fused": False}, {}, np.float32),
    ((3, 4, 5, 2), {"fused": False}, {}, np.float64),
    ((3, 2, 4, 5), {"fused": False, "axis": 1}, {"axis": 1}, np.float64),
    ((5, 40, 40, 3), {}, {"moving_variance": "sample"}, np.float32),  # large: ours takes the fast functions
    ((700, 33), {}, {}, np.float32),
]


def numbers(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).normal(1.0, 2.0, shape).astype(dtype)


def graph_of(shape, dtype, **options):
    """Build one layer of tf.layers, with its gradients and its update ops, in a graph of its own."""
    with tf1.Graph().as_default() as graph:
        x, dy, training = tf1.placeholder(dtype, shape), tf1.placeholder(dtype, shape), tf1.placeholder(tf.bool, [])
        options = {"momentum": MOMENTUM, "epsilon": EPSILON, **options}
        y = tf1.layers.batch_normalization(x, training=training, **options)
        variables = {v.op.name.rpartition("/")[2]: v for v in tf1.global_variables()}
        gradients = tf1.gradients(y, [x, variables["gamma"], variables["beta"]], dy)
        values = {name: tf1.placeholder(v.dtype.base_dtype, v.shape) for name, v in variables.items()}
        assign = [v.assign(values[name]) for name, v in variables.items()]
        updates = graph.get_collection(tf1.GraphKeys.UPDATE_OPS)
        session = tf1.Session()
        session.run(tf1.global_variables_initializer())
    functions = graph.as_graph_def().library.function  # both modes: the branches of an If
    kernels = {node.op for function in functions for node in function.node_def}

    def call(x_value, dy_value, learns):
        feed = {x: x_value, dy: dy_value, training: learns}
        result = session.run([y, *gradients], feed)
        session.run(updates, feed)  # afterwards: in one run, inference might read the old statistics or the new
        return result

    def load(weights):
        session.run(assign, {values[name]: weights[name] for name in values})

    return SimpleNamespace(
        call=call, load=load, kernels=kernels, session=session, weights=lambda: session.run(variables)
    )


def pair(shape, theirs, own, dtype):
    """Return tf.layers' layer and ours, with the same weights, which are nothing special."""
    twin, layer = graph_of(shape, dtype, **theirs), BatchNorm(momentum=MOMENTUM, epsilon=EPSILON, **own)
    for i, (name, value) in enumerate(twin.weights().items()):
        value[...] = np.abs(numbers(*value.shape, seed=i))
        setattr(layer, name, value)
    twin.load(layer.weights)
    return twin, layer


def assert_same_call(layer, expected, x, dy, learns, tolerance):
    y, dx, dgamma, dbeta = expected
    close = {"rtol": tolerance, "atol": tolerance}
    np.testing.assert_allclose(layer(x, training=learns), y, **close)
    np.testing.assert_allclose(layer.backward(dy), dx, **close)
    sums = tolerance + tolerance / 10 * np.abs(dy).sum() / len(dbeta)  # many numbers are added up
    np.testing.assert_allclose(layer.gradients["gamma"], dgamma, rtol=tolerance, atol=sums)
    np.testing.assert_allclose(layer.gradients["beta"], dbeta, rtol=tolerance, atol=sums)


@pytest.mark.parametrize(("shape", "theirs", "own", "dtype"), LAYERS)
def test_tf_layers_agrees_over_several_steps_and_in_inference(shape, theirs, own, dtype):
    twin, layer = pair(shape, theirs, own, dtype)
    assert ("FusedBatchNormV3" in twin.kernels) == ("moving_variance" in own)
    tolerance = PRECISION[dtype]
    with twin.session:
        for seed, learns in enumerate([True, True, True, False]):
            x, dy = (numbers(*shape, dtype=dtype, seed=(seed, i)) for i in range(2))
            assert_same_call(layer, twin.call(x, dy, learns), x, dy, learns, tolerance)
            moved = twin.weights()
            for name in ("moving_mean", "moving_variance"):
                np.testing.assert_allclose(getattr(layer, name), moved[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_momentum_0_and_1_in_tf_layers(momentum, fused):
    twin = graph_of((3, 4, 5, 2), np.float32, momentum=momentum, fused=fused)
    layer = BatchNorm(momentum=momentum, moving_variance="sample" if fused else "population")
    with twin.session:
        for seed in range(2):
            x = numbers(3, 4, 5, 2, dtype=np.float32, seed=seed)
            twin.call(x, x, True)
            layer(x)
        moved = twin.weights()
    np.testing.assert_allclose(layer.moving_mean, moved["moving_mean"], rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, moved["moving_variance"], rtol=1e-5)


def test_trainable_false_is_inference_mode_here_and_something_between_in_tf_layers():
    twin, layer = graph_of((6, 3), np.float64, trainable=False), BatchNorm(momentum=MOMENTUM, epsilon=EPSILON)
    x = numbers(6, 3)
    with twin.session:
        y, *_ = twin.call(x, x, True)
        moved = twin.weights()
    # There it normalises with the batch's statistics all the same, but has no update ops.
    np.testing.assert_allclose(layer(x), y, rtol=1e-10)
    np.testing.assert_array_equal(moved["moving_mean"], np.zeros(3))
    layer = BatchNorm(momentum=MOMENTUM, epsilon=EPSILON)
    layer.trainable = False
    assert np.abs(layer(x) - y).max() > 0.1
    np.testing.assert_array_equal(layer.moving_mean, np.zeros(3))


@pytest.mark.parametrize(
    ("shape", "axis"), [((6, 3), -1), ((4, 3, 5), 1), ((3, 4, 5, 2), -1), ((3, 4, 5, 2), (1, 3)), ((2, 3, 2, 2, 2), 2)]
)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", PRECISION)
def test_tf_nn_agrees_forward_and_backward(shape, axis, training, dtype):
    layer, (x, dy) = BatchNorm(axis, epsilon=EPSILON), (numbers(*shape, dtype=dtype, seed=seed) for seed in range(2))
    layer(x)
    for i, array in enumerate(layer.parameters.values()):
        array[...] = numbers(*array.shape, seed=i)
    kept = [a % len(shape) for a in np.atleast_1d(axis)]
    reduced = [a for a in range(len(shape)) if a not in kept]
    broad = [n if a in kept else 1 for a, n in enumerate(shape)]
    variables = [tf.Variable(x), *(tf.Variable(v.reshape(broad)) for v in (layer.gamma, layer.beta))]
    with tf.GradientTape() as tape:
        given = [v.astype(dtype).reshape(broad) for v in (layer.moving_mean, layer.moving_variance)]
        mean, variance = tf.nn.moments(variables[0], reduced, keepdims=True) if training else given
        y = tf.nn.batch_normalization(variables[0], mean, variance, variables[2], variables[1], EPSILON)
        loss = tf.reduce_sum(y * dy)
    dx, dgamma, dbeta = tape.gradient(loss, variables)
    kept_shape = layer.gamma.shape
    expected = y, dx, tf.reshape(dgamma, kept_shape), tf.reshape(dbeta, kept_shape)
    assert_same_call(layer, expected, x, dy, training, PRECISION[dtype])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(3, 4, 5, 2), (5, 40, 40, 3)])
def test_the_fused_kernel_and_its_gradient_op_agree(shape, training):
    layer = BatchNorm(momentum=MOMENTUM, epsilon=EPSILON, moving_variance="sample")
    x, dy = (numbers(*shape, dtype=np.float32, seed=seed) for seed in range(2))
    layer(x)
    for i, array in enumerate(layer.parameters.values()):
        array[...] = numbers(*array.shape, seed=i)
    forward = tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=layer.gamma,
        offset=layer.beta,
        mean=layer.moving_mean,
        variance=layer.moving_variance,
        epsilon=EPSILON,
        exponential_avg_factor=1 - MOMENTUM,
        is_training=training,
    )
    backward = tf.raw_ops.FusedBatchNormGradV3(
        y_backprop=dy,
        x=x,
        scale=layer.gamma,
        reserve_space_1=forward.reserve_space_1 if training else layer.moving_mean,
        reserve_space_2=forward.reserve_space_2 if training else layer.moving_variance,
        reserve_space_3=forward.reserve_space_3,
        epsilon=EPSILON,
        is_training=training,
    )
    expected = forward.y, backward.x_backprop, backward.scale_backprop, backward.offset_backprop
    assert_same_call(layer, expected, x, dy, training, PRECISION[np.float32])
    np.testing.assert_allclose(layer.moving_mean, forward.batch_mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, forward.batch_variance, rtol=1e-5, atol=1e-5)


def test_tf_layers_rounds_the_momentum_to_float32_in_float64_too():
    twin, layer = graph_of((6, 3), np.float64, momentum=0.7), BatchNorm(momentum=0.7)
    x = numbers(6, 3)
    layer(x)
    with twin.session:
        twin.call(x, x, True)
        theirs = twin.weights()["moving_mean"]
    exact = 0.3 * x.mean(axis=0)
    np.testing.assert_allclose(layer.moving_mean, exact, rtol=1e-14)
    assert 1e-9 < np.abs(theirs - exact).max() < 1e-6


def test_the_fused_kernel_averages_the_sample_variance_and_normalises_with_the_population_variance():
    x = numbers(2, 1, 1, 1, dtype=np.float32)
    y, _, variance, *_ = tf.raw_ops.FusedBatchNormV3(x=x, scale=[1.0], offset=[0.0], mean=[], variance=[], epsilon=1e-9)
    np.testing.assert_allclose(variance, x.var() * 2, rtol=1e-5)
    np.testing.assert_allclose(np.abs(y), 1.0, rtol=1e-5)


@pytest.mark.parametrize("fused", [True, False])
def test_a_small_epsilon_is_taken_as_it_is(fused):
    """Older TensorFlow silently raised it to 1.001e-5 for the fused kernel; this one does not."""
    x = numbers(3, 4, 5, 2, dtype=np.float32) / 1000  # a variance of about 4e-6
    twin = graph_of(x.shape, np.float32, epsilon=1e-8, fused=fused)
    with twin.session:
        y, *_ = twin.call(x, x, True)
    np.testing.assert_allclose(BatchNorm(epsilon=1e-8)(x), y, rtol=1e-4, atol=1e-5)
    assert np.abs(BatchNorm(epsilon=1.001e-5)(x) - y).max() > 0.1
