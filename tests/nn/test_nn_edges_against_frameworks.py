"""What four frameworks answer at the edges, and what BatchNorm answers there.

Where the frameworks agree, ours must give the same. Where they do not, the test says who gives what. PyTorch takes part
where it is installed (the extra ``oracles``).
"""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest

from bncourse.nn import BatchNorm, moving_statistics
from bncourse.tf_layers import tf, tf1  # first: it quietens TensorFlow

import keras  # isort: skip

try:
    import torch
except ImportError:
    torch = None

pytestmark = pytest.mark.filterwarnings(r"ignore:`tf\.layers\.\w+` is deprecated:UserWarning")

BETA = 0.5  # so that it can be told from 0


def options_of(x, training=True, momentum=0.75, epsilon=1e-3, start=(0.0, 1.0), dy=None):
    """Return the options of a call, completed: statistics for each channel, and some dy."""
    start = [np.full(x.shape[1], value, np.float32) for value in start]
    dy = np.random.default_rng(9).normal(1.0, 1.0, x.shape) if dy is None else dy
    return SimpleNamespace(training=training, momentum=momentum, epsilon=epsilon, start=start, dy=dy.astype(x.dtype))


def answer(y, dx, dgamma, mean, variance):
    values = {"y": y, "dx": dx, "dgamma": dgamma, "mean": mean, "variance": variance}
    return SimpleNamespace(**{name: np.asarray(value) for name, value in values.items()})


def in_keras(x, **options):
    given = options_of(x, **options)
    policy = "mixed_float16" if x.dtype == np.float16 else x.dtype.name
    layer = keras.layers.BatchNormalization(momentum=given.momentum, epsilon=given.epsilon, dtype=policy)
    layer.build(x.shape)
    layer.set_weights([np.ones(x.shape[1]), np.full(x.shape[1], BETA), *given.start])
    variable = tf.Variable(x)
    with tf.GradientTape() as tape:
        y = layer(variable, training=given.training)
        loss = tf.reduce_sum(y * given.dy)
    dx, dgamma = tape.gradient(loss, [variable, layer.gamma.value])
    return answer(y, dx, dgamma, layer.moving_mean, layer.moving_variance)


def in_fused_kernel(x, **options):
    given, (n, channels) = options_of(x, **options), x.shape
    image = x.reshape(n, 1, 1, channels)
    scale, offset, mean, variance = (
        tf.Variable(v.astype(np.float32)) for v in (np.ones(channels), np.full(channels, BETA), *given.start)
    )
    variable = tf.Variable(image)
    with tf.GradientTape() as tape:
        result = tf.raw_ops.FusedBatchNormV3(
            x=variable,
            scale=scale,
            offset=offset,
            mean=mean,
            variance=variance,
            epsilon=given.epsilon,
            exponential_avg_factor=1 - given.momentum,
            is_training=given.training,
        )
        loss = tf.reduce_sum(result.y * given.dy.reshape(image.shape))
    dx, dgamma = tape.gradient(loss, [variable, scale])
    y, dx = (np.asarray(value).reshape(x.shape) for value in (result.y, dx))
    return answer(y, dx, dgamma, result.batch_mean, result.batch_variance)


def in_tf_layers(x, **options):
    given = options_of(x, **options)
    with tf1.Graph().as_default() as graph, tf1.Session() as session:
        starts = dict(zip(("mean", "variance"), map(tf1.constant_initializer, given.start), strict=True))
        feed = tf1.placeholder(x.dtype, x.shape)
        y = tf1.layers.batch_normalization(
            feed,
            momentum=given.momentum,
            epsilon=given.epsilon,
            training=given.training,
            beta_initializer=tf1.constant_initializer(BETA),
            moving_mean_initializer=starts["mean"],
            moving_variance_initializer=starts["variance"],
        )
        gamma, _, *moving = tf1.global_variables()
        gradients = tf1.gradients(y, [feed, gamma], given.dy)
        session.run(tf1.global_variables_initializer())
        results, _ = session.run([[y, *gradients], graph.get_collection(tf1.GraphKeys.UPDATE_OPS)], {feed: x})
        return answer(*results, *session.run(moving))


def in_torch(x, **options):
    given = options_of(x, **options)
    layer = torch.nn.BatchNorm1d(x.shape[1], eps=given.epsilon, momentum=1 - given.momentum).train(given.training)
    with torch.no_grad():
        layer.bias.fill_(BETA)
    layer.running_mean, layer.running_var = (torch.tensor(value) for value in given.start)
    variable = torch.tensor(x, requires_grad=True)
    y = layer(variable)
    y.backward(torch.tensor(given.dy))
    return answer(y.detach(), variable.grad, layer.weight.grad, layer.running_mean, layer.running_var)


def in_ours(x, fast=False, sample=False, **options):
    given = options_of(x, **options)
    layer = BatchNorm(
        momentum=given.momentum,
        epsilon=given.epsilon,
        beta_start=BETA,
        moving_mean_start=given.start[0],
        moving_variance_start=given.start[1],
        moving_variance="sample" if sample else "population",
        fast=fast,
    )
    with patch.object(moving_statistics, "WORTH_THE_BLOCKS", 1):  # small inputs go to the fast functions too
        y = layer(x, training=given.training)
    dx = layer.backward(given.dy)
    return answer(y, dx, layer.gradients["gamma"], layer.moving_mean, layer.moving_variance)


with_torch = pytest.param(in_torch, id="torch", marks=pytest.mark.skipif(torch is None, reason="torch not installed"))
in_tensorflow = [in_keras, in_fused_kernel, in_tf_layers]
ALL = pytest.mark.parametrize("theirs", [*in_tensorflow, with_torch])
FAST = pytest.mark.parametrize("fast", [False, True])


def column_variance(theirs):
    """Return our option that averages the variance which `theirs` averages."""
    return {"sample": theirs in (in_fused_kernel, in_torch)}


def assert_same(ours, theirs, names=("y", "dx", "mean", "variance"), **tolerance):
    for name in names:
        mine, other = getattr(ours, name), getattr(theirs, name)
        assert mine.shape == other.shape
        np.testing.assert_allclose(mine, other, err_msg=name, **({"rtol": 1e-5, "atol": 1e-5} | tolerance))


def numbers(n=6, channels=3, mean=1.0, std=2.0, seed=0):
    return np.random.default_rng(seed).normal(mean, std, (n, channels)).astype(np.float32)


# --- one sample, no sample ---


@pytest.mark.parametrize("theirs", in_tensorflow)
@FAST
def test_a_batch_of_one_gives_beta_no_gradient_and_variance_0(theirs, fast):
    x = numbers(n=1)
    ours = in_ours(x, fast, **column_variance(theirs))
    assert_same(ours, theirs(x))
    np.testing.assert_array_equal(ours.y, np.full_like(x, BETA))
    np.testing.assert_array_equal(ours.dx, np.zeros_like(x))
    np.testing.assert_allclose(ours.variance, 0.75)  # a quarter of the way from 1 to 0


@pytest.mark.skipif(torch is None, reason="torch not installed")
def test_torch_alone_refuses_a_batch_of_one():
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        in_torch(numbers(n=1))


@ALL
def test_inference_takes_a_batch_of_one_like_any_other(theirs):
    x, start = numbers(n=1), (2.0, 3.0)
    assert_same(in_ours(x, training=False, start=start), theirs(x, training=False, start=start))


@ALL
def test_an_empty_batch_in_inference_gives_an_empty_answer(theirs):
    x, start = numbers(n=0), (2.0, 3.0)
    names = ("y", "dx", "dgamma", "mean", "variance")
    if theirs is in_fused_kernel:
        names = ("y", "dx")  # its statistics and the gradient of gamma are looked at below
    assert_same(in_ours(x, training=False, start=start), theirs(x, training=False, start=start), names)


def test_the_fused_kernel_alone_hands_out_nan_for_an_empty_batch_in_inference():
    """``tf.layers`` does not take its statistics over in inference mode, so they do no harm there."""
    result = in_fused_kernel(numbers(n=0), training=False)
    assert np.isnan(result.mean).all()
    assert np.isnan(result.variance).all()


@pytest.mark.parametrize("theirs", in_tensorflow)
def test_an_empty_batch_in_training_makes_their_statistics_nan_and_ours_refuses_it(theirs):
    x = numbers(n=0)
    result = theirs(x)
    assert result.y.shape == x.shape
    assert np.isnan(result.mean).all()
    assert np.isnan(result.variance).all()
    with pytest.raises(ValueError, match="holds no numbers"):
        in_ours(x)


@pytest.mark.skipif(torch is None, reason="torch not installed")
def test_an_empty_batch_in_training_changes_nothing_in_torch_but_is_counted():
    """With momentum ``None`` it therefore bends the cumulative average of the batches that follow."""
    layer = torch.nn.BatchNorm1d(3, momentum=None)
    layer(torch.zeros(0, 3))
    np.testing.assert_array_equal(layer.running_mean, np.zeros(3))
    np.testing.assert_array_equal(layer.running_var, np.ones(3))
    assert layer.num_batches_tracked == 1
    x = numbers()
    layer(torch.tensor(x))
    np.testing.assert_allclose(layer.running_mean, x.mean(axis=0) / 2, rtol=1e-5)


# --- constant columns ---


@ALL
@FAST
def test_a_constant_column_gives_beta_and_no_gradient(theirs, fast):
    x = numbers()
    x[:, 1] = 0.1
    ours = in_ours(x, fast, **column_variance(theirs))
    assert_same(ours, theirs(x), atol=2e-5)
    np.testing.assert_array_equal(ours.y[:, 1], np.full(6, BETA))


@ALL
@FAST
def test_of_large_constant_columns_the_frameworks_give_the_rounding_error_of_the_mean(theirs, fast):
    """Every column should give beta. Divided by the root of epsilon, their error of the mean is no longer small."""
    x = np.full((1000, 16), np.random.default_rng(0).uniform(1e4, 2e4, 16), np.float32)
    ours = in_ours(x, fast)
    np.testing.assert_array_equal(ours.y, np.full_like(x, BETA))
    np.testing.assert_array_equal(ours.mean, x[0] * np.float32(0.25))
    np.testing.assert_array_equal(ours.variance, np.full(16, 0.75, np.float32))
    assert np.abs(theirs(x).y - BETA).max() > 0.01


@pytest.mark.parametrize("theirs", in_tensorflow)
@FAST
def test_epsilon_0_leaves_a_constant_column_undefined(theirs, fast):
    x = numbers()
    x[:, 1] = 0.5
    result = theirs(x, epsilon=0.0)
    with pytest.warns(RuntimeWarning) as warned:
        ours = in_ours(x, fast, epsilon=0.0)
    assert "divide by zero encountered in divide" in {str(w.message) for w in warned}
    np.testing.assert_array_equal(np.isnan(ours.y), np.isnan(result.y))
    np.testing.assert_array_equal(np.isnan(ours.y), np.tile([False, True, False], (6, 1)))
    assert_same(ours, result, ["y", "mean"])


@pytest.mark.skipif(torch is None, reason="torch not installed")
def test_torch_alone_refuses_epsilon_0_in_training():
    with pytest.raises(ValueError, match="eps must be positive"):
        in_torch(numbers(), epsilon=0.0)


# --- NaN, infinity, overflow ---


@ALL
@FAST
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_or_infinity_stays_in_its_place_in_inference(theirs, fast, value):
    x = numbers()
    x[2, 1] = value
    ours = in_ours(x, fast, training=False)
    assert_same(ours, theirs(x, training=False))
    assert np.isfinite(ours.y).sum() == x.size - 1


@ALL
@FAST
def test_nan_takes_its_whole_channel_in_training(theirs, fast):
    x = numbers()
    x[2, 1] = np.nan
    ours = in_ours(x, fast, **column_variance(theirs))
    assert_same(ours, theirs(x))
    for values in (ours.y, ours.dx, ours.mean, ours.variance):
        np.testing.assert_array_equal(np.isnan(values), np.broadcast_to([False, True, False], values.shape))


@ALL
@FAST
@pytest.mark.filterwarnings("ignore:invalid value encountered in:RuntimeWarning")
def test_infinity_takes_its_whole_channel_in_training(theirs, fast):
    x = numbers()
    x[2, 1] = np.inf
    ours, result = in_ours(x, fast, **column_variance(theirs)), theirs(x)
    assert_same(ours, result, ["y", "dx", "variance", "mean"])
    assert np.isnan(ours.y[:, 1]).all()
    assert ours.mean[1] == np.inf


@ALL
@FAST
def test_a_square_that_overflows_makes_the_variance_infinite_and_y_beta(theirs, fast):
    """All are silent but ours: NumPy warns."""
    x = numbers()
    x[:2, 1] = [1e30, -1e30]
    result = theirs(x)
    with pytest.warns(RuntimeWarning, match="overflow encountered"):
        ours = in_ours(x, fast, **column_variance(theirs))
    assert_same(ours, result, ["y", "mean", "variance"], atol=1e20, rtol=1e-4)
    np.testing.assert_allclose(ours.y[:, 1], BETA, atol=1e-6)
    np.testing.assert_allclose(result.y[:, 1], BETA, atol=1e-6)
    assert ours.variance[1] == np.inf


@ALL
@FAST
def test_the_statistics_of_float16_do_not_overflow_in_float32_variables(theirs, fast):
    x = np.array([[60_000.0], [-60_000.0]] * 4, np.float16)
    ours, result = in_ours(x, fast, **column_variance(theirs)), theirs(x)
    assert_same(ours, result, ["y", "mean", "variance"], rtol=1e-3)
    assert np.isfinite(ours.variance).all()


def test_variables_of_float16_overflow_in_keras():
    x = np.array([[60_000.0], [-60_000.0]] * 4, np.float16)
    layer = keras.layers.BatchNormalization(dtype="float16")
    assert np.isfinite(layer(x, training=True)).all()
    assert np.isinf(layer.moving_variance).all()


# --- momentum ---


@ALL
@FAST
@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_momentum_0_keeps_the_last_batch_and_1_the_start(theirs, fast, momentum):
    x, start = numbers(), (5.0, 6.0)
    ours = in_ours(x, fast, momentum=momentum, start=start, **column_variance(theirs))
    assert_same(ours, theirs(x, momentum=momentum, start=start))
    expected = x.mean(axis=0) if momentum == 0 else np.full(3, 5.0)
    np.testing.assert_allclose(ours.mean, expected, rtol=1e-6)


@ALL
def test_which_variance_enters_the_moving_average(theirs):
    """Keras and tf.layers without its fused kernel: that of the population. The kernel and PyTorch: of the sample."""
    x = np.array([[1.0], [3.0]], np.float32)
    expected = 2.0 if column_variance(theirs)["sample"] else 1.0
    np.testing.assert_allclose(theirs(x, momentum=0.0).variance, expected, rtol=1e-5)


# --- a large offset: 1e4, standard deviation 1e-2, in float32 ---


def exact(x, epsilon, dy, mean=None, variance=None):
    """Return y, dx and dgamma in float64; with the statistics of x, or with given ones."""
    x, dy = x.astype(np.float64), dy.astype(np.float64)
    std = np.sqrt((x.var(axis=0) if variance is None else variance.astype(np.float64)) + epsilon)
    x_hat = (x - (x.mean(axis=0) if mean is None else mean)) / std
    dgamma = (dy * x_hat).sum(axis=0)
    dx = dy / std
    if mean is None:
        dx -= (dy.mean(axis=0) + x_hat * dgamma / len(x)) / std
    return x_hat + BETA, dx, dgamma


def far_away(n=256, seed=0):
    return numbers(n, 4, 1e4, 1e-2, seed)


def error(result, expected, name="y"):
    return np.abs(getattr(result, name) - expected).max()


@pytest.mark.parametrize("epsilon", [1e-3, 1e-5])
@pytest.mark.parametrize("n", [50, 256, 20_000])
@FAST
def test_at_a_large_offset_our_error_is_below_1e_5(n, epsilon, fast):
    x, dy = far_away(n), numbers(n, 4, seed=1)
    ours, (y, dx, dgamma) = in_ours(x, fast, epsilon=epsilon, dy=dy), exact(x, epsilon, dy)
    assert error(ours, y) < 1e-5
    assert error(ours, dx, "dx") < 1e-5 * np.abs(dx).max()
    assert error(ours, dgamma, "dgamma") < 1e-6 * np.abs(dy).sum(axis=0).max()
    np.testing.assert_allclose(ours.mean, 0.25 * x.mean(axis=0, dtype=np.float64), rtol=1e-6)


@ALL
def test_at_a_large_offset_the_frameworks_err_by_a_hundredth_and_more(theirs):
    """Of 256 numbers, by about a tenth: their mean is rounded or summed up inexactly, and then subtracted as it is."""
    y_errors, dgamma_errors = [], []
    for seed in range(3):
        x, dy = far_away(seed=seed), numbers(256, 4, seed=1)
        result, (y, _, dgamma) = theirs(x, epsilon=1e-5, dy=dy), exact(x, 1e-5, dy)
        y_errors.append(error(result, y))
        dgamma_errors.append(error(result, dgamma, "dgamma"))
    assert max(y_errors) > 0.01
    assert max(dgamma_errors) > 0.1


@FAST
def test_at_a_large_offset_our_inference_errs_below_1e_5(fast):
    x, dy = far_away(), numbers(256, 4, seed=1)
    start = x.mean(axis=0), x.var(axis=0, dtype=np.float64).astype(np.float32)
    ours = in_ours(x, fast, training=False, epsilon=1e-5, start=start, dy=dy)
    y, dx, dgamma = exact(x, 1e-5, dy, *start)
    assert error(ours, y) < 1e-5
    assert error(ours, dx, "dx") < 1e-5 * np.abs(dx).max()
    assert error(ours, dgamma, "dgamma") < 1e-6 * np.abs(dy).sum(axis=0).max()


@pytest.mark.parametrize("theirs", [in_keras, in_tf_layers, with_torch, in_fused_kernel])
def test_at_a_large_offset_only_the_fused_kernel_infers_without_that_error(theirs):
    """The others fold mean and variance into one product and one sum, and these cancel; the kernel subtracts first."""
    x = far_away()
    start = x.mean(axis=0), x.var(axis=0, dtype=np.float64).astype(np.float32)
    result = theirs(x, training=False, epsilon=1e-5, start=start)
    y, *_ = exact(x, 1e-5, x, *start)
    if theirs is in_fused_kernel:
        assert error(result, y) < 1e-5
    else:
        assert error(result, y) > 0.005
