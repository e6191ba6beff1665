"""The catalogue as a whole: every switch changes something, no two change the same, and each finds its own name."""

from __future__ import annotations

import doctest
import subprocess
import sys

import pytest

import bncourse.exercises
from bncourse.exercises import (
    Mistake,
    catalogue,
    check_backward,
    check_convolution,
    check_convolution_backward,
    check_forward,
    check_inference,
    check_layer,
    check_moving_averages,
    planted,
)
from bncourse.exercises.mistakes import DIRECT, switches

CHECKS = {
    "forward": check_forward,
    "backward": check_backward,
    "convolution": check_convolution,
    "convolution_backward": check_convolution_backward,
    "inference": check_inference,
    "moving_averages": check_moving_averages,
    "layer": check_layer,
}
SWITCHES = [(check, switch) for check in CHECKS for switch in switches(check)]


@pytest.mark.parametrize(("check", "switch"), SWITCHES)
def test_each_switch_is_recognised_as_its_own_mistake_and_no_other(check, switch):
    assert CHECKS[check](planted(check, switch)).mistakes == (switch.partition(":")[0],)


@pytest.mark.parametrize("check", CHECKS)
def test_nothing_planted_passes(check):
    assert CHECKS[check](planted(check)).passed


@pytest.mark.parametrize("check", CHECKS)
def test_every_mistake_can_be_planted_or_is_looked_for_directly(check):
    codes = {mistake.code for mistake in catalogue(check)}
    assert codes - DIRECT == {switch.partition(":")[0] for switch in switches(check)}


@pytest.mark.parametrize("check", CHECKS)
def test_diagnoses_are_sentences_that_differ(check):
    mistakes = catalogue(check)
    assert all(isinstance(mistake, Mistake) for mistake in mistakes)
    assert len({mistake.code for mistake in mistakes}) == len({m.diagnosis for m in mistakes}) == len(mistakes)
    for mistake in mistakes:
        assert mistake.diagnosis[0].isupper() or mistake.diagnosis.startswith(("dx", "dgamma", "dbeta", "moving_mean"))
        assert mistake.diagnosis.endswith(".")
        assert mistake.hint[-1] in "?."


def test_a_catalogue_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"check = 'backwards'; expected one of forward, convolution"):
        catalogue("backwards")
    with pytest.raises(ValueError, match=r"check = 'backwards'; expected one of forward, convolution"):
        planted("backwards")


def test_a_mistake_that_cannot_be_planted_is_refused():
    with pytest.raises(ValueError, match=r"'momentum-inverted' cannot be planted for the check 'forward'"):
        planted("forward", "momentum-inverted")
    with pytest.raises(ValueError, match=r"'remembers' cannot be planted"):
        planted("forward", "remembers")


def test_the_example_of_the_package_is_true():
    assert doctest.testmod(bncourse.exercises).failed == 0
    assert doctest.testmod(bncourse.exercises).attempted == 4


def test_the_room_loads_nothing_heavy():
    heavy = "tensorflow", "keras", "tf_keras", "matplotlib", "scipy"
    program = f"import sys, bncourse.exercises; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
