"""Article B's step: every digit that it prints, from TensorFlow and from the NumPy layers."""

import numpy as np
import pytest

from bncourse.nn import Adam, BatchNorm, Dense, ReLU, Sequential
from bncourse.tf_layers import tf, tf1
from bncourse.tf_layers.one_step import BATCH_X, BATCH_Y, ancestors, build_one_step_network, one_step

pytestmark = pytest.mark.filterwarnings(r"ignore:`tf\.layers\.\w+` is deprecated:UserWarning")

HIDDEN_WEIGHT = 4 * float(np.float32("0.3514931"))
#: One of the output weights that give the article's digits.
OUTPUT_WEIGHT = 0.13
BN = "hidden1/batch_normalization"


@pytest.fixture(scope="module")
def step():
    return one_step(HIDDEN_WEIGHT, OUTPUT_WEIGHT)


@pytest.fixture(scope="module")
def network():
    return build_one_step_network(HIDDEN_WEIGHT, OUTPUT_WEIGHT)


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("weight", "[[1.404974]]"),
        ("hidden", "[[0.      ]\n [1.404974]]"),
        ("normalised", "[[-0.40697935]\n [ 1.215785  ]]"),
        ("activated", "[[0.      ]\n [1.215785]]"),
        ("moving_mean", "[0.3514931]"),
        ("moving_variance", "[0.74709475]"),
        ("gamma", "[0.999]"),
        ("beta", "[-0.001]"),
    ],
)
def test_every_digit_of_the_article_comes_out(step, name, printed):
    assert str(getattr(step, name)) == printed


def test_all_is_float32(step):
    assert {array.dtype for array in step.variables.values()} == {np.dtype(np.float32)}


def test_the_statistics_come_from_the_weight_before_the_step(step):
    assert step.moving_mean == np.float32(HIDDEN_WEIGHT / 4)
    assert step.moving_variance == pytest.approx(0.5 + HIDDEN_WEIGHT**2 / 8, rel=1e-7)
    # Far enough from what the weight after the step would have given.
    assert step.moving_mean != pytest.approx(step.weight.item() / 4, rel=1e-4)


@pytest.mark.parametrize("output_weight", [0.13, -0.285, 0.06, -0.8, 1.3])
def test_the_numpy_layers_take_the_same_step(output_weight):
    network = Sequential(
        [Dense(1, use_bias=False), BatchNorm(momentum=0.5), ReLU(), Dense(1, use_bias=False), BatchNorm(momentum=0.5)]
    )
    network(BATCH_X, training=False)
    network.layers[0].kernel[:] = HIDDEN_WEIGHT
    network.layers[3].kernel[:] = output_weight
    prediction = network(BATCH_X, training=True)
    network.backward(2 * (prediction - BATCH_Y) / len(BATCH_Y))
    gradients = network.gradients
    Adam(0.001, epsilon=1e-8).update(network.parameters, gradients)
    step = one_step(HIDDEN_WEIGHT, output_weight)
    names = {
        "0.kernel": "hidden1/dense/kernel",
        "1.gamma": f"{BN}/gamma",
        "1.beta": f"{BN}/beta",
        "1.moving_mean": f"{BN}/moving_mean",
        "1.moving_variance": f"{BN}/moving_variance",
        "3.kernel": "output/dense/kernel",
        "4.gamma": "output/batch_normalization/gamma",
        "4.beta": "output/batch_normalization/beta",
        "4.moving_mean": "output/batch_normalization/moving_mean",
        "4.moving_variance": "output/batch_normalization/moving_variance",
    }
    assert set(names.values()) == set(step.variables)
    for mine, theirs in names.items():
        np.testing.assert_allclose(network.weights[mine], step.variables[theirs], rtol=3e-7, err_msg=theirs)
        if mine in gradients:
            # The gradient of a scale-invariant weight is a small difference of large numbers.
            np.testing.assert_allclose(gradients[mine], step.gradients[theirs], rtol=2e-3, atol=1e-6, err_msg=theirs)


def test_momentum_0_takes_the_statistics_of_the_batch():
    step = one_step(2.0, 0.5, momentum=0.0)
    assert (step.moving_mean.item(), step.moving_variance.item()) == (1.0, 1.0)


def test_the_learning_rate_bounds_the_step():
    step = one_step(2.0, 0.5, learning_rate=0.25)
    assert step.gamma == pytest.approx(0.75, abs=1e-4)


def test_the_update_ops_and_the_step_have_no_order(network):
    for update in network.update_ops:
        assert update not in ancestors(network.train_op)
        assert network.train_op not in ancestors(update)


def test_the_moments_come_before_the_step_and_before_the_updates(network):
    moments = {network.graph.get_operation_by_name(f"{BN}/moments/{name}") for name in ("mean", "variance")}
    write = network.graph.get_operation_by_name("Adam/update_hidden1/dense/kernel/ResourceApplyAdam")
    assert moments <= ancestors(write)
    assert moments <= ancestors(network.update_ops)


def test_without_the_update_ops_the_statistics_stay(network):
    with tf1.Session(graph=network.graph) as session:
        session.run(network.initializer)
        session.run(network.train_op, network.feed)
        assert session.run(network.variables[f"{BN}/moving_mean"]) == 0.0
        assert session.run(network.variables["hidden1/dense/kernel"]) != np.float32(HIDDEN_WEIGHT)


def test_inference_is_the_default_mode(network):
    with tf1.Session(graph=network.graph) as session:
        session.run(network.initializer)
        session.run(network.update_ops, {network.inputs: BATCH_X})
        assert session.run(network.variables[f"{BN}/moving_mean"]) == 0.0


def test_ancestors_follow_tensors_and_control_dependencies():
    with tf1.Graph().as_default():
        first, second, other = tf.constant(1.0), tf.constant(2.0), tf.constant(3.0)
        with tf.control_dependencies([second]):
            last = tf.identity(tf.negative(first))
        found = ancestors(last)
        assert {first.op, second.op} <= found
        assert other.op not in found
        assert last.op not in found
        assert found < ancestors([last, tf.negative(other)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden_weight": float("nan")}, "hidden_weight = nan; expected a finite number"),
        ({"output_weight": float("inf")}, "output_weight = inf; expected a finite number"),
        ({"momentum": 1.5}, r"momentum = 1.5; expected a number in \[0, 1\]"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0; expected a finite number > 0"),
    ],
)
def test_an_argument_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_one_step_network(**{"hidden_weight": 1.0, "output_weight": 1.0, **arguments})
