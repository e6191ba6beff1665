"""Drawings of training logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bncourse.plots.style import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bncourse.experiments.record import Run


def draw_two_logs(axes: Axes, run: Run) -> None:
    """Draw the two logs that disagree, and the curve that shows that nothing is broken.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Where to draw.
    run : Run
        A run with BN; its accuracies are drawn in per cent over the number of the batch.
    """
    curves: tuple[tuple[str, str, str, str, str], ...] = (
        ("train_batch", "training batch, its own statistics", COLOURS["blue"], "-", "o"),
        ("validation_batch", "validation images, their own statistics", COLOURS["green"], "--", "s"),
        ("validation_moving", "validation images, moving statistics", COLOURS["vermillion"], "-.", "^"),
    )
    for series, label, colour, dashes, marker in curves:
        axes.plot(run.steps, 100 * run.accuracies(series), color=colour, linestyle=dashes, marker=marker, label=label)
    axes.axhline(10, color=COLOURS["black"], linewidth=1, linestyle=":")
    axes.annotate("chance", (run.steps[-1], 10), xytext=(0, -4), textcoords="offset points", ha="right", va="top")
    axes.set(xlabel="batch", ylabel="accuracy in %", ylim=(0, 103))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1))  # above: the curves cross the whole frame
