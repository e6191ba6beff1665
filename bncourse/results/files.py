"""Records as JSON files, and the machine that they were made on."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bncourse.atomic import replacing


def write(path: str | Path, record: Any) -> None:
    """Write `record` to the JSON file `path`, whole or not at all; its folder is made if there is none.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def reading(path: str | Path, what: str) -> Iterator[Any]:
    """Give the content of the JSON file `path` to the block; if it stumbles over the content, that is no `what`.

    Raises
    ------
    ValueError
        If the file is no JSON, or the block looks for what is not there.
    OSError
        If it cannot be read.
    """
    try:
        yield json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no {what}: {error!r}") from error


def check_form(path: str | Path, found: object, expected: int, again: str) -> None:
    """Check the number of a record's form.

    Raises
    ------
    ValueError
        If the form is another; `again` says how the record is made.
    """
    if found != expected:
        raise ValueError(f"{path} has form {found}; expected {expected}. Make it again with: {again}")


def cpuinfo(key: str) -> str:
    """Return what the system tells of the first processor, or nothing."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return ""


def processor() -> str:
    """Return the name of the processor, as the system tells it."""
    return cpuinfo("model name") or platform.processor() or platform.machine()
