"""Hygiene: what must hold of every stored notebook, so that nbval compares what the reader sees."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat

from bncourse.notebooks import files

#: At most this share of the book's code cells may keep its outputs from nbval's comparison.
EXEMPT_BUDGET = 0.15

#: Other ways to keep nbval from looking; the book uses none of them.
_FORBIDDEN_TAGS = {"nbval-skip", "raises-exception", "nbval-raises-exception", "nbval-check-output"}
_FORBIDDEN_COMMENT = re.compile(r"#\s*(NBVAL_|PYTEST_VALIDATE)", re.IGNORECASE)
_LOCAL_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|Users|work|private|opt|var)/[\w.]|[A-Z]:\\\\?Users")

#: The headings of a chapter, in this order; the body stands between the second and the third.
SKELETON = (
    "What you will learn",
    "Before you start",
    "Exercises",
    "Quiz",
    "Take-away",
    "Further reading",
)


def check_book(root: Path) -> list[str]:
    """Return every fault of the book in `root`: those of its notebooks and of its table of contents."""
    paths = files.notebooks_of(root)
    faults = check_contents(root)
    pages = (root / "book", root / "book" / "back-matter")  # these have no headings of a chapter
    for path in paths:
        faults += check_notebook(path, chapter=path.parent not in pages)
    return faults + check_budget(paths) + check_keys(paths)


def check_contents(root: Path) -> list[str]:
    """Return the entries of ``_toc.yml`` that lead nowhere, and the pages that it does not name."""
    entries = files.toc_entries(root)
    pages = {
        path.relative_to(root).with_suffix("").as_posix()
        for ending in ("ipynb", "md")
        for path in (root / "book").rglob(f"*.{ending}")
        if ".ipynb_checkpoints" not in path.parts
    }
    faults = [f"_toc.yml: {entry}: no such page" for entry in entries if entry not in pages]
    faults += [f"{page}: not in _toc.yml" for page in sorted(pages - set(entries))]
    twice = sorted({entry for entry in entries if entries.count(entry) > 1})
    return faults + [f"_toc.yml: {entry}: named twice" for entry in twice]


def check_budget(paths: Iterable[Path]) -> list[str]:
    """Return a fault if too many cells are exempt from nbval's comparison."""
    cells = [cell for path in paths for cell in files.code_cells(files.read(path))]
    exempt = sum(files.EXEMPT_TAG in files.tags(cell) for cell in cells)
    if exempt <= EXEMPT_BUDGET * len(cells):
        return []
    return [f"{exempt} of {len(cells)} code cells are exempt from comparison: at most {EXEMPT_BUDGET:.0%} may be"]


def check_keys(paths: Iterable[Path]) -> list[str]:
    """Return the glue keys that two cells of the book define."""
    owners: dict[str, list[str]] = {}
    for path in paths:
        for cell in files.code_cells(files.read(path)):
            for output in cell.outputs:
                key = output.get("metadata", {}).get("scrapbook", {}).get("name")
                if key:
                    owners.setdefault(key, []).append(path.name)
    return [
        f"glue key {key!r} is defined {len(at)} times: {', '.join(at)}" for key, at in owners.items() if len(at) > 1
    ]


def check_notebook(path: Path, *, chapter: bool = True) -> list[str]:
    """Return the faults of one stored notebook, each with its name and, where it has one, its cell.

    Parameters
    ----------
    path : Path
        The notebook.
    chapter : bool
        Whether the headings of a chapter are asked for.
    """
    try:
        notebook = files.read(path)
    except ValueError as error:
        return [str(error)]
    faults = list(_check_form(notebook)) + list(_check_execution(notebook))
    faults += list(_check_exempt(notebook)) + list(_check_figures(notebook))
    if chapter:
        faults += list(_check_skeleton(notebook))
    return [f"{path.name}: {fault}" for fault in faults]


def _check_form(notebook: nbformat.NotebookNode) -> Iterable[str]:
    if notebook.metadata != files.METADATA:
        yield "its metadata is not the book's (store it with `bncourse notebooks execute`)"
    if notebook.nbformat_minor < 5:
        yield "it is older than format 4.5, so its cells have no ids"
    if not any(files.is_setup(cell) for cell in notebook.cells[:2]):
        yield "its second cell is not the standard set-up cell"
    for place, cell in enumerate(notebook.cells, start=1):
        if match := _LOCAL_PATH.search(cell.source):
            yield f"cell {place}: its source holds a path of one machine: {match.group()}"


def _check_execution(notebook: nbformat.NotebookNode) -> Iterable[str]:
    cells = files.code_cells(notebook)
    counts = [cell.execution_count for cell in cells]
    if counts != list(range(1, len(cells) + 1)):
        yield f"its code cells are not executed in order, 1 to {len(cells)}: nbval skips a cell without a count"
    for place, cell in enumerate(cells, start=1):
        if not cell.source.strip():
            yield f"code cell {place}: empty"
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"code cell {place}: a stored error, {output.ename}"
            elif output.get("name") == "stderr":
                yield f"code cell {place}: a stored line of standard error: {output.text.strip()[:80]}"
            if match := _LOCAL_PATH.search(_text_of(output)):
                yield f"code cell {place}: its output holds a path of one machine: {match.group()}"


def _check_exempt(notebook: nbformat.NotebookNode) -> Iterable[str]:
    cells = files.code_cells(notebook)
    for place, cell in enumerate(cells, start=1):
        if found := _FORBIDDEN_TAGS & set(files.tags(cell)):
            yield f"code cell {place}: the tag {', '.join(sorted(found))} keeps nbval from checking it"
        if _FORBIDDEN_COMMENT.search(cell.source):
            yield f"code cell {place}: a comment keeps nbval from checking it"
        if files.EXEMPT_TAG in files.tags(cell):
            following = cells[place].source if place < len(cells) else ""
            if not _asserts_about(following, cell.source):
                yield f"code cell {place}: exempt from comparison, and the next one asserts nothing about its figures"


def _asserts_about(following: str, exempt: str) -> bool:
    """Tell whether an assertion in `following` uses a name of `exempt`."""
    known = _names(_parse(exempt))
    asserted = [_names(node) for node in ast.walk(_parse(following)) if isinstance(node, ast.Assert)]
    return any(names & known for names in asserted)


def _parse(source: str) -> ast.AST:
    lines = ["" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines()]
    return ast.parse("\n".join(lines))


def _names(node: ast.AST) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def _check_figures(notebook: nbformat.NotebookNode) -> Iterable[str]:
    for place, cell in enumerate(files.code_cells(notebook), start=1):
        if not any("image/png" in output.get("data", {}) for output in cell.outputs):
            continue
        myst = cell.metadata.get("mystnb", {})
        if not str(myst.get("image", {}).get("alt", "")).strip():
            yield f"code cell {place}: a picture without alt text (metadata mystnb.image.alt)"
        if not str(myst.get("figure", {}).get("caption", "")).strip():
            yield f"code cell {place}: a picture without a caption (metadata mystnb.figure.caption)"


def _check_skeleton(notebook: nbformat.NotebookNode) -> Iterable[str]:
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    text = re.sub(r"^(`{3,}).*?^\1\s*$", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^# (.+)$", text, flags=re.MULTILINE)
    if len(titles) != 1:
        yield f"it has {len(titles)} titles (lines that begin with '# '): a chapter has one"
    headings = [heading.strip() for heading in re.findall(r"^## (.+)$", text, flags=re.MULTILINE)]
    if [heading for heading in headings if heading in SKELETON] != list(SKELETON):
        yield f"its headings lack or misplace one of: {', '.join(SKELETON)}"
    elif headings[:2] != list(SKELETON[:2]) or headings[-4:] != list(SKELETON[2:]):
        yield "the body of a chapter stands between 'Before you start' and 'Exercises'"


def _text_of(output: nbformat.NotebookNode) -> str:
    data: dict[str, Any] = output.get("data", {})
    texts = [value for key, value in data.items() if not key.startswith("image/")]
    return "\n".join([str(output.get("text", "")), *map(str, texts)])
