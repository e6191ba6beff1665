"""Checks that several layers share: each returns the checked value, or raises and names the remedy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
IntArray: TypeAlias = npt.NDArray[np.integer[Any]]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

#: What ``numpy.random.default_rng`` accepts; ``None`` draws fresh numbers in every process.
Seed: TypeAlias = int | Sequence[int] | None


def float_array(value: npt.ArrayLike, name: str) -> FloatArray:
    """Return `value` as an array of floating-point numbers.

    Integers are refused, not converted: whether pixels 0..255 should become float32 or float64, and be divided by
    255, is the caller's decision.

    Raises
    ------
    TypeError
        If the numbers are not floating-point.
    """
    array = np.asarray(value)
    if array.dtype.kind != "f":
        raise TypeError(
            f"{name} has dtype {array.dtype}; expected floating-point numbers. "
            f"Convert it first, for example with {name}.astype(np.float32)."
        )
    return array


def compute_dtype(*arrays: npt.NDArray[Any]) -> np.dtype[Any]:
    """Return the type to calculate in: the widest of the arrays' types, and at least float32."""
    return np.result_type(np.float32, *arrays)


def same_shape(array: FloatArray, shape: tuple[int, ...], name: str, what: str) -> FloatArray:
    """Return `array` if it has `shape`, the shape of `what`.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; expected {shape}, the shape of {what}.")
    return array


def fraction(value: float, name: str, *, end: bool) -> float:
    """Return `value` if it lies in [0, 1], or in [0, 1) if not `end`.

    Raises
    ------
    ValueError
        If it lies outside.
    """
    inside = 0.0 <= value <= 1.0 if end else 0.0 <= value < 1.0
    if not inside:
        raise ValueError(f"{name} = {value}; expected a number in [0, 1{']' if end else ')'}.")
    return float(value)


def not_negative(value: float, name: str) -> float:
    """Return `value` if it is a finite number, zero or greater.

    Raises
    ------
    ValueError
        If it is negative, infinite or not a number.
    """
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} = {value}; expected a finite number >= 0.")
    return float(value)


def positive_int(value: int, name: str) -> int:
    """Return `value` if it is a whole number, one or greater.

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is smaller than one.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} = {value!r}; expected an integer.")
    if value < 1:
        raise ValueError(f"{name} = {value}; expected an integer >= 1.")
    return int(value)
