"""The options of article C's program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bncourse.experiments.configurations.both_modes import BothModesConfiguration
from bncourse.experiments.configurations.common import option
from bncourse.tf_layers.arguments import known

Layer = Literal["by_hand", "tf_layers", "contrib"]
Axes = Literal["all", "batch"]


@dataclass(frozen=True, kw_only=True)
class ByHandConfiguration(BothModesConfiguration):
    """The options of article C's program; its mistakes are not the defaults."""

    layer: Layer = option("by_hand", "Which BN: by_hand, tf_layers or contrib.")
    moment_axes: Axes = option("all", "Axes of the moments: all but the channels, or batch alone (article C).")

    def __post_init__(self) -> None:
        super().__post_init__()
        known(self.layer, "layer", Layer)
        known(self.moment_axes, "moment_axes", Axes)
