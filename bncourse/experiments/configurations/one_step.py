"""The options of article B's one step."""

from __future__ import annotations

from dataclasses import dataclass

from bncourse.experiments.configurations.common import option
from bncourse.nn.checks import fraction
from bncourse.tf_layers.arguments import check_learning_rate, check_seed


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
