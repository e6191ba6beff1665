"""The training program of a small network whose update ops are wired rightly or wrongly (article C, and beyond)."""

from __future__ import annotations

from typing import Any

from bncourse.data import Dataset
from bncourse.experiments.both_modes import MODULES, BothModes
from bncourse.experiments.configurations.wired import WiredConfiguration
from bncourse.experiments.record import Run
from bncourse.tf_layers.wirings import build_wired_network

#: Modules whose code decides the result.
CODE = (
    *MODULES,
    "bncourse.experiments.configurations.wired",
    "bncourse.experiments.wired",
    "bncourse.tf_layers.wirings",
)


def run(configuration: WiredConfiguration, data: Dataset, **how: Any) -> Run:
    """Build the network and train it; `how` goes to :meth:`bncourse.experiments.training.Program.run`."""
    network = build_wired_network(
        configuration.wiring,
        momentum=configuration.momentum,
        learning_rate=configuration.learning_rate,
        seed=configuration.seed,
    )
    return BothModes("wired", configuration, network, data, code=CODE).run(**how)
