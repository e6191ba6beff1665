"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a new path beside `path` to write to; what was written takes the place of `path` in a single step.

    The two are in one folder, because only there the replacement is a single step. If the block fails, `path` is as it
    was, and nothing is left beside it.

    Raises
    ------
    OSError
        If the file cannot be put in its place.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
