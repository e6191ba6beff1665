"""A session's variables in a file: all of them, whole, or not at all."""

import io
import os
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from bncourse.tf_layers import tf, tf1
from bncourse.training import Checkpoint, CheckpointError, GraphVariables
from bncourse.training.arrays import read_arrays, remove_leftovers, write_arrays

IMAGES = np.random.default_rng(0).normal(3, 2, (16, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def network():
    """A dense layer, BN and Adam, in a finalised graph."""
    with tf1.Graph().as_default() as graph:
        tf1.set_random_seed(0)
        x = tf1.placeholder(tf.float32, (None, 4))
        training = tf1.placeholder_with_default(False, ())
        y = tf1.layers.batch_normalization(tf1.layers.dense(x, 3), momentum=0.5, training=training)
        updates = tf1.get_collection(tf1.GraphKeys.UPDATE_OPS)
        with tf.control_dependencies(updates):
            train_op = tf1.train.AdamOptimizer(0.1).minimize(tf.reduce_mean(tf.square(y - 1)))
        initializer = tf1.global_variables_initializer()
        variables = {v.name.removesuffix(":0"): v for v in tf1.global_variables()}
        graph.finalize()
    return SimpleNamespace(
        graph=graph, x=x, y=y, training=training, updates=updates, train_op=train_op, init=initializer, vars=variables
    )


@pytest.fixture
def session(network):
    with tf1.Session(graph=network.graph) as session:
        session.run(network.init)
        yield session


@pytest.fixture
def file(tmp_path):
    return Checkpoint(tmp_path / "best.npz")


def run(session, network, operation, times=1):
    for _ in range(times):
        session.run(operation, {network.x: IMAGES, network.training: True})


def values(session, network):
    return session.run(network.vars)


def same(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def write(path, arrays):
    """Write an archive with NumPy's own function."""
    np.savez(path, allow_pickle=True, **arrays)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


# Round trip


def test_every_global_variable_comes_back(session, network, file):
    run(session, network, network.train_op, 3)
    saved = values(session, network)
    file.save(session)
    run(session, network, network.train_op, 2)
    assert not any(np.array_equal(saved[name], value) for name, value in values(session, network).items())
    file.restore(session)
    assert same(values(session, network), saved)


def test_the_moving_statistics_are_part_of_it(session, network, file):
    run(session, network, network.train_op, 3)
    file.save(session)
    expected = session.run(network.y, {network.x: IMAGES})
    # Nothing but the moving statistics changes.
    run(session, network, network.updates, 5)
    assert np.abs(session.run(network.y, {network.x: IMAGES}) - expected).max() > 0.1
    file.restore(session)
    assert np.array_equal(session.run(network.y, {network.x: IMAGES}), expected)


def test_training_goes_on_as_if_never_interrupted(session, network, file):
    run(session, network, network.train_op, 3)
    file.save(session)
    run(session, network, network.train_op, 3)
    expected = values(session, network)
    with tf1.Session(graph=network.graph) as other:
        file.restore(other)
        run(other, network, network.train_op, 3)
        for name, value in values(other, network).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-6)


def test_variables_need_not_be_initialised_before_they_are_restored(session, network, file):
    run(session, network, network.train_op)
    file.save(session)
    with tf1.Session(graph=network.graph) as other:
        file.restore(other)
        assert same(values(other, network), values(session, network))


def test_read_returns_the_values_by_name(session, network, file):
    file.save(session)
    read = file.read()
    assert same(read, values(session, network))
    assert {"dense/kernel", "batch_normalization/moving_variance", "dense/kernel/Adam_1", "beta1_power"} < set(read)
    assert len(read) == 4 + 2 + 2 * 4 + 2


def test_the_file_is_a_plain_numpy_archive(session, network, file):
    file.save(session)
    with np.load(file.path) as archive:
        assert same(dict(archive), values(session, network))


def test_an_archive_of_numpy_is_read(session, network, file):
    run(session, network, network.train_op)
    saved = values(session, network)
    write(file.path, saved)
    session.run(network.init)
    file.restore(session)
    assert same(values(session, network), saved)


def test_saving_again_replaces_and_leaves_no_other_file(session, network, file):
    file.save(session)
    run(session, network, network.train_op)
    file.save(session)
    assert same(file.read(), values(session, network))
    assert files(file.path.parent) == ["best.npz"]


def test_the_folder_is_made(session, tmp_path):
    deep = Checkpoint(str(tmp_path / "a" / "b" / "best.npz"))
    deep.save(session)
    assert deep.path.is_file()


@pytest.mark.parametrize("resource", [True, False])
@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, np.uint8, np.bool_, np.complex64])
def test_types_names_and_kinds_of_variables(file, dtype, resource):
    start = np.array([[1, 0, 1]], dtype)
    with tf1.Graph().as_default(), tf1.Session() as session:
        array = tf1.Variable(start, name="scope/file", use_resource=resource)
        empty = tf1.Variable(np.zeros((0, 2), dtype), name="self", use_resource=resource)
        session.run(tf1.global_variables_initializer())
        file.save(session)
        array.load(np.zeros_like(start), session)
        file.restore(session)
        value = session.run(array)
        assert np.array_equal(value, start)
        assert value.dtype == dtype
        assert session.run(empty).shape == (0, 2)


def test_its_text_names_the_file():
    assert repr(Checkpoint("best.npz")) == "Checkpoint('best.npz')"


# Whole or not at all


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["write_array", "fsync", "replace"])
def test_a_failing_save_leaves_the_old_file(session, network, file, monkeypatch, where, error):
    file.save(session)
    old = file.path.read_bytes()
    run(session, network, network.train_op)
    calls = []
    written = np.lib.format.write_array

    def fails(*args, **options):
        calls.append(args)
        # In the middle: some arrays are written by then.
        if where == "write_array" and len(calls) < 4:
            return written(*args, **options)
        raise error

    target = {"write_array": np.lib.format, "fsync": os, "replace": type(file.path)}[where]
    with monkeypatch.context() as patch:
        patch.setattr(target, where, fails)
        with pytest.raises(type(error)):
            file.save(session)
    assert calls
    assert file.path.read_bytes() == old
    assert files(file.path.parent) == ["best.npz"]


def test_the_new_file_is_whole_before_it_takes_the_old_ones_place(session, file, monkeypatch):
    seen = []

    def replace(source, target):
        seen.append((Checkpoint(source).read(), source.parent, target))

    monkeypatch.setattr(type(file.path), "replace", replace)
    file.save(session)
    [(content, folder, target)] = seen
    assert len(content) == 16
    # Only within one folder is the replacement a single step.
    assert (folder, target) == (file.path.parent, file.path)


def test_variables_without_values_are_not_saved(session, network, file):
    file.save(session)
    old = file.path.read_bytes()
    with tf1.Session(graph=network.graph) as other, pytest.raises(tf.errors.FailedPreconditionError):
        file.save(other)
    assert file.path.read_bytes() == old


@pytest.mark.parametrize(
    ("start", "dtype"), [("a", "|S1"), (["a", "b"], "object"), (tf.constant([1.5], tf.bfloat16).numpy(), "bfloat16")]
)
def test_variables_that_the_format_cannot_hold_are_refused(file, start, dtype):
    with tf1.Graph().as_default(), tf1.Session() as session:
        tf1.Variable(start, name="odd")
        session.run(tf1.global_variables_initializer())
        with pytest.raises(CheckpointError) as caught:
            file.save(session)
    assert str(caught.value) == f"variable 'odd' has dtype {dtype}; expected plain numbers."
    assert files(file.path.parent) == []


@pytest.mark.parametrize("method", ["save", "restore"])
def test_a_graph_without_variables_is_refused(file, method):
    with tf1.Graph().as_default(), tf1.Session() as session, pytest.raises(CheckpointError) as caught:
        getattr(file, method)(session)
    assert str(caught.value) == ("the session's graph has no global variables. Build the network in this graph first.")


# Files that do not fit


def refused(session, network, file):
    """Return the message with which the file is refused; the session must not change."""
    run(session, network, network.train_op)
    before = values(session, network)
    with pytest.raises(CheckpointError) as caught:
        file.restore(session)
    assert same(values(session, network), before)
    return str(caught.value)


def test_a_missing_file(session, file):
    with pytest.raises(FileNotFoundError) as caught:
        file.restore(session)
    assert str(caught.value) == f"{file.path}: no checkpoint there. Save one before you restore it."


@pytest.mark.parametrize("share", [0, 0.2, 0.5, 0.9, 0.999])
def test_a_truncated_file(session, network, file, share):
    file.save(session)
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[: int(share * len(whole))])
    message = refused(session, network, file)
    assert message.startswith(f"{file.path}: not a whole checkpoint (")
    assert message.endswith("). Delete it and train again.")


def test_no_damaged_bit_gives_another_value(tmp_path):
    file = Checkpoint(tmp_path / "small.npz")
    arrays = {"a/b": np.arange(3, dtype=np.float32), "c": np.float32(2)}
    write_arrays(file.path, arrays)
    whole, caught = file.path.read_bytes(), 0
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        file.path.write_bytes(damaged)
        try:
            read = file.read()
        except CheckpointError:
            caught += 1
        else:
            # Dates and the like may differ; a variable may be lost, which `restore` refuses.
            assert all(np.array_equal(read[name], arrays[name]) for name in read)
    assert caught > len(whole) / 3 / 2


def test_a_member_that_pretends_to_be_encrypted(tmp_path):
    file = Checkpoint(tmp_path / "small.npz")
    with zipfile.ZipFile(file.path, "w") as archive:
        archive.writestr("a.npy", b"")
    damaged = bytearray(file.path.read_bytes())
    damaged[damaged.index(b"PK\x01\x02") + 8] |= 1
    file.path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="is encrypted"):
        file.read()


def test_a_file_of_another_kind(session, network, file):
    file.path.write_text("accuracy 0.99\n")
    assert refused(session, network, file).startswith(f"{file.path}: not a whole checkpoint (File is not a zip file)")


def test_bytes_behind_an_array(session, network, file):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(2))
    with zipfile.ZipFile(file.path, "w") as archive:
        archive.writestr("a.npy", buffer.getvalue() + b"more")
    assert "(bytes too many in a.npy)" in refused(session, network, file)


def test_pickled_arrays(session, network, file):
    class Harmful:
        def __reduce__(self):
            return pytest.fail, ("unpickled",)

    saved = values(session, network)
    write(file.path, saved | {"dense/bias": np.array([Harmful()], object)})
    assert "Object arrays cannot be loaded when allow_pickle=False" in refused(session, network, file)


def test_a_variable_too_few(session, network, file):
    saved = values(session, network)
    del saved["batch_normalization/moving_mean"]
    write(file.path, saved)
    assert refused(session, network, file) == (
        f"{file.path} belongs to another graph: it lacks batch_normalization/moving_mean, and the graph lacks "
        "nothing. Build the graph that was saved, in the same order."
    )


def test_a_variable_too_many(session, network, file):
    write(file.path, values(session, network) | {"more": np.zeros(1)})
    assert "it lacks nothing, and the graph lacks more. Build" in refused(session, network, file)


def test_at_most_three_names_are_told(session, network, file):
    write(file.path, dict.fromkeys("edcba", np.zeros(1)))
    message = refused(session, network, file)
    assert (
        "it lacks batch_normalization/beta, batch_normalization/beta/Adam, batch_normalization/beta/Adam_1" in message
    )
    assert " and 13 more, and the graph lacks a, b, c and 2 more. Build" in message


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (np.zeros((1, 3), np.float32), "shape (1, 3) and dtype float32"),
        (np.zeros(4, np.float32), "shape (4,) and dtype float32"),
        (np.zeros(3, np.float64), "shape (3,) and dtype float64"),
        (np.zeros(3, np.int32), "shape (3,) and dtype int32"),
    ],
)
def test_another_shape_or_type(session, network, file, value, told):
    # moving_variance is not the first variable: those before it must stay, too.
    write(file.path, values(session, network) | {"batch_normalization/moving_variance": value})
    assert refused(session, network, file) == (
        f"{file.path}: 'batch_normalization/moving_variance' has {told}; the graph's variable has (3,) and float32. "
        "Build the graph that was saved."
    )


# All variables, without a file


def test_variables_are_read_and_written(session, network):
    run(session, network, network.train_op, 3)
    saved = GraphVariables(session).read()
    assert same(saved, values(session, network))
    run(session, network, network.train_op)
    GraphVariables(session).write(saved)
    assert same(values(session, network), saved)


def test_variables_that_do_not_fit_are_refused(session, network):
    saved = values(session, network)
    with pytest.raises(CheckpointError) as caught:
        GraphVariables(session).write({name: value for name, value in saved.items() if name != "dense/bias"})
    assert str(caught.value) == (
        "the checkpoint belongs to another graph: it lacks dense/bias, and the graph lacks nothing. "
        "Build the graph that was saved, in the same order."
    )
    assert same(values(session, network), saved)


# What a killed process leaves


def test_only_what_a_killed_save_left_is_removed(tmp_path):
    kept = ["best.npz", ".best.npz.part", ".best.npz.x1.part", ".best2.npz.7.part", "best.npz.7.part", ".best.npz.7"]
    for name in [*kept, ".best.npz.7.part", ".best.npz.1234.part"]:
        (tmp_path / name).write_text(name)
    remove_leftovers(tmp_path / "best.npz")
    assert files(tmp_path) == sorted(kept)


def test_where_there_is_no_folder_nothing_is_left(tmp_path):
    remove_leftovers(tmp_path / "none" / "best.npz")


def test_what_replacing_writes_to_is_what_is_removed(tmp_path, monkeypatch):
    """The names are chosen elsewhere: if they change there, this fails."""
    path = tmp_path / "best.npz"

    def dies(*_):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(type(path), "replace", dies)
        patch.setattr(type(path), "unlink", lambda *_, **__: None)
        with pytest.raises(SystemExit):
            write_arrays(path, {"a": np.zeros(1)})
    assert len(files(tmp_path)) == 1
    remove_leftovers(path)
    assert files(tmp_path) == []


def test_arrays_come_back_as_they_were(tmp_path):
    arrays = {"a/b": np.arange(3.0), "file": np.array(True), "c": np.float16([[1]])}
    write_arrays(tmp_path / "a.npz", arrays)
    assert same(read_arrays(tmp_path / "a.npz"), arrays)


def test_its_error_is_a_value_error():
    assert issubclass(CheckpointError, ValueError)
