"""What a folder of photographs costs in time and memory: article D's models, each in a fresh process.

The folder is made for the measurement, of crops of the two embedded photographs, and then read like a reader's own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from bncourse.data.photographs import load_crops, load_folder
from bncourse.results import files

#: The cases of the book: model, photographs to train on.
CASES = (("logistic", 2000), ("wide", 2000), ("deep", 200), ("deep", 2000))
#: Photographs to validate with: 1 for 20 to train on.
_SHARE = 20


@dataclass(frozen=True)
class Cost:
    """What one epoch took, in a process that did nothing else.

    Attributes
    ----------
    model
        Which of article D's models.
    pictures, size
        Photographs to train on, beside a twentieth as many to validate with; height and width in pixels.
    search_seconds
        Processor time for looking at all files of the folder.
    epoch_seconds
        Processor time of one epoch, with the start of TensorFlow's machinery and two validations: one belongs to the
        epoch, one to the end of the run.
    memory_before, peak_memory
        The most memory that the process held before the training and until its end, in bytes.
    """

    model: str
    pictures: int
    size: int
    search_seconds: float
    epoch_seconds: float
    memory_before: int
    peak_memory: int


def make_folder(folder: Path, pictures: int, size: int) -> None:
    """Write crops as JPEG files into ``train`` and ``validation``, a folder for each class."""
    from PIL import Image

    crops = load_crops(size, train=pictures, validation=max(2, pictures // _SHARE), test=2)
    for name in ("train", "validation"):
        part = crops.splits()[name]
        for index, label in enumerate(part.labels):
            file = folder / name / crops.classes[label] / f"{index}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(part.read(index)).save(file)


def measure(model: str, *, pictures: int = 2000, size: int = 224) -> Cost:
    """Make a folder, and train a model on it for one epoch, in a process of its own.

    Raises
    ------
    RuntimeError
        If the process fails: the message ends as its standard error does.
    """
    with tempfile.TemporaryDirectory() as folder:
        make_folder(Path(folder), pictures, size)
        done = subprocess.run(
            [sys.executable, "-m", "bncourse.experiments.photograph_cost", "--here", json.dumps([model, folder, size])],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        last = done.stderr.strip()[-500:] or "nothing on standard error"
        raise RuntimeError(f"{model}, {pictures} photographs: the process ended with {done.returncode}; {last}")
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def train_here(model: str, folder: str, size: int) -> Cost:
    """Do in this process what `measure` does in a new one, with the folder that is there.

    Raises
    ------
    OSError
        If the system does not tell how much memory a process holds.
    """
    from bncourse.experiments.photographs import train_photographs

    begin = time.process_time()
    photographs = load_folder(folder, size=size)
    searched = time.process_time()
    run = train_photographs(photographs, model=model, epochs=1)  # type: ignore[arg-type]
    trained = time.process_time()
    if run.memory_before is None or run.peak_memory is None:
        raise OSError("this system does not tell how much memory a process holds")
    return Cost(
        model=model,
        pictures=len(photographs.train),
        size=size,
        search_seconds=round(searched - begin, 2),
        epoch_seconds=round(trained - searched, 2),
        memory_before=run.memory_before,
        peak_memory=run.peak_memory,
    )


def write(path: str | Path, costs: Sequence[Cost]) -> None:
    """Write costs to a JSON file, whole or not at all."""
    record = {"experiment": "one epoch on a folder of photographs", "rows": [asdict(cost) for cost in costs]}
    files.write(path, record)


def read(path: str | Path) -> list[Cost]:
    """Read what :func:`write` wrote.

    Raises
    ------
    ValueError
        If the file is no such record.
    OSError
        If it cannot be read.
    """
    with files.reading(path, "record of what photographs cost") as record:
        rows = [Cost(**row) for row in record["rows"]]
        for row in rows:
            for place in fields(row):
                value: Any = getattr(row, place.name)
                if type(value).__name__ != place.type:
                    raise TypeError(f"{place.name} = {value!r}")
        return rows


def main(
    record: Annotated[Path | None, typer.Argument(help="The JSON file to write.")] = None,
    here: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure all cases, and store them: some minutes."""
    if here is not None:
        print(json.dumps(asdict(train_here(*json.loads(here)))))
        return
    costs = [measure(model, pictures=pictures) for model, pictures in CASES]
    for cost in costs:
        typer.echo(str(cost))
    if record is not None:
        write(record, costs)


if __name__ == "__main__":
    typer.run(main)
