"""Which axes keep their own statistics, and which are averaged over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from bncourse.nn.checks import BoolArray, FloatArray, float_array, same_shape

Axis: TypeAlias = int | Sequence[int]

#: From (batch, features) to (batch, depth, height, width, channels).
RANKS = range(2, 6)


def axis_tuple(axis: Axis) -> tuple[int, ...]:
    """Return `axis` as a tuple of ints.

    Raises
    ------
    TypeError
        If `axis` is neither an int nor a sequence of ints.
    ValueError
        If it is empty or names an axis twice.
    """
    if type(axis) is int:
        return (axis,)
    given = (axis,) if isinstance(axis, int | np.integer) else axis
    if not isinstance(given, Sequence) or any(
        isinstance(a, bool) or not isinstance(a, int | np.integer) for a in given
    ):
        raise TypeError(f"axis = {axis!r}; expected an int or a sequence of ints.")
    axes = tuple(int(a) for a in given)
    if not axes:
        raise ValueError("axis is empty; expected at least one axis that keeps its own statistics.")
    if len(set(axes)) < len(axes):
        raise ValueError(f"axis = {axis!r} names an axis twice; name each axis once.")
    return axes


@dataclass(frozen=True)
class AxisSplit:
    """The axes of one array, split into those kept and those averaged over.

    Attributes
    ----------
    shape
        Shape of the array.
    kept
        Axes that keep their own statistics, ascending (for images NHWC: the channels, 3).
    reduced
        All other axes, ascending (for images NHWC: batch, height and width).
    """

    shape: tuple[int, ...]
    kept: tuple[int, ...]
    reduced: tuple[int, ...]

    @classmethod
    def of(cls, shape: tuple[int, ...], axis: Axis, *, empty: bool = False) -> AxisSplit:
        """Split the axes of an array of `shape`; `axis` says which are kept. `empty` allows no samples.

        Raises
        ------
        ValueError
            If the rank is not 2 to 5, if `axis` lies outside it, names an axis twice or leaves none to average over,
            or if there is nothing to average because an axis has length 0 (unless `empty` allows it).
        """
        split = _split(shape, axis_tuple(axis))
        if not empty and 0 in shape:
            raise ValueError(f"x has shape {shape} and holds no numbers; statistics need at least one.")
        return split

    @cached_property
    def kept_shape(self) -> tuple[int, ...]:
        """Shape of the parameters and statistics, that is, the lengths of the kept axes."""
        return tuple(self.shape[a] for a in self.kept)

    def expand(self, parameter: FloatArray) -> FloatArray:
        """Give a parameter of shape `kept_shape` the rank of the array, so that the two broadcast."""
        return parameter.reshape([n if a in self.kept else 1 for a, n in enumerate(self.shape)])

    def parameter(self, value: FloatArray, name: str, dtype: npt.DTypeLike) -> FloatArray:
        """Return `value` in `dtype`, checked to have the shape of a parameter.

        Raises
        ------
        TypeError
            If it holds no floats.
        ValueError
            If it has another shape than `kept_shape`.
        """
        checked = same_shape(float_array(value, name), self.kept_shape, name, "x along the axes kept")
        return checked.astype(dtype, copy=False)

    def expand_mask(self, mask: npt.ArrayLike) -> BoolArray:
        """Give a mask over the reduced axes the rank of the array.

        Raises
        ------
        ValueError
            If the mask has another rank, does not broadcast over the reduced axes, or leaves nothing out of which to
            form a mean.
        """
        array = np.asarray(mask).astype(bool)
        target = tuple(self.shape[a] for a in self.reduced)
        fits = array.ndim == len(target) and all(m in (1, n) for m, n in zip(array.shape, target, strict=True))
        if not fits:
            raise ValueError(
                f"mask has shape {array.shape}; expected {target}, the shape of x without the axes kept "
                "(an axis of length 1 is repeated)."
            )
        if not array.any():
            raise ValueError("mask excludes every position; statistics need at least one.")
        return np.expand_dims(np.broadcast_to(array, target), self.kept)


@lru_cache(maxsize=256)
def _split(shape: tuple[int, ...], axes: tuple[int, ...]) -> AxisSplit:
    """Split the axes; remembered, since a layer asks several times a call, and always for the same."""
    rank, given = len(shape), axes[0] if len(axes) == 1 else axes
    if rank not in RANKS:
        raise ValueError(
            f"x has rank {rank} (shape {shape}); expected rank {RANKS[0]} to {RANKS[-1]}, the batch axis included."
        )
    if any(not -rank <= a < rank for a in axes):
        raise ValueError(f"axis = {given} is out of range for x of rank {rank} (shape {shape}).")
    kept = tuple(sorted({a % rank for a in axes}))
    if len(kept) < len(axes):
        raise ValueError(f"axis = {given} names an axis of x twice (rank {rank}, shape {shape}); name each axis once.")
    reduced = tuple(a for a in range(rank) if a not in kept)
    if not reduced:
        raise ValueError(f"axis = {given} keeps every axis of x (shape {shape}); leave one to average over.")
    return AxisSplit(shape, kept, reduced)
