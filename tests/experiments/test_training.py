"""Runs that are broken off and go on, on their own and in sweeps."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from bncourse.data import load_digits
from bncourse.experiments import both_modes, run, sweep, training
from bncourse.experiments.configurations import ByHandConfiguration
from bncourse.experiments.record import InterruptedRun, ResumeError, read
from bncourse.experiments.statistics import CURES
from bncourse.tf_layers.deep_network import build_deep_network
from bncourse.training.checkpoint import Checkpoint

OPTIONS = {"batches": 12, "every": 4, "batch_size": 20}


def stop_after(steps, monkeypatch):
    """Let the run be told to stop after so many steps, as Ctrl-C would."""
    feed, seen = training.feed_of, []

    def counted(*arguments, training):
        seen.append(training)
        if sum(seen) == steps:
            os.kill(os.getpid(), signal.SIGINT)
        return feed(*arguments, training=training)

    monkeypatch.setattr(training, "feed_of", counted)


@pytest.fixture(scope="module")
def whole():
    return run("by-hand", **OPTIONS)


@pytest.mark.parametrize("cures", [False, True])
@pytest.mark.parametrize("name", ["by-hand", "deep"])
def test_a_run_that_was_told_to_stop_goes_on_to_the_same_digits(name, cures, tmp_path, monkeypatch):
    options = {**OPTIONS, "cures": cures}
    if name == "deep":
        from bncourse.experiments import deep_network

        monkeypatch.setattr(
            deep_network, "build_deep_network", lambda **given: build_deep_network(**given, conv_layers=2)
        )
    unbroken, handler = run(name, **options), signal.getsignal(signal.SIGINT)
    path = tmp_path / "run.npz"
    with monkeypatch.context() as patch:
        stop_after(7, patch)
        with pytest.raises(InterruptedRun, match=r"stopped after \d+ of 12 batches; the checkpoint is .*run\.npz"):
            run(name, checkpoint=path, **options)
    assert path.exists()
    assert signal.getsignal(signal.SIGINT) is handler
    assert run(name, checkpoint=path, resume=True, **options) == unbroken
    assert not path.exists()


def test_cures_are_scored_and_change_nothing(whole):
    cured = run("by-hand", **OPTIONS, cures=True)
    for name in CURES:
        assert f"validation_{name}_accuracy" in cured.log[-1]
        assert f"test_{name}_accuracy" in cured.final
    for mine, theirs in zip(whole.log, cured.log, strict=True):
        assert mine.items() <= theirs.items()
    assert whole.final.items() <= cured.final.items()


def test_re_estimated_statistics_score_like_batch_statistics_before_the_averages_do():
    found = run("by-hand", batches=30, every=29, cures=True)
    assert found.final["validation_estimated_accuracy"] > 0.7
    assert abs(found.final["validation_estimated_accuracy"] - found.log[-1]["validation_batch_accuracy"]) < 0.1


def test_checkpoints_hold_the_moving_statistics_and_the_optimizers_memory(tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    stop_after(7, monkeypatch)
    with pytest.raises(InterruptedRun):
        run("by-hand", checkpoint=path, **OPTIONS)
    saved = Checkpoint(path).read()
    assert any("moving_mean" in name for name in saved)
    assert any("Adam" in name for name in saved)
    moving = [value for name, value in saved.items() if "moving_mean" in name]
    assert all(np.any(value != 0) for value in moving)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"momentum": 0.9}, r"the checkpoint has another configuration: momentum = 0\.99 there, 0\.9 here"),
        ({"seed": 1}, r"the checkpoint has another configuration: seed = 0 there, 1 here"),
    ],
)
def test_another_configuration_cannot_go_on(change, message, tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    with monkeypatch.context() as patch:
        stop_after(7, patch)
        with pytest.raises(InterruptedRun):
            run("by-hand", checkpoint=path, **OPTIONS)
    before = path.read_bytes()
    with pytest.raises(ResumeError, match=message):
        run("by-hand", checkpoint=path, resume=True, **OPTIONS, **change)
    assert path.read_bytes() == before


def test_other_code_cannot_go_on(tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    with monkeypatch.context() as patch:
        stop_after(7, patch)
        with pytest.raises(InterruptedRun):
            run("by-hand", checkpoint=path, **OPTIONS)
    monkeypatch.setattr(training.fingerprint, "of", lambda _: "f" * 16)
    with pytest.raises(ResumeError, match=r"the checkpoint has another code: '[0-9a-f]{16}', not 'f{16}'"):
        run("by-hand", checkpoint=path, resume=True, **OPTIONS)


def test_nothing_to_go_on_from(tmp_path):
    with pytest.raises(ResumeError, match=r"there is no checkpoint to go on from"):
        run("by-hand", checkpoint=tmp_path / "run.npz", resume=True, **OPTIONS)
    with pytest.raises(ResumeError, match=r"resume needs the checkpoint's path"):
        run("by-hand", resume=True, **OPTIONS)


def test_a_file_that_is_no_checkpoint(tmp_path):
    path = tmp_path / "run.npz"
    path.write_bytes(b"nothing")
    with pytest.raises(ResumeError, match=r"this is no checkpoint of this run \(.*not a whole checkpoint"):
        run("by-hand", checkpoint=path, resume=True, **OPTIONS)


KILLED = """
import sys
from bncourse.experiments import run
run("by-hand", checkpoint=Path(sys.argv[1]), resume=Path(sys.argv[1]).exists(), batches=60, every=2, batch_size=20)
print("finished")
"""


def test_a_killed_run_goes_on_to_the_same_digits(tmp_path):
    options = {"batches": 60, "every": 2, "batch_size": 20}
    unbroken, path = run("by-hand", **options), tmp_path / "run.npz"
    dice = random.Random(0)
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE)
        before = path.stat().st_mtime_ns if path.exists() else 0
        while not (path.exists() and path.stat().st_mtime_ns > before) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.3))
        process.kill()
        process.communicate()
        if not path.exists():
            break  # it was quicker than we
    again = run("by-hand", checkpoint=path, resume=path.exists(), **options)
    assert again == unbroken


@pytest.mark.parametrize(("schedule", "peak_at"), [("one-cycle", 20), ("linear", 5)])
def test_the_learning_rate_goes_up_and_down(schedule, peak_at):
    options = ByHandConfiguration(schedule=schedule, learning_rate=0.01, batches=100)
    rates = [options.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.0005)
    assert max(rates) == rates[peak_at] == pytest.approx(0.01)
    assert 0 < rates[-1] < 2e-4
    assert np.all(np.diff(rates[: peak_at + 1]) > 0)
    assert np.all(np.diff(rates[peak_at:]) < 0)


def test_a_linear_schedule_falls_in_a_straight_line():
    options = ByHandConfiguration(schedule="linear", learning_rate=0.01, batches=100)
    falls = np.diff([options.rate(step) for step in range(5, 100)])
    np.testing.assert_allclose(falls, -0.01 / 95)


def test_a_constant_rate_is_constant():
    assert ByHandConfiguration(learning_rate=0.01).rate(77) == 0.01


@pytest.mark.parametrize("name", ["deep", "by-hand", "wired"])
def test_a_schedule_reaches_the_optimizer(name, monkeypatch):
    """Of two runs of two steps, the one whose second step is nothing ends where its first step led."""
    from bncourse.experiments.configurations.common import Configuration

    options = {"batches": 2, "every": 1, "batch_size": 20}
    slow = run(name, **options)
    monkeypatch.setattr(Configuration, "rate", lambda self, step: self.learning_rate * (1 - step))
    still = run(name, **options)
    assert slow.log[0] == still.log[0]
    assert slow.log[1]["train_batch_loss"] != still.log[1]["train_batch_loss"]


def test_an_experiment_or_an_option_that_does_not_exist():
    with pytest.raises(ValueError, match=r"there is no experiment 'deeep'; there are: deep, .* Did you mean 'deep'\?"):
        run("deeep")
    with pytest.raises(ValueError, match=r"the experiment 'deep' has no option 'epochs'; it has: data, batches, "):
        run("deep", epochs=3)
    with pytest.raises(ValueError, match=r"name must be one of 'digits', 'mnist'.*got 'cifar'"):
        run("by-hand", data="cifar")
    with pytest.raises(ValueError, match=r"batches = 0; expected an integer >= 1"):
        run("by-hand", batches=0)
    with pytest.raises(ValueError, match=r"momentum = 1\.5; expected a number in \[0, 1\]"):
        run("by-hand", momentum=1.5)


def test_the_one_step_gives_the_printed_digits():
    final = run("one-step").final
    digits = {name: str(np.array([value], np.float32)).strip("[ ]") for name, value in final.items()}
    assert digits["weight"] == "1.404974"
    assert (digits["moving_mean"], digits["moving_variance"]) == ("0.3514931", "0.74709475")
    assert (digits["gamma"], digits["beta"]) == ("0.999", "-0.001")
    assert (digits["normalised_0"], digits["normalised"]) == ("-0.40697935", "1.215785")


def small(tmp_path, **more):
    return sweep.tasks("by-hand", {"seed": [0, 1], "batches": [4], "batch_size": [20], **more}, tmp_path)


def test_a_sweep_names_its_files_after_what_was_chosen(tmp_path):
    assert [task.path.name for task in small(tmp_path)] == [
        "by-hand-seed=0-batches=4-batch_size=20.json",
        "by-hand-seed=1-batches=4-batch_size=20.json",
    ]


def test_an_impossible_sweep_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(ValueError, match="momentum = 2"):
        small(tmp_path, momentum=[0.9, 2])
    assert not list(tmp_path.iterdir())


def test_a_result_is_never_overwritten_unless_asked(tmp_path):
    task = small(tmp_path)[0]
    first = sweep.execute(task)
    before = task.path.read_bytes()
    with pytest.raises(FileExistsError, match=r"exists\. Choose another file, or say overwrite, or resume"):
        sweep.execute(task)
    assert sweep.execute(task, resume=True) == first
    assert task.path.read_bytes() == before
    other = sweep.Task("by-hand", {**task.options, "seed": 5}, task.path)
    with pytest.raises(ResumeError, match=r"holds a run with another configuration: seed = 0 there, 5 here"):
        sweep.execute(other, resume=True)
    assert task.path.read_bytes() == before
    sweep.execute(other, overwrite=True)
    assert read(task.path).configuration["seed"] == 5


def test_a_sweep_keeps_what_is_finished_and_goes_on_with_what_is_not(tmp_path, monkeypatch):
    plan = small(tmp_path)
    done = sweep.execute(plan[0])
    stamp = plan[0].path.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(InterruptedRun):
            sweep.execute(plan[1])
    assert plan[1].checkpoint.exists()
    found = {task.path: result for task, result in sweep.execute_all(plan)}
    assert found[plan[0].path] == done
    assert plan[0].path.stat().st_mtime_ns == stamp
    assert not plan[1].checkpoint.exists()
    assert read(plan[1].path) == found[plan[1].path] == run("by-hand", seed=1, batches=4, batch_size=20)


def test_a_checkpoint_of_other_code_is_no_start_for_a_run_that_overwrites(tmp_path, monkeypatch):
    task = small(tmp_path)[0]
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        patch.setattr(training.fingerprint, "of", lambda _: "f" * 16)
        with pytest.raises(InterruptedRun):
            sweep.execute(task)
    with pytest.raises(ResumeError, match="another code"):
        list(sweep.execute_all([task]))
    ((_, found),) = sweep.execute_all([task], overwrite=True)
    assert found == read(task.path)


def test_several_processes_find_what_one_finds(tmp_path):
    one = {task.path.name: found for task, found in sweep.execute_all(small(tmp_path / "one"))}
    two = {task.path.name: found for task, found in sweep.execute_all(small(tmp_path / "two"), jobs=2)}
    assert one == two
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(one)


def test_moving_statistics_are_found_by_their_names():
    network = build_deep_network(conv_layers=2)
    names = list(both_modes.moving_variables(network))
    assert len(names) == 6
    assert all(name.endswith(("/moving_mean", "/moving_variance")) for name in names)


def test_helper_variables_of_zero_debias_are_no_moving_statistics():
    from bncourse.tf_layers.by_hand import build_by_hand_network

    network = build_by_hand_network(layer="contrib", zero_debias_moving_mean=True)
    every = [v.op.name for v in network.graph.get_collection("variables") if "moving" in v.op.name]
    names = list(both_modes.moving_variables(network))
    assert len(every) > len(names)
    assert all(name.endswith(("/moving_mean", "/moving_variance")) for name in names)


def test_a_description_of_data_changes_with_a_single_pixel():
    digits = load_digits()
    assert training.describe(digits) == training.describe(digits)
    changed = digits.train.images.copy()
    changed[0, 0, 0, 0] += 0.5
    from dataclasses import replace

    other = replace(digits, train=replace(digits.train, images=changed))
    assert training.describe(other)["checksum"] != training.describe(digits)["checksum"]
