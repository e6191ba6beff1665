"""Say how a wrong array differs from the right one, when no known mistake fits."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from bncourse.exercises.observe import Failure, Value
from bncourse.nn.checks import FloatArray

#: How far an answer may be off, as a share of the largest number: room for float32, far below any known mistake.
TOLERANCE = 1e-4

#: An answer of fewer bytes for each number is told so, if it agrees to this tolerance: that of float16.
_ENOUGH_BYTES, _FEW_DIGITS = 4, 2e-3

#: Below this a number in a message is rounding error.
_NOISE = 1e-9


class Symptom(NamedTuple):
    """What is wrong: a kind in one word, and a sentence that begins after the name of the output, or the subject."""

    kind: str
    text: str
    subject: str = ""


def agree(value: Value, expected: Value, tolerance: float = TOLERANCE) -> bool:
    """Tell whether two values are the same but for rounding; two exceptions are."""
    if isinstance(value, Failure) or isinstance(expected, Failure):
        both = isinstance(value, Failure) and isinstance(expected, Failure)
        return both and value.kind == expected.kind == "exception"  # type: ignore[union-attr]
    if value.shape != expected.shape:
        return False
    finite = np.isfinite(expected)
    if not np.array_equal(np.isfinite(value), finite) or not np.array_equal(value[~finite], expected[~finite], True):
        return False
    return bool(np.all(np.abs(value - expected)[finite] <= tolerance * _scale(expected)))


def describe(value: Value, expected: FloatArray, name: str) -> Symptom:
    """Return the most telling symptom of a wrong value."""
    if isinstance(value, Failure):
        return Symptom(value.kind, value.text, value.subject)
    if value.shape != expected.shape:
        return _wrong_shape(value, expected)
    if value.dtype.itemsize < _ENOUGH_BYTES and agree(value, expected, _FEW_DIGITS):
        return _few_digits(value, expected, name)
    bad = ~np.isfinite(value)
    if bad.any():
        return Symptom("not-finite", f"{bad.sum()} of {bad.size} entries are NaN or infinite, the first {_at(bad)}.")
    return _pattern(value, expected) or _first_wrong(value, expected, name)


def _wrong_shape(value: FloatArray, expected: FloatArray) -> Symptom:
    text = f"the shape is {value.shape}; expected {expected.shape}."
    if agree(value.T, expected):
        return Symptom("transposed", f"{text} It is the transpose of the right answer.")
    if value.ndim > 2 and (axes := _reordered(value, expected)):
        return Symptom("transposed", f"{text} It is the right answer transposed, with the axes in the order {axes}.")
    if value.size == expected.size and agree(value.reshape(expected.shape), expected):
        text += " The numbers are right."
    return Symptom("shape", text)


def _reordered(value: FloatArray, expected: FloatArray) -> tuple[int, ...] | None:
    """Return the order of the axes that makes `value` of the right array, if there is one."""
    orders = itertools.permutations(range(expected.ndim))
    return next((axes for axes in orders if agree(value, expected.transpose(axes))), None)


def _pattern(value: FloatArray, expected: FloatArray) -> Symptom | None:
    """Look for a simple rule that leads from the right array to the wrong one."""
    if value.ndim == 2 and value.shape[0] == value.shape[1] and agree(value.T, expected):
        return Symptom("transposed", "it is the transpose of the right answer.")
    if not np.any(value):
        return Symptom("zero", "every entry is 0.")
    factor = _ratio(value, expected)
    if agree(value, factor * expected) and abs(factor) > TOLERANCE:
        return Symptom("factor", f"every entry is {short(factor)} times what it should be.")
    if agree(value - np.mean(value - expected), expected):
        return Symptom("offset", f"every entry is too large by {short(float(np.mean(value - expected)))}.")
    return _pattern_by_channel(value, expected) if value.ndim > 1 else None


def _pattern_by_channel(value: FloatArray, expected: FloatArray) -> Symptom | None:
    got, right = value.reshape(-1, value.shape[-1]), expected.reshape(-1, value.shape[-1])
    if len(got) < 3:  # two numbers fit any straight line
        return None
    factors = np.array([_ratio(a, b) for a, b in zip(got.T, right.T, strict=True)])
    if agree(got, factors * right) and np.abs(factors).min() > TOLERANCE:
        return Symptom("factor-by-channel", f"each channel is right but for a factor: {_numbers(factors)}.")
    offsets = (got - right).mean(axis=0)
    if agree(got - offsets, right):
        return Symptom("offset-by-channel", f"each channel is right but for an offset: {_numbers(offsets)}.")
    centred, right_centred = got - got.mean(axis=0), right - right.mean(axis=0)
    slopes = np.array([_ratio(a, b) for a, b in zip(centred.T, right_centred.T, strict=True)])
    if agree(got.mean(axis=0), right.mean(axis=0)) and agree(centred, slopes * right_centred):
        return Symptom("spread", f"each channel's mean is right, its spread is off by a factor: {_numbers(slopes)}.")
    if agree(centred, slopes * right_centred) and np.abs(slopes).min() > TOLERANCE:
        return Symptom(
            "affine",
            f"each channel is right but for a factor and an offset: {_numbers(slopes)} and "
            f"{_numbers(got.mean(axis=0) - slopes * right.mean(axis=0))}.",
        )
    return None


def _first_wrong(value: FloatArray, expected: FloatArray, name: str) -> Symptom:
    wrong = np.abs(value - expected) > TOLERANCE * _scale(expected)
    place = tuple(int(i) for i in np.argwhere(wrong)[0]) if wrong.any() else ()
    where = f"{name}[{', '.join(map(str, place))}]" if place else name
    error = np.abs(value - expected).max()
    got, right = _apart(float(value[place]), float(expected[place]))
    return Symptom(
        "numbers",
        f"{wrong.sum()} of {wrong.size} entries are wrong, by up to {short(error)}; the first is "
        f"{where} = {got}, expected {right}.",
    )


def _few_digits(value: FloatArray, expected: FloatArray, name: str) -> Symptom:
    found = _first_wrong(value, expected, name)
    return Symptom("precision", f"{found.text} Your answer has dtype {value.dtype}, which keeps three digits.")


def _apart(value: float, expected: float) -> tuple[str, str]:
    """Return both numbers with three digits, or with as many as it takes to see that they differ."""
    for digits in range(3, 18):
        pair = f"{value:.{digits}g}", f"{expected:.{digits}g}"
        if pair[0] != pair[1]:
            break
    return (short(value), short(expected)) if digits == 3 else pair


def _ratio(value: FloatArray, expected: FloatArray) -> float:
    """Return the factor that fits best."""
    square = float(np.sum(expected * expected))
    return float(np.sum(value * expected)) / square if square else 0.0


def _scale(expected: FloatArray) -> float:
    finite = np.abs(expected[np.isfinite(expected)])
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0


def _at(wrong: FloatArray) -> str:
    place = [int(i) for i in np.argwhere(wrong)[0]]
    return f"at {place}" if place else "and only one"


def short(value: float) -> str:
    """Return a number with three digits; what is only rounding error is 0, so that every processor says the same."""
    return "0" if abs(value) < _NOISE else f"{value:.3g}"


def _numbers(values: FloatArray) -> str:
    shown = [short(value) for value in values[:4]]
    return ", ".join(shown) + (", ..." if len(values) > 4 else "")
