"""Moving averages against closed forms, independent oracles and each other."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bncourse import averages
from bncourse.nn import BatchNorm, update_moving

momenta = st.floats(0.0, 1.0)
momenta_below_1 = st.floats(0.0, 0.9999)
numbers = st.floats(-1e6, 1e6)
series = hnp.arrays(np.float64, st.integers(1, 40), elements=numbers)


def exact_average(values, momentum, start):
    """One update after the other in exact rational arithmetic."""
    m, average = Fraction(momentum), Fraction(start)
    for value in values:
        average = m * average + (1 - m) * Fraction(float(value))
    return float(average)


class TestUpdate:
    def test_momentum_is_the_share_of_the_old_value(self):
        assert averages.update(10.0, 20.0, 0.75) == 12.5

    def test_it_agrees_with_the_update_of_the_layers(self):
        rng = np.random.default_rng(0)
        old, new = rng.normal(size=(2, 5))
        np.testing.assert_array_equal(averages.update(old, new, 0.9), update_moving(old, new, 0.9))

    @given(old=numbers, new=numbers, momentum=momenta)
    def test_the_result_lies_between_old_and_new(self, old, new, momentum):
        slack = 1e-9 * max(1.0, abs(old), abs(new))
        assert min(old, new) - slack <= averages.update(old, new, momentum) <= max(old, new) + slack

    def test_the_ends_of_the_range(self):
        assert averages.update(3.0, 7.0, 1) == 3.0
        assert averages.update(3.0, 7.0, 0) == 7.0

    def test_it_calculates_in_float64_whatever_comes_in(self):
        assert averages.update(np.float16(1), np.int8(2), 0.5).dtype == np.float64

    def test_arguments_stay_as_they_were(self):
        old, new = np.array([1.0, 2.0]), np.array([3.0, 4.0])
        averages.update(old, new, 0.5)
        assert old.tolist() == [1.0, 2.0]
        assert new.tolist() == [3.0, 4.0]

    @pytest.mark.parametrize("momentum", [-0.1, 1.1, math.nan, math.inf])
    def test_a_momentum_outside_0_to_1_is_refused(self, momentum):
        with pytest.raises(ValueError, match=r"momentum = .*expected a number in \[0, 1\]"):
            averages.update(0.0, 1.0, momentum)

    def test_shapes_that_do_not_fit_are_refused(self):
        with pytest.raises(ValueError, match=r"new has shape \(3,\); expected one that fits \(2,\), that of old"):
            averages.update(np.zeros(2), np.zeros(3), 0.5)

    @pytest.mark.parametrize(("old", "new", "name"), [("a", 1.0, "old"), (1.0, 1j, "new"), (True, 1.0, "old")])
    def test_what_is_no_real_number_is_refused(self, old, new, name):
        with pytest.raises(TypeError, match=f"{name} has dtype .*expected real numbers"):
            averages.update(old, new, 0.5)


class TestRun:
    @given(values=series, momentum=momenta, start=numbers)
    def test_the_last_average_is_that_of_exact_arithmetic(self, values, momentum, start):
        largest = max(1.0, abs(start), np.abs(values).max())
        assert averages.run(values, momentum, start)[-1] == pytest.approx(
            exact_average(values, momentum, start), abs=1e-13 * largest * len(values)
        )

    def test_every_average_is_one_update_after_the_one_before(self):
        values = np.random.default_rng(1).normal(size=(6, 2, 3))
        averaged = averages.run(values, 0.9, 1.0)
        before = np.concatenate([np.ones((1, 2, 3)), averaged[:-1]])
        np.testing.assert_allclose(averaged, averages.update(before, values, 0.9), rtol=1e-15)

    def test_constant_values_give_the_geometric_series(self):
        # a_t = c + m^t (a_0 - c)
        steps = np.arange(1, 201)
        np.testing.assert_allclose(averages.run(np.full(200, 5.0), 0.97, 1.0), 5 - 4 * 0.97**steps, rtol=1e-12)

    def test_start_may_have_the_shape_of_a_value(self):
        assert averages.run([[1.0, 2.0]], 0.5, [3.0, 6.0]).tolist() == [[2.0, 4.0]]

    def test_values_and_start_stay_as_they_were(self):
        values, start = np.array([1.0, 2.0]), np.array(4.0)
        averages.run(values, 0.5, start)
        assert values.tolist() == [1.0, 2.0]
        assert start == 4.0

    @pytest.mark.parametrize("values", [[], 3.0, np.empty((0, 2))])
    def test_no_values_are_refused(self, values):
        with pytest.raises(ValueError, match=r"values has shape .*at least one step"):
            averages.run(values, 0.5)

    def test_a_start_of_another_shape_is_refused(self):
        with pytest.raises(ValueError, match=r"start has shape \(3,\); expected a number or shape \(2,\)"):
            averages.run(np.zeros((4, 2)), 0.5, np.zeros(3))

    def test_a_start_may_not_widen_the_values(self):
        with pytest.raises(ValueError, match=r"start has shape \(3,\); expected a number or shape \(\)"):
            averages.run(np.zeros(4), 0.5, np.zeros(3))

    def test_a_momentum_outside_0_to_1_is_refused(self):
        with pytest.raises(ValueError, match=r"momentum = 1.5; expected a number in \[0, 1\]"):
            averages.run([1.0], 1.5)

    def test_what_is_no_real_number_is_refused(self):
        with pytest.raises(TypeError, match=r"values has dtype .*expected real numbers"):
            averages.run(["a"], 0.5)
        with pytest.raises(TypeError, match=r"start has dtype .*expected real numbers"):
            averages.run([1.0], 0.5, "a")


class TestWeights:
    def test_the_newest_value_stands_last_and_weighs_most(self):
        assert averages.weights(0.5, 3).tolist() == [0.125, 0.25, 0.5]

    @given(values=series, momentum=momenta, start=numbers)
    def test_start_and_values_with_their_weights_give_the_average(self, values, momentum, start):
        steps = len(values)
        weighted = averages.start_share(momentum, steps) * start + averages.weights(momentum, steps) @ values
        largest = max(1.0, abs(start), np.abs(values).max())
        assert averages.run(values, momentum, start)[-1] == pytest.approx(weighted, abs=1e-13 * largest * steps)

    @given(momentum=momenta, steps=st.integers(1, 500))
    def test_they_add_up_to_1_with_the_share_of_the_start(self, momentum, steps):
        total = averages.weights(momentum, steps).sum() + averages.start_share(momentum, steps)
        assert total == pytest.approx(1.0, abs=1e-12)

    def test_momentum_0_keeps_the_last_value_alone(self):
        assert averages.weights(0, 3).tolist() == [0.0, 0.0, 1.0]

    @pytest.mark.parametrize("steps", [0, -1])
    def test_less_than_one_step_is_refused(self, steps):
        with pytest.raises(ValueError, match=f"steps = {steps}; expected an integer >= 1"):
            averages.weights(0.5, steps)

    def test_a_fraction_of_a_step_is_refused(self):
        with pytest.raises(TypeError, match=r"steps = 1.5; expected an integer"):
            averages.weights(0.5, 1.5)

    def test_a_momentum_outside_0_to_1_is_refused(self):
        with pytest.raises(ValueError, match=r"momentum = -1; expected a number in \[0, 1\]"):
            averages.weights(-1, 3)


class TestStartShare:
    def test_99_percent_a_hundred_times(self):
        # (1 - 1/100)^100 is close to 1/e: ln = -1.00503...
        assert averages.start_share(0.99, 100) == pytest.approx(math.exp(100 * math.log1p(-0.01)), rel=1e-13)

    def test_before_the_first_step_all_is_start(self):
        assert averages.start_share(0.5, 0) == 1.0
        assert averages.start_share(0.0, 0) == 1.0

    @given(momentum=momenta, steps=st.integers(0, 200))
    def test_it_is_what_a_start_of_1_becomes_when_zeros_arrive(self, momentum, steps):
        zeros = averages.run(np.zeros(steps + 1), momentum, 1.0)
        assert averages.start_share(momentum, steps + 1) == pytest.approx(zeros[-1], rel=1e-10, abs=1e-300)

    @pytest.mark.parametrize("steps", [2.0, True, "2"])
    def test_what_is_no_integer_is_refused(self, steps):
        with pytest.raises(TypeError, match=r"steps = .*expected an integer"):
            averages.start_share(0.5, steps)

    def test_a_negative_number_of_steps_is_refused(self):
        with pytest.raises(ValueError, match="steps = -1; expected an integer >= 0"):
            averages.start_share(0.5, -1)

    def test_a_momentum_outside_0_to_1_is_refused(self):
        with pytest.raises(ValueError, match=r"momentum = 2; expected a number in \[0, 1\]"):
            averages.start_share(2, 1)


class TestStepsUntil:
    @given(share=st.floats(1e-300, 1.0), momentum=momenta_below_1)
    def test_it_is_the_first_step_at_which_the_share_is_reached(self, share, momentum):
        steps = averages.steps_until(share, momentum)
        assert averages.start_share(momentum, steps) <= share
        assert steps == 0 or averages.start_share(momentum, steps - 1) > share

    @given(momentum=st.floats(0.01, 0.9999), steps=st.integers(1, 60))
    def test_a_share_that_a_whole_number_of_steps_hits_exactly(self, momentum, steps):
        # The quotient of two rounded logarithms lands on either side of `steps` here.
        assert averages.steps_until(averages.start_share(momentum, steps), momentum) == steps

    @pytest.mark.parametrize(
        ("share", "momentum", "steps"), [(1.0, 0.99, 0), (0.5, 0.5, 1), (0.01, 0.0, 1), (0.25, 0.5, 2), (0.24, 0.5, 3)]
    )
    def test_small_cases_by_hand(self, share, momentum, steps):
        assert averages.steps_until(share, momentum) == steps

    def test_a_momentum_next_to_1_ends(self):
        assert averages.steps_until(0.5, 1 - 1e-12) == pytest.approx(math.log(2) * 1e12, rel=1e-3)

    @pytest.mark.parametrize("share", [0.0, -0.5, 1.1, math.nan])
    def test_a_share_outside_0_to_1_is_refused(self, share):
        with pytest.raises(ValueError, match=r"share = .*expected a number in \(0, 1\]: a moving average never quite"):
            averages.steps_until(share, 0.9)

    def test_momentum_1_is_refused(self):
        with pytest.raises(ValueError, match=r"momentum = 1.0; expected a number in \[0, 1\)"):
            averages.steps_until(0.5, 1.0)


class TestMomentumFor:
    @given(share=st.floats(1e-12, 1.0), steps=st.integers(1, 10_000))
    def test_it_leaves_the_share_after_the_steps(self, share, steps):
        assert averages.start_share(averages.momentum_for(share, steps), steps) == pytest.approx(share, rel=1e-11)

    @pytest.mark.parametrize(
        ("share", "steps", "momentum"), [(0.25, 2, 0.5), (0.0, 7, 0.0), (1.0, 7, 1.0), (0.3, 1, 0.3)]
    )
    def test_small_cases_by_hand(self, share, steps, momentum):
        assert averages.momentum_for(share, steps) == momentum

    @pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
    def test_a_share_outside_0_to_1_is_refused(self, share):
        with pytest.raises(ValueError, match=r"share = .*expected a number in \[0, 1\]"):
            averages.momentum_for(share, 10)

    def test_less_than_one_step_is_refused(self):
        with pytest.raises(ValueError, match="steps = 0; expected an integer >= 1"):
            averages.momentum_for(0.5, 0)

    def test_a_fraction_of_a_step_is_refused(self):
        with pytest.raises(TypeError, match=r"steps = 2.5; expected an integer"):
            averages.momentum_for(0.5, 2.5)


class TestBiasCorrected:
    @given(values=series, momentum=st.floats(0.0, 0.999), starts=st.tuples(numbers, numbers))
    def test_the_start_value_no_longer_matters(self, values, momentum, starts):
        steps = len(values)
        first, second = (
            averages.bias_corrected(averages.run(values, momentum, start)[-1], momentum, steps, start)
            for start in starts
        )
        assert first == pytest.approx(second, abs=1e-5)

    @given(values=series, momentum=st.floats(0.0, 0.999))
    def test_it_is_the_mean_with_the_weights_scaled_to_1(self, values, momentum):
        steps = len(values)
        expected = np.average(values, weights=averages.weights(momentum, steps))
        average = averages.run(values, momentum, 1.0)[-1]
        assert averages.bias_corrected(average, momentum, steps, 1.0) == pytest.approx(expected, abs=1e-5)

    def test_after_one_step_it_is_the_value(self):
        average = averages.run([0.25], 0.99, 1.0)[-1]
        assert averages.bias_corrected(average, 0.99, 1, 1.0) == pytest.approx(0.25, rel=1e-13)

    def test_start_0_is_the_default(self):
        assert averages.bias_corrected(0.5, 0.5, 1) == 1.0

    def test_it_takes_arrays(self):
        assert averages.bias_corrected([1.0, 2.0], 0.5, 1, [0.0, 1.0]).tolist() == [2.0, 3.0]

    def test_momentum_1_is_refused(self):
        with pytest.raises(ValueError, match=r"momentum = 1.0; expected a number in \[0, 1\)"):
            averages.bias_corrected(0.5, 1.0, 3)

    def test_less_than_one_step_is_refused(self):
        with pytest.raises(ValueError, match="steps = 0; expected an integer >= 1"):
            averages.bias_corrected(0.5, 0.9, 0)

    def test_a_fraction_of_a_step_is_refused(self):
        with pytest.raises(TypeError, match=r"steps = 1.5; expected an integer"):
            averages.bias_corrected(0.5, 0.9, 1.5)

    def test_shapes_that_do_not_fit_are_refused(self):
        with pytest.raises(ValueError, match=r"start has shape \(3,\); expected one that fits \(2,\), that of average"):
            averages.bias_corrected(np.zeros(2), 0.9, 1, np.zeros(3))

    @pytest.mark.parametrize(("average", "start", "name"), [("a", 0.0, "average"), (1.0, "a", "start")])
    def test_what_is_no_real_number_is_refused(self, average, start, name):
        with pytest.raises(TypeError, match=f"{name} has dtype .*expected real numbers"):
            averages.bias_corrected(average, 0.9, 1, start)


class TestCumulative:
    @given(values=hnp.arrays(np.float64, st.tuples(st.integers(1, 20), st.integers(1, 3)), elements=numbers))
    def test_it_is_the_mean_of_all_values_so_far(self, values):
        expected = [values[: step + 1].mean(axis=0) for step in range(len(values))]
        np.testing.assert_allclose(averages.cumulative(values), expected, atol=1e-8)

    def test_it_is_a_moving_average_whose_momentum_grows(self):
        values = np.random.default_rng(2).normal(size=30)
        average = 123.0
        for step, (value, expected) in enumerate(zip(values, averages.cumulative(values), strict=True)):
            average = averages.update(average, value, step / (step + 1))
            assert average == pytest.approx(expected, abs=1e-14)

    def test_it_is_what_the_layer_does_without_a_momentum(self):
        batches = np.random.default_rng(3).normal(size=(12, 8, 4))
        layer = BatchNorm(momentum=None)
        for batch in batches:
            layer(batch, training=True)
        np.testing.assert_allclose(layer.moving_mean, averages.cumulative(batches.mean(axis=1))[-1], atol=1e-14)

    def test_no_values_are_refused(self):
        with pytest.raises(ValueError, match=r"values has shape \(0,\); expected \(steps, ...\)"):
            averages.cumulative([])

    def test_what_is_no_real_number_is_refused(self):
        with pytest.raises(TypeError, match=r"values has dtype .*expected real numbers"):
            averages.cumulative([1j])


class TestEffectiveWindow:
    @pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99])
    def test_it_is_the_reciprocal_of_the_sum_of_the_squared_weights(self, momentum):
        squares = np.square(averages.weights(momentum, 5_000)).sum()
        assert averages.effective_window(momentum) == pytest.approx(1 / squares, rel=1e-10)

    def test_momentum_1_is_refused(self):
        with pytest.raises(ValueError, match=r"momentum = 1.0; expected a number in \[0, 1\)"):
            averages.effective_window(1.0)
