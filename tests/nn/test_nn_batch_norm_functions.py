"""The pure functions against oracles that share no code with them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nn_oracles import gradient, kept_shape, normalise, statistics

from bncourse.nn import (
    batch_norm_backward,
    batch_norm_backward_graph,
    batch_norm_inference,
    batch_norm_inference_backward,
    batch_norm_train,
    update_moving,
)

EPSILON = 1e-3
LAYOUTS = [((6, 3), -1), ((6, 3), 0), ((3, 2, 4, 2), -1), ((3, 2, 4, 2), 1), ((3, 2, 4, 2), (1, 3))]
LAYOUTS += [((3, 4, 2), (-1, 1)), ((2, 2, 3, 2, 2), 4)]


def arrays(shape, axis, seed=0):
    """Return x, gamma, beta and dy with nothing special about them."""
    rng = np.random.default_rng(seed)
    channels = kept_shape(shape, axis)
    return rng.normal(2.0, 3.0, shape), rng.normal(size=channels), rng.normal(size=channels), rng.normal(size=shape)


@st.composite
def layouts(draw):
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=2, max_size=5)))
    kept = draw(st.sets(st.integers(0, len(shape) - 1), min_size=1, max_size=len(shape) - 1))
    axis = tuple(draw(st.permutations([draw(st.sampled_from([a, a - len(shape)])) for a in sorted(kept)])))
    return shape, axis[0] if len(axis) == 1 and draw(st.booleans()) else axis


@given(layouts(), st.integers(0, 99))
@settings(deadline=None, max_examples=60, derandomize=True)
def test_forward_agrees_with_the_written_out_oracle(layout, seed):
    shape, axis = layout
    x, gamma, beta, _ = arrays(shape, axis, seed)
    y, cache = batch_norm_train(x, gamma, beta, epsilon=EPSILON, axis=axis)
    mean, variance = statistics(x, axis)
    np.testing.assert_allclose(cache.mean, mean, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(cache.variance, variance, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(y, normalise(x, mean, variance, gamma, beta, EPSILON, axis), rtol=1e-10, atol=1e-12)


@given(layouts(), st.integers(0, 99))
@settings(deadline=None, max_examples=60, derandomize=True)
def test_the_two_backward_passes_agree(layout, seed):
    shape, axis = layout
    x, gamma, beta, dy = arrays(shape, axis, seed)
    _, cache = batch_norm_train(x, gamma, beta, epsilon=EPSILON, axis=axis)
    for compact, graph in zip(batch_norm_backward(dy, cache), batch_norm_backward_graph(dy, cache), strict=True):
        assert compact.shape == graph.shape
        np.testing.assert_allclose(compact, graph, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("shape", "axis"), LAYOUTS)
@pytest.mark.parametrize("backward", [batch_norm_backward, batch_norm_backward_graph])
def test_backward_in_training_mode_agrees_with_finite_differences(shape, axis, backward):
    x, gamma, beta, dy = arrays(shape, axis)

    def loss(x, gamma, beta):
        return (batch_norm_train(x, gamma, beta, epsilon=EPSILON, axis=axis)[0] * dy).sum()

    _, cache = batch_norm_train(x, gamma, beta, epsilon=EPSILON, axis=axis)
    dx, dgamma, dbeta = backward(dy, cache)
    np.testing.assert_allclose(dx, gradient(lambda v: loss(v, gamma, beta), x), atol=1e-8)
    np.testing.assert_allclose(dgamma, gradient(lambda v: loss(x, v, beta), gamma), atol=1e-8)
    np.testing.assert_allclose(dbeta, gradient(lambda v: loss(x, gamma, v), beta), atol=1e-8)


@pytest.mark.parametrize(("shape", "axis"), LAYOUTS)
def test_backward_in_inference_mode_agrees_with_finite_differences(shape, axis):
    x, gamma, beta, dy = arrays(shape, axis)
    rng = np.random.default_rng(7)
    moving = rng.normal(size=gamma.shape), rng.uniform(0.5, 2.0, gamma.shape)

    def loss(x, gamma, beta):
        return (batch_norm_inference(x, gamma, beta, *moving, epsilon=EPSILON, axis=axis) * dy).sum()

    dx, dgamma, dbeta = batch_norm_inference_backward(dy, x, gamma, *moving, epsilon=EPSILON, axis=axis)
    np.testing.assert_allclose(dx, gradient(lambda v: loss(v, gamma, beta), x), atol=1e-8)
    np.testing.assert_allclose(dgamma, gradient(lambda v: loss(x, v, beta), gamma), atol=1e-8)
    np.testing.assert_allclose(dbeta, gradient(lambda v: loss(x, gamma, v), beta), atol=1e-8)


def test_inference_agrees_with_the_written_out_oracle():
    x, gamma, beta, _ = arrays((3, 2, 4, 2), 1)
    mean, variance = np.array([1.0, -2.0]), np.array([0.25, 9.0])
    y = batch_norm_inference(x, gamma, beta, mean, variance, epsilon=EPSILON, axis=1)
    np.testing.assert_allclose(y, normalise(x, mean, variance, gamma, beta, EPSILON, 1), rtol=1e-12)


def test_inference_treats_each_sample_by_itself():
    x, gamma, beta, _ = arrays((6, 3), -1)
    whole = batch_norm_inference(x, gamma, beta, gamma, np.ones(3), epsilon=EPSILON, axis=-1)
    single = batch_norm_inference(x[:1], gamma, beta, gamma, np.ones(3), epsilon=EPSILON, axis=-1)
    np.testing.assert_array_equal(single, whole[:1])


def test_gamma_and_beta_may_be_left_out():
    x, _, _, dy = arrays((6, 3), -1)
    ones, zeros = np.ones(3), np.zeros(3)
    with_them, cache = batch_norm_train(x, ones, zeros, epsilon=EPSILON, axis=-1)
    without, bare = batch_norm_train(x, None, None, epsilon=EPSILON, axis=-1)
    np.testing.assert_array_equal(without, with_them)
    for backward in (batch_norm_backward, batch_norm_backward_graph):
        np.testing.assert_allclose(backward(dy, bare)[0], backward(dy, cache)[0], rtol=1e-13)
    given = {"epsilon": EPSILON, "axis": -1}
    np.testing.assert_array_equal(
        batch_norm_inference(x, None, None, zeros, ones, **given),
        batch_norm_inference(x, ones, zeros, zeros, ones, **given),
    )
    np.testing.assert_allclose(
        batch_norm_inference_backward(dy, x, None, zeros, ones, **given)[0],
        batch_norm_inference_backward(dy, x, ones, zeros, ones, **given)[0],
        rtol=1e-13,
    )


def test_y_has_mean_beta_and_standard_deviation_gamma():
    x, gamma, beta, _ = arrays((500, 3), -1)
    y, _ = batch_norm_train(x, gamma, beta, epsilon=0.0, axis=-1)
    np.testing.assert_allclose(y.mean(axis=0), beta, atol=1e-12)
    np.testing.assert_allclose(y.std(axis=0), np.abs(gamma), rtol=1e-12)


def test_a_shift_of_x_changes_nothing():
    x, gamma, beta, _ = arrays((6, 3), -1)
    y, _ = batch_norm_train(x, gamma, beta, epsilon=EPSILON, axis=-1)
    shifted, _ = batch_norm_train(x + np.array([5.0, -7.0, 100.0]), gamma, beta, epsilon=EPSILON, axis=-1)
    np.testing.assert_allclose(shifted, y, atol=1e-11)


def test_a_positive_factor_on_x_changes_nothing_without_epsilon():
    x, gamma, beta, dy = arrays((6, 3), -1)
    y, cache = batch_norm_train(x, gamma, beta, epsilon=0.0, axis=-1)
    scaled, scaled_cache = batch_norm_train(8.0 * x, gamma, beta, epsilon=0.0, axis=-1)
    np.testing.assert_allclose(scaled, y, rtol=1e-12)
    np.testing.assert_allclose(
        batch_norm_backward(dy, scaled_cache)[0], batch_norm_backward(dy, cache)[0] / 8, atol=1e-14
    )


@pytest.mark.parametrize(("shape", "axis"), LAYOUTS)
def test_dx_is_orthogonal_to_the_ones(shape, axis):
    x, gamma, beta, dy = arrays(shape, axis)
    _, cache = batch_norm_train(x, gamma, beta, epsilon=EPSILON, axis=axis)
    dx, _, _ = batch_norm_backward(dy, cache)
    np.testing.assert_allclose(dx.sum(axis=cache.axes.reduced), 0.0, atol=1e-12)


@pytest.mark.parametrize(("shape", "axis"), LAYOUTS)
def test_what_epsilon_leaves_of_dx_along_x_hat(shape, axis):
    # sum(dx x_hat) = gamma / sigma * dgamma * epsilon / (variance + epsilon), since mean(x_hat^2) is not quite 1
    x, gamma, beta, dy = arrays(shape, axis)
    epsilon = 0.5
    _, cache = batch_norm_train(x, gamma, beta, epsilon=epsilon, axis=axis)
    dx, dgamma, _ = batch_norm_backward(dy, cache)
    along = (dx * cache.x_hat).sum(axis=cache.axes.reduced)
    expected = gamma * dgamma * epsilon / (cache.variance + epsilon) ** 1.5
    np.testing.assert_allclose(along, expected, atol=1e-12)
    assert np.abs(expected).max() > 1e-3


def test_statistics_of_data_far_from_zero_are_exact_in_float32():
    rng = np.random.default_rng(0)
    x = (12345.678 + 1e-2 * rng.normal(size=(5000, 4))).astype(np.float32)
    y, cache = batch_norm_train(x, None, None, epsilon=0.0, axis=-1)
    mean, variance = statistics(x, -1)
    expected = normalise(x, mean, variance, np.ones(4), np.zeros(4), 0.0, -1)
    np.testing.assert_allclose(y, expected, atol=5e-5)  # plain two-pass: 5
    np.testing.assert_allclose(cache.mean, mean, rtol=6e-8)  # half a unit in the last place
    np.testing.assert_allclose(cache.variance, variance, rtol=1e-5)


def test_inference_on_data_far_from_zero_does_not_cancel_in_float32():
    x = np.array([[10000.5], [10001.0]], np.float32)
    y = batch_norm_inference(
        x, None, None, np.array([1e4], np.float32), np.array([0.1], np.float32), epsilon=0.0, axis=-1
    )
    np.testing.assert_allclose(y, [[0.5 / 0.1**0.5], [1.0 / 0.1**0.5]], rtol=1e-6)


def test_float16_is_computed_in_float32_and_returned_as_float16():
    x = np.array([[300.0], [-300.0]], np.float16)  # its squares overflow in float16
    y, cache = batch_norm_train(x, None, None, epsilon=0.0, axis=-1)
    assert y.dtype == np.float16
    assert cache.variance.dtype == np.float32
    np.testing.assert_array_equal(y, [[1], [-1]])
    assert batch_norm_backward(y, cache)[0].dtype == np.float16
    assert batch_norm_backward(y, cache)[1].dtype == np.float32


def test_the_inputs_are_left_alone():
    x, gamma, beta, dy = arrays((6, 3), -1)
    copies = [a.copy() for a in (x, gamma, beta, dy)]
    _, cache = batch_norm_train(x, gamma, beta, epsilon=EPSILON, axis=-1)
    batch_norm_backward(dy, cache)
    batch_norm_backward_graph(dy, cache)
    for array, copy in zip((x, gamma, beta, dy), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_an_update_keeps_the_share_momentum_of_the_old_value():
    assert update_moving(np.array([10.0]), np.array([20.0]), 0.9).item() == pytest.approx(11.0)


def test_an_update_is_float64_whatever_it_is_given():
    assert update_moving(np.ones(2, np.float32), np.ones(2, np.float32), 0.5).dtype == np.float64


# Masks


def test_a_mask_gives_the_statistics_of_the_positions_that_count():
    x, gamma, beta, _ = arrays((4, 5, 3), -1)
    mask = np.random.default_rng(1).random((4, 5)) < 0.6
    y, cache = batch_norm_train(x, gamma, beta, epsilon=EPSILON, axis=-1, mask=mask)
    mean, variance = statistics(x[mask], -1)
    np.testing.assert_allclose(cache.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(cache.variance, variance, rtol=1e-12)
    assert cache.count == mask.sum()
    np.testing.assert_allclose(y, normalise(x, mean, variance, gamma, beta, EPSILON, -1), rtol=1e-10)


def test_a_mask_lies_over_the_reduced_axes_whatever_the_axis():
    x, gamma, beta, _ = arrays((4, 5, 3), -1)
    mask = np.random.default_rng(1).random((4, 5)) < 0.6
    y, _ = batch_norm_train(x, gamma, beta, epsilon=EPSILON, axis=-1, mask=mask)
    turned, _ = batch_norm_train(x.transpose(0, 2, 1), gamma, beta, epsilon=EPSILON, axis=1, mask=mask)
    np.testing.assert_allclose(turned.transpose(0, 2, 1), y, rtol=1e-12)


def test_a_mask_of_length_one_is_repeated():
    x, gamma, beta, _ = arrays((4, 5, 3), -1)
    short = np.array([[True], [False], [True], [True]])
    y, cache = batch_norm_train(x, gamma, beta, epsilon=EPSILON, axis=-1, mask=short)
    full, _ = batch_norm_train(x, gamma, beta, epsilon=EPSILON, axis=-1, mask=np.repeat(short, 5, axis=1))
    assert cache.count == 15
    np.testing.assert_array_equal(y, full)


def test_a_mask_of_trues_changes_nothing():
    x, gamma, beta, dy = arrays((4, 5, 3), -1)
    y, cache = batch_norm_train(x, gamma, beta, epsilon=EPSILON, axis=-1)
    masked, masked_cache = batch_norm_train(x, gamma, beta, epsilon=EPSILON, axis=-1, mask=np.ones((4, 5)))
    np.testing.assert_allclose(masked, y, rtol=1e-12)
    np.testing.assert_allclose(batch_norm_backward(dy, masked_cache)[0], batch_norm_backward(dy, cache)[0], atol=1e-13)


@pytest.mark.parametrize("backward", [batch_norm_backward, batch_norm_backward_graph])
@pytest.mark.parametrize(("shape", "axis"), [((4, 5, 3), -1), ((4, 3, 2), 1), ((5, 3), -1)])
def test_masked_backward_agrees_with_finite_differences(backward, shape, axis):
    x, gamma, beta, dy = arrays(shape, axis)
    reduced = [n for a, n in enumerate(shape) if a != axis % len(shape)]
    mask = np.random.default_rng(3).random(reduced) < 0.7
    assert mask.any()
    assert not mask.all()

    def loss(x, gamma, beta):
        return (batch_norm_train(x, gamma, beta, epsilon=EPSILON, axis=axis, mask=mask)[0] * dy).sum()

    _, cache = batch_norm_train(x, gamma, beta, epsilon=EPSILON, axis=axis, mask=mask)
    dx, dgamma, dbeta = backward(dy, cache)
    np.testing.assert_allclose(dx, gradient(lambda v: loss(v, gamma, beta), x), atol=1e-8)
    np.testing.assert_allclose(dgamma, gradient(lambda v: loss(x, v, beta), gamma), atol=1e-8)
    np.testing.assert_allclose(dbeta, gradient(lambda v: loss(x, gamma, v), beta), atol=1e-8)


# Errors


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": np.ones((2, 3), int)}, TypeError, r"x has dtype int64; .* x\.astype\(np\.float32\)"),
        ({"x": np.ones(3)}, ValueError, r"x has rank 1 \(shape \(3,\)\); expected rank 2 to 5"),
        ({"x": np.ones((1,) * 6)}, ValueError, "x has rank 6"),
        ({"x": np.ones((0, 3))}, ValueError, r"x has shape \(0, 3\) and holds no numbers"),
        ({"axis": 2}, ValueError, "axis = 2 is out of range for x of rank 2"),
        ({"axis": -3}, ValueError, "axis = -3 is out of range"),
        ({"axis": (1, -1)}, ValueError, r"axis = \(1, -1\) names an axis of x twice"),
        ({"axis": (0, 1)}, ValueError, r"axis = \(0, 1\) keeps every axis"),
        ({"epsilon": -1e-3}, ValueError, r"epsilon = -0\.001; expected a finite number >= 0"),
        ({"epsilon": float("nan")}, ValueError, "epsilon = nan"),
        ({"gamma": np.ones(2)}, ValueError, r"gamma has shape \(2,\); expected \(3,\)"),
        ({"beta": np.ones((3, 1))}, ValueError, r"beta has shape \(3, 1\); expected \(3,\)"),
        ({"gamma": np.ones(3, int)}, TypeError, "gamma has dtype int64"),
        ({"mask": np.ones((2, 3))}, ValueError, r"mask has shape \(2, 3\); expected \(2,\)"),
        ({"mask": np.ones(3)}, ValueError, r"mask has shape \(3,\); expected \(2,\)"),
        ({"mask": [False, False]}, ValueError, "mask excludes every position"),
    ],
)
def test_forward_names_the_argument_that_is_wrong(change, error, message):
    arguments = {"x": np.ones((2, 3)), "gamma": np.ones(3), "beta": np.zeros(3), "epsilon": 1e-3, "axis": -1}
    with pytest.raises(error, match=message):
        batch_norm_train(**(arguments | change))


def test_inference_names_the_statistics_that_do_not_fit():
    with pytest.raises(ValueError, match=r"moving_variance has shape \(2,\); expected \(3,\)"):
        batch_norm_inference(np.ones((2, 3)), None, None, np.ones(3), np.ones(2), epsilon=0.1, axis=-1)


def test_inference_refuses_a_negative_epsilon():
    with pytest.raises(ValueError, match=r"epsilon = -1; expected"):
        batch_norm_inference(np.ones((2, 3)), None, None, np.ones(3), np.ones(3), epsilon=-1, axis=-1)


@pytest.mark.parametrize("backward", [batch_norm_backward, batch_norm_backward_graph])
def test_backward_refuses_a_gradient_of_another_shape(backward):
    _, cache = batch_norm_train(np.ones((2, 3)), None, None, epsilon=1e-3, axis=-1)
    with pytest.raises(ValueError, match=r"dy has shape \(3,\); expected \(2, 3\), the shape of y"):
        backward(np.ones(3), cache)
