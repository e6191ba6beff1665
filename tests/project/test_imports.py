"""Rooms that need only NumPy load neither TensorFlow nor Matplotlib, so that tests and chapters start at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ["tensorflow", "keras", "tf_keras", "matplotlib"]


@pytest.mark.parametrize(
    "room",
    [
        "bncourse",
        "bncourse.averages",
        "bncourse.benchmark",
        "bncourse.claims",
        "bncourse.cli",
        "bncourse.conventions",
        "bncourse.data",
        "bncourse.exercises",
        "bncourse.experiments",
        "bncourse.experiments.plan",
        "bncourse.nn",
        "bncourse.repair",
        "bncourse.training",
    ],
)
def test_a_light_room_loads_nothing_heavy(room: str) -> None:
    program = f"import sys, {room}; print([name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
