"""The training program of article E's base network."""

from __future__ import annotations

from typing import Any

from bncourse.data import Dataset
from bncourse.experiments.configurations.article_e import BaseConfiguration
from bncourse.experiments.early_stopped import MODULES, EarlyStopped
from bncourse.experiments.record import Run
from bncourse.tf_layers.base_network import build_base_network

#: Modules whose code decides the result.
CODE = (*MODULES, "bncourse.experiments.base_network", "bncourse.tf_layers.base_network")


def run(configuration: BaseConfiguration, data: Dataset, **how: Any) -> Run:
    """Build the network and train it; `how` goes to :meth:`bncourse.experiments.training.Program.run`."""
    network = build_base_network(
        maps=(configuration.maps, 2 * configuration.maps),
        strides=(1, configuration.stride),
        units=configuration.units,
        learning_rate=configuration.learning_rate,
        seed=configuration.seed,
    )
    return EarlyStopped("base", configuration, network, data, code=CODE).run(**how)
