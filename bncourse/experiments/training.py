"""What every training program of an image network needs: batches, progress, checkpoints, a record at the end.

:class:`Program` is the loop. What a program looks at, and when it ends, its subclasses say:
:mod:`bncourse.experiments.both_modes` and :mod:`bncourse.experiments.early_stopped`.
"""

from __future__ import annotations

import json
import signal
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from bncourse.data import Dataset, Split, one_hot
from bncourse.data import batches as draw_batches
from bncourse.experiments import fingerprint
from bncourse.experiments.configurations.common import Configuration
from bncourse.experiments.record import InterruptedRun, ResumeError, Run, check_resume, differences, installed
from bncourse.nn.checks import positive_int
from bncourse.tf_layers import tf1
from bncourse.tf_layers.arguments import CLASSES
from bncourse.tf_layers.network import ImageNetwork
from bncourse.training.checkpoint import Checkpoint, CheckpointError

#: At most this many images are scored at once, so that memory stays bounded.
CHUNK = 1_000

#: Modules of this program whose code decides how every run comes out. (The mathematics of `bncourse.averages` is not
#: among them: closed forms in the tests pin it down.)
MODULES = (
    "bncourse.data.batches",
    "bncourse.experiments.configurations.common",
    "bncourse.experiments.schedules",
    "bncourse.experiments.training",
    "bncourse.tf_layers.ends",
    "bncourse.tf_layers.runtime",
)

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Score:
    """Loss in nats and accuracy, 0 to 1, of one network on one set of images."""

    loss: float
    accuracy: float


class Program:
    """One training run: the network, the log, and everything that a checkpoint must hold beside the variables.

    By default one thread computes, so that a run is the same on any number of cores; another processor rounds
    differently, and training makes that visible after a few dozen steps.

    Parameters
    ----------
    experiment : str
        Name for the record.
    configuration : Configuration
        All options.
    network : ImageNetwork
        The graph, freshly built. Whatever is random in it must hang on its variables, not on a generator's hidden
        state; else a run that goes on would differ from an unbroken one.
    data : Dataset
        Images of ten classes.
    code : tuple of str
        Modules whose code decides the result, for the record's fingerprint.

    Raises
    ------
    TypeError, ValueError
        If data and configuration do not go together.
    """

    #: Whether the log has an entry for the last step, wherever it falls.
    looks_at_the_end = False

    def __init__(
        self,
        experiment: str,
        configuration: Configuration,
        network: ImageNetwork,
        data: Dataset,
        *,
        code: tuple[str, ...],
    ) -> None:
        _check(data, configuration)
        self.experiment, self.network, self.data = experiment, network, data
        self.configuration = configuration
        self._code = fingerprint.of(code)
        self._description = describe(data)
        self._checkpoint: Checkpoint | None = None
        self.step = 0
        self.log: list[dict[str, float]] = []
        self.seconds = 0.0

    # What subclasses say.

    def begin(self, session: Any) -> None:
        """Prepare what hangs on the start values."""

    def take(self, images: Any, labels: Any) -> tuple[Any, Any]:
        """Return a batch as it is trained on."""
        return images, labels

    def train_on(self, session: Any, feed: Mapping[Any, Any]) -> None:
        """Take one step."""
        session.run(self.network.train_op, feed)

    def look(self, session: Any, batch: Split) -> dict[str, float]:
        """Return the numbers of one entry of the log."""
        raise NotImplementedError

    def over(self) -> bool:
        """Tell whether the training ends before its last batch."""
        return False

    def final(self, session: Any) -> dict[str, float]:
        """Return the numbers at the end; the test images are used here and nowhere else."""
        raise NotImplementedError

    def summary(self, entry: Mapping[str, float]) -> str:
        """Return what the progress bar shows of an entry of the log."""
        raise NotImplementedError

    def memory(self) -> tuple[dict[str, Any], Arrays]:
        """Return what else a checkpoint must hold: what JSON can, and arrays."""
        return {}, {}

    def recall(self, state: Mapping[str, Any], arrays: Arrays) -> None:
        """Take up what `memory` returned."""

    # The loop.

    def run(self, *, checkpoint: Path | None = None, resume: bool = False, progress: bool = False) -> Run:
        """Train the network and return what was found.

        Parameters
        ----------
        checkpoint : path, optional
            File for checkpoints, written at every entry of the log and when the run is told to stop (Ctrl-C, SIGTERM),
            and removed at the end.
        resume : bool
            Go on from the checkpoint.
        progress : bool
            Whether a progress bar is shown on standard error.

        Raises
        ------
        InterruptedRun
            If it was told to stop.
        ResumeError
            If the checkpoint is missing, damaged, or belongs to another configuration or other data.
        """
        check_resume(checkpoint, resume)
        self._checkpoint = None if checkpoint is None else Checkpoint(checkpoint)
        with open_session(self.network.graph, self.configuration.threads) as session, _told_to_stop() as told:
            session.run(self.network.initializer)
            self.begin(session)
            if resume:
                self._restore(session)
            self._train(session, told, progress=progress)
            begin = time.perf_counter()
            final = self.final(session)
            self.seconds += time.perf_counter() - begin
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
        return Run(
            experiment=self.experiment,
            configuration=asdict(self.configuration),
            data=self._description,
            log=tuple(self.log),
            final=final,
            seconds=round(self.seconds, 1),
            versions=installed(),
            code=self._code,
        )

    def _train(self, session: Any, told: threading.Event, *, progress: bool) -> None:
        options = self.configuration
        stream = islice(draw_batches(self.data.train, options.batch_size, seed=options.seed), self.step, None)
        bar = tqdm(total=options.batches, initial=self.step, desc=self.experiment, unit="batch", disable=not progress)
        begin = time.perf_counter() - self.seconds
        with bar:
            while self.step < options.batches and not self.over():
                images, labels = self.take(*next(stream))
                feed = feed_of(self.network, images, labels, training=True)
                if self.network.learning_rate is not None:
                    feed[self.network.learning_rate] = options.rate(self.step)
                self.train_on(session, feed)
                looked = self.step % options.every == 0 or (self.looks_at_the_end and self.step == options.batches - 1)
                if looked:
                    self.log.append({"batch": self.step, **self.look(session, Split(images, labels))})
                    bar.set_postfix_str(self.summary(self.log[-1]))
                self.step += 1
                bar.update()
                self.seconds = time.perf_counter() - begin
                if looked or told.is_set():
                    self._save(session)
                if told.is_set():
                    raise InterruptedRun(self._farewell())
        self._save(session)

    def _save(self, session: Any) -> None:
        if self._checkpoint is None:
            return
        own, arrays = self.memory()
        state = {**self._identity(), "step": self.step, "log": self.log, "seconds": self.seconds, "own": own}
        self._checkpoint.save(session, {"run": np.frombuffer(json.dumps(state).encode(), np.uint8), **arrays})

    def _restore(self, session: Any) -> None:
        assert self._checkpoint is not None
        path = self._checkpoint.path
        try:
            arrays = self._checkpoint.restore(session)
            state = json.loads(arrays.pop("run").tobytes())
        except (CheckpointError, KeyError, ValueError) as error:
            raise ResumeError(f"{path}: this is no checkpoint of this run ({error})") from error
        for name, mine in self._identity().items():
            theirs = state.get(name)
            if theirs != mine:
                raise ResumeError(f"{path}: the checkpoint has another {name}: {differences(theirs, mine)}.")
        self.step, self.log, self.seconds = state["step"], state["log"], state["seconds"]
        self.recall(state["own"], arrays)

    def _identity(self) -> dict[str, Any]:
        return {
            "experiment": self.experiment,
            "configuration": asdict(self.configuration),
            "data": dict(self._description),
            "code": self._code,
        }

    def _farewell(self) -> str:
        done = f"stopped after {self.step} of {self.configuration.batches} batches"
        return done if self._checkpoint is None else f"{done}; the checkpoint is {self._checkpoint.path}"


def open_session(graph: Any, threads: int = 1) -> Any:
    """Return a session on a graph: ``tf1.Session(graph=graph)``, but ready three seconds sooner, and of one thread.

    Parameters
    ----------
    graph : tf.Graph
        The network's graph.
    threads : int
        How many threads share the work of one operation.

    Returns
    -------
    tf1.Session
        To be closed after use: ``with open_session(network.graph) as session:``.
    """
    # Sums depend on how many threads share them. One thread is the same on every machine.
    configuration = tf1.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=1)
    # TensorFlow would rewrite this graph for three seconds, and the steps would be no faster for it.
    configuration.graph_options.rewrite_options.disable_meta_optimizer = True
    return tf1.Session(graph=graph, config=configuration)


def score(session: Any, network: ImageNetwork, images: Split, *, training: bool, chunk: int = CHUNK) -> Score:
    """Score images in chunks; nothing is trained.

    No moving statistic moves either, unless the network updates them in place and `training` is True.

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
    loss, accuracy = means(session, network, [network.loss, network.accuracy], images, training=training, chunk=chunk)
    return Score(loss, share(accuracy, len(images)))


def means(
    session: Any, network: ImageNetwork, fetches: Sequence[Any], images: Split, *, training: bool, chunk: int = CHUNK
) -> list[float]:
    """Return means over all images, taken in chunks, of tensors that are means over the images fed."""
    positive_int(chunk, "chunk")
    sums = np.zeros(len(fetches))
    for start in range(0, len(images), chunk):
        part = slice(start, start + chunk)
        feed = feed_of(network, images.images[part], images.labels[part], training=training)
        sums += len(images.labels[part]) * np.asarray(session.run(list(fetches), feed), np.float64)
    return [float(value) for value in sums / len(images)]


def share(accuracy: float, count: int) -> float:
    """Return an accuracy without its rounding: a whole number of `count` images."""
    return round(accuracy * count) / count


def describe(data: Dataset) -> dict[str, str | int]:
    """Return what tells one set of images from another: name, numbers, and a checksum over pixels and labels."""
    checksum = 0
    for split in (data.train, data.validation, data.test):
        for array in (split.images, split.labels):
            checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
    numbers = {name: len(getattr(data, name)) for name in ("train", "validation", "test")}
    return {"name": data.name, **numbers, "checksum": checksum}


@contextmanager
def _told_to_stop() -> Iterator[threading.Event]:
    """Turn Ctrl-C and SIGTERM into an event, so that a step is never broken off in its middle."""
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: told.set()) for number in signals}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check(data: Dataset, configuration: Configuration) -> None:
    if not isinstance(data, Dataset):
        raise TypeError(
            f"data is a {type(data).__name__}; expected a bncourse.data.Dataset, "
            "for example bncourse.data.load_digits()."
        )
    if len(data.classes) != CLASSES:
        raise ValueError(f"data has {len(data.classes)} classes; expected {CLASSES}, one for each logit.")
    if configuration.batch_size > len(data.train):
        raise ValueError(
            f"batch_size = {configuration.batch_size}; expected at most {len(data.train)}, the number of training "
            "images."
        )


def feed_of(network: ImageNetwork, images: Any, labels: Any, *, training: bool) -> dict[Any, Any]:
    """Return the feed dict of some images; labels go in as the network's placeholder wants them."""
    wanted = labels if network.labels.dtype.is_integer else one_hot(labels, CLASSES)
    return {network.inputs: images, network.labels: wanted, network.training: training}


def flat(scores: Mapping[str, Score]) -> dict[str, float]:
    """Return scores as the numbers of a record: "test" gives "test_loss" and "test_accuracy"."""
    return {f"{name}_{kind}": value for name, found in scores.items() for kind, value in asdict(found).items()}
