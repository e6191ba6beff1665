"""Prechelt's criteria: hand-computed sequences, the paper's definitions word by word, and every message."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncourse.training import (
    Decision,
    GeneralizationLoss,
    ProgressQuotient,
    SuccessiveRises,
    generalization_loss,
    successive_rises,
    training_progress,
)

#: Exact in binary, with ties, zeros and large ratios.
GRID = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 2.0, 8.0])
BROKEN = GRID | st.sampled_from([math.nan, math.inf])
CURVES = st.lists(st.tuples(GRID, GRID), min_size=1, max_size=40)


def run(rule, errors, training=None, first=1):
    """Return the decisions on errors at the steps `first`, `first` + 1, ..."""
    training = [None] * len(errors) if training is None else training
    pairs = zip(errors, training, strict=True)
    return [rule.update(error, step, training_error=t) for step, (error, t) in enumerate(pairs, start=first)]


def stopped_at(rule, errors, training=None):
    run(rule, errors, training)
    return rule.stopped_step


# The formulas


def test_generalization_loss_by_hand():
    assert generalization_loss([0.5, 0.4, 0.5, 0.2, 0.21]).tolist() == pytest.approx([0, 0, 25, 0, 5])


def test_generalization_loss_after_an_error_of_zero():
    assert generalization_loss([1.0, 0.0, 0.0, 1e-300]).tolist() == [0, 0, 0, math.inf]


@given(st.lists(GRID.filter(bool), min_size=1, max_size=20), st.sampled_from([0.5, 2.0, 1024.0]))
def test_generalization_loss_does_not_see_the_unit_of_the_error(errors, unit):
    assert generalization_loss(np.multiply(unit, errors)).tolist() == generalization_loss(errors).tolist()


@given(st.lists(GRID, min_size=1, max_size=20))
def test_generalization_loss_is_the_papers(errors):
    for t, loss in enumerate(generalization_loss(errors)):
        best = min(errors[: t + 1])
        if best > 0:
            assert loss == pytest.approx(100 * (errors[t] / best - 1))
        else:
            assert loss == (0 if errors[t] == 0 else math.inf)


def test_training_progress_by_hand():
    # Sum 2.5 over five, smallest 0.4: 2.5 / 2 = 1.25.
    assert training_progress([0.6, 0.55, 0.5, 0.45, 0.4]) == pytest.approx(250)
    assert training_progress([0.4, 0.6, 0.4, 0.6, 0.5]) == pytest.approx(250)


@pytest.mark.parametrize("error", [0.0, 0.1, 1 / 3, 1e-300, 1e300])
def test_without_movement_there_is_no_progress(error):
    assert training_progress([error] * 7) == 0


def test_progress_down_to_zero_is_infinite():
    assert training_progress([1.0, 0.0]) == math.inf


@given(st.lists(GRID.filter(bool), min_size=1, max_size=8))
def test_training_progress_is_the_papers(strip):
    k = len(strip)
    assert training_progress(strip) == pytest.approx(1000 * (sum(strip) / (k * min(strip)) - 1), abs=1e-9)


@given(st.permutations([0.5, 0.25, 0.75, 1.0]))
def test_the_order_within_a_strip_does_not_matter(strip):
    assert training_progress(strip) == pytest.approx(1500)


@pytest.mark.parametrize(
    ("errors", "rises"),
    [([1.0], 0), ([1, 2], 1), ([2, 1], 0), ([1, 1], 0), ([1, 2, 3], 2), ([3, 2, 3, 4], 2), ([1, 2, 3, 3], 0)],
)
def test_successive_rises_by_hand(errors, rises):
    assert successive_rises(errors) == rises


@pytest.mark.parametrize("function", [generalization_loss, training_progress, successive_rises])
@pytest.mark.parametrize(
    ("errors", "message"),
    [
        ([], "has shape (0,); expected one error after the other, at least one."),
        ([[1.0]], "has shape (1, 1); expected one error after the other, at least one."),
        ([1.0, -0.5], "holds -0.5; expected finite errors >= 0 (1 - accuracy, for an accuracy)."),
        ([1.0, math.nan], "holds nan; expected finite errors >= 0 (1 - accuracy, for an accuracy)."),
        ([math.inf], "holds inf; expected finite errors >= 0 (1 - accuracy, for an accuracy)."),
    ],
)
def test_the_formulas_refuse_what_is_no_error(function, errors, message):
    name = "strip" if function is training_progress else "errors"
    with pytest.raises(ValueError, match="expected") as caught:
        function(errors)
    assert str(caught.value) == f"{name} {message}"


# The rules, by hand


@pytest.mark.parametrize(("alpha", "step"), [(0, 3), (4.9, 3), (5.1, 5), (24, 5), (26, None)])
def test_gl_stops_at_the_first_error_so_much_above_the_best(alpha, step):
    assert stopped_at(GeneralizationLoss(alpha), [0.5, 0.4, 0.42, 0.4, 0.5, 0.4]) == step


def test_gl_at_exactly_alpha_goes_on():
    assert stopped_at(GeneralizationLoss(50), [1.0, 1.5]) is None
    assert stopped_at(GeneralizationLoss(50), [1.0, 1.5625]) == 2


# Strips of two; GL at their ends 0, 25, 50. Training progress: 1000 (0.75 / 0.5 - 1) = 500, then 125, then 0.
ERRORS = [2.0, 1.0, 1.0, 1.25, 1.0, 1.5]
TRAINING = [1.0, 0.5, 0.5, 0.4, 0.4, 0.4]


@pytest.mark.parametrize(("alpha", "step"), [(0.19, 4), (0.21, 6), (100, 6)])
def test_pq_stops_when_the_loss_exceeds_alpha_times_the_progress(alpha, step):
    assert stopped_at(ProgressQuotient(alpha, strip=2), ERRORS, TRAINING) == step


def test_pq_looks_only_at_the_ends_of_strips():
    assert stopped_at(ProgressQuotient(0, strip=3), [1.0, 9.0, 1.0, 9.0, 9.0, 1.0], [1.0] * 6) is None


def test_pq_bears_any_loss_while_training_jumps_from_zero():
    assert stopped_at(ProgressQuotient(3, strip=2), [1.0, 9.0], [0.0, 1.0]) is None


def test_pq_without_progress_stops_only_if_there_is_a_loss():
    assert stopped_at(ProgressQuotient(3, strip=2), [1.0, 1.0], [0.5, 0.5]) is None
    assert stopped_at(ProgressQuotient(3, strip=2), [1.0, 1.0625], [0.5, 0.5]) == 2


@pytest.mark.parametrize(("rises", "step"), [(1, 4), (2, 12), (3, None)])
def test_up_counts_rises_from_strip_to_strip(rises, step):
    # Strips of two end with 1, 2, 1, 1, 2, 3; a third rise would come with the end of the last strip, which is missing.
    errors = [9.0, 1.0, 9.0, 2.0, 9.0, 1.0, 9.0, 1.0, 9.0, 2.0, 9.0, 3.0, 9.0]
    assert stopped_at(SuccessiveRises(rises, strip=2), errors) == step


def test_up_needs_no_more_than_a_rise_of_one_bit():
    assert stopped_at(SuccessiveRises(1, strip=1), [0.1, math.nextafter(0.1, 1)]) == 2


# The rules, against the paper's definitions


def papers_gl(errors, alpha):
    return next((t for t in range(1, len(errors) + 1) if loss_at(errors, t) > alpha), None)


def loss_at(errors, t):
    best = min(errors[:t])
    if best > 0:
        return 100 * (errors[t - 1] / best - 1)
    return math.inf if errors[t - 1] > 0 else 0


def papers_pq(errors, training, alpha, k):
    for t in range(k, len(errors) + 1, k):
        strip = training[t - k : t]
        loss = loss_at(errors, t)
        if min(strip) == 0:
            progress = math.inf if max(strip) > 0 else 0
        else:
            progress = 1000 * (sum(strip) / (k * min(strip)) - 1)
        quotient = (math.inf if loss > 0 else 0) if progress == 0 else 0 if progress == math.inf else loss / progress
        if quotient > alpha:
            return t
    return None


def papers_up(errors, rises, k):
    def stops_after(s, t):
        """UP_s: after t if UP_(s-1) stops after t - k, and the error of t is above that of t - k."""
        return t - k >= 1 and errors[t - 1] > errors[t - k - 1] and (s == 1 or stops_after(s - 1, t - k))

    return next((t for t in range(k, len(errors) + 1, k) if stops_after(rises, t)), None)


@given(CURVES, st.sampled_from([0.0, 30.0, 99.0, 101.0, 350.0]))
def test_gl_is_the_papers(curve, alpha):
    errors, _ = zip(*curve, strict=True)
    assert stopped_at(GeneralizationLoss(alpha), errors) == papers_gl(errors, alpha)


@given(CURVES, st.sampled_from([0.0, 0.013, 0.17, 1.1]), st.integers(2, 5))
def test_pq_is_the_papers(curve, alpha, strip):
    errors, training = zip(*curve, strict=True)
    rule = ProgressQuotient(alpha, strip=strip)
    assert stopped_at(rule, errors, training) == papers_pq(errors, training, alpha, strip)


@given(CURVES, st.integers(1, 4), st.integers(1, 4))
def test_up_is_the_papers(curve, rises, strip):
    errors, _ = zip(*curve, strict=True)
    assert stopped_at(SuccessiveRises(rises, strip=strip), errors) == papers_up(errors, rises, strip)


# What all three share


RULES = [
    lambda **options: GeneralizationLoss(110.0, **options),
    lambda **options: ProgressQuotient(0.2, strip=3, **options),
    lambda **options: SuccessiveRises(2, strip=2, **options),
]


@pytest.mark.parametrize("make", RULES)
@given(curve=CURVES)
def test_the_best_is_the_first_smallest_error(make, curve):
    errors, training = zip(*curve, strict=True)
    rule = make()
    decisions = run(rule, errors, training)
    assert (rule.best, rule.best_step) == (min(errors), 1 + errors.index(min(errors)))
    improved = [t for t in range(len(errors)) if t == 0 or errors[t] < min(errors[:t])]
    assert [t for t, decision in enumerate(decisions) if decision.improved] == improved


@pytest.mark.parametrize("make", RULES)
@given(curve=CURVES)
def test_once_stopped_it_stays_so_and_an_improvement_never_stops(make, curve):
    rule = make()
    decisions = run(rule, *zip(*curve, strict=True))
    stops = [decision.should_stop for decision in decisions]
    assert stops == sorted(stops)
    if rule.stopped_step is not None:
        assert stops.index(True) == rule.stopped_step - 1
        assert not decisions[rule.stopped_step - 1].improved


@pytest.mark.parametrize("make", RULES)
@given(
    curve=st.lists(st.tuples(BROKEN, BROKEN), min_size=1, max_size=40),
    cut=st.integers(0, 40),
    start_from=st.integers(0, 6),
)
def test_restored_at_any_point_it_decides_as_if_never_interrupted(make, curve, cut, start_from):
    errors, training = zip(*curve, strict=True)
    whole, before, after = (make(start_from=start_from) for _ in range(3))
    expected = run(whole, errors, training)
    first = run(before, errors[:cut], training[:cut])
    after.restore(json.loads(json.dumps(before.state(), allow_nan=False)))
    cut = min(cut, len(errors))
    assert first + run(after, errors[cut:], training[cut:], first=1 + cut) == expected
    assert after.state() == whole.state()


@pytest.mark.parametrize("make", RULES)
def test_before_start_from_nothing_counts(make):
    curve = [1.0, 2.0, 4.0, 1.0, 2.0, 4.0, 1.0, 8.0, 8.0, 16.0]
    rule, late = make(), make(start_from=4)
    decisions = run(late, [0.0, 9.0, 9.0, *curve], [9.0, 0.0, 9.0, *([1.0] * len(curve))])
    assert decisions[:3] == [Decision(False, False)] * 3
    assert decisions[3:] == run(rule, curve, [1.0] * len(curve))
    assert late.stopped_step == rule.stopped_step + 3


@pytest.mark.parametrize("make", RULES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_error_that_is_no_number_stops_at_once(make, bad):
    rule = make()
    assert run(rule, [1.0, bad, 0.5], [1.0] * 3) == [
        Decision(True, False),
        Decision(False, True),
        Decision(True, True),
    ]
    assert (rule.best_step, rule.stopped_step) == (3, 2)
    rule.restore(rule.state())


def test_a_training_error_that_is_no_number_stops_pq_at_once_and_the_others_do_not_look_at_it():
    rule = ProgressQuotient(1.0)
    assert run(rule, [1.0, 0.5], [1.0, math.nan])[1] == Decision(False, True)
    assert (rule.best_step, rule.stopped_step) == (1, 2)
    assert stopped_at(GeneralizationLoss(1.0), [1.0, 0.5], [1.0, math.nan]) is None
    assert stopped_at(SuccessiveRises(1), [1.0, 0.5], [1.0, math.nan]) is None


@pytest.mark.parametrize(
    "rule",
    [
        GeneralizationLoss(2.5, start_from=3),
        ProgressQuotient(0.5, strip=4, start_from=2),
        SuccessiveRises(3, strip=1, start_from=1),
    ],
)
def test_its_text_makes_it_anew(rule):
    assert vars(eval(repr(rule))) == vars(rule)


# Messages


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: GeneralizationLoss(-1), ValueError, "alpha = -1; expected a finite number >= 0."),
        (lambda: GeneralizationLoss(math.nan), ValueError, "alpha = nan; expected a finite number >= 0."),
        (lambda: ProgressQuotient(math.inf), ValueError, "alpha = inf; expected a finite number >= 0."),
        (lambda: ProgressQuotient("1"), TypeError, "alpha = '1'; expected a number."),
        (lambda: ProgressQuotient(1, strip=1), ValueError, "strip = 1; expected an integer >= 2."),
        (lambda: SuccessiveRises(1, strip=0), ValueError, "strip = 0; expected an integer >= 1."),
        (lambda: SuccessiveRises(0), ValueError, "rises = 0; expected an integer >= 1."),
        (lambda: SuccessiveRises(1.0), TypeError, "rises = 1.0; expected an integer."),
        (lambda: GeneralizationLoss(1, start_from=-1), ValueError, "start_from = -1; expected an integer >= 0."),
    ],
)
def test_impossible_options_are_refused(make, error, message):
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("update", "error", "message"),
    [
        ((-0.5, 6, 1.0), ValueError, "value = -0.5; expected an error >= 0 (1 - accuracy, for an accuracy)."),
        (("1", 6, 1.0), TypeError, "value = '1'; expected a number."),
        ((0.5, 5, 1.0), ValueError, "step = 5, after step 5; expected a greater one. Use a new ProgressQuotient for"),
        ((0.5, 6.0, 1.0), TypeError, "step = 6.0; expected an integer."),
        ((0.5, 6, None), TypeError, "training_error is missing; ProgressQuotient needs the mean training error."),
        ((0.5, 6, -1.0), ValueError, "training_error = -1.0; expected an error >= 0 (1 - accuracy, for an accuracy)."),
        ((0.5, 6, "1"), TypeError, "training_error = '1'; expected a number."),
    ],
)
def test_an_impossible_update_is_refused_and_not_remembered(update, error, message):
    rule = ProgressQuotient(1.0)
    rule.update(0.5, 5, training_error=1.0)
    before, (value, step, training_error) = rule.state(), update
    with pytest.raises(error) as caught:
        rule.update(value, step, training_error=training_error)
    assert str(caught.value).startswith(message)
    assert rule.state() == before


def saved(rule):
    """Return the state of a rule after four evaluations, at the steps 5 to 8."""
    run(rule, [1.0, 0.5, 0.75, 1.0], [1.0] * 4, first=5)
    return rule.state()


@pytest.mark.parametrize(
    ("make", "change", "error", "message"),
    [
        (RULES[0], {"best": -1.0}, ValueError, "best = -1.0; expected an error >= 0 (1 - accuracy, for an accuracy)."),
        (
            RULES[0],
            {"evaluations": 10},
            ValueError,
            "evaluations = 10 with last_step = 8 and start_from = 0; expected at most one a step.",
        ),
        (
            RULES[0],
            {"memory": [1.0]},
            ValueError,
            "memory = [1.0] after 4 evaluations; expected 0 finite numbers for GeneralizationLoss(110.0, "
            "start_from=0).",
        ),
        (
            RULES[1],
            {"memory": []},
            ValueError,
            "memory = [] after 4 evaluations; expected 1 finite numbers for ProgressQuotient(0.2, strip=3, "
            "start_from=0).",
        ),
        (RULES[1], {"memory": 1.0}, TypeError, "memory = 1.0; expected a list of numbers."),
        (RULES[1], {"memory": ["1"]}, TypeError, "memory = '1'; expected a number."),
        (
            RULES[2],
            {"memory": [0.5, math.nan]},
            ValueError,
            "memory = [0.5, nan] after 4 evaluations; expected 2 finite numbers for SuccessiveRises(2, strip=2, "
            "start_from=0).",
        ),
        (RULES[2], {"best_step": 9}, ValueError, "best_step = 9 with last_step = 8; expected at most the last step."),
    ],
)
def test_an_impossible_state_is_refused_and_changes_nothing(make, change, error, message):
    state, rule = saved(make()), make()
    before = rule.state()
    with pytest.raises(error) as caught:
        rule.restore(state | change)
    assert str(caught.value) == message
    assert rule.state() == before
    rule.restore(state)
    assert rule.state() == state


def test_the_state_of_another_rule_is_refused():
    from bncourse.training import EarlyStopping

    with pytest.raises(ValueError, match=r"^state has the entries .* as GeneralizationLoss\.state\(\) gives"):
        GeneralizationLoss(1).restore(EarlyStopping().state())
