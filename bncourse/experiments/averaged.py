"""Article E's improved network with the mean of its last weights, which needs moving statistics of its own."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np

from bncourse.data import Dataset, batches
from bncourse.experiments import article_e
from bncourse.experiments.configurations.averaged import AveragedConfiguration
from bncourse.experiments.early_stopped import EarlyStopped
from bncourse.experiments.record import Run
from bncourse.experiments.training import Arrays, feed_of, flat, score
from bncourse.repair import recalibrate_graph
from bncourse.tf_layers import tf1
from bncourse.tf_layers.improved_network import build_improved_network
from bncourse.tf_layers.network import ImageNetwork
from bncourse.training.checkpoint import assign

#: Modules whose code decides the result.
CODE = (
    *article_e.CODE,
    "bncourse.experiments.averaged",
    "bncourse.experiments.configurations.averaged",
    "bncourse.repair.graph",
)

#: Training images from which the statistics of the averaged weights are estimated: so many batches, of so many.
STATISTICS_FROM = (40, 500)

_MEAN = "mean "


class Averaged(EarlyStopped):
    """Training as in `EarlyStopped`, with the plain mean of the weights of the last steps kept beside it.

    The noise of the steps goes from the mean as it does from any average (Polyak and Juditsky, 1992; Izmailov and
    others, 2018). No network with these weights was ever trained, so its activations have other means and variances
    than the moving statistics tell: they are re-estimated. The end has, beside what `EarlyStopped` gives, the scores
    of the mean with the moving statistics of the last step (``validation_stale``) and with its own
    (``validation_averaged``, ``test_averaged``).
    """

    def __init__(
        self,
        experiment: str,
        configuration: AveragedConfiguration,
        network: ImageNetwork,
        data: Dataset,
        *,
        code: tuple[str, ...],
    ) -> None:
        super().__init__(experiment, configuration, network, data, code=code)
        self.first = configuration.first_averaged()
        trained = network.graph.get_collection(tf1.GraphKeys.TRAINABLE_VARIABLES)
        self.trained_variables = {variable.op.name: variable for variable in trained}
        self.mean: Arrays = {}

    def train_on(self, session: Any, feed: Mapping[Any, Any]) -> None:
        """Take one step, and its weights into the mean."""
        super().train_on(session, feed)
        if self.step >= self.first:
            count = self.step - self.first + 1
            weights = session.run(self.trained_variables)
            for name, value in weights.items():
                old = self.mean.get(name, np.zeros(value.shape))
                self.mean[name] = old + (value - old) / count  # float64: hundreds of small changes

    def final(self, session: Any) -> dict[str, float]:
        """Score the last weights, and their mean with old and with new statistics; the last, for the rest restored."""
        last = session.run(self.variables)
        assign(session, {v: self.mean[name].astype(np.float32) for name, v in self.trained_variables.items()})
        found = {"validation_stale": score(session, self.network, self.data.validation, training=False)}
        stream = islice(batches(self.data.train, STATISTICS_FROM[1], seed=self.options.seed), STATISTICS_FROM[0])
        feeds = (feed_of(self.network, images, labels, training=True) for images, labels in stream)
        recalibrate_graph(session, self.network.update_ops, feeds)
        for name, images in (("validation", self.data.validation), ("test", self.data.test)):
            found[f"{name}_averaged"] = score(session, self.network, images, training=False)
        assign(session, {variable: last[name] for name, variable in self.variables.items()})
        return {**flat(found), **super().final(session)}

    def memory(self) -> tuple[dict[str, Any], Arrays]:
        """Return what `EarlyStopped` remembers, and the mean so far."""
        state, arrays = super().memory()
        return state, {**arrays, **{f"{_MEAN}{name}": value for name, value in self.mean.items()}}

    def recall(self, state: Mapping[str, Any], arrays: Arrays) -> None:
        """Take both up again."""
        self.mean = {name.removeprefix(_MEAN): value for name, value in arrays.items() if name.startswith(_MEAN)}
        super().recall(state, {name: value for name, value in arrays.items() if not name.startswith(_MEAN)})


def run(configuration: AveragedConfiguration, data: Dataset, **how: Any) -> Run:
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
    return Averaged("improved-averaged", configuration, network, data, code=CODE).run(**how)
