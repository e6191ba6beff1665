"""The paper's race: the same start with BN and without, two clocks, and a record that the code still reproduces."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from bncourse.data import load_digits, load_mnist
from bncourse.experiments import sigmoid_race
from bncourse.experiments.sigmoid_race import Race, binary, network, read, run, with_population_statistics, write
from bncourse.nn import BatchNorm
from bncourse.results import path

RECORD = path("sigmoid-race")


def test_the_network_with_bn_starts_from_the_same_weights() -> None:
    images = binary(load_digits().train)[:60]
    plain, normed = (network(images, norm=norm, std=0.1, seed=3) for norm in (False, True))
    kernels = [[layer.kernel for layer in net.layers if hasattr(layer, "kernel")] for net in (plain, normed)]
    for one, other in zip(*kernels, strict=True):
        np.testing.assert_array_equal(one, other)
    assert sum(isinstance(layer, BatchNorm) for layer in normed.layers) == 3


def test_population_statistics_are_those_of_step_four_of_algorithm_2() -> None:
    images = binary(load_digits().train)[:600]
    net = network(images[:2], norm=True, std=0.5, seed=0)
    exact = with_population_statistics(net, images)
    first, norm = exact.layers[0], exact.layers[1]
    parts = first(images, training=False).reshape(10, 60, 100)
    np.testing.assert_allclose(norm.moving_mean, parts.mean((0, 1)), atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, parts.var(axis=1, ddof=1).mean(0), rtol=1e-4)
    np.testing.assert_array_equal(net.layers[1].moving_mean, np.zeros(100))


@pytest.mark.parametrize("norm", [False, True])
def test_both_clocks_stop_on_the_digits(norm: bool) -> None:
    race = run(load_digits(), rate=2.0, std=0.3, norm=norm, seed=0, most=2000)
    assert race.steps is not None
    assert race.steps_population is not None
    assert 0 < race.steps_population <= race.steps <= 2000
    assert norm or race.steps == race.steps_population


def test_a_run_that_does_not_arrive_says_so() -> None:
    race = run(load_digits(), rate=0.1, std=0.1, norm=False, seed=0, most=20)
    assert race == Race(0.1, 0.1, False, 0, None, None)


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    races = [Race(0.1, 0.3, True, 4, 120, 100), Race(0.1, 0.3, False, 4, None, None)]
    write(tmp_path / "new" / "race.json", races)
    assert read(tmp_path / "new" / "race.json") == races
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["race.json"]


@pytest.mark.parametrize("text", ["{", "{}", '{"races": [{"rate": 1}]}'])
def test_a_file_that_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "race.json").write_text(text)
    with pytest.raises(ValueError, match="is no record of sigmoid races"):
        read(tmp_path / "race.json")


def test_the_command_writes_every_race(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sigmoid_race, "load_mnist", load_digits)
    app = Typer()
    app.command()(sigmoid_race.main)
    record = tmp_path / "race.json"
    result = CliRunner().invoke(app, [str(record), "--starts", "1", "--rates", "4", "--stds", "0.3"])
    assert result.exit_code == 0, result.output
    assert [race.norm for race in read(record)] == [False, True]


def test_the_stored_record_is_complete() -> None:
    races = read(RECORD)
    assert {race.seed for race in races} == set(range(5))
    assert len({(race.rate, race.std, race.norm, race.seed) for race in races}) == len(races) == 80
    assert json.loads(RECORD.read_text())["goal"] == sigmoid_race.GOAL


@pytest.mark.mnist
@pytest.mark.skipif("BNCOURSE_DATA" not in os.environ, reason="needs the real MNIST: set BNCOURSE_DATA to its folder")
def test_the_code_still_gives_what_was_recorded() -> None:
    """Another processor rounds otherwise, so the clocks may differ by a few looks."""
    stored = next(r for r in read(RECORD) if (r.rate, r.std, r.norm, r.seed) == (2.0, 0.3, True, 0))
    again = run(load_mnist(download=False), rate=2.0, std=0.3, norm=True, seed=0)
    assert again.steps == pytest.approx(stored.steps, abs=30)
    assert again.steps_population == pytest.approx(stored.steps_population, abs=30)
