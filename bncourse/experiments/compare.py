"""Several results in one table or one figure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from bncourse.experiments.record import Run, read
from bncourse.intervals import t_interval

#: Runs that differ in nothing but the seed, under what sets them apart from the others.
Groups = dict[str, list[Run]]


def gather(files: Iterable[Path]) -> Groups:
    """Read results, and put those together that differ in nothing but the seed.

    Parameters
    ----------
    files : iterable of Path
        Result files, or folders whose ``.json`` files are all taken.

    Returns
    -------
    dict of str to list of Run
        In the order of the files; a name says what sets a group apart.

    Raises
    ------
    ValueError
        If there is no file, one is no result, or two hold the same run.
    OSError
        If one cannot be read.
    """
    for given in files:
        if not given.exists():
            raise ValueError(f"{given}: there is no such file or folder.")
    paths = [path for given in files for path in (sorted(given.glob("*.json")) if given.is_dir() else [given])]
    if not paths:
        raise ValueError("there are no result files here; bncourse run makes them.")
    groups: dict[str, list[Run]] = {}
    found: dict[tuple[str, int], Path] = {}
    for path in paths:
        run = read(path)
        key = json.dumps([run.experiment, {**run.configuration, "seed": None}, dict(run.data)], sort_keys=True)
        start = (key, run.configuration["seed"])
        if start in found:
            raise ValueError(
                f"{path} and {found[start]} hold the same run: the same options, data and seed. Counted twice it would "
                "narrow the interval; leave one of them out."
            )
        found[start] = path
        groups.setdefault(key, []).append(run)
    return dict(zip(_names(list(groups.values())), groups.values(), strict=True))


def table(groups: Groups, columns: Sequence[str] | None = None) -> Table:
    """Return a table of the final numbers: mean and 95 % interval over the starts.

    Parameters
    ----------
    groups : dict
        From :func:`gather`.
    columns : sequence of str, optional
        Names of final numbers; by default all accuracies.

    Raises
    ------
    ValueError
        If no group has a column.
    """
    known = list(dict.fromkeys(name for runs in groups.values() for run in runs for name in run.final))
    wanted = list(columns or [name for name in known if name.endswith("_accuracy")] or known)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ValueError(f"no result has a final number {unknown[0]!r}; they have: {', '.join(known)}.")
    result = Table(
        title="Means over the starts, with 95 % intervals",
        caption="Two starts say little: their interval is very wide." if _has_pairs(groups) else None,
    )
    result.add_column("", overflow="fold")
    result.add_column("starts", justify="right")
    for name in wanted:
        result.add_column(name.replace("_", " "), justify="right", overflow="fold")
    for group, runs in groups.items():
        result.add_row(group, str(len(runs)), *(_cell([run.final.get(name) for run in runs]) for name in wanted))
    return result


def _has_pairs(groups: Groups) -> bool:
    return any(len(runs) == 2 for runs in groups.values())


def draw(groups: Groups, column: str, path: Path) -> None:
    """Draw one column of the logs over the batches: the mean of each group, and the range of its starts.

    Raises
    ------
    ValueError
        If a log has no such column, the starts of a group looked at different batches, or Matplotlib cannot write a
        file of this kind.
    OSError
        If the file cannot be written.
    """
    from matplotlib.figure import Figure

    from bncourse.plots import use_style

    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}.")
    use_style()
    figure = Figure()
    axes = figure.subplots()
    for name, runs in groups.items():
        if len({tuple(run.steps) for run in runs}) > 1:
            raise ValueError(f"{name}: the starts have entries at different batches, so they have no mean.")
        series = np.array([run.column(column) for run in runs])
        label = f"{name} ({len(runs)} start{'s' if len(runs) > 1 else ''})"
        (line,) = axes.plot(runs[0].steps, series.mean(axis=0), label=label)
        axes.fill_between(runs[0].steps, series.min(axis=0), series.max(axis=0), color=line.get_color(), alpha=0.2)
    axes.set(xlabel="batch", ylabel=column.replace("_", " "))
    axes.legend(fontsize="small")
    figure.savefig(path)


def _cell(values: list[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "–"
    if len(numbers) == 1 or not np.isfinite(numbers).all():
        return f"{np.mean(numbers):.4f}"
    return f"{t_interval(numbers):.4f}"


def _names(groups: list[list[Run]]) -> list[str]:
    """Return for each group what sets it apart: the options in which the groups differ."""
    first = [group[0] for group in groups]
    options = [{"experiment": run.experiment, **run.configuration} for run in first]
    keys = dict.fromkeys(key for option in options for key in option if key not in ("seed",))
    differing = [key for key in keys if len({json.dumps(option.get(key)) for option in options}) > 1]
    names = []
    for run, option in zip(first, options, strict=True):
        parts = [f"{key} {option[key]}" for key in differing if key in option]
        names.append(", ".join(parts) or run.experiment)
    return names
