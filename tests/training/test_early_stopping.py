"""When to stop: closed forms, the state, and every message."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncourse.training import Decision, EarlyStopping

START = EarlyStopping().state()


def decisions(stopping, values, steps=None):
    """Return what `stopping` says to each value; steps 1, 2, ... unless given."""
    steps = range(1, len(values) + 1) if steps is None else steps
    return [stopping.update(value, step) for value, step in zip(values, steps, strict=True)]


def stopped_at(stopping, values, steps=None):
    decisions(stopping, values, steps)
    return stopping.stopped_step


# What counts as an improvement


@pytest.mark.parametrize(("mode", "expected"), [("min", [1, 0, 1, 0, 0]), ("max", [1, 1, 0, 0, 0])])
def test_improved_means_better_than_all_before(mode, expected):
    stopping = EarlyStopping(patience=9, mode=mode)
    assert [d.improved for d in decisions(stopping, [0.5, 0.75, 0.25, 0.25, 0.5])] == [bool(e) for e in expected]


@pytest.mark.parametrize(("mode", "best", "step"), [("min", 0.25, 3), ("max", 0.75, 2)])
def test_the_best_value_is_kept_with_the_step_of_its_first_appearance(mode, best, step):
    stopping = EarlyStopping(patience=9, mode=mode)
    decisions(stopping, [0.5, 0.75, 0.25, 0.25, 0.75])
    assert (stopping.best, stopping.best_step) == (best, step)


@pytest.mark.parametrize(("mode", "sign"), [("min", -1), ("max", 1)])
def test_an_advance_of_exactly_min_delta_is_none(mode, sign):
    stopping = EarlyStopping(patience=9, mode=mode, min_delta=0.25)
    values = [0.0, sign * 0.25, sign * 0.375, sign * 0.625]
    assert [d.improved for d in decisions(stopping, values)] == [True, False, True, False]


def test_small_advances_add_up_against_the_best():
    # 0.2 is not measured from the value before, but from the best.
    stopping = EarlyStopping(patience=9, mode="max", min_delta=0.15)
    assert [d.improved for d in decisions(stopping, [0.0, 0.1, 0.2])] == [True, False, True]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_never_improve(mode, bad):
    stopping = EarlyStopping(patience=9, mode=mode)
    assert [d.improved for d in decisions(stopping, [bad, 0.5, bad])] == [False, True, False]
    assert (stopping.best, stopping.best_step) == (0.5, 2)


def test_nan_uses_up_patience():
    assert stopped_at(EarlyStopping(patience=2), [0.5, math.nan, math.nan, 0.1]) == 3


def test_nan_from_the_start_stops_the_run_with_nothing_as_best():
    stopping = EarlyStopping(patience=2)
    assert [d.should_stop for d in decisions(stopping, [math.nan] * 3)] == [False, True, True]
    assert (stopping.best, stopping.best_step) == (None, None)


def test_values_are_compared_in_double_precision():
    assert decisions(EarlyStopping(), [0.1 + 1e-10, 0.1])[1].improved


# Patience


@pytest.mark.parametrize(("patience", "step"), [(0, 2), (1, 2), (2, 3), (3, 4)])
def test_patience_in_evaluations(patience, step):
    assert stopped_at(EarlyStopping(patience=patience), [0.5] * 6) == step


@pytest.mark.parametrize(
    ("patience", "step"), [(0, 20), (1, 20), (10, 20), (11, 30), (20, 30), (21, 40), (40, 50), (41, None)]
)
def test_patience_in_steps_is_the_distance_to_the_best(patience, step):
    assert stopped_at(EarlyStopping(patience=patience, unit="steps"), [0.5] * 5, range(10, 60, 10)) == step


def test_patience_in_steps_does_not_depend_on_how_often_one_looks():
    rare = stopped_at(EarlyStopping(patience=100, unit="steps"), [0.5] * 31, range(0, 310, 10))
    often = stopped_at(EarlyStopping(patience=100, unit="steps"), [0.5] * 301, range(301))
    assert rare == often == 100


def test_patience_in_evaluations_does_not_depend_on_the_steps_between_them():
    assert stopped_at(EarlyStopping(patience=2), [0.5] * 4, [1, 1000, 1001, 5000]) == 1001


def test_patience_in_steps_starts_anew_at_an_improvement():
    values, steps = [0.5, 0.5, 0.4, 0.4, 0.4, 0.4], [0, 90, 95, 190, 194, 195]
    assert stopped_at(EarlyStopping(patience=100, unit="steps"), values, steps) == 195


def test_patience_in_steps_counts_from_step_0_before_the_first_finite_value():
    assert stopped_at(EarlyStopping(patience=20, unit="steps"), [math.nan] * 4, [5, 15, 20, 25]) == 20


def test_an_improvement_never_stops_however_late_it_comes():
    assert stopped_at(EarlyStopping(patience=10, unit="steps"), [0.5, 0.4], [0, 1000]) is None


def test_once_stopped_it_stays_so():
    stopping = EarlyStopping(mode="max")
    assert decisions(stopping, [0.5, 0.5, 0.9])[1:] == [Decision(False, True), Decision(True, True)]
    assert (stopping.should_stop, stopping.stopped_step, stopping.best) == (True, 2, 0.9)


def test_nothing_is_decided_at_the_start():
    stopping = EarlyStopping()
    assert (stopping.best, stopping.best_step, stopping.stopped_step, stopping.should_stop) == (None, None, None, False)


# Baseline and start_from


def test_improvements_short_of_the_baseline_use_up_patience_but_do_not_stop():
    stopping = EarlyStopping(patience=2, mode="max", baseline=0.8)
    # Improvements at steps 1 to 3; the first evaluation without one finds patience gone.
    assert decisions(stopping, [0.5, 0.6, 0.7, 0.7]) == [Decision(True, False)] * 3 + [Decision(False, True)]


def test_beyond_the_baseline_patience_starts_anew():
    assert stopped_at(EarlyStopping(patience=2, mode="max", baseline=0.8), [0.5, 0.6, 0.9, 0.9, 0.9]) == 5


def test_the_baseline_must_be_beaten_by_more_than_min_delta():
    options = {"patience": 2, "mode": "max", "baseline": 0.5, "min_delta": 0.25}
    # With 0.75 patience goes on from step 1, with 0.875 it starts anew at step 2.
    assert stopped_at(EarlyStopping(**options), [0.0, 0.75, 0.75, 0.75]) == 3
    assert stopped_at(EarlyStopping(**options), [0.0, 0.875, 0.875, 0.875]) == 4


def test_a_baseline_of_zero_is_one():
    assert stopped_at(EarlyStopping(patience=2, mode="max", baseline=0.0), [-3.0, -2.0, -2.0]) == 3


def test_patience_in_steps_with_a_baseline_counts_from_start_from():
    stopping = EarlyStopping(patience=30, unit="steps", mode="max", baseline=0.8, start_from=5)
    assert stopped_at(stopping, [0.5, 0.6, 0.6, 0.6], [10, 20, 34, 35]) == 35


def test_evaluations_before_start_from_are_passed_over():
    stopping = EarlyStopping(patience=1, mode="max", start_from=3)
    expected = [Decision(False, False)] * 2 + [Decision(True, False), Decision(False, True)]
    assert decisions(stopping, [0.9, 0.8, 0.1, 0.1]) == expected
    assert (stopping.best, stopping.best_step) == (0.1, 3)


# State


@pytest.mark.parametrize("unit", ["evaluations", "steps"])
@pytest.mark.parametrize("seed", range(6))
def test_restored_at_any_point_it_decides_as_if_never_interrupted(unit, seed):
    rng = np.random.default_rng(seed)
    values = rng.choice([math.nan, *np.linspace(0, 1, 9)], size=25)
    steps = np.cumsum(rng.integers(1, 5, size=25))
    options = {"patience": 4, "unit": unit, "mode": "max", "min_delta": 0.125, "baseline": 0.25, "start_from": 6}
    whole = EarlyStopping(**options)
    expected = decisions(whole, values, steps)
    assert any(d.should_stop for d in expected)
    for cut in range(26):
        before, after = EarlyStopping(**options), EarlyStopping(**options)
        first = decisions(before, values[:cut], steps[:cut])
        after.restore(json.loads(json.dumps(before.state(), allow_nan=False)))
        assert first + decisions(after, values[cut:], steps[cut:]) == expected
        assert after.state() == whole.state()


def test_the_state_of_numpy_numbers_is_plain():
    stopping = EarlyStopping(patience=np.int64(0))
    decisions(stopping, [np.float32(0.5), np.float32(0.5)], [np.int32(1), np.uint8(2)])
    assert {type(value) for value in stopping.state().values()} == {float, int}


def test_the_state_is_a_copy():
    stopping = EarlyStopping()
    stopping.state()["waiting_since"] = 7
    assert stopping.state() == START


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"best": math.nan, "best_step": 1}, ValueError, "best = nan; expected a finite number or None."),
        ({"best": 0.5}, ValueError, "best = 0.5 with best_step = None; expected both or neither."),
        ({"best_step": 3}, ValueError, "best = None with best_step = 3; expected both or neither."),
        ({"best": "0.5", "best_step": 1}, TypeError, "best = '0.5'; expected a number."),
        ({"best": 0.5, "best_step": 1.0}, TypeError, "best_step = 1.0; expected an integer."),
        ({"last_step": -1}, ValueError, "last_step = -1; expected an integer >= 0."),
        ({"stopped_step": True}, TypeError, "stopped_step = True; expected an integer."),
        ({"waiting_since": None}, TypeError, "waiting_since = None; expected an integer."),
        ({"evaluations_waited": -2}, ValueError, "evaluations_waited = -2; expected an integer >= 0."),
    ],
)
def test_an_impossible_state_is_refused_and_changes_nothing(change, error, message):
    stopping = EarlyStopping()
    stopping.update(0.5, 1)
    before = stopping.state()
    with pytest.raises(error) as caught:
        stopping.restore(START | change)
    assert str(caught.value) == message
    assert stopping.state() == before


#: Of a rule with start_from = 2: evaluated at the steps 1 to 9, best at 5, out of patience at 8.
LATE = {"best": 0.5, "best_step": 5, "last_step": 9, "stopped_step": 8, "waiting_since": 5, "evaluations_waited": 4}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"last_step": None}, "best_step = 5 with last_step = None; expected at most the last step."),
        ({"best_step": 10}, "best_step = 10 with last_step = 9; expected at most the last step."),
        ({"stopped_step": 10}, "stopped_step = 10 with last_step = 9; expected at most the last step."),
        ({"stopped_step": 5}, "best_step = stopped_step = 5; no rule stops at an improvement."),
        ({"best_step": 1}, "best_step = 1 with start_from = 2; expected the start_from that was saved."),
        ({"stopped_step": 1}, "stopped_step = 1 with start_from = 2; expected the start_from that was saved."),
        (
            {"waiting_since": 6},
            "waiting_since = 6 with best_step = 5 and start_from = 2; expected a step from start_from to the best "
            "step.",
        ),
        (
            {"waiting_since": 1},
            "waiting_since = 1 with best_step = 5 and start_from = 2; expected a step from start_from to the best "
            "step.",
        ),
        (
            {"best": None, "best_step": None, "waiting_since": 3},
            "waiting_since = 3 with best_step = None and start_from = 2; expected a step from start_from to the best "
            "step.",
        ),
        (
            {"evaluations_waited": 6},
            "evaluations_waited = 6 with waiting_since = 5 and last_step = 9; expected at most one a step.",
        ),
        (
            {"best": None, "best_step": None, "last_step": 1, "stopped_step": None, "waiting_since": 2},
            "evaluations_waited = 4 with waiting_since = 2 and last_step = 1; expected at most one a step.",
        ),
        (
            dict.fromkeys(("best", "best_step", "last_step", "stopped_step")) | {"waiting_since": 2},
            "evaluations_waited = 4 with waiting_since = 2 and last_step = None; expected at most one a step.",
        ),
    ],
)
def test_entries_that_contradict_each_other_are_refused(change, message):
    stopping = EarlyStopping(start_from=2)
    stopping.update(0.5, 1)
    before = stopping.state()
    with pytest.raises(ValueError, match=r"expected|no rule") as caught:
        stopping.restore(LATE | change)
    assert str(caught.value) == message
    assert stopping.state() == before
    stopping.restore(LATE)
    assert stopping.state() == LATE


@given(
    values=st.lists(st.sampled_from([math.nan, 0.0, 0.25, 0.5, 0.75, 1.0]), max_size=12),
    gaps=st.lists(st.integers(1, 3), min_size=12, max_size=12),
    patience=st.integers(0, 5),
    unit=st.sampled_from(["evaluations", "steps"]),
    baseline=st.sampled_from([None, 0.5]),
    start_from=st.integers(0, 8),
)
def test_no_state_that_occurs_is_refused(values, gaps, patience, unit, baseline, start_from):
    options = {"patience": patience, "unit": unit, "baseline": baseline, "start_from": start_from}
    stopping = EarlyStopping(**options)
    for value, step in zip(values, np.cumsum(gaps), strict=False):
        stopping.update(value, step)
        EarlyStopping(**options).restore(stopping.state())
    EarlyStopping(**options).restore(stopping.state())


def test_a_training_error_is_not_looked_at():
    stopping = EarlyStopping()
    stopping.update(0.5, 1, training_error=math.nan)
    assert (stopping.best, stopping.should_stop) == (0.5, False)


@pytest.mark.parametrize("state", [{}, START | {"patience": 1}, {k: v for k, v in START.items() if k != "best"}])
def test_a_state_with_other_entries_is_refused(state):
    with pytest.raises(
        ValueError, match=r"^state has the entries \[.*\]; expected \['best', 'best_step', .*\], as Early"
    ):
        EarlyStopping().restore(state)


# Messages


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"unit": "epochs"}, ValueError, "unit = 'epochs'; expected 'evaluations' or 'steps'."),
        ({"mode": "auto"}, ValueError, "mode = 'auto'; expected 'min' for a loss or 'max' for an accuracy."),
        ({"patience": -1}, ValueError, "patience = -1; expected an integer >= 0."),
        ({"patience": 1.0}, TypeError, "patience = 1.0; expected an integer."),
        ({"patience": True}, TypeError, "patience = True; expected an integer."),
        ({"start_from": -1}, ValueError, "start_from = -1; expected an integer >= 0."),
        ({"start_from": "1"}, TypeError, "start_from = '1'; expected an integer."),
        ({"min_delta": -0.1}, ValueError, "min_delta = -0.1; expected a finite number >= 0, in either mode."),
        ({"min_delta": math.nan}, ValueError, "min_delta = nan; expected a finite number >= 0, in either mode."),
        ({"min_delta": math.inf}, ValueError, "min_delta = inf; expected a finite number >= 0, in either mode."),
        ({"min_delta": None}, TypeError, "min_delta = None; expected a number."),
        ({"baseline": math.nan}, ValueError, "baseline = nan; expected a finite number, or None for no baseline."),
        ({"baseline": "0.9"}, TypeError, "baseline = '0.9'; expected a number."),
    ],
)
def test_impossible_options_are_refused(options, error, message):
    with pytest.raises(error) as caught:
        EarlyStopping(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("value", "step", "error", "message"),
    [
        ("0.5", 6, TypeError, "value = '0.5'; expected a number."),
        (None, 6, TypeError, "value = None; expected a number."),
        (0.5, 6.0, TypeError, "step = 6.0; expected an integer."),
        (0.5, -1, ValueError, "step = -1; expected an integer >= 0."),
        (0.5, 5, ValueError, "step = 5, after step 5; expected a greater one. Use a new EarlyStopping for every run."),
        (0.5, 4, ValueError, "step = 4, after step 5; expected a greater one. Use a new EarlyStopping for every run."),
    ],
)
def test_an_impossible_update_is_refused_and_not_remembered(value, step, error, message):
    stopping = EarlyStopping()
    stopping.update(0.9, 5)
    before = stopping.state()
    with pytest.raises(error) as caught:
        stopping.update(value, step)
    assert str(caught.value) == message
    assert stopping.state() == before


def test_steps_before_start_from_must_rise_too():
    stopping = EarlyStopping(start_from=10)
    stopping.update(0.5, 5)
    with pytest.raises(ValueError, match="step = 5, after step 5"):
        stopping.update(0.5, 5)


def test_its_text_makes_it_anew():
    stopping = EarlyStopping(patience=3, unit="steps", mode="max", min_delta=0.1, baseline=0.5, start_from=2)
    assert vars(eval(repr(stopping))) == vars(stopping)
