"""The improved convolutional network of article E: BN, SELU and dropout, written with ``tf.compat.v1.layers``.

The article's program is a TensorFlow 1 graph that a session runs. Both remain available as ``tf.compat.v1``; the
layers are served by ``tf-keras`` (see `bncourse.tf_layers.runtime`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bncourse.nn.checks import fraction
from bncourse.tf_layers.arguments import CLASSES, IMAGE_SHAPE, check_learning_rate, check_seed
from bncourse.tf_layers.runtime import start_weights, tf, tf1

#: Shares that dropout sets to zero: behind the pooling layer, and behind the fully connected layer.
DROPOUT_RATES = (0.25, 0.5)


@dataclass(frozen=True)
class ImprovedNetwork:
    """The ends of the graph that a training program holds.

    Attributes
    ----------
    graph : tf.Graph
        The graph; open a session with ``tf1.Session(graph=network.graph)``.
    inputs : tf.Tensor, float32, shape (batch, 28, 28, 1)
        Placeholder of the images, pixels in [0, 1].
    labels : tf.Tensor, int64, shape (batch,)
        Placeholder of the class numbers.
    training : tf.Tensor, bool, shape ()
        Placeholder of the mode, False where nothing is fed. True: BN takes the batch's statistics, and dropout drops.
    logits : tf.Tensor, float32, shape (batch, 10)
        Outputs of the last dense layer, *before* the last BN.
    normalised_logits : tf.Tensor, float32, shape (batch, 10)
        Outputs of the last BN; the softmax, and with it the loss, reads these.
    loss : tf.Tensor, float32, shape ()
        Softmax cross-entropy in nats of `normalised_logits`, averaged over the images.
    accuracy_before : tf.Tensor, float32, shape ()
        Share of the images whose largest number in `logits` stands at their label: the article's accuracy.
    accuracy_after : tf.Tensor, float32, shape ()
        The same from `normalised_logits`: the accuracy of what was trained.
    train_op : tf.Operation
        One step of Adam, and before it the updates of the moving statistics.
    update_ops : tuple of tf.Operation
        The updates of the moving statistics: two for each of the four BN layers.
    initializer : tf.Operation
        Sets every variable to its start value.
    """

    graph: Any
    inputs: Any
    labels: Any
    training: Any
    logits: Any
    normalised_logits: Any
    loss: Any
    accuracy_before: Any
    accuracy_after: Any
    train_op: Any
    update_ops: tuple[Any, ...]
    initializer: Any


def build_improved_network(*, momentum: float = 0.9, learning_rate: float = 0.01, seed: int = 0) -> ImprovedNetwork:
    """Build the improved network of article E in a graph of its own.

    Convolution (16 maps, 3x3, stride 1, "same"), BN, SELU; convolution (32 maps, 3x3, stride 1, "same"), BN, SELU;
    2x2 max pooling; dropout 0.25; 32 fully connected units, BN, SELU, dropout 0.5; 10 logits, BN; softmax
    cross-entropy; Adam. As in the article, the layers in front of a BN keep their biases, which do nothing.

    The article computes its accuracy from the logits before the last BN and its loss from those after. Both
    accuracies are given here, so that they can be compared.

    Parameters
    ----------
    momentum : float
        Share of the old value in each update of the moving statistics, in [0, 1].
    learning_rate : float
        Adam's learning rate, above 0.
    seed : int
        Seed of the graph, 0 or more: the same number gives the same start weights and the same dropout.

    Returns
    -------
    ImprovedNetwork

    Raises
    ------
    ValueError
        If an argument lies outside its range.
    TypeError
        If `seed` is not an integer.
    """
    fraction(momentum, "momentum", end=True)
    check_learning_rate(learning_rate)
    check_seed(seed)

    with tf1.Graph().as_default() as graph:
        tf1.set_random_seed(seed)
        inputs = tf1.placeholder(tf.float32, (None, *IMAGE_SHAPE), name="inputs")
        labels = tf1.placeholder(tf.int64, (None,), name="labels")
        training = tf1.placeholder_with_default(False, (), name="training")

        def batch_norm(layer: Any) -> Any:
            return tf1.layers.batch_normalization(layer, momentum=momentum, training=training)

        def dense(layer: Any, units: int, name: str | None = None) -> Any:
            return tf1.layers.dense(layer, units, kernel_initializer=start_weights(), name=name)

        layer = inputs
        for maps in (16, 32):
            layer = tf.nn.selu(
                batch_norm(tf1.layers.conv2d(layer, maps, 3, 1, "same", kernel_initializer=start_weights()))
            )
        layer = tf1.layers.flatten(tf1.layers.max_pooling2d(layer, 2, 2, "valid"))
        layer = tf1.layers.dropout(layer, DROPOUT_RATES[0], training=training)
        layer = tf.nn.selu(batch_norm(dense(layer, 32)))
        layer = tf1.layers.dropout(layer, DROPOUT_RATES[1], training=training)
        logits = dense(layer, CLASSES, name="output")
        normalised_logits = batch_norm(logits)

        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=normalised_logits))
        updates = tuple(tf1.get_collection(tf1.GraphKeys.UPDATE_OPS))
        with tf.control_dependencies(updates):
            train_op = tf1.train.AdamOptimizer(learning_rate).minimize(loss)
        initializer = tf1.global_variables_initializer()
        return ImprovedNetwork(
            graph=graph,
            inputs=inputs,
            labels=labels,
            training=training,
            logits=logits,
            normalised_logits=normalised_logits,
            loss=loss,
            accuracy_before=_accuracy(logits, labels),
            accuracy_after=_accuracy(normalised_logits, labels),
            train_op=train_op,
            update_ops=updates,
            initializer=initializer,
        )


def _accuracy(scores: Any, labels: Any) -> Any:
    correct = tf1.nn.in_top_k(predictions=scores, targets=labels, k=1)
    return tf.reduce_mean(tf.cast(correct, tf.float32))
