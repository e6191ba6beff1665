"""The options of article E's improved network with averaged weights."""

from __future__ import annotations

from dataclasses import dataclass

from bncourse.experiments.configurations.article_e import ImprovedConfiguration
from bncourse.experiments.configurations.common import option
from bncourse.nn.checks import fraction


@dataclass(frozen=True, kw_only=True)
class AveragedConfiguration(ImprovedConfiguration):
    """The options of `ImprovedConfiguration`, and one more. Patience must be 0: the average needs the last steps."""

    patience: int = option(0, "Not used here: the average needs the last steps.")
    averaged: float = option(0.1, "Share of the steps, the last ones, over which the weights are averaged.")

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction(self.averaged, "averaged", end=True)
        if self.averaged * self.batches < 1:
            raise ValueError(f"averaged = {self.averaged} is less than one of {self.batches} steps; take more.")
        if self.patience:
            raise ValueError(f"patience = {self.patience}; expected 0: the average needs the last steps.")

    def first_averaged(self) -> int:
        """Return the first step, counted from 0, whose weights are in the average."""
        return self.batches - round(self.averaged * self.batches)
