"""Weights between graphs, checkpoints and Keras models: there and back, and what is said if they do not fit."""

import numpy as np
import pytest

from bncourse.keras_models import (
    build_deep_model,
    keras,
    pair_in_order,
    read_checkpoint,
    read_graph,
    read_model,
    write_graph,
    write_model,
)
from bncourse.tf_layers import tf, tf1
from bncourse.tf_layers.deep_network import build_deep_network

IMAGES = np.random.default_rng(0).random((5, 28, 28, 1), dtype=np.float32)
LABELS = np.eye(10, dtype=np.float32)[:5]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A graph after two steps: its weights, its logits in inference mode, and its checkpoint."""
    network = build_deep_network(conv_layers=2, momentum=0.5, seed=3)
    with tf1.Session(graph=network.graph) as session:
        session.run(network.initializer)
        for _ in range(2):
            feed = {network.inputs: IMAGES, network.labels: LABELS, network.training: True}
            session.run(network.train_op, feed)
        logits = session.run(network.logits, {network.inputs: IMAGES, network.training: False})
        with network.graph.as_default():
            checkpoint = tf1.train.Saver().save(session, str(tmp_path_factory.mktemp("old") / "model"), 7)
        return network, read_graph(session), logits, checkpoint


def equal(one, other):
    assert one.keys() == other.keys()
    return all(np.array_equal(value, other[name]) for name, value in one.items())


def test_a_graph_moves_into_a_model_and_predicts_the_same(trained):
    _, weights, logits, _ = trained
    model = build_deep_model(conv_layers=2)
    write_model(model, weights)
    np.testing.assert_allclose(model.predict(IMAGES, verbose=0), logits, rtol=1e-4, atol=1e-5)
    assert equal(read_model(model), weights)


def test_a_model_moves_into_a_finalised_graph(trained):
    network = trained[0]
    weights = read_model(build_deep_model(conv_layers=2, seed=11))
    with tf1.Session(graph=network.graph) as session:
        session.run(network.initializer)
        network.graph.finalize()
        write_graph(session, weights)
        assert equal(read_graph(session), weights)


def test_a_checkpoint_holds_the_same_weights_without_the_optimizers(trained):
    _, weights, _, checkpoint = trained
    found = read_checkpoint(checkpoint)
    assert equal(found, weights)
    assert equal(read_checkpoint(checkpoint.rpartition("/")[0]), weights)
    stored = [name for name, _ in tf.train.list_variables(checkpoint)]
    assert {"beta1_power", "conv2d/kernel/Adam", "conv2d/kernel/Adam_1"} <= set(stored)


def test_a_checkpoint_gives_layers_in_the_order_of_their_numbers(tmp_path):
    with tf1.Graph().as_default(), tf1.Session() as session:
        for index in (10, 2, 0):
            with tf1.variable_scope(f"conv2d_{index}" if index else "conv2d"):
                tf1.get_variable("kernel", (1,))
        session.run(tf1.global_variables_initializer())
        path = tf1.train.Saver().save(session, str(tmp_path / "model"))
    assert list(read_checkpoint(path)) == ["conv2d/kernel", "conv2d_2/kernel", "conv2d_10/kernel"]


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no checkpoint: "):
        read_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="nothing is no checkpoint: "):
        read_checkpoint(tmp_path / "nothing")


def test_a_checkpoint_of_tensorflow_2_is_refused(tmp_path):
    tf.train.Checkpoint(v=tf.Variable(1.0)).save(str(tmp_path / "new"))
    with pytest.raises(ValueError, match="checkpoint of TensorFlow 2, which keeps objects, not names"):
        read_checkpoint(tmp_path)


def small(*names):
    """A model of one dense and one BN layer with these names."""
    layers = [keras.Input((3,)), keras.layers.Dense(2, name=names[0]), keras.layers.BatchNormalization(name=names[1])]
    return keras.Sequential(layers)


def test_other_names_are_paired_in_order():
    theirs, ours = small("hidden", "norm"), small("dense", "batch_normalization")
    weights = read_model(theirs)
    pairs = pair_in_order(weights, read_model(ours))
    assert pairs["norm/moving_mean"] == "batch_normalization/moving_mean"
    weights["norm/gamma"][:] = [2.0, 3.0]
    write_model(ours, weights, pairs)
    assert read_model(ours)["batch_normalization/gamma"].tolist() == [2.0, 3.0]
    assert np.array_equal(read_model(ours)["dense/kernel"], weights["hidden/kernel"])


def test_pairs_of_other_numbers_or_shapes_are_refused():
    one = {"a/kernel": np.zeros((3, 2)), "b/kernel": np.zeros((2, 4))}
    with pytest.raises(ValueError, match="there are 2 weights named 'kernel', and 1 in the target"):
        pair_in_order(one, {"c/kernel": np.zeros((3, 2))})
    with pytest.raises(ValueError, match="there are 0 weights named 'bias', and 1 in the target"):
        pair_in_order(one, {**one, "c/bias": np.zeros(2)})
    swapped = {"c/kernel": np.zeros((2, 4)), "d/kernel": np.zeros((3, 2))}
    with pytest.raises(ValueError, match=r"'a/kernel' has shape \(3, 2\), and its counterpart 'c/kernel' has \(2, 4\)"):
        pair_in_order(one, swapped)


def broken(change):
    model = small("dense", "batch_normalization")
    weights = read_model(model)
    names = change(weights)
    before = read_model(model)
    with pytest.raises(ValueError) as raised:  # noqa: PT011  # the caller looks at the message
        write_model(model, weights, names)
    assert equal(read_model(model), before)  # nothing was set
    return str(raised.value)


def test_missing_weights_are_named():
    message = broken(lambda w: w.__delitem__("dense/bias"))
    assert message.startswith("the weights lack 'dense/bias'. Pair other names")


def test_many_missing_weights_are_counted():
    message = broken(lambda w: w.clear())
    assert "lack 'dense/kernel', 'dense/bias', 'batch_normalization/gamma' and 3 more." in message


def test_weights_left_over_are_named():
    assert broken(lambda w: w.update({"x/kernel": np.zeros(2)})).startswith("the model has no 'x/kernel'.")


def test_both_are_said_at_once():
    assert broken(lambda w: w.update({"d/bias": w.pop("dense/bias")})).startswith(
        "the weights lack 'dense/bias'; the model has no 'd/bias'."
    )


def test_a_wrong_shape_is_named():
    message = broken(lambda w: w.update({"dense/kernel": np.zeros((2, 3))}))
    assert message == "'dense/kernel' has shape (2, 3); expected (3, 2), its shape in the model."


def test_names_that_do_not_exist_or_collide_are_refused():
    message = broken(lambda _: {"nothing": "dense/bias"})
    assert message == "names mentions 'nothing', and the weights hold nothing of that name."
    message = broken(lambda _: {"dense/kernel": "dense/bias"})
    assert message == "two of the weights are meant for 'dense/bias'."


def test_a_graph_that_does_not_fit_says_so(trained):
    with tf1.Session(graph=trained[0].graph) as session, pytest.raises(ValueError, match="the graph has no 'x'"):
        write_graph(session, {**trained[1], "x": np.zeros(1)})


def test_an_unbuilt_model_is_refused():
    model = keras.Sequential([keras.layers.Dense(2)], name="later")
    with pytest.raises(ValueError, match="the model 'later' is not built; call it once on images"):
        read_model(model)


def test_two_weights_of_one_path_are_refused():
    inputs = keras.Input((3,))
    inner = [keras.Model(inputs, keras.layers.Dense(3, name="dense")(inputs), name=f"half_{i}") for i in (0, 1)]
    model = keras.Model(inputs, inner[1](inner[0](inputs)))
    with pytest.raises(ValueError, match="two weights of the model have the path 'dense/kernel'"):
        read_model(model)


def test_the_name_of_a_sequential_model_is_left_out():
    """It counts the models of the process, so that the same program would find other names."""
    one, other = (list(read_model(small("a", "b"))) for _ in range(2))
    assert one == other
    assert one[0] == "a/kernel"
