"""Run a reader's answer and write down what it does: nothing that it does wrong gets out as an exception."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from bncourse.nn.checks import FloatArray

Answer: TypeAlias = Callable[..., Any]

#: Longest piece of a reader's error message that is repeated.
_LONGEST = 200


@dataclass(frozen=True)
class Failure:
    """Why there is no array.

    Attributes
    ----------
    kind
        One word, such as ``"exception"`` or ``"dtype"``.
    text
        The story, a sentence without its subject.
    subject
        What the sentence is about, where this is not the output itself.
    """

    kind: str
    text: str
    subject: str = ""


Value: TypeAlias = FloatArray | Failure


@dataclass
class Observation:
    """What an answer did in one case: a value for each output, and the arguments that it changed."""

    values: dict[str, Value]
    changed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Case:
    """One call of a reader's function, or several, each of which continues with the outputs of the one before.

    Attributes
    ----------
    steps
        The arguments of each call; from the second on, the first ones are replaced by the outputs so far.
    """

    steps: tuple[tuple[Any, ...], ...]

    def observe(self, answer: Answer, inputs: Sequence[str], outputs: Sequence[str]) -> Observation:
        """Call `answer` with copies of the arguments."""
        observation = Observation({})
        for step in self.steps:
            arguments = [np.copy(value) if isinstance(value, np.ndarray) else value for value in step]
            if observation.values:
                arguments[: len(outputs)] = [np.copy(np.asarray(v)) for v in observation.values.values()]
            before = [np.copy(value) if isinstance(value, np.ndarray) else value for value in arguments]
            observation.values = _values(partial(answer, *arguments), outputs)
            observation.changed += changed_names(inputs, before, arguments)
            if any(isinstance(value, Failure) for value in observation.values.values()):
                break
        return observation


def changed_names(names: Sequence[str], before: Sequence[Any], after: Sequence[Any]) -> list[str]:
    """Return the names of the arguments that differ."""
    pairs = zip(names, before, after, strict=True)
    return [name for name, old, new in pairs if isinstance(old, np.ndarray) and not np.array_equal(old, new)]


def quietly(action: Callable[[], Any]) -> Any:
    """Run `action` without warnings; return its result, or a `Failure` if it raises."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return action()
    except NotImplementedError:
        return Failure("unwritten", "is not written yet: it raises NotImplementedError.")
    except Exception as error:
        return Failure("exception", f"raises {_in_words(error)}.")


def value_of(given: Any) -> Value:
    """Return `given` as an array of floats, or say why it is none."""
    if isinstance(given, Failure):
        return given
    if given is None:
        return Failure("none", "is None.")
    array = quietly(lambda: np.array(given))
    if isinstance(array, Failure):
        return Failure("dtype", f"is no array of numbers, but of type {type(given).__name__}.")
    if array.dtype.kind not in "f":
        if not isinstance(given, np.ndarray) and array.dtype.kind not in "iucb":
            return Failure("dtype", f"is no array of numbers, but of type {type(given).__name__}.")
        return Failure("dtype", f"has dtype {array.dtype}; expected floating-point numbers.")
    result: FloatArray = array
    return result


def _values(action: Answer, outputs: Sequence[str]) -> dict[str, Value]:
    given = quietly(action)
    if inspect.iscoroutine(given):
        given.close()  # else Python warns that nobody waited for it
    if given is None:
        given = Failure("none", "returns None; a return statement seems to be missing.")
    if len(outputs) == 1:
        if isinstance(given, tuple):
            given = Failure("count", f"returns a tuple of {len(given)}; expected {outputs[0]} alone.")
        if inspect.isgenerator(given) or inspect.iscoroutine(given):
            kind = type(given).__name__
            given = Failure("dtype", f"returns a {kind}; expected an array. Write return, and neither yield nor async.")
        return {outputs[0]: value_of(given)}
    if not isinstance(given, Failure):
        try:
            parts = list(given) if isinstance(given, tuple | list) else []
            if len(parts) == len(outputs):
                return {name: value_of(part) for name, part in zip(outputs, parts, strict=True)}
        except Exception:  # an odd object of the reader's own
            parts = []
        story = f"{len(parts)} outputs" if parts else f"one object of type {type(given).__name__}"
        names = ", ".join(outputs)
        given = Failure("count", f"returns {story}; expected {len(outputs)}, as in: return {names}.")
    return dict.fromkeys(outputs, given)


def _in_words(error: Exception) -> str:
    try:
        text = " ".join(str(error).split())
    except Exception:  # an odd exception of the reader's own
        text = ""
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 3] + "..."
    return f"{type(error).__name__}: {text.rstrip('.')}" if text else type(error).__name__
