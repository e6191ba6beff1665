"""``bncourse run`` and ``bncourse compare``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from rich.console import Console
from rich.table import Table

from bncourse.experiments.catalogue import EXPERIMENTS, Experiment

if TYPE_CHECKING:
    from bncourse.experiments.record import Run
    from bncourse.experiments.sweep import Task


runs = typer.Typer(no_args_is_help=True)

#: Longest list of words that ``--help`` shows beside an option's name.
_NARROW = 28


def _show_list(wanted: bool) -> None:
    if wanted:
        Console().print(_list())
        raise typer.Exit


@runs.callback()
def _runs(
    show: Annotated[
        bool,
        typer.Option(
            "--list",
            callback=_show_list,
            is_eager=True,
            help="Show what there is, what it is for, and how long it takes.",
        ),
    ] = False,
) -> None:
    """Train a system of the source articles and store what it found.

    Every option of a run may be given several times; then all combinations are run.
    """


def _list() -> Table:
    table = Table(
        title="Experiments",
        caption="Articles and rows: the book's page on the five articles. Minutes: on two cores; with --data mnist, "
        "where the digits are the default and take less, and with the embedded crops of photographs.",
    )
    for title in ("name", "what it is", "rows of the ledger", "minutes"):
        table.add_column(title)
    for experiment in EXPERIMENTS.values():
        table.add_row(experiment.name, experiment.title, " ".join(experiment.rows), f"{experiment.minutes:g}")
    return table


def _command(experiment: Experiment) -> Callable[..., None]:
    """Return a function whose arguments are the fields of the experiment's configuration, each a list."""

    def command(**given: Any) -> None:
        own = {name: given.pop(name) for name in list(given) if name in _OWN}
        choices = {name: [getattr(value, "value", value) for value in values or ()] for name, values in given.items()}
        _run(experiment.name, {name: values for name, values in choices.items() if values}, **own)

    types = get_type_hints(experiment.configuration)
    options = {place.name: (_option(place, types[place.name]), None) for place in fields(experiment.configuration)}
    options |= _OWN
    command.__annotations__ = {name: annotation for name, (annotation, _) in options.items()}
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, (annotation, default) in options.items()
        ]
    )
    return command


def _option(place: Any, kind: Any) -> Any:
    """Return the annotation of one option, which may be given several times."""
    words = get_args(kind) if get_origin(kind) is Literal else ()
    accepted: Any = Enum("Word", {word: word for word in words}) if words else kind
    # A flag could not be given several times, so yes and no are words.
    shown = "|".join(words or (("yes", "no") if kind is bool else (kind.__name__,)))
    metavar = shown if len(shown) <= _NARROW else "word"  # the column of a long one would leave no room for the help
    default = ("no", "yes")[int(place.default)] if kind is bool else place.default
    choices = f" One of {', '.join(words)}." if metavar == "word" else ""
    text = f"{place.metadata['help']}{choices} By default {default}."
    return Annotated[list[accepted] | None, typer.Option(help=text, show_default=False, metavar=metavar)]


#: Options of every experiment that are not part of its configuration.
_OWN: dict[str, tuple[Any, Any]] = {
    "seeds": (
        Annotated[
            int, typer.Option(min=0, help="How many random starts: the seeds 0, 1, 2 and so on; 0: --seed alone.")
        ],
        0,
    ),
    "out": (
        Annotated[Path, typer.Option(help="Folder of the results; for a single run also a file that ends in .json.")],
        Path("runs"),
    ),
    "resume": (
        Annotated[bool, typer.Option("--resume", metavar="", help="Keep what is finished, go on where it stopped.")],
        False,
    ),
    "overwrite": (Annotated[bool, typer.Option("--overwrite", metavar="", help="Make anew what is there.")], False),
    "jobs": (Annotated[int, typer.Option(min=1, help="Runs at once, each in a process of its own.")], 1),
    "scheduler": (
        Annotated[
            str | None,
            typer.Option(help="Address of a Dask scheduler whose workers make the runs and see the same files."),
        ],
        None,
    ),
}


def _run(
    name: str,
    choices: dict[str, list[Any]],
    *,
    seeds: int,
    out: Path,
    resume: bool,
    overwrite: bool,
    jobs: int,
    scheduler: str | None,
) -> None:
    from bncourse.data import DataError
    from bncourse.experiments.record import InterruptedRun
    from bncourse.experiments.sweep import tasks

    if seeds and "seed" in choices:
        _fail("--seed and --seeds exclude each other; give one of them.")
    if resume and overwrite:
        _fail("--resume and --overwrite exclude each other; give one of them.")
    if seeds:
        choices["seed"] = list(range(seeds))
    plan: list[Task] = []
    try:
        plan = _placed(tasks(name, choices, out), out)
        _refuse(plan, resume=resume, overwrite=overwrite)
        if len(plan) == 1 and scheduler is None:
            _single(plan[0], resume=resume, overwrite=overwrite)
        else:
            _several(plan, jobs=jobs, scheduler=scheduler, overwrite=overwrite)
    except InterruptedRun as stopped:
        typer.echo(f"{stopped}. The same command with --resume goes on.", err=True)
        raise typer.Exit(130) from None
    except KeyboardInterrupt:
        saved = any(path.exists() for task in plan for path in (task.path, task.checkpoint))
        how = "with --resume keeps what is finished and goes on" if saved else "starts anew; nothing was saved yet"
        typer.echo(f"stopped. The same command {how}.", err=True)
        raise typer.Exit(130) from None
    except (TypeError, ValueError, DataError, OSError, ImportError) as error:
        _fail(str(error))


def _placed(plan: list[Task], out: Path) -> list[Task]:
    """Return the plan; with `out` as the file itself if it names one."""
    from bncourse.experiments.sweep import Task

    if out.suffix != ".json":
        return plan
    if len(plan) > 1:
        raise ValueError(f"--out {out} is one file, and there are {len(plan)} runs. Name a folder.")
    return [Task(plan[0].experiment, plan[0].options, out)]


def _refuse(plan: list[Task], *, resume: bool, overwrite: bool) -> None:
    if resume or overwrite:
        return
    for task in plan:
        for path in (task.path, task.checkpoint):
            if path.exists():
                raise ValueError(f"{path} exists. --resume keeps what is there and goes on, --overwrite makes it anew.")


def _single(task: Task, *, resume: bool, overwrite: bool) -> None:
    from bncourse.experiments.sweep import execute

    run = execute(task, resume=resume, overwrite=overwrite, progress=True, tell=typer.echo)
    for name, value in run.final.items():
        typer.echo(f"{name:<32} {value:.6g}")
    typer.echo(f"{_cost(run)}. Stored in {task.path}.")


def _several(plan: list[Task], *, jobs: int, scheduler: str | None, overwrite: bool) -> None:
    from tqdm import tqdm

    from bncourse.experiments.sweep import execute_all

    if overwrite:  # what is made anew does not go on from a checkpoint
        for task in plan:
            task.checkpoint.unlink(missing_ok=True)
    for line in _ahead(plan):
        typer.echo(line)
    with tqdm(total=len(plan), unit="run") as bar:
        for task, run in execute_all(plan, jobs=jobs, scheduler=scheduler, overwrite=overwrite):
            bar.update()
            bar.write(f"{_cost(run)}. Stored in {task.path}.")
    typer.echo(f"bncourse compare {plan[0].path.parent} shows them side by side.")


def _ahead(plan: Sequence[Task]) -> list[str]:
    """Return what is worth knowing before several runs; each line once, for most often it is the same for all."""
    from bncourse.data.photographs import CROPS, load_photographs
    from bncourse.experiments.ahead import ahead
    from bncourse.experiments.catalogue import configure
    from bncourse.experiments.configurations import PhotographsConfiguration

    configurations = [configure(task.experiment, task.options) for task in plan]
    own = [each for each in configurations if isinstance(each, PhotographsConfiguration) and each.data != CROPS]
    searched = {
        each.data: load_photographs(each.data, size=each.image_size) for each in {c.data: c for c in own}.values()
    }
    return list(dict.fromkeys(line for each in own for line in ahead(each, searched[each.data])))


def _cost(run: Run) -> str:
    """Return in words what a run took."""
    memory = "" if run.peak_memory is None else f", at most {run.peak_memory / 2**20:,.0f} MiB in the process"
    return f"{run.seconds:,.1f} s{memory}"


def compare(
    files: Annotated[list[Path], typer.Argument(help="Result files, or folders of them.")],
    column: Annotated[
        list[str] | None, typer.Option(help="Number to show, say test_moving_accuracy; all accuracies by default.")
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            help="Draw one column of the logs, validation_moving_accuracy if --column names none, to this file (.png, "
            ".svg or .pdf) instead."
        ),
    ] = None,
) -> None:
    """Put several results into one table, or one figure: means over the seeds, with 95 % intervals."""
    from bncourse.experiments.compare import draw, gather, table

    try:
        groups = gather(files)
        if figure is None:
            Console().print(table(groups, column))
        else:
            draw(groups, (column or ["validation_moving_accuracy"])[0], figure)
            typer.echo(f"Drawn in {figure}.")
    except (ValueError, OSError) as error:
        _fail(str(error))


def _fail(message: str) -> None:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(1)


def _help(experiment: Experiment) -> str:
    return (
        f"Run {experiment.title}. An option may be given several times (--seed 0 --seed 1); then all combinations are "
        'run, each with a file of its own. Accuracies are shares from 0 to 1; "moving" means scored with the moving '
        'statistics, "batch" with the batch\'s own, "single" image by image.'
    )


for _experiment in EXPERIMENTS.values():
    runs.command(_experiment.name, help=_help(_experiment))(_command(_experiment))
