"""Which experiments there are, and how to run one by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bncourse.data import load
from bncourse.experiments import fingerprint
from bncourse.experiments.ahead import ahead
from bncourse.experiments.configurations import (
    AveragedConfiguration,
    BaseConfiguration,
    ByHandConfiguration,
    DeepConfiguration,
    DeepPhotographsConfiguration,
    ImprovedConfiguration,
    LogisticPhotographsConfiguration,
    MovingWeightsConfiguration,
    OneStepConfiguration,
    WidePhotographsConfiguration,
    WiredConfiguration,
)
from bncourse.experiments.record import Run, check_resume


@dataclass(frozen=True)
class Experiment:
    """A system of the source articles that can be run. TensorFlow is loaded when it is.

    Attributes
    ----------
    name : str
        What ``bncourse run`` calls it.
    title : str
        What it is, in a line.
    rows : tuple of str
        Rows of the claims ledger that it serves.
    minutes : float
        How long the defaults take with two cores, about; on MNIST where the defaults are digits.
    module : str
        Module of `bncourse.experiments` with a function ``run`` and ``CODE``, the modules that decide the result; and,
        if `bncourse.data.load` does not know its data, with a function ``load`` of the configuration.
    configuration : type
        The class of its options.
    """

    name: str
    title: str
    rows: tuple[str, ...]
    minutes: float
    module: str
    configuration: type[Any]

    @property
    def function(self) -> Callable[..., Run]:
        """What runs it."""
        found: Callable[..., Run] = self._loaded().run
        return found

    def code(self) -> str:
        """Return the fingerprint of the code that decides its results."""
        return fingerprint.of(self._loaded().CODE)

    def data(self, configuration: Any, *, progress: bool = False) -> Any:
        """Return what a configuration trains on; None if that is nothing."""
        own = getattr(self._loaded(), "load", None)
        if own is not None:
            return own(configuration, progress=progress)
        return load(configuration.data) if hasattr(configuration, "data") else None

    def _loaded(self) -> Any:
        return import_module(f"bncourse.experiments.{self.module}")


_ALL = (
    Experiment(
        "deep",
        "article A: 19 convolutions, with and without BN, in four orders of layers",
        ("S-A1", "S-A2", "S-A3", "S-A4", "S-A5", "C-A3", "C-A4", "C-A8", "C-A10"),
        1,
        "deep_network",
        DeepConfiguration,
    ),
    Experiment(
        "by-hand",
        "article C: a small network whose BN is written with tf.nn, right or with the article's mistakes",
        ("S-C1", "S-C2", "S-C3", "C-C1", "C-C3", "C-C4", "C-C5"),
        0.5,
        "by_hand",
        ByHandConfiguration,
    ),
    Experiment(
        "wired",
        "a small network whose update ops are wired in one of 21 ways, right and wrong",
        ("C-A5", "C-A9", "C-C1", "C-C2", "C-C5"),
        0.3,
        "wired",
        WiredConfiguration,
    ),
    Experiment(
        "one-step",
        "article B: one step of the network with one unit a layer",
        ("S-B1", "C-B1", "C-B2", "C-B3"),
        0.1,
        "one_step",
        OneStepConfiguration,
    ),
    Experiment(
        "base",
        "article E: the base network, without BN, dropout and early stopping",
        ("S-E1", "S-E2", "S-E3"),
        2,
        "base_network",
        BaseConfiguration,
    ),
    Experiment(
        "improved",
        "article E: BN, SELU, dropout and early stopping, together or one by one",
        ("S-E4", "S-E5", "C-E1", "C-E6"),
        20,
        "article_e",
        ImprovedConfiguration,
    ),
    Experiment(
        "improved-averaged",
        "article E's improved network with the mean of its last weights, and statistics for it",
        ("S-E4",),
        20,
        "averaged",
        AveragedConfiguration,
    ),
    Experiment(
        "improved-moving",
        "article E's improved network, stopped early by a moving average of its weights",
        ("S-E5", "C-E1"),
        20,
        "moving_weights",
        MovingWeightsConfiguration,
    ),
    Experiment(
        "photographs-logistic",
        "article D: logistic regression on photographs, with and without BN in front",
        ("S-D1", "S-D2", "C-D1", "C-D3"),
        0.3,
        "photographs",
        LogisticPhotographsConfiguration,
    ),
    Experiment(
        "photographs-wide",
        "article D: one wide convolution on photographs, with BN in front, between, or none",
        ("S-D1", "S-D3", "C-D1", "C-D3"),
        2,
        "photographs",
        WidePhotographsConfiguration,
    ),
    Experiment(
        "photographs-deep",
        "article D: seven convolutions on photographs, with BN in front, between, or none",
        ("S-D1", "S-D4", "C-D1", "C-D2", "C-D3"),
        1,
        "photographs",
        DeepPhotographsConfiguration,
    ),
)

#: All experiments by their names.
EXPERIMENTS: Mapping[str, Experiment] = MappingProxyType({experiment.name: experiment for experiment in _ALL})


def find(name: str) -> Experiment:
    """Return the experiment `name`.

    Raises
    ------
    ValueError
        If there is none.
    """
    if name not in EXPERIMENTS:
        near = get_close_matches(name, EXPERIMENTS, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no experiment {name!r}; there are: {', '.join(EXPERIMENTS)}.{hint}")
    return EXPERIMENTS[name]


def configure(name: str, options: Mapping[str, Any]) -> Any:
    """Return the configuration of the experiment `name`, with `options` in place of the defaults.

    Raises
    ------
    ValueError
        If there is no such experiment or option, or an option lies outside its range.
    TypeError
        If an option has the wrong type.
    """
    kind = find(name).configuration
    known = [place.name for place in fields(kind)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"the experiment {name!r} has no option {unknown[0]!r}; it has: {', '.join(known)}.")
    return kind(**options)


def run(
    name: str,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: bool = False,
    tell: Callable[[str], None] | None = None,
    **options: Any,
) -> Run:
    """Run an experiment: what ``bncourse run`` does, but for the files.

    Parameters
    ----------
    name : str
        One of ``EXPERIMENTS``; ``bncourse run --list`` shows them.
    checkpoint, resume, progress
        See :meth:`bncourse.experiments.training.Program.run`.
    tell : callable, optional
        Called before the training with each line that is worth knowing then; see `bncourse.experiments.ahead`.
    **options
        The experiment's options; ``bncourse run NAME --help`` explains them.

    Returns
    -------
    Run

    Raises
    ------
    ValueError
        If the experiment, an option or a data set does not exist, or an option lies outside its range.
    bncourse.data.DataError
        If the data cannot be had, or a folder cannot be used.
    """
    configuration = configure(name, options)
    check_resume(checkpoint, resume)  # before anything that takes time
    experiment = find(name)
    function = experiment.function  # before the data: a download imports Keras, and TensorFlow must be set up first
    data = experiment.data(configuration, progress=progress)
    if tell is not None:
        for line in ahead(configuration, data):
            tell(line)
    return function(configuration, data, checkpoint=checkpoint, resume=resume, progress=progress)
