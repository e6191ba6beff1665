"""The digits: the same pictures as scikit-learn's, larger, in file order; and what that order is good for."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits as load_originals

from bncourse.data import load_digits


@pytest.fixture(scope="module")
def everything() -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    splits = (data.train, data.validation, data.test)
    return np.concatenate([s.images for s in splits]), np.concatenate([s.labels for s in splits])


def test_sizes():
    data = load_digits()
    assert [len(s) for s in (data.train, data.validation, data.test)] == [1197, 300, 300]


def test_shape_and_dtypes(everything):
    images, labels = everything
    assert images.shape == (1797, 28, 28, 1)
    assert (images.dtype, labels.dtype) == (np.float32, np.int64)


def test_split_is_in_file_order(everything):
    np.testing.assert_array_equal(everything[1], load_originals().target)


def test_pixels_span_zero_to_one(everything):
    assert (everything[0].min(), everything[0].max()) == (0.0, 1.0)


def test_enlargement_is_bilinear_about_the_centre(everything):
    # Oracle: two passes of one-dimensional interpolation between pixel centres, by another function.
    original = load_originals().images / 16
    centres = (np.arange(24) + 0.5) / 3 - 0.5
    for index in (0, 1, 700, 1796):
        rows = np.array([np.interp(centres, np.arange(8), row) for row in original[index]])
        expected = np.array([np.interp(centres, np.arange(8), column) for column in rows.T]).T
        np.testing.assert_allclose(everything[0][index, 2:26, 2:26, 0], expected, atol=1e-7)


def test_every_third_pixel_is_an_original_pixel(everything):
    # The middle pixel of every 3x3 block lies on the centre of an original pixel.
    np.testing.assert_array_equal(
        everything[0][:, 3:26:3, 3:26:3, 0], (load_originals().images / 16).astype(np.float32)
    )


def test_margin_is_empty(everything):
    framed = everything[0].copy()
    framed[:, 2:26, 2:26] = 0
    assert not framed.any()


def test_every_class_in_every_split():
    data = load_digits()
    for split in (data.train, data.validation, data.test):
        assert np.bincount(split.labels, minlength=10).min() >= 27


def test_classes_and_source_without_path():
    data = load_digits()
    assert data.classes == tuple("0123456789")
    assert "scikit-learn" in data.source
    assert "/" not in data.source


def test_is_computed_once():
    assert load_digits() is load_digits()


def test_cannot_be_changed_by_one_of_its_users():
    with pytest.raises(ValueError, match="WRITEABLE"):
        load_digits().train.images.setflags(write=True)


@pytest.fixture(scope="module")
def distances(everything) -> np.ndarray:
    """Squared distances between all images; none to itself."""
    flat = everything[0].reshape(1797, -1).astype(np.float64)
    squares = (flat**2).sum(axis=1)
    table = squares[:, None] + squares - 2 * flat @ flat.T
    np.fill_diagonal(table, np.inf)
    return table


def test_documented_share_of_most_similar_images_close_by(distances):
    places = np.arange(1797)
    close = np.abs(distances.argmin(axis=1) - places) < 130
    by_chance = np.abs(places[:, None] - places)[~np.eye(1797, dtype=bool)] < 130
    assert close.mean() == pytest.approx(0.58, abs=0.01)
    assert by_chance.mean() == pytest.approx(0.14, abs=0.005)


def test_neighbours_in_the_training_set_flatter_a_classifier(everything, distances):
    """The same test images, equally many training images: with neighbours from the file, and without."""
    labels = everything[1]

    def score(train: np.ndarray, test: np.ndarray) -> float:
        nearest = train[distances[np.ix_(test, train)].argmin(axis=1)]
        return float((labels[nearest] == labels[test]).mean())

    gains = []
    for start in (0, 300, 600, 900, 1497):
        block = np.arange(start, start + 300)
        others = np.setdiff1d(np.arange(1797), block)
        for seed in range(10):
            rng = np.random.default_rng(seed)
            test = rng.permutation(block)[:150]
            anyone = np.setdiff1d(np.arange(1797), test)
            gains.append(score(rng.permutation(anyone)[:1197], test) - score(rng.permutation(others)[:1197], test))
    assert np.mean(gains) > 0.01
    assert np.mean(np.array(gains) >= 0) > 0.9
