"""The benchmark measures what it says; how fast anything is, is not tested."""

import time

import numpy as np
import pytest
from typer.testing import CliRunner

from bncourse import benchmark
from bncourse.benchmark import (
    CASES,
    CONTENDERS,
    STEPS,
    SUMS,
    Case,
    measure,
    peak_memory,
    read_record,
    steps,
    write_record,
)
from bncourse.cli import app

SMALL = Case((8, 4, 4, 3))


def sleeper(milliseconds):
    def passes(_case):
        return lambda: time.sleep(milliseconds / 1000), lambda: time.sleep(2 * milliseconds / 1000)

    return passes


def test_a_contender_three_times_slower_has_a_third_of_the_ratio():
    rows = measure([SMALL], rounds=3, contenders={"own": sleeper(2), "slow": sleeper(6), "absent": lambda _case: None})
    found = {(row.contender, row.passes): row for row in rows}
    assert set(found) == {("own", "forward"), ("own", "both"), ("slow", "forward"), ("slow", "both")}
    assert found["own", "forward"].ratio == 1.0
    assert found["slow", "forward"].ratio < 0.6
    assert found["slow", "both"].milliseconds >= 12
    assert all(row.low <= row.ratio <= row.high for row in rows)


@pytest.mark.parametrize("case", [SMALL, Case((8, 3, 4, 4), 1), Case((16, 5))], ids=lambda case: case.name)
def test_all_contenders_compute_the_same(case):
    x, _ = case.data()
    axes = tuple(axis for axis in range(x.ndim) if axis != case.axis % x.ndim)
    mean, variance = x.mean(axes, np.float64, keepdims=True), x.var(axes, np.float64, keepdims=True)
    expected = (x - mean) / np.sqrt(variance + 1e-3)
    seen = set()
    for name, make in CONTENDERS.items():
        passes = make(case)
        if passes is None or name == "copy":
            continue
        forward, both = passes
        y = np.asarray(forward())
        if name == "PyTorch":
            y = np.moveaxis(y, 1, case.axis)
        np.testing.assert_allclose(y.reshape(x.shape), expected, atol=1e-4, err_msg=name)
        both()
        seen.add(name)
    assert {"bncourse", "bncourse, plain", "Keras 3, compiled"} <= seen
    assert ("TensorFlow, fused" in seen) == (case.layout == "last")


def test_the_layer_needs_at_most_two_and_a_half_times_the_input_in_memory():
    for case in (Case((64, 28, 28, 32)), Case((64, 32, 28, 28), 1)):
        peaks = peak_memory(case)
        assert 1.0 <= peaks["forward"] <= 2.5
        assert 1.0 <= peaks["both"] <= 2.5
        assert peak_memory(case, fast=False)["forward"] > peaks["forward"]


def test_the_cases_reach_from_a_dense_layer_to_large_images_in_both_layouts():
    names = {case.name for case in CASES}
    assert {"64×100, channels last", "64×28×28×32, channels last", "64×64×56×56, channels first"} <= names
    assert len(names) == len(CASES)


@pytest.mark.parametrize("channels", [3, 32])
def test_every_step_computes_the_same(channels):
    x = np.random.default_rng(0).normal(size=(16, 16, 16, channels)).astype(np.float32)
    expected = (x - x.mean((0, 1, 2), np.float64)) / np.sqrt(x.var((0, 1, 2), np.float64) + 1e-3)
    for name, step in STEPS.items():
        np.testing.assert_allclose(step(x), expected, atol=1e-4, err_msg=name)
    for name, way in SUMS.items():
        np.testing.assert_allclose(way(x), x.sum((0, 1, 2), np.float64), rtol=1e-4, atol=1e-2, err_msg=name)


def test_no_rounds_are_refused():
    with pytest.raises(ValueError, match="rounds = 0; expected an integer >= 1"):
        measure([SMALL], rounds=0)


def test_a_record_comes_back_as_it_was(tmp_path):
    rows = measure([SMALL], rounds=1, contenders={"own": sleeper(1)})
    write_record(tmp_path / "new" / "speed.json", rows, rows, {SMALL.name: {"forward": 1.5}})
    record = read_record(tmp_path / "new" / "speed.json")
    assert record["rows"] == record["steps"] == rows
    assert record["memory"] == {SMALL.name: {"forward": 1.5}}
    assert record["versions"]["numpy"] == np.__version__
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["speed.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no benchmark of bncourse"),
        ('{"form": 1}', "is no benchmark of bncourse: KeyError"),
        ('{"form": 99, "rows": []}', "has form 99; expected 1. Make it again"),
        ('{"form": 1, "rows": [{"case": 1}]}', "is no benchmark of bncourse: TypeError"),
    ],
)
def test_a_file_that_is_no_record_is_refused(tmp_path, text, message):
    path = tmp_path / "speed.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_record(path)


@pytest.fixture
def command(monkeypatch):
    monkeypatch.setattr(benchmark, "CASES", (SMALL,))
    monkeypatch.setattr(steps, "EXAMPLE", Case((8, 16, 16, 4)))
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, ["bench", *arguments])


def test_the_command_prints_ratios_and_stores_them(command, tmp_path):
    result = command("--rounds", "1", "--only", "8x4", "--record", str(tmp_path / "speed.json"))
    assert result.exit_code == 0, result.output
    for word in ("8×4×4×3, channels last", "TensorFlow, fused", "copy", "Peak extra memory", "Stored in"):
        assert word in result.output
    record = read_record(tmp_path / "speed.json")
    assert len(record["rows"]) >= 10
    assert {row.passes for row in record["steps"]} == {"forward", "sums", "sums, busy"}


def test_the_command_names_the_cases_when_none_fits(command):
    result = command("--only", "7x7")
    assert result.exit_code == 1
    assert "no case contains '7x7'; there are: 8×4×4×3, channels last" in result.output
