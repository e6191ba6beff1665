"""Keep the built book free of what it would only need a network for.

jupyter-book loads sphinx-thebe into every page, twice, although the course
starts no kernels from its pages; the second copy is an error in the browser's
console. And of the 24 MB of MathJax that sphinx-mathjax-offline copies, pages
load one bundle and its fonts.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

# Besides the bundle, the page loads TeX extensions and fonts on demand.
_MATHJAX_KEPT = {"tex-chtml.js", "input", "output", "ui"}


def _is_thebe(file: object) -> bool:
    return "thebe" in f"{file}{vars(file)}".lower()


def _drop_thebe(
    _app: Sphinx,
    _page: str,
    _template: str,
    context: dict[str, Any],
    *_: object,
) -> None:
    for kind in ("script_files", "css_files"):
        kept = [file for file in context[kind] if not _is_thebe(file)]
        context[kind] = kept


def _trim_mathjax(app: Sphinx, error: Exception | None) -> None:
    folder = Path(app.outdir) / "_static" / "mathjax"
    if error or not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name not in _MATHJAX_KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(folder / "output" / "svg", ignore_errors=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("html-page-context", _drop_thebe, priority=900)
    app.connect("build-finished", _trim_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
