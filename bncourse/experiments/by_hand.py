"""The run behind article C: a small network whose Batch Normalization is written by hand."""

from __future__ import annotations

from typing import Any

from bncourse.data import Dataset
from bncourse.experiments.configuration import ByHandConfiguration
from bncourse.experiments.record import Run
from bncourse.experiments.training import MODULES, train
from bncourse.tf_layers.by_hand import build_by_hand_network

#: Modules whose code decides the result.
CODE = (*MODULES, "bncourse.experiments.by_hand", "bncourse.tf_layers.by_hand")


def run(configuration: ByHandConfiguration, data: Dataset, **how: Any) -> Run:
    """Build the network and train it; `how` goes to :func:`bncourse.experiments.training.train`."""
    network = build_by_hand_network(
        layer=configuration.layer,
        momentum=configuration.momentum,
        moment_axes=configuration.moment_axes,
        learning_rate=configuration.learning_rate,
        seed=configuration.seed,
    )
    return train("by-hand", configuration, network, data, code=CODE, **how)
