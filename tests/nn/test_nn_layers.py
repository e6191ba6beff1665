"""Dense, activations, dropout, flatten, losses."""

import math

import numpy as np
import pytest
from nn_oracles import gradient
from scipy import integrate, special, stats

from bncourse.nn import (
    SELU,
    AlphaDropout,
    Dense,
    Dropout,
    Flatten,
    Layer,
    ReLU,
    Sequential,
    Sigmoid,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
)
from bncourse.nn.layers import SELU_ALPHA, SELU_SCALE
from bncourse.nn.losses import one_hot


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# Dense


def test_dense_is_a_matrix_product_and_a_bias():
    layer = Dense(2, seed=0)
    layer.set_weights({"kernel": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "bias": [10.0, 20.0]})
    np.testing.assert_array_equal(layer(np.array([[1.0, 0.0, 2.0]])), [[21.0, 34.0]])


@pytest.mark.parametrize("shape", [(5, 3), (4, 2, 3)])
def test_dense_backward_agrees_with_finite_differences(shape):
    layer, x, dy = Dense(2, seed=1), numbers(*shape), numbers(*shape[:-1], 2, seed=1)
    layer(x)
    kernel, bias = layer.kernel.copy(), layer.bias.copy()

    def loss(x=x, kernel=kernel, bias=bias):
        layer.set_weights({"kernel": kernel, "bias": bias})
        return (layer(x) * dy).sum()

    loss()
    dx, gradients = layer.backward(dy), layer.gradients
    np.testing.assert_allclose(dx, gradient(lambda v: loss(x=v), x), atol=1e-9)
    np.testing.assert_allclose(gradients["kernel"], gradient(lambda v: loss(kernel=v), kernel), atol=1e-9)
    np.testing.assert_allclose(gradients["bias"], gradient(lambda v: loss(bias=v), bias), atol=1e-9)


def test_dense_without_bias_has_only_a_kernel():
    layer = Dense(2, use_bias=False, seed=0)
    layer.backward(np.ones_like(layer(numbers(4, 3))))
    assert set(layer.parameters) == set(layer.gradients) == {"kernel"}


def test_glorot_is_uniform_within_its_limit():
    layer = Dense(200, seed=0)
    layer(numbers(1, 400))
    limit = math.sqrt(6 / 600)
    assert 0.99 * limit < np.abs(layer.kernel).max() <= limit
    assert layer.kernel.std() == pytest.approx(limit / math.sqrt(3), rel=0.01)
    np.testing.assert_array_equal(layer.bias, np.zeros(200))


def test_he_is_normal_with_variance_two_over_inputs():
    layer = Dense(200, init="he", seed=0)
    layer(numbers(1, 400))
    assert layer.kernel.std() == pytest.approx(math.sqrt(2 / 400), rel=0.01)
    assert np.abs(layer.kernel).max() > 3.5 * math.sqrt(2 / 400)


def test_a_seed_fixes_the_kernel():
    first, same, other = Dense(3, seed=[4, 2]), Dense(3, seed=[4, 2]), Dense(3, seed=[4, 3])
    for layer in (first, same, other):
        layer(numbers(2, 5))
    np.testing.assert_array_equal(first.kernel, same.kernel)
    assert not np.array_equal(first.kernel, other.kernel)


@pytest.mark.parametrize(
    ("dtype", "expected"), [(np.float16, np.float32), (np.float32, np.float32), (np.float64, np.float64)]
)
def test_dense_keeps_the_type_of_x(dtype, expected):
    layer, x = Dense(2, seed=0), np.ones((3, 4), dtype)
    y = layer(x)
    assert y.dtype == layer.backward(y).dtype == dtype
    assert layer.kernel.dtype == layer.gradients["kernel"].dtype == layer.gradients["bias"].dtype == expected


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"units": 0}, ValueError, "units = 0; expected an integer >= 1"),
        ({"units": 2.0}, TypeError, r"units = 2\.0; expected an integer"),
        ({"units": True}, TypeError, "units = True; expected an integer"),
        ({"units": 2, "init": "zeros"}, ValueError, "init = 'zeros'; expected 'glorot' or 'he'"),
    ],
)
def test_dense_refuses_impossible_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Dense(**arguments)


def test_dense_refuses_another_number_of_inputs():
    layer = Dense(2, seed=0)
    y = layer(numbers(4, 3))
    with pytest.raises(ValueError, match=r"x has shape \(4, 5\), so 5 inputs; this layer was built for 3"):
        layer(numbers(4, 5))
    assert layer.backward(y).shape == (4, 3)


def test_dense_refuses_an_x_without_batch_axis():
    with pytest.raises(ValueError, match=r"x has shape \(3,\); expected a batch axis"):
        Dense(2)(numbers(3))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"kernel": np.ones((3, 4)), "bias": np.ones(2)}, r"kernel has shape \(3, 4\); expected \(inputs, 2\)"),
        ({"kernel": np.ones((3, 2)), "bias": np.ones(3)}, r"bias has shape \(3,\); expected \(2,\)"),
        ({"kernel": np.ones((3, 2))}, r"missing \['bias'\], unknown \[\]"),
        ({"kernel": np.ones((3, 2)), "bias": np.ones(2), "gamma": 1}, r"missing \[\], unknown \['gamma'\]"),
    ],
)
def test_dense_refuses_weights_that_do_not_fit(weights, message):
    layer = Dense(2)
    with pytest.raises(ValueError, match=message):
        layer.set_weights(weights)
    assert layer.kernel is None


def test_weights_of_another_shape_are_refused_once_built():
    layer = Dense(2, use_bias=False, seed=0)
    layer(numbers(4, 3))
    with pytest.raises(ValueError, match=r"kernel has shape \(5, 2\); expected \(3, 2\)"):
        layer.set_weights({"kernel": np.ones((5, 2))})


def test_set_weights_takes_copies():
    layer, kernel = Dense(2, use_bias=False), np.ones((3, 2))
    layer.set_weights({"kernel": kernel})
    kernel[:] = 7.0
    np.testing.assert_array_equal(layer.kernel, np.ones((3, 2)))


# Activations and shapes


def test_relu():
    layer = ReLU()
    np.testing.assert_array_equal(layer(np.array([[-2.0, 0.0, 3.0]])), [[0.0, 0.0, 3.0]])
    np.testing.assert_array_equal(layer.backward(np.array([[5.0, 5.0, 5.0]])), [[0.0, 0.0, 5.0]])


def test_sigmoid():
    layer, x = Sigmoid(), np.array([[-2.0, 0.0, 3.0]])
    np.testing.assert_allclose(layer(x), 1 / (1 + np.exp(-x)), rtol=1e-14)
    layer(x)
    dx = layer.backward(np.ones((1, 3)))
    np.testing.assert_allclose(dx, gradient(lambda v: layer(v).sum(), x), atol=1e-10)


def test_sigmoid_does_not_overflow():
    y = Sigmoid()(np.array([[-1000.0, -80.0, 1000.0]], np.float32))
    np.testing.assert_allclose(y, [[0.0, math.exp(-80), 1.0]], rtol=1e-5)
    assert y.dtype == np.float32


def standard_normal_mean(function):
    """Mean of a function of a standard normal number, by quadrature on either side of the kink at 0."""
    return sum(integrate.quad(lambda z: function(z) * stats.norm.pdf(z), *ends)[0] for ends in ((-30, 0), (0, 30)))


def test_selu_in_closed_form():
    x = np.array([[-2.0, -1e-9, 0.0, 3.0]])
    expected = SELU_SCALE * np.array([[SELU_ALPHA * (math.exp(-2) - 1), -SELU_ALPHA * 1e-9, 0.0, 3.0]])
    np.testing.assert_allclose(SELU()(x), expected, rtol=1e-8)


def test_selu_keeps_mean_0_and_variance_1():
    layer = SELU()
    assert standard_normal_mean(lambda z: layer(np.array([[z]])).item()) == pytest.approx(0, abs=1e-12)
    assert standard_normal_mean(lambda z: layer(np.array([[z]])).item() ** 2) == pytest.approx(1, abs=1e-12)


def test_the_constants_of_selu_have_a_closed_form():
    # the two equations of the test above, solved (Klambauer et al. 2017)
    alpha = -math.sqrt(2 / math.pi) / (special.erfc(math.sqrt(0.5)) * math.exp(0.5) - 1)
    assert pytest.approx(alpha, rel=1e-15) == SELU_ALPHA


def test_selu_backward_agrees_with_finite_differences():
    layer, x = SELU(), np.array([[-3.0, -0.5, 0.4, 2.0]])
    layer(x)
    np.testing.assert_allclose(layer.backward(np.ones((1, 4))), gradient(lambda v: layer(v).sum(), x), atol=1e-9)


def test_selu_does_not_overflow_and_keeps_small_differences():
    layer = SELU()
    y = layer(np.array([[-1000.0, -1e-6, 1000.0]], np.float32))
    np.testing.assert_allclose(y, [[-1.7580993, -1.7580993e-6, 1050.7010]], rtol=1e-6)
    np.testing.assert_allclose(layer.backward(np.ones((1, 3), np.float32)), [[0.0, 1.7580976, 1.0507010]], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("make", [SELU, lambda: AlphaDropout(0.3, seed=0), lambda: Dropout(0.3, seed=0)])
def test_the_activations_keep_the_type_of_x(make, dtype):
    layer, x = make(), numbers(3, 4).astype(dtype)
    y = layer(x)
    assert y.dtype == layer.backward(y).dtype == dtype


def test_flatten():
    layer, x = Flatten(), numbers(2, 3, 4)
    y = layer(x)
    np.testing.assert_array_equal(y, x.reshape(2, 12))
    np.testing.assert_array_equal(layer.backward(y), x)


def test_flatten_of_no_samples_has_the_right_width():
    assert Flatten()(np.ones((0, 3, 4))).shape == (0, 12)


def test_flatten_refuses_an_x_without_batch_axis():
    with pytest.raises(ValueError, match=r"x has shape \(3,\); expected a batch axis and at least one more"):
        Flatten()(numbers(3))


@pytest.mark.parametrize("layer", [ReLU(), SELU(), Sigmoid(), Flatten(), Dropout(0.5), AlphaDropout(0.5), Dense(2)])
def test_backward_before_forward_is_refused(layer):
    with pytest.raises(RuntimeError, match=rf"{type(layer).__name__}\(.*\): backward before forward; call the layer"):
        layer.backward(np.ones((2, 2)))


@pytest.mark.parametrize(
    "layer", [ReLU(), SELU(), Sigmoid(), Flatten(), Dropout(0.5, seed=0), AlphaDropout(0.5, seed=0), Dense(2)]
)
def test_the_layers_share_the_checks_of_x_and_dy(layer):
    with pytest.raises(TypeError, match="x has dtype int64; expected floating-point numbers"):
        layer(np.ones((2, 3), int))
    layer(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"dy has shape \(2, 7\); expected \(2, \d\), the shape of y"):
        layer.backward(np.ones((2, 7)))


def test_a_layer_has_to_say_what_it_computes():
    with pytest.raises(NotImplementedError):
        Layer()(np.ones((2, 2)))


# Dropout


def test_dropout_drops_the_share_and_keeps_the_expectation():
    y = Dropout(0.25, seed=0)(np.ones((400, 250)), training=True)
    assert set(np.unique(y)) == {0.0, 1 / 0.75}
    assert (y == 0).mean() == pytest.approx(0.25, abs=0.01)  # seven standard deviations
    assert y.mean() == pytest.approx(1.0, abs=0.01)


def test_dropout_passes_the_gradient_where_it_passed_x():
    layer = Dropout(0.5, seed=0)
    y = layer(np.ones((10, 10)), training=True)
    np.testing.assert_array_equal(layer.backward(np.ones((10, 10))), y)


BOTH = pytest.mark.parametrize("make", [Dropout, AlphaDropout])


@BOTH
def test_dropout_changes_nothing_in_inference_mode(make):
    layer, x = make(0.5, seed=0), numbers(4, 3)
    layer(x, training=True)
    np.testing.assert_array_equal(layer(x, training=False), x)
    np.testing.assert_array_equal(layer.backward(x), x)


@BOTH
def test_dropout_draws_anew_at_each_call_and_the_same_in_each_run(make):
    layer, again, x = make(0.5, seed=3), make(0.5, seed=3), np.ones((20, 20))
    first, second = layer(x), layer(x)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal([again(x), again(x)], [first, second])


@BOTH
def test_a_call_that_a_later_layer_refuses_costs_no_draw(make):
    layer, again, x = make(0.5, seed=3), make(0.5, seed=3), np.ones((20, 20))
    with pytest.raises(ValueError, match="built for 3"):
        Sequential([layer, built_for_three_inputs()])(x)
    np.testing.assert_array_equal(layer(x), again(x))


def built_for_three_inputs():
    layer = Dense(2)
    layer(np.ones((1, 3)))
    return layer


@BOTH
def test_dropout_without_seed_differs_from_layer_to_layer(make):
    x = np.ones((20, 20))
    assert not np.array_equal(make(0.5)(x), make(0.5)(x))


@BOTH
def test_dropout_at_rate_0_changes_nothing(make):
    x = numbers(4, 3)
    np.testing.assert_array_equal(make(0.0)(x), x)


@BOTH
@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_dropout_refuses_a_rate_outside_its_range(make, rate):
    with pytest.raises(ValueError, match=rf"rate = {rate}; expected a number in \[0, 1\)"):
        make(rate)


@BOTH
def test_dropout_says_what_it_is(make):
    assert repr(make(0.25, seed=3)) == f"{make.__name__}(0.25, seed=3)"


@pytest.mark.parametrize("rate", [0.05, 0.25, 0.5])
def test_alpha_dropout_keeps_mean_0_and_variance_1(rate):
    x = numbers(2000, 1000)
    y = AlphaDropout(rate, seed=0)(x)
    assert y.mean() == pytest.approx(0.0, abs=0.005)  # seven standard deviations: 1 / sqrt(2e6) each
    assert y.var() == pytest.approx(1.0, abs=0.01)
    assert Dropout(rate, seed=0)(x).var() > 1.04  # plain dropout does not


def test_alpha_dropout_in_closed_form():
    x, q, limit = numbers(50, 40), 0.7, -1.0507009873554805 * 1.6732632423543772
    y = AlphaDropout(0.3, seed=0)(x)
    # the line y = a x + b of which a standard normal x, set to `limit` with probability 0.3, comes out standardised
    mean, square = 0.3 * limit, q * 1 + 0.3 * limit**2
    a = 1 / math.sqrt(square - mean**2)
    b = -a * mean
    dropped = np.isclose(y, a * limit + b)
    np.testing.assert_allclose(y[~dropped], a * x[~dropped] + b, rtol=1e-12, atol=1e-12)
    assert dropped.mean() == pytest.approx(0.3, abs=0.07)  # seven standard deviations


def test_alpha_dropout_backward_agrees_with_finite_differences():
    x, dy = numbers(4, 5), numbers(4, 5, seed=1)
    layer = AlphaDropout(0.4, seed=0)
    layer(x)
    numeric = gradient(lambda v: (AlphaDropout(0.4, seed=0)(v) * dy).sum(), x)
    assert (numeric == 0).any()
    np.testing.assert_allclose(layer.backward(dy), numeric, atol=1e-10)


# Losses


def test_softmax_cross_entropy_of_equal_logits_is_the_log_of_the_classes():
    loss, dlogits = softmax_cross_entropy(np.zeros((4, 10)), np.array([0, 3, 3, 9]))
    assert loss == pytest.approx(math.log(10), rel=1e-14)
    np.testing.assert_allclose(dlogits, (0.1 - np.eye(10)[[0, 3, 3, 9]]) / 4)


def test_sigmoid_cross_entropy_of_equal_logits_is_log_2():
    loss, dlogits = sigmoid_cross_entropy(np.zeros((4, 10)), np.array([0, 3, 3, 9]))
    assert loss == pytest.approx(math.log(2), rel=1e-14)
    np.testing.assert_allclose(dlogits, (0.5 - np.eye(10)[[0, 3, 3, 9]]) / 40)


@pytest.mark.parametrize("loss", [softmax_cross_entropy, sigmoid_cross_entropy])
def test_the_gradient_of_a_loss_agrees_with_finite_differences(loss):
    logits, labels = numbers(4, 3), np.array([2, 0, 1, 1])
    numeric = gradient(lambda z: loss(z, labels)[0], logits)
    np.testing.assert_allclose(loss(logits, labels)[1], numeric, atol=1e-10)


@pytest.mark.parametrize("loss", [softmax_cross_entropy, sigmoid_cross_entropy])
def test_soft_targets_are_allowed(loss):
    logits, targets = numbers(4, 3), np.random.default_rng(0).random((4, 3))
    numeric = gradient(lambda z: loss(z, targets)[0], logits)
    np.testing.assert_allclose(loss(logits, targets)[1], numeric, atol=1e-10)


@pytest.mark.parametrize("loss", [softmax_cross_entropy, sigmoid_cross_entropy])
def test_integer_labels_are_one_hot_targets(loss):
    logits, labels = numbers(4, 3), np.array([2, 0, 1, 1])
    hard, soft = loss(logits, labels), loss(logits, one_hot(labels, 3))
    assert hard[0] == soft[0]
    np.testing.assert_array_equal(hard[1], soft[1])


@pytest.mark.parametrize(("loss", "expected"), [(softmax_cross_entropy, 2000.0), (sigmoid_cross_entropy, 1000.0)])
def test_large_logits_do_not_overflow(loss, expected):
    value, dlogits = loss(np.array([[1000.0, -1000.0]], np.float32), np.array([1]))
    assert value == pytest.approx(expected)
    assert dlogits.dtype == np.float32
    assert np.isfinite(dlogits).all()


def test_one_hot():
    np.testing.assert_array_equal(one_hot([1, 0], 3), [[0, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize(
    ("logits", "labels", "error", "message"),
    [
        (np.ones((2, 3), int), [0, 1], TypeError, "logits has dtype int64"),
        (np.ones(3), [0], ValueError, r"logits have shape \(3,\); expected \(batch, classes\)"),
        (np.ones((0, 3)), np.array([], int), ValueError, r"logits have shape \(0, 3\)"),
        (np.ones((2, 3)), [0, 3], ValueError, "labels hold 3; expected classes from 0 to 2"),
        (np.ones((2, 3)), [0, -1], ValueError, "labels hold -1"),
        (np.ones((2, 3)), ["a", "b"], TypeError, "labels have dtype .*; expected integers"),
        (np.ones((2, 3)), [[0], [1]], ValueError, r"labels have shape \(2, 1\); expected \(batch,\)"),
        (np.ones((2, 3)), [0, 1, 2], ValueError, r"labels have shape \(3,\); expected \(2,\) or \(2, 3\)"),
        (np.ones((2, 3)), np.ones((2, 2)), ValueError, r"labels have shape \(2, 2\); expected \(2,\) or \(2, 3\)"),
    ],
)
def test_losses_name_what_does_not_fit(logits, labels, error, message):
    for loss in (softmax_cross_entropy, sigmoid_cross_entropy):
        with pytest.raises(error, match=message):
            loss(logits, labels)
