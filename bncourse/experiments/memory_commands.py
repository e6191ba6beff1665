"""The command ``bncourse memory``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bncourse.experiments.memory import SETUPS, Images, measure, write_record


def memory(
    only: Annotated[str | None, typer.Option(help="Only ways whose name contains this, say chunks.")] = None,
    images: Annotated[int, typer.Option(min=1, help="How many images are scored.")] = 10_000,
    mnist: Annotated[bool, typer.Option("--mnist", help="MNIST's test images; otherwise digits, repeated.")] = False,
    record: Annotated[Path | None, typer.Option(help="Store the rows in this JSON file.")] = None,
) -> None:
    """Measure the memory that scoring many images takes: at once, in chunks, with 16 bits, with a smaller model.

    Each way runs in a process of its own. All 10,000 images at once take more than 3 GB with the improved network.
    """
    from tqdm import tqdm

    setups = [setup for setup in SETUPS if only is None or only in setup.way]
    if not setups:
        ways = dict.fromkeys(setup.way for setup in SETUPS)
        typer.echo(f"error: no way contains {only!r}; there are: {'; '.join(ways)}", err=True)
        raise typer.Exit(1)
    data: Images = "mnist" if mnist else "digits"
    try:
        rows = [measure(setup, images=images, data=data) for setup in tqdm(setups, unit="process", leave=False)]
    except RuntimeError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    table = Table(title=f"{images:,} images of {data}: peak memory beside images and network, and processor time")
    for title in ("network", "way", "MB", "seconds"):
        table.add_column(title, justify="left" if title in ("network", "way") else "right")
    for row in rows:
        table.add_row(row.network, row.way, f"{row.peak_bytes / 1e6:,.0f}", f"{row.processor_seconds:.2f}")
    Console().print(table)
    if record is not None:
        write_record(record, rows, data)
        typer.echo(f"Stored in {record}.")
