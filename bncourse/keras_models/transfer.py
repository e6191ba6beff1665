"""Weights on their way between ``tf.compat.v1`` graphs, their checkpoints and Keras 3 models.

Weights travel as a dict of NumPy arrays by name. ``tf.layers`` and Keras 3 lay them out alike: kernels of convolutions
as (height, width, channels in, channels out), kernels of dense layers as (in, out), gamma, beta and the moving
statistics as (channels,). So only the names have to be matched. What an optimizer remembers does not travel.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bncourse.tf_layers.runtime import tf, tf1

Weights: TypeAlias = dict[str, npt.NDArray[Any]]

#: Variables of optimizers and programs that belong to no layer.
_NO_LAYERS = re.compile(r"(^|/)(beta[12]_power(_\d+)?|global_step)$")


def read_graph(session: Any) -> Weights:
    """Return the weights of a ``tf.compat.v1`` graph, in the order in which they were made.

    Parameters
    ----------
    session : tf1.Session
        Of the graph, with its variables initialised.

    Returns
    -------
    dict of str to ndarray
        By the variable's name without ``:0``, say ``"conv2d/kernel"``; without the optimizer's variables.
    """
    values: Weights = session.run(_variables(session.graph))
    return values


def read_checkpoint(path: str | os.PathLike[str]) -> Weights:
    """Return the weights in a checkpoint that ``tf.compat.v1.train.Saver`` wrote.

    Parameters
    ----------
    path : path
        The name that ``Saver.save`` returned, or the folder (then its latest checkpoint).

    Returns
    -------
    dict of str to ndarray
        By the variable's name; without the optimizer's variables. Layers of one kind are in the order of their
        numbers; the checkpoint does not know more of the order in which they were made.

    Raises
    ------
    ValueError
        If there is no checkpoint, or it is of TensorFlow 2's kind, which keeps objects, not names.
    """
    try:
        reader = tf.train.load_checkpoint(os.fspath(path))
    except (ValueError, tf.errors.OpError) as error:
        raise ValueError(f"{os.fspath(path)} is no checkpoint: {error}") from error
    names = list(reader.get_variable_to_shape_map())
    if "_CHECKPOINTABLE_OBJECT_GRAPH" in names:
        raise ValueError(
            f"{os.fspath(path)} is a checkpoint of TensorFlow 2, which keeps objects, not names. Restore it into the "
            "model that wrote it, with tf.train.Checkpoint, and read that."
        )
    return {name: reader.get_tensor(name) for name in sorted(_of_layers(names), key=_natural)}


def read_model(model: Any) -> Weights:
    """Return the weights of a Keras 3 model by path, say ``"conv2d/kernel"``, in the model's order.

    The name of the model itself is left out of the path.

    Raises
    ------
    ValueError
        If the model is not built, or two of its weights have one path.
    """
    return {name: variable.numpy().copy() for name, variable in paths(model).items()}


def write_model(model: Any, weights: Mapping[str, npt.ArrayLike], names: Mapping[str, str] | None = None) -> None:
    """Set all weights of a Keras 3 model.

    Parameters
    ----------
    model : keras.Model
        Built, that is, called once or made from an ``Input``.
    weights : mapping of str to array_like
        What one of the readers returned.
    names : mapping of str to str, optional
        The path in the model for each name in `weights` that differs from it; `pair_in_order` may find them.

    Raises
    ------
    ValueError
        If the weights do not fit: one is missing, left over, or has another shape. Then nothing is set.
    """
    variables = paths(model)
    fitting = _fitting(weights, {name: tuple(v.shape) for name, v in variables.items()}, names, "the model")
    for name, variable in variables.items():
        variable.assign(fitting[name])


def write_graph(session: Any, weights: Mapping[str, npt.ArrayLike], names: Mapping[str, str] | None = None) -> None:
    """Set all weights of a ``tf.compat.v1`` graph; the optimizer's variables stay as they are.

    Parameters
    ----------
    session : tf1.Session
        Of the graph. The graph may be finalised: no operation is added.
    weights : mapping of str to array_like
        What one of the readers returned.
    names : mapping of str to str, optional
        The variable's name for each name in `weights` that differs from it.

    Raises
    ------
    ValueError
        If the weights do not fit: one is missing, left over, or has another shape. Then nothing is set.
    """
    variables = _variables(session.graph)
    fitting = _fitting(weights, {name: tuple(v.shape) for name, v in variables.items()}, names, "the graph")
    # A variable's initializer assigns its second input; feeding that needs no new operation.
    session.run(
        [variable.initializer for variable in variables.values()],
        {variable.initializer.inputs[1]: fitting[name] for name, variable in variables.items()},
    )


def pair_in_order(weights: Mapping[str, npt.ArrayLike], target: Mapping[str, npt.ArrayLike]) -> dict[str, str]:
    """Pair two networks of the same build whose layers bear different names: first kernel with first kernel, and so on.

    Parameters
    ----------
    weights : mapping of str to array_like
        Weights of a graph or a model, in order.
    target : mapping of str to array_like
        Weights of the network that they are meant for, in order.

    Returns
    -------
    dict of str to str
        For each name in `weights` its counterpart in `target`: the `names` of `write_model` and `write_graph`.

    Raises
    ------
    ValueError
        If there are more weights of a kind on one side, or a pair has two shapes.
    """
    given, wanted = _by_kind(weights), _by_kind(target)
    pairs: dict[str, str] = {}
    for kind in dict.fromkeys([*given, *wanted]):
        here, there = given.get(kind, []), wanted.get(kind, [])
        if len(here) != len(there):
            raise ValueError(f"there are {len(here)} weights named {kind!r}, and {len(there)} in the target.")
        for name, counterpart in zip(here, there, strict=True):
            shapes = np.shape(weights[name]), np.shape(target[counterpart])
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"{name!r} has shape {shapes[0]}, and its counterpart {counterpart!r} has {shapes[1]}. "
                    "Are the layers in the same order? Otherwise write the pairs down yourself."
                )
            pairs[name] = counterpart
    return pairs


def paths(model: Any) -> dict[str, Any]:
    """Return the variables of a built Keras 3 model by path; raise ``ValueError`` as `read_model` does."""
    if not model.built:
        raise ValueError(f"the model {model.name!r} is not built; call it once on images, or make it from an Input.")
    variables: dict[str, Any] = {}
    for variable in model.weights:
        # A Sequential puts its own name in front, which counts the models of the process: sequential_3.
        path = variable.path.removeprefix(f"{model.name}/")
        if path in variables:
            raise ValueError(f"two weights of the model have the path {path!r}; give its layers other names.")
        variables[path] = variable
    return variables


def _variables(graph: Any) -> dict[str, Any]:
    variables = {variable.op.name: variable for variable in graph.get_collection(tf1.GraphKeys.GLOBAL_VARIABLES)}
    return {name: variables[name] for name in _of_layers(variables)}


def _of_layers(names: Iterable[str]) -> list[str]:
    """Return the names without those of optimizers: ``conv2d/kernel/Adam`` lies under ``conv2d/kernel``."""
    known = set(names)
    return [name for name in names if name.rpartition("/")[0] not in known and not _NO_LAYERS.search(name)]


def _fitting(
    weights: Mapping[str, npt.ArrayLike],
    shapes: Mapping[str, tuple[int, ...]],
    names: Mapping[str, str] | None,
    what: str,
) -> Weights:
    """Return the weights by the target's names, or say what does not fit."""
    names = names or {}
    for name in names:
        if name not in weights:
            raise ValueError(f"names mentions {name!r}, and the weights hold nothing of that name.")
    renamed: Weights = {}
    for name, value in weights.items():
        target = names.get(name, name)
        if target in renamed:
            raise ValueError(f"two of the weights are meant for {target!r}.")
        renamed[target] = np.asarray(value)
    missing, surplus = [n for n in shapes if n not in renamed], [n for n in renamed if n not in shapes]
    if missing or surplus:
        complaints = [f"the weights lack {_some(missing)}"] * bool(missing)
        complaints += [f"{what} has no {_some(surplus)}"] * bool(surplus)
        raise ValueError(f"{'; '.join(complaints)}. Pair other names with names={{...}}, or with pair_in_order.")
    for name, shape in shapes.items():
        if renamed[name].shape != shape:
            raise ValueError(f"{name!r} has shape {renamed[name].shape}; expected {shape}, its shape in {what}.")
    return renamed


def _some(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:3]))
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _by_kind(weights: Mapping[str, Any]) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for name in weights:
        kinds.setdefault(name.rpartition("/")[2], []).append(name)
    return kinds


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that puts ``conv2d_10`` behind ``conv2d_2``, and ``conv2d`` before both."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)|(?=/)", name) if part]
