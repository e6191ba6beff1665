"""What the training programs know of a graph: the same ends for every image network of the articles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ImageNetwork:
    """The ends of a classifier's graph that a training program holds.

    Attributes
    ----------
    graph : tf.Graph
        The graph; open a session with ``tf1.Session(graph=network.graph)``.
    inputs : tf.Tensor, float32, shape (batch, 28, 28, 1)
        Placeholder of the images, pixels in [0, 1].
    labels : tf.Tensor, float32, shape (batch, 10)
        Placeholder of the one-hot labels.
    training : tf.Tensor, bool, shape ()
        Placeholder of the mode: True for the batch's statistics, False for the moving ones.
    logits : tf.Tensor, float32, shape (batch, 10)
        Outputs before the sigmoid or softmax.
    loss : tf.Tensor, float32, shape ()
        Mean over the images, in nats.
    accuracy : tf.Tensor, float32, shape ()
        Share of the images whose largest logit stands at their label.
    train_op : tf.Operation
        One step of the optimizer and, if it is wired so, the updates of the moving statistics.
    update_ops : tuple of tf.Operation
        The updates of the moving statistics: two for every BN layer of ``tf.layers``, whether `train_op` runs them
        or not.
    initializer : tf.Operation
        Sets every variable to its start value.
    learning_rate : tf.Tensor, float32, shape (), optional
        Placeholder of the optimizer's learning rate, with its default; ``None`` if it is fixed.
    """

    graph: Any
    inputs: Any
    labels: Any
    training: Any
    logits: Any
    loss: Any
    accuracy: Any
    train_op: Any
    update_ops: tuple[Any, ...]
    initializer: Any
    learning_rate: Any = None
