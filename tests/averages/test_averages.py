"""Moving averages against closed forms, independent oracles and each other."""

import math
from fractions import Fraction
from typing import ClassVar

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


class TestMeanAge:
    @pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99])
    def test_it_is_the_centre_of_mass_of_the_weights(self, momentum):
        ages = np.arange(5_000)[::-1]
        assert averages.mean_age(momentum) == pytest.approx(ages @ averages.weights(momentum, 5_000), rel=1e-10)

    @given(momentum=momenta_below_1)
    def test_a_plain_mean_as_old_is_as_quiet(self, momentum):
        assert averages.mean_age(momentum) == pytest.approx((averages.effective_window(momentum) - 1) / 2, abs=1e-9)

    def test_it_is_the_lag_on_a_ramp(self):
        ramp = np.arange(2_000.0)
        assert ramp[-1] - averages.run(ramp, 0.95)[-1] == pytest.approx(averages.mean_age(0.95))

    def test_momentum_1_is_refused(self):
        with pytest.raises(ValueError, match=r"momentum = 1; expected a number in \[0, 1\)"):
            averages.mean_age(1)


class TestNoiseGain:
    @given(momentum=st.floats(0.0, 0.9999), steps=st.integers(1, 300))
    def test_it_is_the_sum_of_the_squared_weights(self, momentum, steps):
        squares = np.square(averages.weights(momentum, steps)).sum()
        assert averages.noise_gain(momentum, steps) == pytest.approx(squares, rel=1e-8)

    @given(momentum=st.floats(0.0, 0.999), steps=st.integers(1, 300))
    def test_corrected_it_is_the_sum_of_the_squares_of_the_scaled_weights(self, momentum, steps):
        scaled = averages.weights(momentum, steps) / averages.weights(momentum, steps).sum()
        gain = averages.noise_gain(momentum, steps, bias_corrected=True)
        assert gain == pytest.approx(np.square(scaled).sum(), rel=1e-8)

    def test_next_to_momentum_1_the_corrected_average_is_a_plain_mean(self):
        assert averages.noise_gain(1 - 1e-13, 7, bias_corrected=True) == pytest.approx(1 / 7, rel=1e-6)

    def test_the_limit_is_the_window(self):
        assert averages.noise_gain(0.9) == 1 / averages.effective_window(0.9)
        assert averages.noise_gain(0.9, 1_000, bias_corrected=True) == pytest.approx(averages.noise_gain(0.9))

    def test_it_is_the_variance_of_simulated_averages(self):
        values = np.random.default_rng(4).normal(size=(30, 20_000))
        assert averages.run(values, 0.9)[-1].var() == pytest.approx(averages.noise_gain(0.9, 30), rel=0.05)

    def test_impossible_arguments_are_refused(self):
        with pytest.raises(ValueError, match=r"momentum = 1.0; expected a number in \[0, 1\)"):
            averages.noise_gain(1.0, 3)
        with pytest.raises(ValueError, match="steps = 0; expected an integer >= 1"):
            averages.noise_gain(0.5, 0)
        with pytest.raises(TypeError, match=r"steps = 1.5; expected an integer"):
            averages.noise_gain(0.5, 1.5)


class TestNoiseGainInEpochs:
    sizes: ClassVar = {"batch_size": 2, "samples": 7, "per_epoch": 3}  # one sample is left out

    @pytest.mark.parametrize("steps", [1, 3, 4, 5])
    def test_it_is_the_average_over_all_orders(self, steps):
        # By hand: every batch of an epoch has variance 1/2 (N - n)/(N - 1) sigma^2, every pair covariance -1/(N - 1).
        epoch = np.arange(steps) // 3
        covariance = np.where(epoch[:, None] == epoch, -1 / 6, 0.0)
        np.fill_diagonal(covariance, 1 / 2 * 5 / 6)
        w = averages.weights(0.7, steps)
        assert averages.noise_gain_in_epochs(0.7, steps, **self.sizes) == pytest.approx(2 * w @ covariance @ w)

    def test_it_is_the_variance_over_simulated_epochs(self):
        rng, samples = np.random.default_rng(5), np.array([0.0, 1.0, 1.0, 4.0, 9.0, 2.0, 3.0])
        orders = rng.permuted(np.tile(np.arange(7), (20_000 * 2, 1)), axis=1)[:, :6].reshape(20_000, 6, 2)
        means = samples[orders].mean(axis=2).T
        gain = averages.noise_gain_in_epochs(0.7, 5, **self.sizes)
        assert averages.run(means, 0.7)[4].var() / (samples.var() / 2) == pytest.approx(gain, rel=0.05)

    def test_batches_of_everything_have_no_noise(self):
        assert averages.noise_gain_in_epochs(0.9, 50, batch_size=6, samples=6, per_epoch=1) == pytest.approx(0)

    def test_in_a_large_set_batches_are_independent(self):
        gain = averages.noise_gain_in_epochs(0.9, 50, batch_size=1, samples=10**9, per_epoch=50)
        assert gain == pytest.approx(averages.noise_gain(0.9, 50), rel=1e-6)

    @pytest.mark.parametrize("sizes", [(4, 7, 2), (1, 1, 1)])
    def test_an_epoch_of_more_samples_than_there_are_is_refused(self, sizes):
        given = dict(zip(("batch_size", "samples", "per_epoch"), sizes, strict=True))
        with pytest.raises(ValueError, match=r"samples = .*expected at least 2, and at least batch_size \* per_epoch"):
            averages.noise_gain_in_epochs(0.5, 3, **given)

    @pytest.mark.parametrize("name", ["batch_size", "samples", "per_epoch"])
    def test_counts_are_whole_numbers(self, name):
        with pytest.raises(TypeError, match=f"{name} = 1.5; expected an integer"):
            averages.noise_gain_in_epochs(0.5, 3, **{**self.sizes, name: 1.5})
        with pytest.raises(ValueError, match=f"{name} = 0; expected an integer >= 1"):
            averages.noise_gain_in_epochs(0.5, 3, **{**self.sizes, name: 0})

    def test_momentum_1_is_refused(self):
        with pytest.raises(ValueError, match=r"momentum = 1; expected a number in \[0, 1\)"):
            averages.noise_gain_in_epochs(1, 3, **self.sizes)


class TestFrequencyResponse:
    @pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
    def test_an_oscillation_comes_out_multiplied_by_it(self, momentum):
        frequency, t = 2 * np.pi / 7, np.arange(700)
        factor = averages.frequency_response(momentum, frequency)
        out = averages.run(np.cos(frequency * t), momentum)[-1]
        assert out == pytest.approx((factor * np.exp(1j * frequency * t[-1])).real, abs=1e-12)

    def test_it_is_the_fourier_transform_of_the_weights(self):
        w = averages.weights(0.8, 400)[::-1]  # by age
        for frequency in (0.0, 0.3, np.pi):
            expected = w @ np.exp(-1j * frequency * np.arange(400))
            assert averages.frequency_response(0.8, frequency) == pytest.approx(expected, abs=1e-12)

    def test_the_power_that_passes_is_the_noise_gain(self):
        frequency = 2 * np.pi * np.arange(4_096) / 4_096
        power = np.square(np.abs(averages.frequency_response(0.9, frequency))).mean()
        assert power == pytest.approx(averages.noise_gain(0.9), rel=1e-12)

    def test_what_stands_still_passes_and_what_alternates_is_damped_most(self):
        assert averages.frequency_response(0.9, [0.0, np.pi]) == pytest.approx([1.0, 0.1 / 1.9])

    def test_impossible_arguments_are_refused(self):
        with pytest.raises(ValueError, match=r"momentum = 1.0; expected a number in \[0, 1\)"):
            averages.frequency_response(1.0, 0.1)
        with pytest.raises(TypeError, match=r"frequency has dtype .*expected real numbers"):
            averages.frequency_response(0.5, 1j)


class TestWarmUpMomentum:
    def test_it_is_that_of_tensorflow(self):
        from bncourse.tf_layers import tf

        for seen in (0, 1, 7, 889, 890, 5_000):
            variable = tf.Variable(0.0, dtype=tf.float64)
            average = tf.train.ExponentialMovingAverage(0.99, num_updates=seen)
            average.apply([variable])
            variable.assign(1.0)
            average.apply([variable])
            kept = 1.0 - average.average(variable).numpy()
            assert averages.warm_up_momentum(0.99, seen) == pytest.approx(kept, abs=1e-7)  # its decay is a float32

    @pytest.mark.parametrize("steps", [1, 3, 40])
    def test_the_start_is_forgotten_as_a_binomial_coefficient_says(self, steps):
        share = math.prod(averages.warm_up_momentum(1.0, seen) for seen in range(steps))
        assert share == pytest.approx(1 / math.comb(steps + 9, 9), rel=1e-12)

    def test_it_never_exceeds_the_momentum(self):
        assert averages.warm_up_momentum(0.5, 8) == 0.5
        assert averages.warm_up_momentum(0.5, 7) == 8 / 17

    def test_impossible_arguments_are_refused(self):
        with pytest.raises(ValueError, match=r"momentum = 1.5; expected a number in \[0, 1\]"):
            averages.warm_up_momentum(1.5, 0)
        with pytest.raises(ValueError, match="seen = -1; expected an integer >= 0"):
            averages.warm_up_momentum(0.5, -1)
        for seen in (1.0, True):
            with pytest.raises(TypeError, match=f"seen = {seen}; expected an integer"):
                averages.warm_up_momentum(0.5, seen)


class TestBestMomentum:
    def test_the_error_is_that_of_simulated_averages(self):
        rng, truth = np.random.default_rng(6), 0.02 * np.arange(400)[:, None]
        found = averages.run(truth + rng.normal(size=(400, 20_000)), 0.9)[-1] - truth[-1]
        assert np.square(found).mean() == pytest.approx(averages.tracking_error(0.9, 0.02, 1.0), rel=0.03)

    @given(drift=st.floats(1e-5, 10.0), noise=st.floats(1e-3, 10.0))
    def test_no_other_momentum_errs_less(self, drift, noise):
        best = averages.best_momentum(drift, noise)
        least = averages.tracking_error(best, drift, noise)
        others = [1 - (1 - best) * factor for factor in (0.9, 0.99, 1.01, 1.1) if (1 - best) * factor <= 1]
        assert all(averages.tracking_error(other, drift, noise) >= least for other in others)

    @given(ratio=st.floats(1e-7, 1e-3))
    def test_for_a_slow_drift_the_power_of_two_thirds(self, ratio):
        assert 1 - averages.best_momentum(ratio, 1.0) == pytest.approx((2 * ratio) ** (2 / 3), rel=0.02)

    def test_without_noise_nothing_is_averaged(self):
        assert averages.best_momentum(0.1, 0.0) == 0.0

    @pytest.mark.parametrize("drift", [0.0, -1.0, math.nan, math.inf])
    def test_without_drift_there_is_none(self, drift):
        with pytest.raises(ValueError, match=r"drift = .*expected a finite number > 0: without drift, average everyth"):
            averages.best_momentum(drift, 1.0)

    def test_impossible_arguments_are_refused(self):
        with pytest.raises(ValueError, match="noise = -1; expected a finite number >= 0"):
            averages.best_momentum(1.0, -1)
        with pytest.raises(ValueError, match="drift = -1; expected a finite number >= 0"):
            averages.tracking_error(0.5, -1, 1.0)
        with pytest.raises(ValueError, match="noise = nan; expected a finite number >= 0"):
            averages.tracking_error(0.5, 1.0, math.nan)
        with pytest.raises(ValueError, match=r"momentum = 1.0; expected a number in \[0, 1\)"):
            averages.tracking_error(1.0, 1.0, 1.0)


class TestDeadZone:
    @pytest.mark.parametrize(("dtype", "bits"), [(np.float32, 24), (np.float16, 11)])
    @pytest.mark.parametrize("start", [0.0, 4.0])
    def test_the_average_stops_within_it_and_not_long_before(self, dtype, bits, start):
        average, value, share = dtype(start), dtype(1.3), dtype(1 - 0.99)
        while (moved := average - (average - value) * share) != average:
            average = moved
        distance = abs(float(average) - float(value))
        zone = float(averages.dead_zone(float(average), 0.99, bits))
        assert 0.9 * zone < distance < 1.02 * zone  # the share is rounded, too

    @given(average=st.floats(1e-30, 1e30))
    def test_the_gap_is_that_of_numpy(self, average):
        number = np.float32(average)
        assert averages.dead_zone(number, 0.5, 24) == float(np.spacing(number))

    def test_impossible_arguments_are_refused(self):
        with pytest.raises(ValueError, match=r"momentum = 1.0; expected a number in \[0, 1\)"):
            averages.dead_zone(1.0, 1.0, 24)
        with pytest.raises(ValueError, match="bits = 0; expected an integer >= 1"):
            averages.dead_zone(1.0, 0.5, 0)
        with pytest.raises(TypeError, match=r"bits = 8.0; expected an integer"):
            averages.dead_zone(1.0, 0.5, 8.0)
        with pytest.raises(ValueError, match="average holds 0; expected other numbers"):
            averages.dead_zone([1.0, 0.0], 0.5, 24)
        with pytest.raises(TypeError, match=r"average has dtype .*expected real numbers"):
            averages.dead_zone("a", 0.5, 24)
