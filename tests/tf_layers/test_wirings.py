"""Every wiring of the update ops, built and run: what the graph says, what a step does, and that both agree."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bncourse.tf_layers import tf, tf1
from bncourse.tf_layers.wirings import WIRINGS, build_wired_network, moved_by, moving_statistics, updates_run_by

pytestmark = pytest.mark.filterwarnings(r"ignore:`tf\.layers\.\w+` is deprecated:UserWarning")

MOMENTUM = 0.75
RNG = np.random.default_rng(0)
IMAGES = RNG.random((16, 28, 28, 1), dtype=np.float32)
LABELS = np.eye(10, dtype=np.float32)[RNG.integers(0, 10, 16)]

FEATURES = {"features/bn1/moving_mean", "features/bn1/moving_variance"}
HEAD = {"head/bn/moving_mean", "head/bn/moving_variance"}
ALL = FEATURES | HEAD

#: What a step in training mode moves, wiring by wiring, written down by hand.
MOVED = {
    "dependencies": ALL,
    "apply": ALL,
    "group": ALL,
    "fetched": ALL,
    "in-place": ALL,
    "towers": ALL,
    "cond-in-place": ALL,
    "cond-v1": ALL,
    "forgotten": set(),
    "existing-op": set(),
    "constructor": set(),
    "on-the-loss": set(),
    "wrong-name": set(),
    "keras-layer": set(),
    "not-trainable": set(),
    "cond": set(),
    "too-early": FEATURES,
    "one-scope": HEAD,
    "always-true": ALL,
    "always-true-in-place": ALL,
    "always-false": set(),
}
IN_PLACE = {"in-place", "cond-in-place", "always-true-in-place"}
FIXED = {"always-true", "always-true-in-place", "always-false"}
#: Wirings in which something else is trained: halves of the batch, no gamma and beta, no batch statistics.
OTHER_WEIGHTS = {"towers", "not-trainable", "always-false"}


def feed(network, training, images=IMAGES, labels=LABELS):
    return {network.inputs: images, network.labels: labels, network.training: training}


def names(variables):
    return {variable.op.name: variable for variable in variables}


@pytest.fixture(scope="module")
def run():
    """Build a wiring, take one step, and look; each once."""
    known = {}

    def lookup(wiring):
        if wiring not in known:
            network = build_wired_network(wiring, conv_layers=1, momentum=MOMENTUM)
            variables = names(network.graph.get_collection("variables"))
            with open_session(network.graph) as session:
                session.run(network.initializer)
                start = session.run(variables)
                moved = moved_by(session, network.train_op, feed(network, True))
                after = session.run(variables)
                alone = session.run(network.logits, feed(network, False, IMAGES[:1], LABELS[:1]))
                logits = {mode: session.run(network.logits, feed(network, mode)) for mode in (False, True)}
                looked = {mode: moved_by(session, network.accuracy, feed(network, mode)) for mode in (True, False)}
            known[wiring] = SimpleNamespace(
                network=network, start=start, after=after, moved=moved, looked=looked, logits=logits, alone=alone
            )
        return known[wiring]

    return lookup


def open_session(graph):
    """Open a session that does not rewrite the graph first, which would take longer than all else."""
    options = tf1.ConfigProto()
    options.graph_options.rewrite_options.disable_meta_optimizer = True
    return tf1.Session(graph=graph, config=options)


def test_the_table_of_expectations_is_complete():
    assert MOVED.keys() == WIRINGS.keys()


def test_a_wiring_is_right_if_all_statistics_move_and_are_read():
    assert {name for name, wiring in WIRINGS.items() if wiring.right} == {
        name for name in WIRINGS if MOVED[name] == ALL and name not in FIXED
    }


@pytest.mark.parametrize("wiring", WIRINGS)
def test_a_step_moves_what_it_should(run, wiring):
    assert run(wiring).moved == MOVED[wiring]


@pytest.mark.parametrize("wiring", WIRINGS)
def test_the_graph_says_so_beforehand(run, wiring):
    network = run(wiring).network
    verdict = updates_run_by(network.train_op, network.graph)
    assert verdict.keys() == ALL
    assert {name for name, written in verdict.items() if written} == run(wiring).moved


@pytest.mark.parametrize("wiring", WIRINGS)
def test_a_look_moves_statistics_only_in_place_and_in_training_mode(run, wiring):
    network = run(wiring).network
    assert run(wiring).looked[True] == (ALL if wiring in IN_PLACE else set())
    assert run(wiring).looked[False] == (ALL if wiring == "always-true-in-place" else set())
    assert all(value == (wiring in IN_PLACE) for value in updates_run_by(network.accuracy, network.graph).values())


@pytest.mark.parametrize("wiring", WIRINGS)
def test_all_start_from_the_same_weights(run, wiring):
    start, reference = run(wiring).start, run("dependencies").start
    layers = {name for name in reference if "Adam" not in name}
    assert layers == {name for name in start if "Adam" not in name}
    for name in layers:
        np.testing.assert_array_equal(start[name], reference[name], err_msg=name)


@pytest.mark.parametrize("wiring", sorted(WIRINGS.keys() - OTHER_WEIGHTS))
def test_the_wiring_leaves_the_weights_alone(run, wiring):
    reference = run("dependencies").after
    for name, value in run(wiring).after.items():
        if "moving" not in name:
            np.testing.assert_array_equal(value, reference[name], err_msg=name)


@pytest.mark.parametrize("wiring", sorted(OTHER_WEIGHTS))
def test_these_train_something_else(run, wiring):
    after, reference = run(wiring).after, run("dependencies").after
    name = "head/bn/gamma" if wiring == "not-trainable" else "head/dense/kernel"
    assert not np.array_equal(after[name], reference[name])


def test_not_trainable_keeps_gamma_and_beta_and_normalises_with_the_batch(run):
    result = run("not-trainable")
    assert not any("bn" in variable.op.name for variable in result.network.graph.get_collection("trainable_variables"))
    np.testing.assert_array_equal(result.after["head/bn/gamma"], 1)
    assert not np.allclose(result.logits[True], result.logits[False], atol=0.01)


@pytest.mark.parametrize("wiring", sorted(name for name in WIRINGS if MOVED[name] and name != "towers"))
def test_what_moves_takes_the_statistics_of_the_weights_before_the_step(run, wiring):
    reference = run("dependencies").after
    for name in MOVED[wiring]:
        np.testing.assert_array_equal(run(wiring).after[name], reference[name], err_msg=name)
    mean, variance = _moments_behind_the_convolution(run(wiring).start["features/conv1/kernel"], IMAGES)
    if wiring != "one-scope":
        after = run(wiring).after
        np.testing.assert_allclose(after["features/bn1/moving_mean"], (1 - MOMENTUM) * mean, rtol=1e-4, atol=1e-6)
        n = 16 * 14 * 14  # the fused kernel divides by n - 1
        expected = MOMENTUM + (1 - MOMENTUM) * variance * n / (n - 1)
        np.testing.assert_allclose(after["features/bn1/moving_variance"], expected, rtol=1e-4)


def _moments_behind_the_convolution(kernel, images):
    """A 3x3 convolution with stride 2 and "same" padding (one row and column behind), in float64."""
    padded = np.pad(images.astype(np.float64), ((0, 0), (0, 1), (0, 1), (0, 0)))
    outputs = sum(
        padded[:, row : row + 28 : 2, column : column + 28 : 2] @ kernel[row, column].astype(np.float64)
        for row in range(3)
        for column in range(3)
    )
    return outputs.mean((0, 1, 2)), outputs.var((0, 1, 2))


def test_two_towers_update_twice(run):
    network, after = run("towers").network, run("towers").after["features/bn1/moving_mean"]
    assert len(network.update_ops) == 8
    kernel = run("towers").start["features/conv1/kernel"]
    first, second = (_moments_behind_the_convolution(kernel, half)[0] for half in (IMAGES[:8], IMAGES[8:]))
    # The two updates have no order: one after the other, either way round, or both from the same old value of 0.
    share = 1 - MOMENTUM
    possible = [share * (MOMENTUM * first + second), share * (first + MOMENTUM * second), share * (first + second)]
    assert any(np.allclose(after, candidate, rtol=1e-4, atol=1e-6) for candidate in possible)


@pytest.mark.parametrize("wiring", [name for name in WIRINGS if "always-true" not in name])
def test_in_inference_an_image_does_not_depend_on_its_company(run, wiring):
    np.testing.assert_allclose(run(wiring).alone[0], run(wiring).logits[False][0], atol=1e-5)


@pytest.mark.parametrize("wiring", ["always-true", "always-true-in-place"])
def test_with_the_flag_always_on_it_does_and_the_moving_statistics_are_not_read(run, wiring):
    result = run(wiring)
    np.testing.assert_array_equal(result.logits[True], result.logits[False])
    assert not np.allclose(result.alone[0], result.logits[False][0], atol=0.01)


def test_without_batch_statistics_both_modes_are_one(run):
    logits = run("always-false").logits
    np.testing.assert_array_equal(logits[True], logits[False])


@pytest.mark.parametrize(
    ("wiring", "count"),
    [("dependencies", 4), ("towers", 8), ("keras-layer", 0), ("not-trainable", 0), ("always-false", 0), ("cond", 4)],
)
def test_how_many_update_ops_are_collected(run, wiring, count):
    assert len(run(wiring).network.update_ops) == count


def test_on_the_loss_the_update_ops_wait_for_somebody_to_fetch_the_loss():
    network = build_wired_network("on-the-loss", conv_layers=1)
    identity = network.graph.get_operation_by_name("Identity")
    assert all(updates_run_by(identity, network.graph).values())
    with open_session(network.graph) as session:
        session.run(network.initializer)
        assert moved_by(session, (network.train_op, identity), feed(network, True)) == ALL


@pytest.mark.parametrize("wiring", ["dependencies", "cond-v1"])
def test_a_step_with_the_flag_off_trains_nothing_behind_a_switch(wiring):
    """The update ops lie in the branch that is not taken, and what depends on them is passed over in silence."""
    network = build_wired_network(wiring, conv_layers=1)
    with open_session(network.graph) as session:
        session.run(network.initializer)
        weights = network.graph.get_collection("trainable_variables")
        before = session.run(weights)
        assert moved_by(session, network.train_op, feed(network, False)) == set()
        trained = [not np.array_equal(a, b) for a, b in zip(before, session.run(weights), strict=True)]
    assert any(trained) == (wiring == "dependencies")


def test_update_ops_of_a_branch_cannot_be_dependencies_outside(run):
    network = run("cond").network
    assert all(operation.graph is not network.graph for operation in network.update_ops)
    with (
        network.graph.as_default(),
        pytest.raises(ValueError, match="not an element of this graph"),
        tf.control_dependencies(network.update_ops),
    ):
        tf.no_op()
    with pytest.raises(ValueError, match=r"train_op holds 'bn1/.*belongs to another graph; expected"):
        updates_run_by((network.train_op, *network.update_ops), network.graph)


def test_building_leaves_the_control_flow_of_the_process_as_it_was():
    assert tf1.control_flow_v2_enabled()
    build_wired_network("cond-v1", conv_layers=1)
    assert tf1.control_flow_v2_enabled()
    tf1.disable_control_flow_v2()
    try:
        build_wired_network("forgotten", conv_layers=1)
        assert not tf1.control_flow_v2_enabled()
    finally:
        tf1.enable_control_flow_v2()


def test_options_reach_the_network():
    network = build_wired_network("dependencies", conv_layers=2, momentum=1.0, learning_rate=0.5, seed=3)
    assert [variable.op.name for variable in moving_statistics(network.graph)] == [
        f"{layer}/moving_{kind}"
        for layer in ("features/bn1", "features/bn2", "head/bn")
        for kind in ("mean", "variance")
    ]
    with open_session(network.graph) as session:
        session.run(network.initializer)
        kernel = names(network.graph.get_collection("variables"))["head/logits/bias"]
        assert moved_by(session, network.train_op, feed(network, True)) == set()  # a share of 1 for the old value
        np.testing.assert_allclose(np.abs(session.run(kernel)), 0.5, rtol=1e-3)  # Adam's first step


def test_another_seed_gives_other_weights(run):
    other = build_wired_network("dependencies", conv_layers=1, seed=1)
    with open_session(other.graph) as session:
        session.run(other.initializer)
        kernel = session.run(names(other.graph.get_collection("variables"))["features/conv1/kernel"])
    assert not np.array_equal(kernel, run("dependencies").start["features/conv1/kernel"])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"wiring": "hope"}, ValueError, r"wiring = 'hope'; expected one of 'dependencies', 'apply', "),
        ({"conv_layers": 0}, ValueError, r"conv_layers = 0; expected an integer >= 1\."),
        ({"conv_layers": 1.0}, TypeError, r"conv_layers = 1\.0; expected an integer\."),
        ({"momentum": 1.5}, ValueError, r"momentum = 1\.5; expected a number in \[0, 1\]\."),
        ({"learning_rate": 0}, ValueError, r"learning_rate = 0; expected a finite number > 0"),
        ({"seed": -1}, ValueError, r"seed = -1; expected an integer >= 0\."),
        ({"seed": 0.5}, TypeError, r"seed = 0\.5; expected an integer\."),
    ],
)
def test_impossible_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        build_wired_network(**{"wiring": "dependencies", **arguments})


# --- The checks on graphs made by hand --------------------------------------------------------------------------------


def statistic(name="bn", resource=True):
    return tf1.get_variable(
        f"{name}/moving_mean", (), initializer=tf1.zeros_initializer(), trainable=False, use_resource=resource
    )


def add_one(variable):
    return tf1.assign_add(variable, 1.0)


def in_cond(variable):
    return tf1.cond(tf1.placeholder_with_default(True, ()), lambda: tf.identity(add_one(variable)), lambda: 0.0)


def in_cond_unreached(variable):
    def branch():
        add_one(variable)
        return tf.constant(1.0)

    return tf1.cond(tf1.placeholder_with_default(True, ()), branch, lambda: tf.constant(0.0))


def in_nested_cond(variable):
    yes = tf1.placeholder_with_default(True, ())
    return tf1.cond(yes, lambda: tf1.cond(yes, lambda: tf.identity(add_one(variable)), lambda: 0.0), lambda: 0.0)


def in_case(variable):
    place = tf1.placeholder_with_default(1, ())
    return tf.switch_case(place, [lambda: tf.constant(0.0), lambda: tf.identity(add_one(variable))])


def in_loop(variable):
    return tf1.while_loop(lambda i: i < 3, lambda i: i + tf.cast(add_one(variable), tf.int32), (tf.constant(0),))


def in_loop_unreached(variable):
    def body(i):
        add_one(variable)
        return i + 1

    return tf1.while_loop(lambda i: i < 3, body, (tf.constant(0),))


def in_function(variable):
    return tf.function(lambda: add_one(variable))()


def in_function_without_outputs(variable):
    """What a function of TensorFlow 2 writes hangs on its control outputs."""

    def body():
        add_one(variable)

    tf.function(body)()
    (call,) = (op for op in variable.graph.get_operations() if "PartitionedCall" in op.type)
    return call


def by_dependency(variable):
    with tf.control_dependencies([add_one(variable)]):
        return tf.no_op()


def only_read(variable):
    return in_cond_read(variable) + variable


def in_cond_read(variable):
    return tf1.cond(tf1.placeholder_with_default(True, ()), lambda: variable + 1.0, lambda: 0.0)


HAND_MADE = {
    add_one: True,
    by_dependency: True,
    in_cond: True,
    in_cond_unreached: False,
    in_nested_cond: True,
    in_case: True,
    in_loop: True,
    in_loop_unreached: False,
    in_function: True,
    in_function_without_outputs: True,
    only_read: False,
}


@pytest.mark.parametrize("v2", [True, False], ids=["v2", "v1"])
@pytest.mark.parametrize("make", HAND_MADE, ids=lambda make: make.__name__)
def test_both_checks_follow_functions_switches_and_loops(make, v2):
    (tf1.enable_control_flow_v2 if v2 else tf1.disable_control_flow_v2)()
    try:
        with tf1.Graph().as_default() as graph, tf1.Session() as session:
            other = statistic("other")
            variable = statistic()
            end = make(variable)
            session.run([variable.initializer, other.initializer])
            moved = moved_by(session, end, {})
            verdict = updates_run_by(end, graph)
    finally:
        tf1.enable_control_flow_v2()
    assert verdict == {"other/moving_mean": False, "bn/moving_mean": HAND_MADE[make]}
    assert moved == {name for name, written in verdict.items() if written}


def test_the_checks_know_variables_without_handles():
    with tf1.Graph().as_default() as graph, tf1.Session() as session:
        variable = statistic(resource=False)
        assert variable.op.type == "VariableV2"
        end = by_dependency(variable)
        session.run(variable.initializer)
        assert updates_run_by(end, graph) == {"bn/moving_mean": True}
        assert moved_by(session, end, {}) == {"bn/moving_mean"}


def test_a_branch_that_is_not_taken_counts_as_may():
    with tf1.Graph().as_default() as graph, tf1.Session() as session:
        variable = statistic()
        end = tf1.cond(tf1.placeholder_with_default(False, ()), lambda: add_one(variable), lambda: 0.0)
        session.run(variable.initializer)
        assert updates_run_by(end, graph) == {"bn/moving_mean": True}
        assert moved_by(session, end, {}) == set()


def test_a_statistic_that_is_written_and_keeps_its_value_has_not_moved():
    with tf1.Graph().as_default() as graph, tf1.Session() as session:
        variable = statistic()
        end = tf1.assign(variable, np.nan)
        session.run(end)
        assert updates_run_by(end, graph) == {"bn/moving_mean": True}
        assert moved_by(session, end, {}) == set()  # not a number, before and after


def test_only_moving_statistics_are_watched():
    with tf1.Graph().as_default() as graph:
        tf1.get_variable("moving_mean_of_the_loss", ())
        tf1.get_variable("step", ())
        assert moving_statistics(graph) == ()
        assert updates_run_by(tf.no_op(), graph) == {}


@given(
    edges=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 7)).filter(lambda edge: edge[0] < edge[1]), max_size=10),
    writers=st.dictionaries(st.integers(0, 7), st.sampled_from("abc"), max_size=4),
)
@settings(max_examples=25)
def test_both_checks_agree_on_any_graph_of_dependencies(edges, writers):
    with tf1.Graph().as_default() as graph, tf1.Session() as session:
        variables = {name: statistic(name) for name in "abc"}
        made = []
        for node in range(8):
            with tf.control_dependencies([made[before] for before, after in edges if after == node]):
                made.append(add_one(variables[writers[node]]).op if node in writers else tf.no_op())
        session.run([variable.initializer for variable in variables.values()])
        verdict = updates_run_by(made[-1], graph)
        assert moved_by(session, made[-1], {}) == {name for name, written in verdict.items() if written}


def test_the_names_that_options_know_are_those_of_the_wirings():
    from typing import get_args

    from bncourse.tf_layers.arguments import WiringName

    assert get_args(WiringName) == tuple(WIRINGS)
