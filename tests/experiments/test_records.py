"""The recorded results: complete, readable, and what the code of today gives."""

import os

import numpy as np
import pytest

from bncourse.experiments import plan, run
from bncourse.results import RUNS

#: The sweeps on MNIST: all but article B's single step, in which nothing is random, and the photographs.
TRAINED = [name for name, sweep in plan.SWEEPS.items() if "mnist" in sweep.choices.get("data", ())]


@pytest.mark.parametrize("name", TRAINED)
def test_a_sweep_is_complete_and_finite(name):
    runs = plan.recorded(name)
    assert len(runs) == len(plan.SWEEPS[name].tasks())
    for found in runs:
        assert np.isfinite(list(found.final.values())).all()
        assert [entry["batch"] for entry in found.log] == looks_of(found)


def looks_of(found):
    """Return the steps at which a run must have looked; article E's look at the last step, too."""
    every, batches = found.configuration["every"], found.configuration["batches"]
    if "best_batch" not in found.final:
        return list(range(0, batches, every))
    last = batches - 1 if found.configuration["audit"] else int(found.final["stopped_batch"])
    return sorted({*range(0, last + 1, every), last})


@pytest.mark.parametrize("name", TRAINED)
def test_a_sweep_has_five_random_starts_of_each_configuration_on_mnist(name):
    """Two where one run takes more than a quarter of an hour."""
    starts = [0, 1] if name == "improved" else [0, 1, 2, 3, 4]
    seeds = {}
    for found in plan.recorded(name):
        assert found.data["name"] == "mnist"
        key = str({**found.configuration, "seed": None})
        seeds.setdefault(key, []).append(found.configuration["seed"])
    assert all(sorted(values) == starts for values in seeds.values())


def test_the_one_step_comes_out_as_recorded():
    (recorded,) = plan.recorded("one-step")
    assert run("one-step").final == pytest.approx(recorded.final, rel=1e-6)


def test_there_are_no_other_records():
    planned = {task.path for sweep in plan.SWEEPS.values() for task in sweep.tasks()}
    assert set(RUNS.rglob("*.json")) == planned


@pytest.mark.mnist
@pytest.mark.skipif("BNCOURSE_DATA" not in os.environ, reason="needs the real MNIST: set BNCOURSE_DATA to its folder")
def test_the_first_steps_come_out_as_recorded():
    """On the processor that recorded them, to the last bit; another one rounds otherwise."""
    (recorded, *_) = plan.recorded("by-hand")
    options = {name: value for name, value in recorded.configuration.items() if name not in ("batches", "every")}
    again = run("by-hand", **options, batches=1, every=1)
    assert again.data == recorded.data
    for column, value in again.at(0).items():
        assert value == pytest.approx(recorded.at(0)[column], abs=2e-3), column
