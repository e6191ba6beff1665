"""Rule, latest and best state as one thing: in memory, in its file, with the NumPy network and with a graph."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from bncourse.nn import (
    SELU,
    SGD,
    Adam,
    AlphaDropout,
    BatchNorm,
    BatchRenorm,
    Dense,
    Dropout,
    GhostBatchNorm,
    GroupNorm,
    LayerNorm,
    ReLU,
    Sequential,
)
from bncourse.training import (
    CheckpointError,
    EarlyStopping,
    GraphVariables,
    Guard,
    NetworkVariables,
    ProgressQuotient,
)
from bncourse.training.arrays import read_arrays, write_arrays


class Numbers:
    """A model that is one array: the number of steps it was trained."""

    def __init__(self):
        self.value = np.zeros(2)

    def read(self):
        return {"value": self.value.copy()}

    def write(self, values):
        if values.keys() != {"value"} or values["value"].shape != (2,):
            raise ValueError("no numbers")
        self.value = values["value"].copy()


def guard(path=None, rule=None):
    return Guard(path, rule or EarlyStopping(patience=3, mode="max"), Numbers())


def go(guard, values, step=0):
    """Train one step at a time, with dictated validation values, until the guard stops."""
    for value in values[step:]:
        if guard.should_stop:
            break
        step += 1
        guard.variables.value = np.full(2, step, float)
        guard.update(value, step)
    return guard


VALUES = [0.1, 0.3, 0.2, 0.5, 0.4, 0.4, 0.4, 0.9]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "run.npz"


# In memory


def test_it_watches_stops_and_goes_back():
    run = go(guard(), VALUES)
    assert (run.rule.stopped_step, run.variables.value[0]) == (7, 7)
    assert run.go_back() == 4
    assert run.variables.value.tolist() == [4, 4]
    assert run.log == list(enumerate(VALUES[:7], start=1))


def test_without_stopping_it_goes_back_all_the_same():
    run = go(guard(), VALUES[:3])
    assert not run.should_stop
    assert run.go_back() == 2


def test_one_may_go_back_and_train_on():
    run = go(guard(), VALUES[:5])
    run.go_back()
    run.variables.value += 0.5
    run.update(0.8, 6)
    assert run.go_back() == 6
    assert run.variables.value.tolist() == [4.5, 4.5]


def test_the_decision_is_the_rules():
    run, rule = guard(), EarlyStopping(patience=3, mode="max")
    for step, value in enumerate(VALUES, start=1):
        assert run.update(value, step) == rule.update(value, step)


def test_the_training_error_reaches_the_rule():
    run = guard(rule=ProgressQuotient(0.1, strip=2))
    run.update(1.0, 1, training_error=0.5)
    assert run.update(2.0, 2, training_error=0.5).should_stop


def test_without_a_finite_value_there_is_nothing_to_go_back_to():
    run = go(guard(), [math.nan] * 9)
    with pytest.raises(RuntimeError) as caught:
        run.go_back()
    assert str(caught.value) == (
        "there is no best state after 3 evaluations: none gave a finite value from start_from on. Look at the log."
    )


def test_a_refused_value_changes_nothing():
    run = go(guard(), VALUES[:4])
    before = (run.rule.state(), list(run.log))
    with pytest.raises(ValueError, match="step = 4, after step 4"):
        run.update(0.9, 4)
    assert (run.rule.state(), run.log) == before


def test_without_a_file_there_is_nothing_to_resume():
    run = go(guard(), VALUES[:4])
    run.save(4)
    assert run.resume() == 0
    assert run.rule.best_step == 4


# In its file


@pytest.mark.parametrize("cut", range(9))
def test_killed_between_any_two_evaluations_it_ends_as_if_never_interrupted(path, cut):
    whole = go(guard(), VALUES)
    go(guard(path), VALUES[:cut])
    again = guard(path)
    step = again.resume()
    assert step == min(cut, 7)
    assert again.variables.value[0] == step
    go(again, VALUES, step)
    assert (again.log, again.rule.state()) == (whole.log, whole.rule.state())
    assert (again.go_back(), again.variables.value[0]) == (4, 4)


def test_a_fresh_run_starts_at_step_0_and_writes_nothing_before_its_first_evaluation(path):
    assert guard(path).resume() == 0
    assert not path.parent.exists()


def test_unsaved_evaluations_are_made_again(path):
    first = guard(path)
    for step, value in enumerate(VALUES[:5], start=1):
        first.variables.value = np.full(2, step, float)
        first.update(value, step, save=step == 3)
    again = guard(path)
    assert again.resume() == 3
    assert again.rule.best_step == 2
    go(again, VALUES, 3)
    assert (again.rule.stopped_step, again.go_back()) == (7, 4)


def test_it_may_be_saved_between_evaluations(path):
    run = go(guard(path), VALUES[:5])
    run.variables.value = np.full(2, 5.75)
    run.save(8)
    again = guard(path)
    assert again.resume() == 8
    assert again.variables.value[0] == 5.75
    assert again.log == run.log


def test_extras_are_saved_with_everything(path):
    run = guard(path)
    run.extra["losses"] = np.array([0.5, 0.25])
    go(run, VALUES[:2])
    again = guard(path)
    again.resume()
    assert again.extra["losses"].tolist() == [0.5, 0.25]


def test_nan_in_the_log_comes_back(path):
    go(guard(path), [math.nan, 0.5, math.inf])
    again = guard(path)
    again.resume()
    assert str(again.log) == "[(1, nan), (2, 0.5), (3, inf)]"


def test_the_file_is_one_plain_archive(path):
    go(guard(str(path)), VALUES[:5])
    with np.load(path) as archive:
        assert sorted(archive) == ["best/value", "latest/value", "log/steps", "log/values", "run"]
        assert archive["best/value"].tolist() == [4, 4]
        assert archive["latest/value"].tolist() == [5, 5]
        assert json.loads(archive["run"].tobytes())["rule"]["best_step"] == 4
    assert [other.name for other in path.parent.iterdir()] == ["run.npz"]


@pytest.mark.parametrize("method", ["update", "save"])
def test_an_earlier_run_is_not_overwritten_by_mistake(path, method):
    go(guard(path), VALUES[:5])
    old, fresh = path.read_bytes(), guard(path)
    with pytest.raises(FileExistsError) as caught:
        fresh.update(0.1, 1) if method == "update" else fresh.save(1)
    assert str(caught.value) == f"{path} holds an earlier run. Call resume() first, or delete it."
    assert path.read_bytes() == old
    assert fresh.log == []
    assert fresh.rule.best is None


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (1.0, TypeError, "step = 1.0; expected an integer."),
        (-1, ValueError, "step = -1; expected an integer >= 0."),
    ],
)
def test_a_step_that_cannot_be_is_not_saved(path, step, error, message):
    with pytest.raises(error) as caught:
        guard(path).save(step)
    assert str(caught.value) == message


def test_a_step_before_the_last_evaluation_is_not_saved(path):
    run = go(guard(path), VALUES[:5])
    with pytest.raises(ValueError, match=r"^step = 4; expected an integer >= 5\.$"):
        run.save(4)


def test_extras_that_the_format_cannot_hold_are_refused(path):
    run = guard(path)
    run.extra["name"] = np.array("text")
    with pytest.raises(CheckpointError) as caught:
        run.update(0.5, 1)
    assert str(caught.value) == "variable 'extra/name' has dtype <U4; expected plain numbers."


def test_what_a_killed_save_left_is_removed(path):
    go(guard(path), VALUES[:2])
    leftover = path.with_name(".run.npz.4711.part")
    leftover.write_text("half a file")
    guard(path).resume()
    assert not leftover.exists()


# Files that do not fit


def refused(path):
    """Return the message with which the file is refused; nothing may change."""
    run = guard(path)
    before = run.rule.state()
    with pytest.raises(CheckpointError) as caught:
        run.resume()
    assert (run.rule.state(), run.log, run.variables.value.tolist()) == (before, [], [0, 0])
    with pytest.raises(RuntimeError):
        run.go_back()
    return str(caught.value)


def changed(path, **arrays):
    """Write a file with some arrays changed; None leaves them out."""
    go(guard(path), VALUES[:5])
    content = read_arrays(path) | {name.replace("_", "/"): value for name, value in arrays.items()}
    write_arrays(path, {name: value for name, value in content.items() if value is not None})


def encoded(**run):
    return np.frombuffer(json.dumps(run).encode(), np.uint8)


RULE = {"best": 0.5, "best_step": 4, "last_step": 5, "stopped_step": None, "waiting_since": 4, "evaluations_waited": 1}


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"run": None}, "('run')"),
        ({"log_steps": np.arange(3)}, "(zip() argument 2 is longer than argument 1)"),
        ({"run": np.zeros(3, np.uint8)}, "(Expecting value"),
        ({"run": encoded(step=5)}, "('rule')"),
        ({"run": encoded(step=-5, rule=RULE)}, "(step = -5; expected an integer >= 0.)"),
        (
            {"run": encoded(step=5, rule=RULE | {"last_step": 3})},
            "(best_step = 4 with last_step = 3; expected at most the last step.)",
        ),
        ({"run": encoded(step=5, rule={})}, "(state has the entries []; expected"),
        ({"best_value": None}, "(its best state and its best value do not belong together)"),
        ({"latest_value": np.zeros(3)}, "(no numbers)"),
        ({"latest_value": None}, "(no numbers)"),
    ],
)
def test_a_file_of_another_kind_is_refused(path, arrays, told):
    changed(path, **arrays)
    message = refused(path)
    assert message.startswith(f"{path}: not a checkpoint of this run {told}")
    assert message.endswith("). Build model and rule as they were, or delete it.")


def test_the_file_of_another_rule_is_refused(path):
    go(guard(path), VALUES[:5])
    other = guard(path, ProgressQuotient(1.0))
    with pytest.raises(CheckpointError, match=r"expected .* as ProgressQuotient\.state\(\) gives"):
        other.resume()


def test_a_truncated_file_is_refused(path):
    go(guard(path), VALUES[:5])
    path.write_bytes(path.read_bytes()[:-20])
    assert refused(path).startswith(f"{path}: not a whole checkpoint (")


# The NumPy network

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.normal(3, 2, (60, 5)), RNG.integers(3, size=60)


def numpy_network(optimizer=None, layers=None):
    layers = layers or [Dense(6, seed=1), BatchNorm(momentum=0.5), ReLU(), Dropout(0.25, seed=2), Dense(3, seed=3)]
    return NetworkVariables(Sequential(layers), optimizer or Adam(0.05))


def train(variables, steps, first=0):
    for step in range(first, first + steps):
        batch = np.random.default_rng((5, step)).choice(60, size=12, replace=False)
        variables.network.train_on_batch(IMAGES[batch], LABELS[batch], optimizer=variables.optimizer)


def bits(arrays):
    return {name: value.tobytes() for name, value in arrays.items()}


def test_the_networks_moving_statistics_are_part_of_the_best_state(path):
    run = Guard(path, EarlyStopping(patience=9), numpy_network())
    train(run.variables, 4)
    run.update(0.5, 4)
    network = run.variables.network
    best = network.predict(IMAGES)
    parameters = {name: value.copy() for name, value in network.parameters.items()}
    train(run.variables, 20, first=4)
    run.update(0.9, 24)
    # What a program does that saves only what is trained: the best parameters, and the statistics of the last step.
    for name, value in network.parameters.items():
        value[...] = parameters[name]
    assert np.abs(network.predict(IMAGES) - best).max() > 0.1
    run.go_back()
    assert np.array_equal(network.predict(IMAGES), best)
    # And in a new process.
    again = Guard(path, EarlyStopping(patience=9), numpy_network())
    assert again.resume() == 24
    assert again.go_back() == 4
    assert np.array_equal(again.variables.network.predict(IMAGES), best)


LAYERS = {
    "cumulative": lambda: BatchNorm(momentum=None),
    "bias-corrected": lambda: BatchNorm(momentum=0.9, bias_corrected=True),
    "renorm": lambda: BatchRenorm(r_max=1.5, d_max=0.5),
    "ghost": lambda: GhostBatchNorm(virtual_batch_size=4),
    "dropout": lambda: Dropout(0.5, seed=4),
    "alpha": lambda: AlphaDropout(0.5, seed=4),
    "layer": LayerNorm,
    "group": lambda: GroupNorm(groups=2),
    "selu": SELU,
}


@pytest.mark.parametrize("optimizer", [Adam, SGD, lambda: SGD(0.1, momentum=0.9)])
@pytest.mark.parametrize("layer", LAYERS)
def test_restored_training_goes_on_to_the_last_bit(layer, optimizer):
    def build():
        return numpy_network(optimizer(), [Dense(6, seed=1), LAYERS[layer](), ReLU(), Dense(3, seed=3)])

    first = build()
    train(first, 5)
    saved = first.read()
    train(first, 5, first=5)
    second = build()
    second.write(saved)
    assert bits(second.read()) == bits(saved)
    train(second, 5, first=5)
    assert bits(second.read()) == bits(first.read())
    # And back again, in the same network.
    first.write(saved)
    assert bits(first.read()) == bits(saved)


def test_what_was_read_does_not_change_any_more():
    variables = numpy_network()
    train(variables, 2)
    saved = variables.read()
    before = bits(saved)
    train(variables, 2, first=2)
    assert bits(saved) == before
    variables.write(saved)
    train(variables, 2, first=2)
    assert bits(saved) == before


def test_a_network_may_be_saved_before_its_first_step():
    variables = numpy_network()
    variables.network.predict(IMAGES)
    saved = variables.read()
    train(variables, 3)
    variables.write(saved)
    assert bits(variables.read()) == bits(saved)
    assert variables.optimizer.steps == 0


def test_a_network_that_was_not_called_cannot_be_read():
    with pytest.raises(ValueError, match=r"^the network has no weights before its first call; call it once\.$"):
        numpy_network().read()


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (lambda: numpy_network(SGD(0.1, 0.9)), "with an optimizer of the same kind (here SGD)."),
        (lambda: numpy_network(layers=[Dense(6), BatchNorm(), Dense(3)]), "'draws/3'"),
        (lambda: numpy_network(layers=[Dense(7), BatchNorm(), ReLU(), Dropout(0.5), Dense(3)]), "expected (5, 7)"),
        (lambda: numpy_network(layers=[Dense(6), LayerNorm(), ReLU(), Dropout(0.5), Dense(3)]), "unknown ['1.moving_"),
    ],
)
def test_variables_of_another_network_are_refused(other, told):
    saved, fresh = numpy_network(), other()
    train(saved, 2)
    train(fresh, 1)
    before = bits(fresh.read())
    with pytest.raises(ValueError, match=r"expected|do not fit") as caught:
        fresh.write(saved.read())
    assert told in str(caught.value)
    assert bits(fresh.read()) == before


@pytest.mark.parametrize("change", [{"memory/Adam/0/0.kernel": np.zeros(3)}, {"memory/Adam/0/9.kernel": np.zeros(3)}])
def test_a_memory_that_fits_no_weight_is_refused(change):
    variables = numpy_network()
    train(variables, 1)
    before = bits(variables.read())
    with pytest.raises(ValueError, match=r"^the optimizer's memory of '\d.kernel' has shape \(3,\); no weight fits it"):
        variables.write(variables.read() | change)
    assert bits(variables.read()) == before


# A graph of tf.compat.v1, with a loop written by hand


@pytest.fixture(scope="module")
def graph():
    from bncourse.experiments.training import open_session
    from bncourse.tf_layers import tf, tf1

    with tf1.Graph().as_default() as graph:
        tf1.set_random_seed(0)
        x, labels = tf1.placeholder(tf.float32, (None, 5)), tf1.placeholder(tf.int64, (None,))
        training = tf1.placeholder_with_default(False, ())
        hidden = tf1.layers.batch_normalization(tf1.layers.dense(x, 6), momentum=0.5, training=training)
        logits = tf1.layers.dense(tf.nn.relu(hidden), 3)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
        updates = tf1.get_collection(tf1.GraphKeys.UPDATE_OPS)
        with tf.control_dependencies(updates):
            train_op = tf1.train.AdamOptimizer(0.05).minimize(loss)
        trainable = {v.name.removesuffix(":0") for v in tf1.trainable_variables()}
        ends = SimpleNamespace(x=x, labels=labels, training=training, logits=logits, loss=loss, train_op=train_op)
        ends.init, ends.trainable = tf1.global_variables_initializer(), trainable
        graph.finalize()
    ends.open = lambda: open_session(graph)  # one thread: sums are added in one order
    return ends


def graph_loop(graph, session, guard, until):
    """Train up to the step `until` or to the stop, validating after every second step."""
    session.run(graph.init)
    step = guard.resume()
    while step < until and not guard.should_stop:
        batch = np.random.default_rng((5, step)).choice(30, size=12, replace=False)
        session.run(graph.train_op, {graph.x: IMAGES[batch], graph.labels: LABELS[batch], graph.training: True})
        step += 1
        if step % 2 == 0:
            guard.update(session.run(graph.loss, {graph.x: IMAGES[30:], graph.labels: LABELS[30:]}), step)


def graph_guard(path, session):
    return Guard(path, EarlyStopping(patience=12, unit="steps"), GraphVariables(session))


@pytest.mark.parametrize("cut", [1, 2, 5, 8])
def test_a_graph_taken_up_in_a_new_session_ends_as_if_never_interrupted(graph, path, cut):
    with graph.open() as session:
        whole = graph_guard(None, session)
        graph_loop(graph, session, whole, 200)
        assert whole.should_stop
        whole.go_back()
        expected = whole.variables.read()
    with graph.open() as session:
        graph_loop(graph, session, graph_guard(path, session), cut)
    with graph.open() as session:
        again = graph_guard(path, session)
        graph_loop(graph, session, again, 200)
        assert (again.rule.stopped_step, again.go_back()) == (whole.rule.stopped_step, whole.rule.best_step)
        assert bits(again.variables.read()) == bits(expected)
        assert again.log == whole.log


def test_the_graphs_moving_statistics_are_part_of_the_best_state(graph, path):
    def predict(session):
        return session.run(graph.logits, {graph.x: IMAGES})

    with graph.open() as session:
        run = graph_guard(path, session)
        graph_loop(graph, session, run, 1)
        run.update(-1.0, 1)  # nothing will beat it
        best, saved = predict(session), run.variables.read()
        for step in range(20):
            batch = np.random.default_rng((6, step)).choice(30, size=12, replace=False)
            session.run(graph.train_op, {graph.x: IMAGES[batch], graph.labels: LABELS[batch], graph.training: True})
        # What a program does that saves only trainable variables: the statistics are those of the last step.
        mixed = {name: saved[name] if name in graph.trainable else v for name, v in run.variables.read().items()}
        GraphVariables(session).write(mixed)
        assert np.abs(predict(session) - best).max() > 0.1
        run.go_back()
        assert np.array_equal(predict(session), best)
    # And in a new process.
    with graph.open() as session:
        again = graph_guard(path, session)
        session.run(graph.init)
        again.resume()
        again.go_back()
        assert np.array_equal(predict(session), best)
