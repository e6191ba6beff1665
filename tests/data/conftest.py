"""Small files in Keras's layouts, and a machine without network, without Keras's cache and without BNCOURSE_DATA."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bncourse.data import keras_files

FASHION_NAMES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Keras's data folder of a machine that knows nothing else; it does not exist yet."""
    home = tmp_path / "keras-home"
    monkeypatch.setenv("KERAS_HOME", str(home))
    for variable in ("HOME", "USERPROFILE"):  # so that no fault in the code can write into the tester's own cache
        monkeypatch.setenv(variable, str(tmp_path / "home-of-nobody"))
    monkeypatch.delenv("BNCOURSE_DATA", raising=False)
    return home / "datasets"


@pytest.fixture(autouse=True)
def _no_network(request, monkeypatch):
    if request.node.get_closest_marker("mnist"):
        return

    def refuse(*_: object) -> None:
        raise AssertionError("a test tried to download")

    request.getfixturevalue("cache")
    monkeypatch.setattr(keras_files, "_fetch", refuse)


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """Twelve training and four test images, as Keras's files hold them."""
    rng = np.random.default_rng(7)
    return {
        "x_train": rng.integers(0, 256, (12, 28, 28), np.uint8),
        "y_train": np.array([5, 0, 4, 1, 9, 2, 1, 3, 1, 4, 3, 5], np.uint8),
        "x_test": rng.integers(0, 256, (4, 28, 28), np.uint8),
        "y_test": np.array([7, 2, 1, 0], np.uint8),
    }


@pytest.fixture
def write_mnist(arrays) -> Callable[..., Path]:
    """Write mnist.npz into a folder; arrays may be replaced by name, None leaves one out."""

    def write(folder: Path, **changes: Any) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "mnist.npz"
        np.savez_compressed(file, **{k: v for k, v in {**arrays, **changes}.items() if v is not None})
        return file

    return write


def idx_bytes(array: np.ndarray) -> bytes:
    """Return an array of bytes in the IDX format."""
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def as_idx() -> Callable[[np.ndarray], bytes]:
    return idx_bytes


@pytest.fixture
def fashion_files(arrays) -> dict[str, bytes]:
    """The four files of Fashion-MNIST, small."""
    order = ("x_train", "y_train", "x_test", "y_test")
    return {
        name: gzip.compress(idx_bytes(arrays[key]), mtime=0) for name, key in zip(FASHION_NAMES, order, strict=True)
    }


@pytest.fixture
def write_fashion(fashion_files) -> Callable[..., Path]:
    """Write the four files below a folder, or only the named ones."""

    def write(folder: Path, names: tuple[str, ...] = FASHION_NAMES) -> Path:
        home = folder / "fashion-mnist"
        home.mkdir(parents=True, exist_ok=True)
        for name in names:
            (home / name).write_bytes(fashion_files[name])
        return home

    return write
