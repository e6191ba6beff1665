"""Training that watches the validation images, keeps the best weights, and may stop early (article E)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bncourse.data import Dataset, Split
from bncourse.data.augment import shifted
from bncourse.experiments import training
from bncourse.experiments.configurations.article_e import EarlyStoppedConfiguration
from bncourse.experiments.training import Arrays, Program, flat, means, score, share
from bncourse.tf_layers import tf1
from bncourse.tf_layers.network import ImageNetwork
from bncourse.training import EarlyStopping
from bncourse.training.checkpoint import assign

#: Modules whose code decides the result.
MODULES = (
    *training.MODULES,
    "bncourse.data.augment",
    "bncourse.experiments.configurations.article_e",
    "bncourse.experiments.early_stopped",
    "bncourse.training.early_stopping",
    "bncourse.training.rule",
)

_BEST = "best "


class EarlyStopped(Program):
    """Training with a log of validations, all in inference mode, and the best weights kept.

    An entry of the log has the loss and the accuracy of the step's images, in training mode and before the update
    (``train_batch``), and those of the validation images (``validation_moving``). Networks that have outputs before a
    last BN also give the accuracy of those (``validation_before_accuracy``). With ``audit`` some entries have
    ``test_moving``, others NaN in its place.

    At the end: the weights of the last step (``validation_last``, ``test_last``), and those of the best validation
    (``validation_moving``, ``test_moving``, and ``test_before_accuracy``), which are restored for it; ``best_batch``
    and ``stopped_batch``, the steps of both, counted from 0; and whether patience ran out (``ran_out``, 0 or 1). With
    ``audit`` the last step is that of the unstopped training, and ``stopped_batch`` the one at which patience had run
    out; the best weights are those from before.
    """

    looks_at_the_end = True

    def __init__(
        self,
        experiment: str,
        configuration: EarlyStoppedConfiguration,
        network: ImageNetwork,
        data: Dataset,
        *,
        code: tuple[str, ...],
    ) -> None:
        super().__init__(experiment, configuration, network, data, code=code)
        self.options = configuration
        # Without patience nothing stops, but the best weights are kept all the same.
        patience = configuration.patience or configuration.batches
        self.stopping = EarlyStopping(patience=patience, unit="steps", mode="max")
        self.before = getattr(network, "accuracy_before", None)
        self.variables = {v.op.name: v for v in network.graph.get_collection(tf1.GraphKeys.GLOBAL_VARIABLES)}
        self.best: Arrays = {}
        self.trained: list[float] = []

    def take(self, images: Any, labels: Any) -> tuple[Any, Any]:
        """Move the images, if that is wanted; how depends on seed and step only."""
        if not self.options.shift:
            return images, labels
        return shifted(images, self.options.shift, np.random.default_rng((self.options.seed, self.step))), labels

    def train_on(self, session: Any, feed: Mapping[Any, Any]) -> None:
        """Take one step, and note its loss and accuracy."""
        _, *self.trained = session.run([self.network.train_op, self.network.loss, self.network.accuracy], feed)

    def look(self, session: Any, batch: Split) -> dict[str, float]:
        """Validate, and keep the weights if they are the best so far."""
        loss, accuracy = map(float, self.trained)
        entry = {"train_batch_loss": loss, "train_batch_accuracy": share(accuracy, len(batch))}
        entry |= self._scores(session, self.data.validation, "validation")
        if self.options.audit:
            looked = self.step % self.options.audit == 0
            test = score(session, self.network, self.data.test, training=False) if looked else None
            entry["test_moving_accuracy"] = test.accuracy if test else float("nan")
        if not self.stopping.should_stop:
            watched = "before" if getattr(self.options, "watch", "after") == "before" else "moving"
            if self.stopping.update(entry[f"validation_{watched}_accuracy"], self.step).improved:
                self.best = session.run(self.variables)
        return entry

    def over(self) -> bool:
        """Tell whether patience has run out."""
        return self.stopping.should_stop and not self.options.audit

    def final(self, session: Any) -> dict[str, float]:
        """Score the last weights and the best."""
        sets = {"validation": self.data.validation, "test": self.data.test}
        found = flat(
            {f"{name}_last": score(session, self.network, images, training=False) for name, images in sets.items()}
        )
        assign(session, {variable: self.best[name] for name, variable in self.variables.items()})
        for name, images in sets.items():
            found |= self._scores(session, images, name)
        stopped = self.stopping.stopped_step
        assert self.stopping.best_step is not None  # an accuracy is finite, so the first validation set it
        return {
            **found,
            "best_batch": self.stopping.best_step,
            "stopped_batch": self.step - 1 if stopped is None else stopped,
            "ran_out": float(stopped is not None),
        }

    def summary(self, entry: Mapping[str, float]) -> str:
        """Return loss and both accuracies, and the best one."""
        return (
            f"loss {entry['train_batch_loss']:.3f}, validation {100 * entry['validation_moving_accuracy']:.2f} % "
            f"(best {100 * (self.stopping.best or 0):.2f} % at {self.stopping.best_step})"
        )

    def memory(self) -> tuple[dict[str, Any], Arrays]:
        """Return the state of the rule, and the best weights."""
        best = {f"{_BEST}{name}": value for name, value in self.best.items()}
        return {"stopping": self.stopping.state()}, best

    def recall(self, state: Mapping[str, Any], arrays: Arrays) -> None:
        """Take both up again."""
        self.stopping.restore(state["stopping"])
        self.best = {name.removeprefix(_BEST): value for name, value in arrays.items()}

    def _scores(self, session: Any, images: Split, name: str) -> dict[str, float]:
        """Score images in inference mode, before the last BN, too, if there is one."""
        fetches = [self.network.loss, self.network.accuracy, *([] if self.before is None else [self.before])]
        loss, *accuracies = means(session, self.network, fetches, images, training=False)
        kinds = ("moving", "before")[: len(accuracies)]
        shares = {
            f"{name}_{kind}_accuracy": share(value, len(images)) for kind, value in zip(kinds, accuracies, strict=True)
        }
        return {f"{name}_moving_loss": loss, **shares}
