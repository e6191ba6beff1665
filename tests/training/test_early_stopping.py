"""The stopping rule: by hand on short sequences; against Keras's callback in a file of its own."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncourse.training import Decision, EarlyStopping

ACCURACIES = st.lists(st.integers(0, 10).map(lambda tenths: tenths / 10), min_size=1, max_size=30)


def feed(stopping: EarlyStopping, values, every: int = 1, first: int | None = None) -> list[Decision]:
    """Update with `values` at the steps every, 2 * every, ..."""
    first = every if first is None else first
    return [stopping.update(value, first + every * place) for place, value in enumerate(values)]


def improved(decisions) -> list[bool]:
    return [decision.improved for decision in decisions]


def test_the_first_value_is_the_best_so_far():
    stopping = EarlyStopping(mode="max")
    assert stopping.update(0.1, 10) == Decision(improved=True, should_stop=False)
    assert (stopping.best, stopping.best_step) == (0.1, 10)


@pytest.mark.parametrize(("mode", "expected"), [("min", [True, False, True]), ("max", [True, True, False])])
def test_the_mode_says_which_values_are_good(mode, expected):
    assert improved(feed(EarlyStopping(patience=9, mode=mode), [0.5, 0.6, 0.4])) == expected


def test_an_equal_value_is_no_improvement():
    assert improved(feed(EarlyStopping(patience=9), [0.5, 0.5])) == [True, False]


@pytest.mark.parametrize(("mode", "sign"), [("min", -1), ("max", 1)])
def test_min_delta_asks_for_more_than_its_size(mode, sign):
    values = [0.0, 0.25 * sign, 0.375 * sign]
    assert improved(feed(EarlyStopping(patience=9, mode=mode, min_delta=0.25), values)) == [True, False, True]


def test_min_delta_is_measured_from_the_best_value_and_not_from_the_last_one():
    values = [0.0, 0.2, 0.4, 0.6]
    assert improved(feed(EarlyStopping(patience=9, mode="max", min_delta=0.5), values)) == [True, False, False, True]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_nan_and_infinities_never_improve(mode, value):
    stopping = EarlyStopping(patience=9, mode=mode)
    assert improved(feed(stopping, [value, 0.5, value])) == [False, True, False]
    assert (stopping.best, stopping.best_step) == (0.5, 2)


def test_nan_alone_runs_out_of_patience_and_leaves_no_best():
    stopping = EarlyStopping(patience=3)
    assert [decision.should_stop for decision in feed(stopping, [math.nan] * 4)] == [False, False, True, True]
    assert stopping.best is None
    assert stopping.best_step is None


def test_patience_in_evaluations_counts_those_after_the_best():
    decisions = feed(EarlyStopping(patience=2, mode="max"), [0.5, 0.4, 0.6, 0.5, 0.5], every=100)
    assert [decision.should_stop for decision in decisions] == [False, False, False, False, True]


def test_patience_in_steps_is_a_distance_between_steps():
    stopping = EarlyStopping(patience=30, unit="steps", mode="max")
    decisions = feed(stopping, [0.5, 0.4, 0.6, 0.5, 0.5, 0.5], every=10)
    assert [decision.should_stop for decision in decisions] == [False] * 5 + [True]
    assert (stopping.best_step, stopping.stopped_step) == (30, 60)


def test_article_e_stopped_in_its_step_9921():
    # It counts from 0, validates every 10 steps, and adds 1 before it compares; so its best step was 7920.
    stopping = EarlyStopping(patience=2000, unit="steps", mode="max")
    for step in range(0, 20 * 550, 10):
        accuracy = 0.99 + 0.0022 * min(step, 7920) / 7920
        if stopping.update(accuracy, step).should_stop:
            break
    assert stopping.best_step == 7920
    assert stopping.stopped_step + 1 == 9921


@pytest.mark.parametrize("unit", ["evaluations", "steps"])
def test_without_patience_the_first_failure_stops(unit):
    decisions = feed(EarlyStopping(patience=0, unit=unit), [3.0, 2.0, 2.5])
    assert [decision.should_stop for decision in decisions] == [False, False, True]


@pytest.mark.parametrize(("unit", "patience"), [("evaluations", 2), ("steps", 20)])
def test_below_the_baseline_an_improvement_is_kept_but_patience_runs_on(unit, patience):
    stopping = EarlyStopping(patience=patience, unit=unit, mode="max", baseline=0.9)
    decisions = feed(stopping, [0.5, 0.6, 0.55], every=10)
    assert decisions == [Decision(True, False), Decision(True, False), Decision(False, True)]
    assert stopping.best == 0.6


def test_above_the_baseline_patience_starts_anew():
    stopping = EarlyStopping(patience=2, mode="max", baseline=0.9)
    assert not any(decision.should_stop for decision in feed(stopping, [0.5, 0.95, 0.9]))


def test_a_value_that_only_equals_the_baseline_does_not_beat_it():
    stopping = EarlyStopping(patience=2, mode="max", baseline=0.5)
    assert feed(stopping, [0.5, 0.4])[-1].should_stop


def test_early_steps_are_passed_over():
    stopping = EarlyStopping(patience=1, mode="max", start_from=30)
    assert improved(feed(stopping, [0.9, 0.8, 0.5, 0.6], every=10)) == [False, False, True, True]
    assert stopping.best == 0.6


def test_patience_in_steps_runs_from_the_step_of_the_start():
    stopping = EarlyStopping(patience=20, unit="steps", start_from=30)
    feed(stopping, [math.nan] * 5, every=10)
    assert stopping.stopped_step == 50


def test_a_run_that_goes_on_keeps_its_best_and_stays_stopped():
    stopping = EarlyStopping(patience=1, mode="max")
    decisions = feed(stopping, [0.5, 0.4, 0.6])
    assert decisions[-1] == Decision(improved=True, should_stop=True)
    assert (stopping.best, stopping.best_step, stopping.stopped_step) == (0.6, 3, 2)


@given(ACCURACIES)
def test_the_best_is_the_first_of_the_greatest(values):
    stopping = EarlyStopping(patience=1000, mode="max")
    feed(stopping, values)
    assert stopping.best == max(values)
    assert stopping.best_step == 1 + values.index(max(values))


@given(ACCURACIES)
def test_both_modes_are_mirror_images(values):
    up = feed(EarlyStopping(patience=3, mode="max", min_delta=0.1, baseline=0.5), values)
    down = feed(EarlyStopping(patience=3, mode="min", min_delta=0.1, baseline=-0.5), [-value for value in values])
    assert up == down


@given(ACCURACIES, st.integers(1, 5))
def test_regular_evaluations_count_alike_in_both_units(values, patience):
    by_evaluations = feed(EarlyStopping(patience=patience, mode="max"), values, every=10)
    by_steps = feed(EarlyStopping(patience=10 * patience, unit="steps", mode="max"), values, every=10)
    assert by_evaluations == by_steps


@given(ACCURACIES, st.integers(0, 29))
def test_a_restored_state_goes_on_as_if_nothing_had_happened(values, cut):
    options = {"patience": 2, "mode": "max", "baseline": 0.4}
    whole, before, after = (EarlyStopping(**options) for _ in range(3))
    cut = min(cut, len(values))
    expected = feed(whole, values)[cut:]
    feed(before, values[:cut])
    after.restore(json.loads(json.dumps(before.state(), allow_nan=False)))
    assert feed(after, values[cut:], first=cut + 1) == expected
    assert after.state() == whole.state()


def test_numpy_scalars_are_welcome():
    stopping = EarlyStopping(patience=np.int64(2), min_delta=np.float32(0.5), mode="max")
    stopping.update(np.float32(0.25), np.int64(10))
    assert json.loads(json.dumps(stopping.state()))["best"] == 0.25


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"patience": -1}, ValueError, r"patience = -1; expected an integer >= 0"),
        ({"patience": 1.5}, TypeError, r"patience = 1.5; expected an integer"),
        ({"patience": True}, TypeError, r"patience = True; expected an integer"),
        ({"unit": "epochs"}, ValueError, r"unit = 'epochs'; expected 'evaluations' or 'steps'"),
        ({"mode": "auto"}, ValueError, r"mode = 'auto'; expected 'min' for a loss or 'max' for an accuracy"),
        ({"min_delta": -0.1}, ValueError, r"min_delta = -0.1; expected a finite number >= 0"),
        ({"min_delta": math.nan}, ValueError, r"min_delta = nan; expected a finite number >= 0"),
        ({"min_delta": math.inf}, ValueError, r"min_delta = inf; expected a finite number >= 0"),
        ({"min_delta": "0"}, TypeError, r"min_delta = '0'; expected a number"),
        ({"baseline": math.nan}, ValueError, r"baseline = nan; expected a finite number, or None"),
        ({"start_from": -1}, ValueError, r"start_from = -1; expected an integer >= 0"),
    ],
)
def test_impossible_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        EarlyStopping(**options)


@pytest.mark.parametrize(
    ("value", "step", "error", "message"),
    [
        (0.5, 10, ValueError, r"step = 10, after step 10; expected a greater one\. Use a new EarlyStopping"),
        (0.5, 9, ValueError, r"step = 9, after step 10"),
        (0.5, -1, ValueError, r"step = -1; expected an integer >= 0"),
        (0.5, 20.0, TypeError, r"step = 20.0; expected an integer"),
        ("0.5", 20, TypeError, r"value = '0.5'; expected a number"),
        (None, 20, TypeError, r"value = None; expected a number"),
    ],
)
def test_a_refused_update_leaves_no_trace(value, step, error, message):
    stopping = EarlyStopping(mode="max")
    stopping.update(0.4, 10)
    state = stopping.state()
    with pytest.raises(error, match=message):
        stopping.update(value, step)
    assert stopping.state() == state


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"best": math.nan}, ValueError, r"best = nan; expected a finite number or None"),
        ({"best": "good"}, (TypeError, ValueError), r"good"),
        ({"best_step": None}, ValueError, r"best = 0.4 with best_step = None; expected both or neither"),
        ({"last_step": 1.5}, TypeError, r"last_step = 1.5; expected an integer"),
        ({"evaluations_waited": -1}, ValueError, r"evaluations_waited = -1; expected an integer >= 0"),
        ({"wait": 1}, ValueError, r"state has the entries .*'wait'.*; expected \['best', 'best_step', "),
    ],
)
def test_a_refused_state_changes_nothing(change, error, message):
    stopping = EarlyStopping(mode="max")
    stopping.update(0.4, 10)
    state = stopping.state()
    with pytest.raises(error, match=message):
        stopping.restore({**state, **change})
    assert stopping.state() == state


def test_a_state_with_an_entry_missing_is_refused():
    stopping = EarlyStopping()
    state = stopping.state()
    del state["best"]
    with pytest.raises(ValueError, match=r"state has the entries \['best_step', .*expected \['best', 'best_step', "):
        stopping.restore(state)


def test_the_repr_rebuilds_the_rule():
    stopping = EarlyStopping(patience=5, unit="steps", mode="max", min_delta=0.01, baseline=0.5, start_from=3)
    assert repr(eval(repr(stopping))) == repr(stopping)
