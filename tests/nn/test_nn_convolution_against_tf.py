"""Convolution, pooling, SELU and Adam against TensorFlow and Keras, whose import takes seconds: a file of its own."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np
import pytest

from bncourse.nn import SELU, Adam, AlphaDropout, Conv2D, MaxPool, conv2d, conv2d_backward, max_pool, max_pool_backward
from bncourse.tf_layers import tf, tf1  # first: it quietens TensorFlow

import keras  # isort: skip

CASES = [
    # shape, window, strides
    ((2, 7, 6, 3), (3, 3), (1, 1)),
    ((2, 7, 6, 3), (3, 3), (2, 2)),
    ((2, 8, 5, 1), (2, 4), (2, 1)),
    ((1, 6, 7, 2), (5, 2), (3, 4)),  # (3, 4): gaps between the windows across
    ((3, 4, 4, 2), (1, 1), (2, 3)),
]
PADDING = pytest.mark.parametrize("padding", ["valid", "same"])


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@PADDING
@pytest.mark.parametrize(("shape", "size", "strides"), CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_convolution_agrees_with_tensorflow(shape, size, strides, padding, dtype, tolerance):
    x, kernel = numbers(*shape).astype(dtype), numbers(*size, shape[3], 4, seed=1).astype(dtype)
    y, cache = conv2d(x, kernel, strides=strides, padding=padding)
    dy = numbers(*y.shape, seed=2).astype(dtype)
    variables = tf.Variable(x), tf.Variable(kernel)
    with tf.GradientTape() as tape:
        theirs = tf.nn.conv2d(*variables, strides=strides, padding=padding.upper())
        loss = tf.reduce_sum(theirs * dy)
    dx, dkernel = tape.gradient(loss, variables)
    close = {"rtol": tolerance, "atol": 10 * tolerance}
    np.testing.assert_allclose(y, theirs, **close)
    ours = conv2d_backward(dy, cache)
    np.testing.assert_allclose(ours[0], dx, **close)
    np.testing.assert_allclose(ours[1], dkernel, **close)


def pool_gradient(x, size, strides, padding, dy):
    variable = tf.Variable(x)
    with tf.GradientTape() as tape:
        y = tf.nn.max_pool2d(variable, size, strides, padding.upper())
        loss = tf.reduce_sum(y * dy)
    return y, tape.gradient(loss, variable)


@PADDING
@pytest.mark.parametrize(("shape", "size", "strides"), CASES)
@pytest.mark.parametrize("ties", [False, True])
def test_max_pooling_agrees_with_tensorflow_ties_included(shape, size, strides, padding, ties):
    x = numbers(*shape) - 3
    if ties:
        x = np.random.default_rng(0).integers(-3, -1, shape).astype(float)  # two values only
    y, cache = max_pool(x, size, strides=strides, padding=padding)
    dy = numbers(*y.shape, seed=2)
    theirs, dx = pool_gradient(x, size, strides, padding, dy)
    np.testing.assert_array_equal(y, theirs)
    np.testing.assert_allclose(max_pool_backward(dy, cache), dx, rtol=1e-12, atol=1e-12)


def test_of_equal_maxima_tensorflow_takes_the_first():
    _, dx = pool_gradient(np.zeros((1, 4, 4, 1)), 2, 2, "valid", np.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(dx.numpy()[0, ..., 0], np.kron(np.ones((2, 2)), [[1, 0], [0, 0]]))


@PADDING
def test_the_layers_agree_with_keras(padding):
    x = numbers(2, 9, 8, 3).astype(np.float32)
    ours, theirs = (
        Conv2D(4, (3, 2), strides=2, padding=padding, seed=0),
        keras.layers.Conv2D(4, (3, 2), strides=2, padding=padding),
    )
    y = ours(x)
    theirs.build(x.shape)
    theirs.set_weights([ours.kernel, ours.bias + 1])
    np.testing.assert_allclose(y + 1, theirs(x), rtol=1e-5, atol=1e-5)
    pool = keras.layers.MaxPooling2D(2, padding=padding)
    np.testing.assert_array_equal(MaxPool(2, padding=padding)(x), pool(x))


def test_convolution_starts_with_the_spread_of_keras():
    ours, theirs = Conv2D(100, 3, seed=0), keras.layers.Conv2D(100, 3)
    ours(np.ones((1, 3, 3, 50), np.float32))
    theirs.build((None, 3, 3, 50))
    kernel = np.asarray(theirs.kernel)
    assert ours.kernel.shape == kernel.shape
    assert np.abs(ours.kernel).max() == pytest.approx(np.abs(kernel).max(), rel=1e-2)
    assert ours.kernel.std() == pytest.approx(kernel.std(), rel=2e-2)


def test_selu_agrees_with_tensorflow_also_at_0():
    layer, x = SELU(), np.array([[-30.0, -1.0, -1e-3, 0.0, 1e-3, 2.0]], np.float32)
    variable = tf.Variable(x)
    with tf.GradientTape() as tape:
        y = tf.nn.selu(variable)
    dx = tape.gradient(y, variable)
    np.testing.assert_allclose(layer(x), y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.backward(np.ones_like(x)), dx, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_alpha_dropout_agrees_with_keras(rate):
    # The draws differ; the two lines, one for kept and one for dropped numbers, do not.
    x = np.ones((40, 40), np.float32)
    ours = np.unique(AlphaDropout(rate, seed=0)(x))
    theirs = np.unique(keras.layers.AlphaDropout(rate, seed=0)(x, training=True))
    assert len(ours) == len(theirs) == 2
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def small_gradients():
    """Gradients so small that epsilon decides."""
    return (1e-3 * np.random.default_rng(0).normal(size=(20, 5))).astype(np.float32)


def path_end(form, epsilon, start, gradients):
    parameter, optimizer = start.copy(), Adam(0.01, epsilon=epsilon, epsilon_beside=form)
    for gradient in gradients:
        optimizer.update({"p": parameter}, {"p": gradient})
    return parameter


@pytest.mark.parametrize("epsilon", [1e-8, 1e-4])
def test_uncorrected_is_the_adam_of_tensorflow_1(epsilon):
    start, gradients = np.ones(5, np.float32), small_gradients()
    with tf.Graph().as_default():
        variable, gradient = tf1.Variable(start), tf1.placeholder(tf.float32, 5)
        step = tf1.train.AdamOptimizer(0.01, epsilon=epsilon).apply_gradients([(gradient, variable)])
        with tf1.Session() as session:
            session.run(tf1.global_variables_initializer())
            for value in gradients:
                session.run(step, {gradient: value})
            expected = session.run(variable)
    np.testing.assert_allclose(path_end("uncorrected", epsilon, start, gradients), expected, atol=1e-6)


@pytest.mark.parametrize("epsilon", [1e-7, 1e-4])
def test_uncorrected_is_the_adam_of_keras(epsilon):
    start, gradients = np.ones(5, np.float32), small_gradients()
    variable, theirs = keras.Variable(start), keras.optimizers.Adam(0.01, epsilon=epsilon)
    theirs.build([variable])
    for value in gradients:
        theirs.apply([tf.constant(value)])
    np.testing.assert_allclose(path_end("uncorrected", epsilon, start, gradients), variable, atol=1e-6)


def test_the_two_forms_of_adam_can_be_told_apart_by_these_gradients():
    ends = [path_end(form, 1e-4, np.ones(5, np.float32), small_gradients()) for form in ("corrected", "uncorrected")]
    assert np.abs(ends[0] - ends[1]).max() > 1e-3
