"""The stopping rule against Keras's callback; in a file of its own because the import of Keras takes seconds."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bncourse.tf_layers  # noqa: F401  (first: it quietens TensorFlow)
from bncourse.training import EarlyStopping

import keras  # isort: skip

# Keras compares in float32; with eighths no sum is rounded.
EIGHTHS = st.integers(0, 8).map(lambda eighths: eighths / 8)


def keras_run(values, **options):
    """Return (stopped epoch or None, best value, best epoch) of Keras's callback."""
    callback = keras.callbacks.EarlyStopping(monitor="value", **options)
    model = SimpleNamespace(stop_training=False)
    callback.set_model(model)
    callback.on_train_begin()
    for epoch, value in enumerate(values):
        callback.on_epoch_end(epoch, {"value": value})
        if model.stop_training:
            return epoch, callback.best, callback.best_epoch
    return None, callback.best, callback.best_epoch


def our_run(values, *, start_from_epoch=0, **options):
    stopping = EarlyStopping(start_from=start_from_epoch, **options)
    for epoch, value in enumerate(values):
        if stopping.update(value, epoch).should_stop:
            break
    return stopping.stopped_step, stopping.best, stopping.best_step


@given(
    first=st.lists(EIGHTHS, min_size=4, max_size=4),
    rest=st.lists(EIGHTHS | st.just(math.nan), max_size=20),
    patience=st.integers(0, 5),
    mode=st.sampled_from(["min", "max"]),
    min_delta=st.sampled_from([0.0, 0.125, 0.25]),
    baseline=st.none() | EIGHTHS,
    start=st.integers(0, 3),
)
def test_the_rule_is_that_of_keras(first, rest, patience, mode, min_delta, baseline, start):
    options = {
        "patience": patience,
        "mode": mode,
        "min_delta": min_delta,
        "baseline": baseline,
        "start_from_epoch": start,
    }
    assert our_run(first + rest, **options) == keras_run(first + rest, **options)


def test_nan_first_is_where_the_two_part():
    values = [math.nan, 0.5, 0.6]
    stopped, best, epoch = keras_run(values, patience=5, mode="max")
    assert stopped is None
    assert math.isnan(best)
    assert epoch == 0
    assert our_run(values, patience=5, mode="max") == (None, 0.6, 2)


def test_the_defaults_are_those_of_keras():
    ours, theirs = EarlyStopping(), keras.callbacks.EarlyStopping()
    assert (ours.patience, ours.min_delta, ours.baseline, ours.start_from) == (
        theirs.patience,
        theirs.min_delta,
        theirs.baseline,
        theirs.start_from_epoch,
    )
    assert keras_run([1.0, 0.5, 0.75], mode="min") == our_run([1.0, 0.5, 0.75])
    assert ours.unit == "evaluations"


@pytest.mark.parametrize("wrong", ["maximum", "auto"])
def test_a_mode_that_keras_would_guess_is_refused(wrong):
    with pytest.raises(ValueError, match="mode"):
        EarlyStopping(mode=wrong)
