"""Batches cover every epoch, come again with the same seed, and refuse impossible arguments at the call."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncourse.data import Split, batches


def numbered(n: int) -> Split:
    """A split whose labels are 0 to n - 1 and whose pixels are label / n."""
    labels = np.arange(n, dtype=np.int64)
    images = np.broadcast_to((labels / n).astype(np.float32)[:, None, None, None], (n, 28, 28, 1))
    return Split(images, labels)


def drawn(n: int = 10, size: int = 3, **options) -> list[list[int]]:
    options.setdefault("seed", 0)
    return [labels.tolist() for _, labels in batches(numbered(n), size, **options)]


@given(n=st.integers(1, 20), size=st.integers(1, 20), seed=st.integers(0, 2**40), epochs=st.integers(1, 3))
def test_each_epoch_has_every_image_once(n, size, seed, epochs):
    size = min(size, n)
    got = drawn(n, size, seed=seed, epochs=epochs, drop_last=False)
    flat = np.concatenate(got).reshape(epochs, n)
    np.testing.assert_array_equal(np.sort(flat, axis=1), np.tile(np.arange(n), (epochs, 1)))


@given(n=st.integers(1, 20), size=st.integers(1, 20))
def test_drop_last_leaves_only_full_batches(n, size):
    size = min(size, n)
    assert [len(b) for b in drawn(n, size, epochs=2)] == [size] * (n // size * 2)


def test_last_batch_may_be_short():
    assert [len(b) for b in drawn(10, 4, epochs=1, drop_last=False)] == [4, 4, 2]


def test_a_batch_as_large_as_the_split():
    assert sorted(drawn(10, 10, epochs=1)[0]) == list(range(10))


def test_images_belong_to_their_labels():
    for images, labels in batches(numbered(10), 3, seed=1, epochs=1):
        np.testing.assert_array_equal(images[:, 0, 0, 0], (labels / 10).astype(np.float32))
        assert images.shape == (3, 28, 28, 1)


def test_dtypes():
    images, labels = next(batches(numbered(10), 3, seed=1))
    assert (images.dtype, labels.dtype) == (np.float32, np.int64)


def test_the_same_seed_gives_the_same_batches():
    assert drawn(seed=5, epochs=3) == drawn(seed=5, epochs=3)


def test_another_seed_gives_other_batches():
    assert drawn(seed=5, epochs=1) != drawn(seed=6, epochs=1)


def test_every_epoch_is_shuffled_anew():
    first, second = drawn(100, 100, epochs=2)
    assert first != second
    assert first != list(range(100))


def test_order_is_that_of_numpys_generator():
    rng = np.random.default_rng(3)
    assert drawn(10, 10, seed=3, epochs=2) == [rng.permutation(10).tolist(), rng.permutation(10).tolist()]


def test_number_of_epochs_does_not_change_a_batch():
    endless = batches(numbered(10), 3, seed=5)
    assert [labels.tolist() for _, labels in itertools.islice(endless, 9)] == drawn(seed=5, epochs=3)


def test_other_iterators_and_the_global_state_do_not_change_a_batch():
    expected = drawn(seed=5, epochs=2)
    np.random.seed(1)  # noqa: NPY002  (the global state is the point)
    split = numbered(10)
    one, other = batches(split, 3, seed=5, epochs=2), batches(split, 3, seed=9)
    got = []
    for _, labels in one:
        got.append(labels.tolist())
        np.random.rand(3)  # noqa: NPY002
        next(other)
    assert got == expected


def test_endless_by_default():
    assert len(list(itertools.islice(batches(numbered(2), 2, seed=0), 50))) == 50


def test_batches_may_be_changed_without_changing_the_split():
    split = numbered(4)
    images, labels = next(batches(split, 4, seed=0))
    images[:] = 0.25
    labels[:] = 0
    np.testing.assert_array_equal(split.labels, np.arange(4))
    assert split.images[3, 0, 0, 0] == 0.75


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"size": 0}, ValueError, "size must be at least 1, got 0"),
        ({"size": 11}, ValueError, "size must be at most 10, the number of images in the split, got 11"),
        ({"size": 11, "drop_last": False}, ValueError, "size must be at most 10"),
        ({"size": 2.0}, TypeError, r"size must be a whole number, got 2\.0"),
        ({"size": True}, TypeError, "size must be a whole number, got True"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"seed": None}, TypeError, "seed must be a whole number, got None"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
        ({"epochs": 1.5}, TypeError, r"epochs must be a whole number, got 1\.5"),
        ({"split": np.zeros(3)}, TypeError, r"split must be a bncourse\.data\.Split, got ndarray"),
    ],
)
def test_impossible_arguments_fail_at_the_call(arguments, error, message):
    arguments = {"split": numbered(10), "size": 3, "seed": 0, **arguments}
    with pytest.raises(error, match=message):
        batches(**arguments)


def test_numpy_integers_are_whole_numbers():
    assert len(next(batches(numbered(10), np.int64(3), seed=np.uint8(1)))[1]) == 3
