"""The gate can fail: nbval rejects a chapter whose stored output is not what the code gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from bncourse.notebooks import files

CHAPTER = Path(__file__).parents[2] / "book" / "1-theory" / "what-bn-computes.ipynb"


def is_compared(cell: nbformat.NotebookNode) -> bool:
    printed = any(output.output_type == "stream" for output in cell.get("outputs", []))
    return printed and files.EXEMPT_TAG not in files.tags(cell)


def nbval(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env", str(path)]
    return subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False)


@pytest.fixture
def beginning(tmp_path: Path) -> tuple[nbformat.NotebookNode, Path]:
    """The theory chapter up to the first output that nbval compares."""
    notebook = files.read(CHAPTER)
    last = next(place for place, cell in enumerate(notebook.cells) if is_compared(cell))
    del notebook.cells[last + 1 :]
    return notebook, tmp_path / "beginning.ipynb"


def test_nbval_accepts_what_is_stored(beginning: tuple[nbformat.NotebookNode, Path]) -> None:
    notebook, path = beginning
    files.write(notebook, path)
    result = nbval(path)
    assert result.returncode == 0, result.stdout


def test_nbval_rejects_one_changed_output(beginning: tuple[nbformat.NotebookNode, Path]) -> None:
    notebook, path = beginning
    notebook.cells[-1].outputs[0].text += "one line more\n"
    files.write(notebook, path)
    result = nbval(path)
    assert result.returncode == 1, result.stdout
    assert "1 failed" in result.stdout
    assert "one line more" in result.stdout
