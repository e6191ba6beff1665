"""The base convolutional network of article E, without BN and without dropout, with ``tf.compat.v1.layers``.

The article's program is a TensorFlow 1 graph that a session runs. Both remain available as ``tf.compat.v1``; the
layers are served by ``tf-keras`` (see `bncourse.tf_layers.runtime`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from bncourse.nn.checks import positive_int
from bncourse.tf_layers.arguments import CLASSES, IMAGE_SHAPE, check_learning_rate, check_seed, known
from bncourse.tf_layers.ends import accuracy_of, rate_placeholder
from bncourse.tf_layers.network import ImageNetwork
from bncourse.tf_layers.runtime import start_weights, tf, tf1

#: Type of the activations, and so of the memory they take.
Precision = Literal["float32", "float16", "bfloat16"]

#: Feature maps and strides of the two convolutions, and units of the fully connected layer.
MAPS, STRIDES, UNITS = (16, 32), (1, 2), 32


def build_base_network(
    *,
    maps: Sequence[int] = MAPS,
    strides: Sequence[int] = STRIDES,
    units: int = UNITS,
    precision: Precision = "float32",
    learning_rate: float = 0.001,
    seed: int = 0,
) -> ImageNetwork:
    """Build the base network of article E in a graph of its own.

    3x3 convolutions with "same" padding and ReLU; 2x2 max pooling; one fully connected layer with ReLU; 10 logits;
    softmax cross-entropy, averaged over the images; Adam. The defaults are the article's. There is no BN, so there
    are no update operations, and the mode changes nothing.

    Parameters
    ----------
    maps : sequence of int
        Feature maps of each convolution, 1 or more convolutions.
    strides : sequence of int
        Stride of each convolution. The pooling window must still fit: 28 divided by all strides, rounded up each
        time, must leave a side of 2 or more.
    units : int
        Units of the fully connected layer, 1 or more.
    precision : {"float32", "float16", "bfloat16"}
        Type in which the layers compute. Variables, logits and loss are float32 in any case: a weight is rounded when
        it is used. Meant for scoring; training in half precision would need a scaled loss.
    learning_rate : float
        Adam's learning rate, above 0; ``network.learning_rate`` may be fed with another at any step.
    seed : int
        Seed of the graph: the same number gives the same start weights.

    Returns
    -------
    ImageNetwork
        With ``update_ops == ()``. ``network.training`` is False where nothing is fed.

    Raises
    ------
    ValueError
        If an argument lies outside its range, or `maps` and `strides` do not belong together.
    TypeError
        If a number that counts something is not an integer.
    """
    maps, strides = _convolutions(maps, strides)
    positive_int(units, "units")
    known(precision, "precision", Precision)
    check_learning_rate(learning_rate)
    check_seed(seed)

    with tf1.Graph().as_default() as graph:
        tf1.set_random_seed(seed)
        inputs = tf1.placeholder(tf.float32, (None, *IMAGE_SHAPE), name="inputs")
        labels = tf1.placeholder(tf.float32, (None, CLASSES), name="labels")
        training = tf1.placeholder_with_default(False, (), name="training")

        with tf1.variable_scope("", custom_getter=_stored_in_float32):
            layer = tf.cast(inputs, precision)
            for number, stride in zip(maps, strides, strict=True):
                layer = tf1.layers.conv2d(
                    layer, number, 3, stride, "same", activation=tf.nn.relu, kernel_initializer=start_weights()
                )
            layer = tf1.layers.flatten(tf1.layers.max_pooling2d(layer, 2, 2, "valid"))
            layer = tf1.layers.dense(layer, units, activation=tf.nn.relu, kernel_initializer=start_weights())
            layer = tf1.layers.dense(layer, CLASSES, kernel_initializer=start_weights())
        logits = tf.cast(layer, tf.float32, name="logits")

        cost = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels=labels, logits=logits))
        rate = rate_placeholder(learning_rate)
        train_op = tf1.train.AdamOptimizer(rate).minimize(cost)

        accuracy = accuracy_of(logits, labels)
        initializer = tf1.global_variables_initializer()
    return ImageNetwork(graph, inputs, labels, training, logits, cost, accuracy, train_op, (), initializer, rate)


def _stored_in_float32(getter: Any, *args: Any, dtype: Any = None, **options: Any) -> Any:
    """Make a variable in float32, and give a copy of it in the type that the layer asks for."""
    variable = getter(*args, dtype=tf.float32, **options)
    return variable if dtype in (None, tf.float32) else tf.cast(variable, dtype)


def _convolutions(maps: Sequence[int], strides: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return maps and strides, if there is one stride for each convolution and the pooling window fits in the end."""
    maps = tuple(positive_int(number, "maps") for number in maps)
    strides = tuple(positive_int(stride, "strides") for stride in strides)
    if not maps or len(maps) != len(strides):
        raise ValueError(f"maps = {maps}, strides = {strides}; expected one stride for each of 1 or more convolutions.")
    side = IMAGE_SHAPE[0]
    for stride in strides:
        side = -(-side // stride)
    if side < 2:
        raise ValueError(f"strides = {strides} leave a side of {side}; expected 2 or more for the 2x2 pooling.")
    return maps, strides
