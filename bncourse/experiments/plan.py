"""The recorded results: which runs they are, where they stand, and whether they still fit the code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

from bncourse.experiments.catalogue import find
from bncourse.experiments.record import RecordError, Run, read
from bncourse.experiments.sweep import Task, tasks
from bncourse.results import RUNS
from bncourse.tf_layers.arguments import WiringName

#: "fits": recorded with this code and configuration; "stale": with other code, or unreadable; "missing".
State = Literal["fits", "stale", "missing"]

FIVE = tuple(range(5))


@dataclass(frozen=True)
class Sweep:
    """Runs that belong together.

    Attributes
    ----------
    name : str
        Name of their folder.
    experiment : str
        Name of the experiment.
    choices : mapping of str to sequence
        Values of the options; all combinations are run.
    purpose : str
        What the course needs them for.
    """

    name: str
    experiment: str
    choices: Mapping[str, Sequence[Any]]
    purpose: str

    def tasks(self) -> list[Task]:
        """Return the runs, each with its file, named after what differs: a whole configuration would be too long."""
        varied = [name for name, values in self.choices.items() if len(values) > 1]
        return [
            replace(task, path=task.path.with_name(f"{_label(task.options, varied) or self.name}.json"))
            for task in tasks(self.experiment, self.choices, RUNS / self.name)
        ]


def _label(options: Mapping[str, Any], names: Sequence[str]) -> str:
    return "-".join(f"{name}={options[name]}" for name in names)


#: The better recipe for article A's network; chosen on validation images only.
RECIPE: Mapping[str, Any] = MappingProxyType(
    {
        "loss": "softmax",
        "start": "identity",
        "optimizer": "muon",
        "schedule": "linear",
        "learning_rate": 0.04,
        "momentum": 0.9,
    }
)

#: The mended recipe for article E's improved network; chosen on validation images only.
MENDED: Mapping[str, Any] = MappingProxyType(
    {
        "batch_size": 128,
        "optimizer": "muon",
        "learning_rate": 0.03,
        "schedule": "linear",
        "activation": "relu",
        "shift": 1,
        "dropout": 0.1,
        "dense_dropout": 0.0,
        "patience": 0,
    }
)

_MNIST: Mapping[str, Sequence[Any]] = MappingProxyType({"data": ("mnist",), "seed": FIVE})


#: Crops of two photographs, small and for few epochs; momentum 0.9, because 0.99 would be late (`photographs-lag`).
_CROPS: Mapping[str, Sequence[Any]] = MappingProxyType(
    {"image_size": (128,), "epochs": (15,), "momentum": (0.9,), "threads": (1,), "seed": FIVE}
)
_PLACES = ("input", "none", "between")

#: A run for early stopping: large batches and a constant rate, and a patience of one epoch.
STOPPED: Mapping[str, Any] = MappingProxyType(
    {
        "batch_size": 500,
        "learning_rate": 0.002,
        "activation": "relu",
        "dropout": 0.0,
        "dense_dropout": 0.0,
        "normalise_logits": False,
        "patience": 110,
    }
)

#: The same with a moving average of the weights, whose curve has less noise: small batches will do, and patience may be
#: short. Patience and momentum were chosen on validation images of other starts.
STOPPED_BY_AVERAGE: Mapping[str, Any] = MappingProxyType(
    {**STOPPED, "batch_size": 100, "learning_rate": 0.001, "patience": 330, "weight_momentum": 0.99}
)

#: Four epochs of article E's network, gone through to the end (the audit); early stopping's answer is kept.
_PARTS: Mapping[str, Sequence[Any]] = MappingProxyType(
    {"batches": (2200,), "every": (50,), "patience": (500,), "audit": (2200,)}
)


def _one(options: Mapping[str, Any], **more: Any) -> Mapping[str, Sequence[Any]]:
    """Return choices with a single value for each option, but five random starts on MNIST."""
    return {**{name: (value,) for name, value in {**options, **more}.items()}, **_MNIST}


_ALL = (
    Sweep("deep", "deep", {"cures": (True,), **_MNIST}, "article A's program, and what would have cured its lag"),
    Sweep("deep-plain", "deep", {"batch_norm": (False,), **_MNIST}, "the same network without BN"),
    Sweep(
        "deep-orders",
        "deep",
        {"order": ("bias-bn-relu", "bias-relu-bn", "relu-bn"), "every": (100,), **_MNIST},
        "the three other orders of convolution, BN and ReLU",
    ),
    Sweep("deep-recipe", "deep", _one(RECIPE, every=100), "the same layers with a better recipe"),
    Sweep("deep-recipe-start", "deep", _one(RECIPE, every=100, start="glorot"), "the recipe from the usual start"),
    Sweep(
        "deep-recipe-step",
        "deep",
        _one(RECIPE, every=100, optimizer="adam", learning_rate=0.01),
        "the recipe with Adam's steps",
    ),
    Sweep("base", "base", _MNIST, "article E's base network"),
    Sweep(
        "improved",
        "improved",
        {"watch": ("before",), "data": ("mnist",), "seed": (0, 1)},
        "article E's program; two starts, for one takes twenty minutes",
    ),
    Sweep(
        "improved-recipe",
        "improved-averaged",
        _one(MENDED, batches=1290, every=430, threads=2, averaged=0.3),
        "article E's improved network with a mended recipe, three epochs",
    ),
    Sweep("improved-epoch", "improved", _one(MENDED, batches=430, every=430, threads=2), "the recipe, one epoch"),
    Sweep(
        "improved-epoch-logits",
        "improved",
        _one(MENDED, batches=430, every=430, threads=2, normalise_logits=False),
        "the same without BN on the logits",
    ),
    Sweep(
        "improved-epoch-pooled",
        "improved",
        _one(MENDED, batches=430, every=430, threads=2, normalise_pooled=True),
        "the same with one more BN behind the pooling",
    ),
    Sweep(
        "improved-stopped",
        "improved",
        _one(STOPPED, batches=1100, every=22, audit=44),
        "early stopping at a constant rate, and what it missed",
    ),
    Sweep(
        "improved-moving",
        "improved-moving",
        _one(STOPPED_BY_AVERAGE, batches=4400, every=55, audit=110),
        "early stopping by a moving average of the weights, and what it missed",
    ),
    Sweep(
        "improved-parts",
        "improved",
        {"batch_norm": (True, False), **_PARTS, **_MNIST},
        "with and without BN, with dropout; each with and without early stopping",
    ),
    Sweep(
        "improved-parts-no-dropout",
        "improved",
        {"batch_norm": (True, False), "dropout": (0.0,), "dense_dropout": (0.0,), **_PARTS, **_MNIST},
        "the same without dropout",
    ),
    Sweep(
        "wired",
        "wired",
        {"wiring": get_args(WiringName), "every": (400,), **_MNIST},
        "ways to wire the update ops, right and wrong",
    ),
    Sweep("one-step", "one-step", {"seed": (0,)}, "article B's step, in which nothing is random"),
    Sweep(
        "by-hand",
        "by-hand",
        {"layer": ("by_hand", "tf_layers", "contrib"), "every": (100,), **_MNIST},
        "BN written with tf.nn beside the ready layers",
    ),
    Sweep(
        "by-hand-mistakes",
        "by-hand",
        {"momentum": (0.99, 1e-5), "moment_axes": ("batch",), "every": (100,), **_MNIST},
        "moments over the batch alone; the second decay makes it article C's layer",
    ),
    Sweep(
        "by-hand-decay",
        "by-hand",
        {"momentum": (1e-5,), "every": (100,), **_MNIST},
        "article C's decay alone, which does not average",
    ),
    Sweep(
        "photographs-logistic",
        "photographs-logistic",
        {"learning_rate": (0.01, 0.0001), "batch_norm": ("input", "none"), **_CROPS},
        "article D's logistic regression, at the article's rate and at a smaller one",
    ),
    Sweep(
        "photographs-wide",
        "photographs-wide",
        {"batch_norm": _PLACES, **_CROPS},
        "article D's wide model, with BN in three places",
    ),
    Sweep(
        "photographs-deep",
        "photographs-deep",
        {"batch_norm": _PLACES, **_CROPS},
        "article D's deep model, with BN in three places",
    ),
    Sweep(
        "photographs-deep-slow",
        "photographs-deep",
        {"learning_rate": (0.001,), "batch_norm": _PLACES, **_CROPS},
        "the deep model at a tenth of the article's rate",
    ),
    Sweep(
        "photographs-lag",
        "photographs-deep",
        {"batch_norm": ("between",), **_CROPS, "momentum": (0.99,)},
        "the deep model with Keras's momentum",
    ),
)

#: All sweeps by their names.
SWEEPS: Mapping[str, Sweep] = MappingProxyType({sweep.name: sweep for sweep in _ALL})


def state(task: Task) -> State:
    """Tell whether the record of `task` is there and fits the code and the configuration of today."""
    if not task.path.exists():
        return "missing"
    try:
        run = read(task.path)
    except RecordError:
        return "stale"
    fits = dict(run.configuration) == task.configuration() and run.code == find(task.experiment).code()
    return "fits" if fits else "stale"


def recorded(name: str) -> list[Run]:
    """Return the recorded runs of a sweep, in the order of its choices, the seeds last.

    Raises
    ------
    ValueError
        If there is no such sweep.
    FileNotFoundError
        If a record is missing.
    """
    if name not in SWEEPS:
        raise ValueError(f"there is no sweep {name!r}; there are: {', '.join(SWEEPS)}.")
    plan = SWEEPS[name].tasks()
    for task in plan:
        if not task.path.exists():
            raise FileNotFoundError(f"{task.path} is missing; make results makes it.")
    return [read(task.path) for task in plan]
