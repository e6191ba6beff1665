"""The training program of article A: the 19-layer network, watched with both sets of statistics."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from bncourse.data import Dataset, Split, one_hot
from bncourse.data import batches as draw_batches
from bncourse.nn.checks import positive_int
from bncourse.tf_layers import tf1
from bncourse.tf_layers.arguments import CLASSES
from bncourse.tf_layers.deep_network import build_deep_network
from bncourse.tf_layers.network import ImageNetwork

#: At most this many images are scored at once, so that memory stays bounded.
CHUNK = 1_000

#: How many test images are scored one at a time at the end of a run.
SINGLES = 100

#: The four places of `LogEntry` that hold a score.
Series = Literal["train_batch", "train_moving", "validation_batch", "validation_moving"]


@dataclass(frozen=True)
class Score:
    """Loss and accuracy of one network on one set of images.

    Attributes
    ----------
    loss : float
        Mean sigmoid cross-entropy over images and classes, in nats.
    accuracy : float
        Share of the images classified rightly, 0 to 1.
    """

    loss: float
    accuracy: float


@dataclass(frozen=True)
class LogEntry:
    """Four scores of the same weights, after one training step.

    Attributes
    ----------
    batch : int
        Number of the step, counted from 0 as in the article: the entry of batch 0 stands after one step.
    train_batch : Score
        The images of this step, normalised with their own statistics, as the step itself saw them.
    train_moving : Score
        The same images, normalised with the moving statistics: the article's "training accuracy".
    validation_batch : Score
        The validation images, normalised with their own statistics (those of each chunk of at most 1,000).
    validation_moving : Score
        The validation images, normalised with the moving statistics: the article's "validation accuracy".
    """

    batch: int
    train_batch: Score
    train_moving: Score
    validation_batch: Score
    validation_moving: Score


@dataclass(frozen=True)
class Configuration:
    """Everything that decides how a run comes out; see `train_deep_network` for the meaning."""

    data: str
    batch_norm: bool
    batches: int
    batch_size: int
    learning_rate: float
    momentum: float
    seed: int
    every: int
    update_ops: bool


@dataclass(frozen=True)
class DeepNetworkRun:
    """What one run of `train_deep_network` found. Runs are equal if all but their seconds is.

    Attributes
    ----------
    configuration : Configuration
        What was asked for.
    log : tuple of LogEntry
        One entry for every `every`-th step.
    validation, test : Score
        The trained network with its moving statistics.
    single_accuracy : float
        Accuracy on the first 100 test images (fewer if there are not so many), each scored alone, with the moving
        statistics.
    seconds : float
        Wall-clock time of training and scoring. Not compared.
    """

    configuration: Configuration
    log: tuple[LogEntry, ...]
    validation: Score
    test: Score
    single_accuracy: float
    seconds: float = field(compare=False)

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """Batch numbers of the log, shape (entries,)."""
        return np.array([entry.batch for entry in self.log], np.int64)

    def losses(self, series: Series) -> npt.NDArray[np.float64]:
        """Return one column of the log: the losses of `series` in nats, shape (entries,)."""
        return np.array([score.loss for score in self._column(series)])

    def accuracies(self, series: Series) -> npt.NDArray[np.float64]:
        """Return one column of the log: the accuracies of `series`, 0 to 1, shape (entries,)."""
        return np.array([score.accuracy for score in self._column(series)])

    def lines(self) -> list[str]:
        """Return the log as the article prints it: with the moving statistics throughout.

        Every hundredth batch shows the validation images, the others show the training batch.
        """
        lines = []
        for entry in self.log:
            validation = entry.batch % 100 == 0
            name = "validation" if validation else "training  "
            score = entry.validation_moving if validation else entry.train_moving
            lines.append(f"batch {entry.batch:3d}: {name} loss {score.loss:.5f}, accuracy {score.accuracy:.5f}")
        lines.append(f"final validation accuracy {self.validation.accuracy:.5f}")
        lines.append(f"final test accuracy       {self.test.accuracy:.5f}")
        lines.append(f"images scored one by one  {self.single_accuracy:.5f}")
        return lines

    def _column(self, series: Series) -> list[Score]:
        names = [place.name for place in fields(LogEntry)[1:]]
        if series not in names:
            raise ValueError(f"series = {series!r}; expected one of {', '.join(map(repr, names))}.")
        return [getattr(entry, series) for entry in self.log]


def train_deep_network(
    data: Dataset,
    *,
    batch_norm: bool = True,
    batches: int = 800,
    batch_size: int = 64,
    learning_rate: float = 0.002,
    momentum: float = 0.99,
    seed: int = 0,
    every: int = 25,
    update_ops: bool = True,
    progress: bool = False,
) -> DeepNetworkRun:
    """Train the network of article A and keep a log with both sets of statistics.

    A step costs about 40 ms on two CPU cores, an entry of the log about 1.5 s for 5,000 validation images (twice
    through the network) and 0.2 s for 300.

    Parameters
    ----------
    data : Dataset
        Images and labels, ten classes.
    batch_norm : bool
        Whether BN follows every layer but the logits.
    batches : int
        Training steps, 1 or more.
    batch_size : int
        Images in a step, at most as many as there are training images; with BN at least 2.
    learning_rate : float
        Adam's learning rate.
    momentum : float
        Share of the old value in each update of the moving statistics, in [0, 1].
    seed : int
        Seed of the start weights and of the order of the images. On one machine the same seed gave the same run, bit
        for bit; another processor rounds differently, and training makes that visible after a few dozen steps.
    every : int
        A log entry stands after every step whose number, from 0 on, this divides.
    update_ops : bool
        Whether training updates the moving statistics; False is the classic mistake.
    progress : bool
        Whether a progress bar is shown on standard error.

    Returns
    -------
    DeepNetworkRun

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If an argument lies outside its range.
    """
    _check(data, batch_norm, batches, batch_size, every)
    network = build_deep_network(
        batch_norm=batch_norm, momentum=momentum, learning_rate=learning_rate, update_ops=update_ops, seed=seed
    )
    stream = draw_batches(data.train, batch_size, seed=seed)
    log = []
    begin = time.perf_counter()
    with open_session(network.graph) as session:
        session.run(network.initializer)
        for batch in tqdm(range(batches), desc="deep network", unit="batch", disable=not progress):
            images, labels = next(stream)
            session.run(network.train_op, _feed(network, images, labels, training=True))
            if batch % every == 0:
                log.append(_entry(session, network, batch, Split(images, labels), data.validation))
        validation = score(session, network, data.validation, training=False)
        test = score(session, network, data.test, training=False)
        singles = Split(data.test.images[:SINGLES], data.test.labels[:SINGLES])
        single = score(session, network, singles, training=False, chunk=1).accuracy
    configuration = Configuration(
        data.name, batch_norm, batches, batch_size, learning_rate, momentum, seed, every, update_ops
    )
    return DeepNetworkRun(configuration, tuple(log), validation, test, single, time.perf_counter() - begin)


def open_session(graph: Any) -> Any:
    """Return a session on a graph: ``tf1.Session(graph=graph)``, but ready three seconds sooner.

    Parameters
    ----------
    graph : tf.Graph
        The network's graph.

    Returns
    -------
    tf1.Session
        To be closed after use: ``with open_session(network.graph) as session:``.
    """
    configuration = tf1.ConfigProto()
    # TensorFlow would rewrite this graph for three seconds, and the steps would be no faster for it.
    configuration.graph_options.rewrite_options.disable_meta_optimizer = True
    return tf1.Session(graph=graph, config=configuration)


def score(session: Any, network: ImageNetwork, images: Split, *, training: bool, chunk: int = CHUNK) -> Score:
    """Score images in chunks; nothing is trained and no moving statistic moves.

    Parameters
    ----------
    session : tf1.Session
        An open session on the network's graph.
    network : ImageNetwork
        The network.
    images : Split
        Images and labels.
    training : bool
        True: each chunk is normalised with its own statistics. False: with the moving ones.
    chunk : int
        At most this many images go through the network at once.

    Returns
    -------
    Score
        Averages over all images, whatever the sizes of the chunks.
    """
    positive_int(chunk, "chunk")
    loss = right = 0.0
    for start in range(0, len(images), chunk):
        part = slice(start, start + chunk)
        feed = _feed(network, images.images[part], images.labels[part], training=training)
        size = len(images.labels[part])
        sums = size * np.asarray(session.run([network.loss, network.accuracy], feed), np.float64)
        loss, right = loss + sums[0], right + sums[1]
    return Score(float(loss / len(images)), float(round(right) / len(images)))


def _check(data: Dataset, batch_norm: bool, batches: int, batch_size: int, every: int) -> None:
    if not isinstance(data, Dataset):
        raise TypeError(
            f"data is a {type(data).__name__}; expected a bncourse.data.Dataset, "
            "for example bncourse.data.load_digits()."
        )
    if len(data.classes) != CLASSES:
        raise ValueError(f"data has {len(data.classes)} classes; expected {CLASSES}, one for each logit.")
    positive_int(batches, "batches")
    positive_int(every, "every")
    if positive_int(batch_size, "batch_size") > len(data.train):
        raise ValueError(
            f"batch_size = {batch_size}; expected at most {len(data.train)}, the number of training images."
        )
    if batch_norm and batch_size == 1:
        raise ValueError(
            "batch_size = 1; expected at least 2 with batch_norm=True. A single image equals its own mean, so the "
            "fully connected BN layer would put out beta whatever the image shows."
        )


def _feed(network: ImageNetwork, images: Any, labels: Any, *, training: bool) -> dict[Any, Any]:
    return {network.inputs: images, network.labels: one_hot(labels, CLASSES), network.training: training}


def _entry(session: Any, network: ImageNetwork, batch: int, train: Split, validation: Split) -> LogEntry:
    scores = [
        score(session, network, images, training=training)
        for images in (train, validation)
        for training in (True, False)
    ]
    return LogEntry(batch, *scores)
