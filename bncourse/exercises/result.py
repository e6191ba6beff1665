"""What a check says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mistake:
    """A known mistake.

    Attributes
    ----------
    code
        Its name, such as ``"epsilon-outside"``.
    diagnosis
        One sentence: what the answer does.
    hint
        A question or a pointer that does not give the solution away.
    """

    code: str
    diagnosis: str
    hint: str


@dataclass(frozen=True, repr=False)
class Result:
    """What a check found; shows its message, and is true if the answer passed.

    Attributes
    ----------
    passed
        Whether the answer is right.
    mistakes
        Codes of the known mistakes that the answer was recognised by.
    symptoms
        Kinds of what is wrong where no known mistake fits, such as ``"shape"`` or ``"factor"``.
    message
        All of it in words, over one line or several.
    """

    passed: bool
    mistakes: tuple[str, ...]
    symptoms: tuple[str, ...]
    message: str

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return self.message
