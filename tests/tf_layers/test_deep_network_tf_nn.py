"""Article A's network from variables and tf.nn; that it computes what tf.layers does is tested in keras_models."""

import numpy as np
import pytest

from bncourse.tf_layers import tf1
from bncourse.tf_layers.deep_network import build_deep_network
from bncourse.tf_layers.deep_network_tf_nn import build_tf_nn_network


def shapes(network):
    return {v.op.name: tuple(v.shape) for v in network.graph.get_collection(tf1.GraphKeys.GLOBAL_VARIABLES)}


def test_its_variables_are_named_and_shaped_as_those_of_tf_layers():
    assert shapes(build_tf_nn_network()) == shapes(build_deep_network())


def test_it_collects_two_updates_a_layer_and_its_step_runs_them():
    network = build_tf_nn_network(conv_layers=1, momentum=0.0)
    assert len(network.update_ops) == 4
    images = np.random.default_rng(0).random((6, 28, 28, 1), dtype=np.float32)
    feed = {network.inputs: images, network.labels: np.eye(10)[:6]}
    with tf1.Session(graph=network.graph) as session:
        session.run(network.initializer)
        losses = []
        for _ in range(8):
            losses.append(session.run(network.loss, {**feed, network.training: True}))
            session.run(network.train_op, {**feed, network.training: True})
        assert losses[-1] < losses[0]
        moving = [v for v in network.graph.get_collection("variables") if "moving_mean" in v.op.name]
        before = session.run(moving)
        assert all(np.abs(mean).max() > 0 for mean in before)
        session.run(network.accuracy, {**feed, network.training: True})
        assert all(map(np.array_equal, session.run(moving), before))  # looking moves nothing


def test_the_seed_decides_the_start():
    starts = []
    for seed in (0, 0, 1):
        network = build_tf_nn_network(conv_layers=1, seed=seed)
        with tf1.Session(graph=network.graph) as session:
            session.run(network.initializer)
            starts.append(session.run("conv2d/kernel/Read/ReadVariableOp:0"))
    assert np.array_equal(starts[0], starts[1])
    assert not np.array_equal(starts[0], starts[2])


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"momentum": -0.1}, ValueError, r"momentum = -0\.1; expected a number in \[0, 1\]\."),
        ({"learning_rate": 0.0}, ValueError, r"learning_rate = 0\.0; expected a finite number > 0"),
        ({"conv_layers": 0}, ValueError, "conv_layers = 0; expected an integer >= 1."),
        ({"seed": 0.5}, TypeError, r"seed = 0\.5; expected an integer."),
        ({"moving_variance": "both"}, ValueError, "moving_variance = 'both'; expected 'population', 'sample' or 'as"),
        ({"dtype": "int32"}, ValueError, "dtype = 'int32'; expected 'float32' or 'float64'."),
    ],
)
def test_impossible_arguments_are_refused(options, kind, message):
    with pytest.raises(kind, match=message):
        build_tf_nn_network(**options)
