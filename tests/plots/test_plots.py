"""The figures' style and the drawing of the two logs."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from bncourse.plots import COLOURS, use_style
from bncourse.plots.logs import draw_two_logs


@pytest.fixture(autouse=True)
def _style_is_restored() -> Iterator[None]:
    with mpl.rc_context({"backend": "agg"}):
        yield
    plt.close("all")


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.1)."""
    channels = np.array(mpl.colors.to_rgb(colour))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_lines_differ_in_colour_and_in_dashes() -> None:
    use_style()
    styles = list(mpl.rcParams["axes.prop_cycle"])
    assert len({style["color"] for style in styles}) == len(styles)
    assert len({str(style["linestyle"]) for style in styles}) == len(styles)


@pytest.mark.parametrize("name", COLOURS)
def test_a_colour_can_be_seen_on_white(name: str) -> None:
    assert 1.05 / (luminance(COLOURS[name]) + 0.05) > 2


def test_the_two_logs_are_drawn_from_the_run() -> None:
    columns = {
        "train_batch": np.array([0.1, 1.0]),
        "validation_batch": np.array([0.1, 0.9]),
        "validation_moving": np.array([0.1, 0.1]),
    }
    run = SimpleNamespace(steps=np.array([0, 25]), accuracies=columns.__getitem__)
    axes = plt.figure().subplots()
    draw_two_logs(axes, run)
    drawn = [line.get_ydata() for line in axes.lines[:3]]
    assert np.allclose(drawn, [100 * column for column in columns.values()])
    assert axes.get_xlabel() == "batch"
    assert axes.get_ylabel() == "accuracy in %"
    assert len(axes.get_legend().get_texts()) == 3
