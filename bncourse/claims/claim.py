"""One entry of the ledger: a claim, its verdict, and the measurement that the verdict rests on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

#: "explained": the article reports it, or asks, and gives no reason; the course gives it.
Verdict: TypeAlias = Literal["reproduced", "corrected", "refuted", "explained", "open"]


class VerdictError(AssertionError):
    """The figures do not support a verdict (any more); the message says which, and what is not true."""


@dataclass(frozen=True)
class Evidence:
    """What a measurement found.

    Attributes
    ----------
    figures : mapping
        Numbers, intervals and texts, by the names under which the finding quotes them.
    holds : mapping of str to bool
        What must be true for the verdict, each in words. At least one.
    """

    figures: Mapping[str, Any]
    holds: Mapping[str, bool]


@dataclass(frozen=True)
class Claim:
    """One row of the ledger.

    Attributes
    ----------
    row : str
        Its name: "C-A3" is the third claim of article A, "S-A4" the fourth of its systems.
    says : str
        What the article says or asks, in our own words (MyST Markdown).
    verdict : Verdict
        What the course makes of it.
    finding : str
        Why, in MyST Markdown, with the names of figures in braces: ``{final:.1f}``.
    shown : tuple of str
        Chapters that show it: ``"3-tf-layers/deep-network"``, with an anchor where there is a good one.
    measure : callable
        Measures anew, from recorded runs or live.
    """

    row: str
    says: str
    verdict: Verdict
    finding: str
    shown: tuple[str, ...]
    measure: Callable[[], Evidence]

    @property
    def article(self) -> str:
        """Letter of the article."""
        return self.row[2]

    def check(self) -> str:
        """Measure, and return the finding with its figures.

        Returns
        -------
        str
            MyST Markdown.

        Raises
        ------
        VerdictError
            If the figures do not support the verdict.
        FileNotFoundError
            If a recorded run is missing; ``make results`` makes it.
        """
        evidence = self.measure()
        if not evidence.holds:
            raise VerdictError(f"{self.row}: nothing was checked, so {self.verdict!r} rests on nothing.")
        wrong = [condition for condition, true in evidence.holds.items() if not true]
        if wrong:
            raise VerdictError(f"{self.row}: {self.verdict!r} does not hold. Not true: {'; '.join(wrong)}.")
        return self.finding.format(**evidence.figures)


def claim(
    row: str, says: str, verdict: Verdict, finding: str, *shown: str
) -> Callable[[Callable[[], Evidence]], Claim]:
    """Turn a measuring function into the claim that it decides; the arguments are the attributes of `Claim`."""
    return lambda measure: Claim(row, says, verdict, finding, shown, measure)
