"""The network of article B, one unit a layer, and the one training step that its author prints.

Dense, BN, ReLU, dense, BN, all with one unit and no bias; mean squared error; one step of Adam on the batch
``x = [0, 1]``, ``y = [3, 4]``, with the update ops fetched beside the optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from bncourse.nn.checks import fraction
from bncourse.tf_layers.runtime import tf, tf1

Float32 = npt.NDArray[np.float32]


def _column(*values: float) -> Float32:
    column = np.array(values, np.float32).reshape(-1, 1)
    column.setflags(write=False)
    return column


#: The article's batch: two samples of one number each, and their targets.
BATCH_X = _column(0.0, 1.0)
BATCH_Y = _column(3.0, 4.0)


@dataclass(frozen=True)
class OneStepNetwork:
    """The ends of the graph.

    Attributes
    ----------
    graph : tf.Graph
        The graph; open a session with ``tf1.Session(graph=network.graph)``.
    inputs, targets : tf.Tensor, float32, shape (batch, 1)
        Placeholders.
    training : tf.Tensor, bool, shape ()
        The mode; False unless it is fed.
    hidden, normalised, activated : tf.Tensor, float32, shape (batch, 1)
        The first dense layer, BN on it, and ReLU on that.
    output : tf.Tensor, float32, shape (batch, 1)
        What the second BN makes of the second dense layer.
    loss : tf.Tensor, float32, shape ()
        Mean squared error.
    variables : mapping of str to tf.Variable
        The ten variables of the layers: ``"hidden1/dense/kernel"``, ``"hidden1/batch_normalization/moving_mean"`` ...
    gradients : mapping of str to tf.Tensor
        Gradients of the loss for the six of them that are trained.
    train_op : tf.Operation
        One step of Adam; it does not depend on the update ops.
    update_ops : tuple of tf.Operation
        The updates of the four moving statistics.
    initializer : tf.Operation
        Sets every variable to its start value.
    feed : dict
        What to feed for the article's step: training mode, `BATCH_X` and `BATCH_Y`.
    """

    graph: Any
    inputs: Any
    targets: Any
    training: Any
    hidden: Any
    normalised: Any
    activated: Any
    output: Any
    loss: Any
    variables: MappingProxyType[str, Any]
    gradients: MappingProxyType[str, Any]
    train_op: Any
    update_ops: tuple[Any, ...]
    initializer: Any
    feed: dict[Any, Any] = field(repr=False)


@dataclass(frozen=True)
class OneStep:
    """What the network holds after the one step: all that the article prints, and what led there.

    Attributes
    ----------
    weight : ndarray of float32, shape (1, 1)
        The hidden weight.
    hidden, normalised, activated : ndarray of float32, shape (2, 1)
        The hidden unit for the batch in inference mode, BN on it, and ReLU on that.
    moving_mean, moving_variance, gamma, beta : ndarray of float32, shape (1,)
        Statistics and parameters of the first BN.
    gradients : mapping of str to ndarray of float32
        Gradients of the loss before the step, by the variable's name.
    variables : mapping of str to ndarray of float32
        All variables of the layers after the step, by name.
    """

    weight: Float32
    hidden: Float32
    normalised: Float32
    activated: Float32
    moving_mean: Float32
    moving_variance: Float32
    gamma: Float32
    beta: Float32
    gradients: MappingProxyType[str, Float32]
    variables: MappingProxyType[str, Float32]


def build_one_step_network(
    hidden_weight: float, output_weight: float, *, momentum: float = 0.5, learning_rate: float = 0.001
) -> OneStepNetwork:
    """Build the network of article B in a graph of its own, with given start weights.

    Parameters
    ----------
    hidden_weight, output_weight : float
        Start values of the two dense layers; rounded to float32.
    momentum : float
        Share of the old value in each update of the moving statistics, in [0, 1].
    learning_rate : float
        Adam's learning rate, above 0.

    Returns
    -------
    OneStepNetwork

    Raises
    ------
    ValueError
        If an argument lies outside its range.
    """
    for name, weight in (("hidden_weight", hidden_weight), ("output_weight", output_weight)):
        if not math.isfinite(weight):
            raise ValueError(f"{name} = {weight}; expected a finite number.")
    fraction(momentum, "momentum", end=True)
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"learning_rate = {learning_rate}; expected a finite number > 0, for example 0.001.")

    with tf1.Graph().as_default() as graph:
        inputs = tf1.placeholder(tf.float32, (None, 1), name="inputs")
        targets = tf1.placeholder(tf.float32, (None, 1), name="targets")
        training = tf1.placeholder_with_default(False, (), name="training")

        with tf1.variable_scope("hidden1"):
            hidden = _dense(inputs, hidden_weight)
            normalised = tf1.layers.batch_normalization(hidden, momentum=momentum, training=training)
            activated = tf.nn.relu(normalised)
        with tf1.variable_scope("output"):
            output = _dense(activated, output_weight)
            output = tf1.layers.batch_normalization(output, momentum=momentum, training=training)

        loss = tf.reduce_mean(tf.square(output - targets))
        variables = {variable.op.name: variable for variable in tf1.global_variables()}
        optimizer = tf1.train.AdamOptimizer(learning_rate)
        pairs = optimizer.compute_gradients(loss)
        # No control dependency on the update ops: the article fetches them beside this operation.
        train_op = optimizer.apply_gradients(pairs)
        return OneStepNetwork(
            graph=graph,
            inputs=inputs,
            targets=targets,
            training=training,
            hidden=hidden,
            normalised=normalised,
            activated=activated,
            output=output,
            loss=loss,
            variables=MappingProxyType(variables),
            gradients=MappingProxyType({variable.op.name: gradient for gradient, variable in pairs}),
            train_op=train_op,
            update_ops=tuple(tf1.get_collection(tf1.GraphKeys.UPDATE_OPS)),
            initializer=tf1.global_variables_initializer(),
            feed={training: True, inputs: BATCH_X, targets: BATCH_Y},
        )


def one_step(
    hidden_weight: float, output_weight: float, *, momentum: float = 0.5, learning_rate: float = 0.001
) -> OneStep:
    """Take the article's one step from given start weights and return all that it prints.

    Parameters
    ----------
    hidden_weight, output_weight, momentum, learning_rate
        As in :func:`build_one_step_network`.

    Returns
    -------
    OneStep

    Raises
    ------
    ValueError
        If an argument lies outside its range.
    """
    network = build_one_step_network(hidden_weight, output_weight, momentum=momentum, learning_rate=learning_rate)
    with tf1.Session(graph=network.graph) as session:
        session.run(network.initializer)
        gradients = session.run(dict(network.gradients), network.feed)
        session.run([network.train_op, network.update_ops], network.feed)
        # A run of its own, in inference mode: a fetch beside the step could see the values before or after it.
        hidden, normalised, activated = session.run(
            [network.hidden, network.normalised, network.activated], {network.inputs: BATCH_X}
        )
        variables = session.run(dict(network.variables))
    bn = "hidden1/batch_normalization"
    return OneStep(
        weight=variables["hidden1/dense/kernel"],
        hidden=hidden,
        normalised=normalised,
        activated=activated,
        moving_mean=variables[f"{bn}/moving_mean"],
        moving_variance=variables[f"{bn}/moving_variance"],
        gamma=variables[f"{bn}/gamma"],
        beta=variables[f"{bn}/beta"],
        gradients=MappingProxyType(gradients),
        variables=MappingProxyType(variables),
    )


def ancestors(operations: Any | Iterable[Any]) -> frozenset[Any]:
    """Return every operation that must have run before one of `operations` can start.

    A graph orders two operations only if one is an ancestor of the other, through tensors or control dependencies.

    Parameters
    ----------
    operations : tf.Operation, tf.Tensor or iterable of them
        Of one graph.

    Returns
    -------
    frozenset of tf.Operation
        Without `operations` themselves, unless one is an ancestor of another.
    """
    given = [operations] if isinstance(operations, tf.Operation | tf.Tensor) else operations
    found: set[Any] = set()
    waiting = [_operation(item) for item in given]
    while waiting:
        operation = waiting.pop()
        before = {tensor.op for tensor in operation.inputs} | set(operation.control_inputs)
        waiting.extend(before - found)
        found |= before
    return frozenset(found)


def _operation(item: Any) -> Any:
    return item if isinstance(item, tf.Operation) else item.op


def _dense(inputs: Any, weight: float) -> Any:
    return tf1.layers.dense(
        inputs, 1, activation=None, use_bias=False, kernel_initializer=tf1.constant_initializer(weight)
    )
