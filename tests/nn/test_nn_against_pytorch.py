"""The NumPy room against PyTorch, where that is installed (the extra ``oracles``)."""

import numpy as np
import pytest

from bncourse.nn import BatchNorm, Conv2D, GroupNorm, InstanceNorm, LayerNorm, MaxPool

torch = pytest.importorskip("torch")
nn = torch.nn

#: A torch layer for every rank, with small shapes and one above the size from which ours takes the fast functions.
LAYOUTS = [
    (nn.BatchNorm1d, (6, 3)),
    (nn.BatchNorm1d, (4, 3, 5)),
    (nn.BatchNorm2d, (3, 2, 4, 5)),
    (nn.BatchNorm3d, (3, 2, 2, 3, 2)),
    (nn.BatchNorm1d, (700, 33)),
    (nn.BatchNorm1d, (9, 7, 400)),
    (nn.BatchNorm2d, (8, 5, 24, 24)),
    (nn.BatchNorm3d, (5, 3, 11, 12, 13)),
]
PRECISION = pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])


def numbers(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).normal(1.0, 2.0, shape).astype(dtype)


def array(tensor):
    return tensor.detach().numpy()


def torch_type(dtype):
    return getattr(torch, np.dtype(dtype).name)


def with_new_parameters(twin, seed=0):
    """Give a torch layer weights that are nothing special."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.copy_(torch.tensor(rng.normal(size=parameter.shape)))
    return twin


def weights_from(twin):
    """Return what ``BatchNorm.set_weights`` takes, from a torch layer; our names for theirs."""
    names = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    names["num_batches_tracked"] = "updates"
    return {names[name]: array(tensor) for name, tensor in twin.state_dict().items()}


def state_for(layer):
    """Return what ``load_state_dict`` takes, from our layer."""
    names = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    names["updates"] = "num_batches_tracked"
    return {names[name]: torch.tensor(value) for name, value in layer.weights.items()}


def run(twin, x, dy):
    """Return y and dx of a torch layer."""
    variable = torch.tensor(x, requires_grad=True)
    twin.zero_grad()
    y = twin(variable)
    y.backward(torch.tensor(dy))
    return array(y), array(variable.grad)


def assert_same_call(layer, twin, x, dy, tolerance, **call):
    y, dx = run(twin, x, dy)
    ours = layer(x, **call)
    assert (ours.dtype, ours.shape) == (y.dtype, y.shape)
    np.testing.assert_allclose(ours, y, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(layer.backward(dy), dx, rtol=tolerance, atol=tolerance)
    assert len(layer.gradients) == len(list(twin.parameters()))
    sums = tolerance + tolerance / 10 * np.abs(dy).sum() / x.shape[1]  # many numbers are added up
    for name, parameter in zip(("gamma", "beta"), twin.parameters(), strict=False):
        np.testing.assert_allclose(layer.gradients[name], array(parameter.grad), rtol=tolerance, atol=sums)


def assert_same_statistics(layer, twin, tolerance):
    np.testing.assert_allclose(layer.moving_mean, array(twin.running_mean), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(layer.moving_variance, array(twin.running_var), rtol=tolerance, atol=tolerance)
    assert layer.updates == twin.num_batches_tracked.item()


def pair(kind, shape, dtype, **options):
    """Return a torch layer, and ours with the same options and weights."""
    twin = with_new_parameters(kind(shape[1], dtype=torch_type(dtype), **options))
    layer = BatchNorm.like_pytorch(**options)
    layer.set_weights(weights_from(twin))
    return layer, twin


@pytest.mark.parametrize("momentum", [None, 0.0, 0.1, 1.0])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("kind", "shape"), LAYOUTS[:4])
@PRECISION
def test_like_pytorch_agrees_over_several_steps_and_in_inference(kind, shape, momentum, affine, dtype, tolerance):
    layer, twin = pair(kind, shape, dtype, momentum=momentum, affine=affine)
    for seed in range(3):
        x, dy = (numbers(*shape, dtype=dtype, seed=(seed, i)) for i in range(2))
        assert_same_call(layer, twin, x, dy, tolerance)
        assert_same_statistics(layer, twin, tolerance)
    twin.eval()
    assert_same_call(layer, twin, x, dy, tolerance, training=False)
    assert_same_statistics(layer, twin, tolerance)


@pytest.mark.parametrize(("kind", "shape"), LAYOUTS[4:])
@pytest.mark.parametrize("fast", [True, False])
@PRECISION
def test_like_pytorch_agrees_on_large_inputs(kind, shape, fast, dtype, tolerance):
    layer, twin = pair(kind, shape, dtype, momentum=0.3, eps=1e-3)
    layer.fast = fast
    for seed in range(2):
        x, dy = (numbers(*shape, dtype=dtype, seed=(seed, i)) for i in range(2))
        assert layer._is_fast(x) == fast
        assert_same_call(layer, twin, x, dy, tolerance)
        assert_same_statistics(layer, twin, tolerance)
    twin.eval()
    assert_same_call(layer, twin, x, dy, tolerance, training=False)


def test_the_defaults_are_those_of_pytorch():
    layer, twin = BatchNorm.like_pytorch(), nn.BatchNorm2d(3)
    assert (layer.epsilon, 1 - layer.momentum) == (twin.eps, pytest.approx(twin.momentum))
    layer(numbers(2, 3, 4, 4, dtype=np.float32), training=False)
    for name, value in weights_from(twin).items():
        np.testing.assert_array_equal(layer.weights[name], value)
        assert layer.weights[name].shape == value.shape


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("momentum", [None, 0.1])
def test_weights_move_from_pytorch_in_the_middle_of_a_training(momentum, affine):
    twin = with_new_parameters(nn.BatchNorm2d(3, momentum=momentum, affine=affine, dtype=torch.float64))
    data = [numbers(4, 3, 2, 5, seed=seed) for seed in range(4)]
    for x in data[:2]:
        twin(torch.tensor(x))
    layer = BatchNorm.like_pytorch(momentum=momentum, affine=affine)
    layer.set_weights(weights_from(twin))
    np.testing.assert_allclose(layer(data[0], training=False), run(twin.eval(), data[0], data[0])[0], rtol=1e-12)
    twin.train()
    for x in data[2:]:
        assert_same_call(layer, twin, x, x, 1e-10)
    assert_same_statistics(layer, twin, 1e-12)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("momentum", [None, 0.1])
def test_weights_move_to_pytorch_in_the_middle_of_a_training(momentum, affine):
    layer = BatchNorm.like_pytorch(momentum=momentum, affine=affine)
    data = [numbers(4, 3, 2, 5, seed=seed) for seed in range(4)]
    for x in data[:2]:
        layer(x)
    for parameter in layer.parameters.values():
        parameter[...] = numbers(3, seed=9)
    twin = nn.BatchNorm2d(3, momentum=momentum, affine=affine, dtype=torch.float64)
    assert twin.load_state_dict(state_for(layer)).missing_keys == []
    for x in data[2:]:
        assert_same_call(layer, twin, x, x, 1e-10)
    assert_same_statistics(layer, twin, 1e-12)


def test_float16_keeps_its_statistics_in_float32_in_both():
    x = numbers(6, 3, dtype=np.float16)
    layer, twin = pair(nn.BatchNorm1d, x.shape, np.float32, momentum=0.3)
    y = twin(torch.tensor(x))
    assert y.dtype == torch.float16
    np.testing.assert_allclose(layer(x), array(y), atol=2e-3)
    assert_same_statistics(layer, twin, 1e-5)


@pytest.mark.parametrize(("kind", "shape"), [(nn.BatchNorm1d, (1, 3)), (nn.BatchNorm2d, (1, 3, 1, 1))])
def test_pytorch_refuses_to_train_on_one_value_a_channel_and_ours_returns_beta(kind, shape):
    layer, twin = pair(kind, shape, np.float32)
    x = numbers(*shape, dtype=np.float32)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        twin(torch.tensor(x))
    assert_same_call(layer, twin.eval(), x, x, 1e-6, training=False)
    np.testing.assert_array_equal(layer(x).ravel(), layer.beta)
    np.testing.assert_array_equal(layer.backward(x), np.zeros(shape))
    np.testing.assert_allclose(layer.moving_variance, 0.9)  # a tenth of the way from 1 to 0


def test_freezing_parameters_is_not_inference_mode_in_pytorch_and_it_is_in_ours():
    layer, twin = pair(nn.BatchNorm1d, (6, 3), np.float64)
    x = numbers(6, 3)
    y = array(twin.requires_grad_(False)(torch.tensor(x)))
    np.testing.assert_allclose(layer(x), y, rtol=1e-10)  # it normalises with the batch's statistics, and moves
    assert_same_statistics(layer, twin, 1e-12)
    layer.trainable = False
    np.testing.assert_allclose(layer(x), array(twin.eval()(torch.tensor(x))), rtol=1e-10)
    assert np.abs(layer(x) - y).max() > 0.1


SAMPLE_NORMS = [
    # our layer, its options, the torch layer, its arguments, shape
    (LayerNorm, {}, nn.LayerNorm, {"normalized_shape": 6}, (4, 6)),
    (LayerNorm, {"axis": (2, 3)}, nn.LayerNorm, {"normalized_shape": (4, 5)}, (2, 3, 4, 5)),
    (LayerNorm, {"axis": (1, 2, 3)}, nn.LayerNorm, {"normalized_shape": (3, 4, 5)}, (2, 3, 4, 5)),
    (LayerNorm, {"center": False}, nn.LayerNorm, {"normalized_shape": 6, "bias": False}, (4, 6)),
    (GroupNorm, {"groups": 2, "axis": 1}, nn.GroupNorm, {"num_groups": 2, "num_channels": 6}, (4, 6)),
    (GroupNorm, {"groups": 3, "axis": 1}, nn.GroupNorm, {"num_groups": 3, "num_channels": 6}, (2, 6, 4, 5)),
    (GroupNorm, {"groups": 1, "axis": 1}, nn.GroupNorm, {"num_groups": 1, "num_channels": 4}, (2, 4, 2, 3, 2)),
    (InstanceNorm, {"axis": 1}, nn.InstanceNorm1d, {"num_features": 3, "affine": True}, (2, 3, 7)),
    (InstanceNorm, {"axis": 1}, nn.InstanceNorm2d, {"num_features": 3, "affine": True}, (2, 3, 4, 5)),
    (
        InstanceNorm,
        {"axis": 1, "center": False, "scale": False},
        nn.InstanceNorm3d,
        {"num_features": 3},
        (2, 3, 2, 3, 2),
    ),
]


@pytest.mark.parametrize(("kind", "options", "theirs", "arguments", "shape"), SAMPLE_NORMS)
@PRECISION
def test_the_norms_within_a_sample_agree(kind, options, theirs, arguments, shape, dtype, tolerance):
    layer = kind(**options, epsilon=2e-3)
    twin = with_new_parameters(theirs(**arguments, eps=2e-3, dtype=torch_type(dtype)))
    names = {"weight": "gamma", "bias": "beta"}
    layer.set_weights({names[name]: array(tensor) for name, tensor in twin.state_dict().items()})
    x, dy = (numbers(*shape, dtype=dtype, seed=seed) for seed in range(2))
    assert_same_call(layer, twin, x, dy, tolerance)


def test_both_refuse_instance_norm_of_one_position():
    x = numbers(2, 3, 1, 1, dtype=np.float32)
    with pytest.raises(ValueError, match="Expected more than 1 spatial element when training"):
        nn.InstanceNorm2d(3)(torch.tensor(x))
    with pytest.raises(ValueError, match="leaves one number to each mean"):
        InstanceNorm(axis=1)(x)


def channels_first(x):
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
@PRECISION
def test_convolution_agrees_with_its_axes_moved(strides, dtype, tolerance):
    layer, x = Conv2D(4, (3, 2), strides=strides, seed=0), numbers(2, 7, 8, 3, dtype=dtype)
    y = layer(x)
    twin = nn.Conv2d(3, 4, (3, 2), strides, dtype=torch_type(dtype))
    with torch.no_grad():
        twin.weight.copy_(torch.tensor(layer.kernel.transpose(3, 2, 0, 1)))
        twin.bias.copy_(torch.tensor(layer.bias))
    dy = numbers(*y.shape, dtype=dtype, seed=1)
    theirs, dx = run(twin, channels_first(x), channels_first(dy))
    close = {"rtol": tolerance, "atol": 10 * tolerance}
    np.testing.assert_allclose(channels_first(y), theirs, **close)
    np.testing.assert_allclose(channels_first(layer.backward(dy)), dx, **close)
    np.testing.assert_allclose(layer.gradients["kernel"].transpose(3, 2, 0, 1), array(twin.weight.grad), **close)
    np.testing.assert_allclose(layer.gradients["bias"], array(twin.bias.grad), **close)


@pytest.mark.parametrize(("size", "strides"), [((2, 2), (2, 2)), ((3, 2), (1, 2))])
def test_max_pooling_agrees_ties_included(size, strides):
    x = np.random.default_rng(0).integers(0, 3, (2, 7, 8, 3)).astype(np.float64)
    layer = MaxPool(size, strides)
    y = layer(x)
    dy = numbers(*y.shape, seed=1)
    theirs, dx = run(nn.MaxPool2d(size, strides), channels_first(x), channels_first(dy))
    np.testing.assert_array_equal(channels_first(y), theirs)
    np.testing.assert_allclose(channels_first(layer.backward(dy)), dx, rtol=1e-12, atol=1e-12)
