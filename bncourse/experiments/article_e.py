"""The training program of article E's improved network."""

from __future__ import annotations

from typing import Any

from bncourse.data import Dataset
from bncourse.experiments.configurations.article_e import ImprovedConfiguration
from bncourse.experiments.early_stopped import MODULES, EarlyStopped
from bncourse.experiments.record import Run
from bncourse.tf_layers.improved_network import build_improved_network

#: Modules whose code decides the result.
CODE = (
    *MODULES,
    "bncourse.experiments.article_e",
    "bncourse.tf_layers.improved_network",
    "bncourse.tf_layers.optimizers",
)


def run(configuration: ImprovedConfiguration, data: Dataset, **how: Any) -> Run:
    """Build the network and train it; `how` goes to :meth:`bncourse.experiments.training.Program.run`."""
    network = build_improved_network(
        batch_norm=configuration.batch_norm,
        normalise_logits=configuration.normalise_logits,
        normalise_pooled=configuration.normalise_pooled,
        dropout_rates=(configuration.dropout, configuration.dense_dropout),
        activation=configuration.activation,
        momentum=configuration.momentum,
        optimizer=configuration.optimizer,
        learning_rate=configuration.learning_rate,
        seed=configuration.seed,
    )
    return EarlyStopped("improved", configuration, network, data, code=CODE).run(**how)
