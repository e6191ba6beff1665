"""Convolution and max pooling: against plain loops in float64, and finite differences."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nn_oracles import gradient, slope
from sklearn.datasets import load_digits

from bncourse.nn import (
    Adam,
    BatchNorm,
    Conv2D,
    Dense,
    Flatten,
    MaxPool,
    ReLU,
    Sequential,
    conv2d,
    conv2d_backward,
    max_pool,
    max_pool_backward,
    same_padding,
)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# The oracle: every number of the output by itself


def starts(length, kernel, stride, padding):
    """Where the windows of one axis begin; negative or too late means in the margin."""
    if padding == "valid":
        return range(0, length - kernel + 1, stride)
    count = math.ceil(length / stride)
    missing = max(stride * (count - 1) + kernel - length, 0)
    return [stride * i - missing // 2 for i in range(count)]


def window(image, top, left, size):
    """Yield (i, j, pixel) for the places of a window that lie on the image."""
    height, width = image.shape[:2]
    for i in range(size[0]):
        for j in range(size[1]):
            if 0 <= top + i < height and 0 <= left + j < width:
                yield i, j, image[top + i, left + j]


def slide(x, size, strides, padding, function, channels):
    """Apply a function of (image, top, left) to every window."""
    rows, columns = (starts(x.shape[a + 1], size[a], strides[a], padding) for a in (0, 1))
    y = np.zeros((len(x), len(rows), len(columns), channels))
    for n, image in enumerate(np.asarray(x, np.float64)):
        for r, top in enumerate(rows):
            for c, left in enumerate(columns):
                y[n, r, c] = function(image, top, left)
    return y


def slow_conv(x, kernel, bias, strides, padding):
    def at(image, top, left):
        return bias + sum(pixel @ kernel[i, j] for i, j, pixel in window(image, top, left, kernel.shape[:2]))

    return slide(x, kernel.shape[:2], strides, padding, at, kernel.shape[3])


def slow_pool(x, size, strides, padding):
    def at(image, top, left):
        return np.max([pixel for _, _, pixel in window(image, top, left, size)], axis=0)

    return slide(x, size, strides, padding, at, x.shape[3])


@st.composite
def cases(draw):
    """Draw shape, window, strides and padding that go together."""
    small, tiny = st.integers(1, 6), st.integers(1, 4)
    padding = draw(st.sampled_from(["valid", "same"]))
    height, width = draw(small), draw(small)
    size = tuple(draw(st.integers(1, min(4, n) if padding == "valid" else 4)) for n in (height, width))
    strides = draw(tiny), draw(tiny)
    shape = draw(st.integers(1, 2)), height, width, draw(st.integers(1, 3))
    return shape, size, strides, padding


# Padding


@pytest.mark.parametrize(
    ("length", "kernel", "stride", "expected"),
    [
        (28, 3, 1, (1, 1)),
        (28, 3, 2, (0, 1)),  # an odd number: more at the end
        (27, 3, 2, (1, 1)),
        (28, 2, 1, (0, 1)),
        (28, 4, 1, (1, 2)),
        (28, 1, 1, (0, 0)),
        (28, 1, 3, (0, 0)),  # windows with gaps between them
        (5, 2, 4, (0, 1)),
        (1, 5, 1, (2, 2)),
    ],
)
def test_same_padding_by_hand(length, kernel, stride, expected):
    assert same_padding(length, kernel, stride) == expected


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 6))
def test_same_padding_leaves_room_for_just_enough_windows(length, kernel, stride):
    before, after = same_padding(length, kernel, stride)
    count = math.ceil(length / stride)
    assert (before + length + after - kernel) // stride + 1 == count
    assert after - before in (0, 1)
    if before + after:  # no place too many
        assert (count - 1) * stride + kernel == before + length + after


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 3, 1), ValueError, "length = 0; expected an integer >= 1"),
        ((5, 0, 1), ValueError, "kernel = 0"),
        ((5, 3, 0), ValueError, "stride = 0"),
        ((5, 3, 1.0), TypeError, r"stride = 1\.0; expected an integer"),
    ],
)
def test_same_padding_refuses_impossible_lengths(arguments, error, message):
    with pytest.raises(error, match=message):
        same_padding(*arguments)


# The functions


@given(cases(), st.integers(1, 3))
def test_convolution_agrees_with_plain_loops(case, filters):
    shape, size, strides, padding = case
    x, kernel, bias = numbers(*shape), numbers(*size, shape[3], filters, seed=1), numbers(filters, seed=2)
    y, _ = conv2d(x, kernel, bias, strides=strides, padding=padding)
    np.testing.assert_allclose(y, slow_conv(x, kernel, bias, strides, padding), rtol=1e-12, atol=1e-12)


@given(cases(), st.integers(1, 3))
def test_the_gradients_of_a_convolution_agree_with_finite_differences(case, filters):
    shape, size, strides, padding = case
    x, kernel, bias = numbers(*shape), numbers(*size, shape[3], filters, seed=1), numbers(filters, seed=2)
    y, cache = conv2d(x, kernel, bias, strides=strides, padding=padding)
    dy = numbers(*y.shape, seed=3)

    def loss(x=x, kernel=kernel, bias=bias):
        return (conv2d(x, kernel, bias, strides=strides, padding=padding)[0] * dy).sum()

    for value, analytic, name in zip(
        (x, kernel, bias), conv2d_backward(dy, cache), ("x", "kernel", "bias"), strict=True
    ):
        direction = numbers(*value.shape, seed=4)
        numeric = slope(lambda v, name=name: loss(**{name: v}), value, direction)
        assert (analytic * direction).sum() == pytest.approx(numeric, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize(("strides", "padding"), [((1, 1), "same"), ((2, 1), "valid"), ((3, 3), "same")])
def test_every_number_of_the_gradients_of_a_convolution(strides, padding):
    x, kernel = numbers(2, 4, 5, 2), numbers(2, 3, 2, 2, seed=1)
    y, cache = conv2d(x, kernel, strides=strides, padding=padding)
    dy = numbers(*y.shape, seed=2)
    dx, dkernel, dbias = conv2d_backward(dy, cache)

    def loss(x=x, kernel=kernel):
        return (conv2d(x, kernel, strides=strides, padding=padding)[0] * dy).sum()

    np.testing.assert_allclose(dx, gradient(lambda v: loss(x=v), x), atol=1e-9)
    np.testing.assert_allclose(dkernel, gradient(lambda v: loss(kernel=v), kernel), atol=1e-9)
    np.testing.assert_allclose(dbias, dy.sum(axis=(0, 1, 2)), rtol=1e-12)


@given(cases())
def test_max_pooling_agrees_with_plain_loops(case):
    shape, size, strides, padding = case
    x = numbers(*shape) - 5  # all below zero: a margin of zeros would win
    y, _ = max_pool(x, size, strides=strides, padding=padding)
    np.testing.assert_array_equal(y, slow_pool(x, size, strides, padding))


@given(cases())
def test_the_gradient_of_max_pooling_agrees_with_finite_differences(case):
    shape, size, strides, padding = case
    rng = np.random.default_rng(0)
    x = rng.permutation(math.prod(shape)).reshape(shape).astype(float)  # no two numbers near each other
    y, cache = max_pool(x, size, strides=strides, padding=padding)
    dy, direction = rng.normal(size=y.shape), rng.normal(size=shape)
    numeric = slope(lambda v: (max_pool(v, size, strides=strides, padding=padding)[0] * dy).sum(), x, direction, 1e-3)
    assert (max_pool_backward(dy, cache) * direction).sum() == pytest.approx(numeric, rel=1e-8, abs=1e-8)


def test_of_equal_maxima_the_first_gets_the_gradient():
    y, cache = max_pool(np.zeros((1, 4, 4, 1)), 2)
    dx = max_pool_backward(np.array([[1.0, 2.0], [3.0, 4.0]]).reshape(y.shape), cache)
    np.testing.assert_array_equal(dx[0, ..., 0], [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]])


def test_overlapping_windows_add_their_gradients():
    x = np.zeros((1, 3, 3, 1))
    x[0, 1, 1] = 1.0
    y, cache = max_pool(x, 2, strides=1)
    dx = max_pool_backward(np.ones(y.shape), cache)
    assert dx[0, 1, 1, 0] == dx.sum() == 4.0


def test_not_a_number_stays_not_a_number():
    x = np.ones((1, 2, 2, 1))
    x[0, 1, 0] = np.nan
    assert np.isnan(max_pool(x, 2)[0]).all()


def test_a_1x1_convolution_is_a_dense_layer():
    conv, dense, x = Conv2D(4, 1, seed=0), Dense(4, seed=1), numbers(2, 3, 5, 3)
    dense(x)
    conv.set_weights({"kernel": dense.kernel[None, None], "bias": dense.bias})
    y, dy = conv(x), numbers(2, 3, 5, 4, seed=1)
    np.testing.assert_allclose(y, dense(x), rtol=1e-12)
    np.testing.assert_allclose(conv.backward(dy), dense.backward(dy), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(conv.gradients["kernel"][0, 0], dense.gradients["kernel"], rtol=1e-12)


# The layers


LAYERS = [lambda: Conv2D(2, 3, seed=0), lambda: MaxPool(2)]


@pytest.mark.parametrize(
    ("dtype", "expected"), [(np.float16, np.float32), (np.float32, np.float32), (np.float64, np.float64)]
)
def test_convolution_keeps_the_type_of_x(dtype, expected):
    layer, x = Conv2D(2, 3, seed=0), numbers(2, 4, 4, 3).astype(dtype)
    y = layer(x)
    assert y.dtype == layer.backward(y).dtype == dtype
    assert layer.kernel.dtype == layer.bias.dtype == expected
    assert layer.gradients["kernel"].dtype == layer.gradients["bias"].dtype == expected


def test_float16_is_added_up_in_float32():
    layer = Conv2D(1, 64, use_bias=False)
    layer.set_weights({"kernel": np.ones((64, 64, 1, 1), np.float32)})
    assert layer(np.ones((1, 64, 64, 1), np.float16)).item() == 4096.0  # 2048 + 1 is 2048 in float16


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_max_pooling_keeps_the_type_of_x(dtype, padding):
    layer, x = MaxPool(2, padding=padding), numbers(2, 5, 5, 3).astype(dtype)
    y = layer(x)
    assert y.dtype == layer.backward(y).dtype == dtype


def test_gradients_of_a_float32_layer_stay_float32_for_a_float64_dy():
    layer = Conv2D(2, 3, seed=0)
    y = layer(np.ones((2, 4, 4, 3), np.float32))
    assert layer.backward(y.astype(np.float64)).dtype == np.float32
    assert layer.gradients["kernel"].dtype == layer.gradients["bias"].dtype == np.float32


def test_ints_stand_for_pairs():
    x = numbers(2, 7, 6, 2)
    for one, two in (
        (Conv2D(3, 2, strides=2, seed=0), Conv2D(3, (2, 2), strides=[2, 2], seed=0)),
        (MaxPool(3), MaxPool((3, 3), strides=(3, 3))),
    ):
        np.testing.assert_array_equal(one(x), two(x))
        assert repr(one) == repr(two)


def test_pairs_are_height_and_width():
    x = numbers(1, 7, 9, 1)
    assert Conv2D(1, (2, 5), strides=(1, 2), seed=0)(x).shape == (1, 6, 3, 1)
    assert MaxPool((2, 5), strides=(1, 2))(x).shape == (1, 6, 3, 1)
    assert Conv2D(1, (2, 5), strides=(3, 2), padding="same", seed=0)(x).shape == (1, 3, 5, 1)


def test_convolution_without_bias_has_only_a_kernel():
    layer = Conv2D(2, 3, use_bias=False, seed=0)
    layer.backward(np.ones_like(layer(numbers(2, 4, 4, 3))))
    assert set(layer.parameters) == set(layer.gradients) == set(layer.weights) == {"kernel"}


def test_glorot_counts_the_places_of_the_window():
    layer = Conv2D(60, (3, 5), seed=0)
    layer(numbers(1, 5, 5, 40))
    limit = math.sqrt(6 / (15 * 40 + 15 * 60))
    assert 0.99 * limit < np.abs(layer.kernel).max() <= limit
    assert layer.kernel.std() == pytest.approx(limit / math.sqrt(3), rel=0.01)
    np.testing.assert_array_equal(layer.bias, np.zeros(60))


def test_he_counts_the_places_of_the_window():
    layer = Conv2D(60, (3, 5), init="he", seed=0)
    layer(numbers(1, 5, 5, 40))
    assert layer.kernel.std() == pytest.approx(math.sqrt(2 / (15 * 40)), rel=0.02)


def test_a_seed_fixes_the_kernel():
    first, same, other = (Conv2D(3, 3, seed=[4, seed]) for seed in (2, 2, 3))
    for layer in (first, same, other):
        layer(numbers(1, 4, 4, 2))
    np.testing.assert_array_equal(first.kernel, same.kernel)
    assert not np.array_equal(first.kernel, other.kernel)


@pytest.mark.parametrize("make", LAYERS)
def test_no_samples_give_no_samples(make):
    layer = make()
    y = layer(np.ones((0, 6, 6, 3)))
    assert y.shape[0] == 0
    assert layer.backward(y).shape == (0, 6, 6, 3)


@pytest.mark.parametrize("make", LAYERS)
def test_the_layers_leave_x_alone(make):
    layer, x = make(), numbers(2, 5, 5, 3)
    before = x.copy()
    layer.backward(np.ones_like(layer(x)))
    np.testing.assert_array_equal(x, before)


# Errors


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Conv2D(0, 3), ValueError, "filters = 0; expected an integer >= 1"),
        (lambda: Conv2D(2.0, 3), TypeError, r"filters = 2\.0; expected an integer"),
        (lambda: Conv2D(2, 0), ValueError, "kernel_size = 0; expected an integer >= 1"),
        (lambda: Conv2D(2, 3.0), TypeError, r"kernel_size = 3\.0; expected an integer"),
        (lambda: Conv2D(2, (3, 3, 3)), ValueError, r"kernel_size = \(3, 3, 3\); expected an integer or a pair"),
        (lambda: Conv2D(2, "33"), TypeError, "kernel_size = '33'; expected an integer"),
        (lambda: Conv2D(2, 3, strides=0), ValueError, "strides = 0; expected an integer >= 1"),
        (lambda: Conv2D(2, 3, strides=(1, -1)), ValueError, "strides = -1; expected an integer >= 1"),
        (lambda: Conv2D(2, 3, strides=(1, 1.5)), TypeError, r"strides = 1\.5; expected an integer"),
        (lambda: Conv2D(2, 3, padding="SAME"), ValueError, "padding = 'SAME'; expected 'valid' or 'same'"),
        (lambda: Conv2D(2, 3, init="zeros"), ValueError, "init = 'zeros'; expected 'glorot' or 'he'"),
        (lambda: MaxPool(0), ValueError, "pool_size = 0; expected an integer >= 1"),
        (lambda: MaxPool(True), TypeError, "pool_size = True; expected an integer"),
        (lambda: MaxPool(2, strides=0), ValueError, "strides = 0; expected an integer >= 1"),
        (lambda: MaxPool(2, padding=1), ValueError, "padding = 1; expected 'valid' or 'same'"),
    ],
)
def test_impossible_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (
            np.ones((2, 8, 8)),
            ValueError,
            r"x has shape \(2, 8, 8\); expected images \(batch, height, width, channels\)",
        ),
        (np.ones((2, 8, 8, 3, 1)), ValueError, r"x has shape \(2, 8, 8, 3, 1\); expected images"),
        (np.ones((2, 0, 8, 3)), ValueError, r"x has shape \(2, 0, 8, 3\); .* at least one place and one channel"),
        (np.ones((2, 8, 8, 0)), ValueError, r"x has shape \(2, 8, 8, 0\)"),
        (
            np.ones((2, 1, 8, 3)),
            ValueError,
            r"window \(., .\) does not fit into images of 1 × 8 places .* use a smaller",
        ),
        (np.ones((2, 8, 1, 3)), ValueError, "does not fit into images of 8 × 1 places"),
        (np.ones((2, 8, 8, 3), np.uint8), TypeError, "x has dtype uint8; expected floating-point numbers"),
    ],
)
def test_images_that_do_not_fit_leave_the_layer_as_it_was(make, x, error, message):
    layer = make()
    with pytest.raises(error, match=message):
        layer(x)
    assert layer.weights == {}
    with pytest.raises(RuntimeError, match="backward before forward"):
        layer.backward(np.ones((2, 6, 6, 2)))


@pytest.mark.parametrize("make", LAYERS)
def test_dy_of_another_shape_is_refused(make):
    layer = make()
    y = layer(numbers(2, 6, 6, 3))
    with pytest.raises(ValueError, match=rf"dy has shape \(2, 7\); expected \(2, {y.shape[1]}"):
        layer.backward(np.ones((2, 7)))


def test_another_number_of_channels_is_refused():
    layer = Conv2D(2, 3, seed=0)
    y = layer(numbers(2, 5, 5, 3))
    with pytest.raises(ValueError, match=r"x has shape \(2, 5, 5, 4\), so 4 channels; this layer was built for 3"):
        layer(numbers(2, 5, 5, 4))
    assert layer.backward(y).shape == (2, 5, 5, 3)


def test_the_size_of_the_images_may_change():
    layer = Conv2D(2, 3, seed=0)
    layer(numbers(2, 5, 5, 3))
    assert layer.backward(layer(numbers(1, 9, 7, 3))).shape == (1, 9, 7, 3)


@pytest.mark.parametrize(
    ("kernel", "bias", "message"),
    [
        (np.ones((3, 3, 4, 2)), None, r"kernel has shape \(3, 3, 4, 2\); expected \(kh, kw, 3, filters\)"),
        (np.ones((3, 3, 3)), None, r"kernel has shape \(3, 3, 3\)"),
        (np.ones((3, 0, 3, 2)), None, r"kernel has shape \(3, 0, 3, 2\)"),
        (np.ones((3, 3, 3, 2)), np.ones(3), r"bias has shape \(3,\); expected \(2,\), one for each filter"),
    ],
)
def test_the_function_names_what_does_not_fit(kernel, bias, message):
    with pytest.raises(ValueError, match=message):
        conv2d(numbers(2, 5, 5, 3), kernel, bias)


def test_the_functions_check_dy():
    x = numbers(2, 5, 5, 3)
    for backward, cache in (
        (conv2d_backward, conv2d(x, np.ones((2, 2, 3, 1)))[1]),
        (max_pool_backward, max_pool(x)[1]),
    ):
        with pytest.raises(ValueError, match=r"dy has shape \(1,\); expected \(2, "):
            backward(np.ones(1), cache)
        with pytest.raises(TypeError, match="dy has dtype int64"):
            backward(np.ones(1, int), cache)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            {"kernel": np.ones((3, 3, 4)), "bias": np.ones(2)},
            r"kernel has shape \(3, 3, 4\); expected \(3, 3, channels, 2",
        ),
        ({"kernel": np.ones((2, 3, 4, 2)), "bias": np.ones(2)}, r"kernel has shape \(2, 3, 4, 2\)"),
        ({"kernel": np.ones((3, 3, 4, 5)), "bias": np.ones(2)}, r"kernel has shape \(3, 3, 4, 5\)"),
        ({"kernel": np.ones((3, 3, 4, 2)), "bias": np.ones(3)}, r"bias has shape \(3,\); expected \(2,\)"),
        ({"kernel": np.ones((3, 3, 4, 2))}, r"missing \['bias'\], unknown \[\]"),
    ],
)
def test_convolution_refuses_weights_that_do_not_fit(weights, message):
    layer = Conv2D(2, 3)
    with pytest.raises(ValueError, match=message):
        layer.set_weights(weights)
    assert layer.kernel is None


# Networks


@pytest.fixture(scope="module")
def digits():
    """Return 8x8 digits in [0, 1], and their labels."""
    data = load_digits()
    return (data.images[..., None] / 16).astype(np.float32), data.target


def network(seed=0, use_bias=False):
    return Sequential(
        [
            Conv2D(8, 3, padding="same", use_bias=use_bias, init="he", seed=[seed, 0]),
            BatchNorm(momentum=0.9),
            ReLU(),
            MaxPool(2),
            Conv2D(8, 3, strides=2, padding="same", use_bias=use_bias, init="he", seed=[seed, 1]),
            BatchNorm(momentum=0.9),
            ReLU(),
            Flatten(),
            Dense(10, seed=[seed, 2]),
        ]
    )


def test_a_network_learns_digits_and_survives_a_file(digits, tmp_path):
    images, labels = digits
    model = network()
    history = model.fit(
        images[:1200], labels[:1200], batch_size=50, steps=100, optimizer=Adam(0.01), seed=0,
        validation=(images[1200:], labels[1200:]),
    )  # fmt: skip
    assert history.validation_accuracy[-1] > 0.85  # 0.90 to 0.93 over eight seeds
    model.save(tmp_path / "weights.npz")
    again = network(seed=1)
    again.load(tmp_path / "weights.npz")
    np.testing.assert_array_equal(again.predict(images[:20]), model.predict(images[:20]))


def test_the_gradients_of_a_network_agree_with_finite_differences():
    model, x = network(use_bias=True), numbers(3, 6, 6, 1)
    dy = numbers(3, 10, seed=1)
    model(x)
    before = {name: array.copy() for name, array in model.weights.items()}

    def loss(x=x, **changes):
        model.set_weights(before | changes)
        return (model(x, training=True) * dy).sum()

    loss()
    dx, gradients = model.backward(dy), model.gradients
    direction = numbers(*x.shape, seed=2)
    assert (dx * direction).sum() == pytest.approx(slope(lambda v: loss(x=v), x, direction), rel=1e-6)
    for name in ("0.kernel", "4.kernel", "5.gamma", "8.kernel"):
        direction = numbers(*before[name].shape, seed=3)
        numeric = slope(lambda v, name=name: loss(**{name: v}), before[name], direction)
        assert (gradients[name] * direction).sum() == pytest.approx(numeric, rel=1e-6), name
    for name in ("0.bias", "4.bias"):  # in front of Batch Normalization
        np.testing.assert_allclose(gradients[name], 0.0, atol=1e-12)


def test_an_error_in_a_later_layer_undoes_the_convolution():
    model = Sequential([Conv2D(2, 3, seed=0), MaxPool(4)])
    with pytest.raises(ValueError, match="does not fit"):
        model(numbers(1, 5, 5, 1))
    assert model.weights == {}
    assert model(numbers(1, 6, 6, 3)).shape == (1, 1, 1, 2)
