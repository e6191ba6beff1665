"""All claims, in the order of their rows."""

from __future__ import annotations

from types import ModuleType

from bncourse.claims import article_a, article_b, article_c
from bncourse.claims.claim import Claim


def _of(module: ModuleType) -> tuple[Claim, ...]:
    return tuple(value for value in vars(module).values() if isinstance(value, Claim))


#: The rows of articles A, B and C.
CLAIMS: tuple[Claim, ...] = tuple(entry for module in (article_a, article_b, article_c) for entry in _of(module))


def claims_of(article: str) -> tuple[Claim, ...]:
    """Return the claims of one article.

    Parameters
    ----------
    article : {"A", "B", "C"}
        Its letter.

    Raises
    ------
    ValueError
        If the ledger measures no claim of this article.
    """
    found = tuple(entry for entry in CLAIMS if entry.article == article)
    if not found:
        known = ", ".join(sorted({entry.article for entry in CLAIMS}))
        raise ValueError(f"article = {article!r}; expected one of {known}.")
    return found
