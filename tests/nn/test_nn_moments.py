"""Mean and variance behind dropout, SELU and the layer that follows: against quadrature and against drawing."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, optimize, special

from bncourse.nn import SELU, AlphaDropout, Dropout, conv2d
from bncourse.nn.layers import SELU_ALPHA, SELU_SCALE
from bncourse.nn.moments import (
    SELU_LIMIT,
    Moments,
    alpha_dropout_line,
    alpha_dropout_moments,
    conv_shift,
    dense_shift,
    dropout_moments,
    selu_constants,
    selu_moments,
)

RATES = st.floats(0, 0.95)
MEANS, VARIANCES = st.floats(-5, 5), st.floats(1e-3, 20)


def expectation_over_masks(rate, probability_of, values):
    """Return mean and variance of a number that takes each of `values` with its probability: no formula at all."""
    mean = sum(p * v for p, v in zip(probability_of, values, strict=True))
    return mean, sum(p * (v - mean) ** 2 for p, v in zip(probability_of, values, strict=True))


# Dropout: a two-point x and a two-point mask can be written out


@given(MEANS, st.floats(0, 4), RATES)
def test_dropout_moments_of_a_two_point_number(mean, spread, rate):
    values = (mean - spread, mean + spread)
    outcomes = [0.0, 0.0, *(value / (1 - rate) for value in values)]
    shares = [rate / 2, rate / 2, (1 - rate) / 2, (1 - rate) / 2]
    expected = expectation_over_masks(rate, shares, outcomes)
    np.testing.assert_allclose(dropout_moments(mean, spread**2, rate), expected, rtol=1e-9, atol=1e-9)


@given(MEANS, st.floats(0, 4), RATES)
def test_alpha_dropout_moments_of_a_two_point_number(mean, spread, rate):
    line = alpha_dropout_line(rate)
    values = (SELU_LIMIT, SELU_LIMIT, mean - spread, mean + spread)
    outcomes = [line.scale * value + line.offset for value in values]
    shares = [rate / 2, rate / 2, (1 - rate) / 2, (1 - rate) / 2]
    expected = expectation_over_masks(rate, shares, outcomes)
    np.testing.assert_allclose(alpha_dropout_moments(mean, spread**2, rate), expected, rtol=1e-9, atol=1e-9)


@given(RATES, MEANS, st.floats(0.01, 20))
def test_the_line_restores_the_moments_it_was_made_for(rate, mean, variance):
    line, spread = alpha_dropout_line(rate, mean, variance), math.sqrt(variance)
    values = (SELU_LIMIT, SELU_LIMIT, mean - spread, mean + spread)
    outcomes = [line.scale * value + line.offset for value in values]
    shares = [rate / 2, rate / 2, (1 - rate) / 2, (1 - rate) / 2]
    found = expectation_over_masks(rate, shares, outcomes)
    np.testing.assert_allclose(found, (mean, variance), rtol=1e-9, atol=1e-9)


def test_the_line_is_the_one_of_the_layer():
    x = np.linspace(-1, 3, 4000)[None]
    y = AlphaDropout(0.3, seed=0)(x)
    line = alpha_dropout_line(0.3)
    dropped = np.isclose(y, line.scale * SELU_LIMIT + line.offset)
    np.testing.assert_allclose(y[~dropped], line.scale * x[~dropped] + line.offset, rtol=1e-12)
    assert 0.2 < dropped.mean() < 0.4


def test_alpha_dropout_keeps_mean_0_and_variance_1():
    np.testing.assert_allclose(alpha_dropout_moments(0.0, 1.0, 0.5), (0, 1), atol=1e-15)


@pytest.mark.parametrize(("layer", "formula"), [(Dropout, dropout_moments), (AlphaDropout, alpha_dropout_moments)])
@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5])
def test_the_layers_have_the_moments(layer, formula, rate):
    x = np.random.default_rng(0).gamma(2.0, 1.0, (1000, 1000))
    y = layer(rate, seed=1)(x)
    expected = formula(x.mean(), x.var(), rate)
    assert y.mean() == pytest.approx(expected.mean, rel=0.01)
    assert y.var() == pytest.approx(expected.variance, rel=0.01)


def test_moments_take_arrays():
    found = dropout_moments([0.0, 1.0], [1.0, 2.0], 0.5)
    np.testing.assert_allclose(found.variance, [2.0, 5.0])


# SELU


def selu(z):
    return SELU_SCALE * (z if z > 0 else SELU_ALPHA * math.expm1(z))


def by_quadrature(function, mean, variance):
    """Integrate against the normal density, each side of the kink by itself."""
    spread = math.sqrt(variance)

    def integrand(z):
        return function(z) * math.exp(-((z - mean) ** 2) / (2 * variance)) / (spread * math.sqrt(2 * math.pi))

    low, high = mean - 12 * spread, mean + 12 * spread
    middle = min(max(low, 0.0), high)
    sides = [
        integrate.quad(integrand, *ends, epsabs=1e-13, epsrel=1e-12, limit=200, points=[sum(ends) / 2])[0]
        for ends in ((low, middle), (middle, high))
        if ends[0] < ends[1]
    ]
    return sum(sides)


@pytest.mark.parametrize("mean", [-3.0, -0.4, 0.0, 0.7, 4.0])
@pytest.mark.parametrize("variance", [0.05, 1.0, 9.0])
def test_selu_moments_by_quadrature(mean, variance):
    first = by_quadrature(selu, mean, variance)
    second = by_quadrature(lambda z: selu(z) ** 2, mean, variance)
    np.testing.assert_allclose(selu_moments(mean, variance), (first, second - first**2), rtol=1e-8, atol=1e-10)


def test_the_constants_solve_the_two_equations():
    def equations(constants):
        alpha, scale = constants
        function = lambda z: scale * (z if z > 0 else alpha * math.expm1(z))  # noqa: E731
        return by_quadrature(function, 0, 1), by_quadrature(lambda z: function(z) ** 2, 0, 1) - 1

    root = optimize.root(equations, [1.0, 1.0], tol=1e-12)
    assert root.success
    np.testing.assert_allclose(selu_constants(), root.x, rtol=1e-9)


def test_the_constants_are_the_published_ones():
    np.testing.assert_allclose(selu_constants(), (SELU_ALPHA, SELU_SCALE), rtol=1e-14)


@pytest.mark.parametrize(("mean", "variance"), [(0.0, 300.0), (0.0, 1e6), (3.0, 640.0), (-50.0, 1e5), (20.0, 626.0)])
def test_a_large_variance_does_not_overflow(mean, variance):
    # With erfcx, which holds the exponential and the tail together.
    spread = math.sqrt(variance)

    def part(k):
        return math.exp(-(mean**2) / (2 * variance)) * special.erfcx((mean + k * variance) / spread / math.sqrt(2)) / 2

    below = special.ndtr(-mean / spread)
    negative, squared = part(1) - below, part(2) - 2 * part(1) + below
    density = math.exp(-(mean**2) / (2 * variance)) / math.sqrt(2 * math.pi)
    positive = mean * (1 - below) + spread * density
    positive_squared = (mean**2 + variance) * (1 - below) + mean * spread * density
    first = SELU_SCALE * (positive + SELU_ALPHA * negative)
    second = SELU_SCALE**2 * (positive_squared + SELU_ALPHA**2 * squared)
    np.testing.assert_allclose(selu_moments(mean, variance), (first, second - first**2), rtol=1e-9)


@pytest.mark.parametrize("mean", [-2.0, 0.0, 3.0])
def test_without_variance_selu_is_a_number(mean):
    assert selu_moments(mean, 0.0) == (pytest.approx(SELU()(np.array([[mean]]))[0, 0]), 0.0)


# The shift, over all masks of a small layer


def all_masks(count, rate):
    """Yield each mask of `count` numbers with its probability."""
    for bits in range(2**count):
        kept = np.array([bits >> place & 1 for place in range(count)], bool)
        yield kept, (1 - rate) ** kept.sum() * rate ** (~kept).sum()


def over_masks(x, layer, rate, drop, shape=None):
    """Return the moments of ``layer(drop(x, kept))`` over the samples and all masks: the definition, in full."""
    mask_shape = x.shape[1:] if shape is None else shape
    outputs, weights = [], []
    for kept, probability in all_masks(int(np.prod(mask_shape)), rate):
        outputs.append(layer(drop(x, kept.reshape(mask_shape))))
        weights.append(probability)
    outputs, weights = np.array(outputs), np.array(weights)
    axes = tuple(range(1, outputs.ndim - 1))
    mean = np.tensordot(weights, outputs.mean(axis=axes), 1)
    return mean, np.tensordot(weights, ((outputs - mean) ** 2).mean(axis=axes), 1)


def plain(rate):
    return lambda x, kept: x * kept / (1 - rate)


def alpha(rate):
    line = alpha_dropout_line(rate)
    return lambda x, kept: line.scale * np.where(kept, x, SELU_LIMIT) + line.offset


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("kind", [plain, alpha])
def test_dense_shift_is_that_of_all_masks(rate, kind):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 6)) @ rng.normal(size=(6, 6)) + 1.5  # correlated, and not of mean 0
    kernel = rng.normal(size=(6, 3))
    shift = dense_shift(x, kernel, rate, alpha=kind is alpha)
    np.testing.assert_allclose(shift.training, over_masks(x, lambda y: y @ kernel, rate, kind(rate)), rtol=1e-10)
    np.testing.assert_allclose(shift.inference, ((x @ kernel).mean(axis=0), (x @ kernel).var(axis=0)), rtol=1e-12)
    np.testing.assert_allclose(shift.ratio, shift.training.variance / shift.inference.variance)


@pytest.mark.parametrize("kind", [plain, alpha])
def test_conv_shift_is_that_of_all_masks(kind):
    rng = np.random.default_rng(1)
    x, kernel = rng.normal(1.0, 1.0, size=(3, 2, 3, 2)), rng.normal(size=(3, 3, 2, 2))
    layer = lambda y: conv2d(y, kernel, padding="same")[0]  # noqa: E731
    shift = conv_shift(x, kernel, 0.3, alpha=kind is alpha)
    np.testing.assert_allclose(shift.training, over_masks(x, layer, 0.3, kind(0.3)), rtol=1e-10)
    np.testing.assert_allclose(shift.inference.variance, layer(x).var(axis=(0, 1, 2)), rtol=1e-12)


def test_spatial_shift_is_that_of_all_masks_of_maps():
    rng = np.random.default_rng(2)
    x, kernel = rng.normal(1.0, 1.0, size=(3, 4, 3, 5)), rng.normal(size=(3, 3, 5, 2))
    layer = lambda y: conv2d(y, kernel, padding="same")[0]  # noqa: E731
    shift = conv_shift(x, kernel, 0.3, spatial=True)
    np.testing.assert_allclose(shift.training, over_masks(x, layer, 0.3, plain(0.3), (1, 1, 5)), rtol=1e-10)


def test_uncorrelated_inputs_of_mean_0_give_the_textbook_ratio():
    x = np.linalg.qr(np.random.default_rng(0).normal(size=(50, 8)))[0]
    x = np.concatenate([x, -x])  # columns orthogonal, mean 0
    np.testing.assert_allclose(dense_shift(x, np.ones((8, 1)), 0.5).ratio, 2.0, rtol=1e-12)
    np.testing.assert_allclose(dense_shift(x, np.ones((8, 1)), 0.25).ratio, 4 / 3, rtol=1e-12)


def test_a_dead_unit_has_no_shift_and_a_constant_one_an_infinite_one():
    x, kernel = np.array([[1.0, 2.0], [1.0, 2.0]]), np.array([[0.0, 1.0], [0.0, 1.0]])
    np.testing.assert_array_equal(dense_shift(x, kernel, 0.5).ratio, [1.0, np.inf])


def test_float32_is_calculated_in_float64():
    x, kernel = np.full((4, 3), 1e4, np.float32), np.ones((3, 1), np.float32)
    x[0, 0] += 1
    exact = x.astype(np.float64)
    assert dense_shift(x, kernel, 0.5).inference.variance == pytest.approx(exact.sum(axis=1).var())


# Errors


@pytest.mark.parametrize("rate", [-0.1, 1.0, math.nan])
@pytest.mark.parametrize(
    "call",
    [
        lambda rate: dropout_moments(0.0, 1.0, rate),
        lambda rate: alpha_dropout_moments(0.0, 1.0, rate),
        alpha_dropout_line,
        lambda rate: dense_shift(np.ones((2, 2)), np.ones((2, 1)), rate),
        lambda rate: conv_shift(np.ones((1, 2, 2, 1)), np.ones((1, 1, 1, 1)), rate),
    ],
)
def test_a_rate_outside_its_range_is_refused(call, rate):
    with pytest.raises(ValueError, match=rf"rate = {rate}; expected a number in \[0, 1\)"):
        call(rate)


@pytest.mark.parametrize("formula", [dropout_moments, alpha_dropout_moments])
@pytest.mark.parametrize("variance", [-1.0, [1.0, math.nan]])
def test_a_negative_variance_is_refused(formula, variance):
    with pytest.raises(ValueError, match=r"variance = .*; expected numbers >= 0"):
        formula(0.0, variance, 0.5)


def test_selu_refuses_a_negative_variance():
    with pytest.raises(ValueError, match=r"variance = -1.0; expected a finite number >= 0"):
        selu_moments(0.0, -1.0)


def test_there_is_no_variance_to_restore():
    with pytest.raises(ValueError, match=r"variance = 0.0; expected a number above 0"):
        alpha_dropout_line(0.5, 0.0, 0.0)


@pytest.mark.parametrize("shape", [(3,), (0, 2), (2, 0), (2, 2, 2)])
def test_dense_shift_wants_samples_of_inputs(shape):
    with pytest.raises(ValueError, match=r"x has shape .*; expected \(samples, inputs\)"):
        dense_shift(np.ones(shape), np.ones((2, 1)), 0.5)


@pytest.mark.parametrize("shape", [(3, 1), (2,)])
def test_dense_shift_wants_a_kernel_that_fits(shape):
    with pytest.raises(ValueError, match=r"kernel has shape .*; expected \(2, units\)"):
        dense_shift(np.ones((4, 2)), np.ones(shape), 0.5)


def test_conv_shift_wants_a_kernel_that_fits():
    with pytest.raises(ValueError, match=r"kernel has shape .*; expected \(kh, kw, 2, filters\)"):
        conv_shift(np.ones((1, 4, 4, 2)), np.ones((3, 3, 1, 1)), 0.5)


def test_whole_maps_or_alpha_but_not_both():
    with pytest.raises(ValueError, match="alpha = True and spatial = True; expected one of them at most"):
        conv_shift(np.ones((1, 2, 2, 1)), np.ones((1, 1, 1, 1)), 0.5, alpha=True, spatial=True)


@pytest.mark.parametrize("name", ["x", "kernel"])
def test_integers_are_refused(name):
    arrays = {"x": np.ones((2, 2)), "kernel": np.ones((2, 1))}
    arrays[name] = arrays[name].astype(int)
    with pytest.raises(TypeError, match=f"{name} has dtype int64"):
        dense_shift(arrays["x"], arrays["kernel"], 0.5)


@pytest.mark.parametrize("module", ["moments", "settle", "calibration", "monte_carlo"])
def test_numpy_is_enough(module):
    heavy = "{'tensorflow', 'keras', 'tf_keras', 'matplotlib', 'sklearn', 'scipy', 'pandas'}"
    program = f"import sys, bncourse.nn.{module}; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_moments_are_a_pair():
    mean, variance = Moments(1.0, 2.0)
    assert (mean, variance) == (1.0, 2.0)
