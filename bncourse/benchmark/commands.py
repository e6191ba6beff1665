"""The command ``bncourse bench``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bncourse.benchmark.measure import Row


def bench(
    rounds: Annotated[int, typer.Option(min=1, help="Turns of every contender; more is steadier.")] = 15,
    only: Annotated[str | None, typer.Option(help="Only cases whose name contains this, say 28×28.")] = None,
    record: Annotated[
        Path | None, typer.Option(help="Store the rows in this JSON file, with those of the steps to the fast layer.")
    ] = None,
) -> None:
    """Time the NumPy layer beside TensorFlow, Keras and PyTorch, and print the ratios.

    All contenders take turns in one run. A ratio below 1 says that bncourse is faster. Close other programs first.
    """
    from tqdm import tqdm

    from bncourse.benchmark import CASES, measure, measure_steps, peak_memory, write_record

    cases = [case for case in CASES if only is None or only.replace("x", "×") in case.name]
    if not cases:
        typer.echo(f"error: no case contains {only!r}; there are: {'; '.join(case.name for case in CASES)}", err=True)
        raise typer.Exit(1)
    with tqdm(total=len(cases), unit="case", leave=False) as bar:

        def report(name: str) -> None:
            bar.update(bool(bar.postfix))
            bar.set_postfix_str(name)

        rows = measure(cases, rounds=rounds, report=report)
    memory = {case.name: peak_memory(case) for case in cases}
    console = Console()
    for kind, title in (("forward", "Forward pass, training mode"), ("both", "Forward and backward pass")):
        console.print(table([row for row in rows if row.passes == kind], title))
    console.print("Peak extra memory of bncourse, in times the bytes of x:")
    for name, peaks in memory.items():
        console.print(f"  {name}: forward {peaks['forward']:.2f}, both {peaks['both']:.2f}")
    if record is not None:
        write_record(record, rows, measure_steps(rounds, seconds=rounds / 10), memory)
        console.print(f"Stored in {record}.")


def table(rows: Sequence[Row], title: str) -> Table:
    """Return one line for each case: bncourse's milliseconds, and its ratio to everybody else."""
    names = list(dict.fromkeys(row.contender for row in rows))
    result = Table(title=f"{title}: milliseconds of bncourse, and its time in times of each other's")
    result.add_column("x, float32")
    for name in names:
        result.add_column(f"{name}, ms" if name == names[0] else name, justify="right")
    found = {(row.case, row.contender): row for row in rows}
    for case in dict.fromkeys(row.case for row in rows):
        own = found[case, names[0]]
        cells = [f"{own.milliseconds:.3f}"]
        for name in names[1:]:
            row = found.get((case, name))
            cells.append("–" if row is None else f"{row.ratio:.2f}")
        result.add_row(case, *cells)
    return result
