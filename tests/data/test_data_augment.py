"""Shifts of training images."""

import numpy as np
import pytest

from bncourse.data import load_digits
from bncourse.data.augment import shifted

IMAGES = load_digits().train.images[:50]


def test_every_image_is_moved_as_a_whole():
    moved = shifted(IMAGES, 2, np.random.default_rng(0))
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)))
    for image, result in zip(padded, moved, strict=True):
        places = [(down, across) for down in range(5) for across in range(5)]
        assert any(np.array_equal(result, image[down : down + 28, across : across + 28]) for down, across in places)


def test_all_moves_are_equally_likely():
    point = np.zeros((9_000, 28, 28, 1), np.float32)
    point[:, 14, 14] = 1
    moved = shifted(point, 1, np.random.default_rng(0))
    _, down, across, _ = np.nonzero(moved)
    counts = np.histogram2d(down, across, bins=[[13, 14, 15, 16]] * 2)[0]
    assert counts.sum() == 9_000
    assert counts == pytest.approx(1_000, abs=5 * np.sqrt(1_000))


def test_no_move_at_all():
    assert np.array_equal(shifted(IMAGES, 0, np.random.default_rng(0)), IMAGES)


def test_the_images_given_are_left_alone():
    before = IMAGES.copy()
    moved = shifted(IMAGES, 3, np.random.default_rng(0))
    assert np.array_equal(IMAGES, before)
    assert moved.dtype == np.float32
    assert moved.flags.c_contiguous
