"""BatchNorm's averages, start values, conversions, edges and files."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncourse import averages
from bncourse.nn import BatchNorm, momentum_at


def batches(count, shape=(8, 3), seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(2.0, 3.0, shape) for _ in range(count)]


@given(momentum=st.floats(0.0, 0.999), steps=st.integers(1, 40), start=st.floats(-5, 5))
def test_the_growing_momentum_is_the_bias_correction(momentum, steps, start):
    values = np.random.default_rng(0).normal(size=steps)
    average = start
    for seen, value in enumerate(values):
        share = momentum_at(momentum, seen, bias_corrected=True)
        average = share * average + (1 - share) * value
    plain = averages.run(values, momentum, start=start)[-1]
    expected = averages.bias_corrected(plain, momentum, steps, start)
    assert average == pytest.approx(float(expected), rel=1e-8, abs=1e-8)


def test_bias_correction_with_momentum_1_is_the_cumulative_average():
    assert [momentum_at(1.0, seen, bias_corrected=True) for seen in range(3)] == [0.0, 1 / 2, 2 / 3]
    assert [momentum_at(None, seen) for seen in range(3)] == [0.0, 1 / 2, 2 / 3]


def test_a_bias_corrected_layer_forgets_its_start_at_once():
    layer, (x, other) = BatchNorm(bias_corrected=True, moving_mean_start=77.0), batches(2)
    layer(x)
    np.testing.assert_allclose(layer.moving_mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(layer.moving_variance, x.var(axis=0), rtol=1e-12)
    layer(other)
    weights = averages.weights(0.99, 2) / averages.weights(0.99, 2).sum()
    expected = weights[0] * x.mean(axis=0) + weights[1] * other.mean(axis=0)
    np.testing.assert_allclose(layer.moving_mean, expected, rtol=1e-12)


@pytest.mark.parametrize(("momentum", "expected"), [(0.0, "the last batch"), (1.0, "the start")])
def test_momentum_0_and_1(momentum, expected):
    layer, data = BatchNorm(momentum=momentum), batches(3)
    for x in data:
        layer(x)
    mean = data[-1].mean(axis=0) if expected == "the last batch" else np.zeros(3)
    variance = data[-1].var(axis=0) if expected == "the last batch" else np.ones(3)
    np.testing.assert_allclose(layer.moving_mean, mean)
    np.testing.assert_allclose(layer.moving_variance, variance)


def test_start_values_for_all_channels_or_for_each():
    each = np.array([1.0, 2.0, 3.0])
    layer = BatchNorm(gamma_start=0.5, beta_start=each, moving_mean_start=-1, moving_variance_start=each)
    layer(np.ones((4, 3), np.float32), training=False)
    np.testing.assert_array_equal(layer.gamma, [0.5] * 3)
    np.testing.assert_array_equal(layer.beta, each)
    np.testing.assert_array_equal(layer.moving_mean, [-1.0] * 3)
    np.testing.assert_array_equal(layer.moving_variance, each)
    assert layer.gamma.dtype == np.float32
    layer.beta[0] = 99.0
    np.testing.assert_array_equal(each, [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma_start": np.nan}, "gamma_start = nan; expected finite numbers"),
        ({"beta_start": "zero"}, "beta_start = 'zero'; expected finite numbers"),
        ({"moving_variance_start": -1.0}, "moving_variance_start = -1.0; expected numbers >= 0"),
    ],
)
def test_impossible_start_values_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BatchNorm(**arguments)


def test_start_values_that_do_not_fit_x_are_refused_and_build_nothing():
    layer = BatchNorm(gamma_start=np.ones(2))
    with pytest.raises(ValueError, match=r"start values have the shapes \{'gamma': \(2,\)\}; expected .* \(3,\)"):
        layer(np.ones((4, 3)))
    assert layer.weights == {"updates": 0}


def test_like_pytorch_turns_the_momentum_round():
    layer = BatchNorm.like_pytorch(momentum=0.3, eps=1e-4, affine=False)
    assert layer.momentum == pytest.approx(0.7)
    assert (layer.axis, layer.epsilon, layer.variance_kind) == (1, 1e-4, "sample")
    assert (layer.center, layer.scale) == (False, False)
    assert BatchNorm.like_pytorch(momentum=None).momentum is None
    assert BatchNorm.like_pytorch(axis=-1).axis == -1


def test_like_pytorch_refuses_what_pytorch_calls_no_momentum():
    with pytest.raises(ValueError, match=r"momentum = 1.5; expected a number in \[0, 1\]"):
        BatchNorm.like_pytorch(momentum=1.5)


def test_no_samples_give_no_outputs_in_inference_mode_and_an_error_in_training():
    layer = BatchNorm()
    layer(np.ones((4, 3)))
    before = {name: value.copy() for name, value in layer.weights.items()}
    empty = np.ones((0, 3))
    y = layer(empty, training=False)
    assert y.shape == (0, 3)
    assert layer.backward(y).shape == (0, 3)
    np.testing.assert_array_equal(layer.gradients["gamma"], np.zeros(3))
    with pytest.raises(ValueError, match=r"x has shape \(0, 3\) and holds no numbers"):
        layer(empty, training=True)
    for name, value in layer.weights.items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("fast", [True, False])
def test_float16_beyond_its_range_in_the_squares_is_no_infinity(fast):
    """60,000 squared overflows float16, and so does the sum of two of them."""
    x = np.full((500, 50), 60_000, np.float16)
    x[::2] *= -1
    layer = BatchNorm(momentum=0.0, fast=fast)
    y = layer(x)
    np.testing.assert_allclose(np.abs(y), 1.0, atol=1e-3)
    np.testing.assert_allclose(layer.moving_variance, 60_000.0**2, rtol=1e-3)
    assert y.dtype == np.float16
    dx = layer.backward(np.ones_like(y))
    assert np.isfinite(dx).all()


def test_an_output_too_large_for_float16_is_not_silent():
    layer = BatchNorm(gamma_start=1e6)
    with pytest.warns(RuntimeWarning, match="overflow"):
        layer(np.array([[-1.0], [1.0]], np.float16))


def test_nan_poisons_its_channel_in_training_and_its_place_in_inference():
    layer = BatchNorm(momentum=0.5)
    x = np.random.default_rng(0).normal(size=(6, 2))
    layer(x)
    x[1, 0] = np.nan
    y = layer(x, training=False)
    assert np.isnan(y).sum() == 1
    y = layer(x)
    assert np.isnan(y[:, 0]).all()
    assert np.isfinite(y[:, 1]).all()
    assert np.isnan(layer.moving_mean).tolist() == [True, False]


def test_a_layer_by_itself_is_saved_and_restored(tmp_path):
    layer, data = BatchNorm(momentum=0.9, bias_corrected=True), batches(4)
    for x in data[:2]:
        layer(x)
    layer.save(tmp_path / "bn.npz")
    other = BatchNorm(momentum=0.9, bias_corrected=True)
    other.load(tmp_path / "bn.npz")
    for x in data[2:]:
        np.testing.assert_array_equal(layer(x), other(x))
    for name, value in layer.weights.items():
        np.testing.assert_array_equal(value, other.weights[name])


def test_a_layer_that_was_never_called_has_nothing_to_save(tmp_path):
    with pytest.raises(ValueError, match="save before the first call"):
        BatchNorm().save(tmp_path / "bn.npz")
    assert not list(tmp_path.iterdir())


def test_a_file_with_pickles_is_refused(tmp_path):
    np.savez(tmp_path / "bn.npz", gamma=np.array([object()]))
    with pytest.raises(ValueError, match="pickle"):
        BatchNorm().load(tmp_path / "bn.npz")


def test_gamma_set_before_the_first_call_is_not_overwritten_in_silence():
    layer = BatchNorm()
    layer.gamma = np.full(3, 2.0)
    with pytest.raises(ValueError, match=r"set before the first call; use set_weights for all arrays"):
        layer(np.ones((4, 3)))


def test_like_pytorch_takes_no_number_of_channels():
    with pytest.raises(TypeError, match="positional"):
        BatchNorm.like_pytorch(5)


def test_repr_names_the_bias_correction():
    assert repr(BatchNorm(bias_corrected=True)).endswith("bias_corrected=True)")
