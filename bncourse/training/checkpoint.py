"""The variables of a ``tf.compat.v1`` session, in one file: written whole or not at all."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bncourse.atomic import replacing

# The value of tf.compat.v1.GraphKeys.GLOBAL_VARIABLES; spelt out, so that this room does not load TensorFlow.
_GLOBAL_VARIABLES = "variables"
# No variable's name can hold a colon.
_EXTRA = "extra:"


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or does not fit the graph."""


class Checkpoint:
    """Saves and restores all global variables of a graph.

    Global are the weights, the moving statistics of Batch Normalization (which are not *trainable* variables, so a
    program that saves only those loses them) and the optimizer's memory. The file is a NumPy archive (``.npz``) with
    one array for every variable, under the variable's name. It is read without pickle.

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
        # A single text comes back as plain bytes, without a dtype.
        values = {name: np.asarray(value) for name, value in session.run(_variables(session)).items()}
        values |= {f"{_EXTRA}{name}": np.asarray(value) for name, value in (extra or {}).items()}
        for name, value in values.items():
            if value.dtype.kind not in "biufc":
                raise CheckpointError(f"variable {name!r} has dtype {value.dtype}; expected plain numbers.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as temporary:
            _write(temporary, values)

    def restore(self, session: Any) -> dict[str, npt.NDArray[Any]]:
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
        variables, saved = _variables(session), self.read()
        extra = {name.removeprefix(_EXTRA): saved.pop(name) for name in list(saved) if name.startswith(_EXTRA)}
        values = saved
        missing, unknown = sorted(set(variables) - set(values)), sorted(set(values) - set(variables))
        if missing or unknown:
            raise CheckpointError(
                f"{self.path} belongs to another graph: it lacks {_some(missing)}, and the graph lacks "
                f"{_some(unknown)}. Build the graph that was saved, in the same order."
            )
        for name, variable in variables.items():
            value, shape = values[name], tuple(variable.shape.as_list())
            if value.shape != shape or value.dtype != variable.dtype.base_dtype.as_numpy_dtype:
                raise CheckpointError(
                    f"{self.path}: {name!r} has shape {value.shape} and dtype {value.dtype}; the graph's variable has "
                    f"{shape} and {variable.dtype.base_dtype.name}. Build the graph that was saved."
                )
        assign(session, {variable: values[name] for name, variable in variables.items()})
        return extra

    def read(self) -> dict[str, npt.NDArray[Any]]:
        """Return the saved values by the variables' names.

        Raises
        ------
        FileNotFoundError
            If nothing was saved yet.
        CheckpointError
            If the file is damaged.
        """
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.path}: no checkpoint there. Save one before you restore it.") from None
        with file:
            try:
                with zipfile.ZipFile(file) as archive:
                    return {member.removesuffix(".npy"): _member(archive, member) for member in archive.namelist()}
            # Damage shows in many ways: a wrong offset is an OSError, a wrong flag a RuntimeError ("is encrypted").
            except (zipfile.BadZipFile, ValueError, EOFError, OSError, RuntimeError) as error:
                raise CheckpointError(
                    f"{self.path}: not a whole checkpoint ({error}). Delete it and train again."
                ) from error


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


def _variables(session: Any) -> dict[str, Any]:
    """Return the global variables of the session's graph by their names, without the ``:0`` at the end."""
    variables = session.graph.get_collection(_GLOBAL_VARIABLES)
    if not variables:
        raise CheckpointError("the session's graph has no global variables. Build the network in this graph first.")
    return {variable.name.removesuffix(":0"): variable for variable in variables}


def _write(path: Path, values: Mapping[str, npt.NDArray[Any]]) -> None:
    # numpy.savez would do, but takes the names as keyword arguments, so it fails for a variable called "file".
    with path.open("wb") as file:
        with zipfile.ZipFile(file, "w") as archive:
            for name, value in values.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, value, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())


def _member(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    with archive.open(name) as member:
        array: npt.NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
        # The archive's checksum is compared at the end of a member only.
        if member.read():
            raise ValueError(f"bytes too many in {name}")
    return array


def _some(names: list[str]) -> str:
    """Return at most three of `names`, for a message."""
    if not names:
        return "nothing"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
