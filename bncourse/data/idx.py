"""Strict reader of gzipped IDX files, the format in which MNIST was published and Fashion-MNIST still is.

An IDX file starts with four bytes, ``00 00 08 d`` (08: unsigned bytes; d: number of dimensions), then has d sizes as
big-endian 32-bit numbers, then the data in C order and nothing else.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from bncourse.data.keras_layout import ByteArray, check_shape, damaged


def read_idx(file: Path, *, images: bool) -> ByteArray:
    """Read images of shape (n, 28, 28), or labels of shape (n,), from a gzipped IDX file.

    No more is unpacked than the header allows, and the header allows no more than
    `bncourse.data.keras_layout.MAX_IMAGES`: a small file that unpacks to a huge one costs no memory.

    Raises
    ------
    DataError
        If the file cannot be read, is truncated, goes on after its data, or has another magic number or shape.
    """
    try:
        with gzip.open(file, "rb") as stream:
            shape = _read_header(file, stream, dimensions=3 if images else 1)
            check_shape(file, "it", shape, images=images)
            # One byte more than there should be: it shows trailing bytes, and reaching the end checks gzip's CRC.
            data = stream.read(math.prod(shape) + 1)
    except (EOFError, zlib.error, OSError) as error:
        raise damaged(file, f"it cannot be unpacked ({error})", "a whole gzipped IDX file") from error
    if len(data) != math.prod(shape):
        found = f"only {len(data)} bytes" if len(data) < math.prod(shape) else "more bytes than that"
        raise damaged(file, f"{found} after the header", f"{math.prod(shape)} for shape {shape}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _read_header(file: Path, stream: gzip.GzipFile, *, dimensions: int) -> tuple[int, ...]:
    length = 4 + 4 * dimensions
    header = stream.read(length)
    magic = bytes((0, 0, 8, dimensions))
    if header[:4] != magic:
        raise damaged(file, f"it starts with {header[:4].hex(' ') or 'nothing'}", f"{magic.hex(' ')} (IDX)")
    if len(header) != length:
        raise damaged(file, f"its header has {len(header)} bytes", f"{length}")
    return struct.unpack(f">{dimensions}I", header[4:])
