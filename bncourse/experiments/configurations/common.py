"""What the options of all image networks have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bncourse.experiments.schedules import Schedule, share_of_peak
from bncourse.nn.checks import fraction, positive_int
from bncourse.tf_layers.arguments import check_learning_rate, check_seed, known


def option(default: Any, text: str) -> Any:
    """Return a field of a configuration, with what ``--help`` says of it."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """What every run of an image network may choose. Subclasses add what is special to their network."""

    data: str = option("digits", "Data set: digits, mnist or fashion-mnist.")
    batches: int = option(800, "Training steps.")
    batch_size: int = option(64, "Images in a step.")
    learning_rate: float = option(0.002, "The optimizer's learning rate; its peak, if the schedule is not constant.")
    schedule: Schedule = option("constant", "How the learning rate goes over the steps: constant, one-cycle or linear.")
    momentum: float = option(0.99, "Share of the old value in the moving statistics, from 0 to 1.")
    seed: int = option(0, "Seed of the start weights and of the order of the images.")
    every: int = option(25, "Steps from one entry of the log to the next.")
    threads: int = option(1, "Threads of a step. More are quicker, but then the last digits hang on their number.")

    def __post_init__(self) -> None:
        positive_int(self.batches, "batches")
        positive_int(self.batch_size, "batch_size")
        positive_int(self.every, "every")
        check_seed(self.seed)
        check_learning_rate(self.learning_rate)
        known(self.schedule, "schedule", Schedule)
        fraction(self.momentum, "momentum", end=True)
        positive_int(self.threads, "threads")

    def rate(self, step: int) -> float:
        """Return the learning rate of `step`, counted from 0."""
        return self.learning_rate * share_of_peak(self.schedule, step / self.batches)
