"""The ``bncourse`` command."""

from __future__ import annotations

from typing import Annotated

import typer

from bncourse import __version__
from bncourse.benchmark.commands import bench
from bncourse.experiments.commands import compare, runs
from bncourse.experiments.memory_commands import memory
from bncourse.notebooks.commands import app as notebooks
from bncourse.results.commands import app as results

app = typer.Typer(
    no_args_is_help=True,
    help="Tools of the course on Batch Normalization: experiments, notebooks, time and memory.",
)
app.add_typer(notebooks, name="notebooks")
app.add_typer(results, name="results")
app.add_typer(runs, name="run")
app.command()(compare)
app.command()(bench)
app.command()(memory)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bncourse {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave."),
    ] = False,
) -> None:
    """Tools of the course on Batch Normalization: experiments, notebooks, time and memory."""
