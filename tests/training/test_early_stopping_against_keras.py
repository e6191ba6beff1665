"""The rule against the real ``keras.callbacks.EarlyStopping``; in a file of its own: its import takes seconds."""

import math
import os
from types import SimpleNamespace

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np
import pytest

from bncourse.tf_layers import tf  # noqa: F401  first: it quietens TensorFlow
from bncourse.training import EarlyStopping

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
