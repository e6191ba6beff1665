"""The look of the book's figures."""

from bncourse.plots.style import COLOURS, use_style

__all__ = ["COLOURS", "use_style"]
