"""One training step from given weights, taken by a graph and by a Keras model, so that the two can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bncourse.keras_models.deep_network import compile_deep_model
from bncourse.keras_models.transfer import Weights, paths, read_graph, read_model, write_graph, write_model
from bncourse.tf_layers.network import ImageNetwork
from bncourse.tf_layers.runtime import tf, tf1


@dataclass(frozen=True)
class Step:
    """What a network computes from given weights, and what one step makes of them.

    Attributes
    ----------
    inference : ndarray, shape (batch, classes)
        Logits before the step, with the moving statistics.
    training : ndarray, shape (batch, classes)
        Logits before the step, with the batch's statistics.
    loss : float
        Loss of `training`, in nats.
    gradients : dict of str to ndarray
        Gradients of that loss, for each weight that is trained.
    after : dict of str to ndarray
        All weights after one step of the optimizer, and with it one update of the moving statistics.
    """

    inference: npt.NDArray[Any]
    training: npt.NDArray[Any]
    loss: float
    gradients: Weights
    after: Weights

    @property
    def moving(self) -> Weights:
        """Those of `after` that no gradient moves: the moving statistics."""
        return {name: value for name, value in self.after.items() if name not in self.gradients}

    @property
    def trained(self) -> Weights:
        """Those of `after` that the optimizer moved."""
        return {name: self.after[name] for name in self.gradients}


def graph_step(
    network: ImageNetwork, weights: Mapping[str, npt.ArrayLike], images: npt.ArrayLike, labels: npt.ArrayLike
) -> Step:
    """Take one step of a ``tf.compat.v1`` network from `weights`, with a fresh optimizer.

    Parameters
    ----------
    network : ImageNetwork
        The graph; the operations that give its gradients are added to it.
    weights : mapping of str to array_like
        Start weights by the variable's name.
    images : array_like, shape (batch, 28, 28, 1)
        Pixels in [0, 1].
    labels : array_like, shape (batch, 10)
        One-hot.

    Raises
    ------
    ValueError
        If the weights do not fit.
    """
    with network.graph.as_default():
        variables = tf1.trainable_variables()
        gradients = dict(zip((v.op.name for v in variables), tf1.gradients(network.loss, list(variables)), strict=True))
    feed = {network.inputs: images, network.labels: labels}
    with tf1.Session(graph=network.graph) as session:
        session.run(network.initializer)
        write_graph(session, weights)
        inference = session.run(network.logits, {**feed, network.training: False})
        feed[network.training] = True
        training, loss, slopes = session.run([network.logits, network.loss, gradients], feed)
        session.run(network.train_op, feed)
        return Step(inference, training, float(loss), slopes, read_graph(session))


def model_step(
    model: Any,
    weights: Mapping[str, npt.ArrayLike],
    images: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    learning_rate: float = 0.002,
    epsilon: float = 1e-8,
) -> Step:
    """Take one step of a Keras model from `weights`, with a fresh optimizer.

    Parameters
    ----------
    model : keras.Model
        Images to logits; compiled anew (`compile_deep_model`).
    weights, images, labels
        As for `graph_step`; the names are paths in the model.
    learning_rate, epsilon : float
        Adam's.

    Raises
    ------
    ValueError
        If the weights do not fit, or an argument lies outside its range.
    """
    compile_deep_model(model, learning_rate=learning_rate, epsilon=epsilon)
    x = tf.constant(np.asarray(images, model.inputs[0].dtype))
    y = tf.constant(np.asarray(labels, model.outputs[0].dtype))
    write_model(model, weights)
    inference = np.array(model(x, training=False))
    with tf.GradientTape() as tape:
        training = model(x, training=True)  # moves the moving statistics, too
        loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=training))
    slopes = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    trained = [name for name, v in paths(model).items() if v.trainable]
    gradients = {name: np.array(slope) for name, slope in zip(trained, slopes, strict=True)}
    write_model(model, weights)
    model.train_on_batch(x, y)
    return Step(inference, np.array(training), float(loss), gradients, read_model(model))


def largest_difference(one: Mapping[str, npt.ArrayLike], other: Mapping[str, npt.ArrayLike]) -> float:
    """Return the largest difference between two sets of arrays, relative to the largest number in the array.

    Raises
    ------
    ValueError
        If the sets do not hold the same names, or are empty.
    """
    if not one or one.keys() != other.keys():
        raise ValueError(f"the two hold other names: {sorted(one.keys() ^ other.keys()) or 'none at all'}.")
    differences = []
    for name, value in one.items():
        a, b = np.asarray(value, np.float64), np.asarray(other[name], np.float64)
        differences.append(np.abs(a - b).max() / max(np.abs(a).max(), np.finfo(np.float64).tiny))
    return float(np.max(differences))  # not max: nan shall show
