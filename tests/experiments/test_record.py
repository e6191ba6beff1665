"""Records of runs: the file's form, and what is refused."""

import json
import math

import pytest

from bncourse.experiments import fingerprint
from bncourse.experiments.record import FORMAT, RecordError, Run, installed, read, write

ENTRIES = (
    {"batch": 0, "validation_moving_accuracy": 0.1, "validation_moving_loss": 0.69},
    {"batch": 25, "validation_moving_accuracy": 0.5, "validation_moving_loss": math.nan},
)


def run(**changes):
    parts = {
        "experiment": "deep",
        "configuration": {"seed": 0, "momentum": 0.99, "cures": False},
        "data": {"name": "digits", "train": 3},
        "log": ENTRIES,
        "final": {"test_moving_accuracy": 0.9},
        "seconds": 1.5,
        "versions": {"numpy": "2"},
        "code": "0123456789abcdef",
    }
    return Run(**{**parts, **changes})


def test_what_is_written_is_read_again(tmp_path):
    path = tmp_path / "new" / "run.json"
    whole = run(log=ENTRIES[:1])
    write(path, whole)
    again = read(path)
    assert again == whole
    assert (again.seconds, again.versions, again.code) == (whole.seconds, whole.versions, whole.code)


def test_numbers_that_json_cannot_hold_come_back_as_nan(tmp_path):
    path = tmp_path / "run.json"
    write(path, run(final={"test_moving_loss": math.inf}))
    assert "NaN" not in path.read_text()
    again = read(path)
    assert math.isnan(again.log[1]["validation_moving_loss"])
    assert math.isnan(again.final["test_moving_loss"])


def test_an_accuracy_that_was_not_looked_at_is_stored(tmp_path):
    """A finished run with an audit at some of its looks was refused, and lost."""
    path = tmp_path / "run.json"
    write(path, run(log=[{"batch": 0, "test_moving_accuracy": math.nan}]))
    assert math.isnan(read(path).log[0]["test_moving_accuracy"])


def test_runs_are_compared_without_time_versions_and_code():
    assert run(log=()) == run(log=(), seconds=2.0, versions={}, code="f" * 16)
    assert run(log=()) != run(log=(), final={"test_moving_accuracy": 0.8})


def test_columns_and_entries():
    one = run()
    assert one.steps.tolist() == [0, 25]
    assert one.accuracies("validation_moving").tolist() == [0.1, 0.5]
    assert one.losses("validation_moving")[0] == 0.69
    assert one.at(25) is ENTRIES[1]


def test_a_column_or_an_entry_that_is_not_there():
    with pytest.raises(ValueError, match=r"the log of 'deep' has no column 'test'; it has: batch, validation_mov"):
        run().column("test")
    with pytest.raises(ValueError, match=r"the log has no entry for batch 50; it has 0, 25"):
        run().at(50)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"is no record of a run, or a damaged one"),
        ("{", r"is no record of a run, or a damaged one"),
        ("[1]", r"has the format None; this version of bncourse reads 'bncourse run 1'"),
        ('{"format": "bncourse run 0"}', r"has the format 'bncourse run 0'; this version .* Run the experiment anew"),
        (json.dumps({"format": FORMAT}), r"is no record of a run: at \$: 'experiment' is a required property"),
    ],
)
def test_files_that_are_no_records(tmp_path, text, message):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=message):
        read(path)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("final", {"test_accuracy": 1.5}, r"at \$.final.test_accuracy: 1.5 is greater than the maximum of 1"),
        ("log", [{"loss": 1.0}], r"at \$.log\[0\]: 'batch' is a required property"),
        ("configuration", {"momentum": 0.9}, r"'seed' is a required property"),
        ("code", "xyz", r"at \$.code"),
        ("pickle", "gASV", r"Additional properties are not allowed \('pickle' was unexpected\)"),
    ],
)
def test_records_that_do_not_fit_the_schema(tmp_path, place, value, message):
    path = tmp_path / "run.json"
    write(path, run())
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, place: value}))
    with pytest.raises(RecordError, match=message):
        read(path)


def test_a_run_that_does_not_fit_the_schema_is_not_written(tmp_path):
    path = tmp_path / "run.json"
    write(path, run(log=ENTRIES[:1]))
    with pytest.raises(RecordError, match=r"is greater than the maximum"):
        write(path, run(final={"test_accuracy": 2.0}))
    assert read(path) == run(log=ENTRIES[:1])


def test_the_versions_are_those_installed():
    import numpy as np

    assert installed()["numpy"] == np.__version__


def module(tmp_path, monkeypatch, text, name):
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return fingerprint.of([name])


def test_a_fingerprint_sees_what_is_computed_and_not_how_it_is_explained(tmp_path, monkeypatch):
    plain = "def f(x):\n    return x + 1\n"
    told = '"""A module."""\n\n# why\ndef f(x: float) -> float:\n    """Add one."""\n    return (x\n            + 1)\n'
    other = "def f(x):\n    return x + 2\n"
    texts = {"print_plain": plain, "print_told": told, "print_other": other}
    found = {}
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        found[name] = module(tmp_path / name, monkeypatch, text, "printed")
        monkeypatch.undo()
    assert found["print_plain"] == found["print_told"] != found["print_other"]


def test_a_fingerprint_does_not_see_the_words_of_errors_and_of_help(tmp_path, monkeypatch):
    text = "x: int = option({default}, {help!r})\ndef f():\n    raise {error}({words!r})\n"
    versions = {
        "first": {"default": 1, "help": "One.", "error": "ValueError", "words": "no"},
        "reworded": {"default": 1, "help": "Just one.", "error": "ValueError", "words": "not at all"},
        "other_default": {"default": 2, "help": "One.", "error": "ValueError", "words": "no"},
        "other_error": {"default": 1, "help": "One.", "error": "TypeError", "words": "no"},
    }
    found = {}
    for name, parts in versions.items():
        (tmp_path / name).mkdir()
        found[name] = module(tmp_path / name, monkeypatch, text.format(**parts), "worded")
        monkeypatch.undo()
    assert found["first"] == found["reworded"]
    assert len({found["first"], found["other_default"], found["other_error"]}) == 3


def test_a_fingerprint_depends_on_which_modules_and_not_on_their_order():
    names = ["bncourse.averages", "bncourse.intervals"]
    assert fingerprint.of(names) == fingerprint.of(names[::-1]) != fingerprint.of(names[:1])


def test_a_module_that_does_not_exist():
    with pytest.raises(ModuleNotFoundError, match=r"there is no module 'bncourse_nothing'"):
        fingerprint.of(["bncourse_nothing"])
