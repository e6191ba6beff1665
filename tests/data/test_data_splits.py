"""Split and Dataset refuse what they cannot hold, and cannot be changed afterwards."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bncourse.data import DataError, Dataset, Split


def make(n: int = 3, label: int = 1) -> Split:
    return Split(np.full((n, 28, 28, 1), 0.5, np.float32), np.full(n, label, np.int64))


def test_length_is_the_number_of_images():
    assert len(make(3)) == 3


def test_repr_is_short():
    assert repr(make(3)) == "Split(3 images)"


@pytest.mark.parametrize("field", ["images", "labels"])
def test_arrays_cannot_be_written(field):
    with pytest.raises(ValueError, match="read-only"):
        getattr(make(), field)[0] = 0


def test_callers_array_stays_writable():
    images = np.zeros((1, 28, 28, 1), np.float32)
    Split(images, np.zeros(1, np.int64))
    images[0] = 1.0


def test_fields_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().images = None


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 28, 28), np.float32), r"shape \(n, 28, 28, 1\), got \(2, 28, 28\)"),
        (np.zeros((2, 28, 27, 1), np.float32), r"got \(2, 28, 27, 1\)"),
        (np.zeros((0, 28, 28, 1), np.float32), r"got \(0, 28, 28, 1\)"),
        (np.array(0, np.float32), r"got \(\)"),
        (np.full((2, 28, 28, 1), 255, np.float32), r"lie in \[0, 1\], got values from 255.0 to 255.0"),
        (np.full((2, 28, 28, 1), -0.1, np.float32), r"lie in \[0, 1\]"),
        (np.full((2, 28, 28, 1), np.nan, np.float32), r"lie in \[0, 1\], got values from nan"),
    ],
)
def test_impossible_images(images, message):
    with pytest.raises(ValueError, match=message):
        Split(images, np.zeros(2, np.int64))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(3, np.int64), r"shape \(2,\), one label an image, got \(3,\)"),
        (np.zeros((2, 1), np.int64), r"got \(2, 1\)"),
        (np.array([0, -1]), "must not be negative, got -1"),
    ],
)
def test_impossible_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        Split(np.zeros((2, 28, 28, 1), np.float32), labels)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 28, 28, 1)), np.zeros(2, np.int64), "images must be .* float32, got float64"),
        (np.zeros((2, 28, 28, 1), np.float32), np.zeros(2, np.uint8), "labels must be .* int64, got uint8"),
        (np.zeros((2, 28, 28, 1), np.float32), [0, 1], "labels must be .* int64, got list"),
    ],
)
def test_wrong_dtypes(images, labels, message):
    with pytest.raises(TypeError, match=message):
        Split(images, labels)


def test_dataset_needs_a_name_for_every_label():
    with pytest.raises(ValueError, match="validation has the label 2, but classes names only 2"):
        Dataset("x", make(), make(label=2), make(), classes=("a", "b"), source="here")


def test_dataset_repr_leaves_the_source_out():
    data = Dataset("x", make(1), make(2), make(3), classes=("a", "b"), source="here")
    assert repr(data) == "Dataset('x': 1 train, 2 validation, 3 test images, 2 classes)"


def test_data_error_is_a_value_error():
    assert issubclass(DataError, ValueError)
