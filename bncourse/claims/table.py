"""The ledger as a table for a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from bncourse.claims.claim import Claim, Verdict
from bncourse.claims.ledger import claims_of

#: Colours of the verdicts; the word stands in the badge, so that the colour says nothing by itself.
BADGES: Mapping[Verdict, str] = MappingProxyType(
    {"reproduced": "success", "corrected": "warning", "refuted": "danger", "explained": "info", "open": "secondary"}
)

#: Names of the chapters in the table.
CHAPTERS: Mapping[str, str] = MappingProxyType(
    {
        "1-theory/what-bn-computes": "what BN computes",
        "1-theory/noise-and-limits": "noise and limits",
        "1-theory/the-papers-experiment": "the paper's own experiment",
        "1-theory/shift-and-smoothness": "shift and smoothness",
        "2-numpy-layer/convolutions-and-axes": "convolutions and axes",
        "3-tf-layers/deep-network": "a deep network",
        "3-tf-layers/update-ops": "update ops",
        "3-tf-layers/by-hand": "BN by hand",
        "3-tf-layers/orders": "the orders of layers",
        "4-moving-averages/one-step-and-the-lag": "one step, and the lag",
        "4-moving-averages/the-lag-and-three-cures": "the lag and three cures",
        "4-moving-averages/four-questions": "four questions",
        "5-dropout-early-stopping/base-network": "the base network",
        "5-dropout-early-stopping/improved-network": "the improved network",
        "5-dropout-early-stopping/early-stopping": "early stopping",
        "5-dropout-early-stopping/dropout-and-the-variance-shift": "dropout and the variance shift",
        "6-practice/photographs": "photographs",
    }
)


def markdown(claims: Iterable[Claim]) -> str:
    """Measure the claims and return them as a table in MyST Markdown.

    Parameters
    ----------
    claims : iterable of Claim
        The rows.

    Raises
    ------
    VerdictError
        If a verdict does not hold.
    FileNotFoundError
        If a recorded run is missing.
    """
    lines = ["| Row | The article | The course |", "| --- | --- | --- |"]
    for entry in claims:
        badge = f"{{bdg-{BADGES[entry.verdict]}}}`{entry.verdict}`"
        where = ", ".join(_link(place) for place in entry.shown)
        lines.append(f"| {entry.row} | {entry.says} | {badge} {entry.check()} *See* {where}. |")
    return "\n".join(lines)


def show(article: str) -> Any:
    """Return the table of one article, as Jupyter displays it.

    Parameters
    ----------
    article : {"A", "B", "C", "D", "E"}
        Its letter.

    Returns
    -------
    IPython.display.Markdown

    Raises
    ------
    ValueError
        If the ledger measures no claim of this article.
    VerdictError, FileNotFoundError
        As :func:`markdown`.
    """
    from IPython.display import Markdown

    return Markdown(markdown(claims_of(article)))  # type: ignore[no-untyped-call]


def _link(place: str) -> str:
    chapter, hash_sign, anchor = place.partition("#")
    return f"[{CHAPTERS[chapter]}](../{chapter}.ipynb{hash_sign}{anchor})"
