"""The options of article E's improved network with a moving average of its weights."""

from __future__ import annotations

from dataclasses import dataclass

from bncourse.experiments.configurations.article_e import ImprovedConfiguration
from bncourse.experiments.configurations.common import option
from bncourse.nn.checks import fraction


@dataclass(frozen=True, kw_only=True)
class MovingWeightsConfiguration(ImprovedConfiguration):
    """The options of `ImprovedConfiguration`, and one more."""

    weight_momentum: float = option(0.99, "Share of the old value in the moving average of the weights, from 0 to 1.")

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction(self.weight_momentum, "weight_momentum", end=True)
