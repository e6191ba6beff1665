"""``bncourse results``: make the recorded results, and tell which no longer fit the code."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from bncourse.experiments.plan import SWEEPS, state

if TYPE_CHECKING:
    from bncourse.experiments.sweep import Task

app = typer.Typer(no_args_is_help=True, help="The recorded results that chapters read: make them, check them.")

Names = Annotated[list[str] | None, typer.Argument(help="Sweeps; all by default.")]


@app.command()
def check(names: Names = None) -> None:
    """Tell which records fit the code, which do not, and which are missing. Ends with 1 if not all fit."""
    table = Table(title="Recorded results")
    for title in ("sweep", "what for", "fits", "stale", "missing"):
        table.add_column(title, justify="left" if title in ("sweep", "what for") else "right")
    everything_fits = True
    for name in _known(names):
        found = Counter(state(task) for task in SWEEPS[name].tasks())
        everything_fits = everything_fits and set(found) == {"fits"}
        table.add_row(name, SWEEPS[name].purpose, *(str(found[kind]) for kind in ("fits", "stale", "missing")))
    Console().print(table)
    if not everything_fits:
        typer.echo("make results makes anew what is stale or missing.")
        raise typer.Exit(1)


@app.command()
def make(
    names: Names = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once, each in a process of its own.")] = 2,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler.")] = None,
) -> None:
    """Make what is stale or missing; most needs MNIST. It can be stopped at any time, and the next call goes on."""
    from bncourse.data import DataError, load_mnist
    from bncourse.experiments.sweep import execute_all

    plan: list[Task] = []
    for name in _known(names):
        plan += [task for task in SWEEPS[name].tasks() if state(task) != "fits"]
    if not plan:
        typer.echo("All records fit the code; there is nothing to do.")
        return
    try:
        if any(task.options.get("data") == "mnist" for task in plan):
            load_mnist()
    except DataError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    from tqdm import tqdm

    with tqdm(total=len(plan), unit="run") as bar:
        for task, _ in execute_all(plan, jobs=jobs, scheduler=scheduler, overwrite=True):
            bar.update()
            bar.write(f"Stored {task.path.parent.name}/{task.path.name}.")


def _known(names: list[str] | None) -> list[str]:
    wanted = names or list(SWEEPS)
    for name in wanted:
        if name not in SWEEPS:
            typer.echo(f"error: there is no sweep {name!r}; there are: {', '.join(SWEEPS)}.", err=True)
            raise typer.Exit(1)
    return wanted
