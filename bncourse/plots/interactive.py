"""Figures with sliders, for the built book: no kernel, no network.

A chapter draws its figure with Matplotlib, as always. In the next cell a `Live` says which chart may take the place of
that picture and which sliders it has. The built page loads ``book/_static/live-figures.js``, which does the drawing
(with Plotly) and the computing, with the closed forms of `bncourse.averages`. Where no script runs, in Jupyter for
example, the picture stays.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from itertools import pairwise

#: The charts that the page's script can draw, and the sliders that each of them reads.
CHARTS = {
    "weights": ("momentum", "steps"),
    "response": ("momentum", "batch_size", "jump", "drift"),
}


@dataclass(frozen=True)
class Slider:
    """One slider.

    Attributes
    ----------
    name : str
        What the chart calls the quantity; see `CHARTS`.
    label : str
        What the reader reads.
    values : sequence of float
        The positions, growing, two or more.
    start : float
        The one of `values` at which it stands first: that of the picture.

    Raises
    ------
    ValueError
        If the values do not grow, are not finite, or do not hold `start`.
    """

    name: str
    label: str
    values: Sequence[float]
    start: float

    def __post_init__(self) -> None:
        values = tuple(self.values)
        object.__setattr__(self, "values", values)
        growing = all(a < b for a, b in pairwise(values))
        if len(values) < 2 or not growing or not all(map(math.isfinite, values)):
            raise ValueError(f"values = {values} of the slider {self.name!r}; expected two or more growing numbers.")
        if self.start not in values:
            raise ValueError(f"start = {self.start} of the slider {self.name!r}; expected one of its values {values}.")


@dataclass(frozen=True)
class Live:
    """A chart with sliders that takes the place of a figure's picture; the last expression of its cell.

    Attributes
    ----------
    chart : {"weights", "response"}
        What is drawn.
    figure : str
        Name of the figure (``mystnb.figure.name`` of the cell that draws the picture).
    label : str
        What the chart shows, for those who do not see it.
    sliders : sequence of Slider
        Those that `CHARTS` names, in the order in which they stand on the page.
    noise : sequence of float
        For "response": standard normal numbers, one for each step. Written by three decimals.

    Raises
    ------
    ValueError
        If the chart is unknown, its sliders are other ones, or noise is missing or not asked for.
    """

    chart: str
    figure: str
    label: str
    sliders: Sequence[Slider]
    noise: Sequence[float] = ()

    def __post_init__(self) -> None:
        if self.chart not in CHARTS:
            raise ValueError(f"chart = {self.chart!r}; expected one of {', '.join(CHARTS)}.")
        names = [slider.name for slider in self.sliders]
        if sorted(names) != sorted(CHARTS[self.chart]):
            raise ValueError(f"sliders = {names} of the chart {self.chart!r}; expected {list(CHARTS[self.chart])}.")
        if bool(len(self.noise)) != (self.chart == "response"):
            raise ValueError(f"noise holds {len(self.noise)} numbers; expected some for 'response', else none.")
        if not all(map(math.isfinite, self.noise)):
            raise ValueError("noise holds numbers that are not finite.")

    @property
    def drawn_noise(self) -> list[float]:
        """`noise` as the page has it."""
        return [round(float(number), 3) for number in self.noise]

    def _repr_html_(self) -> str:
        """Return an element that shows nothing by itself; the script of the page reads it."""
        known = {
            "chart": self.chart,
            "figure": self.figure,
            "label": self.label,
            "sliders": [asdict(slider) for slider in self.sliders],
            "noise": self.drawn_noise,
        }
        return f'<div class="bn-live" hidden data-live="{escape(json.dumps(known, allow_nan=False))}"></div>'

    def __repr__(self) -> str:
        return f"Live({self.chart!r}): the built book puts sliders at {self.figure}"
