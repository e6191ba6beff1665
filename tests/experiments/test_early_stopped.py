"""Article E's training program: what is logged and kept, when it stops, and that it goes on where it was broken off."""

import os
import signal

import numpy as np
import pytest

from bncourse.data import Dataset, Split, load_digits
from bncourse.experiments import article_e, early_stopped, run, training
from bncourse.experiments.configurations import ImprovedConfiguration
from bncourse.experiments.early_stopped import EarlyStopped
from bncourse.experiments.record import InterruptedRun
from bncourse.tf_layers.improved_network import build_improved_network

OPTIONS = {"batches": 24, "batch_size": 20, "every": 4, "patience": 0}


@pytest.fixture(scope="module")
def data():
    """A small part of the digits: enough to learn from, quick to score."""
    digits = load_digits()

    def part(split, count):
        return Split(split.images[:count], split.labels[:count])

    splits = (part(digits.train, 200), part(digits.validation, 60), part(digits.test, 60))
    return Dataset("few digits", *splits, digits.classes, "scikit-learn")


@pytest.fixture(autouse=True)
def few(data, monkeypatch):
    monkeypatch.setattr("bncourse.experiments.catalogue.load", lambda _: data)


@pytest.fixture
def dictated(monkeypatch):
    """Let the validations say what the test wants, entry by entry; the tests say 0.5."""

    def dictate(values):
        values = iter(values)

        def scores(self, session, images, name):
            value = 0.5 if images is self.data.test else next(values, 0.0)
            return {f"{name}_moving_loss": 1.0, f"{name}_moving_accuracy": value, f"{name}_before_accuracy": 1 - value}

        monkeypatch.setattr(EarlyStopped, "_scores", scores)

    return dictate


def stop_after(steps, monkeypatch):
    """Let the run be told to stop after so many steps, as Ctrl-C would."""
    step, taken = EarlyStopped.train_on, []

    def counted(self, session, feed):
        step(self, session, feed)
        taken.append(1)
        if len(taken) == steps:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(EarlyStopped, "train_on", counted)


def test_the_log_has_every_fourth_step_and_the_last():
    found = run("improved", **{**OPTIONS, "batches": 10})
    assert found.steps.tolist() == [0, 4, 8, 9]
    assert set(found.log[0]) == {
        *("batch", "train_batch_loss", "train_batch_accuracy"),
        *("validation_moving_loss", "validation_moving_accuracy", "validation_before_accuracy"),
    }


def test_without_patience_nothing_stops_but_the_best_is_kept(dictated):
    dictated([0.2, 0.9, 0.5, 0.5, 0.5, 0.5, 0.5, 0.7])
    final = run("improved", **OPTIONS).final
    assert (final["best_batch"], final["stopped_batch"], final["ran_out"]) == (4, 23, 0)


def test_it_stops_when_patience_runs_out(dictated):
    dictated([0.2, 0.9, 0.5, 0.5, 0.5, 0.5])
    found = run("improved", **{**OPTIONS, "patience": 8})
    assert found.steps.tolist() == [0, 4, 8, 12]
    assert (found.final["best_batch"], found.final["stopped_batch"], found.final["ran_out"]) == (4, 12, 1)


def test_the_articles_steps(dictated):
    """Article E: best at 7,920, patience 2,000, "Early stopping in 9921 step": step 9,920, counted from 0."""
    dictated([0.9, 0.5, 0.5])
    found = run("improved", **{**OPTIONS, "batches": 100, "every": 4, "patience": 8})
    assert found.final["stopped_batch"] + 1 == found.final["best_batch"] + 8 + 1


def test_the_accuracy_that_decides_may_be_the_one_before_the_last_bn(dictated):
    dictated([0.2, 0.9, 0.5, 0.5, 0.5, 0.5, 0.5])
    assert run("improved", **OPTIONS, watch="before").final["best_batch"] == 0


def test_the_best_weights_are_tested_with_their_moving_statistics(data, monkeypatch):
    """Scores are dictated: best at step 4, then worse; the test must see the network of step 4, statistics and all."""
    seen = []
    values = iter([0.2, 0.9, 0.5, 0.5, 0.5, 0.5, 0.5])

    def scores(self, session, images, name):
        seen.append(session.run(self.variables))
        value = next(values) if images is self.data.validation and len(seen) <= 7 else 0.5
        return {f"{name}_moving_loss": 1.0, f"{name}_moving_accuracy": value, f"{name}_before_accuracy": value}

    monkeypatch.setattr(EarlyStopped, "_scores", scores)
    run("improved", **OPTIONS)
    best, last, restored = seen[1], seen[6], seen[-1]
    assert all(np.array_equal(restored[name], best[name]) for name in best)
    moving = [name for name in best if "moving" in name]
    assert len(moving) == 8
    assert all(not np.array_equal(last[name], best[name]) for name in moving)


def test_an_audit_trains_on_and_scores_the_test_images_on_the_way(dictated):
    dictated([0.2, 0.9, 0.5, 0.5, 0.5, 0.99, 0.99])
    found = run("improved", **{**OPTIONS, "patience": 8, "audit": 8})
    assert found.steps.tolist() == [0, 4, 8, 12, 16, 20, 23]
    audited = found.column("test_moving_accuracy")
    assert np.isnan(audited).tolist() == [False, True, False, True, False, True, True]
    # What comes after patience ran out is looked at, but not chosen from.
    assert (found.final["best_batch"], found.final["stopped_batch"], found.final["ran_out"]) == (4, 12, 1)


def test_an_audit_changes_nothing_of_the_training():
    options = {**OPTIONS, "patience": 8}
    stopped, audited = run("improved", **options), run("improved", **options, audit=4)
    for mine, theirs in zip(stopped.log, audited.log, strict=False):
        assert mine.items() <= theirs.items()
    kept = [name for name in stopped.final if "last" not in name]
    assert [stopped.final[name] for name in kept] == [audited.final[name] for name in kept]


@pytest.mark.parametrize(
    "more",
    [{}, {"shift": 2, "optimizer": "muon", "schedule": "linear"}, {"patience": 12, "audit": 4}],
    ids=["dropout", "shifts-and-muon", "audit"],
)
def test_a_run_that_was_told_to_stop_goes_on_to_the_same_digits(more, tmp_path, monkeypatch):
    """Dropout included: what it drops hangs on seed and step, not on a generator's hidden state."""
    options = {**OPTIONS, **more}
    unbroken, path = run("improved", **options), tmp_path / "run.npz"
    with monkeypatch.context() as patch:
        stop_after(11, patch)
        with pytest.raises(InterruptedRun, match="stopped after 11 of 24 batches"):
            run("improved", checkpoint=path, **options)
    again = run("improved", checkpoint=path, resume=True, **options)
    np.testing.assert_equal(again.log, unbroken.log)
    assert again == unbroken or "audit" in more  # NaN is not equal to itself
    assert again.final == unbroken.final


def test_dropout_differs_from_step_to_step_and_from_seed_to_seed(data):
    def losses(seed):
        network = build_improved_network(seed=seed, learning_rate=1e-30, momentum=1.0)
        feed = {network.inputs: data.train.images[:20], network.labels: data.train.labels[:20], network.training: True}
        with training.open_session(network.graph) as session:
            session.run(network.initializer)
            return [session.run([network.loss, network.train_op], feed)[0] for _ in range(4)]

    first, again, other = losses(0), losses(0), losses(1)
    assert first == again
    assert len(set(first)) == 4  # the weights stand still, so only dropout differs
    assert not set(first) & set(other)


def test_images_are_moved_the_same_way_in_the_same_step_only(data):
    configuration = ImprovedConfiguration(data="few digits", shift=2, seed=3)
    network = build_improved_network()
    program = EarlyStopped("improved", configuration, network, data, code=article_e.CODE)
    images, labels = data.train.images[:8], data.train.labels[:8]
    first, again = program.take(images, labels)[0], program.take(images, labels)[0]
    program.step = 1
    later = program.take(images, labels)[0]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, later)


def test_the_base_network_has_no_second_accuracy():
    found = run("base", **{**OPTIONS, "batches": 5})
    assert "validation_before_accuracy" not in found.log[0]
    assert "test_before_accuracy" not in found.final
    assert found.final["test_last_accuracy"] >= 0


@pytest.mark.parametrize("name", ["base", "improved"])
def test_the_networks_learn(name, monkeypatch):
    found = run(name, batches=60, batch_size=50, every=59, learning_rate=0.01)
    assert found.final["validation_last_accuracy"] > 0.6
    assert found.log[-1]["train_batch_loss"] < 0.7 * found.log[0]["train_batch_loss"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": -1}, r"patience = -1; expected an integer >= 0"),
        ({"shift": 1.5}, r"shift = 1\.5; expected an integer >= 0"),
        ({"audit": 7}, r"audit = 7; expected a multiple of every = 4, or 0"),
        ({"dropout": 1.0}, r"dropout = 1\.0; expected a number in \[0, 1\)"),
        ({"dense_dropout": -0.1}, r"dense_dropout = -0\.1; expected a number in \[0, 1\)"),
        ({"watch": "between"}, r"watch = 'between'; expected one of 'after', 'before'"),
        ({"activation": "tanh"}, r"activation = 'tanh'; expected one of 'selu', 'relu'"),
        ({"optimizer": "sgd"}, r"optimizer = 'sgd'; expected one of 'adam', 'muon'"),
        ({"threads": 0}, r"threads = 0; expected an integer >= 1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        run("improved", **{**OPTIONS, **options})


def test_the_modules_that_decide_are_named():
    assert {"bncourse.experiments.early_stopped", "bncourse.data.augment"} <= set(early_stopped.MODULES)
