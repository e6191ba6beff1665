"""Training watched with both sets of statistics, and with other ways to keep them (articles A and C)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from bncourse.data import Dataset, Split
from bncourse.data import batches as draw_batches
from bncourse.experiments import training
from bncourse.experiments.configurations.both_modes import BothModesConfiguration
from bncourse.experiments.statistics import CURES, Keeper, Statistics
from bncourse.experiments.training import Arrays, Program, feed_of, flat, score
from bncourse.repair import recalibrate_graph
from bncourse.tf_layers import tf1
from bncourse.tf_layers.network import ImageNetwork
from bncourse.training.checkpoint import assign

#: How many test images are scored one at a time at the end of a run, as in article A.
SINGLES = 100
#: Training batches from which statistics are re-estimated.
FEW = 10

#: Modules whose code decides the result.
MODULES = (
    *training.MODULES,
    "bncourse.experiments.both_modes",
    "bncourse.experiments.configurations.both_modes",
    "bncourse.experiments.statistics",
    "bncourse.repair.engine",
    "bncourse.repair.graph",
)


class BothModes(Program):
    """Training with a log that scores four times at every entry.

    The images of the step and the validation images, each normalised with their own statistics (``_batch``; of the
    validation images, those of each chunk of at most 1,000) and with the moving ones (``_moving``: the article's
    "training accuracy" and "validation accuracy"). With ``configuration.cures`` the validation images are also scored
    with each of :data:`bncourse.experiments.statistics.CURES`.

    At the end: validation and test images with the moving statistics (``validation_moving``, ``test_moving``), those
    with each cure, and the first 100 test images one by one (``single_accuracy``).
    """

    def __init__(
        self,
        experiment: str,
        configuration: BothModesConfiguration,
        network: ImageNetwork,
        data: Dataset,
        *,
        code: tuple[str, ...],
    ) -> None:
        super().__init__(experiment, configuration, network, data, code=code)
        self.options = configuration
        self.moving = moving_variables(network)
        self.keeper: Keeper | None = None

    def begin(self, session: Any) -> None:
        """Note the start values of the statistics."""
        if self.options.cures:
            self.keeper = Keeper(session.run(self.moving), self.options.momentum)

    def train_on(self, session: Any, feed: Mapping[Any, Any]) -> None:
        """Take one step, and follow the statistics."""
        super().train_on(session, feed)
        if self.keeper is not None:
            self.keeper.update(session.run(self.moving))

    def look(self, session: Any, batch: Split) -> dict[str, float]:
        """Score with both sets of statistics, and with the cures."""
        found = {
            f"{name}_{mode}": score(session, self.network, images, training=mode == "batch")
            for name, images in (("train", batch), ("validation", self.data.validation))
            for mode in ("batch", "moving")
        }
        for cure in self._estimated(session):
            with self._exchanged(session, cure):
                found[f"validation_{cure}"] = score(session, self.network, self.data.validation, training=False)
        return flat(found)

    def final(self, session: Any) -> dict[str, float]:
        """Score the trained network."""
        singles = Split(self.data.test.images[:SINGLES], self.data.test.labels[:SINGLES])
        sets = {"validation": self.data.validation, "test": self.data.test}
        found = {
            f"{name}_moving": score(session, self.network, images, training=False) for name, images in sets.items()
        }
        found["single"] = score(session, self.network, singles, training=False, chunk=1)
        for cure in self._estimated(session):
            with self._exchanged(session, cure):
                for name, images in sets.items():
                    found[f"{name}_{cure}"] = score(session, self.network, images, training=False)
        return flat(found)

    def summary(self, entry: Mapping[str, float]) -> str:
        """Return loss and both accuracies."""
        return (
            f"loss {entry['train_batch_loss']:.3f}, validation {100 * entry['validation_moving_accuracy']:.1f} % "
            f"(batch statistics {100 * entry['validation_batch_accuracy']:.1f} %)"
        )

    def memory(self) -> tuple[dict[str, Any], Arrays]:
        """Return what the keeper remembers."""
        return {}, {} if self.keeper is None else self.keeper.state()

    def recall(self, state: Mapping[str, Any], arrays: Arrays) -> None:  # noqa: ARG002 (nothing but arrays)
        """Give it back to the keeper."""
        if self.keeper is not None:
            self.keeper.restore(arrays)

    def _estimated(self, session: Any) -> tuple[str, ...]:
        """Estimate the statistics of the present weights; return the names of the cures, if any."""
        if self.keeper is None:
            return ()
        if not self.keeper.times or self.keeper.times[-1] < self.keeper.updates:
            self.keeper.note(self._estimate(session))
        return tuple(CURES)

    def _estimate(self, session: Any) -> Statistics:
        # Other batches than the next step's: a stream of their own.
        options = self.options
        stream = draw_batches(self.data.train, options.batch_size, seed=options.seed + 1_000_000)
        feeds = [feed_of(self.network, images, labels, training=True) for images, labels in islice(stream, FEW)]
        before = session.run(self.moving)
        recalibrate_graph(session, self.network.update_ops, feeds)
        found: Statistics = session.run(self.moving)
        self._set(session, before)
        return found

    @contextmanager
    def _exchanged(self, session: Any, cure: str) -> Iterator[None]:
        assert self.keeper is not None
        before = session.run(self.moving)
        self._set(session, self.keeper.cure(cure))
        try:
            yield
        finally:
            self._set(session, before)

    def _set(self, session: Any, statistics: Mapping[str, npt.NDArray[Any]]) -> None:
        assign(session, {variable: statistics[name].astype(np.float32) for name, variable in self.moving.items()})


def moving_variables(network: ImageNetwork) -> dict[str, Any]:
    """Return the moving statistics of a graph by their names: variables whose names end so."""
    variables = network.graph.get_collection(tf1.GraphKeys.GLOBAL_VARIABLES)
    ends = ("/moving_mean", "/moving_variance")
    return {variable.op.name: variable for variable in variables if variable.op.name.endswith(ends)}
