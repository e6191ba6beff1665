"""Photographs sorted into one folder for each class, decoded batch by batch; and crops of two that need no download.

Both loaders give `Photographs`, so models and training programs take either.

**Why not** ``keras.utils.image_dataset_from_directory``? It is the right tool for a folder that is known to be sound.
It goes by the ending of a file's name and opens files during training. So a damaged file, or a text that calls itself
``.jpg``, stops the training when its turn comes, and the message does not name it; files with other endings are
passed over in silence; a single class is accepted; links lead out of the folder; and a photograph that its EXIF tag
turns upright stays on its side. The chapter on photographs measures each of these. Here every file is decoded once
*before* training, and what is not used is reported with its name.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from bncourse.data._checks import whole_number
from bncourse.data.picture_files import WHOLE, Box, PixelArray, as_pixels
from bncourse.data.picture_folder import (
    Finding,
    Found,
    Report,
    Skipped,
    first_few,
    printable,
    read_picture,
    scan,
)
from bncourse.data.splits import DataError, FloatArray, IntArray

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "CROPS",
    "PARTS_OF_PHOTOGRAPH",
    "Photographs",
    "Pictures",
    "Report",
    "Skipped",
    "load_crops",
    "load_folder",
    "load_photographs",
    "photograph_batches",
    "printable",
]

#: The name under which `load_photographs` knows the embedded crops.
CROPS = "crops"
#: Columns of the two photographs (427 rows, 640 columns) from which training, validation and test crops are cut.
PARTS_OF_PHOTOGRAPH = ((0, 320), (320, 480), (480, 640))
#: An augmented picture shows a window of this share of the sides, or more.
_SMALLEST_WINDOW = 0.8


class _Source(Protocol):
    """Where one picture comes from."""

    @property
    def digest(self) -> bytes: ...

    def read(self, size: int, *, box: Box, flip: bool) -> PixelArray: ...


@dataclass(frozen=True)
class _File:
    found: Found

    @property
    def digest(self) -> bytes:
        return self.found.digest

    def read(self, size: int, *, box: Box, flip: bool) -> PixelArray:
        return read_picture(self.found, size, box=box, flip=flip)


@dataclass(frozen=True)
class _Crop:
    photograph: Image.Image
    #: Name of the photograph, and left, top, right and bottom of the crop in its pixels.
    name: str
    edges: tuple[int, int, int, int]

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(repr((self.name, self.edges)).encode()).digest()

    def read(self, size: int, *, box: Box, flip: bool) -> PixelArray:
        return as_pixels(self.photograph.crop(self.edges), size, box=box, flip=flip)


class Pictures:
    """The pictures of one split. They stay where they are, and are decoded one at a time when they are read.

    Parameters
    ----------
    sources : sequence
        Where they come from; made by the loaders.
    labels : int64 array, shape (n,)
        Class numbers.
    size : int
        Height and width at which they are read, in pixels.

    Attributes
    ----------
    labels : int64 array, shape (n,), read-only
    size : int
    """

    def __init__(self, sources: Sequence[_Source], labels: IntArray, size: int) -> None:
        self._sources = tuple(sources)
        self.labels = np.array(labels, np.int64)
        self.labels.setflags(write=False)
        self.size = size

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._sources)

    def __repr__(self) -> str:
        return f"Pictures({len(self)} pictures of {self.size}x{self.size} pixels)"

    def read(self, index: int, *, box: Box = WHOLE, flip: bool = False) -> PixelArray:
        """Decode one picture.

        Parameters
        ----------
        index : int
            Which.
        box : four floats
            Left, top, right and bottom of the part that is shown, as shares of width and height.
        flip : bool
            Whether left and right are swapped.

        Returns
        -------
        uint8 array, shape (size, size, 3)

        Raises
        ------
        DataError
            If the file has changed since it was found, so that it is no picture any more.
        """
        return self._sources[index].read(self.size, box=box, flip=flip)

    def all(self) -> tuple[FloatArray, IntArray]:
        """Return all pictures at once, as one batch; for few only: it takes 12 times `size` squared bytes for each."""
        (batch,) = photograph_batches(self, len(self), shuffle=False)
        return batch

    def edges(self) -> list[tuple[int, int, int, int]]:
        """Return left, top, right and bottom of each crop in the pixels of its photograph.

        Raises
        ------
        TypeError
            If the pictures are files, not crops.
        """
        crops = [source for source in self._sources if isinstance(source, _Crop)]
        if len(crops) < len(self):
            raise TypeError("these pictures are files; only crops have edges.")
        return [crop.edges for crop in crops]

    def checksum(self, start: int = 0) -> int:
        """Return a number that changes with the pictures, their order, their labels and their size."""
        for source in self._sources:
            start = zlib.crc32(source.digest, start)
        return zlib.crc32(repr((self.labels.tolist(), self.size)).encode(), start)


@dataclass(frozen=True, eq=False, repr=False)
class Photographs:
    """Splits of pictures and what one has to know about them.

    Attributes
    ----------
    name : str
        "crops" or "folder".
    train, validation : Pictures
        The pictures to learn from, and to choose with.
    test : Pictures or None
        Those to report on, where there are any.
    classes : tuple of str
        Names of the classes; the label k stands for ``classes[k]``. A folder's names are whatever somebody called
        them: show them as `printable`.
    source : str
        Where the pictures came from, in words and without any path.
    report : bncourse.data.picture_folder.Report
        What a folder held that is not used.
    """

    name: str
    train: Pictures
    validation: Pictures
    test: Pictures | None
    classes: tuple[str, ...]
    source: str
    report: Report

    @property
    def size(self) -> int:
        """Height and width of the pictures, in pixels."""
        return self.train.size

    def splits(self) -> Mapping[str, Pictures]:
        """Return the splits that there are by their names."""
        found = {"train": self.train, "validation": self.validation}
        return found if self.test is None else {**found, "test": self.test}

    def describe(self) -> dict[str, str | int]:
        """Return what tells one set of pictures from another: name, numbers, and a checksum over all of them."""
        checksum = 0
        for pictures in self.splits().values():
            checksum = pictures.checksum(checksum)
        numbers = {name: len(pictures) for name, pictures in self.splits().items()}
        return {"name": self.name, **numbers, "checksum": checksum}

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name} {len(pictures):,}" for name, pictures in self.splits().items())
        return f"Photographs({self.name!r}, {len(self.classes)} classes, {self.size}x{self.size} pixels: {numbers})"


def load_photographs(source: str | os.PathLike[str] = CROPS, *, size: int = 224, progress: bool = False) -> Photographs:
    """Return the embedded crops if `source` is ``"crops"``, else the photographs of that folder.

    A folder of this name is ``"./crops"``. See `load_crops` and `load_folder`, whose defaults hold.
    """
    if source == CROPS:
        return load_crops(size)
    return load_folder(source, size=size, progress=progress)


def load_folder(
    folder: str | os.PathLike[str],
    *,
    size: int = 224,
    validation: float = 0.2,
    test: float = 0.2,
    progress: bool = False,
) -> Photographs:
    """Return the photographs of a folder that holds one folder for each class.

    There may be one level above the classes: ``train`` and ``validation``, and perhaps ``test``, each with folders of
    the same classes (the layout of article D). Without it the pictures of each class are split here: sorted by the
    SHA-256 of their content, the first share becomes test, the next validation, the rest training. So the split is the
    same on every machine and in every order of files, and says nothing about a photograph's place in a series. (Where
    pictures come in series, of one animal or one minute, make the parts yourself: neighbours belong together.)

    Nobody vouches for a folder. Every file is decoded once, here; `Photographs.report` tells which are not used, and
    why (see `bncourse.data.picture_folder.scan`). A class without usable training pictures is left out, and reported.

    Parameters
    ----------
    folder : path
        The folder.
    size : int
        Height and width to which every picture is squeezed, in pixels; 224 in the article.
    validation, test : float
        Shares of each class, where the folder has no parts of its own; below 1 together. Each class keeps at least
        one picture in every part whose share is not 0. `test` may be 0.
    progress : bool
        Whether a progress bar is shown on standard error.

    Returns
    -------
    Photographs
        In memory are the names, not the pictures. To decode one takes its file's length and 4 bytes a pixel, 8 where
        it has transparent places, and far less for a large JPEG: 50 or 100 MB for 12 million pixels, 360 or 720 MB
        where a picture has as many as are allowed.

    Raises
    ------
    DataError
        If there is no such folder, if fewer than two classes are left, or if a class or part is too small. The
        message names the first files that were skipped.
    TypeError, ValueError
        If an argument is impossible.
    """
    size = whole_number("size", size, at_least=1)
    if not (0 < validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise ValueError(
            f"validation = {validation} and test = {test}; expected shares above 0 (test: or 0) that leave something "
            "to train on."
        )
    found, skipped = scan(folder, progress=progress)
    classes = _classes(found.get("train", found.get("", {})), skipped)
    splits = _cut(found[""], classes, skipped, validation, test) if "" in found else _given(found, classes, skipped)
    used = sum(len(pictures) for split in splits.values() for pictures in split)
    made = {name: _pictures(split, size) for name, split in splits.items()}
    return Photographs(
        name="folder",
        train=made["train"],
        validation=made["validation"],
        test=made.get("test"),
        classes=classes,
        source="a folder of photographs",
        report=Report(used, tuple(skipped)),
    )


def load_crops(
    size: int = 224,
    *,
    train: int = 200,
    validation: int = 100,
    test: int = 100,
    sides: tuple[int, int] = (64, 128),
    parts: Sequence[tuple[int, int]] = PARTS_OF_PHOTOGRAPH,
    seed: int = 0,
) -> Photographs:
    """Return square crops of the two photographs that come with scikit-learn: a Chinese building and a flower.

    Training crops are cut from the left half of each photograph, validation crops from the next quarter, test crops
    from the last. So no pixel is shared between splits. Places and sides are drawn at random; every other crop is a
    flower. Crops of one split overlap: they are many views of the same few things, not many photographs.

    Parameters
    ----------
    size : int
        Height and width to which every crop is resized. Enlarging adds no detail.
    train, validation, test : int
        Number of crops, 2 or more.
    sides : two ints
        Smallest and largest side of a crop, in pixels of the photograph.
    parts : three pairs of ints
        For each split the first column and the one after the last.
    seed : int
        Of places and sides.

    Returns
    -------
    Photographs
        The photographs take 3.3 MB of memory; crops are cut when they are read.

    Raises
    ------
    TypeError, ValueError
        If an argument is impossible, parts overlap or leave the photograph, or a crop does not fit into its part.
    """
    size = whole_number("size", size, at_least=1)
    numbers = {
        name: whole_number(name, number, at_least=2)
        for name, number in (("train", train), ("validation", validation), ("test", test))
    }
    photographs = _two_photographs()
    width, height = next(iter(photographs.values())).size
    _check_parts(parts, sides, width, height)
    rng = np.random.default_rng(whole_number("seed", seed, at_least=0))
    made = {}
    for (name, number), columns in zip(numbers.items(), parts, strict=True):
        labels = np.arange(number) % len(photographs)
        crops = [_draw(list(photographs)[label], photographs, columns, sides, rng) for label in labels]
        made[name] = Pictures(crops, labels, size)
    return Photographs(
        name=CROPS,
        train=made["train"],
        validation=made["validation"],
        test=made["test"],
        classes=tuple(photographs),
        source="crops of the two photographs in scikit-learn's load_sample_images, by danielbuechele and vultilion "
        "(CC BY 2.0)",
        report=Report(sum(numbers.values())),
    )


def photograph_batches(
    pictures: Pictures,
    batch_size: int,
    *,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = True,
    augment: bool = False,
) -> Iterator[tuple[FloatArray, IntArray]]:
    """Go through the pictures once, in batches; only one batch is in memory.

    Parameters
    ----------
    pictures : Pictures
        A split.
    batch_size : int
        Pictures in a batch; the last batch may be shorter.
    seed, epoch : int
        The order, and the augmentation of each picture, depend on these two only.
    shuffle : bool
        Whether the order is random; otherwise it is that of the split.
    augment : bool
        Whether each picture is shown as a random window of 80 to 100 % of its sides, squeezed back to its size, and
        every other one, at random, mirrored left to right. (A window stays inside the picture, so nothing has to be
        made up at its edges.)

    Yields
    ------
    images : float32 array, shape (batch, size, size, 3)
        Red, green and blue from 0 to 1: pixels divided by 255.
    labels : int64 array, shape (batch,)

    Raises
    ------
    TypeError, ValueError
        If an argument is impossible: at the call, not at the first batch.
    DataError
        If a file has changed since it was found.
    """
    if not isinstance(pictures, Pictures):
        raise TypeError(f"pictures must be a bncourse.data.photographs.Pictures, got {type(pictures).__name__}")
    batch_size = whole_number("batch_size", batch_size, at_least=1)
    start = (whole_number("seed", seed, at_least=0), whole_number("epoch", epoch, at_least=0))
    order = np.random.default_rng(start).permutation(len(pictures)) if shuffle else np.arange(len(pictures))
    return _batches(pictures, batch_size, order, start if augment else None)


def _batches(
    pictures: Pictures, batch_size: int, order: IntArray, start: tuple[int, int] | None
) -> Iterator[tuple[FloatArray, IntArray]]:
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        images = np.empty((len(chosen), pictures.size, pictures.size, 3), np.float32)
        for place, index in enumerate(chosen):
            # From 1 on: NumPy's generators of the seeds (a, b) and (a, b, 0) are one and the same.
            box, flip = (WHOLE, False) if start is None else _window(np.random.default_rng((*start, 1 + int(index))))
            np.divide(pictures.read(int(index), box=box, flip=flip), np.float32(255), out=images[place])
        yield images, pictures.labels[chosen]


def _window(rng: np.random.Generator) -> tuple[Box, bool]:
    share = rng.uniform(_SMALLEST_WINDOW, 1.0)
    left, top = rng.uniform(0.0, 1.0 - share, 2)
    # The sum may exceed 1 by a rounding error.
    return (left, top, min(left + share, 1.0), min(top + share, 1.0)), bool(rng.random() < 0.5)


def _two_photographs() -> dict[str, Image.Image]:
    # Imported here because they take a moment, and a reader of a folder has no use for the first.
    from PIL import Image
    from sklearn.datasets import load_sample_images

    both = load_sample_images()
    images = dict(zip((Path(name).stem for name in both.filenames), both.images, strict=True))
    return {name: Image.fromarray(images[name]) for name in ("china", "flower")}


def _check_parts(parts: Sequence[tuple[int, int]], sides: tuple[int, int], width: int, height: int) -> None:
    if len(parts) != 3:
        raise ValueError(f"parts has {len(parts)} entries; expected three: for training, validation and test.")
    if not 1 <= sides[0] <= sides[1] <= height:
        raise ValueError(f"sides = {sides}; expected a smallest and a largest side, from 1 to {height}.")
    for first, end in parts:
        if not (first >= 0 and end <= width and end - first >= sides[1]):
            raise ValueError(
                f"parts has the columns {first} to {end}; expected at least {sides[1]} columns, the largest side, "
                f"between 0 and {width}."
            )
    ordered = sorted(parts)
    for (_, end), (first, _) in pairwise(ordered):
        if first < end:
            raise ValueError(f"parts overlap: one begins at column {first}, before {end}, where another ends.")


def _draw(
    name: str,
    photographs: Mapping[str, Image.Image],
    columns: tuple[int, int],
    sides: tuple[int, int],
    rng: np.random.Generator,
) -> _Crop:
    side = int(rng.integers(sides[0], sides[1] + 1))
    left = int(rng.integers(columns[0], columns[1] - side + 1))
    top = int(rng.integers(0, photographs[name].height - side + 1))
    return _Crop(photographs[name], name, (left, top, left + side, top + side))


def _classes(train: Mapping[str, Sequence[Found]], skipped: list[Skipped]) -> tuple[str, ...]:
    """Return the classes that have pictures to train on."""
    classes = tuple(sorted(name for name, pictures in train.items() if pictures))
    empty = [name for name, pictures in train.items() if not pictures]
    skipped += [Skipped(printable(name), "a class without pictures to train on: left out") for name in empty]
    if len(classes) >= 2:
        return classes
    there = f"there is only the class {printable(classes[0])!r}" if classes else "no pictures are left"
    raise DataError(
        f"{there}; expected a folder for each of two classes or more, with pictures in it, or folders train and "
        f"validation that hold such folders.{first_few(skipped)}"
    )


def _cut(
    found: Mapping[str, Sequence[Found]],
    classes: Sequence[str],
    skipped: list[Skipped],
    validation: float,
    test: float,
) -> dict[str, list[list[Found]]]:
    splits: dict[str, list[list[Found]]] = {"train": [], "validation": []}
    if test:
        splits["test"] = []
    for name in classes:
        pictures = sorted(found[name], key=lambda picture: picture.digest)
        if len(pictures) < len(splits):
            raise DataError(
                f"the class {printable(name)!r} has too few pictures ({len(pictures)}); expected at least "
                f"{len(splits)}, one for each of {', '.join(splits)}. Add pictures, or take the class's folder away."
                f"{first_few(skipped)}"
            )
        for_test = min(max(1, round(test * len(pictures))), len(pictures) - 2) if test else 0
        for_validation = max(1, min(round(validation * len(pictures)), len(pictures) - for_test - 1))
        if test:
            splits["test"].append(pictures[:for_test])
        splits["validation"].append(pictures[for_test : for_test + for_validation])
        splits["train"].append(pictures[for_test + for_validation :])
    return splits


def _given(found: Finding, classes: Sequence[str], skipped: list[Skipped]) -> dict[str, list[list[Found]]]:
    splits = {}
    for part, by_class in found.items():
        for name in by_class:
            if name not in classes:
                skipped += [Skipped(p.name, "a class without pictures to train on") for p in by_class[name]]
        splits[part] = [by_class.get(name, []) for name in classes]
        missing = [name for name, pictures in zip(classes, splits[part], strict=True) if not pictures]
        if missing:
            raise DataError(
                f"the folder {part!r} has no pictures of the class {printable(missing[0])!r}, and a score without "
                f"them would mislead. Add some, or take the class out of 'train'.{first_few(skipped)}"
            )
    return splits


def _pictures(by_class: Sequence[Sequence[Found]], size: int) -> Pictures:
    labels = np.repeat(np.arange(len(by_class)), [len(pictures) for pictures in by_class])
    return Pictures([_File(picture) for pictures in by_class for picture in pictures], labels, size)
