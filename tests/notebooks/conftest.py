"""A small, faultless chapter, and ways to spoil it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from bncourse.notebooks import files

Build = Callable[..., Path]


def markdown(source: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_markdown_cell(source)


def code(
    source: str, count: int, *, text: str | None = None, tags: tuple[str, ...] = (), **output: object
) -> nbformat.NotebookNode:
    outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)] if text is not None else []
    if output:
        outputs.append(nbformat.v4.new_output(**output))
    metadata = {"tags": list(tags)} if tags else {}
    return nbformat.v4.new_code_cell(source, execution_count=count, outputs=outputs, metadata=metadata)


@pytest.fixture
def chapter() -> nbformat.NotebookNode:
    """A chapter without a fault, as `bncourse notebooks execute` would store it."""
    notebook = nbformat.v4.new_notebook(metadata=files.METADATA)
    setup = nbformat.v4.new_code_cell(
        files.SETUP_SOURCE.strip(), execution_count=1, metadata={"tags": [files.SETUP_TAG]}
    )
    notebook.cells = [
        markdown("# Title\n\n## What you will learn\n\n## Before you start\n\n## Body"),
        setup,
        code("print(6 * 7)", 2, text="42\n"),
        code("import time\nseconds = time.time()\nprint(seconds)", 3, text="1.5\n", tags=(files.EXEMPT_TAG,)),
        code("assert seconds > 0", 4),
        markdown("## Exercises\n\n## Quiz\n\n## Take-away\n\n## Further reading"),
    ]
    return notebook


@pytest.fixture
def store(tmp_path: Path) -> Callable[[nbformat.NotebookNode], Path]:
    """Write a notebook as chapter.ipynb and return its path."""

    def write(notebook: nbformat.NotebookNode) -> Path:
        path = tmp_path / "chapter.ipynb"
        files.write(notebook, path)
        return path

    return write
