"""The training program of article A: the 19-layer network, watched with both sets of statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bncourse.data import Dataset
from bncourse.experiments.both_modes import MODULES, BothModes
from bncourse.experiments.configurations.deep import DeepConfiguration
from bncourse.experiments.record import Run
from bncourse.experiments.training import Score, open_session, score
from bncourse.tf_layers.deep_network import build_deep_network

__all__ = ["Score", "lines", "open_session", "score", "train_deep_network"]

#: Modules whose code decides the result.
CODE = (
    *MODULES,
    "bncourse.experiments.configurations.deep",
    "bncourse.experiments.deep_network",
    "bncourse.tf_layers.deep_network",
    "bncourse.tf_layers.optimizers",
)


def train_deep_network(
    data: Dataset,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: bool = False,
    **options: Any,
) -> Run:
    """Train the network of article A and keep a log with both sets of statistics.

    A step costs about 40 ms, an entry of the log about 1.5 s for 5,000 validation images (twice through the network)
    and 0.2 s for 300.

    Parameters
    ----------
    data : Dataset
        Images and labels, ten classes.
    checkpoint, resume, progress
        See :meth:`bncourse.experiments.training.Program.run`.
    **options
        Fields of :class:`DeepConfiguration`, but for `data`.

    Returns
    -------
    Run

    Raises
    ------
    TypeError
        If an option is unknown or has the wrong type.
    ValueError
        If an option lies outside its range.
    """
    name = data.name if isinstance(data, Dataset) else ""
    configuration = DeepConfiguration(data=name, **options)
    return run(configuration, data, checkpoint=checkpoint, resume=resume, progress=progress)


def run(configuration: DeepConfiguration, data: Dataset, **how: Any) -> Run:
    """Build the network and train it; `how` goes to :meth:`bncourse.experiments.training.Program.run`."""
    network = build_deep_network(
        batch_norm=configuration.batch_norm,
        momentum=configuration.momentum,
        learning_rate=configuration.learning_rate,
        update_ops=configuration.update_ops,
        order=configuration.order,
        loss=configuration.loss,
        start=configuration.start,
        optimizer=configuration.optimizer,
        seed=configuration.seed,
    )
    return BothModes("deep", configuration, network, data, code=CODE).run(**how)


def lines(run: Run) -> list[str]:
    """Return a log as the article prints it: with the moving statistics throughout.

    Every hundredth batch shows the validation images, the others show the training batch.
    """
    lines = []
    for entry in run.log:
        name, shown = ("validation", "validation") if entry["batch"] % 100 == 0 else ("train", "training  ")
        loss, accuracy = entry[f"{name}_moving_loss"], entry[f"{name}_moving_accuracy"]
        lines.append(f"batch {entry['batch']:3d}: {shown} loss {loss:.5f}, accuracy {accuracy:.5f}")
    final = run.final
    lines.append(f"final validation accuracy {final['validation_moving_accuracy']:.5f}")
    lines.append(f"final test accuracy       {final['test_moving_accuracy']:.5f}")
    lines.append(f"images scored one by one  {final['single_accuracy']:.5f}")
    return lines
