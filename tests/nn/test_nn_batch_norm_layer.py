"""The layer: state, modes, moving averages, errors."""

import numpy as np
import pytest
from nn_oracles import gradient, statistics

from bncourse.nn import BatchNorm, batch_norm_backward, batch_norm_train


def batches(count=5, shape=(8, 3), seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(rng.normal(), 2.0, shape) for _ in range(count)]


def state_of(layer):
    return {name: np.copy(array) for name, array in layer.weights.items()}


def test_it_starts_as_keras_does():
    layer = BatchNorm()
    assert (layer.axis, layer.momentum, layer.epsilon, layer.center, layer.scale) == (-1, 0.99, 1e-3, True, True)
    layer(np.ones((2, 3)), training=False)
    for name, start in {"gamma": 1, "beta": 0, "moving_mean": 0, "moving_variance": 1}.items():
        np.testing.assert_array_equal(getattr(layer, name), [start] * 3)


def test_training_is_the_default():
    layer = BatchNorm()
    layer(np.array([[1.0], [3.0]]))
    assert layer.moving_mean.item() == pytest.approx(0.02)


def test_before_the_first_call_there_are_no_arrays():
    layer = BatchNorm()
    assert layer.gamma is layer.beta is layer.moving_mean is layer.moving_variance is None
    assert layer.gradients == {}


@pytest.mark.parametrize(
    ("dtype", "expected"), [(np.float16, np.float32), (np.float32, np.float32), (np.float64, np.float64)]
)
def test_the_type_of_the_parameters_follows_the_first_input(dtype, expected):
    layer = BatchNorm()
    for training in (True, False):
        assert layer(np.ones((2, 3), dtype), training).dtype == dtype
    assert {a.dtype for a in (layer.gamma, layer.beta)} == {np.dtype(expected)}
    assert {a.dtype for a in (layer.moving_mean, layer.moving_variance)} == {np.dtype(np.float64)}


@pytest.mark.parametrize("fast", [True, False])
def test_the_moving_mean_of_numbers_far_from_zero_arrives(fast):
    """A reader found it: in float32, 4,000 steps with momentum 0.99 left it 3.9 standard deviations away."""
    rng = np.random.default_rng(0)
    layer = BatchNorm(moving_mean_start=9_999.0, fast=fast)
    for _ in range(2_000):
        layer((1e4 + 0.01 * rng.normal(size=(32, 1))).astype(np.float32))
    assert abs(layer.moving_mean[0] - 1e4) < 0.001
    x = (1e4 + 0.01 * rng.normal(size=(30_000, 1))).astype(np.float32)
    exact = (x.astype(np.float64) - layer.moving_mean) / np.sqrt(layer.moving_variance + 1e-3)
    assert np.abs(layer(x, training=False) - exact).max() < 1e-6


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99, 1.0])
def test_the_moving_averages_in_closed_form(momentum):
    layer, data = BatchNorm(momentum=momentum), batches()
    for x in data:
        layer(x, training=True)
    k = len(data)
    share = [(1 - momentum) * momentum ** (k - 1 - i) for i in range(k)]
    means, variances = zip(*(statistics(x, -1) for x in data), strict=True)
    np.testing.assert_allclose(layer.moving_mean, np.tensordot(share, means, 1), atol=1e-12)
    np.testing.assert_allclose(layer.moving_variance, momentum**k + np.tensordot(share, variances, 1), rtol=1e-12)


def test_without_momentum_the_averages_are_cumulative():
    layer, data = BatchNorm(momentum=None), batches()
    for x in data:
        layer(x, training=True)
    means, variances = zip(*(statistics(x, -1) for x in data), strict=True)
    np.testing.assert_allclose(layer.moving_mean, np.mean(means, axis=0), rtol=1e-12)
    np.testing.assert_allclose(layer.moving_variance, np.mean(variances, axis=0), rtol=1e-12)
    assert int(layer.updates) == len(data)


@pytest.mark.parametrize("shape", [(8, 3), (2, 4, 5, 3)])
def test_the_sample_variance_is_n_over_n_minus_1_times_larger(shape):
    n = np.prod(shape[:-1])
    (x,) = batches(1, shape)
    population, sample = BatchNorm(momentum=0.0), BatchNorm(momentum=0.0, moving_variance="sample")
    np.testing.assert_array_equal(population(x), sample(x))
    np.testing.assert_allclose(sample.moving_variance, population.moving_variance * n / (n - 1), rtol=1e-13)
    np.testing.assert_allclose(sample.moving_variance, x.reshape(-1, 3).var(axis=0, ddof=1), rtol=1e-12)


def test_the_sample_variance_counts_the_positions_of_the_mask():
    (x,) = batches(1)
    mask = np.arange(8) < 5
    layer = BatchNorm(momentum=0.0, moving_variance="sample")
    layer(x, mask=mask)
    np.testing.assert_allclose(layer.moving_variance, x[:5].var(axis=0, ddof=1), rtol=1e-12)


def test_a_batch_of_one_gives_beta_and_no_division_by_zero():
    layer = BatchNorm(momentum=0.0, moving_variance="sample")
    np.testing.assert_array_equal(layer(np.array([[5.0, 7.0]])), [[0.0, 0.0]])
    np.testing.assert_array_equal(layer.moving_variance, [0.0, 0.0])


def test_inference_uses_the_moving_statistics_and_leaves_them():
    layer, (x, other) = BatchNorm(momentum=0.5), batches(2)
    layer(x)
    before = state_of(layer)
    y = layer(other, training=False)
    expected = (other - before["moving_mean"]) / np.sqrt(before["moving_variance"] + 1e-3)
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    for name, array in state_of(layer).items():
        np.testing.assert_array_equal(array, before[name])


def test_trainable_false_means_inference_mode():
    layer, (x, other) = BatchNorm(momentum=0.5), batches(2)
    layer(x)
    layer.trainable = False
    before = state_of(layer)
    np.testing.assert_array_equal(layer(other, training=True), layer(other, training=False))
    np.testing.assert_array_equal(layer.moving_mean, before["moving_mean"])
    assert layer.parameters == {}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("shape", "axis"), [((6, 3), -1), ((2, 3, 2, 2), 1), ((3, 2, 2, 3), (1, -1))])
def test_backward_in_both_modes(training, shape, axis):
    rng = np.random.default_rng(0)
    layer = BatchNorm(axis=axis)
    layer(rng.normal(1.0, 2.0, shape))
    layer.gamma[...], layer.beta[...] = (rng.normal(size=layer.gamma.shape) for _ in range(2))
    before, x, dy = state_of(layer), rng.normal(1.0, 2.0, shape), rng.normal(size=shape)

    def loss(x=x, **changes):
        layer.set_weights(before | changes)
        return (layer(x, training=training) * dy).sum()

    loss()
    dx, gradients = layer.backward(dy), layer.gradients
    np.testing.assert_allclose(dx, gradient(lambda v: loss(v), x), atol=1e-8)
    for name in ("gamma", "beta"):
        numeric = gradient(lambda v, name=name: loss(**{name: v}), before[name])
        np.testing.assert_allclose(gradients[name], numeric, atol=1e-8)


def test_backward_belongs_to_the_last_call():
    layer, (x, other) = BatchNorm(), batches(2)
    layer(x, training=True)
    layer(other, training=False)
    layer(x, training=True)
    _, cache = batch_norm_train(x, layer.gamma, layer.beta, epsilon=1e-3, axis=-1)
    np.testing.assert_array_equal(layer.backward(other), batch_norm_backward(other, cache)[0])


def test_backward_in_inference_mode_uses_the_statistics_of_its_call():
    layer, (x, other) = BatchNorm(momentum=0.5), batches(2)
    layer(x)
    layer(other, training=False)
    expected = other / np.sqrt(layer.moving_variance + 1e-3)
    layer.set_weights(state_of(layer) | {"moving_variance": np.full(3, 100.0)})
    np.testing.assert_allclose(layer.backward(other), expected, rtol=1e-12)


@pytest.mark.parametrize(("center", "scale"), [(True, False), (False, True), (False, False)])
def test_center_and_scale_switch_the_parameters_off(center, scale):
    layer, (x, dy) = BatchNorm(center=center, scale=scale), batches(2)
    np.testing.assert_allclose(layer(x), BatchNorm()(x))
    layer.backward(dy)
    expected = {name for name, has in (("gamma", scale), ("beta", center)) if has}
    assert set(layer.parameters) == set(layer.gradients) == expected
    assert set(layer.weights) == expected | {"moving_mean", "moving_variance", "updates"}


def test_several_axes_give_parameters_of_their_lengths_in_ascending_order():
    layer = BatchNorm(axis=(-1, 1))
    layer(np.random.default_rng(0).normal(size=(5, 2, 3, 4)))
    assert layer.gamma.shape == layer.moving_mean.shape == (2, 4)


def test_a_mask_reaches_the_moving_statistics():
    x = np.random.default_rng(0).normal(size=(4, 5, 3))
    mask = np.arange(20).reshape(4, 5) % 3 > 0
    layer = BatchNorm(momentum=0.0)
    layer(x, mask=mask)
    np.testing.assert_allclose(layer.moving_mean, x[mask].mean(axis=0), rtol=1e-12)


def test_a_mask_has_no_effect_in_inference_mode():
    layer, (x,) = BatchNorm(), batches(1)
    np.testing.assert_array_equal(layer(x, training=False, mask=np.arange(8) < 4), layer(x, training=False))


def test_repr_shows_every_argument():
    text = repr(BatchNorm(axis=(1, 2), momentum=None, moving_variance="sample"))
    assert text == (
        "BatchNorm(axis=(1, 2), momentum=None, epsilon=0.001, center=True, scale=True, moving_variance='sample')"
    )


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"axis": 1.0}, TypeError, r"axis = 1\.0; expected an int or a sequence of ints"),
        ({"axis": True}, TypeError, "axis = True"),
        ({"axis": (1, "2")}, TypeError, "expected an int or a sequence of ints"),
        ({"axis": ()}, ValueError, "axis is empty"),
        ({"axis": (1, 1)}, ValueError, r"axis = \(1, 1\) names an axis twice"),
        ({"momentum": 1.01}, ValueError, r"momentum = 1\.01; expected a number in \[0, 1\]"),
        ({"momentum": -0.1}, ValueError, r"momentum = -0\.1"),
        ({"momentum": float("nan")}, ValueError, "momentum = nan"),
        ({"epsilon": -1e-9}, ValueError, "epsilon = -1e-09; expected a finite number >= 0"),
        ({"epsilon": float("inf")}, ValueError, "epsilon = inf"),
        ({"moving_variance": "biased"}, ValueError, "moving_variance = 'biased'; expected 'population' or 'sample'"),
    ],
)
def test_impossible_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        BatchNorm(**arguments)


@pytest.mark.parametrize(
    ("x", "mask", "error", "message"),
    [
        (np.ones((4, 3), int), None, TypeError, "x has dtype int64"),
        (np.ones(3), None, ValueError, "x has rank 1"),
        (np.ones((4, 5)), None, ValueError, r"x has shape \(4, 5\), so \(5,\) along axis = -1; .* built for \(3,\)"),
        (np.ones((4, 3)), np.ones(5), ValueError, r"mask has shape \(5,\); expected \(4,\)"),
        (np.ones((4, 3)), np.zeros(4), ValueError, "mask excludes every position"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_a_call_that_raises_leaves_the_layer_as_it_was(x, mask, error, message, training):
    layer, (first, dy) = BatchNorm(), batches(2, (4, 3))
    layer(first)
    before, dx = state_of(layer), layer.backward(dy)
    with pytest.raises(error, match=message):
        layer(x, training=training, mask=mask)
    for name, array in state_of(layer).items():
        np.testing.assert_array_equal(array, before[name])
    np.testing.assert_array_equal(layer.backward(dy), dx)


def test_a_first_call_that_raises_builds_nothing():
    layer = BatchNorm(axis=3)
    with pytest.raises(ValueError, match="out of range"):
        layer(np.ones((2, 3)))
    with pytest.raises(ValueError, match="mask has shape"):
        layer(np.ones((2, 3, 4, 5)), mask=np.ones(2))
    assert layer.moving_mean is None
    assert layer(np.ones((2, 3, 4, 5))).shape == (2, 3, 4, 5)


def test_backward_before_forward_is_refused():
    with pytest.raises(RuntimeError, match=r"BatchNorm\(axis=-1.*backward before forward; call the layer first"):
        BatchNorm().backward(np.ones((2, 3)))


def test_backward_refuses_another_shape_or_type():
    layer = BatchNorm()
    layer(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"dy has shape \(2, 4\); expected \(2, 3\), the shape of y"):
        layer.backward(np.ones((2, 4)))
    with pytest.raises(TypeError, match="dy has dtype int64"):
        layer.backward(np.ones((2, 3), int))
    assert layer.gradients == {}


def test_weights_of_different_lengths_are_refused():
    layer = BatchNorm()
    weights = {"gamma": np.ones(3), "beta": np.ones(2), "moving_mean": np.ones(3), "moving_variance": np.ones(3)}
    with pytest.raises(ValueError, match="the weights have different shapes"):
        layer.set_weights(weights | {"updates": 0})
    assert layer.gamma is None
