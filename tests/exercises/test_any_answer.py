"""Whatever an answer returns or raises, a check returns a result, and names no mistake that is not there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bncourse.exercises import check_backward, check_forward, check_inference, check_layer, check_moving_averages

CHECKS = [check_forward, check_backward, check_inference, check_moving_averages]
ODD = st.one_of(
    st.none(),
    st.text(max_size=3),
    st.floats(),
    st.integers(),
    st.lists(st.floats(), max_size=3),
    st.tuples(st.floats(), st.text(max_size=2)),
    arrays.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.complex128, np.bool_]), arrays.array_shapes(min_dims=0)
    ),
    st.dictionaries(st.text(max_size=1), st.floats(), max_size=2),
)


@settings(max_examples=25)
@given(ODD)
def test_an_odd_answer_is_reported(value):
    for check in CHECKS:
        result = check(lambda *_: value)
        assert not result.passed
        assert result.mistakes == ()
        assert result.symptoms


@settings(max_examples=25)
@given(ODD)
def test_an_odd_layer_is_reported(value):
    result = check_layer(lambda *_, **__: value)
    assert not result.passed
    assert result.mistakes == ()


@pytest.mark.parametrize(
    "error", [ValueError("shape"), ZeroDivisionError(), RecursionError(), MemoryError("none left")]
)
def test_an_error_is_reported(error):
    def answer(*arguments):
        raise error

    for check in CHECKS:
        result = check(answer)
        assert (result.passed, result.mistakes, result.symptoms) == (False, (), ("exception",))
        assert type(error).__name__ in repr(result)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 2.0))
def test_noise_is_no_known_mistake(seed, size):
    def answer(x, gamma, beta, epsilon):
        noise = np.random.default_rng(seed).normal(size=x.shape)
        return gamma * (x - x.mean(0)) / np.sqrt(x.var(0) + epsilon) + beta + size * noise

    result = check_forward(answer)
    assert (result.passed, result.mistakes, result.symptoms) == (False, (), ("numbers",))
