"""The ``bncourse`` command: help, exit codes, messages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from typer.testing import CliRunner

from bncourse import __version__
from bncourse.cli import app

Store = Callable[[nbformat.NotebookNode], Path]
run = CliRunner().invoke


def test_version() -> None:
    assert run(app, ["--version"]).output.strip() == f"bncourse {__version__}"


@pytest.mark.parametrize("arguments", [[], ["notebooks"]])
def test_without_arguments_help_is_shown(arguments: list[str]) -> None:
    result = run(app, arguments)
    assert "Usage" in result.output
    assert "--help" in result.output


def test_check_fails_on_a_fault(chapter: nbformat.NotebookNode, store: Store) -> None:
    path = store(chapter)
    assert run(app, ["notebooks", "check", str(path)]).exit_code == 0
    chapter.cells[2].execution_count = 7
    result = run(app, ["notebooks", "check", str(store(chapter))])
    assert result.exit_code == 1
    assert "not executed in order" in result.output


def test_check_without_paths_reads_the_book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "_toc.yml").write_text("root: book/index\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    result = run(app, ["notebooks", "check"])
    assert result.exit_code == 1
    assert "book/index: no such page" in result.output


def test_execute_reports_each_notebook(chapter: nbformat.NotebookNode, store: Store) -> None:
    path = store(chapter)
    chapter.cells[2].source = "1 / 0"
    assert "unchanged" in run(app, ["notebooks", "execute", str(path)]).output
    result = run(app, ["notebooks", "execute", str(store(chapter))])
    assert result.exit_code == 1
    assert "failed" in result.output
    assert "ZeroDivisionError" in result.output


def test_site_fails_on_a_foreign_request(tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    page.write_text("<p>fine</p>", encoding="utf-8")
    assert "0 requests to other hosts" in run(app, ["notebooks", "site", str(tmp_path)]).output
    page.write_text('<script src="https://cdn.example.org/x.js"></script>', encoding="utf-8")
    result = run(app, ["notebooks", "site", str(tmp_path)])
    assert result.exit_code == 1
    assert "index.html loads https://cdn.example.org/x.js" in result.output


def test_a_missing_notebook_is_refused() -> None:
    assert run(app, ["notebooks", "execute", "gone.ipynb"]).exit_code == 2


def test_picture_copies_the_first_stored_picture(chapter: nbformat.NotebookNode, store: Store, tmp_path: Path) -> None:
    result = run(app, ["notebooks", "picture", str(store(chapter)), str(tmp_path / "x.png")])
    assert result.exit_code == 1
    assert result.output == "error: the notebook's outputs hold no picture: execute it first\n"
    chapter.cells[2].outputs = [nbformat.v4.new_output("display_data", data={"image/png": "aGVsbG8="})]
    run(app, ["notebooks", "picture", str(store(chapter)), str(tmp_path / "x.png")])
    assert (tmp_path / "x.png").read_bytes() == b"hello"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["execute", "broken.ipynb"], "not a notebook"),
        (["picture", "broken.ipynb", "x.png"], "not a notebook"),
        (["site", "nowhere"], "holds no built book"),
        (["check"], "no _toc.yml"),
    ],
)
def test_errors_of_the_user_are_one_line_without_a_traceback(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.ipynb").write_text("{", encoding="utf-8")
    result = run(app, ["notebooks", *arguments])
    assert result.exit_code == 1
    assert "error: " in result.output
    assert message in result.output
    assert isinstance(result.exception, SystemExit)
