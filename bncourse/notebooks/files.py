"""Notebook files: which there are, and the one form in which all of them are stored."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import nbformat
import yaml

from bncourse.atomic import replacing

EXEMPT_TAG = "nbval-ignore-output"
SETUP_TAG = "remove-cell"
REPOSITORY = "https://github.com/bncourse/batch-normalization-course"

#: The same for every chapter, so that a notebook opened alone (on Colab, say) finds the course's package.
SETUP_SOURCE = f"""\
# Where the course is not installed (on Colab, say), fetch it first.
import importlib.util

if importlib.util.find_spec("bncourse") is None:
    %pip install --quiet "bncourse @ git+{REPOSITORY}"
"""

METADATA: dict[str, Any] = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def find_root(start: Path) -> Path:
    """Return the nearest folder at or above `start` that holds the book's ``_toc.yml``.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / "_toc.yml").is_file():
            return folder
    raise FileNotFoundError(f"no _toc.yml in {start} or above it: run this inside a copy of the course")


def toc_entries(root: Path) -> list[str]:
    """Return the documents of ``_toc.yml`` in reading order, as paths below `root` without their endings."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))

    def walk(node: Any) -> list[str]:
        if isinstance(node, list):
            return [entry for item in node for entry in walk(item)]
        if not isinstance(node, dict):
            return []
        own = [str(node[key]) for key in ("root", "file") if key in node]
        return own + [entry for value in node.values() for entry in walk(value)]

    return walk(toc)


def notebooks_of(root: Path) -> list[Path]:
    """Return the book's notebooks in reading order; any that ``_toc.yml`` does not name come last."""
    listed = [root / f"{entry}.ipynb" for entry in toc_entries(root)]
    listed = [path for path in listed if path.is_file()]
    found = {path for path in (root / "book").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts}
    return listed + sorted(found - set(listed))


def read(path: Path) -> nbformat.NotebookNode:
    """Read a notebook in the current format.

    Raises
    ------
    ValueError
        If the file is no notebook.
    """
    try:
        return nbformat.read(path, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a notebook that nbformat can read: {error}") from error


def tags(cell: nbformat.NotebookNode) -> list[str]:
    """Return the cell's tags."""
    return list(cell.metadata.get("tags", []))


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Return the code cells in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def normalise(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Bring a notebook into the book's form: one kernel, no run times, the set-up cell second.

    Works on `notebook` itself and returns it.
    """
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        for key in ("execution", "ExecuteTime", "collapsed", "scrolled"):
            cell.metadata.pop(key, None)
    if not any(is_setup(cell) for cell in notebook.cells):
        setup = nbformat.v4.new_code_cell(SETUP_SOURCE.strip(), metadata={"tags": [SETUP_TAG]})
        setup["id"] = "setup"
        notebook.cells.insert(1, setup)
    return notebook


def is_setup(cell: nbformat.NotebookNode) -> bool:
    """Tell whether this is the standard set-up cell."""
    return bool(cell.cell_type == "code" and cell.source.strip() == SETUP_SOURCE.strip())


def first_picture(notebook: nbformat.NotebookNode) -> bytes:
    """Return the first picture that a notebook's outputs hold, as the bytes of a PNG file.

    Raises
    ------
    ValueError
        If there is none.
    """
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                return base64.b64decode(output.data["image/png"])
    raise ValueError("the notebook's outputs hold no picture: execute it first")


def glued(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """Return the figures for the prose that a notebook's outputs hold (see `bncourse.notebooks.glue`)."""
    records = [
        output for cell in code_cells(notebook) for output in cell.outputs if "scrapbook" in output.get("metadata", {})
    ]
    return {record.metadata.scrapbook.name: next(iter(record.data.values())) for record in records}


def write(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write a notebook whole or not at all."""
    text = nbformat.writes(notebook).rstrip("\n") + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
