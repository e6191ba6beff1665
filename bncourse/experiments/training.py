"""The training program of the image networks: batches, log, checkpoints, final scores; the same for every graph."""

from __future__ import annotations

import json
import signal
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
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
from bncourse.experiments.configuration import Configuration
from bncourse.experiments.record import InterruptedRun, ResumeError, Run, check_resume, installed
from bncourse.experiments.statistics import CURES, Keeper, Statistics
from bncourse.nn.checks import positive_int
from bncourse.repair import recalibrate_graph
from bncourse.tf_layers import tf1
from bncourse.tf_layers.arguments import CLASSES
from bncourse.tf_layers.network import ImageNetwork
from bncourse.training.checkpoint import Checkpoint, CheckpointError, assign

#: At most this many images are scored at once, so that memory stays bounded.
CHUNK = 1_000
#: How many test images are scored one at a time at the end of a run, as in article A.
SINGLES = 100
#: Training batches from which statistics are re-estimated.
FEW = 10

#: Modules of this program whose code decides how every run comes out. (The mathematics of `bncourse.averages` is not
#: among them: closed forms in the tests pin it down.)
MODULES = (
    "bncourse.data.batches",
    "bncourse.experiments.configuration",
    "bncourse.experiments.statistics",
    "bncourse.experiments.training",
    "bncourse.repair.engine",
    "bncourse.repair.graph",
    "bncourse.tf_layers.runtime",
)


@dataclass(frozen=True)
class Score:
    """Loss in nats and accuracy, 0 to 1, of one network on one set of images."""

    loss: float
    accuracy: float


def train(
    experiment: str,
    configuration: Configuration,
    network: ImageNetwork,
    data: Dataset,
    *,
    code: tuple[str, ...],
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> Run:
    """Train a network and keep a log with both sets of statistics.

    An entry of the log scores four times: the images of the step and the validation images, each normalised with their
    own statistics (``_batch``; of the validation images, those of each chunk of at most 1,000) and with the moving
    ones (``_moving``: the article's "training accuracy" and "validation accuracy"). With ``configuration.cures``
    it also scores the validation images with each of :data:`bncourse.experiments.statistics.CURES`.

    One thread computes, so that a run is the same on any number of cores; another processor rounds differently, and
    training makes that visible after a few dozen steps.

    Parameters
    ----------
    experiment : str
        Name for the record.
    configuration : Configuration
        All options.
    network : ImageNetwork
        The graph, freshly built.
    data : Dataset
        Images of ten classes.
    code : tuple of str
        Modules whose code decides the result, for the record's fingerprint.
    checkpoint : path, optional
        File for checkpoints, written at every entry of the log and when the run is told to stop (Ctrl-C, SIGTERM), and
        removed at the end.
    resume : bool
        Go on from the checkpoint.
    progress : bool
        Whether a progress bar is shown on standard error.

    Returns
    -------
    Run
        Scores at the end: validation and test images with the moving statistics (``validation_moving``,
        ``test_moving``), those with each cure, and the first 100 test images one by one (``single_accuracy``).

    Raises
    ------
    InterruptedRun
        If it was told to stop.
    ResumeError
        If the checkpoint is missing, damaged, or belongs to another configuration or other data.
    TypeError, ValueError
        If data and configuration do not go together.
    """
    _check(data, configuration)
    check_resume(checkpoint, resume)
    program = _Program(experiment, configuration, network, data, checkpoint, fingerprint.of(code))
    with open_session(network.graph) as session, _told_to_stop() as told:
        program.start(session, resume=resume)
        program.train(session, told, progress=progress)
        final = program.final(session)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return Run(
        experiment=experiment,
        configuration=asdict(configuration),
        data=program.description,
        log=tuple(program.log),
        final=final,
        seconds=round(program.seconds, 1),
        versions=installed(),
        code=program.code,
    )


class _Program:
    """One run: the network, and everything that a checkpoint must hold beside the network's variables."""

    def __init__(
        self,
        experiment: str,
        configuration: Configuration,
        network: ImageNetwork,
        data: Dataset,
        checkpoint: Path | None,
        code: str,
    ) -> None:
        self.code = code
        self.experiment, self.configuration, self.network, self.data = experiment, configuration, network, data
        self.checkpoint = None if checkpoint is None else Checkpoint(checkpoint)
        self.description = describe(data)
        self.moving = moving_variables(network)
        self.keeper: Keeper | None = None
        self.step = 0
        self.log: list[dict[str, float]] = []
        self.seconds = 0.0

    def start(self, session: Any, *, resume: bool) -> None:
        session.run(self.network.initializer)
        if self.configuration.cures:
            self.keeper = Keeper(session.run(self.moving), self.configuration.momentum)
        if resume:
            self._restore(session)

    def train(self, session: Any, told: threading.Event, *, progress: bool) -> None:
        options, network = self.configuration, self.network
        stream = islice(draw_batches(self.data.train, options.batch_size, seed=options.seed), self.step, None)
        bar = tqdm(total=options.batches, initial=self.step, desc=self.experiment, unit="batch", disable=not progress)
        begin = time.perf_counter() - self.seconds
        with bar:
            while self.step < options.batches:
                images, labels = next(stream)
                feed = _feed(network, images, labels, training=True)
                if network.learning_rate is not None:
                    feed[network.learning_rate] = options.rate(self.step)
                session.run(network.train_op, feed)
                if self.keeper is not None:
                    self.keeper.update(session.run(self.moving))
                looked = self.step % options.every == 0
                if looked:
                    self.log.append(self._entry(session, Split(images, labels)))
                    bar.set_postfix_str(_summary(self.log[-1]))
                self.step += 1
                bar.update()
                self.seconds = time.perf_counter() - begin
                if looked or told.is_set():
                    self._save(session)
                if told.is_set():
                    raise InterruptedRun(self._farewell())
        self._save(session)

    def final(self, session: Any) -> dict[str, float]:
        """Score the trained network; the test images are used here and nowhere else."""
        begin = time.perf_counter()
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
        self.seconds += time.perf_counter() - begin
        return _flat(found)

    def _entry(self, session: Any, train: Split) -> dict[str, float]:
        found = {
            f"{name}_{mode}": score(session, self.network, images, training=mode == "batch")
            for name, images in (("train", train), ("validation", self.data.validation))
            for mode in ("batch", "moving")
        }
        for cure in self._estimated(session):
            with self._exchanged(session, cure):
                found[f"validation_{cure}"] = score(session, self.network, self.data.validation, training=False)
        return {"batch": self.step, **_flat(found)}

    def _estimated(self, session: Any) -> tuple[str, ...]:
        """Estimate the statistics of the present weights; return the names of the cures, if any."""
        if self.keeper is None:
            return ()
        if not self.keeper.times or self.keeper.times[-1] < self.keeper.updates:
            self.keeper.note(self._estimate(session))
        return tuple(CURES)

    def _estimate(self, session: Any) -> Statistics:
        # Other batches than the next step's: a stream of their own.
        options = self.configuration
        stream = draw_batches(self.data.train, options.batch_size, seed=options.seed + 1_000_000)
        feeds = [_feed(self.network, images, labels, training=True) for images, labels in islice(stream, FEW)]
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

    def _save(self, session: Any) -> None:
        if self.checkpoint is None:
            return
        state = {**self._identity(), "step": self.step, "log": self.log, "seconds": self.seconds}
        extra: dict[str, npt.NDArray[Any]] = {"run": np.frombuffer(json.dumps(state).encode(), np.uint8)}
        if self.keeper is not None:
            extra |= {f"keeper {name}": array for name, array in self.keeper.state().items()}
        self.checkpoint.save(session, extra)

    def _restore(self, session: Any) -> None:
        assert self.checkpoint is not None
        path = self.checkpoint.path
        try:
            extra = self.checkpoint.restore(session)
            state = json.loads(extra["run"].tobytes())
        except (CheckpointError, KeyError, ValueError) as error:
            raise ResumeError(f"{path}: this is no checkpoint of this run ({error})") from error
        for name, mine in self._identity().items():
            theirs = state.get(name)
            if theirs != mine:
                raise ResumeError(f"{path}: the checkpoint has another {name}: {_difference(theirs, mine)}.")
        self.step, self.log, self.seconds = state["step"], state["log"], state["seconds"]
        if self.keeper is not None:
            kept = {key.removeprefix("keeper "): value for key, value in extra.items() if key.startswith("keeper ")}
            self.keeper.restore(kept)

    def _identity(self) -> dict[str, Any]:
        return {
            "experiment": self.experiment,
            "configuration": asdict(self.configuration),
            "data": dict(self.description),
            "code": self.code,
        }

    def _farewell(self) -> str:
        done = f"stopped after {self.step} of {self.configuration.batches} batches"
        return done if self.checkpoint is None else f"{done}; the checkpoint is {self.checkpoint.path}"


def open_session(graph: Any) -> Any:
    """Return a session on a graph: ``tf1.Session(graph=graph)``, but ready three seconds sooner, and of one thread.

    Parameters
    ----------
    graph : tf.Graph
        The network's graph.

    Returns
    -------
    tf1.Session
        To be closed after use: ``with open_session(network.graph) as session:``.
    """
    # Sums depend on how many threads share them. One thread is hardly slower here, and the same on every machine.
    configuration = tf1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
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
    positive_int(chunk, "chunk")
    loss = right = 0.0
    for start in range(0, len(images), chunk):
        part = slice(start, start + chunk)
        feed = _feed(network, images.images[part], images.labels[part], training=training)
        size = len(images.labels[part])
        sums = size * np.asarray(session.run([network.loss, network.accuracy], feed), np.float64)
        loss, right = loss + sums[0], right + sums[1]
    return Score(float(loss / len(images)), float(round(right) / len(images)))


def moving_variables(network: ImageNetwork) -> dict[str, Any]:
    """Return the moving statistics of a graph by their names: variables that no gradient reaches and that say so."""
    variables = network.graph.get_collection(tf1.GraphKeys.GLOBAL_VARIABLES)
    return {variable.op.name: variable for variable in variables if "/moving_" in variable.op.name}


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


def _feed(network: ImageNetwork, images: Any, labels: Any, *, training: bool) -> dict[Any, Any]:
    return {network.inputs: images, network.labels: one_hot(labels, CLASSES), network.training: training}


def _flat(scores: Mapping[str, Score]) -> dict[str, float]:
    return {f"{name}_{kind}": value for name, found in scores.items() for kind, value in asdict(found).items()}


def _summary(entry: Mapping[str, float]) -> str:
    """Return what the progress bar shows of an entry of the log."""
    return (
        f"loss {entry['train_batch_loss']:.3f}, validation {100 * entry['validation_moving_accuracy']:.1f} % "
        f"(batch statistics {100 * entry['validation_batch_accuracy']:.1f} %)"
    )


def _difference(theirs: Any, mine: Any) -> str:
    """Return in words where two configurations differ."""
    if not isinstance(mine, dict) or not isinstance(theirs, dict):
        return f"{theirs!r}, not {mine!r}"
    keys = [key for key in {**theirs, **mine} if theirs.get(key) != mine.get(key)]
    return ", ".join(f"{key} = {theirs.get(key)!r} there, {mine.get(key)!r} here" for key in keys)
