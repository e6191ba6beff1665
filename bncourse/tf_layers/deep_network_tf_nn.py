"""The deep network of article A once more, with nothing but variables and ``tf.nn``.

What ``tf.layers`` does behind its functions stands here in plain sight. The variables have the names that
``tf.layers`` gives them, so that weights move between the two by name.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from bncourse.nn.checks import fraction, positive_int
from bncourse.tf_layers.arguments import CLASSES, check_learning_rate, check_seed
from bncourse.tf_layers.by_hand import batch_norm_by_hand
from bncourse.tf_layers.deep_network import CONV_LAYERS
from bncourse.tf_layers.ends import accuracy_of, placeholders, rate_placeholder
from bncourse.tf_layers.network import ImageNetwork
from bncourse.tf_layers.runtime import start_weights, tf, tf1

#: Which variance the moving average takes in; see `build_tf_nn_network`.
MovingVariance = Literal["population", "sample", "as tf.layers"]


def build_tf_nn_network(
    *,
    momentum: float = 0.99,
    learning_rate: float = 0.002,
    conv_layers: int = CONV_LAYERS,
    moving_variance: MovingVariance = "population",
    dtype: Literal["float32", "float64"] = "float32",
    seed: int = 0,
) -> ImageNetwork:
    """Build the network of article A, with BN, in a graph of its own, from variables and ``tf.nn``.

    Parameters
    ----------
    momentum : float
        Share of the old value in each update of the moving statistics, in [0, 1].
    learning_rate : float
        Adam's learning rate, above 0.
    conv_layers : int
        Number of convolutional layers, 1 or more.
    moving_variance : {"population", "sample", "as tf.layers"}
        What the moving variances take in: the variance of the batch, as in Keras 3; n/(n-1) times it; or what
        ``tf.layers`` does, namely the second behind convolutions (the fused kernel) and the first behind dense layers.
    dtype : {"float32", "float64"}
        Type of images, labels and variables. In float64, what is left of a difference in float32 was rounding.
    seed : int
        Seed of the graph.

    Returns
    -------
    ImageNetwork
        Its placeholders have the type `dtype`.

    Raises
    ------
    ValueError
        If an argument lies outside its range.
    TypeError
        If `conv_layers` or `seed` is not an integer.
    """
    fraction(momentum, "momentum", end=True)
    check_learning_rate(learning_rate)
    positive_int(conv_layers, "conv_layers")
    check_seed(seed)
    if moving_variance not in ("population", "sample", "as tf.layers"):
        raise ValueError(f"moving_variance = {moving_variance!r}; expected 'population', 'sample' or 'as tf.layers'.")
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype = {dtype!r}; expected 'float32' or 'float64'.")
    behind_conv: Any = "sample" if moving_variance == "as tf.layers" else moving_variance
    behind_dense: Any = "population" if moving_variance == "as tf.layers" else moving_variance

    with tf1.Graph().as_default() as graph:
        tf1.set_random_seed(seed)
        inputs, labels, training = placeholders(dtype)

        def bn_relu(layer: Any, index: int, variance: Any) -> Any:
            # The moments run over all axes but the last: (0,) behind a dense layer, (0, 1, 2) behind a convolution.
            name = _numbered("batch_normalization", index)
            return tf.nn.relu(
                batch_norm_by_hand(layer, training, momentum=momentum, moving_variance=variance, name=name)
            )

        layer = inputs
        for depth in range(1, conv_layers + 1):
            kernel = _variable(_numbered("conv2d", depth - 1), "kernel", (3, 3, layer.shape[-1], 4 * depth), dtype)
            layer = tf.nn.conv2d(layer, kernel, strides=2 if depth % 3 == 0 else 1, padding="SAME")
            layer = bn_relu(layer, depth - 1, behind_conv)
        features = math.prod(layer.shape[1:])
        kernel = _variable("dense", "kernel", (features, 100), dtype)
        layer = bn_relu(tf.matmul(tf.reshape(layer, (-1, features)), kernel), conv_layers, behind_dense)
        kernel = _variable("dense_1", "kernel", (100, CLASSES), dtype)
        bias = _variable("dense_1", "bias", (CLASSES,), dtype, tf1.zeros_initializer())
        logits = tf.matmul(layer, kernel) + bias

        loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits))
        updates = tuple(tf1.get_collection(tf1.GraphKeys.UPDATE_OPS))
        rate = rate_placeholder(learning_rate)
        with tf.control_dependencies(updates):
            train_op = tf1.train.AdamOptimizer(rate).minimize(loss)
        accuracy = accuracy_of(logits, labels)
        initializer = tf1.global_variables_initializer()
    return ImageNetwork(graph, inputs, labels, training, logits, loss, accuracy, train_op, updates, initializer, rate)


def _numbered(name: str, index: int) -> str:
    """Return the name that ``tf.layers`` gives the layer of that index: conv2d, conv2d_1, conv2d_2 and so on."""
    return f"{name}_{index}" if index else name


def _variable(layer: str, name: str, shape: tuple[int, ...], dtype: str, initializer: Any = None) -> Any:
    with tf1.variable_scope(layer):
        return tf1.get_variable(name, shape, dtype, initializer or start_weights())
