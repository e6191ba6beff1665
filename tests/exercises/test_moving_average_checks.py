# ruff: noqa: ARG005 (an answer that forgets an argument does not use it)
"""The check of the moving averages; the mistakes are written out as a reader would write them."""

from __future__ import annotations

import numpy as np
import pytest

from bncourse import averages
from bncourse.exercises import catalogue, check_moving_averages
from bncourse.nn import update_moving


def move(old, new, m):
    return m * old + (1 - m) * new


def both(mean, variance):
    """A reader's update, given how to move each average; `a` is the old one."""
    return lambda mm, mv, x, m: (mean(mm, x, m), variance(mv, x, m))


def right_mean(a, x, m):
    return m * a + (1 - m) * x.mean(0)


def right_variance(a, x, m):
    return m * a + (1 - m) * x.var(0)


def about_moving_mean(mm, mv, x, m):
    mm = move(mm, x.mean(0), m)
    return mm, move(mv, ((x - mm) ** 2).mean(0), m)


def for_eight_rows(mm, mv, x, m):
    mean = x.sum(0) / 8
    return move(mm, mean, m), move(mv, ((x - mean) ** 2).sum(0) / 8, m)


def in_place(mm, mv, x, m):
    mm *= m
    mm += (1 - m) * x.mean(0)
    return mm, move(mv, x.var(0), m)


def remembering():
    own = []

    def answer(mm, mv, x, m):
        own.append(x.mean(0))
        return move(mm, np.mean([v for v in own if v.shape == mm.shape], axis=0) * len(own), m), right_variance(
            mv, x, m
        )

    return answer


def keeping_the_first_mean():
    kept = []

    def answer(mm, mv, x, m):
        kept.append(x.mean(0))
        return move(mm, kept[0], m), right_variance(mv, x, m)

    return answer


def with_averages_of_its_own():
    own = {}

    def answer(mm, mv, x, m):
        if "mean" not in own or own["mean"].shape != mm.shape:
            own.update(mean=mm, variance=mv)
        own.update(mean=move(own["mean"], x.mean(0), m), variance=move(own["variance"], x.var(0), m))
        return own["mean"], own["variance"]

    return answer


MOVING = [
    ("remembers", with_averages_of_its_own()),
    ("momentum-fixed", both(lambda a, x, m: move(a, x.mean(0), 0.9), lambda a, x, m: move(a, x.var(0), 0.9))),
    ("momentum-fixed", both(lambda a, x, m: move(a, x.mean(0), 0.99), lambda a, x, m: move(a, x.var(0), 0.99))),
    ("momentum-fixed", both(lambda a, x, m: move(a, x.mean(0), 0.1), lambda a, x, m: move(a, x.var(0), 0.1))),
    ("first-only", keeping_the_first_mean()),
    ("wrong-axis", both(lambda a, x, m: move(a, x.mean(1), m), lambda a, x, m: move(a, x.var(1), m))),
    ("all-axes", both(lambda a, x, m: move(a, x.mean(), m), lambda a, x, m: move(a, x.var(), m))),
    ("uncentred", both(right_mean, lambda a, x, m: move(a, (x**2).mean(0), m))),
    ("momentum-inverted", both(lambda a, x, m: move(a, x.mean(0), 1 - m), lambda a, x, m: move(a, x.var(0), 1 - m))),
    ("moving-sample", both(right_mean, lambda a, x, m: move(a, x.var(0, ddof=1), m))),
    ("start-ignored", both(lambda a, x, m: (1 - m) * x.mean(0), lambda a, x, m: (1 - m) * x.var(0))),
    ("batch-only-kept", lambda mm, mv, x, m: (x.mean(0), x.var(0))),
    ("old-not-shrunk", both(lambda a, x, m: a + (1 - m) * x.mean(0), lambda a, x, m: a + (1 - m) * x.var(0))),
    ("new-not-shrunk", both(lambda a, x, m: m * a + x.mean(0), lambda a, x, m: m * a + x.var(0))),
    ("std-averaged", both(right_mean, lambda a, x, m: move(a, x.std(0), m))),
    ("std-averaged", both(right_mean, lambda a, x, m: move(np.sqrt(a), x.std(0), m) ** 2)),
    ("about-moving-mean", about_moving_mean),
    ("only-mean", both(right_mean, lambda a, x, m: a)),
    ("only-variance", both(lambda a, x, m: a, right_variance)),
    ("never-moves", lambda mm, mv, x, m: (mm, mv)),
    ("pair-swapped", lambda mm, mv, x, m: (move(mv, x.var(0), m), move(mm, x.mean(0), m))),
    ("shape-fixed", for_eight_rows),
    ("mutates-input", in_place),
    ("remembers", remembering()),
]


@pytest.mark.parametrize(("code", "answer"), MOVING)
def test_each_known_mistake_is_named(code, answer):
    result = check_moving_averages(answer)
    assert not result.passed
    assert result.mistakes == (code,)


def test_every_mistake_of_the_catalogue_is_planted_here():
    assert {code for code, _ in MOVING} == {mistake.code for mistake in catalogue("moving_averages")}


def of_the_course(mm, mv, x, m):
    return update_moving(mm, x.mean(0), m), update_moving(mv, x.var(0), m)


def of_the_other_room(mm, mv, x, m):
    return averages.update(mm, x.mean(0), m), averages.update(mv, x.var(0), m)


def as_a_step(mm, mv, x, m):
    return [mm - (1 - m) * (mm - x.mean(0)), mv + (1 - m) * (np.square(x - x.mean(0)).mean(0) - mv)]


def in_float32(mm, mv, x, m):
    return tuple(np.float32(v) for v in of_the_course(mm, mv, x, m))


@pytest.mark.parametrize(
    "answer", [of_the_course, of_the_other_room, as_a_step, in_float32, both(right_mean, right_variance)]
)
def test_right_answers_pass(answer):
    assert repr(check_moving_averages(answer)) == "moving averages: passed."


def test_the_sample_variance_can_be_asked_for():
    sample = both(right_mean, lambda a, x, m: move(a, x.var(0, ddof=1), m))
    assert check_moving_averages(sample, variance="sample").passed
    result = check_moving_averages(of_the_course, variance="sample")
    assert result.mistakes == ("moving-population",)
    inverted = both(lambda a, x, m: move(a, x.mean(0), 1 - m), lambda a, x, m: move(a, x.var(0, ddof=1), 1 - m))
    assert check_moving_averages(inverted, variance="sample").mistakes == ("momentum-inverted",)


def test_each_average_is_diagnosed_by_itself():
    result = check_moving_averages(both(lambda a, x, m: move(a, x.mean(0), 1 - m), lambda a, x, m: a))
    assert set(result.mistakes) == {"momentum-inverted", "only-mean"}


def test_two_mistakes_in_one_average_are_both_named():
    result = check_moving_averages(both(right_mean, lambda a, x, m: move(a, x.var(0, ddof=1), 1 - m)))
    assert set(result.mistakes) == {"momentum-inverted", "moving-sample"}


def test_a_plain_sum_makes_two_mistakes_that_do_not_contradict_each_other():
    text = " ".join(repr(check_moving_averages(lambda mm, mv, x, m: (mm + x.mean(0), mv + x.var(0)))).split())
    assert "[old-not-shrunk] The old value is not multiplied by momentum." in text
    assert "[new-not-shrunk] The new value is not multiplied by 1 - momentum." in text


@pytest.mark.parametrize("form", [np.stack, iter])
def test_another_form_of_the_pair_is_told_how_to_return_it(form):
    result = check_moving_averages(lambda *a: form(of_the_course(*a)))
    assert result.symptoms == ("count",)
    kind = type(form((np.zeros(1), np.zeros(1)))).__name__
    words = f"returns one object of type {kind}; expected 2, as in: return moving_mean, moving_variance."
    assert words in " ".join(repr(result).split())


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("none", lambda mm, mv, x, m: None),
        ("count", lambda mm, mv, x, m: mm),
        ("factor", lambda mm, mv, x, m: tuple(2 * v for v in of_the_course(mm, mv, x, m))),
        ("exception", lambda mm, mv, x, m: 1 / 0),
    ],
)
def test_an_unknown_mistake_gets_a_symptom(kind, answer):
    result = check_moving_averages(answer)
    assert (result.passed, result.mistakes) == (False, ())
    assert result.symptoms[0] == kind


def test_a_wrong_word_or_no_function_is_refused():
    with pytest.raises(TypeError, match=r"answer = 1 cannot be called"):
        check_moving_averages(1)
    with pytest.raises(ValueError, match=r"variance = 'unbiased'; expected 'population' or 'sample'"):
        check_moving_averages(of_the_course, variance="unbiased")
