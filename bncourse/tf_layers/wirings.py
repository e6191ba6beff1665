"""Ways in which programs wire BN's update ops, right and wrong, and two checks that tell them apart.

A BN layer of ``tf.layers`` makes two update ops. The training step must be made to run them, and TensorFlow 1 leaves
that to the program. :data:`WIRINGS` names the ways in which programs do it, or believe that they do it;
:func:`build_wired_network` builds a small network with any of them. :func:`updates_run_by` reads from a graph which
moving statistics a step writes to, :func:`moved_by` takes the step and looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from bncourse.nn.checks import fraction, positive_int
from bncourse.tf_layers.arguments import CLASSES, check_learning_rate, check_seed
from bncourse.tf_layers.ends import accuracy_of, placeholders, rate_placeholder
from bncourse.tf_layers.network import ImageNetwork
from bncourse.tf_layers.one_step import ancestors
from bncourse.tf_layers.runtime import tf, tf1

#: Units of the fully connected layer.
UNITS = 32

#: Adds BN to a layer: ``normalise(layer, training, momentum, name)``.
Normalise = Callable[[Any, Any, float, str], Any]


@dataclass(frozen=True)
class Program:
    """What a program has at hand when it makes its training step.

    Attributes
    ----------
    loss : tf.Tensor, float32, shape ()
        What is minimised.
    make_optimizer : callable
        Constructs the optimizer.
    early : tuple of tf.Operation
        The update ops that were in the collection before the fully connected layer was built.
    """

    loss: Any
    make_optimizer: Callable[[], Any]
    early: tuple[Any, ...]


#: Makes the training step: what the program fetches.
Connect = Callable[[Program], Any]


@dataclass(frozen=True)
class Wiring:
    """One way to wire BN's update ops.

    Attributes
    ----------
    summary : str
        What the program does, in one line.
    right : bool
        Whether a training step updates every moving statistic, and inference mode reads them.
    normalise : callable
        Adds BN to a layer.
    connect : callable
        Makes the training step.
    towers : bool
        Whether the layers are applied twice, to the two halves of the batch.
    control_flow_v2 : bool
        Whether ``tf.cond`` makes functions (TensorFlow 2's way) or switches (TensorFlow 1's way).
    """

    summary: str
    right: bool
    normalise: Normalise
    connect: Connect
    towers: bool = False
    control_flow_v2: bool = True


def build_wired_network(
    wiring: str,
    *,
    conv_layers: int = 3,
    momentum: float = 0.99,
    learning_rate: float = 0.002,
    seed: int = 0,
) -> ImageNetwork:
    """Build a small network whose update ops are wired in one of the ways of :data:`WIRINGS`.

    Convolutions of depth 1 to `conv_layers` (3x3, stride 2, ``8 * depth`` feature maps, no bias), 32 fully connected
    units without bias, 10 logits. BN and ReLU follow every layer but the logits. The loss is the sigmoid
    cross-entropy, the optimizer is Adam. The start weights depend on `seed` only, not on the wiring.

    Parameters
    ----------
    wiring : str
        A key of :data:`WIRINGS`.
    conv_layers : int
        Number of convolutional layers, 1 or more.
    momentum : float
        Share of the old value in each update of the moving statistics, in [0, 1].
    learning_rate : float
        Adam's learning rate, above 0.
    seed : int
        Seed of the start weights, 0 or more.

    Returns
    -------
    ImageNetwork
        Its `train_op` is what the program fetches for a step: an operation, or a tuple of operations where the wiring
        fetches the update ops beside it. Its `update_ops` are those in the collection ``UPDATE_OPS``. Where the
        wiring fixes the mode, `training` may be fed and has no effect.

    Raises
    ------
    ValueError
        If an argument lies outside its range.
    TypeError
        If `conv_layers` or `seed` is not an integer.
    """
    if wiring not in WIRINGS:
        raise ValueError(f"wiring = {wiring!r}; expected one of {', '.join(map(repr, WIRINGS))}.")
    positive_int(conv_layers, "conv_layers")
    fraction(momentum, "momentum", end=True)
    check_learning_rate(learning_rate)
    check_seed(seed)

    chosen = WIRINGS[wiring]
    with tf1.Graph().as_default() as graph, _control_flow(v2=chosen.control_flow_v2):
        tf1.set_random_seed(seed)
        inputs, labels, training = placeholders()

        def normalise(layer: Any, name: str) -> Any:
            return tf.nn.relu(chosen.normalise(layer, training, momentum, name))

        features = [_features(part, conv_layers, normalise) for part in _parts(inputs, chosen.towers)]
        early = tuple(_collected())
        logits = tf.concat([_head(part, normalise) for part in features], 0)[: tf.shape(inputs)[0]]

        loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits))
        rate = rate_placeholder(learning_rate)
        train_op = chosen.connect(Program(loss, lambda: tf1.train.AdamOptimizer(rate), early))
        accuracy = accuracy_of(logits, labels)
        initializer = tf1.global_variables_initializer()
        updates = tuple(_collected())
    return ImageNetwork(graph, inputs, labels, training, logits, loss, accuracy, train_op, updates, initializer, rate)


def _parts(inputs: Any, towers: bool) -> list[Any]:
    if not towers:
        return [inputs]
    half = tf.shape(inputs)[0] // 2
    # A single image goes through both: the kernels refuse an empty batch.
    return [inputs[: tf.maximum(half, 1)], inputs[half:]]


def _features(layer: Any, conv_layers: int, normalise: Callable[[Any, str], Any]) -> Any:
    with tf1.variable_scope("features", reuse=tf1.AUTO_REUSE):
        for depth in range(1, conv_layers + 1):
            start, name = _start(depth), f"conv{depth}"
            layer = tf1.layers.conv2d(
                layer, 8 * depth, 3, 2, "same", use_bias=False, kernel_initializer=start, name=name
            )
            layer = normalise(layer, f"bn{depth}")
        return tf1.layers.flatten(layer)


def _head(layer: Any, normalise: Callable[[Any, str], Any]) -> Any:
    with tf1.variable_scope("head", reuse=tf1.AUTO_REUSE):
        layer = tf1.layers.dense(layer, UNITS, use_bias=False, kernel_initializer=_start(0), name="dense")
        layer = normalise(layer, "bn")
        return tf1.layers.dense(layer, CLASSES, kernel_initializer=_start(-1), name="logits")


def _start(number: int) -> Any:
    # A seed of its own for every layer: without one, TensorFlow derives it from the number of operations built so
    # far, and each wiring would start from other weights.
    return tf1.glorot_uniform_initializer(seed=1000 + number)


def _collected(scope: str | None = None) -> list[Any]:
    return tf1.get_collection(tf1.GraphKeys.UPDATE_OPS, scope=scope)


@contextmanager
def _control_flow(*, v2: bool) -> Iterator[None]:
    """Choose how ``tf.cond`` builds, for the whole process, and put back what was chosen before."""
    before = tf1.control_flow_v2_enabled()
    _choose_control_flow(v2)
    try:
        yield
    finally:
        _choose_control_flow(before)


def _choose_control_flow(v2: bool) -> None:
    (tf1.enable_control_flow_v2 if v2 else tf1.disable_control_flow_v2)()


# --- The layer -------------------------------------------------------------------------------------------------------


def _batch_norm(layer: Any, training: Any, momentum: float, name: str, **options: Any) -> Any:
    """BN as ``tf.layers`` has it: it leaves its update ops in the collection."""
    return tf1.layers.batch_normalization(layer, momentum=momentum, training=training, name=name, **options)


def _in_place(layer: Any, training: Any, momentum: float, name: str) -> Any:
    """BN whose output waits for its updates: ``updates_collections=None`` of ``tf.contrib.layers``."""
    known = len(_collected())
    normalised = _batch_norm(layer, training, momentum, name)
    with tf.control_dependencies(_collected()[known:]):
        return tf.identity(normalised)


def _fixed(mode: bool, normalise: Normalise) -> Normalise:
    """BN whose mode is a constant of the graph; the placeholder is not read."""
    return lambda layer, _, momentum, name: normalise(layer, mode, momentum, name)


def _frozen(layer: Any, training: Any, momentum: float, name: str) -> Any:
    return _batch_norm(layer, training, momentum, name, trainable=False)


def _keras(layer: Any, training: Any, momentum: float, name: str) -> Any:
    """Add the BN of ``tf.keras``, which keeps its update ops to itself, in ``layer.updates``."""
    return tf.keras.layers.BatchNormalization(momentum=momentum, name=name)(layer, training=training)


def _conditional(normalise: Normalise) -> Normalise:
    """BN in the branches of a ``tf.cond``: one for training, one for inference, with shared variables."""

    def branches(layer: Any, training: Any, momentum: float, name: str) -> Any:
        return tf1.cond(
            training,
            lambda: normalise(layer, True, momentum, name),
            lambda: _batch_norm(layer, False, momentum, name),
        )

    return branches


# --- The training step -----------------------------------------------------------------------------------------------


def _dependencies(program: Program) -> Any:
    with tf.control_dependencies(_collected()):
        return program.make_optimizer().minimize(program.loss)


def _around_apply(program: Program) -> Any:
    optimizer = program.make_optimizer()
    gradients = optimizer.compute_gradients(program.loss)
    with tf.control_dependencies(_collected()):
        return optimizer.apply_gradients(gradients)


def _group(program: Program) -> Any:
    return tf.group(program.make_optimizer().minimize(program.loss), *_collected())


def _fetched(program: Program) -> Any:
    return (program.make_optimizer().minimize(program.loss), *_collected())


def _plain(program: Program) -> Any:
    return program.make_optimizer().minimize(program.loss)


def _existing_op(program: Program) -> Any:
    step = program.make_optimizer().minimize(program.loss)
    with tf.control_dependencies(_collected()):
        # Nothing is made in here: the context reaches new operations only.
        return step


def _constructor(program: Program) -> Any:
    with tf.control_dependencies(_collected()):
        optimizer = program.make_optimizer()
    return optimizer.minimize(program.loss)


def _on_the_loss(program: Program) -> Any:
    with tf.control_dependencies(_collected()):
        loss = tf.identity(program.loss)
    return program.make_optimizer().minimize(loss)


def _too_early(program: Program) -> Any:
    with tf.control_dependencies(program.early):
        return program.make_optimizer().minimize(program.loss)


def _one_scope(program: Program) -> Any:
    with tf.control_dependencies(_collected(scope="head")):
        return program.make_optimizer().minimize(program.loss)


def _wrong_name(program: Program) -> Any:
    # The collection is called "update_ops". One that does not exist is empty, and that is no error.
    with tf.control_dependencies(tf1.get_collection("UPDATE_OPS")):
        return program.make_optimizer().minimize(program.loss)


#: All wirings by name: the right ones, then those that update nothing, some layers only, or for nobody.
WIRINGS: Mapping[str, Wiring] = MappingProxyType(
    {
        "dependencies": Wiring("control dependencies around minimize", True, _batch_norm, _dependencies),
        "apply": Wiring("control dependencies around apply_gradients only", True, _batch_norm, _around_apply),
        "group": Wiring("tf.group(step, *update_ops)", True, _batch_norm, _group),
        "fetched": Wiring("session.run((step, *update_ops))", True, _batch_norm, _fetched),
        "in-place": Wiring("BN's output waits for its updates", True, _in_place, _plain),
        "towers": Wiring("layers applied to two halves of the batch", True, _batch_norm, _dependencies, towers=True),
        "cond-in-place": Wiring("BN in tf.cond, updates awaited in the branch", True, _conditional(_in_place), _plain),
        "cond-v1": Wiring(
            "BN in tf.cond, dependencies, control flow v1",
            True,
            _conditional(_batch_norm),
            _dependencies,
            control_flow_v2=False,
        ),
        "forgotten": Wiring("minimize, and no more", False, _batch_norm, _plain),
        "existing-op": Wiring("control dependencies around a finished step", False, _batch_norm, _existing_op),
        "constructor": Wiring("control dependencies around the constructor", False, _batch_norm, _constructor),
        "on-the-loss": Wiring("control dependencies around tf.identity(loss)", False, _batch_norm, _on_the_loss),
        "wrong-name": Wiring('dependencies from the collection "UPDATE_OPS"', False, _batch_norm, _wrong_name),
        "keras-layer": Wiring("tf.keras's layer, control dependencies", False, _keras, _dependencies),
        "not-trainable": Wiring("trainable=False, control dependencies", False, _frozen, _dependencies),
        "cond": Wiring("BN in tf.cond, minimize", False, _conditional(_batch_norm), _plain),
        "too-early": Wiring("collected before the last BN is built", False, _batch_norm, _too_early),
        "one-scope": Wiring("collected from one scope only", False, _batch_norm, _one_scope),
        "always-true": Wiring("training=True, fixed", False, _fixed(True, _batch_norm), _dependencies),
        "always-true-in-place": Wiring(
            "training=True, fixed, updated in place", False, _fixed(True, _in_place), _plain
        ),
        "always-false": Wiring("training=False, fixed", False, _fixed(False, _batch_norm), _dependencies),
    }
)


# --- The checks ------------------------------------------------------------------------------------------------------

#: Operations that write to the variable that is their first input.
_WRITERS = frozenset(
    {"AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp", "Assign", "AssignAdd", "AssignSub"}
)

#: Operations that are a variable.
_VARIABLES = frozenset({"VarHandleOp", "VariableV2", "Variable"})

#: How many inputs an operation takes before those that it hands to its functions.
_OWN_INPUTS = MappingProxyType({"If": 1, "StatelessIf": 1, "Case": 1, "StatelessCase": 1})


def moving_statistics(graph: Any) -> tuple[Any, ...]:
    """Return the moving means and variances of a graph, in the order in which they were built.

    Parameters
    ----------
    graph : tf.Graph
        Any graph whose BN layers name their statistics as ``tf.layers`` and Keras do.

    Returns
    -------
    tuple of tf.Variable
        The global variables whose names end in ``moving_mean`` or ``moving_variance``.
    """
    endings = ("moving_mean", "moving_variance")
    variables = graph.get_collection(tf1.GraphKeys.GLOBAL_VARIABLES)
    return tuple(variable for variable in variables if variable.op.name.split("/")[-1] in endings)


def moved_by(session: Any, train_op: Any, feed: Mapping[Any, Any]) -> frozenset[str]:
    """Run `train_op` once and return the names of the moving statistics whose values changed.

    The session is left one step further. A statistic that is written to and keeps its value does not count.

    Parameters
    ----------
    session : tf1.Session
        An open session with initialised variables.
    train_op : tf.Operation, tf.Tensor or nested sequence of them
        What the program fetches for a step.
    feed : mapping
        What it feeds.

    Returns
    -------
    frozenset of str
        Names such as ``"features/bn1/moving_mean"``.

    Notes
    -----
    It reads the values by runs of their own, since a fetch beside the step could see them before or after it.
    """
    variables = {variable.op.name: variable for variable in moving_statistics(session.graph)}
    before = session.run(variables)
    session.run(train_op, feed)
    after = session.run(variables)
    return frozenset(name for name in variables if not np.array_equal(before[name], after[name], equal_nan=True))


def updates_run_by(train_op: Any, graph: Any) -> dict[str, bool]:
    """Tell from the graph alone which moving statistics running `train_op` may write to.

    A session runs what `train_op` depends on, through tensors and control dependencies, and nothing else. That also
    holds inside the functions that ``tf.cond`` and other control flow call, where a layer of rank 2 keeps its
    assignments: they are searched too. "May", because a branch that is not taken writes nothing.

    Parameters
    ----------
    train_op : tf.Operation, tf.Tensor or nested sequence of them
        What the program fetches for a step.
    graph : tf.Graph
        The graph that they belong to.

    Returns
    -------
    dict of str to bool
        For each of :func:`moving_statistics`, by name, whether `train_op` may write to it.

    Raises
    ------
    ValueError
        If a part of `train_op` belongs to another graph, for example to a branch of a ``tf.cond``.
    """
    fetched = [getattr(item, "op", item) for item in tf.nest.flatten(train_op)]
    for operation in fetched:
        if operation.graph is not graph:
            raise ValueError(
                f"train_op holds {operation.name!r}, which belongs to another graph; expected operations of `graph`. "
                "An operation made inside a branch of tf.cond or a body of tf.while_loop cannot be run from outside."
            )
    functions = {function.signature.name: function for function in graph.as_graph_def().library.function}
    run = ancestors(fetched) | frozenset(fetched)
    written = {_variable(handle).name for operation in run for handle in _written_inputs(operation, functions)}
    return {name: name in written for name in (variable.op.name for variable in moving_statistics(graph))}


def _variable(handle: Any) -> Any:
    """Return the operation that makes the variable that a tensor refers to, behind switches and identities."""
    operation = handle.op
    while operation.type not in _VARIABLES and operation.inputs:
        operation = operation.inputs[0].op
    return operation


def _written_inputs(operation: Any, functions: Mapping[str, Any]) -> list[Any]:
    """Return the inputs of an operation that are variables it writes to, itself or in the functions that it calls."""
    if operation.type in _WRITERS:
        return [operation.inputs[0]]
    arguments = operation.inputs[_OWN_INPUTS.get(operation.type, 0) :]
    places = {place for name in _called(operation.node_def, functions) for place in _written(name, functions)}
    return [arguments[place] for place in sorted(places)]


def _called(node: Any, functions: Mapping[str, Any]) -> list[str]:
    """Return the names of the functions that a node calls: its own type, or those among its attributes."""
    attributes = [node.attr[key] for key in node.attr]
    named = [value.func.name for value in attributes] + [f.name for value in attributes for f in value.list.func]
    return [name for name in (node.op, *named) if name in functions]


def _written(name: str, functions: Mapping[str, Any]) -> frozenset[int]:
    """Return the places of the arguments that a function writes to, found from its outputs backwards."""
    function = functions[name]
    places = {argument.name: place for place, argument in enumerate(function.signature.input_arg)}
    nodes = {node.name: node for node in function.node_def}
    written = set()
    for node in _reached(nodes, (*function.ret.values(), *function.control_ret.values())):
        inputs = [_source(text) for text in node.input if not text.startswith("^")]
        if node.op in _WRITERS:
            handles = inputs[:1]
        else:
            arguments = inputs[_OWN_INPUTS.get(node.op, 0) :]
            handles = [arguments[place] for inner in _called(node, functions) for place in _written(inner, functions)]
        written |= {_argument(handle, nodes) for handle in handles} & places.keys()
    return frozenset(places[argument] for argument in written)


def _reached(nodes: Mapping[str, Any], ends: Iterable[str]) -> list[Any]:
    """Return the nodes of a function's body that its ends depend on."""
    found: dict[str, Any] = {}
    waiting = [_source(end) for end in ends]
    while waiting:
        name = waiting.pop()
        if name in nodes and name not in found:
            found[name] = nodes[name]
            waiting.extend(_source(text) for text in nodes[name].input)
    return list(found.values())


def _argument(name: str, nodes: Mapping[str, Any]) -> str:
    """Return the argument that a value inside a function is, behind switches and identities."""
    while name in nodes and nodes[name].input:
        name = _source(nodes[name].input[0])
    return name


def _source(text: str) -> str:
    """Return the node or argument in an input such as ``"^node"``, ``"node:output:0"`` or ``"argument"``."""
    return text.removeprefix("^").split(":")[0]
