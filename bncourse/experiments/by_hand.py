"""The run behind article C: a small network whose Batch Normalization is written by hand."""

from __future__ import annotations

from typing import Any

from bncourse.data import Dataset
from bncourse.experiments.both_modes import MODULES, BothModes
from bncourse.experiments.configurations.by_hand import ByHandConfiguration
from bncourse.experiments.record import Run
from bncourse.tf_layers.by_hand import build_by_hand_network

#: Modules whose code decides the result.
CODE = (
    *MODULES,
    "bncourse.experiments.configurations.by_hand",
    "bncourse.experiments.by_hand",
    "bncourse.tf_layers.by_hand",
)


def run(configuration: ByHandConfiguration, data: Dataset, **how: Any) -> Run:
    """Build the network and train it; `how` goes to :meth:`bncourse.experiments.training.Program.run`."""
    network = build_by_hand_network(
        layer=configuration.layer,
        momentum=configuration.momentum,
        moment_axes=configuration.moment_axes,
        learning_rate=configuration.learning_rate,
        seed=configuration.seed,
    )
    return BothModes("by-hand", configuration, network, data, code=CODE).run(**how)
