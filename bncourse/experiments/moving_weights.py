"""Article E's improved network, validated and stopped by a moving average of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from itertools import islice
from typing import Any

import numpy as np

from bncourse.data import Dataset, Split, batches
from bncourse.experiments import article_e
from bncourse.experiments.configurations.moving_weights import MovingWeightsConfiguration
from bncourse.experiments.early_stopped import EarlyStopped
from bncourse.experiments.record import Run
from bncourse.experiments.training import Arrays, feed_of, score
from bncourse.nn.batch_norm import momentum_at, update_moving
from bncourse.repair import recalibrate_graph
from bncourse.tf_layers import tf1
from bncourse.tf_layers.improved_network import build_improved_network
from bncourse.tf_layers.network import ImageNetwork
from bncourse.training.checkpoint import assign

#: Modules whose code decides the result.
CODE = (
    *article_e.CODE,
    "bncourse.experiments.configurations.moving_weights",
    "bncourse.experiments.moving_weights",
    "bncourse.repair.graph",
)

#: Training images from which the statistics of the averaged weights are estimated: so many batches, of so many.
STATISTICS_FROM = (10, 500)

_MOVING = "moving "


class MovingWeights(EarlyStopped):
    """Training as in `EarlyStopped`; what is validated, kept and returned is a moving average of the weights.

    The average is the one of BN's moving statistics, without its start (see :func:`bncourse.nn.momentum_at`). It takes
    the noise of the steps away, so that a validation tells more of the training and less of the last batch. The
    network with these weights was never trained on, so at each look its moving statistics are re-estimated. The
    training itself does not see the average.

    The log has the averaged weights under the names of `EarlyStopped`, and beside them the accuracy of the weights
    that are trained (``validation_trained_accuracy``, ``test_trained_accuracy``).
    """

    def __init__(
        self,
        experiment: str,
        configuration: MovingWeightsConfiguration,
        network: ImageNetwork,
        data: Dataset,
        *,
        code: tuple[str, ...],
    ) -> None:
        super().__init__(experiment, configuration, network, data, code=code)
        self.weight_momentum = configuration.weight_momentum
        weights = network.graph.get_collection(tf1.GraphKeys.TRAINABLE_VARIABLES)
        self.weights = {variable.op.name: variable for variable in weights}
        self.moving: Arrays = {}

    def train_on(self, session: Any, feed: Mapping[Any, Any]) -> None:
        """Take one step, and its weights into the average."""
        super().train_on(session, feed)
        momentum = momentum_at(self.weight_momentum, self.step, bias_corrected=True)
        for name, value in session.run(self.weights).items():
            self.moving[name] = update_moving(self.moving.get(name, np.zeros(1)), value, momentum)

    def look(self, session: Any, batch: Split) -> dict[str, float]:
        """Validate the averaged weights, and the trained ones beside them, which are left as they were."""
        trained = session.run(self.variables)
        beside = {"validation_trained_accuracy": score(session, self.network, self.data.validation, training=False)}
        if self.options.audit and self.step % self.options.audit == 0:
            beside["test_trained_accuracy"] = score(session, self.network, self.data.test, training=False)
        self._put_average(session)
        entry = super().look(session, batch)
        assign(session, {variable: trained[name] for name, variable in self.variables.items()})
        return entry | {name: found.accuracy for name, found in beside.items()}

    def _put_average(self, session: Any) -> None:
        """Set the weights to their average, and the moving statistics to what belongs to it."""
        assign(session, {variable: self.moving[name].astype(np.float32) for name, variable in self.weights.items()})
        number, size = STATISTICS_FROM
        stream = islice(batches(self.data.train, size, seed=self.options.seed), number)
        feeds = (feed_of(self.network, images, labels, training=True) for images, labels in stream)
        recalibrate_graph(session, self.network.update_ops, feeds)

    def memory(self) -> tuple[dict[str, Any], Arrays]:
        """Return what `EarlyStopped` remembers, and the average so far."""
        state, arrays = super().memory()
        return state, {**arrays, **{f"{_MOVING}{name}": value for name, value in self.moving.items()}}

    def recall(self, state: Mapping[str, Any], arrays: Arrays) -> None:
        """Take both up again."""
        self.moving = {name.removeprefix(_MOVING): value for name, value in arrays.items() if name.startswith(_MOVING)}
        super().recall(state, {name: value for name, value in arrays.items() if not name.startswith(_MOVING)})


def run(configuration: MovingWeightsConfiguration, data: Dataset, **how: Any) -> Run:
    """Build the network and train it; `how` goes to :meth:`bncourse.experiments.training.Program.run`."""
    wanted = signature(build_improved_network).parameters
    options = {name: getattr(configuration, name) for name in wanted if hasattr(configuration, name)}
    rates = (configuration.dropout, configuration.dense_dropout)
    network = build_improved_network(dropout_rates=rates, **options)
    return MovingWeights("improved-moving", configuration, network, data, code=CODE).run(**how)
