"""The options of every experiment: checked when they are set, and the same for Python and the command line."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from bncourse.nn.checks import fraction, positive_int
from bncourse.tf_layers.arguments import Loss, Order, check_learning_rate, check_seed, known

#: "constant"; "one-cycle": up from a twentieth in the first fifth of the steps, then down to 0 along a cosine.
Schedule = Literal["constant", "one-cycle"]

Layer = Literal["by_hand", "tf_layers", "contrib"]
Axes = Literal["all", "batch"]


def option(default: Any, text: str) -> Any:
    """Return a field of a configuration, with what ``--help`` says of it."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """What every run of an image network may choose. Subclasses add what is special to their network."""

    data: str = option("digits", "Data set: digits, mnist or fashion-mnist.")
    batches: int = option(800, "Training steps.")
    batch_size: int = option(64, "Images in a step.")
    learning_rate: float = option(0.002, "Adam's learning rate; its peak, if the schedule is not constant.")
    schedule: Schedule = option("constant", "How the learning rate goes over the steps: constant or one-cycle.")
    momentum: float = option(0.99, "Share of the old value in the moving statistics, from 0 to 1.")
    seed: int = option(0, "Seed of the start weights and of the order of the images.")
    every: int = option(25, "Steps from one entry of the log to the next.")
    cures: bool = option(False, "Also score what other ways to keep the statistics would give (slow).")

    def __post_init__(self) -> None:
        positive_int(self.batches, "batches")
        positive_int(self.batch_size, "batch_size")
        positive_int(self.every, "every")
        check_seed(self.seed)
        check_learning_rate(self.learning_rate)
        known(self.schedule, "schedule", Schedule)
        fraction(self.momentum, "momentum", end=True)
        if self.cures and self.momentum == 1:
            raise ValueError("momentum = 1 with cures; expected a number below 1: the averages must move.")

    def rate(self, step: int) -> float:
        """Return the learning rate of `step`, counted from 0."""
        if self.schedule == "constant":
            return self.learning_rate
        done, rise = step / self.batches, 0.2
        if done < rise:
            return self.learning_rate * (0.05 + 0.95 * done / rise)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (done - rise) / (1 - rise)))


@dataclass(frozen=True, kw_only=True)
class DeepConfiguration(Configuration):
    """The options of article A's program; the defaults are the article's."""

    batch_norm: bool = option(True, "Whether BN follows every layer but the logits.")
    order: Order = option("bn-relu", "What follows a convolution: bn-relu, bias-bn-relu, bias-relu-bn or relu-bn.")
    loss: Loss = option("sigmoid", "Cross-entropy of ten sigmoids (the article's), or of a softmax.")
    update_ops: bool = option(True, "Whether a step updates the moving statistics; without is the classic mistake.")

    def __post_init__(self) -> None:
        super().__post_init__()
        known(self.order, "order", Order)
        known(self.loss, "loss", Loss)
        if self.batch_norm and self.batch_size == 1:
            raise ValueError(
                "batch_size = 1; expected at least 2 with BN. A single image equals its own mean, so the fully "
                "connected BN layer would put out beta whatever the image shows."
            )
        if self.cures and not (self.batch_norm and self.update_ops):
            raise ValueError("cures need moving statistics that move; expected batch_norm and update_ops.")


@dataclass(frozen=True, kw_only=True)
class ByHandConfiguration(Configuration):
    """The options of article C's program; its mistakes are not the defaults."""

    layer: Layer = option("by_hand", "Which BN: by_hand, tf_layers or contrib.")
    moment_axes: Axes = option("all", "Axes of the moments: all but the channels, or batch alone (article C).")

    def __post_init__(self) -> None:
        super().__post_init__()
        known(self.layer, "layer", Layer)
        known(self.moment_axes, "moment_axes", Axes)


@dataclass(frozen=True, kw_only=True)
class OneStepConfiguration:
    """The options of the one step; the defaults give the digits that the article prints."""

    hidden_weight: float = option(1.4059724, "Weight of the hidden layer before the step.")
    output_weight: float = option(
        -0.285, "Weight of the output layer before the step: one that gives the printed digits."
    )
    momentum: float = option(0.5, "Share of the old value in the moving statistics, from 0 to 1.")
    learning_rate: float = option(0.001, "Adam's learning rate.")
    seed: int = option(0, "Without effect: nothing here is random.")

    def __post_init__(self) -> None:
        fraction(self.momentum, "momentum", end=True)
        check_learning_rate(self.learning_rate)
        check_seed(self.seed)
