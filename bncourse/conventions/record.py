"""The table of conventions as a file: the answers, and the versions that gave them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from bncourse.conventions.probes import QUESTIONS, Question, Subject, probe
from bncourse.results import files

#: Changes when the form of the file does.
FORM = 1


class Answers(TypedDict):
    """One row of the table.

    Attributes
    ----------
    versions
        The version of each package that answered.
    answers
        The answer to each question, by the question's key.
    """

    versions: dict[str, str]
    answers: dict[str, str]


#: The table: its rows by the subject's name.
Record = dict[str, Answers]


def probe_installed(subjects: Iterable[Subject]) -> Record:
    """Ask those of `subjects` whose packages are installed; the others are left out."""
    record: Record = {}
    for subject in subjects:
        if (versions := subject.versions()) is not None:
            record[subject.name] = {"versions": versions, "answers": probe(subject)}
    return record


def read_record(path: str | Path) -> Record:
    """Read what :func:`write_record` wrote.

    Raises
    ------
    ValueError
        If the file is no table of conventions, or has another form.
    OSError
        If it cannot be read.
    """
    with files.reading(path, "table of conventions") as content:
        files.check_form(path, content["form"], FORM, _AGAIN)
        keys = {question.key for question in QUESTIONS}
        for name, row in content["rows"].items():
            if set(row["answers"]) != keys or not row["versions"]:
                raise ValueError(f"{path} has other questions for {name!r}. Make it again with: {_AGAIN}")
        return dict(content["rows"])


def write_record(path: str | Path, record: Record) -> None:
    """Write the table to the JSON file `path`, whole or not at all."""
    files.write(path, {"form": FORM, "rows": record})


def differences(recorded: Mapping[str, Answers], found: Mapping[str, Answers]) -> list[str]:
    """Return a line for each answer of `found` that is not the recorded one.

    Rows that are only recorded are passed over: their library is not installed here.
    """
    lines = []
    for name, row in found.items():
        if name not in recorded:
            lines.append(f"{name} is not in the record. Add it with: {_AGAIN}")
            continue
        old = recorded[name]
        for key, answer in row["answers"].items():
            if answer != old["answers"].get(key):
                lines.append(
                    f"{name}, {key}: {answer!r} with {_versions(row)}; "
                    f"recorded {old['answers'].get(key)!r} with {_versions(old)}."
                )
    return lines


def markdown(record: Mapping[str, Answers], questions: Sequence[str], *, versions: bool = False) -> str:
    """Return the table in Markdown: a line for each subject, a column for each of `questions`.

    Parameters
    ----------
    record
        The table.
    questions
        Keys of the questions, in the order of the columns.
    versions
        Whether a last column says which versions gave the answers.

    Raises
    ------
    ValueError
        If there is no question of that key.
    """
    known: dict[str, Question] = {question.key: question for question in QUESTIONS}
    for key in questions:
        if key not in known:
            raise ValueError(f"there is no question {key!r}; there are: {', '.join(known)}.")
    last = ["recorded with"] if versions else []
    lines = [["layer", *(known[key].title for key in questions), *last]]
    lines.append(["---"] * len(lines[0]))
    for name, row in record.items():
        with_versions = [_versions(row)] if versions else []
        lines.append([name, *(row["answers"][key] for key in questions), *with_versions])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


_AGAIN = "python -m bncourse.conventions --record"


def _versions(row: Answers) -> str:
    return ", ".join(f"{package} {version}" for package, version in row["versions"].items())
