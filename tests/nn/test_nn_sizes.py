"""Where windows lie, and how large layers are: beside what convolutions really read, TensorFlow and PyTorch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bncourse.nn import BatchNorm, Conv2D, Dense, Dropout, Flatten, MaxPool, ReLU, Sequential, conv2d
from bncourse.nn.sizes import LayerSize, layer_sizes, least_memory, window_starts


def read_by(convolve, length, kernel):
    """Find by trial which places of the axis each output reads: a boolean array of shape (outputs, length)."""
    images = np.eye(length, dtype=np.float32).reshape(length, length, 1, 1)  # image i: only place i is not zero
    y = convolve(images, np.ones((kernel, 1, 1, 1), np.float32))
    return y.reshape(length, -1).T > 0


def windows(starts, kernel, length):
    """Draw the windows as a boolean array of shape (outputs, length)."""
    places = np.arange(length)
    return (starts[:, None] <= places) & (places < starts[:, None] + kernel)


AXES = st.tuples(st.integers(1, 14), st.integers(1, 5), st.integers(1, 4))


@settings(max_examples=50)
@given(AXES)
def test_same_windows_are_those_that_tensorflow_reads(axis):
    from bncourse.tf_layers import tf

    length, kernel, stride = axis
    read = read_by(lambda x, k: tf.nn.conv2d(x, k, (stride, 1), "SAME").numpy(), length, kernel)
    assert np.array_equal(windows(window_starts(length, kernel, stride), kernel, length), read)


@settings(max_examples=50)
@given(AXES, st.integers(0, 2))
def test_symmetric_windows_are_those_that_pytorch_reads(axis, padding):
    torch = pytest.importorskip("torch")
    length, kernel, stride = axis
    length += kernel  # so that a window fits

    def convolve(x, k):
        x, k = (torch.from_numpy(np.moveaxis(array, *axes)) for array, axes in ((x, (3, 1)), (k, ((3, 2), (0, 1)))))
        return torch.nn.functional.conv2d(x, k, stride=(stride, 1), padding=(padding, 0)).numpy()

    starts = window_starts(length, kernel, stride, (padding, padding))
    assert np.array_equal(windows(starts, kernel, length), read_by(convolve, length, kernel))


@given(AXES)
def test_valid_windows_are_those_of_the_numpy_convolution(axis):
    length, kernel, stride = axis
    length += kernel
    read = read_by(lambda x, k: conv2d(x, k, strides=(stride, 1), padding="valid")[0], length, kernel)
    assert np.array_equal(windows(window_starts(length, kernel, stride, "valid"), kernel, length), read)


def test_the_second_layer_of_article_e_in_tensorflow_and_in_pytorch():
    tensorflow, pytorch = window_starts(28, 3, 2), window_starts(28, 3, 2, (1, 1))
    assert len(tensorflow) == len(pytorch) == 14
    assert tensorflow.tolist() == list(range(0, 27, 2))
    assert tensorflow[-1] + 3 == 29  # one place of padding, behind
    assert np.array_equal(pytorch, tensorflow - 1)
    assert pytorch[-1] + 3 == 28  # the padding behind is never read


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 3), ValueError, "length = 0; expected an integer >= 1."),
        ((8, 3.0), TypeError, "kernel = 3.0; expected an integer."),
        ((8, 3, 0), ValueError, "stride = 0; expected an integer >= 1."),
        ((8, 3, 1, "SAME"), ValueError, "padding = 'SAME'; expected 'valid' or 'same'."),
        ((8, 3, 1, (1, -1)), ValueError, "padding = (1, -1); expected 'valid', 'same' or a pair (before, after) >= 0."),
        ((8, 3, 1, (1,)), ValueError, "padding = (1,); expected 'valid', 'same' or a pair (before, after) >= 0."),
        ((2, 4, 1, (1, 0)), ValueError, "a window of 4 does not fit into 2 places with padding (1, 0)."),
        ((2, 3, 1, "valid"), ValueError, "a window of 3 does not fit into 2 places with padding (0, 0)."),
    ],
)
def test_impossible_axes_are_refused(arguments, error, message):
    with pytest.raises(error) as caught:
        window_starts(*arguments)
    assert str(caught.value) == message


def base():
    layers = [Conv2D(16, 3, 1, "same"), ReLU(), Conv2D(32, 3, 2, "same"), ReLU(), MaxPool(2), Flatten()]
    return Sequential([*layers, Dense(32), ReLU(), Dense(10)])


def test_the_layers_of_article_e():
    conv, pooled = 28 * 28 * 16, 7 * 7 * 32
    assert layer_sizes(base(), (28, 28, 1)) == [
        LayerSize("Conv2D", (28, 28, 16), 3 * 3 * 16 + 16, 784 + conv),
        LayerSize("ReLU", (28, 28, 16), 0, conv),
        LayerSize("Conv2D", (14, 14, 32), 3 * 3 * 16 * 32 + 32, conv + conv // 2),
        LayerSize("ReLU", (14, 14, 32), 0, conv // 2),
        LayerSize("MaxPool", (7, 7, 32), 0, conv // 2 + pooled),
        LayerSize("Flatten", (pooled,), 0, pooled),
        LayerSize("Dense", (32,), pooled * 32 + 32, pooled + 32),
        LayerSize("ReLU", (32,), 0, 32),
        LayerSize("Dense", (10,), 330, 42),
    ]


def test_activations_are_the_numbers_of_the_output():
    assert [size.activations for size in layer_sizes(base(), (28, 28, 1))][:3] == [12544, 12544, 6272]


def test_bn_has_two_parameters_a_channel_and_dropout_takes_no_place():
    norm, drop = layer_sizes(Sequential([BatchNorm(), Dropout(0.5, seed=0)]), (4, 4, 3))
    assert (norm.parameters, norm.held) == (6, 2 * 48)
    assert (drop.parameters, drop.held) == (0, 48)


def test_the_least_memory_is_that_of_the_second_convolution():
    sizes = layer_sizes(base(), (28, 28, 1))
    assert least_memory(sizes, 10_000) == (28 * 28 * 16 + 14 * 14 * 32) * 10_000 * 4
    assert least_memory(sizes, 10_000, bytes_each=2) * 2 == least_memory(sizes, 10_000)
    assert least_memory(sizes, 1_000) * 10 == least_memory(sizes, 10_000)


def test_a_shape_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="expected images"):
        layer_sizes(base(), (28, 28))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([], 1), ValueError, "sizes is empty; expected the size of at least one layer."),
        (([LayerSize("", (1,), 0, 1)], 0), ValueError, "images = 0; expected an integer >= 1."),
        (([LayerSize("", (1,), 0, 1)], 1.5), TypeError, "images = 1.5; expected an integer."),
    ],
)
def test_impossible_amounts_are_refused(arguments, error, message):
    with pytest.raises(error) as caught:
        least_memory(*arguments)
    assert str(caught.value) == message


def test_bytes_are_counted_in_whole_numbers():
    with pytest.raises(ValueError, match=r"^bytes_each = 0; expected an integer >= 1\.$"):
        least_memory([LayerSize("", (1,), 0, 1)], 1, bytes_each=0)
