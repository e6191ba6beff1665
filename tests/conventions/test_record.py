"""The table as a file and as Markdown, and the command that shows, checks and makes it."""

import json
import runpy
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from bncourse.conventions import (
    QUESTIONS,
    SUBJECTS,
    commands,
    differences,
    markdown,
    probe_installed,
    read_record,
    write_record,
)
from bncourse.conventions.subjects import Course
from bncourse.results import path

RECORD = read_record(path("conventions"))


@pytest.fixture
def run(monkeypatch):
    """Call the command; only the course's own layer is asked, which is quick."""
    monkeypatch.setattr(commands, "SUBJECTS", (Course(),))
    return lambda *arguments: CliRunner().invoke(commands.app, list(map(str, arguments)))


def test_the_record_knows_every_layer_and_its_versions():
    assert list(RECORD) == [subject.name for subject in SUBJECTS]
    for subject in SUBJECTS:
        assert tuple(RECORD[subject.name]["versions"]) == subject.packages


def test_what_is_written_is_read(tmp_path):
    write_record(tmp_path / "r.json", RECORD)
    assert read_record(tmp_path / "r.json") == RECORD
    assert [file.name for file in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize("text", ["{", "[]", '{"form": 1}', '{"form": 1, "rows": {"a": {}}}', '{"form": 1, "rows": 3}'])
def test_what_is_no_table_is_refused(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ValueError, match=r"r\.json is no table of conventions: "):
        read_record(tmp_path / "r.json")


def test_another_form_or_other_questions_are_refused(tmp_path):
    file = tmp_path / "r.json"
    file.write_text(json.dumps({"form": 0, "rows": {}}))
    with pytest.raises(ValueError, match=r"has form 0; expected 1\. Make it again with: python -m bncourse"):
        read_record(file)
    file.write_text(json.dumps({"form": 1, "rows": {"a": {"versions": {"x": "1"}, "answers": {}}}}))
    with pytest.raises(ValueError, match=r"has other questions for 'a'\. Make it again"):
        read_record(file)


def test_another_answer_is_told_with_both_versions():
    found = {"PyTorch": {"versions": {"torch": "9.9"}, "answers": {**RECORD["PyTorch"]["answers"], "momentum": "0.5"}}}
    (line,) = differences(RECORD, found)
    assert line == f"PyTorch, momentum: '0.5' with torch 9.9; recorded '0.1' with torch {_version('PyTorch')}."


def _version(name):
    return next(iter(RECORD[name]["versions"].values()))


def test_an_unknown_layer_is_told():
    (line,) = differences({}, {"PyTorch": RECORD["PyTorch"]})
    assert line.startswith("PyTorch is not in the record. Add it with: ")


def test_the_table_in_markdown():
    lines = markdown({"PyTorch": RECORD["PyTorch"]}, ["momentum", "axis"], versions=True).splitlines()
    assert lines == [
        "| layer | default momentum | channels by default | recorded with |",
        "| --- | --- | --- | --- |",
        f"| PyTorch | 0.1 | first after the batch | torch {_version('PyTorch')} |",
    ]


def test_an_unknown_question_is_refused():
    with pytest.raises(ValueError, match="there is no question 'colour'; there are: sense, momentum, "):
        markdown(RECORD, ["colour"])


def test_libraries_that_are_missing_are_left_out():
    class Missing(Course):
        name = "missing"
        packages = ("there-is-no-such-package",)

    assert list(probe_installed([Missing(), Course()])) == ["bncourse.nn"]


def test_the_command_shows_every_question_with_its_answers(run):
    result = run()
    assert result.exit_code == 0
    assert all(f"\n{question.title}\n" in f"\n{result.output}" for question in QUESTIONS)
    assert "  share of the new value: PyTorch\n" in result.output


def test_the_command_checks(run, tmp_path):
    result = run("--check")
    assert (result.exit_code, result.output) == (0, "Asked: bncourse.nn. Other answers than recorded: 0.\n")
    wrong = {"bncourse.nn": {**RECORD["bncourse.nn"], "answers": {**RECORD["bncourse.nn"]["answers"], "axis": "x"}}}
    write_record(tmp_path / "r.json", wrong)
    result = run("--check", "--file", tmp_path / "r.json")
    assert result.exit_code == 1
    assert result.output.startswith("bncourse.nn, axis: 'last' with bncourse ")


def test_the_command_records_and_keeps_what_it_cannot_ask(run, tmp_path, monkeypatch):
    file = tmp_path / "r.json"
    result = run("--record", "--file", file)
    assert result.exit_code == 0
    assert list(read_record(file)) == ["bncourse.nn"]
    monkeypatch.setattr(commands, "SUBJECTS", SUBJECTS)
    monkeypatch.setattr(commands, "probe_installed", lambda _: {"bncourse.nn": RECORD["bncourse.nn"]})
    write_record(file, RECORD)
    assert run("--record", "--file", file).output == "Asked and stored: bncourse.nn.\n"
    assert read_record(file) == RECORD


def test_a_file_that_is_no_table_is_named(run, tmp_path):
    (tmp_path / "r.json").write_text("{")
    result = run("--file", tmp_path / "r.json")
    assert result.exit_code == 1
    assert "is no table of conventions" in result.output


def test_importing_the_room_loads_no_library():
    heavy = ["tensorflow", "keras", "torch", "onnx", "jax"]
    program = f"import sys, bncourse.conventions; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_room_is_a_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["conventions"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module("bncourse.conventions", run_name="__main__")
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("momentum means\n")
