"""What MNIST and Fashion-MNIST share once their files are read: the checks of the raw arrays, and the splits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bncourse.data.splits import SIDE, DataError, Dataset, Split

ByteArray = npt.NDArray[np.uint8]

#: More images than this in a file are refused: the real sets have 60,000, and 100,000 take 314 MB as float32.
MAX_IMAGES = 100_000


@dataclass(frozen=True)
class RawSplit:
    """Images as a file holds them, uint8 of shape (n, 28, 28), with labels, uint8 of shape (n,)."""

    images: ByteArray
    labels: ByteArray


def damaged(file: Path, found: str, expected: str) -> DataError:
    """Return the error for a file that is there but not what it should be."""
    return DataError(
        f"{file}: {found}; expected {expected}. The file was left as it is. Put a whole one in its place, "
        "or delete it to have the data looked for elsewhere."
    )


def check_shape(file: Path, what: str, shape: tuple[int, ...], *, images: bool) -> None:
    """Refuse a shape other than (n, 28, 28) for images or (n,) for labels, with n from 1 to `MAX_IMAGES`."""
    item = (SIDE, SIDE) if images else ()
    if len(shape) != 1 + len(item) or shape[1:] != item or not 1 <= shape[0] <= MAX_IMAGES:
        expected = f"(n, {SIDE}, {SIDE})" if images else "(n,)"
        raise damaged(file, f"{what} has the shape {shape}", f"{expected} with n from 1 to {MAX_IMAGES}")


def check_labels(file: Path, what: str, raw: RawSplit) -> None:
    """Refuse labels outside 0 to 9, or another number of labels than of images."""
    if len(raw.labels) != len(raw.images):
        found = f"{what} has {len(raw.labels)} labels for {len(raw.images)} images"
        raise damaged(file, found, "one label an image")
    if raw.labels.max() > 9:
        raise damaged(file, f"{what} has the label {raw.labels.max()}", "labels from 0 to 9")


def assemble(
    name: str, train: RawSplit, test: RawSplit, *, validation: int, classes: tuple[str, ...], source: str
) -> Dataset:
    """Return the dataset: the first `validation` training images, in file order, become the validation split.

    Raises
    ------
    DataError
        If no training image would be left.
    """
    available = len(train.labels)
    if validation >= available:
        raise DataError(
            f"validation must be smaller than the number of training images in the file, {available}, "
            f"so that some are left to train on; got {validation}"
        )
    images, labels = _scaled(train)
    return Dataset(
        name=name,
        train=Split(images[validation:], labels[validation:]),
        validation=Split(images[:validation], labels[:validation]),
        test=Split(*_scaled(test)),
        classes=classes,
        source=source,
    )


def _scaled(raw: RawSplit) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    images = raw.images.astype(np.float32)
    images /= 255.0
    labels = raw.labels.astype(np.int64)
    images.setflags(write=False)
    labels.setflags(write=False)
    return images[..., np.newaxis], labels
