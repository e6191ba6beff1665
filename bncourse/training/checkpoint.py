"""The variables of a ``tf.compat.v1`` session: all of them, as arrays, or in a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bncourse.training.arrays import Arrays, CheckpointError, read_arrays, write_arrays

__all__ = ["Checkpoint", "CheckpointError", "GraphVariables", "assign"]

# The value of tf.compat.v1.GraphKeys.GLOBAL_VARIABLES; spelt out, so that this room does not load TensorFlow.
_GLOBAL_VARIABLES = "variables"
# No variable's name can hold a colon.
_EXTRA = "extra:"


class GraphVariables:
    """All global variables of a session's graph, as arrays by name.

    Global are the weights, the moving statistics of Batch Normalization (which are not *trainable* variables, so a
    program that saves only those loses them) and the optimizer's memory. What is no variable is not among them: the
    random numbers of dropout, for example, are counted by the session and start anew with a new one.

    Parameters
    ----------
    session : tf.compat.v1.Session
        A session; to `write`, its variables need not be initialised.
    """

    def __init__(self, session: Any) -> None:
        self.session = session

    def read(self) -> Arrays:
        """Return the present values, by the variables' names without the ``:0`` at the end.

        Raises
        ------
        CheckpointError
            If the graph has no variables.
        """
        # A single text comes back as plain bytes, without a dtype.
        return {name: np.asarray(value) for name, value in self.session.run(_variables(self.session)).items()}

    def write(self, values: Mapping[str, npt.NDArray[Any]]) -> None:
        """Set all variables, or none if a name, shape or type does not fit.

        Adds nothing to the graph, so it may be called again and again, and on a finalised graph.

        Raises
        ------
        CheckpointError
            If the names, shapes or types are not those of the graph's variables.
        """
        _set(self.session, _variables(self.session), values, "the checkpoint")


class Checkpoint:
    """Saves and restores all global variables of a graph (see `GraphVariables`).

    The file is a NumPy archive (``.npz``) with one array for every variable, under the variable's name. It is read
    without pickle.

    Parameters
    ----------
    path : str or path-like
        The file. Every `save` replaces it; its folder is made where it is missing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r})"

    def save(self, session: Any, extra: Mapping[str, npt.NDArray[Any]] | None = None) -> None:
        """Write the present values of all global variables of the session's graph.

        The values go to a new file in the same folder, which then takes the place of the old one in a single step: if
        the program dies in between, the old checkpoint is still there, and whole.

        Parameters
        ----------
        session : tf.compat.v1.Session
            A session whose variables are initialised.
        extra : mapping of str to array, optional
            What else belongs to this moment of the training, by names of your own. In the same file, so that variables
            and extras can never be of two moments.

        Raises
        ------
        CheckpointError
            If the graph has no variables, or an array has a type that NumPy's format cannot hold (text, bfloat16).
        """
        extras = {f"{_EXTRA}{name}": value for name, value in (extra or {}).items()}
        write_arrays(self.path, {**GraphVariables(session).read(), **extras})

    def restore(self, session: Any) -> Arrays:
        """Set all global variables of the session's graph to the saved values, and return the extras.

        Adds nothing to the graph, so it may be called again and again, and on a finalised graph. Everything is checked
        before the first variable changes.

        Parameters
        ----------
        session : tf.compat.v1.Session
            A session with the same variables; they need not be initialised.

        Returns
        -------
        dict of str to array
            What was saved as `extra`.

        Raises
        ------
        FileNotFoundError
            If nothing was saved yet.
        CheckpointError
            If the file is damaged, or its names, shapes or types are not those of the graph's variables.
        """
        variables, values = _variables(session), self.read()
        extra = {name.removeprefix(_EXTRA): values.pop(name) for name in list(values) if name.startswith(_EXTRA)}
        _set(session, variables, values, str(self.path))
        return extra

    def read(self) -> Arrays:
        """Return the saved values by the variables' names.

        Raises
        ------
        FileNotFoundError
            If nothing was saved yet.
        CheckpointError
            If the file is damaged.
        """
        return read_arrays(self.path)


def assign(session: Any, values: Mapping[Any, npt.NDArray[Any]]) -> None:
    """Set variables of the session's graph, which may be finalised, to `values`.

    Parameters
    ----------
    session : tf.compat.v1.Session
        A session on the graph; the variables need not be initialised.
    values : mapping of tf.Variable to array
        Of the variables' shapes and types.
    """
    for variable, value in values.items():
        # The graph's own assignment of the start value, fed with ours: no new operation is needed.
        session.run(variable.initializer, {variable.initializer.inputs[1]: value})


def _set(session: Any, variables: Mapping[str, Any], values: Mapping[str, npt.NDArray[Any]], source: str) -> None:
    """Set all global `variables` of the session's graph to `values`, which came from `source`."""
    missing, unknown = sorted(set(variables) - set(values)), sorted(set(values) - set(variables))
    if missing or unknown:
        raise CheckpointError(
            f"{source} belongs to another graph: it lacks {_some(missing)}, and the graph lacks "
            f"{_some(unknown)}. Build the graph that was saved, in the same order."
        )
    for name, variable in variables.items():
        value, shape = values[name], tuple(variable.shape.as_list())
        if value.shape != shape or value.dtype != variable.dtype.base_dtype.as_numpy_dtype:
            raise CheckpointError(
                f"{source}: {name!r} has shape {value.shape} and dtype {value.dtype}; the graph's variable has "
                f"{shape} and {variable.dtype.base_dtype.name}. Build the graph that was saved."
            )
    assign(session, {variable: values[name] for name, variable in variables.items()})


def _variables(session: Any) -> dict[str, Any]:
    """Return the global variables of the session's graph by their names, without the ``:0`` at the end."""
    variables = session.graph.get_collection(_GLOBAL_VARIABLES)
    if not variables:
        raise CheckpointError("the session's graph has no global variables. Build the network in this graph first.")
    return {variable.name.removesuffix(":0"): variable for variable in variables}


def _some(names: list[str]) -> str:
    """Return at most three of `names`, for a message."""
    if not names:
        return "nothing"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
