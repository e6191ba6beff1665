"""Checks of arguments that several modules of this room share."""

from __future__ import annotations

import operator


def whole_number(name: str, value: object, *, at_least: int) -> int:
    """Return `value` as an int, or say which argument is wrong and why.

    Raises
    ------
    TypeError
        If `value` is no whole number (a bool is none).
    ValueError
        If it is smaller than `at_least`.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None
    if number < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {number}")
    return number
