"""A benchmark as a file: the rows, and what they were measured on."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bncourse.atomic import replacing
from bncourse.benchmark.measure import Row

#: Changes when the form of the file does.
FORM = 1
_PACKAGES = ("bncourse", "numpy", "tensorflow", "keras", "torch")


def write_record(
    path: str | Path, rows: Sequence[Row], steps: Sequence[Row], memory: Mapping[str, Mapping[str, float]]
) -> None:
    """Write rows and memory to the JSON file `path`, whole or not at all."""
    record = {
        "form": FORM,
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "memory": memory,
        "rows": [asdict(row) for row in rows],
        "steps": [asdict(row) for row in steps],
    }
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_record(path: str | Path) -> dict[str, Any]:
    """Read what :func:`write_record` wrote; the rows come back as :class:`Row`.

    Raises
    ------
    ValueError
        If the file is no benchmark, or has another form.
    OSError
        If it cannot be read.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        form = record["form"]
        if form != FORM:
            raise ValueError(f"{path} has form {form}; expected {FORM}. Make it again with: make bench RECORD=1")
        for kind in ("rows", "steps"):
            record[kind] = [Row(**row) for row in record[kind]]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no benchmark of bncourse: {error!r}") from error
    return dict(record)


def _processor() -> str:
    """Return the name of the processor, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
