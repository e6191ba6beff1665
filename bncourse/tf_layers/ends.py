"""The ends that all graphs of the articles' image networks share: what is fed, and what is read."""

from __future__ import annotations

from typing import Any

from bncourse.tf_layers.arguments import CLASSES, IMAGE_SHAPE
from bncourse.tf_layers.runtime import tf, tf1


def placeholders(dtype: str = "float32") -> tuple[Any, Any, Any]:
    """Add placeholders to the default graph.

    Returns
    -------
    inputs : tf.Tensor, shape (batch, 28, 28, 1)
    labels : tf.Tensor, shape (batch, 10)
        One-hot.
    training : tf.Tensor, bool, shape ()
    """
    inputs = tf1.placeholder(dtype, (None, *IMAGE_SHAPE), name="inputs")
    labels = tf1.placeholder(dtype, (None, CLASSES), name="labels")
    return inputs, labels, tf1.placeholder(tf.bool, (), name="training")


def rate_placeholder(learning_rate: float) -> Any:
    """Add the placeholder of the learning rate, which is `learning_rate` where nothing is fed."""
    return tf1.placeholder_with_default(tf.constant(learning_rate, tf.float32), (), name="learning_rate")


def accuracy_of(logits: Any, labels: Any) -> Any:
    """Return the share of the images whose largest logit stands at their one-hot label."""
    correct = tf.equal(tf.argmax(logits, 1), tf.argmax(labels, 1))
    return tf.reduce_mean(tf.cast(correct, tf.float32))
