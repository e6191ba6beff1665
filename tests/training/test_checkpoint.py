"""Checkpoints of a session: whole or not at all, and with the moving statistics."""

import zipfile

import numpy as np
import pytest

from bncourse.tf_layers import tf, tf1
from bncourse.training import Checkpoint, CheckpointError

ROWS = np.random.default_rng(0).normal(3.0, 2.0, (50, 3)).astype(np.float32)


class Network:
    """A dense layer, BN and Adam in a graph of its own; `units` and `name` make it another graph."""

    def __init__(self, units=2, name="dense", dtype=tf.float32):
        with tf1.Graph().as_default() as graph:
            self.inputs = tf1.placeholder(dtype, (None, 3))
            dense = tf1.layers.dense(self.inputs, units, name=name)
            outputs = tf1.layers.batch_normalization(dense, training=True, name="bn")
            with tf1.control_dependencies(tf1.get_collection(tf1.GraphKeys.UPDATE_OPS)):
                self.train_op = tf1.train.AdamOptimizer(0.1).minimize(tf.reduce_mean(outputs**3))
            self.variables = tf1.global_variables()
            self.trainable = tf1.trainable_variables()
            self.initializer = tf1.global_variables_initializer()
        self.session = tf1.Session(graph=graph)

    def train(self, steps=3):
        for _ in range(steps):
            self.session.run(self.train_op, {self.inputs: ROWS})

    def values(self):
        values = self.session.run(self.variables)
        return {v.name.removesuffix(":0"): value for v, value in zip(self.variables, values, strict=True)}


@pytest.fixture(scope="module")
def built():
    network = Network()
    yield network
    network.session.close()


@pytest.fixture
def network(built):
    built.session.run(built.initializer)
    return built


@pytest.fixture
def saved(network, tmp_path):
    """A checkpoint of the network after three steps."""
    network.train()
    checkpoint = Checkpoint(tmp_path / "best.npz")
    checkpoint.save(network.session)
    return checkpoint


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name, strict=True)


def rewrite(checkpoint, change):
    """Store the checkpoint's arrays anew after `change` has worked on their dictionary."""
    values = checkpoint.read()
    change(values)
    np.savez(checkpoint.path, **values)


def test_every_variable_comes_back(network, saved):
    before = network.values()
    network.train(5)
    assert any(not np.array_equal(value, before[name]) for name, value in network.values().items())
    saved.restore(network.session)
    assert_same(network.values(), before)


def test_the_moving_statistics_are_saved_though_they_are_not_trainable(network, saved):
    names = {"bn/moving_mean", "bn/moving_variance"}
    assert not names & {variable.name.removesuffix(":0") for variable in network.trainable}
    moving = {name: saved.read()[name] for name in names}
    assert all(np.all(value != start) for value, start in zip(moving.values(), (0.0, 1.0), strict=True))
    network.train()
    saved.restore(network.session)
    assert_same({name: network.values()[name] for name in names}, moving)


def test_a_restored_run_goes_on_as_if_it_had_not_stopped(network, saved):
    network.train(4)
    expected = network.values()
    network.session.run(network.initializer)
    saved.restore(network.session)
    network.train(4)
    assert_same(network.values(), expected)


def test_a_session_that_was_never_initialised_can_be_restored(saved):
    other = Network()
    with other.session:
        saved.restore(other.session)
        assert_same(other.values(), saved.read())


def test_restoring_adds_nothing_to_the_graph(network, saved):
    before = len(network.session.graph.get_operations())
    saved.restore(network.session)
    assert len(network.session.graph.get_operations()) == before


def test_the_file_is_a_plain_numpy_archive(network, saved):
    with np.load(saved.path, allow_pickle=False) as archive:
        assert_same(dict(archive), network.values())


def test_a_second_save_replaces_the_first(network, saved):
    network.train()
    saved.save(network.session)
    assert_same(saved.read(), network.values())
    assert [path.name for path in saved.path.parent.iterdir()] == ["best.npz"]


def test_the_folder_is_made(network, tmp_path):
    Checkpoint(str(tmp_path / "new" / "folder" / "best.npz")).save(network.session)
    assert (tmp_path / "new" / "folder" / "best.npz").is_file()


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_the_old_checkpoint(network, saved, monkeypatch, error):
    old, write = saved.path.read_bytes(), np.lib.format.write_array
    written = []

    def write_one_array_and_fail(*arguments, **options):
        if written:
            raise error
        written.append(write(*arguments, **options))

    monkeypatch.setattr(np.lib.format, "write_array", write_one_array_and_fail)
    network.train()
    with pytest.raises(type(error)):
        saved.save(network.session)
    assert written
    assert saved.path.read_bytes() == old
    assert [path.name for path in saved.path.parent.iterdir()] == ["best.npz"]


def test_a_truncated_file_is_refused_at_every_length(network, saved):
    whole, before = saved.path.read_bytes(), network.values()
    for length in [0, 1, 100, len(whole) // 2, len(whole) - 1]:
        saved.path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"best\.npz: not a whole checkpoint .* Delete it and train again"):
            saved.restore(network.session)
    assert_same(network.values(), before)


def test_a_changed_number_is_noticed(network, saved):
    whole = bytearray(saved.path.read_bytes())
    place = whole.index(saved.read()["dense/kernel"].tobytes())
    whole[place] ^= 1
    saved.path.write_bytes(whole)
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        saved.restore(network.session)


@pytest.mark.parametrize("content", [b"\x80\x04K\x01.", b"not numbers"])
def test_a_member_that_is_no_array_is_refused(saved, content):
    with zipfile.ZipFile(saved.path, "w") as archive:
        archive.writestr("dense/kernel.npy", content)
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        saved.read()


def test_pickled_objects_are_refused(saved):
    np.savez(saved.path, kernel=np.array([{"any": "object"}], dtype=object))
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        saved.read()


def test_without_a_file_the_message_says_to_save_first(network, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npz: no checkpoint there\. Save one before you restore it"):
        Checkpoint(tmp_path / "none.npz").restore(network.session)


def test_another_graphs_names_are_refused(saved):
    other = Network(name="output")
    with other.session:
        other.session.run(other.initializer)
        before = other.values()
        message = r"belongs to another graph: it lacks output/bias, .* and 3 more, and the graph lacks dense/bias, "
        with pytest.raises(CheckpointError, match=message):
            saved.restore(other.session)
        assert_same(other.values(), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.pop("bn/moving_mean"), "it lacks bn/moving_mean, and the graph lacks nothing"),
        (lambda values: values.update(extra=np.zeros(1)), "it lacks nothing, and the graph lacks extra"),
        (
            lambda values: values.update({"bn/gamma": np.ones(3, np.float32)}),
            r"'bn/gamma' has shape \(3,\) and dtype float32; the graph's variable has \(2,\) and float32",
        ),
        (
            lambda values: values.update({"bn/gamma": np.ones(2)}),
            r"'bn/gamma' has shape \(2,\) and dtype float64; the graph's variable has \(2,\) and float32",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_changes(network, saved, change, message):
    rewrite(saved, change)
    network.train()
    before = network.values()
    with pytest.raises(CheckpointError, match=message):
        saved.restore(network.session)
    assert_same(network.values(), before)


def test_a_graph_without_variables_is_refused(tmp_path):
    with tf1.Session(graph=tf1.Graph()) as session, pytest.raises(CheckpointError, match="has no global variables"):
        Checkpoint(tmp_path / "best.npz").save(session)


def test_a_variable_of_text_is_refused(tmp_path):
    with tf1.Graph().as_default() as graph:
        variable = tf1.get_variable("label", initializer="text")
    with tf1.Session(graph=graph) as session:
        session.run(variable.initializer)
        with pytest.raises(CheckpointError, match="variable 'label' has dtype object; expected plain numbers"):
            Checkpoint(tmp_path / "best.npz").save(session)
    assert not list(tmp_path.iterdir())


def test_a_variable_may_be_called_file(tmp_path):
    with tf1.Graph().as_default() as graph:
        variable = tf1.get_variable("file", initializer=[1.0, 2.0])
    checkpoint = Checkpoint(tmp_path / "best.npz")
    with tf1.Session(graph=graph) as session:
        session.run(variable.initializer)
        checkpoint.save(session)
    np.testing.assert_array_equal(checkpoint.read()["file"], [1.0, 2.0])


def test_the_repr_names_the_file():
    assert repr(Checkpoint("best.npz")) == "Checkpoint('best.npz')"
