"""Labels as rows with a single one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncourse.data import one_hot


def test_one_hot():
    got = one_hot(np.array([2, 0]), 3)
    np.testing.assert_array_equal(got, [[0, 0, 1], [1, 0, 0]])
    assert got.dtype == np.float32


@given(st.lists(st.integers(0, 9), max_size=20))
def test_argmax_undoes_one_hot(labels):
    rows = one_hot(np.array(labels, np.uint8), 10)
    assert rows.shape == (len(labels), 10)
    assert rows.sum() == len(labels)
    np.testing.assert_array_equal(rows.argmax(axis=1), labels)


@pytest.mark.parametrize(
    ("labels", "classes", "error", "message"),
    [
        ([0, 3], 3, ValueError, "labels hold 3; expected classes from 0 to 2"),
        ([0, -1], 3, ValueError, "labels hold -1; expected classes from 0 to 2"),
        ([[0]], 3, ValueError, r"labels have shape \(1, 1\); expected \(batch,\)"),
        ([0.0], 3, TypeError, "labels have dtype float64; expected integers"),
        ([True], 3, TypeError, "labels have dtype bool; expected integers"),
        ([0], 0, ValueError, "classes = 0; expected an integer >= 1"),
        ([0], "3", TypeError, "classes = .3.; expected an integer"),
    ],
)
def test_one_hot_refuses(labels, classes, error, message):
    with pytest.raises(error, match=message):
        one_hot(labels, classes)
