"""The mean of the last weights, and its moving statistics."""

import os
import signal

import numpy as np
import pytest

from bncourse.experiments import averaged, run
from bncourse.experiments.averaged import Averaged
from bncourse.experiments.configurations import AveragedConfiguration
from bncourse.experiments.record import InterruptedRun
from bncourse.tf_layers.improved_network import build_improved_network

OPTIONS = {"batches": 8, "batch_size": 50, "every": 4, "averaged": 0.5}


@pytest.fixture(scope="module")
def whole():
    return run("improved-averaged", **OPTIONS)


def test_the_mean_is_that_of_the_last_weights_and_its_statistics_are_new(monkeypatch):
    seen, assigned = [], []
    plain_step, plain_assign = averaged.EarlyStopped.train_on, averaged.assign

    def step(self, session, feed):
        plain_step(self, session, feed)
        seen.append(session.run(self.trained_variables))

    def noted(session, values):
        assigned.append({variable.op.name: value for variable, value in values.items()})
        plain_assign(session, values)

    monkeypatch.setattr(averaged.EarlyStopped, "train_on", step)
    monkeypatch.setattr(averaged, "assign", noted)
    found = run("improved-averaged", **OPTIONS)
    assert len(seen) == 8
    for name, value in assigned[0].items():
        assert value == pytest.approx(np.mean([weights[name] for weights in seen[4:]], axis=0), abs=1e-6)
    assert found.final["validation_stale_loss"] != found.final["validation_averaged_loss"]


def test_the_other_scores_are_those_of_a_run_without_a_mean(whole):
    plain = run("improved", patience=0, **{name: value for name, value in OPTIONS.items() if name != "averaged"})
    assert whole.log == plain.log
    assert {name: whole.final[name] for name in plain.final} == plain.final


def test_a_run_that_was_told_to_stop_goes_on_to_the_same_digits(whole, tmp_path, monkeypatch):
    checkpoint = tmp_path / "run.npz"
    plain_step = Averaged.train_on

    def step(self, session, feed):
        plain_step(self, session, feed)
        if self.step == 5:  # two steps are in the mean
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Averaged, "train_on", step)
    with pytest.raises(InterruptedRun):
        run("improved-averaged", checkpoint=checkpoint, **OPTIONS)
    monkeypatch.undo()
    again = run("improved-averaged", checkpoint=checkpoint, resume=True, **OPTIONS)
    assert again == whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"averaged": 1.5}, r"averaged = 1.5; expected a number in \[0, 1\]"),
        ({"averaged": 0.1, "batches": 9}, "averaged = 0.1 is less than one of 9 steps"),
        ({"patience": 10}, "patience = 10; expected 0: the average needs the last steps"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AveragedConfiguration(**options)


def test_the_first_step_in_the_mean():
    assert AveragedConfiguration(batches=1290).first_averaged() == 1161
    assert AveragedConfiguration(batches=10, averaged=1.0).first_averaged() == 0


def test_the_modules_that_decide_are_named():
    assert {"bncourse.experiments.averaged", "bncourse.repair.graph"} <= set(averaged.CODE)
    assert build_improved_network.__module__ in averaged.CODE
