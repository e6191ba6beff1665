"""A benchmark as a file: the rows, and what they were measured on."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bncourse.benchmark.measure import Row
from bncourse.results import files

#: Changes when the form of the file does.
FORM = 1
_PACKAGES = ("bncourse", "numpy", "tensorflow", "keras", "torch")


def write_record(
    path: str | Path, rows: Sequence[Row], steps: Sequence[Row], memory: Mapping[str, Mapping[str, float]]
) -> None:
    """Write rows and memory to the JSON file `path`, whole or not at all."""
    record = {
        "form": FORM,
        "machine": {"processor": files.processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "memory": memory,
        "rows": [asdict(row) for row in rows],
        "steps": [asdict(row) for row in steps],
    }
    files.write(path, record)


def read_record(path: str | Path) -> dict[str, Any]:
    """Read what :func:`write_record` wrote; the rows come back as :class:`Row`.

    Raises
    ------
    ValueError
        If the file is no benchmark, or has another form.
    OSError
        If it cannot be read.
    """
    with files.reading(path, "benchmark of bncourse") as record:
        files.check_form(path, record["form"], FORM, "make bench RECORD=1")
        for kind in ("rows", "steps"):
            record[kind] = [Row(**row) for row in record[kind]]
        return dict(record)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
