"""The neighbours of Batch Normalization against Keras; in a file of its own because the import takes seconds."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np
import pytest

from bncourse.nn import BatchRenorm, GhostBatchNorm, GroupNorm, InstanceNorm, LayerNorm
from bncourse.tf_layers import tf, tf1  # first: it quietens TensorFlow

import keras  # isort: skip

layers = keras.layers
CASES = [
    (LayerNorm, layers.LayerNormalization, {}, {}, (4, 5)),
    (LayerNorm, layers.LayerNormalization, {}, {}, (3, 4, 5, 2)),
    (LayerNorm, layers.LayerNormalization, {"axis": (1, 2, 3)}, {"axis": [1, 2, 3]}, (3, 4, 5, 2)),
    (LayerNorm, layers.LayerNormalization, {"axis": (2, 3)}, {"axis": [2, 3]}, (3, 2, 4, 2, 2)),
    (GroupNorm, layers.GroupNormalization, {"groups": 2}, {"groups": 2}, (4, 6)),
    (GroupNorm, layers.GroupNormalization, {"groups": 3}, {"groups": 3}, (2, 3, 4, 6)),
    (GroupNorm, layers.GroupNormalization, {"groups": 2, "axis": 1}, {"groups": 2, "axis": 1}, (2, 4, 3, 5)),
    (GroupNorm, layers.GroupNormalization, {"groups": -1}, {"groups": -1}, (2, 5, 3)),
    (InstanceNorm, layers.GroupNormalization, {}, {"groups": -1}, (2, 3, 2, 2, 3)),
    (InstanceNorm, layers.GroupNormalization, {"axis": 1}, {"groups": -1, "axis": 1}, (2, 3, 4, 4)),
]
PRECISION = [(np.float64, 1e-10), (np.float32, 2e-5)]


def prepared(layer, shape, dtype):
    """Build the layer, and return x and dy with nothing special about it or them."""
    rng = np.random.default_rng(0)
    x, dy = (rng.normal(1.0, 2.0, shape).astype(dtype) for _ in range(2))
    layer(x, training=False)
    for array in layer.parameters.values():
        array[...] = rng.normal(size=array.shape)
    return x, dy


def gradients_of(twin, x, dy, variables, **call):
    variable = tf.Variable(x)
    with tf.GradientTape() as tape:
        y = twin(variable, **call)
        loss = tf.reduce_sum(y * dy)
    return y, *tape.gradient(loss, [variable, *variables])


@pytest.mark.parametrize(("ours", "theirs", "own", "options", "shape"), CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISION)
def test_the_norms_within_a_sample_agree_with_keras(ours, theirs, own, options, shape, dtype, tolerance):
    layer = ours(**own, epsilon=2e-3)
    x, dy = prepared(layer, shape, dtype)
    twin = theirs(**options, epsilon=2e-3, dtype=np.dtype(dtype).name)
    twin.build(shape)
    twin.set_weights([layer.gamma, layer.beta])
    y, dx, dgamma, dbeta = gradients_of(twin, x, dy, [twin.gamma.value, twin.beta.value])

    np.testing.assert_allclose(layer(x), y, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(layer.backward(dy), dx, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(layer.gradients["gamma"], dgamma, rtol=tolerance, atol=20 * tolerance)
    np.testing.assert_allclose(layer.gradients["beta"], dbeta, rtol=tolerance, atol=20 * tolerance)


@pytest.mark.parametrize(("shape", "axis"), [((8, 3), -1), ((6, 3, 2, 2), 1)])
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISION)
def test_ghost_batch_norm_is_the_batch_norm_of_keras_on_each_virtual_batch(shape, axis, dtype, tolerance):
    layer = GhostBatchNorm(2, axis=axis, momentum=0.7, epsilon=2e-3)
    x, dy = prepared(layer, shape, dtype)
    twin = keras.layers.BatchNormalization(axis=axis, momentum=0.7, epsilon=2e-3, dtype=np.dtype(dtype).name)
    twin.build(shape)
    twin.set_weights([layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance])
    variables = [twin.gamma.value, twin.beta.value]
    results = [gradients_of(twin, x[i : i + 2], dy[i : i + 2], variables, training=True) for i in range(0, len(x), 2)]
    y, dx, dgamma, dbeta = zip(*results, strict=True)

    close = {"rtol": tolerance, "atol": tolerance}
    np.testing.assert_allclose(layer(x), np.concatenate(y), **close)
    np.testing.assert_allclose(layer.backward(dy), np.concatenate(dx), **close)
    np.testing.assert_allclose(layer.gradients["gamma"], np.sum(dgamma, axis=0), rtol=tolerance, atol=20 * tolerance)
    np.testing.assert_allclose(layer.gradients["beta"], np.sum(dbeta, axis=0), rtol=tolerance, atol=20 * tolerance)
    np.testing.assert_allclose(layer.moving_mean, twin.moving_mean, **close)
    np.testing.assert_allclose(layer.moving_variance, twin.moving_variance, **close)
    np.testing.assert_allclose(layer(x, training=False), twin(x, training=False), **close)


@pytest.mark.parametrize(("r_max", "d_max"), [(1.0, 0.0), (1.2, 0.1), (3.0, 5.0)])
def test_batch_renorm_agrees_with_the_renorm_of_the_older_keras(r_max, d_max):
    """tf-keras averages the standard deviation; started at ours, one call must agree."""
    layer = BatchRenorm(epsilon=2e-3, r_max=r_max, d_max=d_max)
    x, dy = prepared(layer, (8, 3), np.float32)  # it fails for float64
    layer.moving_mean[...], layer.moving_variance[...] = [0.5, 1.0, -1.0], [2.0, 4.0, 6.0]
    clipping = {"rmin": 1 / r_max, "rmax": r_max, "dmax": d_max}
    twin = tf1.keras.layers.BatchNormalization(epsilon=2e-3, renorm=True, renorm_clipping=clipping)
    twin.build(x.shape)
    twin.gamma.assign(layer.gamma)
    twin.beta.assign(layer.beta)
    twin.renorm_mean.assign(layer.moving_mean)
    twin.renorm_stddev.assign(np.sqrt(layer.moving_variance + 2e-3))
    y, dx, dgamma, dbeta = gradients_of(twin, x, dy, [twin.gamma, twin.beta], training=True)
    np.testing.assert_allclose(layer(x), y, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.backward(dy), dx, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.gradients["gamma"], dgamma, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.gradients["beta"], dbeta, rtol=1e-5, atol=1e-5)
