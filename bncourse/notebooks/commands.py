"""The commands ``bncourse notebooks execute`` and ``bncourse notebooks check``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

app = typer.Typer(no_args_is_help=True, help="Execute and check the book's notebooks.")

_Paths = Annotated[
    list[Path] | None,
    typer.Argument(help="Notebooks; all of the book where none is named.", exists=True, dir_okay=False),
]


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn an error that the user can mend into one line, without a traceback."""
    try:
        yield
    except (OSError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


@app.command()
@_plain_errors()
def execute(paths: _Paths = None) -> None:
    """Execute chapters, from the first cell to the last, and store their outputs.

    A file is written only where something changed; a chapter that fails keeps what it had. For example:
    bncourse notebooks execute book/1-theory/what-bn-computes.ipynb
    """
    from bncourse.notebooks import files
    from bncourse.notebooks.execute import execute as run

    outcomes = []
    for path in paths or files.notebooks_of(files.find_root(Path.cwd())):
        with tqdm(desc=path.stem, unit="cell", leave=False) as bar:

            def show(done: int, total: int, bar: Any = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            outcomes.append(run(path, on_cell=show))
        outcome = outcomes[-1]
        typer.echo(f"{outcome.state:>9}  {outcome.seconds:6.1f} s  {path}")
        if outcome.state == "failed":
            typer.echo(outcome.message, err=True)
    if any(outcome.state == "failed" for outcome in outcomes):
        raise typer.Exit(1)


@app.command()
@_plain_errors()
def check(paths: _Paths = None) -> None:
    """Check what nbval cannot: execution counts, stray errors, local paths, exempt cells, captions, contents."""
    from bncourse.notebooks import files
    from bncourse.notebooks.check import check_book, check_notebook

    if paths:
        faults = [fault for path in paths for fault in check_notebook(path, chapter=path.stem != "index")]
    else:
        faults = check_book(files.find_root(Path.cwd()))
    for fault in faults:
        typer.echo(fault)
    if faults:
        raise typer.Exit(1)
    typer.echo("no faults found")


@app.command()
@_plain_errors()
def picture(
    path: Annotated[Path, typer.Argument(help="Notebook.", exists=True, dir_okay=False)],
    target: Annotated[Path, typer.Argument(help="PNG file to write.")],
) -> None:
    """Copy the first stored picture of a notebook to a file; the README shows one."""
    from bncourse.notebooks import files

    target.write_bytes(files.first_picture(files.read(path)))


@app.command()
@_plain_errors()
def site(
    folder: Annotated[Path, typer.Argument(help="Folder of the built book.")] = Path("_build/html"),
) -> None:
    """Check that the built pages load nothing from other hosts and miss nothing (after `make book`)."""
    from bncourse.notebooks.site import foreign_requests, missing_files

    foreign, missing = foreign_requests(folder), missing_files(folder)
    for verb, found in (("loads", foreign), ("misses", missing)):
        for page, addresses in found.items():
            for address in addresses:
                typer.echo(f"{page} {verb} {address}")
    if foreign or missing:
        raise typer.Exit(1)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    typer.echo(f"{folder}: 0 requests to other hosts, {size / 1e6:.1f} MB")
