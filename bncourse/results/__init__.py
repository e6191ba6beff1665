"""Recorded results: files that a long run wrote, and that chapters read."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent

#: Folder of the recorded runs, a folder for each sweep; see :mod:`bncourse.experiments.plan`.
RUNS = _FOLDER / "runs"


def path(name: str) -> Path:
    """Return the file of the record `name`.

    Raises
    ------
    ValueError
        If there is no such record.
    """
    file = _FOLDER / f"{name}.json"
    if not file.is_file():
        known = ", ".join(sorted(other.stem for other in _FOLDER.glob("*.json")))
        raise ValueError(f"there is no record {name!r}; there are: {known}.")
    return file
