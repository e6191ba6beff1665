"""The command ``python -m bncourse.conventions``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bncourse.conventions.probes import QUESTIONS
from bncourse.conventions.record import Record, differences, probe_installed, read_record, write_record
from bncourse.conventions.subjects import SUBJECTS
from bncourse.results import path as recorded_path

app = typer.Typer(add_completion=False)


@app.command()
def conventions(
    record: Annotated[bool, typer.Option("--record", help="Ask the installed libraries, store the answers.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Ask the installed libraries and compare.")] = False,
    file: Annotated[Path | None, typer.Option(help="The record; the package's own if it is not given.")] = None,
) -> None:
    """Show what BN means by the same words in TensorFlow, Keras, PyTorch, ONNX, Flax and Haiku.

    Libraries that are not installed keep the answers that are recorded.
    """
    path = recorded_path("conventions") if file is None else file
    try:
        table: Record = {} if record and not path.exists() else read_record(path)
    except (OSError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    if record or check:
        found = probe_installed(SUBJECTS)
        lines = differences(table, found)
        for line in lines:
            typer.echo(line)
        if record:
            merged = {**table, **found}
            write_record(path, {s.name: merged[s.name] for s in SUBJECTS if s.name in merged})
            typer.echo(f"Asked and stored: {', '.join(found)}.")
        else:
            typer.echo(f"Asked: {', '.join(found)}. Other answers than recorded: {len(lines)}.")
            raise typer.Exit(bool(lines))
    else:
        typer.echo("\n".join(_lines(table)))


def _lines(record: Record) -> list[str]:
    """Return each question, the answers to it, and who gives them."""
    lines = []
    for question in QUESTIONS:
        lines.append(question.title)
        given = {name: row["answers"][question.key] for name, row in record.items()}
        for answer in dict.fromkeys(given.values()):
            names = (name for name, other in given.items() if other == answer)
            lines.append(f"  {answer}: {'; '.join(names)}")
    return lines
