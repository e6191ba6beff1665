"""The options of runs that are watched with both sets of statistics."""

from __future__ import annotations

from dataclasses import dataclass

from bncourse.experiments.configurations.common import Configuration, option


@dataclass(frozen=True, kw_only=True)
class BothModesConfiguration(Configuration):
    """What every run of a network with BN may choose that `bncourse.experiments.both_modes` trains."""

    cures: bool = option(False, "Also score what other ways to keep the statistics would give (slow).")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cures and self.momentum == 1:
            raise ValueError("momentum = 1 with cures; expected a number below 1: the averages must move.")
