"""The deep convolutional network of article A, written with ``tf.compat.v1.layers``, with and without BN.

The article's program is a TensorFlow 1 graph that a session runs. Both remain available as ``tf.compat.v1``; the
layers are served by ``tf-keras`` (see `bncourse.tf_layers.runtime`).
"""

from __future__ import annotations

import math
from typing import Any

from bncourse.nn.checks import fraction, positive_int
from bncourse.tf_layers.arguments import CLASSES, Loss, Optimizer, Order, Start, check_learning_rate, check_seed, known
from bncourse.tf_layers.ends import accuracy_of, placeholders, rate_placeholder
from bncourse.tf_layers.network import ImageNetwork
from bncourse.tf_layers.optimizers import minimize
from bncourse.tf_layers.runtime import identity_start, start_weights, tf, tf1

#: The article's text says 20 convolutional layers; its loop, ``range(1, 20)``, makes 19.
CONV_LAYERS = 19


def fully_connected(
    previous: Any, units: int, training: Any, *, batch_norm: bool = True, momentum: float = 0.99
) -> Any:
    """Add a fully connected layer: dense, BN, ReLU; or dense with a bias and ReLU.

    Parameters
    ----------
    previous : tf.Tensor, shape (batch, features)
        What the layer reads.
    units : int
        Number of outputs.
    training : tf.Tensor or bool
        True: BN normalises with the batch's statistics. False: with the moving ones. Not used without BN.
    batch_norm : bool
        With BN the dense layer has no bias, because subtracting the batch's mean would cancel it.
    momentum : float
        Share of the old value in each update of the moving statistics, in [0, 1].

    Returns
    -------
    tf.Tensor, shape (batch, units)
    """
    if not batch_norm:
        return tf1.layers.dense(previous, units, activation=tf.nn.relu, kernel_initializer=start_weights())
    layer = tf1.layers.dense(previous, units, use_bias=False, kernel_initializer=start_weights())
    layer = tf1.layers.batch_normalization(layer, momentum=momentum, training=training)
    return tf.nn.relu(layer)


def conv_layer(
    previous: Any,
    depth: int,
    training: Any,
    *,
    batch_norm: bool = True,
    momentum: float = 0.99,
    order: Order = "bn-relu",
    start: Start = "glorot",
) -> Any:
    """Add a 3x3 convolution with ``4 * depth`` feature maps: convolution, BN, ReLU; or with a bias and ReLU.

    Every third depth strides by 2 and so halves height and width, rounded up ("same" padding); the others keep them.

    Parameters
    ----------
    previous : tf.Tensor, shape (batch, height, width, channels)
        What the layer reads.
    depth : int
        Place of the layer in the network, counted from 1.
    training : tf.Tensor or bool
        True: BN normalises with the batch's statistics. False: with the moving ones. Not used without BN.
    batch_norm : bool
        With BN in front of the ReLU the convolution needs no bias: subtracting the batch's mean cancels it.
    momentum : float
        Share of the old value in each update of the moving statistics, in [0, 1].
    order : Order
        What follows the convolution, and whether it has a bias: one of the article's four. Not used without BN.
    start : Start
        First weights: ``"glorot"``, the article's, or ``"identity"``; see `bncourse.tf_layers.runtime.identity_start`.

    Returns
    -------
    tf.Tensor, shape (batch, new height, new width, 4 * depth)
    """
    bias = not batch_norm or order.startswith("bias")
    layer = tf1.layers.conv2d(
        previous,
        4 * depth,
        3,
        2 if depth % 3 == 0 else 1,
        "same",
        use_bias=bias,
        kernel_initializer=start_weights() if start == "glorot" else identity_start(),
    )
    if not batch_norm:
        return tf.nn.relu(layer)
    if order.endswith("relu"):
        return tf.nn.relu(tf1.layers.batch_normalization(layer, momentum=momentum, training=training))
    return tf1.layers.batch_normalization(tf.nn.relu(layer), momentum=momentum, training=training)


_LOSSES = {
    "sigmoid": tf.nn.sigmoid_cross_entropy_with_logits,
    "softmax": tf.nn.softmax_cross_entropy_with_logits,
}


def build_deep_network(
    *,
    batch_norm: bool = True,
    momentum: float = 0.99,
    optimizer: Optimizer = "adam",
    learning_rate: float = 0.002,
    update_ops: bool = True,
    conv_layers: int = CONV_LAYERS,
    order: Order = "bn-relu",
    loss: Loss = "sigmoid",
    start: Start = "glorot",
    seed: int = 0,
) -> ImageNetwork:
    """Build the network of article A in a graph of its own.

    Convolutions of depth 1 to `conv_layers` (`conv_layer`), 100 fully connected units, 10 logits. The article's loss
    is the sigmoid cross-entropy, averaged over images and classes; its optimizer is Adam.

    Parameters
    ----------
    batch_norm : bool
        Whether BN follows every layer but the logits.
    momentum : float
        Share of the old value in each update of the moving statistics, in [0, 1].
    optimizer : Optimizer
        ``"adam"``, the article's, or ``"muon"``; see `bncourse.tf_layers.optimizers.minimize`.
    learning_rate : float
        The optimizer's learning rate, above 0; ``network.learning_rate`` may be fed with another at any step.
    update_ops : bool
        Whether a training step updates the moving statistics. False is the classic mistake: TensorFlow only collects
        the update operations, and a program that does not run them scores new images with the start values 0 and 1.
    conv_layers : int
        Number of convolutional layers, 1 or more.
    order : Order
        What follows each convolution: ``"bn-relu"``, or with a bias ``"bias-bn-relu"`` or ``"bias-relu-bn"``, or
        ``"relu-bn"``. The fully connected layer stays as it is.
    loss : Loss
        ``"sigmoid"``, or ``"softmax"``: the cross-entropy of the softmax, averaged over images.
    start : Start
        First weights of the convolutions: ``"glorot"``, the article's, or ``"identity"``; see
        `bncourse.tf_layers.runtime.identity_start`.
    seed : int
        Seed of the graph: the same number gives the same start weights.

    Returns
    -------
    ImageNetwork

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
    known(order, "order", Order)
    known(loss, "loss", Loss)
    known(start, "start", Start)
    known(optimizer, "optimizer", Optimizer)

    with tf1.Graph().as_default() as graph:
        tf1.set_random_seed(seed)
        inputs, labels, training = placeholders()

        layer = inputs
        for depth in range(1, conv_layers + 1):
            layer = conv_layer(
                layer, depth, training, batch_norm=batch_norm, momentum=momentum, order=order, start=start
            )
        layer = tf.reshape(layer, (-1, math.prod(layer.shape[1:])))
        layer = fully_connected(layer, 100, training, batch_norm=batch_norm, momentum=momentum)
        logits = tf1.layers.dense(layer, CLASSES, kernel_initializer=start_weights())

        cost = tf.reduce_mean(_LOSSES[loss](labels=labels, logits=logits))
        rate = rate_placeholder(learning_rate)
        kernels = [v for v in tf1.trainable_variables() if v.op.name.endswith("/kernel")]
        updates = tuple(tf1.get_collection(tf1.GraphKeys.UPDATE_OPS))
        with tf.control_dependencies(updates if update_ops else ()):
            train_op = minimize(cost, optimizer, rate, turned=kernels[:-1] if batch_norm else ())

        accuracy = accuracy_of(logits, labels)
        initializer = tf1.global_variables_initializer()
    return ImageNetwork(graph, inputs, labels, training, logits, cost, accuracy, train_op, updates, initializer, rate)
