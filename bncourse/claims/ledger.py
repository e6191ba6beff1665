"""All claims, in the order of their rows."""

from __future__ import annotations

from types import ModuleType

from bncourse.claims import article_a, article_b, article_c, article_d, article_e
from bncourse.claims.claim import Claim


def _of(module: ModuleType) -> tuple[Claim, ...]:
    return tuple(value for value in vars(module).values() if isinstance(value, Claim))


_ARTICLES = (article_a, article_b, article_c, article_d, article_e)

#: The rows of all five articles.
CLAIMS: tuple[Claim, ...] = tuple(entry for module in _ARTICLES for entry in _of(module))


def claims_of(article: str) -> tuple[Claim, ...]:
    """Return the claims of one article.

    Parameters
    ----------
    article : {"A", "B", "C", "D", "E"}
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
