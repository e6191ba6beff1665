"""The options of the small network whose update ops are wired rightly or wrongly."""

from __future__ import annotations

from dataclasses import dataclass

from bncourse.experiments.configurations.both_modes import BothModesConfiguration
from bncourse.experiments.configurations.common import option
from bncourse.tf_layers.arguments import WiringName, known


@dataclass(frozen=True, kw_only=True)
class WiredConfiguration(BothModesConfiguration):
    """The options of one wiring."""

    wiring: WiringName = option(
        "dependencies", "How the update ops hang on the training step; the chapter on update ops explains each."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        known(self.wiring, "wiring", WiringName)
        if self.batch_size < 4:
            raise ValueError(f"batch_size = {self.batch_size}; expected 4 or more: one wiring splits the batch in two.")
