"""The stored book is in order; nbval runs its notebooks, this looks at all that nbval passes by."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from bncourse.notebooks import check, files

ROOT = Path(__file__).parents[2]


def test_the_stored_book_has_no_faults() -> None:
    assert check.check_book(ROOT) == []


def test_the_reader_sees_the_outputs_that_nbval_checked() -> None:
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert config["execute"]["execute_notebooks"] == "off"


def test_the_readme_shows_the_commands_that_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = set(re.findall(r"^ {0,4}make (\w+)", readme, flags=re.MULTILINE))
    assert {"book", "test"} <= commands
    assert commands <= set(re.findall(r"^(\w+):", makefile, flags=re.MULTILINE))


def test_every_picture_of_the_readme_is_there() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pictures = re.findall(r'(?:!\[[^\]]+\]\(|src=")([^)"]+)', readme)
    local = [picture for picture in pictures if not picture.startswith("http")]
    assert local
    assert all((ROOT / picture).is_file() for picture in local)


def test_the_readme_shows_the_figure_and_the_numbers_of_the_opening_page() -> None:
    opening = files.read(ROOT / "book" / "index.ipynb")
    assert (ROOT / "book" / "images" / "two-logs.png").read_bytes() == files.first_picture(opening)
    numbers = files.glued(opening)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"The training log says {numbers['index-training']} %." in readme
    assert f"at the same step, says {numbers['index-validation']} %." in readme


def test_a_cited_key_is_in_the_bibliography() -> None:
    known = set(re.findall(r"@\w+\{([^,]+),", (ROOT / "book" / "references.bib").read_text(encoding="utf-8")))
    for path in files.notebooks_of(ROOT):
        text = "\n".join(cell.source for cell in files.read(path).cells if cell.cell_type == "markdown")
        cited = {key.strip() for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text) for key in keys.split(",")}
        assert cited <= known, f"{path.name}: {cited - known}"
