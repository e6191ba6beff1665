"""Killed with SIGKILL at any moment, a guarded run ends as if nothing had happened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

#: How often the run is killed at random moments. A nightly test may ask for many more.
KILLS = int(os.environ.get("BNCOURSE_KILLS", "25"))

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks and has SIGKILL")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What `killed.py` found; it checks the file itself, at every moment, and fails if it is not whole."""
    program = Path(__file__).with_name("killed.py")
    folder = tmp_path_factory.mktemp("killed")
    one_thread = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, str(program), str(folder), str(KILLS), "9"],
        capture_output=True,
        text=True,
        env=os.environ | one_thread,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_was_killed_all_along_the_run(found):
    assert found["evaluations"] > 50
    assert found["random"]["killed"] == KILLS
    assert found["random"]["steps"] > 8
    assert found["random"]["last"] > found["stopped"] / 2
    assert found["random"]["looks"] > 20


def test_killed_and_resumed_it_stops_at_the_same_step_with_the_same_best_weights_to_the_last_bit(found):
    assert found["random"]["same"]
    assert all(found["random"]["same"])


def test_killed_anywhere_in_a_save_the_file_is_the_old_one_or_the_new_one(found):
    assert found["lines"]["old"] > 40
    assert found["lines"]["new"] > 0
    assert found["lines"]["lines"] > 300


def test_what_a_killed_save_left_is_tidied_up(found):
    # `killed.py` itself makes sure that nothing is left in the end.
    assert found["lines"]["leftovers"] > 5
