"""The rule against the real ``keras.callbacks.EarlyStopping``; in a file of its own: its import takes seconds."""

import math
import os
from types import SimpleNamespace

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np
import pytest

from bncourse.tf_layers import tf  # noqa: F401  first: it quietens TensorFlow
from bncourse.training import EarlyStopping, Guard

import keras  # isort: skip

#: Exact in float32, in which Keras compares; few, so that ties and advances of exactly min_delta are frequent.
GRID = np.arange(-4, 5) / 8
SEQUENCES = 40


def keras_run(values, *, start_from=0, **options):
    """Return the epochs of improvement, the first epoch of a stop (or None) and the best value, from Keras."""
    callback = keras.callbacks.EarlyStopping("value", start_from_epoch=start_from, **options)
    callback.set_model(SimpleNamespace(stop_training=False))
    callback.on_train_begin()
    improved, stopped = [], None
    for epoch, value in enumerate(values):
        before = callback.best
        callback.on_epoch_end(epoch, {"value": float(value)})
        if callback.best is not before:
            improved.append(epoch)
        if stopped is None and callback.model.stop_training:
            stopped = epoch
    return improved, stopped, callback.best


def our_run(values, **options):
    stopping = EarlyStopping(**options)
    improved = [epoch for epoch, value in enumerate(values) if stopping.update(value, epoch).improved]
    return improved, stopping.stopped_step, stopping.best


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("start_from", [0, 3])
@pytest.mark.parametrize("baseline", [None, 0.0, 0.25])
def test_random_runs_are_decided_alike(mode, start_from, baseline):
    rng = np.random.default_rng([start_from, 9 if baseline is None else int(4 * baseline), mode == "max"])
    stops = set()
    for _ in range(SEQUENCES):
        # A slow advance with much noise, and gaps of NaN; the first value that counts is a number.
        trend = np.linspace(0, 0.5, 14) * (1 if mode == "max" else -1)
        values = np.round(8 * trend) / 8 + rng.choice(GRID, size=14)
        values[rng.random(14) < 0.1] = math.nan
        values[start_from] = rng.choice(GRID)
        options = {
            "mode": mode,
            "start_from": start_from,
            "baseline": baseline,
            "patience": int(rng.integers(0, 6)),
            "min_delta": float(rng.choice([0.0, 0.125, 0.25])),
        }
        expected = keras_run(values, **options)
        assert our_run(values, **options) == expected, (values, options)
        stops.add(expected[1])
    assert len(stops) > 5


def test_the_defaults_are_those_of_keras():
    theirs, ours = keras.callbacks.EarlyStopping(), EarlyStopping()
    assert (ours.patience, ours.min_delta, ours.baseline, ours.start_from) == (
        theirs.patience,
        theirs.min_delta,
        theirs.baseline,
        theirs.start_from_epoch,
    )


# The documented differences


@pytest.mark.parametrize("mode", ["min", "max"])
def test_nan_at_the_start_spoils_a_keras_run_and_not_ours(mode):
    values = [math.nan, 0.5, 0.25, 0.75, 0.5]
    improved, stopped, best = keras_run(values, mode=mode, patience=3)
    assert (improved, stopped) == ([0], 3)
    assert math.isnan(best)
    assert our_run(values, mode=mode, patience=3) == (([1, 2], None, 0.25) if mode == "min" else ([1, 3], None, 0.75))


def test_minus_infinity_is_the_best_loss_for_keras_and_not_for_us():
    values = [0.5, -math.inf, 0.25]
    assert keras_run(values, mode="min", patience=9) == ([0, 1], None, -math.inf)
    assert our_run(values, mode="min", patience=9) == ([0, 2], None, 0.25)


def test_keras_compares_in_single_precision():
    values = [0.1 + 1e-10, 0.1]
    assert keras_run(values, mode="min", patience=9)[0] == [0]
    assert our_run(values, mode="min", patience=9)[0] == [0, 1]


def test_a_keras_callback_may_be_used_again_and_ours_not():
    callback = keras.callbacks.EarlyStopping("value", mode="min")
    callback.set_model(SimpleNamespace(stop_training=False))
    ours = EarlyStopping(mode="min")
    for value in (0.5, 0.25):
        callback.on_train_begin()
        callback.on_epoch_end(0, {"value": value})
    ours.update(0.5, 0)
    with pytest.raises(ValueError, match="Use a new EarlyStopping for every run"):
        ours.update(0.25, 0)


# Going back: what `restore_best_weights` does, and what the guard does


class Model:
    """A model whose only weight is the epoch, counted from 0."""

    def __init__(self):
        self.epoch, self.stop_training = None, False

    def get_weights(self):
        return [self.epoch]

    def set_weights(self, weights):
        [self.epoch] = weights

    def read(self):
        return {"epoch": np.array(self.epoch)}

    def write(self, values):
        self.epoch = int(values["epoch"])


def left_by_keras(values, *, start_from=0, **options):
    """Train for as long as the callback lets us; return the epoch whose weights are left, and the last epoch."""
    callback = keras.callbacks.EarlyStopping("value", start_from_epoch=start_from, restore_best_weights=True, **options)
    model = Model()
    callback.set_model(model)
    callback.on_train_begin()
    for epoch, value in enumerate(values):
        model.epoch = epoch
        callback.on_epoch_end(epoch, {"value": value})
        if model.stop_training:
            break
    callback.on_train_end()
    return model.epoch, epoch


def left_by_us(values, **options):
    guard = Guard(None, EarlyStopping(**options), Model())
    for epoch, value in enumerate(values):
        guard.variables.epoch = epoch
        if guard.update(value, epoch).should_stop:
            break
    if guard.rule.best_step is not None:
        guard.go_back()
    return guard.variables.epoch, epoch


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("baseline", [None, 0.25])
def test_random_runs_go_back_alike(mode, baseline):
    rng = np.random.default_rng([7, mode == "max", baseline is None])
    stopped = 0
    for _ in range(SEQUENCES):
        values = rng.choice(GRID, size=12)
        values[1:][rng.random(11) < 0.1] = math.nan
        options = {"mode": mode, "baseline": baseline, "patience": int(rng.integers(0, 9)), "min_delta": 0.125}
        expected = left_by_keras(values, **options)
        assert left_by_us(values, **options) == expected, (values, options)
        stopped += expected[1] < 11
    # Both kinds of end: patience ran out, and the epochs were done.
    assert 5 < stopped < SEQUENCES - 1


def test_when_training_ends_without_stopping_both_go_back_all_the_same():
    # Older versions went back only if they had stopped (tensorflow issue 35634).
    values = [0.5, 0.25, 0.75]
    assert left_by_keras(values, mode="min", patience=9) == left_by_us(values, mode="min", patience=9) == (1, 2)


def test_without_a_baseline_reached_both_train_on_while_values_improve():
    """The docstring of Keras promises a stop after `patience` epochs; the code, and ours, wait for one without gain."""
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.6]
    options = {"mode": "max", "patience": 2, "baseline": 0.9}
    assert left_by_keras(values, **options) == left_by_us(values, **options) == (4, 5)


def test_where_training_ends_before_start_from_both_leave_the_last_weights():
    values = [0.5, 0.75, 0.625]
    assert left_by_keras(values, mode="max", start_from=3) == left_by_us(values, mode="max", start_from=3) == (2, 2)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_nan_first_makes_keras_go_back_to_it(mode):
    values = [math.nan, 0.5, 0.25, 0.75, 0.5]
    assert left_by_keras(values, mode=mode, patience=3) == (0, 3)
    assert left_by_us(values, mode=mode, patience=3)[0] == (2 if mode == "min" else 3)


# Arguments and logs


def test_a_negative_min_delta_is_turned_round_by_keras_and_refused_by_us():
    values = [0.5, 0.25, 0.125, 0.0]
    options = {"mode": "min", "patience": 9}
    assert keras_run(values, min_delta=-0.25, **options) == keras_run(values, min_delta=0.25, **options)
    with pytest.raises(ValueError, match="min_delta"):
        EarlyStopping(min_delta=-0.25)


def test_a_negative_patience_is_taken_by_keras_and_refused_by_us():
    assert keras_run([0.5, 0.5], mode="min", patience=-3)[1] == 1
    with pytest.raises(ValueError, match="patience"):
        EarlyStopping(patience=-3)


def test_an_unknown_mode_is_guessed_by_keras_with_a_warning_and_refused_by_us():
    with pytest.warns(UserWarning, match="mode 'maximum' is unknown, fallback to auto"):
        callback = keras.callbacks.EarlyStopping("val_loss", mode="maximum")
    assert callback.mode == "auto"
    with pytest.raises(ValueError, match="mode"):
        EarlyStopping(mode="maximum")


def test_a_value_that_is_missing_is_passed_over_by_keras_with_a_warning():
    callback = keras.callbacks.EarlyStopping("value", mode="min")
    callback.set_model(Model())
    callback.on_train_begin()
    with pytest.warns(UserWarning, match="`value` which is not available"):
        callback.on_epoch_end(0, {"loss": 0.5})
    assert not callback.model.stop_training
    with pytest.raises(TypeError, match="value = None"):
        EarlyStopping().update(None, 0)


def test_a_second_fit_makes_keras_forget_and_a_saved_rule_does_not():
    """As after a crash: `BackupAndRestore` brings back weights and epoch; the callback starts with nothing."""
    values = [0.25, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    callback = keras.callbacks.EarlyStopping("value", mode="min", patience=3, restore_best_weights=True)
    callback.set_model(Model())
    for epoch, value in enumerate(values):
        if epoch in (0, 2):  # the training begins, and begins again
            callback.on_train_begin()
        callback.model.epoch = epoch
        callback.on_epoch_end(epoch, {"value": value})
        if callback.model.stop_training:
            break
    callback.on_train_end()
    # Without the break it would have stopped at epoch 3, and gone back to epoch 0.
    assert (epoch, callback.model.epoch) == (5, 2)
    first, second = EarlyStopping(patience=3), EarlyStopping(patience=3)
    for epoch in (0, 1):
        first.update(values[epoch], epoch)
    second.restore(first.state())
    for epoch in (2, 3):
        second.update(values[epoch], epoch)
    assert (second.stopped_step, second.best_step) == (3, 0)
