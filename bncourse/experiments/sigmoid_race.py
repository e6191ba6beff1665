"""The BN paper's first experiment on MNIST: how many steps three layers of sigmoids need, with BN and without.

Ioffe and Szegedy (2015), section 4.1: three hidden layers of 100 sigmoids, Gaussian first weights, batches of 60, MNIST
made binary. The paper states neither the learning rate nor the size of the first weights; both are varied here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from tqdm import tqdm

from bncourse.data import Dataset, Split, load_mnist
from bncourse.nn import SGD, BatchNorm, Dense, Layer, Sequential, Sigmoid
from bncourse.results import files

UNITS, HIDDEN_LAYERS, BATCH = 100, 3, 60
GOAL = 0.9
#: Training images that the population statistics are taken from.
FOR_STATISTICS = 6_000
Images = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Race:
    """One training run, up to the goal.

    Attributes
    ----------
    rate
        Learning rate of plain gradient descent.
    std
        Standard deviation of the first weights of the hidden layers.
    norm
        Whether BN stands before each sigmoid.
    seed
        Seed of the weights and of the batches; the same with BN and without.
    steps
        Steps until 90 % of the validation images were named correctly, scored with the moving averages (momentum
        0.99); ``None`` if that took more than the run had.
    steps_population
        The same, scored with the statistics of algorithm 2; without BN the same figure.
    """

    rate: float
    std: float
    norm: bool
    seed: int
    steps: int | None
    steps_population: int | None


def run(data: Dataset, *, rate: float, std: float, norm: bool, seed: int, most: int = 8_000, every: int = 10) -> Race:
    """Train one network until both clocks have stopped, or for `most` steps; look every `every` steps.

    Parameters
    ----------
    data
        MNIST, or a set of its kind.
    rate, std, norm, seed
        See :class:`Race`.
    most
        Steps at most.
    every
        Steps between two looks at the validation images.
    """
    images, labels = binary(data.train), data.train.labels
    held_out = binary(data.validation), data.validation.labels
    net, optimizer = network(images[:2], norm=norm, std=std, seed=seed), SGD(rate)
    clocks: list[int | None] = [None, None]
    for step, batch in zip(range(1, most + 1), _batches(len(images), seed), strict=False):
        net.train_on_batch(images[batch], labels[batch], optimizer=optimizer)
        if step % every:
            continue
        if clocks[0] is None and net.evaluate(*held_out).accuracy >= GOAL:
            clocks[0] = step
        if not norm:
            clocks[1] = clocks[0]
        elif clocks[1] is None:
            exact = with_population_statistics(net, images[:FOR_STATISTICS])
            clocks[1] = step if exact.evaluate(*held_out).accuracy >= GOAL else None
        if None not in clocks:
            break
    return Race(rate, std, norm, seed, *clocks)


def network(images: Images, *, norm: bool, std: float, seed: int) -> Sequential:
    """Return the network, built for `images`."""
    rng, layers, inputs = np.random.default_rng([seed, 0]), list[Layer](), images.shape[1]
    for _ in range(HIDDEN_LAYERS):
        dense = Dense(UNITS, use_bias=not norm)
        kernel = rng.normal(0, std, (inputs, UNITS)).astype(np.float32)
        dense.set_weights({"kernel": kernel} | ({} if norm else {"bias": np.zeros(UNITS, np.float32)}))
        layers += [dense, BatchNorm(), Sigmoid()] if norm else [dense, Sigmoid()]
        inputs = UNITS
    net = Sequential([*layers, Dense(10, seed=[seed, 1])])
    net(images, training=False)
    return net


def with_population_statistics(net: Sequential, images: Images) -> Sequential:
    """Return a copy whose BN layers hold the statistics of algorithm 2, from mini-batches of `images`."""
    copy = deepcopy(net)
    x: Any = images[: len(images) // BATCH * BATCH]
    for layer in copy.layers:
        if isinstance(layer, BatchNorm):
            parts = x.reshape(-1, BATCH, x.shape[1])
            layer.moving_mean = parts.mean(axis=1).mean(axis=0)
            layer.moving_variance = parts.var(axis=1, ddof=1).mean(axis=0)
        x = layer(x, training=False)
    return copy


def binary(split: Split) -> Images:
    """Return the images as rows of zeros and ones."""
    return (split.images.reshape(len(split), -1) > 0.5).astype(np.float32)


def _batches(samples: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    rng = np.random.default_rng([seed, 2])
    while True:
        order = rng.permutation(samples)
        yield from order[: samples // BATCH * BATCH].reshape(-1, BATCH)


def write(path: str | Path, races: Sequence[Race]) -> None:
    """Write the races to a JSON file, whole or not at all."""
    record = {"experiment": "sigmoid race on MNIST", "goal": GOAL, "numpy": np.__version__}
    record["races"] = [asdict(race) for race in races]
    files.write(path, record)


def read(path: str | Path) -> list[Race]:
    """Read what :func:`write` wrote.

    Raises
    ------
    ValueError
        If the file is no such record.
    OSError
        If it cannot be read.
    """
    with files.reading(path, "record of sigmoid races") as record:
        return [Race(**race) for race in record["races"]]


def main(
    record: Annotated[Path, typer.Argument(help="The JSON file to write.")],
    starts: Annotated[int, typer.Option(min=1, help="Random starts.")] = 5,
    rates: Annotated[list[float] | None, typer.Option(help="Learning rates; 0.1, 0.5, 2 and 4 by default.")] = None,
    stds: Annotated[list[float] | None, typer.Option(help="Sizes of the first weights; 0.1 and 0.3.")] = None,
) -> None:
    """Run all races on MNIST and store them: some ten minutes."""
    data = load_mnist()
    plan = list(product(stds or [0.1, 0.3], rates or [0.1, 0.5, 2.0, 4.0], (False, True), range(starts)))
    races = [run(data, rate=rate, std=std, norm=norm, seed=seed) for std, rate, norm, seed in tqdm(plan, unit="race")]
    write(record, races)
    typer.echo(f"Stored {len(races)} races in {record}.")


if __name__ == "__main__":
    typer.run(main)
