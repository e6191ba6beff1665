"""Ghost Batch Normalization: each virtual batch by itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nn_oracles import gradient, normalise, statistics

from bncourse.nn import (
    SGD,
    BatchNorm,
    Dense,
    GhostBatchNorm,
    Sequential,
    ghost_batch_norm_backward,
    ghost_batch_norm_train,
    virtual_batch_sizes,
)

# shape of x, axis, virtual batch size, the virtual batches as slices
LAYOUTS = [
    ((6, 3), -1, 3, [slice(0, 3), slice(3, 6)]),
    ((7, 3), -1, 3, [slice(0, 3), slice(3, 5), slice(5, 7)]),
    ((6, 3), -1, 10, [slice(0, 6)]),
    ((5, 3, 2, 2), 1, 2, [slice(0, 2), slice(2, 4), slice(4, 5)]),
    ((4, 2, 2, 3), (1, -1), 2, [slice(0, 2), slice(2, 4)]),
    ((2, 2, 2, 2, 3), -1, 1, [slice(0, 1), slice(1, 2)]),
]
layouts = pytest.mark.parametrize(("shape", "axis", "size", "parts"), LAYOUTS)


def prepared(shape, axis, size, dtype=np.float64, **options):
    """Return a built layer with nothing special about its weights, x and dy."""
    rng = np.random.default_rng(0)
    layer = GhostBatchNorm(size, axis=axis, epsilon=2e-3, **options)
    x, dy = (rng.normal(1.0, 2.0, shape).astype(dtype) for _ in range(2))
    layer(x, training=False)
    size = layer.gamma.shape
    layer.gamma[...], layer.beta[...], layer.moving_mean[...] = rng.normal(size=(3, *size))
    layer.moving_variance[...] = rng.uniform(0.5, 6.0, size)
    return layer, x, dy


def state_of(layer):
    return {name: np.copy(array) for name, array in layer.weights.items()}


@layouts
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5), (np.float16, 2e-2)])
def test_training_is_what_the_definition_says(shape, axis, size, parts, dtype, tolerance):
    layer, x, _ = prepared(shape, axis, size, dtype, momentum=0.7)
    before, y = state_of(layer), layer(x)
    assert y.dtype == dtype
    for part in parts:
        expected = normalise(x[part], *statistics(x[part], axis), before["gamma"], before["beta"], 2e-3, axis)
        np.testing.assert_allclose(y[part], expected, atol=tolerance, rtol=tolerance)
    # The moving average in closed form: the last virtual batch weighs most.
    k = len(parts)
    share = [0.3 * 0.7 ** (k - 1 - i) for i in range(k)]
    for name, seen in zip(
        ("moving_mean", "moving_variance"), zip(*(statistics(x[p], axis) for p in parts), strict=True), strict=True
    ):
        expected = 0.7**k * before[name] + np.tensordot(share, seen, 1)
        np.testing.assert_allclose(getattr(layer, name), expected, rtol=max(tolerance, 1e-6))
    assert int(layer.updates) == k


@layouts
@pytest.mark.parametrize("training", [True, False])
def test_backward_is_the_slope(shape, axis, size, parts, training):
    layer, x, dy = prepared(shape, axis, size)
    before = state_of(layer)

    def loss(x=x, **changes):
        layer.set_weights(before | changes)
        return (layer(x, training=training) * dy).sum()

    loss()
    dx, gradients = layer.backward(dy), layer.gradients
    np.testing.assert_allclose(dx, gradient(lambda v: loss(v), x), atol=1e-8)
    for name in ("gamma", "beta"):
        numeric = gradient(lambda v, name=name: loss(**{name: v}), before[name])
        np.testing.assert_allclose(gradients[name], numeric, atol=1e-8)


@layouts
def test_what_is_added_to_a_virtual_batch_gets_no_gradient(shape, axis, size, parts):
    layer, x, dy = prepared(shape, axis, size)
    layer(x)
    dx = layer.backward(dy)
    reduced = tuple(a for a in range(x.ndim) if a not in {k % x.ndim for k in np.atleast_1d(axis)})
    for part in parts:
        np.testing.assert_allclose(dx[part].sum(reduced), 0.0, atol=1e-12)


@given(
    st.integers(1, 12),
    st.lists(st.integers(1, 3), min_size=1, max_size=4),
    st.integers(1, 13),
    st.sampled_from([np.float16, np.float32, np.float64]),
    st.sampled_from(["population", "sample"]),
    st.sampled_from([None, 0.9]),
)
def test_it_is_batch_norm_over_the_virtual_batches_in_order(samples, rest, size, dtype, kind, momentum):
    rng = np.random.default_rng(0)
    x, dy = rng.normal(1.0, 2.0, (2, samples, *rest)).astype(dtype)
    options = {"momentum": momentum, "moving_variance": kind}
    ghost, plain = GhostBatchNorm(size, **options), BatchNorm(**options)
    y = ghost(x)
    dx, start, sums = ghost.backward(dy), 0, 0
    for n in virtual_batch_sizes(samples, size):
        part = slice(start, start + n)
        np.testing.assert_array_equal(y[part], plain(x[part]))
        np.testing.assert_array_equal(dx[part], plain.backward(dy[part]))
        sums = sums + plain.gradients["gamma"]
        start += n
    assert start == samples
    np.testing.assert_allclose(ghost.gradients["gamma"], sums, rtol=1e-3, atol=1e-5)
    for name, array in plain.weights.items():
        np.testing.assert_array_equal(ghost.weights[name], array)
    np.testing.assert_array_equal(ghost(x, training=False), plain(x, training=False))


@given(st.integers(1, 200), st.integers(1, 200))
def test_the_virtual_batches_are_few_and_even(samples, size):
    sizes = virtual_batch_sizes(samples, size)
    assert sum(sizes) == samples
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
    assert (len(sizes) - 1) * size < samples
    if samples % size == 0:
        assert set(sizes) == {size}


def test_one_more_sample_leaves_no_virtual_batch_of_one():
    x = np.random.default_rng(0).normal(size=(129, 2))
    y = GhostBatchNorm(64)(x)
    assert virtual_batch_sizes(129, 64) == (43, 43, 43)
    assert (y[-1] != 0).all()


def test_momentum_counts_virtual_batches():
    x = np.random.default_rng(0).normal(size=(8, 3))
    layer = GhostBatchNorm(2, momentum=0.5)
    layer.set_weights(
        {"gamma": np.ones(3), "beta": np.zeros(3), "moving_mean": np.full(3, 1e6), "moving_variance": np.ones(3)}
        | {"updates": 0}
    )
    layer(x)
    np.testing.assert_allclose(layer.moving_mean, 1e6 / 2**4, rtol=1e-4)


def test_the_sample_variance_is_n_over_n_minus_1_times_larger_for_each_virtual_batch():
    x = np.random.default_rng(0).normal(size=(8, 2))
    layer = GhostBatchNorm(4, momentum=None, moving_variance="sample")
    layer(x)
    expected = (x[:4].var(axis=0, ddof=1) + x[4:].var(axis=0, ddof=1)) / 2
    np.testing.assert_allclose(layer.moving_variance, expected, rtol=1e-12)


def test_trainable_false_means_inference_mode():
    layer, x, _ = prepared((6, 3), -1, 3)
    layer.trainable = False
    before = state_of(layer)
    np.testing.assert_array_equal(layer(x, training=True), layer(x, training=False))
    for name, array in state_of(layer).items():
        np.testing.assert_array_equal(array, before[name])
    assert layer.parameters == {}


def test_float16_does_not_overflow():
    x = np.array([[60000], [-60000], [60000], [-60000]], np.float16)
    layer = GhostBatchNorm(2, momentum=0.0)
    np.testing.assert_array_equal(layer(x).ravel(), [1, -1, 1, -1])
    dx = layer.backward(np.ones_like(x))
    assert (dx.dtype, layer.moving_variance.dtype) == (np.float16, np.float64)
    assert np.isfinite(dx).all()


@pytest.mark.parametrize(("center", "scale"), [(True, False), (False, True), (False, False)])
def test_center_and_scale_switch_the_parameters_off(center, scale):
    x, dy = np.random.default_rng(0).normal(size=(2, 6, 3))
    layer, full = GhostBatchNorm(3, center=center, scale=scale), GhostBatchNorm(3)
    np.testing.assert_allclose(layer(x), full(x), rtol=1e-12)
    np.testing.assert_allclose(layer.backward(dy), full.backward(dy), rtol=1e-10, atol=1e-13)
    expected = {name for name, has in (("gamma", scale), ("beta", center)) if has}
    assert set(layer.parameters) == set(layer.gradients) == expected


def test_a_network_trains_with_a_smaller_last_batch_and_is_saved_and_loaded(tmp_path):
    rng = np.random.default_rng(0)
    x, labels = rng.normal(5.0, 2.0, (13, 4)), np.arange(13) % 3
    model = Sequential([GhostBatchNorm(4, momentum=0.5), Dense(3, seed=0)])
    history = model.fit(x, labels, batch_size=8, epochs=40, optimizer=SGD(0.5), seed=0)
    assert np.mean(history.loss[-8:]) < np.mean(history.loss[:8])
    model.save(tmp_path / "network.npz")
    fresh = Sequential([GhostBatchNorm(4, momentum=0.5), Dense(3, seed=1)])
    fresh.load(tmp_path / "network.npz")
    np.testing.assert_array_equal(fresh(x, training=False), model(x, training=False))


def test_repr_shows_every_argument():
    assert repr(GhostBatchNorm(32, axis=1, moving_variance="sample")) == (
        "GhostBatchNorm(virtual_batch_size=32, axis=1, momentum=0.99, epsilon=0.001, center=True, scale=True, "
        "moving_variance='sample')"
    )


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"virtual_batch_size": 0}, ValueError, "virtual_batch_size = 0; expected an integer >= 1"),
        ({"virtual_batch_size": 2.0}, TypeError, r"virtual_batch_size = 2\.0; expected an integer"),
        ({"axis": 1.0}, TypeError, r"axis = 1\.0; expected an int"),
        ({"momentum": -0.1}, ValueError, r"momentum = -0\.1"),
        ({"epsilon": -1e-9}, ValueError, "epsilon = -1e-09; expected a finite number >= 0"),
        ({"moving_variance": "biased"}, ValueError, "moving_variance = 'biased'; expected 'population' or 'sample'"),
    ],
)
def test_impossible_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        GhostBatchNorm(**{"virtual_batch_size": 2} | arguments)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("axis", [0, -2, (0, 1)])
def test_the_batch_axis_cannot_be_kept(axis, training):
    layer, x = GhostBatchNorm(2, axis=axis), np.ones((4, 3) if axis != (0, 1) else (4, 3, 2))
    with pytest.raises(ValueError, match=r"names the batch axis of x .* name the axis of the channels"):
        layer(x, training=training)
    assert layer.moving_mean is layer.gamma is None


@pytest.mark.parametrize("training", [True, False])
def test_a_call_that_raises_leaves_the_layer_as_it_was(training):
    layer, x, dy = prepared((4, 3), -1, 2)
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


def test_no_samples_give_an_empty_y_in_inference_mode_and_an_error_in_training_mode():
    layer, x, _ = prepared((4, 3), -1, 2)
    with pytest.raises(ValueError, match="holds no numbers"):
        layer(x[:0])
    assert layer(x[:0], training=False).shape == layer.backward(x[:0]).shape == (0, 3)


def test_backward_before_forward_is_refused():
    with pytest.raises(RuntimeError, match=r"GhostBatchNorm\(.*backward before forward; call the layer first"):
        GhostBatchNorm(2).backward(np.ones((2, 3)))


def test_the_functions_check_what_they_are_given():
    x, options = np.ones((4, 3)), {"virtual_batch_size": 2, "epsilon": 1e-3, "axis": -1}
    with pytest.raises(ValueError, match=r"gamma has shape \(2,\); expected \(3,\)"):
        ghost_batch_norm_train(x, np.ones(2), None, **options)
    for name, value in {"virtual_batch_size": 0, "epsilon": -1, "axis": 0}.items():
        with pytest.raises(ValueError, match=f"{name} = {value}"):
            ghost_batch_norm_train(x, None, None, **options | {name: value})
    with pytest.raises(ValueError, match="samples = 0"):
        virtual_batch_sizes(0, 2)
    _, cache = ghost_batch_norm_train(x, None, None, **options)
    with pytest.raises(ValueError, match=r"dy has shape \(3, 4\); expected \(4, 3\)"):
        ghost_batch_norm_backward(x.T, cache)
    with pytest.raises(TypeError, match="dy has dtype int64"):
        ghost_batch_norm_backward(x.astype(int), cache)
