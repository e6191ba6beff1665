"""Memory is measured, not guessed: against arrays of known size, and against the least that arithmetic allows."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from bncourse.experiments import memory, memory_commands
from bncourse.experiments.memory import (
    SETUPS,
    WARM_UP,
    Measurement,
    Setup,
    measure,
    peak_of,
    read_record,
    score_here,
    write_record,
)
from bncourse.nn import Conv2D, Dense, Flatten, MaxPool, ReLU, Sequential
from bncourse.nn.sizes import layer_sizes, least_memory
from bncourse.results import path as recorded_path

linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")

MB = 1_000_000
ROW = Measurement("base", "all at once", 10_000, 10_000, 55_338, 900 * MB, 0.5)


def ones(megabytes):
    return np.ones(megabytes * MB, np.uint8)


def least(setup, images):
    """Return the least memory of a setup of the base network in float32."""
    maps, strides = setup.options.get("maps", (16, 32)), setup.options.get("strides", (1, 2))
    layers = []
    for number, stride in zip(maps, strides, strict=True):
        layers += [Conv2D(number, 3, stride, "same"), ReLU()]
    network = Sequential([*layers, MaxPool(2), Flatten(), Dense(32), ReLU(), Dense(10)])
    return least_memory(layer_sizes(network, (28, 28, 1)), min(setup.chunk or images, images))


# The peak


@linux
@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: None, 0),
        (lambda: ones(60), 60),
        (lambda: ones(60).sum(), 60),
        (lambda: [ones(60).sum() for _ in range(3)], 60),
        (lambda: [ones(20) for _ in range(3)], 60),
        (lambda: (ones(60), ones(30))[1], 90),
    ],
    ids=["nothing", "kept", "given back", "one after the other", "kept together", "one of two kept"],
)
def test_the_peak_is_that_of_arrays_of_known_size(call, expected):
    assert expected * MB - 2 * MB < peak_of(call) < expected * MB + 4 * MB


@linux
def test_memory_that_the_allocator_kept_is_counted_again():
    """Free memory that the process had not given back was reused unseen: 60 MB less, in a worker that had run long."""
    for _ in range(2):  # the first round makes the allocator keep blocks of this size on its heap
        kept = [np.ones(MB, np.uint8) for _ in range(100)]
        last = np.ones(MB, np.uint8)  # above them, so that the heap cannot simply shrink
        del kept
    assert peak_of(lambda: [np.ones(MB, np.uint8) for _ in range(60)]) > 55 * MB
    del last


@linux
def test_an_earlier_peak_is_forgotten():
    ones(200).sum()
    assert 18 * MB < peak_of(lambda: ones(20).sum()) < 30 * MB


# One measurement


@linux
def test_chunks_in_processes_of_their_own_take_less_and_nothing_takes_less_than_the_least():
    images = 2_000
    whole, chunks = Setup("base", "whole"), Setup("base", "chunks", 100)
    rows = [measure(setup, images=images) for setup in (whole, chunks)]
    assert [(row.way, row.images, row.chunk, row.parameters) for row in rows] == [
        ("whole", images, images, 55_338),
        ("chunks", images, 100, 55_338),
    ]
    assert least(whole, images) < rows[0].peak_bytes < 2 * least(whole, images)
    assert rows[1].peak_bytes < rows[0].peak_bytes / 5
    assert all(row.processor_seconds > 0 for row in rows)


@linux
@pytest.mark.parametrize(
    ("network", "options", "parameters"),
    [
        ("base", {"maps": (2, 3), "strides": (1, 2), "units": 5}, 20 + 57 + 7 * 7 * 3 * 5 + 5 + 60),
        ("improved", {}, 160 + 4640 + 14 * 14 * 32 * 32 + 32 + 330 + 2 * (16 + 32 + 32 + 10)),
    ],
)
def test_the_options_reach_the_network(network, options, parameters):
    task = {"network": network, "way": "w", "chunk": None, "options": options, "images": 30, "data": "digits"}
    row = score_here(task)
    assert (row.network, row.way, row.images, row.chunk, row.parameters) == (network, "w", 30, 30, parameters)


@linux
def test_all_images_are_scored_in_the_chunks_asked_for(monkeypatch):
    from bncourse.data import load_digits

    seen = []

    def watched(model, *, session):
        return lambda images: seen.append(images)

    monkeypatch.setattr("bncourse.training.evaluation.predictor", watched)
    task = {"network": "base", "way": "", "chunk": 1_000, "options": {}, "images": 2_500, "data": "digits"}
    score_here(task)
    assert [len(images) for images in seen] == [WARM_UP] + 4 * [1_000, 1_000, 500]
    digits = load_digits().train.images
    expected = np.concatenate([digits, digits, digits])[:2_500]
    assert np.array_equal(np.concatenate(seen[1:4]), expected)


@linux
def test_the_environment_reaches_the_process_and_its_failure_is_told():
    broken = Setup("base", "broken", environment={"PYTHONHASHSEED": "no number"})
    with pytest.raises(RuntimeError, match=r"^base, broken: the process ended with 1; [^$]*PYTHONHASHSEED"):
        measure(broken)


def test_a_process_that_dies_in_silence_is_told(monkeypatch):
    killed = subprocess.CompletedProcess([], -9, stdout="", stderr="")
    monkeypatch.setattr(memory.subprocess, "run", lambda *_args, **_options: killed)
    with pytest.raises(RuntimeError, match=r"the process ended with -9; nothing on standard error$"):
        measure(SETUPS[0])


@pytest.mark.parametrize(
    ("setup", "options", "error", "message"),
    [
        (SETUPS[0], {"images": 0}, ValueError, "images = 0; expected an integer >= 1."),
        (SETUPS[0], {"images": 1.5}, TypeError, "images = 1.5; expected an integer."),
        (SETUPS[0], {"data": "cifar"}, ValueError, "data = 'cifar'; expected one of 'digits', 'mnist'."),
        (Setup("deep", ""), {}, ValueError, "network = 'deep'; expected one of 'base', 'improved'."),
    ],
)
def test_impossible_arguments_are_refused(setup, options, error, message):
    with pytest.raises(error) as caught:
        measure(setup, **options)
    assert str(caught.value) == message


# The record


def test_a_record_comes_back_as_it_was(tmp_path):
    file = tmp_path / "new" / "memory.json"
    write_record(file, [ROW], "mnist")
    record = read_record(file)
    assert record["rows"] == [ROW]
    assert record["data"] == "mnist"
    assert record["versions"]["numpy"] == np.__version__
    assert record["machine"]["python"] == sys.version.split()[0]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["memory.json"]


def without(name, **changes):
    record = {"form": 1, "machine": {}, "versions": {}, "half_precision": [], "data": "digits", "rows": [asdict(ROW)]}
    record |= changes
    record.pop(name, None)
    return json.dumps(record)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no record of memory: JSONDecodeError"),
        (without("form"), r"is no record of memory: KeyError\('form'\)"),
        (without("", form=99), "has form 99; expected 1. Make it again with: bncourse memory --record FILE"),
        (without("rows"), r"KeyError\('rows'\)"),
        (without("machine"), r"KeyError\('machine'\)"),
        (without("", rows=[]), r"KeyError\('rows'\)"),
        (without("", rows=[{"way": "x"}]), "TypeError"),
        (without("", rows=[{**asdict(ROW), "peak_bytes": "many"}]), "TypeError.*peak_bytes = 'many'"),
        (without("", rows=[{**asdict(ROW), "peak_bytes": -1}]), "TypeError.*peak_bytes = -1"),
        (without("", rows=[{**asdict(ROW), "way": 3}]), "TypeError.*way = 3"),
    ],
)
def test_a_file_that_is_no_record_is_refused(tmp_path, text, message):
    path = tmp_path / "memory.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_record(path)


def test_the_recorded_rows_are_those_of_the_setups_and_none_takes_less_than_the_least():
    record = read_record(recorded_path("memory"))
    assert [(row.network, row.way) for row in record["rows"]] == [(setup.network, setup.way) for setup in SETUPS]
    for row, setup in zip(record["rows"], SETUPS, strict=True):
        assert row.images == 10_000
        assert row.chunk == (setup.chunk or 10_000)
        if setup.network == "base" and "precision" not in setup.options:
            assert row.peak_bytes > least(setup, row.images)


# The command


@pytest.fixture
def command(monkeypatch):
    def fake(setup, *, images, data):
        if images == 13:
            raise RuntimeError("no memory left")
        return Measurement(setup.network, setup.way, images, images, 7, images * MB, 0.25)

    monkeypatch.setattr(memory_commands, "measure", fake)
    monkeypatch.setenv("COLUMNS", "200")
    app = typer.Typer()
    app.command()(memory_commands.memory)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_the_command_prints_and_stores(command, tmp_path):
    result = command("--only", "float16", "--images", "1500", "--mnist", "--record", str(tmp_path / "memory.json"))
    assert result.exit_code == 0, result.output
    for word in ("1,500 images of mnist", "float16, added up in float16", "1,500", "0.25", "Stored in"):
        assert word in result.output
    record = read_record(tmp_path / "memory.json")
    assert record["data"] == "mnist"
    assert [row.way for row in record["rows"]] == [setup.way for setup in SETUPS if "float16" in setup.way]


def test_the_command_measures_all_ways_unless_told_otherwise(command):
    result = command()
    assert result.exit_code == 0, result.output
    assert all(setup.way in result.output for setup in SETUPS)
    assert "10,000 images of digits" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "float8"), "error: no way contains 'float8'; there are: all at once; "),
        (("--images", "13"), "error: no memory left"),
    ],
)
def test_the_command_tells_what_is_wrong(command, arguments, message):
    result = command(*arguments)
    assert result.exit_code == 1
    assert message in result.output
