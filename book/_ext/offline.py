"""Keep the built book free of what it would only need a network for.

jupyter-book loads sphinx-thebe into every page, twice, although the course
starts no kernels from its pages; the second copy is an error in the browser's
console. And of the 24 MB of MathJax that sphinx-mathjax-offline copies, pages
load one bundle and its fonts.

Figures with sliders (bncourse.plots.interactive) draw with Plotly. Its script
comes out of the installed Python package, and only pages with such a figure
load it.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

# Besides the bundle, the page loads TeX extensions and fonts on demand.
_MATHJAX_KEPT = {"tex-chtml.js", "input", "output", "ui"}

_LOGGER = logging.getLogger(__name__)


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


def _plotly() -> Path | None:
    """Return the script that the Python package ships, without importing it."""
    spec = find_spec("plotly")
    folders = (spec and spec.submodule_search_locations) or []
    paths = [Path(folder, "package_data/plotly.min.js") for folder in folders]
    return next(filter(Path.is_file, paths), None)


def _add_live_figures(
    app: Sphinx,
    page: str,
    _template: str,
    context: dict[str, Any],
    *_: object,
) -> None:
    if 'class="bn-live"' not in context.get("body", ""):
        return
    script = _plotly()
    if script is None:
        _LOGGER.warning(
            "%s: no sliders, plotly is missing: pip install '.[book]'", page
        )
        return
    static = Path(app.outdir) / "_static"
    static.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(script, static / script.name)
    # Deferred scripts run in this order, when the page is there.
    for name in (script.name, "live-figures.js"):
        app.add_js_file(name, loading_method="defer")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("html-page-context", _add_live_figures)
    app.connect("html-page-context", _drop_thebe, priority=900)
    app.connect("build-finished", _trim_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
