"""Normalization within each sample: layer, group and instance normalization."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nn_oracles import gradient

from bncourse.nn import (
    SGD,
    BatchNorm,
    Dense,
    Flatten,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    Sequential,
    group_norm,
    instance_norm,
    layer_norm,
    sample_norm_backward,
)

# (layer, shape of x, axes of gamma, which numbers share a mean: a function from an index of x to a label)
CASES = {
    "layer, features": (lambda **o: LayerNorm(**o), (3, 5), (1,), lambda i: i[0]),
    "layer, each position": (lambda **o: LayerNorm(**o), (2, 3, 4, 5), (3,), lambda i: i[:3]),
    "layer, whole image": (lambda **o: LayerNorm(axis=(-1, 2, 1), **o), (2, 3, 2, 4), (1, 2, 3), lambda i: i[0]),
    "layer, middle axes": (lambda **o: LayerNorm(axis=(2, 1), **o), (2, 3, 2, 4), (1, 2), lambda i: (i[0], i[3])),
    "layer, rank 5": (lambda **o: LayerNorm(axis=(1, -1), **o), (2, 3, 2, 2, 2), (1, 4), lambda i: (i[0], *i[2:4])),
    "group, features": (lambda **o: GroupNorm(2, **o), (3, 6), (1,), lambda i: (i[0], i[1] // 3)),
    "group, last": (lambda **o: GroupNorm(3, **o), (2, 3, 2, 6), (3,), lambda i: (i[0], i[3] // 2)),
    "group, first": (lambda **o: GroupNorm(2, axis=1, **o), (2, 4, 3, 2), (1,), lambda i: (i[0], i[1] // 2)),
    "group, middle": (lambda **o: GroupNorm(2, axis=-2, **o), (2, 3, 4, 2), (2,), lambda i: (i[0], i[2] // 2)),
    "group, one": (lambda **o: GroupNorm(1, **o), (2, 3, 4), (2,), lambda i: i[0]),
    "group, each channel": (lambda **o: GroupNorm(-1, **o), (2, 3, 2, 3), (3,), lambda i: (i[0], i[3])),
    "instance, rank 3": (lambda **o: InstanceNorm(**o), (2, 5, 3), (2,), lambda i: (i[0], i[2])),
    "instance, first": (lambda **o: InstanceNorm(axis=1, **o), (2, 3, 2, 2, 2), (1,), lambda i: (i[0], i[1])),
}
case = pytest.mark.parametrize(("make", "shape", "axes", "label"), CASES.values(), ids=CASES.keys())


def oracle(x, gamma, beta, axes, label, epsilon):
    """Written out number by number in float64, with exact sums."""
    x, members, y = np.asarray(x, np.float64), {}, np.empty(np.shape(x))
    for index in np.ndindex(x.shape):
        members.setdefault(label(index), []).append(index)
    for indices in members.values():
        numbers = [float(x[i]) for i in indices]
        mean = math.fsum(numbers) / len(numbers)
        std = math.sqrt(math.fsum((n - mean) ** 2 for n in numbers) / len(numbers) + epsilon)
        for i in indices:
            place = tuple(i[a] for a in axes)
            y[i] = gamma[place] * (x[i] - mean) / std + beta[place]
    return y


def prepared(make, shape, dtype=np.float64, **options):
    """Return a built layer with nothing special about gamma and beta, x and dy."""
    rng = np.random.default_rng(0)
    layer = make(**options)
    x, dy = (rng.normal(1.0, 2.0, shape).astype(dtype) for _ in range(2))
    layer(x)
    layer.gamma[...], layer.beta[...] = (rng.normal(size=layer.gamma.shape) for _ in range(2))
    return layer, x, dy


def state_of(layer):
    return {name: np.copy(array) for name, array in layer.weights.items()}


@case
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 3e-6), (np.float16, 1e-2)])
def test_forward_is_what_the_definition_says(make, shape, axes, label, dtype, tolerance):
    layer, x, _ = prepared(make, shape, dtype, epsilon=2e-3)
    y = layer(x)
    assert (y.dtype, y.shape, layer.gamma.shape) == (dtype, shape, tuple(shape[a] for a in axes))
    np.testing.assert_allclose(y, oracle(x, layer.gamma, layer.beta, axes, label, 2e-3), atol=tolerance)


@case
@pytest.mark.parametrize("training", [True, False])
def test_backward_is_the_slope(make, shape, axes, label, training):
    layer, x, dy = prepared(make, shape)
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


@case
def test_training_and_inference_do_the_same(make, shape, axes, label):
    layer, x, _ = prepared(make, shape)
    before = state_of(layer)
    np.testing.assert_array_equal(layer(x, training=True), layer(x, training=False))
    for name, array in state_of(layer).items():
        np.testing.assert_array_equal(array, before[name])
    assert set(before) == {"gamma", "beta"}


@case
def test_what_is_added_to_or_multiplied_with_a_sample_gets_no_gradient(make, shape, axes, label):
    layer, x, dy = prepared(make, shape, epsilon=0.0)
    y, dx = layer(x), layer.backward(dy)
    np.testing.assert_allclose(layer(3.0 * x + 7.0), y, atol=1e-10)
    sums = {}
    for index in np.ndindex(shape):
        first, second = sums.get(label(index), (0.0, 0.0))
        sums[label(index)] = (first + dx[index], second + dx[index] * x[index])
    np.testing.assert_allclose(list(sums.values()), 0.0, atol=1e-12)
    assert np.abs(dx).max() > 0.1


@case
def test_no_sample_depends_on_another(make, shape, axes, label):
    layer, x, dy = prepared(make, shape)
    y, dx = layer(x), layer.backward(dy)
    np.testing.assert_array_equal(layer(x[1:]), y[1:])
    np.testing.assert_array_equal(layer.backward(dy[1:]), dx[1:])


@case
def test_the_sums_over_a_batch_add_up(make, shape, axes, label):
    layer, x, dy = prepared(make, shape)
    layer(x)
    layer.backward(dy)
    whole, parts = layer.gradients, []
    for i in range(len(x)):
        layer(x[i : i + 1])
        layer.backward(dy[i : i + 1])
        parts.append(layer.gradients)
    for name in whole:
        np.testing.assert_allclose(sum(part[name] for part in parts), whole[name], rtol=1e-12, atol=1e-12)


@st.composite
def inputs(draw):
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=2, max_size=5)))
    rank = len(shape)
    if draw(st.booleans()):
        axis = tuple(draw(st.permutations(range(1, rank)))[: draw(st.integers(1, rank - 1))])
        if math.prod(shape[a] for a in axis) == 1:
            shape = (*shape[: axis[0]], 3, *shape[axis[0] + 1 :])
        signed = tuple(a - rank if draw(st.booleans()) else a for a in axis)
        choice = {"axis": signed}
    else:
        axis, groups, per_group = draw(st.integers(1, rank - 1)), draw(st.integers(1, 3)), draw(st.integers(2, 3))
        shape = (*shape[:axis], groups * per_group, *shape[axis + 1 :])
        choice = {"groups": groups, "axis": axis}
    return shape, choice, draw(st.sampled_from([np.float16, np.float32, np.float64])), draw(st.integers(0, 99))


@given(inputs())
def test_both_agree_with_numpy_on_any_shape_and_axis(example):
    shape, choice, dtype, seed = example
    rng = np.random.default_rng(seed)
    x = rng.normal(1.0, 2.0, shape).astype(dtype)
    wide, rank = x.astype(np.float64), len(shape)
    axis = np.atleast_1d(choice["axis"]) % rank
    parameter_shape = tuple(shape[a] for a in sorted(axis))
    gamma, beta = rng.normal(size=(2, *parameter_shape)).astype(dtype)
    if "groups" in choice:
        y, cache = group_norm(x, gamma, beta, epsilon=0.1, **choice)
        (c,) = axis
        parts = np.split(wide, choice["groups"], axis=c)
        over = tuple(range(1, rank))
        scaled = [(p - p.mean(over, keepdims=True)) / np.sqrt(p.var(over, keepdims=True) + 0.1) for p in parts]
        x_hat = np.concatenate(scaled, axis=c)
    else:
        y, cache = layer_norm(x, gamma, beta, epsilon=0.1, **choice)
        over = tuple(axis)
        x_hat = (wide - wide.mean(over, keepdims=True)) / np.sqrt(wide.var(over, keepdims=True) + 0.1)
    letters = "abcde"[:rank]
    own = "".join(letters[a] for a in sorted(axis))
    expected = np.einsum(f"{letters},{own}->{letters}", x_hat, gamma.astype(np.float64))
    expected += np.einsum(f"{letters},{own}->{letters}", np.ones(shape), beta.astype(np.float64))
    tolerance = {np.float16: 1e-2, np.float32: 1e-5, np.float64: 1e-12}[dtype]
    np.testing.assert_allclose(y, expected, atol=tolerance)

    dy = rng.normal(size=shape).astype(dtype)
    dx, dgamma, dbeta = sample_norm_backward(dy, cache)
    assert (dx.dtype, dx.shape) == (dtype, shape)
    np.testing.assert_allclose(dgamma, np.einsum(f"{letters},{letters}->{own}", dy, x_hat), atol=50 * tolerance)
    np.testing.assert_allclose(dbeta, np.einsum(f"{letters}->{own}", dy.astype(np.float64)), atol=50 * tolerance)


def test_the_three_are_one_another_in_their_special_cases():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 6))
    np.testing.assert_allclose(GroupNorm(1)(x), LayerNorm(axis=(1, 2, 3))(x), rtol=1e-12)
    np.testing.assert_array_equal(GroupNorm(-1)(x), InstanceNorm()(x))
    np.testing.assert_array_equal(GroupNorm(6)(x), InstanceNorm()(x))
    np.testing.assert_array_equal(InstanceNorm()(x), instance_norm(x, None, None, epsilon=1e-3)[0])
    # one sample: its batch statistics are its own
    np.testing.assert_allclose(InstanceNorm()(x[:1]), BatchNorm()(x[:1]), rtol=1e-10, atol=1e-12)
    moved = np.moveaxis(GroupNorm(3, axis=1)(np.moveaxis(x, -1, 1)), 1, -1)
    np.testing.assert_allclose(moved, GroupNorm(3)(x), rtol=1e-12)


@pytest.mark.parametrize(
    ("layer", "shape", "over"),
    [
        (LayerNorm(epsilon=0.0), (4, 4096), 1),
        (InstanceNorm(epsilon=0.0), (2, 128, 128, 4), (1, 2)),
        (GroupNorm(1, epsilon=0.0), (2, 128, 128, 4), (1, 2, 3)),
        (InstanceNorm(axis=1, epsilon=0.0), (2, 4, 16384), 2),
    ],
    ids=repr,
)
def test_a_large_offset_costs_no_digits(layer, shape, over):
    x = (1e4 + 1e-2 * np.random.default_rng(0).normal(size=shape)).astype(np.float32)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(over, keepdims=True)) / wide.std(over, keepdims=True)
    assert np.abs(layer(x) - expected).max() < 2e-6


@pytest.mark.parametrize("layer", [LayerNorm(), GroupNorm(1), InstanceNorm()], ids=repr)
def test_float16_does_not_overflow(layer):
    x = np.array([60000, -60000, 60000, -60000], np.float16)
    x = x.reshape(1, 4) if isinstance(layer, LayerNorm) else x.reshape(1, 4, 1)
    np.testing.assert_array_equal(layer(x).ravel(), [1, -1, 1, -1])
    dx = layer.backward(np.ones_like(x))
    assert (dx.dtype, layer.gamma.dtype) == (np.float16, np.float32)
    assert np.isfinite(dx).all()


@pytest.mark.parametrize("make", [LayerNorm, lambda **o: GroupNorm(1, **o), InstanceNorm])
@pytest.mark.parametrize(("center", "scale"), [(True, False), (False, True), (False, False)])
def test_center_and_scale_switch_the_parameters_off(make, center, scale):
    x, dy = np.random.default_rng(0).normal(size=(2, 2, 5, 3))
    layer, full = make(center=center, scale=scale), make()
    np.testing.assert_array_equal(layer(x), full(x))
    np.testing.assert_array_equal(layer.backward(dy), full.backward(dy))
    expected = {name for name, has in (("gamma", scale), ("beta", center)) if has}
    assert set(layer.parameters) == set(layer.gradients) == set(layer.weights) == expected


def test_changing_y_does_not_change_the_gradients():
    x, dy = np.random.default_rng(0).normal(size=(2, 4, 5))
    layer = LayerNorm(center=False, scale=False)
    y = layer(x)
    dx = layer.backward(dy)
    y[...] = 0.0
    np.testing.assert_array_equal(layer.backward(dy), dx)


def test_trainable_false_takes_the_parameters_out_and_changes_no_output():
    layer, x, _ = prepared(LayerNorm, (3, 5))
    y = layer(x)
    layer.trainable = False
    np.testing.assert_array_equal(layer(x), y)
    assert layer.parameters == {}


def test_the_type_of_the_parameters_follows_the_first_input():
    for dtype, expected in ((np.float16, np.float32), (np.float32, np.float32), (np.float64, np.float64)):
        layer = LayerNorm()
        layer(np.ones((2, 3), dtype))
        assert layer.gamma.dtype == layer.beta.dtype == expected


def network():
    layers = [GroupNorm(2, axis=1), InstanceNorm(axis=1), Flatten(), LayerNorm(), Dense(3, seed=0)]
    return Sequential(layers)


def test_a_network_learns_and_is_saved_and_loaded(tmp_path):
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(12, 4, 3, 3)), np.arange(12) % 3
    model = network()
    first = model.train_on_batch(x, labels, optimizer=SGD(0.1)).loss
    for _ in range(30):
        last = model.train_on_batch(x, labels, optimizer=SGD(0.1)).loss
    assert last < 0.5 * first
    assert np.abs(model.layers[3].gamma - 1).max() > 1e-3
    model.save(tmp_path / "network.npz")
    fresh = network()
    fresh.load(tmp_path / "network.npz")
    np.testing.assert_array_equal(fresh(x, training=False), model(x, training=False))


def test_repr_shows_every_argument():
    assert repr(LayerNorm(axis=(1, 2))) == "LayerNorm(axis=(1, 2), epsilon=0.001, center=True, scale=True)"
    assert repr(GroupNorm(4, axis=1)) == "GroupNorm(groups=4, axis=1, epsilon=0.001, center=True, scale=True)"
    assert repr(InstanceNorm(scale=False)) == "InstanceNorm(axis=-1, epsilon=0.001, center=True, scale=False)"


# Errors


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LayerNorm(axis=1.0), TypeError, r"axis = 1\.0; expected an int or a sequence of ints"),
        (lambda: LayerNorm(axis=()), ValueError, r"axis = \(\) is empty; name at least one axis to average over"),
        (lambda: LayerNorm(axis=(1, 1)), ValueError, r"axis = \(1, 1\) names an axis twice"),
        (lambda: LayerNorm(epsilon=-1e-9), ValueError, "epsilon = -1e-09; expected a finite number >= 0"),
        (lambda: GroupNorm(2, epsilon=-1.0), ValueError, r"epsilon = -1\.0"),
        (lambda: InstanceNorm(epsilon=float("nan")), ValueError, "epsilon = nan"),
        (lambda: GroupNorm(0), ValueError, r"groups = 0; expected an integer >= 1\. \(Or -1"),
        (lambda: GroupNorm(-2), ValueError, "groups = -2"),
        (lambda: GroupNorm(2.0), TypeError, r"groups = 2\.0; expected an integer"),
        (lambda: GroupNorm(True), TypeError, "groups = True"),
        (lambda: GroupNorm(2, axis=(1, 2)), TypeError, r"axis = \(1, 2\); expected one int"),
        (lambda: InstanceNorm(axis=True), TypeError, "axis = True; expected one int"),
    ],
)
def test_impossible_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "x", "error", "message"),
    [
        (LayerNorm(), np.ones((4, 3), int), TypeError, "x has dtype int64"),
        (LayerNorm(), np.ones(3), ValueError, "x has rank 1"),
        (LayerNorm(axis=0), np.ones((4, 3)), ValueError, r"axis = 0 names the batch axis of x \(shape \(4, 3\)\)"),
        (LayerNorm(axis=-2), np.ones((4, 3)), ValueError, "use BatchNorm to average over the batch"),
        (LayerNorm(axis=(0, 1)), np.ones((4, 3)), ValueError, "names the batch axis"),
        (LayerNorm(axis=2), np.ones((4, 3)), ValueError, "axis = 2 is out of range"),
        (LayerNorm(axis=(1, -1)), np.ones((4, 3)), ValueError, "names an axis of x twice"),
        (LayerNorm(), np.ones((4, 1)), ValueError, "axis = -1 leaves one number to each mean .* average over more"),
        (LayerNorm(), np.ones((0, 3)), ValueError, "holds no numbers"),
        (GroupNorm(2), np.ones((4, 5)), ValueError, r"groups = 2 does not divide the 5 channels .* one of \[1, 5\]"),
        (GroupNorm(8), np.ones((4, 3, 6)), ValueError, r"groups = 8 does not divide .* \[1, 2, 3, 6\]"),
        (GroupNorm(-1), np.ones((4, 6)), ValueError, "groups = -1 leaves one number .* choose fewer groups"),
        (GroupNorm(6), np.ones((4, 1, 1, 6)), ValueError, "groups = 6 leaves one number"),
        (GroupNorm(2, axis=0), np.ones((4, 6)), ValueError, "names the batch axis"),
        (InstanceNorm(), np.ones((4, 6)), ValueError, "x has rank 2 .* needs rank 3 to 5"),
        (InstanceNorm(), np.ones((1,) * 6), ValueError, "x has rank 6"),
    ],
)
def test_impossible_inputs_are_refused_and_build_nothing(layer, x, error, message):
    with pytest.raises(error, match=message):
        layer(x)
    assert layer.gamma is layer.beta is None
    with pytest.raises(RuntimeError, match="backward before forward"):
        layer.backward(np.ones((2, 3)))


@pytest.mark.parametrize("layer", [LayerNorm(), GroupNorm(2), InstanceNorm(), LayerNorm(scale=False)], ids=repr)
def test_a_call_that_raises_leaves_a_built_layer_as_it_was(layer):
    x, dy = np.random.default_rng(0).normal(size=(2, 3, 5, 4))
    layer(x)
    dx, before = layer.backward(dy), state_of(layer)
    for wrong, error, message in (
        (np.ones((3, 5, 8)), ValueError, r"shape \(8,\); this layer was built for \(4,\)\. Use a new layer"),
        (np.ones((3, 5, 4), int), TypeError, "x has dtype int64"),
    ):
        with pytest.raises(error, match=message):
            layer(wrong)
    with pytest.raises(ValueError, match=r"dy has shape \(3, 5\); expected \(3, 5, 4\), the shape of y"):
        layer.backward(dy[..., 0])
    for name, array in state_of(layer).items():
        np.testing.assert_array_equal(array, before[name])
    np.testing.assert_array_equal(layer.backward(dy), dx)


def test_the_functions_check_what_they_are_given():
    x = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"gamma has shape \(2,\); expected \(3,\)"):
        layer_norm(x, np.ones(2), None, epsilon=1e-3, axis=-1)
    with pytest.raises(TypeError, match="beta has dtype int64"):
        group_norm(x, None, np.ones(3, int), groups=1, epsilon=1e-3)
    with pytest.raises(ValueError, match="epsilon = -1"):
        layer_norm(x, None, None, epsilon=-1, axis=-1)
    with pytest.raises(ValueError, match="x has rank 2"):
        instance_norm(x, None, None, epsilon=1e-3)
    with pytest.raises(TypeError, match="groups = None"):
        group_norm(x, None, None, groups=None, epsilon=1e-3)
    _, cache = layer_norm(x, None, None, epsilon=1e-3, axis=-1)
    with pytest.raises(ValueError, match=r"dy has shape \(3, 2\)"):
        sample_norm_backward(x.T, cache)
    with pytest.raises(TypeError, match="dy has dtype int64"):
        sample_norm_backward(x.astype(int), cache)


def test_weights_of_different_shapes_are_refused():
    layer = LayerNorm()
    with pytest.raises(ValueError, match="the weights have different shapes"):
        layer.set_weights({"gamma": np.ones(3), "beta": np.ones(2)})
    assert layer.gamma is None


def test_weights_taken_over_before_the_first_call_count():
    layer = LayerNorm()
    layer.set_weights({"gamma": np.array([1.0, 2.0]), "beta": np.array([0.0, 5.0])})
    np.testing.assert_allclose(layer(np.array([[-1.0, 1.0]])), [[-1.0, 7.0]], atol=2e-3)
    with pytest.raises(ValueError, match=r"built for \(2,\)"):
        layer(np.ones((2, 3)))
