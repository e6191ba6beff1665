"""Batch Renormalization: the corrections r and d, held constant in the gradient."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nn_oracles import gradient, kept_shape, normalise, statistics

from bncourse.nn import SGD, BatchNorm, BatchRenorm, Dense, Sequential, batch_renorm_backward, batch_renorm_train

LAYOUTS = [((6, 3), -1), ((2, 3, 2, 2), 1), ((2, 3, 4), -1), ((3, 2, 2, 3), (1, -1)), ((2, 2, 2, 2, 3), -1)]
BOUNDS = [(1.0, 0.0), (1.2, 0.1), (3.0, 5.0), (np.inf, np.inf)]
layouts = pytest.mark.parametrize(("shape", "axis"), LAYOUTS)
bounds = pytest.mark.parametrize(("r_max", "d_max"), BOUNDS)


def corrections(x, moving_mean, moving_variance, r_max, d_max, epsilon, axis):
    """Written out channel by channel in float64."""
    mean, variance = statistics(x, axis)
    r, d = np.empty_like(mean), np.empty_like(mean)
    for i in np.ndindex(mean.shape):
        sigma = (moving_variance[i] + epsilon) ** 0.5
        r[i] = min(max((variance[i] + epsilon) ** 0.5 / sigma, 1 / r_max), r_max)
        d[i] = min(max((mean[i] - moving_mean[i]) / sigma, -d_max), d_max)
    return r, d


def oracle(x, gamma, beta, moving_mean, moving_variance, r_max, d_max, epsilon, axis):
    r, d = corrections(x, moving_mean, moving_variance, r_max, d_max, epsilon, axis)
    return normalise(x, *statistics(x, axis), gamma * r, gamma * d + beta, epsilon, axis)


def prepared(shape, axis, dtype=np.float64, **options):
    """Return a built layer with nothing special about its weights, x and dy."""
    rng = np.random.default_rng(0)
    layer = BatchRenorm(axis=axis, epsilon=2e-3, **options)
    x, dy = (rng.normal(1.0, 2.0, shape).astype(dtype) for _ in range(2))
    layer(x, training=False)
    size = layer.gamma.shape
    layer.gamma[...], layer.beta[...], layer.moving_mean[...] = rng.normal(size=(3, *size))
    layer.moving_variance[...] = rng.uniform(0.5, 6.0, size)
    return layer, x, dy


def state_of(layer):
    return {name: np.copy(array) for name, array in layer.weights.items()}


def test_it_starts_as_batch_norm_does_with_the_bounds_of_the_paper():
    layer = BatchRenorm()
    assert (layer.axis, layer.momentum, layer.epsilon, layer.center, layer.scale) == (-1, 0.99, 1e-3, True, True)
    assert (layer.r_max, layer.d_max) == (3.0, 5.0)
    layer(np.ones((2, 3)), training=False)
    for name, start in {"gamma": 1, "beta": 0, "moving_mean": 0, "moving_variance": 1}.items():
        np.testing.assert_array_equal(getattr(layer, name), [start] * 3)


@layouts
@bounds
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5), (np.float16, 2e-2)])
def test_training_is_what_the_definition_says(shape, axis, r_max, d_max, dtype, tolerance):
    layer, x, _ = prepared(shape, axis, dtype, r_max=r_max, d_max=d_max, momentum=0.7)
    before = state_of(layer)
    y = layer(x)
    weights = [before[name] for name in ("gamma", "beta", "moving_mean", "moving_variance")]
    assert y.dtype == dtype
    np.testing.assert_allclose(y, oracle(x, *weights, r_max, d_max, 2e-3, axis), atol=tolerance, rtol=tolerance)
    for name, new in zip(("moving_mean", "moving_variance"), statistics(x, axis), strict=True):
        np.testing.assert_allclose(getattr(layer, name), 0.7 * before[name] + 0.3 * new, rtol=max(tolerance, 1e-6))
    assert int(layer.updates) == 1


def test_the_bounds_of_these_tests_clip_something_and_leave_something():
    layer, x, _ = prepared((2, 3, 2, 2), 1)
    given = (layer.moving_mean, layer.moving_variance)
    free = corrections(x, *given, np.inf, np.inf, 2e-3, 1)
    clipped = corrections(x, *given, 1.2, 0.1, 2e-3, 1)
    assert not np.allclose(free[0], clipped[0])
    assert not np.allclose(free[1], clipped[1])
    np.testing.assert_array_equal(free, corrections(x, *given, 3.0, 5.0, 2e-3, 1))


@layouts
@bounds
def test_backward_is_the_slope_with_r_and_d_held_constant(shape, axis, r_max, d_max):
    layer, x, dy = prepared(shape, axis, r_max=r_max, d_max=d_max)
    w = state_of(layer)
    r, d = corrections(x, w["moving_mean"], w["moving_variance"], r_max, d_max, 2e-3, axis)
    layer(x)

    def loss(x=x, gamma=w["gamma"], beta=w["beta"]):
        return (normalise(x, *statistics(x, axis), gamma * r, gamma * d + beta, 2e-3, axis) * dy).sum()

    dx = layer.backward(dy)
    np.testing.assert_allclose(dx, gradient(lambda v: loss(v), x), atol=1e-8)
    for name in ("gamma", "beta"):
        numeric = gradient(lambda v, name=name: loss(**{name: v}), w[name])
        np.testing.assert_allclose(layer.gradients[name], numeric, atol=1e-8)
    # Constants they are: the gradient through the batch's own statistics is not lost.
    axes = tuple(a for a in range(x.ndim) if a not in {k % x.ndim for k in np.atleast_1d(axis)})
    np.testing.assert_allclose(dx.sum(axes), 0.0, atol=1e-12)


def test_without_bounds_the_gradient_is_not_that_of_inference():
    layer, x, dy = prepared((6, 3), -1, r_max=np.inf, d_max=np.inf)
    np.testing.assert_allclose(layer(x, training=False), layer(x, training=True), atol=1e-12)
    dx = layer.backward(dy)
    layer(x, training=False)
    assert np.abs(layer.backward(dy) - dx).max() > 0.1


@layouts
def test_backward_in_inference_mode(shape, axis):
    layer, x, dy = prepared(shape, axis)
    before = state_of(layer)

    def loss(x=x, **changes):
        layer.set_weights(before | changes)
        return (layer(x, training=False) * dy).sum()

    loss()
    dx, gradients = layer.backward(dy), layer.gradients
    np.testing.assert_allclose(dx, gradient(lambda v: loss(v), x), atol=1e-8)
    for name in ("gamma", "beta"):
        numeric = gradient(lambda v, name=name: loss(**{name: v}), before[name])
        np.testing.assert_allclose(gradients[name], numeric, atol=1e-8)


@layouts
@pytest.mark.parametrize("momentum", [0.7, None])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_with_bounds_1_and_0_it_is_batch_norm(shape, axis, momentum, dtype):
    rng = np.random.default_rng(1)
    ours, theirs = (
        make(axis=axis, momentum=momentum) for make in (lambda **o: BatchRenorm(r_max=1, d_max=0, **o), BatchNorm)
    )
    close = {"rtol": 0, "atol": 1e-13 if dtype == np.float64 else 1e-5}
    for training in (True, True, False, True):
        x, dy = rng.normal(3.0, 2.0, (2, *shape)).astype(dtype)
        np.testing.assert_allclose(ours(x, training=training), theirs(x, training=training), **close)
        np.testing.assert_allclose(ours.backward(dy), theirs.backward(dy), **close)
        for name in ("gamma", "beta"):
            np.testing.assert_allclose(ours.gradients[name], theirs.gradients[name], rtol=1e-5)
    for name, array in theirs.weights.items():
        np.testing.assert_allclose(ours.weights[name], array, rtol=1e-6)
    fresh = BatchNorm(axis=axis)
    fresh.set_weights(ours.weights)
    np.testing.assert_array_equal(fresh(x, training=False), ours(x, training=False))


@given(
    st.lists(st.integers(1, 4), min_size=2, max_size=5).filter(lambda s: np.prod(s) > 1),
    st.integers(0, 4),
    st.sampled_from([np.float16, np.float32, np.float64]),
    st.integers(0, 99),
)
def test_without_bounds_training_computes_what_inference_does(shape, kept, dtype, seed):
    rng, axis = np.random.default_rng(seed), kept % len(shape)
    x = rng.normal(1.0, 2.0, shape).astype(dtype)
    layer = BatchRenorm(axis=axis, r_max=np.inf, d_max=np.inf)
    layer(rng.normal(1.0, 2.0, shape).astype(dtype))
    expected = layer(x, training=False)
    before = state_of(layer)
    y = layer(x, training=True)
    tolerance = {np.float16: 1e-2, np.float32: 1e-4, np.float64: 1e-11}[dtype]
    np.testing.assert_allclose(y, expected, atol=tolerance)
    assert layer.gamma.shape == kept_shape(shape, axis)
    assert not np.array_equal(layer.moving_variance, before["moving_variance"])


def test_the_bounds_may_change_during_training():
    layer, x, _ = prepared((6, 3), -1, r_max=1, d_max=0, momentum=1.0)
    first = layer(x)
    layer.r_max, layer.d_max = np.inf, np.inf
    np.testing.assert_allclose(layer(x), layer(x, training=False), atol=1e-12)
    layer.r_max, layer.d_max = 1, 0
    np.testing.assert_array_equal(layer(x), first)


def test_the_moving_averages_move_towards_the_data_although_training_uses_them():
    layer, rng = BatchRenorm(momentum=0.9), np.random.default_rng(0)
    for _ in range(200):
        layer(rng.normal(5.0, 3.0, (64, 1)))
    assert layer.moving_mean.item() == pytest.approx(5.0, abs=0.5)
    assert layer.moving_variance.item() == pytest.approx(9.0, abs=1.5)


def test_trainable_false_means_inference_mode():
    layer, x, _ = prepared((6, 3), -1)
    layer.trainable = False
    before = state_of(layer)
    np.testing.assert_array_equal(layer(x, training=True), layer(x, training=False))
    for name, array in state_of(layer).items():
        np.testing.assert_array_equal(array, before[name])
    assert layer.parameters == {}


def test_float16_does_not_overflow():
    x = np.array([[60000], [-60000], [60000], [-60000]], np.float16)
    layer = BatchRenorm(momentum=0.0)
    np.testing.assert_array_equal(layer(x).ravel(), [3, -3, 3, -3])  # r is clipped to 3
    dx = layer.backward(np.ones_like(x))
    assert (dx.dtype, layer.moving_variance.dtype) == (np.float16, np.float64)
    assert np.isfinite(dx).all()
    np.testing.assert_allclose(layer.moving_variance, 3.6e9)


def test_the_inner_result_is_not_rounded_to_float16():
    x = np.random.default_rng(0).normal(size=(50, 1)).astype(np.float16)
    r, d = 1.0, 900.0  # y near 900, where float16 has steps of 0.5
    y, _ = batch_renorm_train(
        x, np.array([100.0]), None, np.array([-1e9]), np.array([1.0]), r_max=r, d_max=d / 100, epsilon=0.0, axis=-1
    )
    wide = x.astype(np.float64)
    exact = 100 * (wide - wide.mean()) / wide.std() + 900
    np.testing.assert_array_equal(y, exact.astype(np.float32).astype(np.float16))


@pytest.mark.parametrize(("center", "scale"), [(True, False), (False, True), (False, False)])
def test_center_and_scale_switch_the_parameters_off(center, scale):
    x, dy = np.random.default_rng(0).normal(size=(2, 6, 3))
    layer, full = BatchRenorm(center=center, scale=scale), BatchRenorm()
    np.testing.assert_array_equal(layer(x), full(x))
    np.testing.assert_array_equal(layer.backward(dy), full.backward(dy))
    expected = {name for name, has in (("gamma", scale), ("beta", center)) if has}
    assert set(layer.parameters) == set(layer.gradients) == expected
    assert set(layer.weights) == expected | {"moving_mean", "moving_variance", "updates"}


def test_a_network_learns_and_is_saved_and_loaded(tmp_path):
    rng = np.random.default_rng(0)
    x, labels = rng.normal(5.0, 2.0, (12, 4)), np.arange(12) % 3
    model = Sequential([BatchRenorm(momentum=0.5), Dense(3, seed=0)])
    history = model.fit(x, labels, batch_size=5, epochs=40, optimizer=SGD(0.5), seed=0)
    assert np.mean(history.loss[-9:]) < np.mean(history.loss[:9])
    model.save(tmp_path / "network.npz")
    fresh = Sequential([BatchRenorm(momentum=0.5), Dense(3, seed=1)])
    fresh.load(tmp_path / "network.npz")
    np.testing.assert_array_equal(fresh(x, training=False), model(x, training=False))
    np.testing.assert_array_equal(fresh(x, training=True), model(x, training=True))


def test_repr_shows_every_argument():
    assert repr(BatchRenorm(axis=1, momentum=None, r_max=2)) == (
        "BatchRenorm(axis=1, momentum=None, epsilon=0.001, r_max=2.0, d_max=5.0, center=True, scale=True)"
    )


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"axis": 1.0}, TypeError, r"axis = 1\.0; expected an int"),
        ({"momentum": 1.01}, ValueError, r"momentum = 1\.01; expected a number in \[0, 1\]"),
        ({"epsilon": -1e-9}, ValueError, "epsilon = -1e-09; expected a finite number >= 0"),
        ({"r_max": 0.99}, ValueError, r"r_max = 0\.99; expected a number >= 1 \(1 switches the correction"),
        ({"r_max": float("nan")}, ValueError, "r_max = nan"),
        ({"d_max": -0.01}, ValueError, r"d_max = -0\.01; expected a number >= 0 \(0 switches the correction"),
        ({"d_max": float("nan")}, ValueError, "d_max = nan"),
    ],
)
def test_impossible_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        BatchRenorm(**arguments)


def test_impossible_bounds_are_refused_later_too():
    layer = BatchRenorm()
    with pytest.raises(ValueError, match=r"r_max = 0\.5"):
        layer.r_max = 0.5
    with pytest.raises(ValueError, match="d_max = -1"):
        layer.d_max = -1
    assert (layer.r_max, layer.d_max) == (3.0, 5.0)


@pytest.mark.parametrize("training", [True, False])
def test_a_call_that_raises_leaves_the_layer_as_it_was(training):
    layer, x, dy = prepared((4, 3), -1)
    layer(x)
    dx, before = layer.backward(dy), state_of(layer)
    for wrong, error, message in (
        (np.ones((4, 3), int), TypeError, "x has dtype int64"),
        (np.ones(3), ValueError, "x has rank 1"),
        (np.ones((4, 5)), ValueError, r"x has shape \(4, 5\), so \(5,\) .* built for \(3,\)\. Use a new layer"),
    ):
        with pytest.raises(error, match=message):
            layer(wrong, training=training)
    with pytest.raises(ValueError, match=r"dy has shape \(4, 2\); expected \(4, 3\)"):
        layer.backward(dy[:, :2])
    for name, array in state_of(layer).items():
        np.testing.assert_array_equal(array, before[name])
    np.testing.assert_array_equal(layer.backward(dy), dx)


def test_a_first_call_that_raises_builds_nothing():
    layer = BatchRenorm(axis=3)
    with pytest.raises(ValueError, match="out of range"):
        layer(np.ones((2, 3)))
    assert layer.moving_mean is layer.gamma is None


def test_no_samples_give_an_empty_y_in_inference_mode_and_an_error_in_training_mode():
    layer, x, _ = prepared((4, 3), -1)
    with pytest.raises(ValueError, match="holds no numbers"):
        layer(x[:0])
    assert layer(x[:0], training=False).shape == layer.backward(x[:0]).shape == (0, 3)


def test_backward_before_forward_is_refused():
    with pytest.raises(RuntimeError, match=r"BatchRenorm\(axis=-1.*backward before forward; call the layer first"):
        BatchRenorm().backward(np.ones((2, 3)))


def test_the_functions_check_what_they_are_given():
    one, x = np.ones(3), np.ones((2, 3))
    good = {"x": x, "gamma": one, "beta": one, "moving_mean": one, "moving_variance": one}
    options = {"r_max": 3, "d_max": 5, "epsilon": 1e-3, "axis": -1}
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        with pytest.raises(ValueError, match=rf"{name} has shape \(2,\); expected \(3,\)"):
            batch_renorm_train(**good | {name: np.ones(2)}, **options)
    for name, value in {"r_max": 0.5, "d_max": -1, "epsilon": -1}.items():
        with pytest.raises(ValueError, match=f"{name} = {value}"):
            batch_renorm_train(**good, **options | {name: value})
    _, cache = batch_renorm_train(**good, **options)
    with pytest.raises(ValueError, match=r"dy has shape \(3, 2\)"):
        batch_renorm_backward(x.T, cache)
    with pytest.raises(TypeError, match="dy has dtype int64"):
        batch_renorm_backward(x.astype(int), cache)


def test_weights_of_different_lengths_are_refused():
    layer = BatchRenorm()
    weights = {"gamma": np.ones(3), "beta": np.ones(2), "moving_mean": np.ones(3), "moving_variance": np.ones(3)}
    with pytest.raises(ValueError, match="the weights have different shapes"):
        layer.set_weights(weights | {"updates": 0})
    assert layer.gamma is None
