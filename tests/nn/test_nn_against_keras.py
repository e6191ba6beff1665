"""The NumPy room against Keras 3 and TensorFlow; in a file of its own because their import takes seconds."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np
import pytest

from bncourse.nn import SGD, Adam, BatchNorm, Dense
from bncourse.tf_layers import tf, tf1  # first: it quietens TensorFlow

import keras  # isort: skip

LAYOUTS = [((6, 3), -1), ((4, 5, 3), -1), ((3, 4, 5, 2), -1), ((3, 2, 4, 5), 1), ((2, 2, 3, 2, 2), 2)]


def keras_twin(layer, x, **options):
    """Return the Keras layer with the options and weights of `layer`."""
    twin = keras.layers.BatchNormalization(
        axis=layer.axis, momentum=layer.momentum, epsilon=layer.epsilon, dtype=str(x.dtype), **options
    )
    twin.build(x.shape)
    twin.set_weights([layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance])
    return twin


def prepared(shape, axis, dtype):
    """Return a built layer with nothing special about its weights, x and dy."""
    rng = np.random.default_rng(0)
    layer = BatchNorm(axis=axis, momentum=0.7, epsilon=2e-3)
    x, dy = (rng.normal(1.0, 2.0, shape).astype(dtype) for _ in range(2))
    layer(x)
    layer.gamma[...], layer.beta[...] = (rng.normal(size=layer.gamma.shape) for _ in range(2))
    return layer, x, dy


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("shape", "axis"), LAYOUTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 2e-5)])
def test_batch_norm_agrees_with_keras_forward_and_backward(shape, axis, training, dtype, tolerance):
    layer, x, dy = prepared(shape, axis, dtype)
    twin, variable = keras_twin(layer, x), tf.Variable(x)
    with tf.GradientTape() as tape:
        y = twin(variable, training=training)
        loss = tf.reduce_sum(y * dy)
    dx, dgamma, dbeta = tape.gradient(loss, [variable, twin.gamma.value, twin.beta.value])

    close = {"rtol": tolerance, "atol": tolerance}
    np.testing.assert_allclose(layer(x, training=training), y, **close)
    np.testing.assert_allclose(layer.backward(dy), dx, **close)
    np.testing.assert_allclose(layer.gradients["gamma"], dgamma, rtol=tolerance, atol=20 * tolerance)
    np.testing.assert_allclose(layer.gradients["beta"], dbeta, rtol=tolerance, atol=20 * tolerance)
    np.testing.assert_allclose(layer.moving_mean, twin.moving_mean, **close)
    np.testing.assert_allclose(layer.moving_variance, twin.moving_variance, **close)


def test_a_mask_means_what_it_means_in_keras():
    layer, x, _ = prepared((4, 5, 3), -1, np.float64)
    twin, mask = keras_twin(layer, x), np.arange(20).reshape(4, 5) % 3 > 0
    y = twin(x, training=True, mask=mask)
    # Keras adds 1e-7 to the number of positions that count
    np.testing.assert_allclose(layer(x, training=True, mask=mask), y, atol=1e-7)
    np.testing.assert_allclose(layer.moving_mean, twin.moving_mean, atol=1e-7)
    np.testing.assert_allclose(layer.moving_variance, twin.moving_variance, atol=1e-7)


def test_trainable_false_means_what_it_means_in_keras():
    layer, x, _ = prepared((6, 3), -1, np.float64)
    twin = keras_twin(layer, x)
    layer.trainable = twin.trainable = False
    np.testing.assert_allclose(layer(x, training=True), twin(x, training=True), rtol=1e-12)
    np.testing.assert_allclose(layer.moving_mean, twin.moving_mean, rtol=1e-12)


def test_the_sample_variance_is_that_of_the_fused_kernel():
    x = np.random.default_rng(0).normal(1.0, 2.0, (3, 4, 5, 2)).astype(np.float32)
    y, mean, variance = (
        tensor.numpy()
        for tensor in tf1.nn.fused_batch_norm(x, np.ones(2, np.float32), np.zeros(2, np.float32), epsilon=1e-3)
    )
    layer = BatchNorm(momentum=0.0, moving_variance="sample")
    np.testing.assert_allclose(layer(x), y, atol=2e-6)
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=2e-6)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=2e-6)
    n = 3 * 4 * 5
    np.testing.assert_allclose(variance, x.var(axis=(0, 1, 2)) * n / (n - 1), rtol=1e-5)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SGD(0.1, momentum=0.9), keras.optimizers.SGD(0.1, momentum=0.9)),
        (Adam(0.01), keras.optimizers.Adam(0.01)),
        (Adam(0.01, epsilon=1e-2), keras.optimizers.Adam(0.01, epsilon=1e-2)),
    ],
)
def test_the_optimizers_agree_with_keras(ours, theirs):
    rng = np.random.default_rng(0)
    parameter = rng.normal(size=5).astype(np.float32)
    variable = keras.Variable(parameter.copy())
    theirs.build([variable])
    for gradient in rng.normal(size=(20, 5)).astype(np.float32):
        ours.update({"p": parameter}, {"p": gradient})
        theirs.apply([tf.constant(gradient)])
    np.testing.assert_allclose(parameter, variable, rtol=1e-4, atol=1e-5)


def test_dense_starts_with_the_spread_of_keras():
    ours, theirs = Dense(300, seed=0), keras.layers.Dense(300)
    ours(np.ones((1, 200)))
    theirs.build((None, 200))
    kernel = np.asarray(theirs.kernel)
    assert np.abs(ours.kernel).max() == pytest.approx(np.abs(kernel).max(), rel=1e-2)
    assert ours.kernel.std() == pytest.approx(kernel.std(), rel=2e-2)
