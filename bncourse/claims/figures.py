"""Figures that several claims need: from recorded runs, from graphs, and from small networks trained on the spot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bncourse.data import load_digits
from bncourse.experiments import plan
from bncourse.experiments.record import Run
from bncourse.intervals import Interval, t_interval
from bncourse.nn import Adam, BatchNorm, Dense, Layer, ReLU, Sequential

Array = npt.NDArray[np.float64]


def runs(sweep: str, **options: Any) -> list[Run]:
    """Return the recorded runs of a sweep whose options are `options`, one for each random start.

    Raises
    ------
    FileNotFoundError
        If a record is missing.
    ValueError
        If there is no such sweep, or it has no such runs.
    """
    found = [
        run for run in plan.recorded(sweep) if all(run.configuration[name] == value for name, value in options.items())
    ]
    if not found:
        raise ValueError(f"the sweep {sweep!r} has no runs with {options}.")
    return found


def final(of: Sequence[Run], score: str = "test_moving") -> Array:
    """Return accuracies at the end in per cent, shape (starts,)."""
    return np.array([100 * run.final[f"{score}_accuracy"] for run in of])


def at(of: Sequence[Run], batch: int, series: str = "validation_moving") -> Array:
    """Return accuracies of the log after step `batch` in per cent, shape (starts,)."""
    return np.array([100 * run.at(batch)[f"{series}_accuracy"] for run in of])


def column(of: Sequence[Run], name: str) -> Array:
    """Return one column of the logs, shape (starts, entries)."""
    return np.array([run.column(name) for run in of])


def across(values: Array) -> str:
    """Return lowest and highest of several starts in words."""
    return f"{values.min():.0f} to {values.max():.0f}"


def listed(values: Array, digits: int) -> str:
    """Return the values of a few starts in words: of two there is no interval worth the name."""
    return " and ".join(f"{value:.{digits}f}" for value in values)


def difference(one: Array, other: Array) -> Interval:
    """Return the interval of the difference of two scores of the same starts."""
    return t_interval(one - other)


class SmallNetwork(NamedTuple):
    """Test accuracies in per cent of one small network on the digits, and what single images give.

    ``batch`` and ``pairs``: in training mode, all images together or two at a time. ``moving``: in inference mode.
    ``forgotten``: in inference mode with the start values 0 and 1. ``spread_alone``: how far the logits of single
    images in training mode differ.
    """

    batch: float
    pairs: float
    moving: float
    forgotten: float
    spread_alone: float


#: What each small network scores at least (`batch`, `moving`) or at most, in per cent; processors round differently.
BOUNDS: Mapping[str, int] = MappingProxyType({"batch": 85, "moving": 80, "forgotten": 65, "pairs": 45})


def within_bounds(*scores: str) -> dict[str, bool]:
    """Return for each of these scores of the small networks, in words, whether `BOUNDS` holds in every start."""
    found = {}
    for score in scores:
        values, bound = [getattr(network, score) for network in small_networks()], BOUNDS[score]
        high = score in ("batch", "moving")
        found[f"{score} is {'above' if high else 'below'} {bound} % in every small network"] = (
            min(values) > bound if high else max(values) < bound
        )
    return found


def blind_alone() -> bool:
    """Tell whether every small network gives all single images the same logits in training mode."""
    return max(network.spread_alone for network in small_networks()) < 1e-5


@cache
def small_networks(starts: int = 3) -> tuple[SmallNetwork, ...]:
    """Train networks of four hidden layers with BN, in NumPy, and score them in all the ways of `SmallNetwork`."""
    return tuple(_small_network(seed) for seed in range(starts))


def _small_network(seed: int) -> SmallNetwork:
    (x, labels), (test, answers) = digit_rows("train"), digit_rows("test")
    layers: list[Layer] = []
    for number in range(4):
        layers += [Dense(32, use_bias=False, seed=(seed, number)), BatchNorm(momentum=0.9), ReLU()]
    network = Sequential([*layers, Dense(10, seed=(seed, 4))])
    network.fit(x, labels, batch_size=64, steps=150, optimizer=Adam(0.01), seed=seed)
    learned = {name: array.copy() for name, array in network.weights.items()}

    order = np.random.default_rng(seed).permutation(len(test))

    def logits(size: int, count: int, training: bool) -> npt.NDArray[Any]:
        """Score images in batches of `size`, in training mode or not; the network stays as it was."""
        network.set_weights(learned)
        parts = [network(test[order[i : i + size]], training=training) for i in range(0, count, size)]
        return np.concatenate(parts)

    def accuracy(found: npt.NDArray[Any]) -> float:
        return float(100 * np.mean(found.argmax(axis=1) == answers[order]))

    many = len(test)
    batch, pairs = (accuracy(logits(size, many, True)) for size in (many, 2))
    moving = accuracy(logits(many, many, False))
    spread = float(np.ptp(logits(1, 20, True), axis=0).max())
    learned |= {
        name: np.full_like(array, float("variance" in name)) for name, array in learned.items() if "moving" in name
    }
    return SmallNetwork(batch, pairs, moving, accuracy(logits(many, many, False)), spread)


def digit_maps(*splits: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return the digits' original 8 x 8 pixels, shape (images, 8, 8, 1), and the labels of these splits together."""
    found = [getattr(load_digits(), split) for split in splits]
    images = np.concatenate([split.images[:, 3:27:3, 3:27:3] for split in found])
    return images, np.concatenate([split.labels for split in found])


def digit_rows(*splits: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return the same pixels as rows, shape (images, 64), and the labels."""
    images, labels = digit_maps(*splits)
    return images.reshape(len(images), -1), labels


@cache
def deep_network(**options: Any) -> Any:
    """Build article A's network; its graph can be asked without a session."""
    from bncourse.tf_layers.deep_network import build_deep_network

    return build_deep_network(**options)


def trained_shapes(network: Any) -> list[tuple[int, ...]]:
    """Return the shapes of all arrays that training changes, in the order in which they were built."""
    return [tuple(variable.shape) for variable in network.graph.get_collection("trainable_variables")]


def operations(network: Any, kind: str) -> list[Any]:
    """Return the operations of one kind that stand in a graph itself (not in its gradients)."""
    return [
        operation
        for operation in network.graph.get_operations()
        if operation.type == kind and not operation.name.startswith("gradients")
    ]
