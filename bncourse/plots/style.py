"""One style for all figures: readable in print, on a phone, and by colour-blind readers."""

from __future__ import annotations

from types import MappingProxyType

import matplotlib as mpl
from cycler import cycler

#: The palette of Okabe and Ito (https://jfly.uni-koeln.de/color/), without yellow, which is too pale on white.
COLOURS = MappingProxyType(
    {
        "blue": "#0072B2",
        "vermillion": "#D55E00",
        "green": "#009E73",
        "purple": "#CC79A7",
        "sky": "#56B4E9",
        "orange": "#E69F00",
        "black": "#000000",
    }
)


def use_style() -> None:
    """Apply the book's style to Matplotlib for the rest of the process.

    Lines differ in colour *and* in dashes, so no figure relies on colour alone. The background is opaque white: the
    book's style sheet turns charts round in dark mode, where a transparent one could not be read.
    """
    dashes = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1))]
    colours = [COLOURS[name] for name in ("blue", "vermillion", "green", "purple", "sky", "orange")]
    mpl.rcParams.update(
        {
            "axes.prop_cycle": cycler(color=colours) + cycler(linestyle=dashes),
            "axes.grid": True,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "figure.constrained_layout.use": True,
            "figure.dpi": 100,
            "figure.figsize": (7.0, 3.6),
            "font.size": 11.0,
            "grid.alpha": 0.3,
            "legend.frameon": False,
            "lines.linewidth": 2.0,
            "savefig.facecolor": "white",
        }
    )
