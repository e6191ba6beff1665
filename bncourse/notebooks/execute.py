"""Execute chapters and store their outputs."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nbformat
import numpy as np
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from bncourse.notebooks import files


@dataclass(frozen=True)
class Outcome:
    """What became of one notebook.

    Attributes
    ----------
    path : Path
        The notebook.
    state : {"changed", "unchanged", "failed"}
        ``failed`` leaves the file as it was.
    seconds : float
        Wall-clock time of the execution.
    message : str
        The error, if it failed.
    """

    path: Path
    state: Literal["changed", "unchanged", "failed"]
    seconds: float
    message: str = ""


def execute(path: Path, *, on_cell: Callable[[int, int], None] | None = None) -> Outcome:
    """Execute one notebook from its first cell to its last and store the outputs.

    The file is written only if something that matters came out differently: a cell's source, a compared output, a
    picture. Other digits in a cell that nbval does not compare are no such thing, so a second run changes nothing.

    Parameters
    ----------
    path : Path
        The notebook; it runs in its own folder, as in Jupyter.
    on_cell : callable, optional
        Called with (cells done, cells in all) after every code cell.

    Returns
    -------
    Outcome
    """
    stored = files.read(path)
    fresh = files.normalise(deepcopy(stored))
    for cell in files.code_cells(fresh):
        cell.outputs, cell.execution_count = [], None
    done, total = 0, len(files.code_cells(fresh))

    def count(cell: nbformat.NotebookNode, **_: Any) -> None:
        nonlocal done
        done += cell.cell_type == "code"
        if on_cell is not None:
            on_cell(done, total)

    start = time.perf_counter()
    client = NotebookClient(
        fresh,
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_executed=count,
        extra_arguments=["--IPKernelApp.log_level=40"],  # the kernel's greeting is not the reader's business
    )
    try:
        client.execute()
    except CellExecutionError as error:
        return Outcome(path, "failed", time.perf_counter() - start, str(error))
    seconds = time.perf_counter() - start
    files.normalise(fresh)
    if same(stored, fresh):
        return Outcome(path, "unchanged", seconds)
    files.write(fresh, path)
    return Outcome(path, "changed", seconds)


def same(old: nbformat.NotebookNode, new: nbformat.NotebookNode) -> bool:
    """Tell whether two executed notebooks agree in all that matters (see `execute`)."""
    return _frame(old) == _frame(new) and all(
        files.EXEMPT_TAG in files.tags(a) or _same_outputs(a.outputs, b.outputs)
        for a, b in zip(files.code_cells(old), files.code_cells(new), strict=True)
    )


def _frame(notebook: nbformat.NotebookNode) -> tuple[Any, ...]:
    """Return everything but the outputs."""
    cells = [
        (cell.get("id"), cell.cell_type, cell.source, cell.metadata, cell.get("execution_count"))
        for cell in notebook.cells
    ]
    return notebook.metadata, notebook.nbformat_minor, cells


def _same_outputs(old: list[Any], new: list[Any]) -> bool:
    return len(old) == len(new) and all(_comparable(a) == _comparable(b) for a, b in zip(old, new, strict=True))


def _comparable(output: nbformat.NotebookNode) -> dict[str, Any]:
    """Return an output with pictures as pixels: the same picture may be stored with other metadata."""
    plain = dict(output)
    if "image/png" in plain.get("data", {}):
        plain["data"] = {**plain["data"], "image/png": _pixels(plain["data"]["image/png"])}
    return plain


def _pixels(picture: str) -> tuple[tuple[int, ...], bytes]:
    from matplotlib.image import imread

    array = np.asarray(imread(io.BytesIO(base64.b64decode(picture)), format="png"))
    return array.shape, array.tobytes()
