"""The interval of a mean over random starts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bncourse.intervals import t_interval


def test_against_scipy() -> None:
    values = [0.91, 0.95, 0.93, 0.99, 0.9]
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    interval = t_interval(values, level=0.9)
    assert np.allclose([interval.mean - interval.half, interval.mean + interval.half], [low, high])


def test_two_values_have_the_closed_form_of_the_cauchy_quantile() -> None:
    mean, half = t_interval([0.0, 2.0])
    assert mean == 1.0
    assert half == pytest.approx(np.tan(np.pi * 0.475))


def test_it_covers_the_true_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    intervals = [t_interval(row) for row in rng.normal(size=(2000, 5))]
    share = np.mean([abs(mean) <= half for mean, half in intervals])
    assert 0.935 < share < 0.965


def test_each_column_has_the_interval_it_would_have_alone() -> None:
    values = np.random.default_rng(0).normal(size=(5, 2, 3))
    together = t_interval(values)
    for place in np.ndindex(2, 3):
        alone = t_interval(values[:, *place])
        assert together.mean[place] == pytest.approx(alone.mean)
        assert together.low[place] == pytest.approx(alone.low)
        assert together.high[place] == pytest.approx(alone.high)


def test_it_prints_with_any_format() -> None:
    assert f"{t_interval([1.0, 1.0]):.1f}" == "1.0 ± 0.0"


@pytest.mark.parametrize(
    ("values", "level", "message"),
    [
        ([1.0], 0.95, r"values has shape \(1,\)"),
        (np.ones((1, 2)), 0.95, r"values has shape \(1, 2\)"),
        (3.0, 0.95, r"values has shape \(\)"),
        ([1.0, np.nan], 0.95, "values holds nan"),
        ([1.0, 2.0], 1.0, "level = 1.0"),
    ],
)
def test_bad_input_is_named(values: object, level: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        t_interval(values, level)
