"""Arrays by name in one file: written whole or not at all, read without pickle."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bncourse.atomic import replacing

Arrays = dict[str, npt.NDArray[Any]]


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or does not fit what it should be restored to."""


def write_arrays(path: Path, arrays: Mapping[str, npt.ArrayLike]) -> None:
    """Write a NumPy archive (``.npz``); its folder is made where it is missing.

    The arrays go to a new file in the same folder, which then takes the place of the old one in a single step: if the
    program dies in between, the old file is still there, and whole.

    Raises
    ------
    CheckpointError
        If an array has a type that NumPy's format cannot hold (text, bfloat16).
    """
    plain = {name: np.asarray(value) for name, value in arrays.items()}
    for name, value in plain.items():
        if value.dtype.kind not in "biufc":
            raise CheckpointError(f"variable {name!r} has dtype {value.dtype}; expected plain numbers.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        _write(temporary, plain)


def read_arrays(path: Path) -> Arrays:
    """Return what `write_arrays` wrote.

    Raises
    ------
    FileNotFoundError
        If nothing was saved yet.
    CheckpointError
        If the file is damaged.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no checkpoint there. Save one before you restore it.") from None
    with file:
        try:
            with zipfile.ZipFile(file) as archive:
                return {member.removesuffix(".npy"): _member(archive, member) for member in archive.namelist()}
        # Damage shows in many ways: a wrong offset is an OSError, a wrong flag a RuntimeError ("is encrypted").
        except (zipfile.BadZipFile, ValueError, EOFError, OSError, RuntimeError) as error:
            raise CheckpointError(f"{path}: not a whole checkpoint ({error}). Delete it and train again.") from error


def below(arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> Arrays:
    """Return the arrays whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def remove_leftovers(path: Path) -> None:
    """Remove what a killed `write_arrays` may have left beside `path`."""
    # So `bncourse.atomic.replacing` calls a file that is not yet whole.
    prefix, suffix = f".{path.name}.", ".part"
    if path.parent.is_dir():
        for other in path.parent.iterdir():
            middle = other.name.removeprefix(prefix).removesuffix(suffix)
            if middle.isdecimal() and other.name == f"{prefix}{middle}{suffix}":
                other.unlink(missing_ok=True)


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
