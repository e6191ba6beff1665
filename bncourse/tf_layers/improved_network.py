"""The improved convolutional network of article E: BN, SELU and dropout, written with ``tf.compat.v1.layers``.

The article's program is a TensorFlow 1 graph that a session runs. Both remain available as ``tf.compat.v1``; the
layers are served by ``tf-keras`` (see `bncourse.tf_layers.runtime`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bncourse.nn.checks import fraction
from bncourse.tf_layers.arguments import (
    CLASSES,
    IMAGE_SHAPE,
    Activation,
    Optimizer,
    check_learning_rate,
    check_seed,
    known,
)
from bncourse.tf_layers.ends import rate_placeholder
from bncourse.tf_layers.network import ImageNetwork
from bncourse.tf_layers.optimizers import minimize
from bncourse.tf_layers.runtime import start_weights, tf, tf1

#: Shares that dropout sets to zero: behind the pooling layer, and behind the fully connected layer.
DROPOUT_RATES = (0.25, 0.5)


@dataclass(frozen=True, kw_only=True)
class ImprovedNetwork(ImageNetwork):
    """The ends of the graph that a training program holds: those of every image network, and some more.

    The labels are class numbers here, int64, shape (batch,). `logits` are the outputs of the last dense layer, *before*
    the last BN. `training` is False where nothing is fed; True: BN takes the batch's statistics, and dropout drops.
    `accuracy` is `accuracy_after`.

    Attributes
    ----------
    normalised_logits : tf.Tensor, float32, shape (batch, 10)
        Outputs of the last BN; the softmax, and with it the loss, reads these. Without BN there: `logits`.
    accuracy_before : tf.Tensor, float32, shape ()
        Share of the images whose largest number in `logits` stands at their label: the article's accuracy.
    accuracy_after : tf.Tensor, float32, shape ()
        The same from `normalised_logits`: the accuracy of what was trained.
    """

    normalised_logits: Any
    accuracy_before: Any
    accuracy_after: Any


def build_improved_network(
    *,
    batch_norm: bool = True,
    normalise_logits: bool = True,
    normalise_pooled: bool = False,
    dropout_rates: tuple[float, float] = DROPOUT_RATES,
    activation: Activation = "selu",
    momentum: float = 0.9,
    optimizer: Optimizer = "adam",
    learning_rate: float = 0.01,
    seed: int = 0,
) -> ImprovedNetwork:
    """Build the improved network of article E in a graph of its own.

    Convolution (16 maps, 3x3, stride 1, "same"), BN, SELU; convolution (32 maps, 3x3, stride 1, "same"), BN, SELU;
    2x2 max pooling; dropout 0.25; 32 fully connected units, BN, SELU, dropout 0.5; 10 logits, BN; softmax
    cross-entropy; Adam. As in the article, the layers in front of a BN keep their biases, which do nothing.

    The article computes its accuracy from the logits before the last BN and its loss from those after. Both
    accuracies are given here, so that they can be compared.

    Which numbers dropout drops depends on the seed and on the number of steps taken, a variable of the graph, and on
    nothing else: a training that goes on from a checkpoint drops what an unbroken one would have dropped.

    Parameters
    ----------
    batch_norm : bool
        Whether BN stands behind both convolutions and the fully connected layer.
    normalise_logits : bool
        Whether BN stands behind the logits, too, as in the article; not used without `batch_norm`.
    normalise_pooled : bool
        Whether one more BN stands behind the pooling, which the article advises against; not used without
        `batch_norm`.
    dropout_rates : (float, float)
        Shares that dropout sets to zero, in [0, 1): behind the pooling layer, and behind the fully connected layer.
    activation : Activation
        ``"selu"``, the article's, or ``"relu"``.
    momentum : float
        Share of the old value in each update of the moving statistics, in [0, 1].
    optimizer : Optimizer
        ``"adam"``, the article's, or ``"muon"``; see `bncourse.tf_layers.optimizers.minimize`.
    learning_rate : float
        The optimizer's learning rate, above 0; ``network.learning_rate`` may be fed with another at any step.
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
    for rate in dropout_rates:
        fraction(rate, "dropout_rates", end=False)
    known(activation, "activation", Activation)
    known(optimizer, "optimizer", Optimizer)
    check_learning_rate(learning_rate)
    check_seed(seed)

    with tf1.Graph().as_default() as graph:
        tf1.set_random_seed(seed)
        inputs = tf1.placeholder(tf.float32, (None, *IMAGE_SHAPE), name="inputs")
        labels = tf1.placeholder(tf.int64, (None,), name="labels")
        training = tf1.placeholder_with_default(False, (), name="training")
        steps = tf1.train.create_global_step()
        now = tf.identity(steps.read_value(), name="now")

        def normalise(layer: Any, *, wanted: bool = batch_norm) -> Any:
            return tf1.layers.batch_normalization(layer, momentum=momentum, training=training) if wanted else layer

        def activate(layer: Any) -> Any:
            return (tf.nn.selu if activation == "selu" else tf.nn.relu)(normalise(layer))

        def dense(layer: Any, units: int, name: str | None = None) -> Any:
            return tf1.layers.dense(layer, units, kernel_initializer=start_weights(), name=name)

        def drop(layer: Any, place: int) -> Any:
            chance = tf.stack([tf.constant(2 * seed + place, tf.int64), now])
            return _dropout(layer, dropout_rates[place], training, chance)

        layer = inputs
        for maps in (16, 32):
            layer = activate(tf1.layers.conv2d(layer, maps, 3, 1, "same", kernel_initializer=start_weights()))
        layer = tf1.layers.max_pooling2d(layer, 2, 2, "valid")
        layer = normalise(layer, wanted=batch_norm and normalise_pooled)
        layer = drop(tf1.layers.flatten(layer), 0)
        layer = drop(activate(dense(layer, 32)), 1)
        logits = dense(layer, CLASSES, name="output")
        normalised_logits = normalise(logits, wanted=batch_norm and normalise_logits)

        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=normalised_logits))
        rate = rate_placeholder(learning_rate)
        kernels = [v for v in tf1.trainable_variables() if v.op.name.endswith("/kernel")]
        updates = tuple(tf1.get_collection(tf1.GraphKeys.UPDATE_OPS))
        with tf.control_dependencies(updates):
            train_op = minimize(loss, optimizer, rate, turned=kernels[:-1] if batch_norm else (), steps=steps)
        after = _accuracy(normalised_logits, labels)
        return ImprovedNetwork(
            graph=graph,
            inputs=inputs,
            labels=labels,
            training=training,
            logits=logits,
            normalised_logits=normalised_logits,
            loss=loss,
            accuracy=after,
            accuracy_before=_accuracy(logits, labels),
            accuracy_after=after,
            train_op=train_op,
            update_ops=updates,
            initializer=tf1.global_variables_initializer(),
            learning_rate=rate,
        )


def _dropout(layer: Any, rate: float, training: Any, seed: Any) -> Any:
    """Add dropout as ``tf.layers.dropout`` does, but with a seed of its own for every step."""
    if rate == 0:
        return layer
    with tf1.name_scope("dropout"):
        return tf.cond(
            training,
            lambda: tf.nn.experimental.stateless_dropout(layer, rate, seed, rng_alg="philox"),
            lambda: tf.identity(layer),
        )


def _accuracy(scores: Any, labels: Any) -> Any:
    correct = tf1.nn.in_top_k(predictions=scores, targets=labels, k=1)
    return tf.reduce_mean(tf.cast(correct, tf.float32))
