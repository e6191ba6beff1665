"""Strict reader of Keras's ``mnist.npz``, safe on files that are damaged or not what they say."""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from bncourse.data.keras_layout import (
    MAX_IMAGES,
    ByteArray,
    RawSplit,
    check_labels,
    check_shape,
    damaged,
)
from bncourse.data.splits import SIDE, DataError

_NAMES = ("x_train", "y_train", "x_test", "y_test")
_WHOLE = f"a NumPy archive (.npz) with the arrays {', '.join(_NAMES)}"
#: Bytes of the largest array that is read, with room for its header.
_MAX_BYTES = MAX_IMAGES * SIDE * SIDE + 10_000
#: What zipfile raises for archives that are truncated, altered, encrypted or packed in a way unknown to it.
_UNREADABLE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError)

#: Versions of the .npy format; the later ones exist for dtypes with names, which have no business here.
_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npz(file: Path) -> tuple[RawSplit, RawSplit]:
    """Read the training and the test images of a file in the layout of Keras's ``mnist.npz``.

    Sizes are checked before anything is unpacked, checksums after it, and nothing is ever unpickled.

    Raises
    ------
    DataError
        If the file cannot be read, is damaged, or holds anything but whole uint8 images and their labels.
    """
    arrays = {name: _parse(file, name, _unpack(file, name)) for name in _NAMES}
    train = RawSplit(arrays["x_train"], arrays["y_train"])
    test = RawSplit(arrays["x_test"], arrays["y_test"])
    check_labels(file, "y_train", train)
    check_labels(file, "y_test", test)
    return train, test


def _unpack(file: Path, name: str) -> bytes:
    """Return the bytes of one array's ``.npy`` file; zipfile checks them against their CRC."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.read(_find(file, archive, name))
    except DataError:  # it is a ValueError, and says already what is wrong
        raise
    except _UNREADABLE as error:
        raise damaged(file, f"it cannot be read ({error or type(error).__name__})", _WHOLE) from error


def _find(file: Path, archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """Return an array's entry in the archive's directory, if it may be unpacked."""
    if f"{name}.npy" not in archive.namelist():
        raise damaged(file, f"{name} is missing", _WHOLE)
    member = archive.getinfo(f"{name}.npy")
    # bz2 and lzma unpack a block at once, however large: only deflate stays within what it is asked for.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        found = f"{name} is compressed by method {member.compress_type}"
        raise damaged(file, found, "deflate or none, as NumPy writes it")
    if member.file_size > _MAX_BYTES:
        found = f"{name} says that it unpacks to {member.file_size} bytes"
        raise damaged(file, found, f"at most {_MAX_BYTES}")
    return member


def _parse(file: Path, name: str, data: bytes) -> ByteArray:
    """Return the array that the bytes of a ``.npy`` file describe, without ever unpickling."""
    stream = io.BytesIO(data)
    try:
        read_header = _HEADER_READERS[np.lib.format.read_magic(stream)]
        shape, fortran_order, dtype = read_header(stream)
    except Exception as error:  # the header is parsed as Python, so it can fail in every way that Python can
        raise damaged(file, f"the header of {name} cannot be read ({error})", "a .npy header") from error
    if dtype.hasobject:
        raise damaged(file, f"{name} holds pickled Python objects, which could run code", "an array of uint8")
    if dtype != np.uint8:
        raise damaged(file, f"{name} is an array of {dtype}", "an array of uint8")
    check_shape(file, name, shape, images=name.startswith("x"))
    pixels = memoryview(data)[stream.tell() :]
    if len(pixels) != math.prod(shape):
        raise damaged(file, f"{name} has {len(pixels)} bytes of data", f"{math.prod(shape)} for shape {shape}")
    return np.frombuffer(pixels, np.uint8).reshape(shape, order="F" if fortran_order else "C")
