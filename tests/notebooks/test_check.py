"""Each fault of a stored notebook is found and named; a faultless one passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from bncourse.notebooks import check, files

Store = Callable[[nbformat.NotebookNode], Path]
PNG = {"image/png": "aGVsbG8="}


def output(notebook: nbformat.NotebookNode, **fields: Any) -> None:
    notebook.cells[2].outputs = [nbformat.v4.new_output(**fields)]


def spoil_metadata(nb: nbformat.NotebookNode) -> None:
    nb.metadata = nbformat.from_dict({**files.METADATA, "authors": ["me"]})


def spoil_setup(nb: nbformat.NotebookNode) -> None:
    nb.cells[1].source = "import numpy"


def spoil_source_path(nb: nbformat.NotebookNode) -> None:
    nb.cells[2].source = "open('/home/ann/data.csv')"


def spoil_count(nb: nbformat.NotebookNode) -> None:
    nb.cells[2].execution_count = None


def spoil_order(nb: nbformat.NotebookNode) -> None:
    nb.cells[2].execution_count, nb.cells[3].execution_count = 3, 2


def spoil_empty(nb: nbformat.NotebookNode) -> None:
    nb.cells[2].source = " \n"


def spoil_error(nb: nbformat.NotebookNode) -> None:
    output(nb, output_type="error", ename="KeyError", evalue="x", traceback=[])


def spoil_stderr(nb: nbformat.NotebookNode) -> None:
    output(nb, output_type="stream", name="stderr", text="a warning")


def spoil_output_path(nb: nbformat.NotebookNode) -> None:
    output(nb, output_type="stream", name="stdout", text="saved in /home/ann/x.npz")


def spoil_skip(nb: nbformat.NotebookNode) -> None:
    nb.cells[2].metadata["tags"] = ["nbval-skip"]


def spoil_comment(nb: nbformat.NotebookNode) -> None:
    nb.cells[2].source = "# NBVAL_IGNORE_OUTPUT\nprint(42)"


def spoil_assertion(nb: nbformat.NotebookNode) -> None:
    nb.cells[4].source = "print('fine')"


def spoil_vacuous_assertion(nb: nbformat.NotebookNode) -> None:
    nb.cells[4].source = "assert 2 > 1"


def spoil_alt(nb: nbformat.NotebookNode) -> None:
    output(nb, output_type="display_data", data=PNG)
    nb.cells[2].metadata["mystnb"] = {"figure": {"caption": "A curve."}}


def spoil_caption(nb: nbformat.NotebookNode) -> None:
    output(nb, output_type="display_data", data=PNG)
    nb.cells[2].metadata["mystnb"] = {"image": {"alt": "A curve."}}


def spoil_headings(nb: nbformat.NotebookNode) -> None:
    nb.cells[-1].source = "## Quiz\n\n## Exercises\n\n## Take-away\n\n## Further reading"


def spoil_body(nb: nbformat.NotebookNode) -> None:
    nb.cells[-1].source += "\n\n## One more thing"


def spoil_title(nb: nbformat.NotebookNode) -> None:
    nb.cells[-1].source += "\n\n# Second title"


FAULTS = {
    "metadata is not the book's": spoil_metadata,
    "not the standard set-up cell": spoil_setup,
    "its source holds a path of one machine: /home/a": spoil_source_path,
    "not executed in order, 1 to 4": spoil_count,
    "executed in order": spoil_order,
    "code cell 2: empty": spoil_empty,
    "a stored error, KeyError": spoil_error,
    "standard error: a warning": spoil_stderr,
    "its output holds a path of one machine: /home/a": spoil_output_path,
    "nbval-skip keeps nbval from checking": spoil_skip,
    "a comment keeps nbval from checking": spoil_comment,
    "code cell 3: exempt from comparison, and the next one asserts nothing": spoil_assertion,
    "exempt from comparison, and the next one asserts": spoil_vacuous_assertion,
    "a picture without alt text": spoil_alt,
    "a picture without a caption": spoil_caption,
    "its headings lack or misplace one of": spoil_headings,
    "the body of a chapter stands between": spoil_body,
    "it has 2 titles": spoil_title,
}


def test_a_faultless_chapter_passes(chapter: nbformat.NotebookNode, store: Store) -> None:
    assert check.check_notebook(store(chapter)) == []


@pytest.mark.parametrize("message", FAULTS)
def test_a_fault_is_found_alone_and_named(message: str, chapter: nbformat.NotebookNode, store: Store) -> None:
    FAULTS[message](chapter)
    faults = check.check_notebook(store(chapter))
    assert len(faults) == 1
    assert faults[0].startswith("chapter.ipynb: ")
    assert message in faults[0]


def test_headings_inside_code_fences_do_not_count(chapter: nbformat.NotebookNode, store: Store) -> None:
    chapter.cells[-1].source += "\n\n```python\n# a comment\n## another\n```"
    assert check.check_notebook(store(chapter)) == []


def test_a_page_that_is_no_chapter_needs_no_chapter_headings(chapter: nbformat.NotebookNode, store: Store) -> None:
    spoil_headings(chapter)
    assert check.check_notebook(store(chapter), chapter=False) == []


def test_a_file_that_is_no_notebook_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.ipynb"
    path.write_text("{", encoding="utf-8")
    (fault,) = check.check_notebook(path)
    assert "broken.ipynb: not a notebook" in fault


def test_too_many_exempt_cells(chapter: nbformat.NotebookNode, store: Store) -> None:
    assert check.check_budget([store(chapter)]) == ["1 of 4 code cells are exempt from comparison: at most 15% may be"]


def test_a_key_that_two_cells_define(chapter: nbformat.NotebookNode, store: Store) -> None:
    for place in (2, 3):
        chapter.cells[place].outputs = [
            nbformat.v4.new_output("display_data", data={}, metadata={"scrapbook": {"name": "rate"}})
        ]
    (fault,) = check.check_keys([store(chapter)])
    assert fault == "glue key 'rate' is defined 2 times: chapter.ipynb, chapter.ipynb"


def test_contents_name_each_page_once(tmp_path: Path) -> None:
    (tmp_path / "book").mkdir()
    for name in ("index", "extra"):
        (tmp_path / "book" / f"{name}.md").write_text("# Page\n", encoding="utf-8")
    toc = "root: book/index\nchapters: [{file: book/gone}, {file: book/index}]\n"
    (tmp_path / "_toc.yml").write_text(toc, encoding="utf-8")
    assert check.check_contents(tmp_path) == [
        "_toc.yml: book/gone: no such page",
        "book/extra: not in _toc.yml",
        "_toc.yml: book/index: named twice",
    ]
