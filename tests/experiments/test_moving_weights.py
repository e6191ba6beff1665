"""Validation and early stopping with a moving average of the weights."""

import os
import signal

import numpy as np
import pytest

from bncourse.experiments import moving_weights, run
from bncourse.experiments.configurations import MovingWeightsConfiguration
from bncourse.experiments.moving_weights import MovingWeights
from bncourse.experiments.record import InterruptedRun

OPTIONS = {"batches": 8, "batch_size": 50, "every": 4, "audit": 4, "weight_momentum": 0.8}


def statistics(program, session):
    return session.run({name: v for name, v in program.variables.items() if "moving_" in name})


@pytest.fixture(scope="module", autouse=True)
def few_images():
    """Estimate the statistics from few images: what is tested does not hang on their number."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moving_weights, "STATISTICS_FROM", (2, 50))
        yield


@pytest.fixture(scope="module")
def whole():
    return run("improved-moving", **OPTIONS)


def test_the_average_is_that_of_the_closed_form_and_its_statistics_are_new(monkeypatch):
    seen, averages = [], []
    plain_step, plain_put = moving_weights.EarlyStopped.train_on, MovingWeights._put_average

    def step(self, session, feed):
        plain_step(self, session, feed)
        seen.append(session.run(self.weights))

    def put(self, session):
        before = statistics(self, session)
        plain_put(self, session)
        averages.append((len(seen), session.run(self.weights)))
        for name, value in statistics(self, session).items():
            assert (value != before[name]).any(), f"{name} was not re-estimated"

    monkeypatch.setattr(moving_weights.EarlyStopped, "train_on", step)
    monkeypatch.setattr(MovingWeights, "_put_average", put)
    run("improved-moving", **OPTIONS)
    assert [count for count, _ in averages] == [1, 5, 8]
    for count, average in averages:
        share = 0.8 ** np.arange(count)[::-1]
        share /= share.sum()
        for name, value in average.items():
            want = sum(part * weights[name] for part, weights in zip(share, seen, strict=False))
            assert value == pytest.approx(want, abs=1e-6)


def test_the_training_does_not_see_the_average(whole):
    plain = run("improved", **{name: value for name, value in OPTIONS.items() if name != "weight_momentum"})
    for name in ("validation_last_loss", "test_last_loss"):
        assert whole.final[name] == plain.final[name]
    for mine, theirs in zip(whole.log, plain.log, strict=True):
        assert mine["train_batch_loss"] == theirs["train_batch_loss"]
        assert mine["validation_trained_accuracy"] == theirs["validation_moving_accuracy"]
        assert mine.get("test_trained_accuracy", np.nan) == pytest.approx(theirs["test_moving_accuracy"], nan_ok=True)


def test_the_best_average_is_kept(whole):
    best = max(entry["validation_moving_accuracy"] for entry in whole.log)
    assert whole.final["validation_moving_accuracy"] == best
    by_batch = {entry["batch"]: entry for entry in whole.log}
    assert by_batch[whole.final["best_batch"]]["validation_moving_accuracy"] == best


def test_a_run_that_was_told_to_stop_goes_on_to_the_same_digits(whole, tmp_path, monkeypatch):
    checkpoint = tmp_path / "run.npz"
    plain_step = MovingWeights.train_on

    def step(self, session, feed):
        plain_step(self, session, feed)
        if self.step == 5:  # between two looks
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(MovingWeights, "train_on", step)
    with pytest.raises(InterruptedRun):
        run("improved-moving", checkpoint=checkpoint, **OPTIONS)
    monkeypatch.undo()
    again = run("improved-moving", checkpoint=checkpoint, resume=True, **OPTIONS)
    assert again.final == whole.final
    assert repr(again.log) == repr(whole.log)  # it has NaN where the test images were not scored


def test_an_impossible_momentum_is_refused():
    with pytest.raises(ValueError, match=r"weight_momentum = 1.5; expected a number in \[0, 1\]"):
        MovingWeightsConfiguration(weight_momentum=1.5)
