"""The training program of article D: a model for photographs, epoch by epoch, with a log and checkpoints."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from bncourse.data.photographs import CROPS, Photographs, Pictures, load_photographs, photograph_batches
from bncourse.experiments import fingerprint
from bncourse.experiments.configurations.photographs import (
    DeepPhotographsConfiguration,
    LogisticPhotographsConfiguration,
    PhotographModel,
    PhotographsConfiguration,
    Place,
    WidePhotographsConfiguration,
)
from bncourse.experiments.record import InterruptedRun, ResumeError, Run, check_resume, differences, installed
from bncourse.experiments.training import _told_to_stop
from bncourse.keras_models.photographs import (
    build_photograph_model,
    check_image_size,
    compile_photograph_model,
    silent_maps,
)
from bncourse.tf_layers import tf
from bncourse.tf_layers.arguments import known
from bncourse.training.arrays import CheckpointError, read_arrays, write_arrays

#: Modules whose code decides the result.
CODE = (
    "bncourse.data.photographs",
    "bncourse.data.picture_files",
    "bncourse.data.picture_folder",
    "bncourse.experiments.configurations.photographs",
    "bncourse.experiments.photographs",
    "bncourse.keras_models.photographs",
)

_CONFIGURATIONS: Mapping[PhotographModel, type[PhotographsConfiguration]] = {
    kind.model: kind
    for kind in (LogisticPhotographsConfiguration, WidePhotographsConfiguration, DeepPhotographsConfiguration)
}


@dataclass(frozen=True)
class PhotographRun:
    """What one training gave. Runs are equal if their logs and their final scores are.

    Attributes
    ----------
    log : tuple of mappings
        One entry an epoch: "epoch", counted from 1; "batch", the last step of the epoch, counted from 0;
        "train_batch_loss" (nats) and "train_batch_accuracy" (0 to 1), means over the batches of the epoch as they were
        trained on, each normalised with its own statistics and scored before its step (what Keras's ``fit`` prints);
        "validation_moving_loss" and "validation_moving_accuracy", all validation pictures after the epoch, normalised
        with the moving statistics.
    final : mapping
        The same for the validation and, where there are any, the test pictures at the end ("test_moving_loss", ...);
        and for each ReLU the share of its maps that are 0 all over the validation pictures ("silent_relu_1", ...).
    seconds : float
        Wall-clock time, that of broken-off parts included.
    peak_memory : int or None
        The most memory that this process ever held, in bytes, from its start to the end of the training; None where
        the system does not tell (Windows).
    memory_before : int or None
        The same, at the beginning of the training.
    model : keras.Model
        The trained model.
    """

    log: tuple[Mapping[str, float], ...]
    final: Mapping[str, float]
    seconds: float = field(compare=False)
    peak_memory: int | None = field(compare=False)
    memory_before: int | None = field(compare=False)
    model: Any = field(compare=False, repr=False)

    def column(self, name: str) -> npt.NDArray[np.float64]:
        """Return one column of the log, shape (epochs,).

        Raises
        ------
        KeyError
            If there is no such column.
        """
        return np.array([entry[name] for entry in self.log], np.float64)


def train_photographs(
    data: Photographs,
    *,
    model: PhotographModel = "deep",
    batch_norm: Place = "input",
    epochs: int = 20,
    batch_size: int = 10,
    learning_rate: float | None = None,
    momentum: float = 0.99,
    augment: bool = False,
    seed: int = 0,
    threads: int = 0,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> PhotographRun:
    """Train one of article D's models; only one batch of photographs is in memory at a time.

    Parameters
    ----------
    data : Photographs
        From `bncourse.data.photographs`; their size is the model's.
    model, batch_norm, momentum
        See `bncourse.keras_models.photographs.build_photograph_model`.
    epochs : int
        Passes over the training photographs; 200 in the article.
    batch_size : int
        Photographs in a step; the last batch of an epoch may be shorter.
    learning_rate : float, optional
        Adam's; by default the article's for the model.
    augment : bool
        Whether training photographs are mirrored and cropped a little, at random.
    seed : int
        Seed of start weights, order and augmentation. On one machine the same seed gives the same digits; sums
        depend on the processor and on the number of threads.
    threads : int
        Threads of one operation; 0 leaves TensorFlow as it is. Another number must be set before TensorFlow computes
        anything in this process.
    checkpoint : path, optional
        File for checkpoints, written after every epoch and when the run is told to stop (Ctrl-C, SIGTERM), and
        removed at the end.
    resume : bool
        Go on from the checkpoint: with the same digits as an unbroken run.
    progress : bool
        Whether a progress bar is shown on standard error.

    Returns
    -------
    PhotographRun

    Raises
    ------
    InterruptedRun
        If it was told to stop.
    ResumeError
        If the checkpoint is missing, damaged, or belongs to another configuration, other data or other code.
    bncourse.data.DataError
        If a file has changed since the folder was searched.
    TypeError, ValueError
        If an argument is impossible.
    """
    if not isinstance(data, Photographs):
        raise TypeError(
            f"data is a {type(data).__name__}; expected bncourse.data.photographs.Photographs, say load_crops()."
        )
    known(model, "model", PhotographModel)
    rate = {} if learning_rate is None else {"learning_rate": learning_rate}
    configuration = _CONFIGURATIONS[model](
        data=data.name,
        image_size=data.size,
        batch_norm=batch_norm,
        epochs=epochs,
        batch_size=batch_size,
        **rate,
        momentum=momentum,
        augment=augment,
        seed=seed,
        threads=threads,
    )
    return _Training(configuration, data).run(checkpoint=checkpoint, resume=resume, progress=progress)


def load(configuration: PhotographsConfiguration, *, progress: bool = False) -> Photographs:
    """Return the photographs that a configuration names.

    Raises
    ------
    ValueError
        If they are to be smaller than the model can take: before a folder is searched.
    bncourse.data.DataError
        If the folder cannot be used.
    """
    check_image_size(configuration.model, configuration.image_size)
    return load_photographs(configuration.data, size=configuration.image_size, progress=progress)


def run(
    configuration: PhotographsConfiguration,
    data: Photographs,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> Run:
    """Train as `configuration` says and return the record; see `train_photographs`."""
    training = _Training(configuration, data)
    found = training.run(checkpoint=checkpoint, resume=resume, progress=progress)
    return Run(
        experiment=training.name,
        configuration=asdict(configuration),
        data=training.description,
        log=found.log,
        final=found.final,
        seconds=round(found.seconds, 1),
        versions={**installed(), "keras": version("keras"), "pillow": version("pillow")},
        code=training.code,
        peak_memory=found.peak_memory,
        notes=_notes(data),
    )


def _notes(data: Photographs) -> tuple[str, ...]:
    """Return what of a reader's folder is used, and what is not, and why."""
    if data.name == CROPS:
        return ()
    skipped = data.report.skipped
    used = ", ".join(f"{name} {len(pictures):,}" for name, pictures in data.splits().items())
    return (
        f"{data.report.used:,} pictures are used ({used}); left out: {len(skipped):,}",
        *(f"{item.name}: {item.reason}" for item in skipped),
    )


class _Training:
    """One run: the model, and where it stands."""

    def __init__(self, configuration: PhotographsConfiguration, data: Photographs) -> None:
        if data.size != configuration.image_size:
            raise ValueError(
                f"image_size = {configuration.image_size}, and the data have {data.size}; load them with that size."
            )
        check_image_size(configuration.model, configuration.image_size)
        _set_threads(configuration.threads)
        self.name = f"photographs-{configuration.model}"
        self.configuration, self.data = configuration, data
        self.description, self.code = data.describe(), fingerprint.of(CODE)
        self.model = build_photograph_model(
            configuration.model,
            image_size=configuration.image_size,
            classes=len(data.classes),
            batch_norm=configuration.batch_norm,
            momentum=configuration.momentum,
            seed=configuration.seed,
        )
        compile_photograph_model(self.model, learning_rate=configuration.learning_rate)
        self.model.optimizer.build(self.model.trainable_variables)
        self.log: list[dict[str, float]] = []
        self.sums = _Sums()  # of the epoch that is under way
        self.seconds = 0.0
        self.checkpoint: Path | None = None

    def run(self, *, checkpoint: Path | None, resume: bool, progress: bool) -> PhotographRun:
        check_resume(checkpoint, resume)
        self.checkpoint = checkpoint
        before = _peak_memory()
        if resume:
            self._restore()
        with _told_to_stop() as told:
            begin = time.perf_counter() - self.seconds
            while len(self.log) < self.configuration.epochs:
                self._epoch(told, begin, progress=progress)
            final = {"validation": self._score(self.data.validation)}
            if self.data.test is not None:
                final["test"] = self._score(self.data.test)
            scores = {key: value for name, sums in final.items() for key, value in sums.means(f"{name}_moving").items()}
            silent = silent_maps(self.model, (images for images, _ in self._in_order(self.data.validation)))
            self.seconds = time.perf_counter() - begin
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
        return PhotographRun(
            log=tuple(self.log),
            final={**scores, **{f"silent_{name}": share for name, share in silent.items()}},
            seconds=self.seconds,
            peak_memory=_peak_memory(),
            memory_before=before,
            model=self.model,
        )

    def _epoch(self, told: threading.Event, begin: float, *, progress: bool) -> None:
        options, epoch = self.configuration, len(self.log)
        batches = photograph_batches(
            self.data.train, options.batch_size, seed=options.seed, epoch=epoch, augment=options.augment
        )
        steps = -(-len(self.data.train) // options.batch_size)
        description = f"epoch {epoch + 1} of {options.epochs}"
        with tqdm(total=steps, initial=self.sums.batches, desc=description, unit="batch", disable=not progress) as bar:
            for images, labels in _without(batches, self.sums.batches):
                self.model.reset_metrics()
                self.sums.add(self.model.train_on_batch(images, labels, return_dict=True), len(labels))
                bar.update()
                if told.is_set():
                    self.seconds = time.perf_counter() - begin
                    self._save()
                    raise InterruptedRun(self._farewell())
            entry = {"batch": (epoch + 1) * steps - 1, "epoch": epoch + 1, **self.sums.means("train_batch")}
            entry |= self._score(self.data.validation).means("validation_moving")
            self.log.append(entry)
            bar.set_postfix_str(
                f"training {100 * entry['train_batch_accuracy']:.1f} %, "
                f"validation {100 * entry['validation_moving_accuracy']:.1f} %"
            )
        self.sums = _Sums()
        self.seconds = time.perf_counter() - begin
        self._save()

    def _score(self, pictures: Pictures) -> _Sums:
        sums = _Sums()
        for images, labels in self._in_order(pictures):
            self.model.reset_metrics()
            sums.add(self.model.test_on_batch(images, labels, return_dict=True), len(labels))
        return sums

    def _in_order(self, pictures: Pictures) -> Iterator[Any]:
        return photograph_batches(pictures, self.configuration.batch_size, shuffle=False)

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        state = {**self._identity(), "log": self.log, "sums": asdict(self.sums), "seconds": self.seconds}
        arrays = {name: np.asarray(variable.numpy()) for name, variable in self._variables().items()}
        write_arrays(self.checkpoint, {**arrays, "run": np.frombuffer(json.dumps(state).encode(), np.uint8)})

    def _restore(self) -> None:
        assert self.checkpoint is not None
        try:
            arrays = read_arrays(self.checkpoint)
            state = json.loads(arrays.pop("run").tobytes())
        except (CheckpointError, KeyError, ValueError) as error:
            raise ResumeError(f"{self.checkpoint}: this is no checkpoint of this run ({error})") from error
        for name, mine in self._identity().items():
            if state.get(name) != mine:
                raise ResumeError(
                    f"{self.checkpoint}: the checkpoint has another {name}: {differences(state.get(name), mine)}."
                )
        for name, variable in self._variables().items():
            variable.assign(arrays[name])
        self.log, self.sums, self.seconds = state["log"], _Sums(**state["sums"]), state["seconds"]

    def _variables(self) -> dict[str, Any]:
        """Return everything that training changes: weights, moving statistics, Adam's memory and number of steps."""
        groups = {"model": self.model.weights, "optimizer": self.model.optimizer.variables}
        return {f"{group}/{i}": variable for group, found in groups.items() for i, variable in enumerate(found)}

    def _identity(self) -> dict[str, Any]:
        return {
            "experiment": self.name,
            "configuration": asdict(self.configuration),
            "data": self.description,
            "code": self.code,
        }

    def _farewell(self) -> str:
        done = f"stopped in epoch {len(self.log) + 1} of {self.configuration.epochs}, after {self.sums.batches} batches"
        return done if self.checkpoint is None else f"{done}; the checkpoint is {self.checkpoint}"


@dataclass
class _Sums:
    """Loss and right answers, summed over pictures."""

    batches: int = 0
    pictures: int = 0
    loss: float = 0.0
    right: int = 0

    def add(self, scores: Mapping[str, Any], count: int) -> None:
        self.batches += 1
        self.pictures += count
        self.loss += float(scores["loss"]) * count
        self.right += round(float(scores["accuracy"]) * count)

    def means(self, name: str) -> dict[str, float]:
        return {f"{name}_loss": self.loss / self.pictures, f"{name}_accuracy": self.right / self.pictures}


def _without(batches: Iterable[Any], count: int) -> Iterable[Any]:
    """Leave out the first `count` batches, which a broken-off run has trained on."""
    return (batch for number, batch in enumerate(batches) if number >= count)


def _set_threads(threads: int) -> None:
    """Tell TensorFlow how many threads share an operation.

    Raises
    ------
    ValueError
        If it computes with another number already.
    """
    if threads in (0, tf.config.threading.get_intra_op_parallelism_threads()):
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError as error:
        raise ValueError(
            f"threads = {threads}, but TensorFlow has begun to compute with another number. Start Python again and "
            "train before anything else, or leave threads at 0."
        ) from error


def _peak_memory() -> int | None:
    """Return the most memory that this process ever held, in bytes."""
    try:
        import resource
    except ImportError:
        return None
    kibibytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kibibytes
