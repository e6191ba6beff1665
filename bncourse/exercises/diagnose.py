"""Compare an answer with the reference and with every known mistake, and put the finding into words."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bncourse.exercises import mistakes
from bncourse.exercises.observe import Answer, Case, Failure, Observation, Value
from bncourse.exercises.result import Result
from bncourse.exercises.symptoms import Symptom, agree, describe
from bncourse.nn.checks import FloatArray

Codes = tuple[str, ...]

#: Longest line of a message: it fits a page of the book.
_WIDTH = 79

#: Stands for a space at which no line breaks.
_GLUE = "\x1f"

#: Mistakes found elsewhere that are combined to explain what none of them explains alone.
_MOST_KNOWN = 3

#: Failures that say: nothing was computed at all.
_NOTHING = ("unwritten", "none", "count", "exception", "dtype", "keys")

#: Failures that do not depend on the input.
_ALWAYS = ("unwritten", "none", "count", "keys")

#: Symptoms that say what is wrong: a known mistake need not be thought of.
_PLAIN = (*_NOTHING, "transposed", "precision")

#: Symptoms that several mistakes at once may leave behind.
_MIXED = ("spread", "affine", "factor-by-channel", "offset-by-channel", "numbers")

#: Outputs that need no call end like this.
_START = " at the start"

#: First words of the outputs that `backward` gives.
_OF_BACKWARD = ("dx", "dgamma", "dbeta")

#: What the names of a layer's outputs end in.
_MODES = ("in training mode", "in inference mode")

#: What every call of a stub does.
_UNWRITTEN = "raises NotImplementedError: it is not written yet."

#: With more right outputs than this, they are not listed.
_MOST_LISTED = 4


class Option(NamedTuple):
    """Switches that explain an output, and how many outputs they foretell in all."""

    switches: Codes
    fitting: int


@dataclass(frozen=True)
class Probe:
    """One question to an answer: how to ask it, a word on the input for the reader, and the input."""

    ask: Callable[[Answer], Observation]
    about: str
    shape: tuple[int, ...]
    inputs: tuple[tuple[str, FloatArray], ...] = ()


@dataclass(frozen=True)
class Task:
    """One check.

    Attributes
    ----------
    check
        Its name.
    outputs
        Names of the outputs.
    probes
        The questions; the first two have one shape.
    planted
        Returns an implementation with the mistakes that some switches make.
    switches
        Each makes one known mistake.
    pairs
        Whether to look for all pairs of mistakes in one output (else: for those that show elsewhere, with one more).
    extra
        A last look at an answer that is right otherwise: a known mistake's code, or None.
    """

    check: mistakes.Check
    outputs: tuple[str, ...]
    probes: tuple[Probe, ...]
    planted: Callable[[Iterable[str]], Answer]
    switches: Sequence[str]
    pairs: bool = True
    extra: Callable[[Answer], str | None] = lambda _: None


def diagnose(task: Task, answer: Answer) -> Result:
    """Return what is wrong with `answer`, if anything."""
    with np.errstate(all="ignore"):  # wrong numbers may be infinite
        return _diagnose(task, answer)


def _diagnose(task: Task, answer: Answer) -> Result:
    seen = [probe.ask(answer) for probe in task.probes]
    right = [probe.ask(task.planted(())) for probe in task.probes]
    order = _order(task, seen, right)
    if order != task.outputs:
        ordered = [{name: o.values[place] for place, name in zip(task.outputs, order, strict=True)} for o in seen]
        seen = [Observation(values, o.changed) for values, o in zip(ordered, seen, strict=True)]
    wrong = [name for name in task.outputs if not _same(name, seen, right)]
    direct = _found_directly(task, answer, seen, right, wrong, order)
    if not wrong and not direct:
        return Result(True, (), (), f"{_title(task)}: passed.")
    # Numbers that change from call to call, or from shape to shape, can only seem to fit a known mistake.
    explained = {} if {"shape-fixed", "remembers"} & set(direct) else _explain(task, wrong, seen)
    if "first-only" in mistakes.CODES[task.check] and not (direct or explained) and _first_only(task, seen, right):
        direct.append("first-only")
    return _in_words(task, wrong, seen, right, explained, direct, order)


def _order(task: Task, seen: list[Observation], right: list[Observation]) -> tuple[str, ...]:
    """Return the order in which the answer returns its outputs; their shapes tell, and the numbers where shapes fit."""
    if "wrong-order" not in mistakes.CODES[task.check]:
        return task.outputs

    def fits(order: tuple[str, ...], test: Callable[[Value, Value], bool]) -> int:
        placed = list(zip(task.outputs, order, strict=True))
        return sum(
            all(test(a.values[place], b.values[name]) for a, b in zip(seen, right, strict=True))
            for place, name in placed
        )

    def cost(order: tuple[str, ...]) -> tuple[int, int]:
        return -fits(order, _of_one_shape), -fits(order, agree)

    best = min(itertools.permutations(task.outputs), key=cost)
    # Where the shapes fit as they are, another order is only one of the possible explanations.
    return best if fits(best, _of_one_shape) > fits(task.outputs, _of_one_shape) else task.outputs


def _of_one_shape(value: Value, expected: Value) -> bool:
    return isinstance(value, np.ndarray) and isinstance(expected, np.ndarray) and value.shape == expected.shape


def _first_only(task: Task, seen: list[Observation], right: list[Observation]) -> bool:
    """Tell whether only the answer to the first question is right, though the second is of the same form."""

    def is_right(number: int, name: str) -> bool:
        return agree(seen[number].values[name], right[number].values[name])

    later = range(1, len(seen))
    return all(is_right(0, name) for name in task.outputs) and not any(
        all(is_right(number, name) for name in task.outputs) for number in later
    )


def _same(name: str, seen: Sequence[Observation], other: Sequence[Observation]) -> bool:
    return all(agree(a.values[name], b.values[name]) for a, b in zip(seen, other, strict=True))


def _found_directly(
    task: Task,
    answer: Answer,
    seen: list[Observation],
    right: list[Observation],
    wrong: list[str],
    order: tuple[str, ...],
) -> list[str]:
    """Return the codes of mistakes that no switch makes."""
    codes = [] if order == task.outputs else ["wrong-order"]
    if any(observation.changed for observation in seen):
        codes.append("mutates-input")
    if "remembers" in mistakes.CODES[task.check]:
        # In another order: what is kept for one shape, or from the call before, gives other numbers now.
        again = {number: task.probes[number].ask(answer).values for number in (1, 0)}
        places = list(zip(task.outputs, order, strict=True))
        if not all(_repeats(seen[n].values[name], again[n][place]) for place, name in places for n in again):
            codes.append("remembers")
    if "shape-fixed" in mistakes.CODES[task.check] and wrong:
        fits = [all(agree(a.values[n], b.values[n]) for n in wrong) for a, b in zip(seen, right, strict=True)]
        first = [probe.shape == task.probes[0].shape for probe in task.probes]
        if all(fit for fit, same in zip(fits, first, strict=True) if same):
            codes.append("shape-fixed")
    if not wrong and not codes and (code := task.extra(answer)):
        codes.append(code)
    return codes


def _repeats(value: Value, again: Value) -> bool:
    if isinstance(value, Failure) or isinstance(again, Failure):
        return isinstance(value, Failure) == isinstance(again, Failure)
    return agree(value, again, 1e-6)


def _explain(task: Task, wrong: list[str], seen: list[Observation]) -> dict[str, Codes]:
    """Return, for each wrong output that known mistakes explain, their codes: as few in all as possible."""
    telling = [name for name in wrong if not all(isinstance(o.values[name], Failure) for o in seen)]
    found = _matches(task, telling, seen, [(switch,) for switch in task.switches])
    for one_more in (True, False):
        left = [name for name in telling if not found[name]]
        if left and (one_more or not task.pairs):
            found |= _matches(task, left, seen, _combinations(task, _fewest(found), one_more))
    best = _fewest(found)
    return {name: tuple(dict.fromkeys(map(_code, option.switches))) for name, option in best.items()}


def _combinations(task: Task, known: dict[str, Option], one_more: bool) -> list[Codes]:
    """Return the combinations to try where one mistake does not explain an output."""
    if task.pairs:
        return [pair for pair in itertools.combinations(task.switches, 2) if mistakes.can_meet(*pair)]
    chosen = {switch for option in known.values() for switch in option.switches}
    ordered = sorted(chosen, key=task.switches.index)[:_MOST_KNOWN]
    combinations: list[Codes] = [*itertools.combinations(ordered, 2), *itertools.combinations(ordered, 3)]
    if one_more:
        combinations += [(a, b) for a in ordered for b in task.switches if _code(a) != _code(b)]
    return combinations


def _matches(
    task: Task, outputs: list[str], seen: list[Observation], options: Iterable[Codes]
) -> dict[str, list[Option]]:
    """Return, for each output, the switches that give what was seen, in every probe."""
    found: dict[str, list[Option]] = {name: [] for name in outputs}
    if not outputs:
        return found
    for switches in options:
        planted, fitting = task.planted(switches), list(task.outputs)
        for probe, observation in zip(task.probes, seen, strict=True):
            candidate = probe.ask(planted).values
            fitting = [name for name in fitting if agree(observation.values[name], candidate[name])]
            if found.keys().isdisjoint(fitting):
                break
        for name in found.keys() & fitting:
            found[name].append(Option(switches, len(fitting)))
    return found


def _fewest(found: dict[str, list[Option]]) -> dict[str, Option]:
    """Choose one explanation for each output, first the one that explains most of them.

    Of two that explain as many, it is the one with fewer mistakes that were not found yet, and then the one that
    foretells the other outputs better.
    """
    chosen: dict[str, Option] = {}
    while left := {name: options for name, options in found.items() if options and name not in chosen}:
        known = {_code(switch) for option in chosen.values() for switch in option.switches}
        explains = Counter(option for options in left.values() for option in options)

        def cost(option: Option, known: set[str] = known, explains: Counter[Option] = explains) -> tuple[int, ...]:
            codes = set(map(_code, option.switches))
            return -explains[option], len(codes - known), len(codes), -option.fitting

        best = min(explains, key=cost)
        chosen |= {name: best for name, options in left.items() if best in options}
    return {name: chosen[name] for name in found if name in chosen}


def _code(switch: str) -> str:
    return switch.partition(":")[0]


def _in_words(
    task: Task,
    wrong: list[str],
    seen: list[Observation],
    right: list[Observation],
    explained: dict[str, Codes],
    direct: list[str],
    order: tuple[str, ...],
) -> Result:
    by_code: dict[str, list[str]] = {code: [] for code in direct}
    for name, codes in explained.items():
        for code in codes:
            by_code.setdefault(code, []).append(name)
    lines = [f"{_title(task)}: not yet."]
    for code, names in by_code.items():
        lines += _about_mistake(task, code, names if len(task.outputs) > 1 else [], seen, order)
    rest = [] if "remembers" in direct else [name for name in wrong if name not in explained]
    symptoms = {name: _symptom(task, name, seen, right) for name in rest}
    unknown = any(s.kind not in _PLAIN for s in symptoms.values())
    if unknown and not {"shape-fixed", "first-only"} & set(direct):
        what = "No known mistake fits" + (" the following" if len(task.outputs) > 1 else "")
        mixed = any(s.kind in _MIXED for s in symptoms.values())
        lines.append(f"  {what}{', alone or with one more; perhaps there are more than two' if mixed else ''}.")
    lines += _about_symptoms(task, symptoms)
    fine = [name for name in task.outputs if name not in wrong]
    if fine and wrong:
        lines.append("  All else is right." if len(fine) > _MOST_LISTED else f"  Right: {_listed(fine)}.")
    kinds = tuple(dict.fromkeys(symptom.kind for symptom in symptoms.values()))
    return Result(False, tuple(by_code), kinds, "\n".join(map(_wrapped, lines)))


def _about_mistake(
    task: Task, code: str, names: list[str], seen: list[Observation], order: tuple[str, ...]
) -> list[str]:
    mistake = mistakes.mistake(code)
    lines = [f"  [{code}] {mistake.diagnosis}"]
    if code == "mutates-input":
        lines.append(f"    Changed: {', '.join(sorted({name for o in seen for name in o.changed}))}.")
    if code == "wrong-order":
        lines.append(f"    Returned: {', '.join(order)}.")
    if names:
        lines.append(f"    Seen in: {_listed(names)}.")
    if (task.check, code) in mistakes.NOTES:
        lines.append(f"    {mistakes.NOTES[task.check, code]}")
    return [*lines, f"    Hint: {mistake.hint}"]


def _about_symptoms(task: Task, symptoms: dict[str, Symptom]) -> list[str]:
    """Return a line for each symptom, with the outputs that show it."""
    by_symptom: dict[Symptom, list[str]] = {}
    for name, symptom in symptoms.items():
        by_symptom.setdefault(symptom, []).append(name)
    lines = []
    for symptom, names in by_symptom.items():
        verbal = symptom.kind in _NOTHING
        if symptom.subject:
            tails = set(_by_tail(names))
            where = f" Seen in: {_listed(names)}." if tails < {*_MODES} else ""
            lines.append(f"  {symptom.subject} {symptom.text}{where}")
        elif verbal and len(names) == len(task.outputs):
            lines.append(f"  Your answer {symptom.text}")
        elif verbal and {name for name in task.outputs if not name.endswith(_START)} <= set(names):
            lines.append(f"  Every call {_UNWRITTEN if symptom.kind == 'unwritten' else symptom.text}")
        elif verbal and set(_by_tail(names).values()) == {_OF_BACKWARD}:
            lines.append(f"  backward {' and '.join(_by_tail(names))} {symptom.text}")
        else:
            link = ": " if not verbal else ": each " if len(names) > 1 else " "
            lines.append(f"  {_listed(names)}{link}{symptom.text}")
    return lines


def _listed(names: list[str]) -> str:
    """Return the outputs' names, with what several have in common said once."""
    return "; ".join(", ".join(heads) + (f" {tail}" if tail else "") for tail, heads in _by_tail(names).items())


def _by_tail(names: list[str]) -> dict[str, tuple[str, ...]]:
    """Return the first words of the names, by the rest of the name: the mode, for most outputs of a layer."""
    heads: dict[str, tuple[str, ...]] = {}
    for name in names:
        head, _, tail = name.partition(" ")
        heads[tail] = (*heads.get(tail, ()), head)
    training, inference = _MODES
    if heads.get(training) == heads.get(inference, ()):
        heads = {"in both modes" if tail == training else tail: h for tail, h in heads.items() if tail != inference}
    return heads


def _symptom(task: Task, name: str, seen: list[Observation], right: list[Observation]) -> Symptom:
    """Return what the first probe that shows anything shows, with a word on that probe."""
    for probe, got, expected in zip(task.probes, seen, right, strict=True):
        value, target = got.values[name], expected.values[name]
        assert isinstance(target, np.ndarray)
        if not agree(value, target):
            symptom = describe(value, target, name.partition(" ")[0])
            for given, array in probe.inputs:
                if agree(value, array):
                    symptom = Symptom("unchanged", f"it is {given}, unchanged.")
            return symptom if symptom.kind in _ALWAYS else symptom._replace(text=f"{symptom.text} ({probe.about})")
    raise AssertionError(name)


def _wrapped(line: str) -> str:
    """Break a line so that it fits a page; what follows is indented a little more."""
    indent = " " * (len(line) - len(line.lstrip()))
    kept = re.sub(r"(?<=\d), (?=-?\d)", f",{_GLUE}", re.sub(r" = (?=-?\d)", f"{_GLUE}={_GLUE}", line))
    filled = textwrap.fill(
        kept.strip(), _WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False
    )
    return filled.replace(_GLUE, " ")


def _title(task: Task) -> str:
    return task.check.replace("_", " ")


def probe_of(case: Case, inputs: Sequence[str], outputs: Sequence[str], about: str, shape: tuple[int, ...]) -> Probe:
    """Return the probe that calls a function."""
    given = zip(inputs, case.steps[0], strict=True)
    arrays = tuple((name, value) for name, value in given if isinstance(value, np.ndarray))
    return Probe(lambda answer: case.observe(answer, inputs, outputs), about, shape, arrays)
