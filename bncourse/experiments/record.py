"""What a run of an experiment found, in memory and as a JSON file that is checked against a schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bncourse.atomic import replacing

#: What the file says of its own form. Another number is another form.
FORMAT = "bncourse run 1"

#: The libraries whose versions decide how a run comes out.
LIBRARIES = ("bncourse", "numpy", "tensorflow", "tf-keras")


class RecordError(ValueError):
    """A file is no record of a run, or one of another version; the message says which, and what to do."""


class ResumeError(ValueError):
    """A run cannot go on from what is there; the message says why."""


class InterruptedRun(KeyboardInterrupt):
    """The run was asked to stop and has saved its checkpoint."""


@dataclass(frozen=True)
class Run:
    """One training run. Runs are equal if all is that tells what was computed.

    Attributes
    ----------
    experiment : str
        Name of the experiment, as ``bncourse run --list`` shows it.
    configuration : mapping
        All options, those left at their defaults too.
    data : mapping
        Name of the data set, numbers of images, and a checksum over all of them.
    log : tuple of mappings
        One entry for every look at the network, its numbers by their names: "batch", the step counted from 0 as in
        article A; and scores like "validation_moving_accuracy" (0 to 1) and "validation_moving_loss" (nats).
    final : mapping
        Numbers at the end, by their names.
    seconds : float
        Wall-clock time, that of broken-off parts included. Not compared.
    versions : mapping
        Versions of the libraries. Not compared.
    code : str
        Fingerprint of the modules that decide the result; see :func:`bncourse.experiments.fingerprint.of`. Not
        compared.
    peak_memory : int or None
        The most memory that the process held until the end of the run, in bytes, if the experiment and the system tell
        it. Not compared.
    notes : tuple of str
        What the user should know about the data, in words that a terminal can show. Neither compared nor stored.
    """

    experiment: str
    configuration: Mapping[str, Any]
    data: Mapping[str, Any]
    log: tuple[Mapping[str, float], ...]
    final: Mapping[str, float]
    seconds: float = field(compare=False)
    versions: Mapping[str, str] = field(compare=False)
    code: str = field(compare=False)
    peak_memory: int | None = field(compare=False, default=None)
    notes: tuple[str, ...] = field(compare=False, default=(), repr=False)

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """Batch numbers of the log, shape (entries,)."""
        return self.column("batch").astype(np.int64)

    def column(self, name: str) -> npt.NDArray[np.float64]:
        """Return one column of the log, shape (entries,).

        Raises
        ------
        ValueError
            If the log has no such column.
        """
        known = self.log[0].keys() if self.log else ()
        if name not in known:
            raise ValueError(f"the log of {self.experiment!r} has no column {name!r}; it has: {', '.join(known)}.")
        return np.array([entry[name] for entry in self.log], np.float64)

    def accuracies(self, series: str) -> npt.NDArray[np.float64]:
        """Return the accuracies of `series`, say "validation_moving", shape (entries,)."""
        return self.column(f"{series}_accuracy")

    def losses(self, series: str) -> npt.NDArray[np.float64]:
        """Return the losses of `series`, say "train_batch", in nats, shape (entries,)."""
        return self.column(f"{series}_loss")

    def at(self, batch: int) -> Mapping[str, float]:
        """Return the log's entry after step `batch`.

        Raises
        ------
        ValueError
            If there is none.
        """
        for entry in self.log:
            if entry["batch"] == batch:
                return entry
        raise ValueError(f"the log has no entry for batch {batch}; it has {', '.join(map(str, self.steps))}.")


def check_resume(checkpoint: Path | None, resume: bool) -> None:
    """Check that there is a checkpoint, if the run is to go on from one.

    Raises
    ------
    ResumeError
        If there is none.
    """
    if resume and checkpoint is None:
        raise ResumeError("resume needs the checkpoint's path.")
    if resume and checkpoint is not None and not checkpoint.exists():
        raise ResumeError(f"{checkpoint}: there is no checkpoint to go on from. Start the run without resume.")


def differences(theirs: Any, mine: Any) -> str:
    """Return in words where two values, or two configurations, differ."""
    if not isinstance(mine, Mapping) or not isinstance(theirs, Mapping):
        return f"{theirs!r}, not {mine!r}"
    keys = [key for key in {**theirs, **mine} if theirs.get(key) != mine.get(key)]
    return ", ".join(f"{key} = {theirs.get(key)!r} there, {mine.get(key)!r} here" for key in keys)


def installed() -> dict[str, str]:
    """Return the versions of the libraries that decide how a run comes out."""
    return {name: version(name) for name in LIBRARIES}


def write(path: Path, run: Run) -> None:
    """Write a run to a JSON file, whole or not at all; numbers that are not finite become ``null``.

    Raises
    ------
    RecordError
        If the run does not fit the schema (a defect of the experiment).
    OSError
        If the file cannot be written.
    """
    content = _finite({"format": FORMAT, **asdict(run)})
    del content["notes"]
    if run.peak_memory is None:
        del content["peak_memory"]
    _check(content, str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read(path: Path) -> Run:
    """Read what :func:`write` wrote.

    Raises
    ------
    RecordError
        If the file is no record, is damaged, or has another version's form.
    OSError
        If it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RecordError(
            f"{path} is no record of a run, or a damaged one ({error}). Run the experiment anew."
        ) from error
    form = content.get("format") if isinstance(content, dict) else None
    if form != FORMAT:
        raise RecordError(
            f"{path} has the format {form!r}; this version of bncourse reads {FORMAT!r}. Run the experiment anew, or "
            "read the file with the version that wrote it."
        )
    _check(content, str(path))
    parts = {name: value for name, value in content.items() if name != "format"}
    parts["log"] = tuple(_numbers(entry) for entry in parts["log"])
    parts["final"] = _numbers(parts["final"])
    return Run(**parts)


def _check(content: Mapping[str, Any], name: str) -> None:
    import jsonschema  # takes a moment to load

    try:
        jsonschema.validate(content, _schema())
    except jsonschema.ValidationError as error:
        raise RecordError(f"{name} is no record of a run: at {error.json_path}: {error.message}.") from error


@cache
def _schema() -> Any:
    return json.loads(resources.files(__package__).joinpath("record.schema.json").read_text(encoding="utf-8"))


def _finite(value: Any) -> Any:
    """Return `value` with ``None`` for every number that JSON cannot hold, and plain Python numbers for NumPy's."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _numbers(entry: Mapping[str, float | None]) -> dict[str, float]:
    return {name: float("nan") if value is None else value for name, value in entry.items()}
