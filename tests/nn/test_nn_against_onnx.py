"""The NumPy room against ONNX: its reference evaluator, and the node tests that it publishes, where it is installed.

Operator BatchNormalization, from version 14 of the operator set on: the channels lie along axis 1, momentum is the
share of the old value, and the population variance enters the running one ("this formula does not use sample size
N - 1").
"""

import importlib

import numpy as np
import pytest

from bncourse.nn import BatchNorm, Conv2D, GroupNorm, InstanceNorm, LayerNorm, MaxPool

onnx = pytest.importorskip("onnx")
from onnx.backend.test.case import node as published  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

SHAPES = [(6, 3), (4, 3, 5), (3, 2, 4, 5), (3, 2, 2, 3, 2), (700, 33), (8, 5, 24, 24)]
PRECISION = pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
EPSILON = 2.0**-9  # ONNX keeps its options in float32, where this is exact
TRAINED = ("y", "running_mean", "running_variance")


def evaluate(feed, outputs=("y",), opset=15, **attributes):
    """Run one BatchNormalization node in the reference evaluator; `feed` holds x and the four parameters."""
    info, helper = onnx.helper.make_tensor_value_info, onnx.helper
    parameter = feed["gamma"]
    likes = {name: feed["x"] if name == "y" else parameter for name in outputs}
    arguments = [
        [info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape) for name, array in arrays.items()]
        for arrays in (feed, likes)
    ]
    node = helper.make_node("BatchNormalization", list(feed), list(outputs), **attributes)
    graph = helper.make_graph([node], "one_node", *arguments)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return ReferenceEvaluator(model).run(None, feed)


def feed_for(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    parameters = rng.normal(size=(4, shape[1])).astype(dtype)
    feed = dict(zip(("gamma", "beta", "moving_mean", "moving_variance"), parameters, strict=True))
    return {"x": rng.normal(1.0, 2.0, shape).astype(dtype), **feed, "moving_variance": parameters[3] ** 2}


def layer_for(feed, **options):
    layer = BatchNorm(axis=1, **options)
    layer.set_weights({name: array for name, array in feed.items() if name != "x"} | {"updates": 0})
    return layer


@pytest.mark.parametrize("shape", SHAPES)
@PRECISION
def test_inference_agrees_with_the_reference_evaluator(shape, dtype, tolerance):
    feed = feed_for(shape, dtype)
    (expected,) = evaluate(feed, epsilon=EPSILON)
    y = layer_for(feed, epsilon=EPSILON)(feed["x"], training=False)
    assert y.dtype == expected.dtype
    np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("momentum", [0.0, 0.75, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
@PRECISION
def test_training_agrees_with_the_reference_evaluator_over_steps(shape, momentum, dtype, tolerance):
    feed = feed_for(shape, dtype)
    layer = layer_for(feed, momentum=momentum, epsilon=EPSILON)
    for seed in range(3):
        feed["x"] = feed_for(shape, dtype, seed)["x"]
        y, mean, variance = evaluate(feed, TRAINED, training_mode=1, momentum=momentum, epsilon=EPSILON)
        np.testing.assert_allclose(layer(feed["x"]), y, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(layer.moving_mean, mean, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(layer.moving_variance, variance, rtol=tolerance, atol=tolerance)
        feed["moving_mean"], feed["moving_variance"] = mean, variance


def test_the_running_variance_is_the_population_variance():
    feed = feed_for((2, 1), np.float64)
    feed["x"] = np.array([[1.0], [3.0]])  # population variance 1, sample variance 2
    *_, variance = evaluate(feed, TRAINED, training_mode=1, momentum=0.0)
    assert variance == [1.0]


def test_the_text_of_the_standard_says_so_too():
    text = " ".join(onnx.defs.get_schema("BatchNormalization", 15).doc.split())
    assert "running_var = input_var * momentum + current_var * (1 - momentum)" in text
    assert "`ReduceVar` refers to the population variance" in text
    assert "this formula does not use sample size `N - 1`" in text


def float16_feed():
    """Sixty thousand and its opposite, whose squares no float16 holds; the parameters are float32."""
    feed = feed_for((8, 1), np.float32)
    return {**feed, "x": np.array([[60_000.0], [-60_000.0]] * 4, np.float16), "gamma": np.ones(1, np.float32)}


@pytest.mark.filterwarnings("ignore:overflow encountered in square:RuntimeWarning")
def test_in_float16_the_reference_evaluator_overflows_where_the_standard_forbids_it_and_ours_does_not():
    text = " ".join(onnx.defs.get_schema("BatchNormalization", 15).doc.split())
    assert "The computation of ReduceMean and ReduceVar uses float to avoid overflow for float16 inputs." in text

    feed = float16_feed()
    y, _, variance = evaluate(feed, TRAINED, training_mode=1, momentum=0.0)
    np.testing.assert_allclose(y - feed["beta"], 0.0, atol=1e-3)  # beta, whatever x is
    assert np.isinf(variance).all()

    layer = layer_for(feed, momentum=0.0, epsilon=1e-5)
    signs = np.sign(feed["x"]).astype(np.float32)
    np.testing.assert_allclose(layer(feed["x"]), signs + feed["beta"], atol=2e-3)
    np.testing.assert_allclose(layer.moving_variance, 60_000.0**2, rtol=1e-3)


def test_of_version_9_the_reference_evaluator_mixes_the_batch_into_inference():
    """Version 9 knows test mode by its single output; the batch has no part in it. The evaluator blends it in."""
    feed = feed_for((6, 3), np.float64)
    (old,) = evaluate(feed, opset=9, momentum=0.75, epsilon=EPSILON)
    (new,) = evaluate(feed, epsilon=EPSILON)
    layer = layer_for(feed, momentum=0.75, epsilon=EPSILON)
    np.testing.assert_allclose(layer(feed["x"], training=False), new, rtol=1e-9)
    assert np.abs(old - new).max() > 0.1
    layer(feed["x"], training=True)  # one update, and then inference: that is what it computes
    np.testing.assert_allclose(layer(feed["x"], training=False), old, rtol=1e-9)


CASES = {}  # the published node tests, by name
_NORMS = ("batch_normalization", "groupnormalization", "instance_normalization", "layernormalization")
for _name in (*_NORMS, "conv", "maxpool"):
    importlib.import_module(f"{published.__name__}.{_name}")
for _case in published._NodeTestCases:
    if len(_case.model.graph.node) == 1:  # the others spell the operator out in simpler ones
        CASES[_case.name.removeprefix("test_")] = _case


def batch_norm_case(inputs, epsilon=1e-5, momentum=0.9, training_mode=0):
    feed = dict(zip(("x", "gamma", "beta", "moving_mean", "moving_variance"), inputs, strict=True))
    layer = layer_for(feed, momentum=momentum, epsilon=epsilon)
    y = layer(feed["x"], training=bool(training_mode))
    return [y, layer.moving_mean, layer.moving_variance] if training_mode else [y]


def with_parameters(layer, x, gamma, beta):
    layer.set_weights({"gamma": gamma, "beta": beta})
    return [layer(x)]


def group_norm_case(inputs, num_groups, epsilon=1e-5):
    return with_parameters(GroupNorm(num_groups, axis=1, epsilon=epsilon), *inputs)


def instance_norm_case(inputs, epsilon=1e-5):
    return with_parameters(InstanceNorm(axis=1, epsilon=epsilon), *inputs)


def layer_norm_case(inputs, axis=-1, epsilon=1e-5):
    rank = inputs[0].ndim
    return with_parameters(LayerNorm(axis=tuple(range(axis % rank, rank)), epsilon=epsilon), *inputs)


def channels_last(x):
    return np.moveaxis(x, 1, -1)


def channels_first(x):
    return np.moveaxis(x, -1, 1)


def padding_of(pads=(0, 0, 0, 0), auto_pad=b"NOTSET"):
    assert not any(pads)
    return {b"NOTSET": "valid", b"SAME_UPPER": "same"}[auto_pad]


def conv_case(inputs, kernel_shape, strides=(1, 1), **padding):
    x, kernel = inputs
    layer = Conv2D(len(kernel), tuple(kernel_shape), tuple(strides), padding_of(**padding), use_bias=False)
    layer.set_weights({"kernel": kernel.transpose(2, 3, 1, 0)})
    return [channels_first(layer(channels_last(x)))]


def max_pool_case(inputs, kernel_shape, strides=(1, 1), **padding):
    layer = MaxPool(tuple(kernel_shape), tuple(strides), padding_of(**padding))
    return [channels_first(layer(channels_last(*inputs)))]


#: What runs a case; for convolution and pooling, the cases that our layers have the options for.
RUNNERS = {
    "BatchNormalization": batch_norm_case,
    "GroupNormalization": group_norm_case,
    "InstanceNormalization": instance_norm_case,
    "LayerNormalization": layer_norm_case,
    "Conv": conv_case,
    "MaxPool": max_pool_case,
}
OTHERS = [
    "basic_conv_without_padding",
    "conv_with_strides_no_padding",
    "maxpool_2d_default",
    "maxpool_2d_precomputed_strides",
    "maxpool_2d_precomputed_same_upper",
    "maxpool_2d_same_upper",
    "maxpool_2d_strides",
]


def operator(name):
    return CASES[name].model.graph.node[0]


def attributes(name):
    return {a.name: onnx.helper.get_attribute_value(a) for a in operator(name).attribute}


def over_the_batch(name):
    """Tell whether a case averages over the batch as well, which no layer of this course does."""
    (inputs, _), *_ = CASES[name].data_sets
    return operator(name).op_type == "LayerNormalization" and inputs[1].ndim == inputs[0].ndim


NORMS = [name for name in CASES if operator(name).op_type.endswith("Normalization")]


@pytest.mark.parametrize("name", [name for name in NORMS if not over_the_batch(name)] + OTHERS)
def test_the_published_node_tests_pass(name):
    case, run = CASES[name], RUNNERS[operator(name).op_type]
    for inputs, outputs in case.data_sets:
        ours = run(inputs, **attributes(name))
        for mine, theirs in zip(ours, outputs, strict=operator(name).op_type != "LayerNormalization"):
            assert mine.dtype in (theirs.dtype, np.float64)  # our moving statistics are float64
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)  # they allow a thousandth


@pytest.mark.parametrize("name", [name for name in NORMS if over_the_batch(name)])
def test_the_published_node_tests_that_average_over_the_batch_are_refused(name):
    ((inputs, _),) = CASES[name].data_sets
    with pytest.raises(ValueError, match="names the batch axis of x"):
        layer_norm_case(inputs, **attributes(name))


def test_the_published_node_tests_were_found():
    kinds = [operator(name).op_type for name in NORMS]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "BatchNormalization": 4,
        "GroupNormalization": 2,
        "InstanceNormalization": 2,
        "LayerNormalization": 19,
    }
