"""The claims of the five source articles: what each says, what the course finds, and whether it still holds."""

from bncourse.claims.claim import Claim, Evidence, Verdict, VerdictError
from bncourse.claims.ledger import CLAIMS, claims_of
from bncourse.claims.table import markdown, show

__all__ = ["CLAIMS", "Claim", "Evidence", "Verdict", "VerdictError", "claims_of", "markdown", "show"]
