"""Several runs, each with its own file: one after the other, on several processes, or on a Dask cluster."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from bncourse.data.photographs import CROPS, load_photographs
from bncourse.experiments.catalogue import configure, run
from bncourse.experiments.configurations import PhotographsConfiguration
from bncourse.experiments.record import ResumeError, Run, differences, read, write


class ExistsError(FileExistsError):
    """There is a result already; nothing was overwritten."""


@dataclass(frozen=True)
class Task:
    """One run to be made.

    Attributes
    ----------
    experiment : str
        Its name.
    options : mapping
        What differs from the defaults.
    path : Path
        File of the result; the checkpoint stands beside it.
    """

    experiment: str
    options: Mapping[str, Any]
    path: Path

    @property
    def checkpoint(self) -> Path:
        """File of the checkpoint, there only while the run is unfinished."""
        return self.path.with_suffix(".checkpoint.npz")

    def configuration(self) -> dict[str, Any]:
        """Return all options, as the record will hold them."""
        return asdict(configure(self.experiment, self.options))


def tasks(experiment: str, choices: Mapping[str, Sequence[Any]], folder: Path) -> list[Task]:
    """Return a task for every combination of the choices, named after what was chosen.

    Parameters
    ----------
    experiment : str
        Name of the experiment.
    choices : mapping of str to sequence
        For each option the values to try; options that are left out keep their defaults.
    folder : Path
        Where the results will stand.

    Raises
    ------
    TypeError, ValueError
        If a configuration is impossible: before anything runs.
    """
    names = list(choices)
    plan = []
    for values in product(*choices.values()):
        options = dict(zip(names, values, strict=True))
        configure(experiment, options)
        label = "-".join([experiment, *(f"{name}={_word(value)}" for name, value in options.items())])
        plan.append(Task(experiment, options, folder / f"{label}.json"))
    return plan


def _word(value: Any) -> str:
    """Return a value as a part of a file's name: a path by its last part, with a checksum that tells it from others."""
    text = str(value)
    safe = re.sub(r"[^\w.+-]", "_", Path(text).name)[-40:]
    return text if safe == text else f"{safe}-{zlib.crc32(os.fsencode(text)):08x}"


def execute(
    task: Task,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    tell: Callable[[str], None] | None = None,
) -> Run:
    """Make one run and write its file; a result that is there already is returned if it is asked to resume.

    `tell` is called with what is worth knowing before the training: see :func:`bncourse.experiments.catalogue.run`.

    Raises
    ------
    ExistsError
        If there is a result and neither `resume` nor `overwrite` is set.
    bncourse.experiments.record.ResumeError
        If result or checkpoint are of another configuration or other data, or there is neither.
    """
    if task.path.exists() and not overwrite:
        if resume:
            return _finished(task)
        raise ExistsError(f"{task.path} exists. Choose another file, or say overwrite, or resume to keep it.")
    task.path.parent.mkdir(parents=True, exist_ok=True)
    how: dict[str, Any] = {"resume": resume, "progress": progress, "tell": tell}
    found = run(task.experiment, checkpoint=task.checkpoint, **how, **dict(task.options))
    write(task.path, found)
    return found


def execute_all(
    plan: Iterable[Task], *, jobs: int = 1, scheduler: str | None = None, overwrite: bool = False
) -> Iterator[tuple[Task, Run]]:
    """Make many runs, in any order; what is finished already is kept, what has a checkpoint goes on.

    Every run writes its own file as soon as it is done, so that whatever happens to the others loses nothing.

    Parameters
    ----------
    plan : iterable of Task
        The runs.
    jobs : int
        Processes at once, on this machine.
    scheduler : str, optional
        Address of a Dask scheduler whose workers make the runs; they must see the same files. Needs the extra
        ``cluster``.
    overwrite : bool
        Make anew what is there.

    Yields
    ------
    (Task, Run)
        As they are finished.

    Raises
    ------
    ImportError
        If a scheduler is named and Dask is not installed.
    """
    from joblib import Parallel, delayed

    with _backend(scheduler):
        parallel = Parallel(n_jobs=jobs if scheduler is None else -1, return_as="generator_unordered")
        yield from parallel(delayed(_one)(task, overwrite) for task in plan)


def _one(task: Task, overwrite: bool) -> tuple[Task, Run]:
    begun = task.checkpoint.exists() or (task.path.exists() and not overwrite)
    try:
        return task, execute(task, resume=begun, overwrite=overwrite)
    except ResumeError:
        if not overwrite:
            raise
        return task, execute(task, overwrite=True)  # a checkpoint of other code, say, is no start for this run


def _finished(task: Task) -> Run:
    """Return the result that is there, if it is this task's."""
    found = read(task.path)
    wanted = task.configuration()
    if found.experiment != task.experiment:
        raise ResumeError(f"{task.path} holds a run of {found.experiment!r}, not of {task.experiment!r}.")
    if dict(found.configuration) != wanted:
        where = differences(found.configuration, wanted)
        raise ResumeError(f"{task.path} holds a run with another configuration: {where}. Choose another file.")
    _check_folder(task, found)
    return found


def _check_folder(task: Task, found: Run) -> None:
    """Check that a reader's folder holds what it held when the result was made."""
    configuration = configure(task.experiment, task.options)
    if not isinstance(configuration, PhotographsConfiguration) or configuration.data == CROPS:
        return
    now = load_photographs(configuration.data, size=configuration.image_size).describe()
    if now != dict(found.data):
        where = differences(found.data, now)
        raise ResumeError(
            f"{task.path} was made from other photographs: {where}. Choose another file, or make it anew with "
            "--overwrite."
        )


@contextmanager
def _backend(scheduler: str | None) -> Iterator[None]:
    if scheduler is None:
        yield
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError("a Dask scheduler needs the extra 'cluster': pip install 'bncourse[cluster]'.") from error
    import joblib

    with Client(scheduler), joblib.parallel_config("dask"):
        yield
