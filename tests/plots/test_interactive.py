"""Figures with sliders: what the notebook stores, what the page's script computes, and which pages load it."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bncourse import averages
from bncourse.notebooks import files
from bncourse.notebooks.site import foreign_requests, missing_files
from bncourse.plots.interactive import CHARTS, Live, Slider

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "book" / "_static" / "live-figures.js"
MOMENTUM = Slider("momentum", "Momentum", [0.9, 0.99], 0.99)
STEPS = Slider("steps", "Steps", [1, 100], 1)


def live(**changes: Any) -> Live:
    given: dict[str, Any] = {"chart": "weights", "figure": "fig-a", "label": "Weights.", "sliders": [MOMENTUM, STEPS]}
    return Live(**{**given, **changes})


def response(noise: Any) -> Live:
    sliders = [Slider(name, name, [0.0, 1.0], 0.0) for name in CHARTS["response"]]
    return live(chart="response", sliders=sliders, noise=noise)


class Reader(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


class TestLive:
    def test_the_page_reads_what_was_given(self) -> None:
        ((tag, attributes),) = Reader(response([0.12345, -1.0])._repr_html_()).tags
        known = json.loads(attributes["data-live"] or "")
        assert tag == "div"
        assert known["chart"] == "response"
        assert known["noise"] == [0.123, -1.0]
        assert known["sliders"][0] == {"name": "momentum", "label": "momentum", "values": [0.0, 1.0], "start": 0.0}

    def test_without_the_script_nothing_shows(self) -> None:
        reader = Reader(live()._repr_html_())
        assert "hidden" in reader.tags[0][1]
        assert reader.text == ""

    def test_hostile_text_stays_text(self) -> None:
        hostile = "</div><script>alert(1)</script>\"' onload=x & <img src=//e.org>"
        html = live(label=hostile, figure=hostile)._repr_html_()
        reader = Reader(html)
        assert [tag for tag, _ in reader.tags] == ["div"]
        assert json.loads(reader.tags[0][1]["data-live"] or "")["label"] == hostile

    def test_the_output_is_the_same_every_time(self) -> None:
        assert live()._repr_html_() == live()._repr_html_()
        assert repr(live()) == "Live('weights'): the built book puts sliders at fig-a"

    def test_an_unknown_chart_is_refused(self) -> None:
        with pytest.raises(ValueError, match="chart = 'pie'; expected one of weights, response"):
            live(chart="pie")

    def test_other_sliders_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"sliders = \['momentum'\] of the chart 'weights'; expected \['momentum'"):
            live(sliders=[MOMENTUM])

    def test_noise_belongs_to_the_response(self) -> None:
        with pytest.raises(ValueError, match="noise holds 1 numbers; expected some for 'response', else none"):
            live(noise=[1.0])
        with pytest.raises(ValueError, match="noise holds 0 numbers; expected some"):
            response([])
        with pytest.raises(ValueError, match="noise holds numbers that are not finite"):
            response([math.nan])

    @pytest.mark.parametrize("values", [[1.0], [2.0, 1.0], [1.0, 1.0], [1.0, math.inf]])
    def test_positions_that_do_not_grow_are_refused(self, values: list[float]) -> None:
        with pytest.raises(ValueError, match="of the slider 'steps'; expected two or more growing numbers"):
            Slider("steps", "Steps", values, values[0])

    def test_a_slider_starts_on_a_position(self) -> None:
        with pytest.raises(ValueError, match=r"start = 3 of the slider 'steps'; expected one of its values \(1, 2\)"):
            Slider("steps", "Steps", [1, 2], 3)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
class TestScript:
    """The script's closed forms beside those of `bncourse.averages`."""

    @staticmethod
    def compute(expression: str) -> Any:
        program = f"const m = require({json.dumps(str(SCRIPT))}); console.log(JSON.stringify({expression}));"
        result = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True)
        return json.loads(result.stdout)

    @pytest.mark.parametrize("momentum", [0, 0.5, 0.9, 0.99, 0.999])
    def test_it_computes_what_the_package_computes(self, momentum: float) -> None:
        values = np.random.default_rng(0).normal(size=50).round(3)
        found = self.compute(
            f"""[m.weights({momentum}, 50), m.startShare({momentum}, 50), m.effectiveWindow({momentum}),
            m.meanAge({momentum}), [0.5, 0.1, 0.01].map((share) => m.stepsUntil(share, {momentum})),
            m.run({values.tolist()}, {momentum}), m.biasCorrected(m.run({values.tolist()}, {momentum}), {momentum})]"""
        )
        averaged = averages.run(values, momentum)
        np.testing.assert_allclose(found[0], averages.weights(momentum, 50)[::-1], rtol=1e-12)
        assert found[1] == pytest.approx(averages.start_share(momentum, 50), rel=1e-12)
        assert found[2] == pytest.approx(averages.effective_window(momentum), rel=1e-14)
        assert found[3] == pytest.approx(averages.mean_age(momentum), rel=1e-14)
        assert found[4] == [averages.steps_until(share, momentum) for share in (0.5, 0.1, 0.01)]
        np.testing.assert_allclose(found[5], averaged, rtol=1e-12)
        corrected = [averages.bias_corrected(a, momentum, step) for step, a in enumerate(averaged, start=1)]
        np.testing.assert_allclose(found[6], corrected, rtol=1e-12)

    def test_the_signal_is_a_level_a_drift_a_jump_and_noise(self) -> None:
        assert self.compute("m.truth(4, 2, 0.5)") == [1, 1.5, 4, 4.5]
        assert self.compute("m.batchMeans([1, 2], [3, -4], 4)") == [2.5, 0]


def test_every_live_figure_of_the_book_has_its_picture() -> None:
    seen = 0
    for path in files.notebooks_of(ROOT):
        cells = files.code_cells(files.read(path))
        names = {cell.metadata.get("mystnb", {}).get("figure", {}).get("name") for cell in cells}
        pages = [output.get("data", {}).get("text/html", "") for cell in cells for output in cell.outputs]
        for html in (page for page in pages if "bn-live" in page):
            known = json.loads(Reader(html).tags[0][1]["data-live"] or "")
            assert known["figure"] in names, path.name
            seen += 1
    assert seen >= 2


class TestPage:
    """A small site, built with the book's extension and a stand-in for the package plotly."""

    @staticmethod
    def build(folder: Path, *, plotly: bool) -> subprocess.CompletedProcess[str]:
        pytest.importorskip("sphinx")
        package = folder / "packages" / "plotly" / "package_data"
        package.mkdir(parents=True)
        (package.parent / "__init__.py").write_text("raise ImportError('only looked for')", encoding="utf-8")
        if plotly:
            (package / "plotly.min.js").write_text("var Plotly = {};", encoding="utf-8")
        source = folder / "source"
        (source / "static").mkdir(parents=True)
        shutil.copy(SCRIPT, source / "static")
        settings = "extensions = ['offline']\nhtml_static_path = ['static']\n"
        (source / "conf.py").write_text(settings, encoding="utf-8")
        (source / "index.rst").write_text("Plain\n=====\n\n.. toctree::\n\n   live\n", encoding="utf-8")
        raw = f".. raw:: html\n\n   {live()._repr_html_()}\n"
        (source / "live.rst").write_text(f"Live\n====\n\n{raw}", encoding="utf-8")
        paths = os.pathsep.join([str(folder / "packages"), str(ROOT / "book" / "_ext")])
        return subprocess.run(
            [sys.executable, "-m", "sphinx", "-q", "-W", source, folder / "site"],
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=False,
        )

    def test_only_the_page_with_a_live_figure_loads_the_scripts(self, tmp_path: Path) -> None:
        result = self.build(tmp_path, plotly=True)
        assert result.returncode == 0, result.stderr
        live_page = (tmp_path / "site" / "live.html").read_text(encoding="utf-8")
        assert live_page.index("_static/plotly.min.js") < live_page.index("_static/live-figures.js")
        plain = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
        assert "plotly" not in plain
        assert "live-figures" not in plain
        assert missing_files(tmp_path / "site") == {}
        assert foreign_requests(tmp_path / "site") == {}

    def test_a_missing_plotly_is_named(self, tmp_path: Path) -> None:
        result = self.build(tmp_path, plotly=False)
        assert result.returncode != 0
        assert "live: no sliders, plotly is missing: pip install '.[book]'" in result.stderr
