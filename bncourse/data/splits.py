"""What every loader returns: a `Dataset` of three `Split`s, checked once and read-only from then on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

#: Height and width of every image, in pixels.
SIDE = 28


class DataError(ValueError):
    """Data could not be found, fetched or understood; the message says what to do about it."""


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images and their labels.

    Parameters
    ----------
    images
        Brightness, float32, shape (n, 28, 28, 1), from 0 (background) to 1 (ink); n is at least 1.
    labels
        Class numbers from 0 on, int64, shape (n,).

    Raises
    ------
    TypeError
        If an array has another dtype or is no array.
    ValueError
        If a shape, a pixel or a label is out of bounds.

    Notes
    -----
    The split keeps read-only views: writing into ``split.images`` raises ValueError. Take a ``.copy()`` to change one.
    """

    images: FloatArray
    labels: IntArray

    def __post_init__(self) -> None:
        _check_dtype("images", self.images, np.float32)
        _check_dtype("labels", self.labels, np.int64)
        n = len(self.images) if self.images.ndim else 0
        if self.images.shape != (n, SIDE, SIDE, 1) or n == 0:
            raise ValueError(f"images must have the shape (n, {SIDE}, {SIDE}, 1), got {self.images.shape}")
        if self.labels.shape != (n,):
            raise ValueError(f"labels must have the shape ({n},), one label an image, got {self.labels.shape}")
        low, high = float(self.images.min()), float(self.images.max())
        if not (low >= 0.0 and high <= 1.0):  # written so that NaN fails, too
            raise ValueError(f"images must lie in [0, 1], got values from {low} to {high}; scale them first")
        if self.labels.min() < 0:
            raise ValueError(f"labels must not be negative, got {self.labels.min()}")
        object.__setattr__(self, "images", _read_only(self.images))
        object.__setattr__(self, "labels", _read_only(self.labels))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Split({len(self)} images)"


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Three splits and what one has to know about them.

    Parameters
    ----------
    name
        The name under which `bncourse.data.load` knows it.
    train, validation, test
        The images to learn from, to choose with, and to report on.
    classes
        Names of the classes; the label k stands for ``classes[k]``.
    source
        Where the images came from, in words and without any path. It is left out of the repr, which therefore reads
        the same on every machine.

    Raises
    ------
    ValueError
        If a split has a label that `classes` does not name.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            highest = int(getattr(self, part).labels.max())
            if highest >= len(self.classes):
                raise ValueError(f"{part} has the label {highest}, but classes names only {len(self.classes)}")

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}: {len(self.train)} train, {len(self.validation)} validation, "
            f"{len(self.test)} test images, {len(self.classes)} classes)"
        )


def _check_dtype(name: str, array: object, dtype: type[np.generic]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{name} must be a NumPy array of {np.dtype(dtype)}, got {found}")


def _read_only(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    view = array.view()
    view.setflags(write=False)
    return view
