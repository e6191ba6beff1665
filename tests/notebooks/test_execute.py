"""Executing stores what came out, once, and never harms a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from bncourse.notebooks import check, files
from bncourse.notebooks.execute import execute, same

Store = Callable[[nbformat.NotebookNode], Path]
RED = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"


def test_a_second_run_changes_nothing(chapter: nbformat.NotebookNode, store: Store) -> None:
    chapter.cells[2].outputs, chapter.cells[2].execution_count = [], None
    del chapter.cells[1]
    path = store(chapter)
    seen: list[tuple[int, int]] = []
    assert execute(path, on_cell=lambda *progress: seen.append(progress)).state == "changed"
    assert seen[-1] == (4, 4)
    assert check.check_notebook(path) == []
    before = path.read_bytes()
    assert execute(path).state == "unchanged"
    assert path.read_bytes() == before


def test_a_failing_cell_leaves_the_file_alone(chapter: nbformat.NotebookNode, store: Store) -> None:
    chapter.cells[2].source = "1 / 0"
    path = store(chapter)
    before = path.read_bytes()
    outcome = execute(path)
    assert outcome.state == "failed"
    assert "ZeroDivisionError" in outcome.message
    assert path.read_bytes() == before


def _copy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    return nbformat.from_dict(notebook)


def test_other_digits_in_an_exempt_cell_are_no_change(chapter: nbformat.NotebookNode) -> None:
    other = _copy(chapter)
    other.cells[3].outputs[0].text = "2.5\n"
    assert same(chapter, other)


def test_another_compared_output_is_a_change(chapter: nbformat.NotebookNode) -> None:
    other = _copy(chapter)
    other.cells[2].outputs[0].text = "43\n"
    assert not same(chapter, other)


@pytest.mark.parametrize("field", ["source", "id", "execution_count"])
def test_another_cell_is_a_change(chapter: nbformat.NotebookNode, field: str) -> None:
    other = _copy(chapter)
    other.cells[2][field] = 9 if field == "execution_count" else "other"
    assert not same(chapter, other)


def test_pictures_are_compared_by_their_pixels(chapter: nbformat.NotebookNode) -> None:
    chapter.cells[2].outputs = [nbformat.v4.new_output("display_data", data={"image/png": RED})]
    other = _copy(chapter)
    other.cells[2].outputs[0].data["image/png"] = RED + "\n"
    assert same(chapter, other)


def test_writing_that_fails_leaves_no_part(
    chapter: nbformat.NotebookNode, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store(chapter)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write(chapter, path)
    assert [file.name for file in path.parent.iterdir()] == ["chapter.ipynb"]
    assert path.read_bytes() == before


def test_the_root_is_the_folder_with_the_contents(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"no _toc\.yml"):
        files.find_root(deep)
    (tmp_path / "_toc.yml").touch()
    assert files.find_root(deep) == tmp_path
