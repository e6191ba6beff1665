"""The variance shift in article E's network: what its BN layers remember, what they meet, and what it costs.

Two of its four BN layers stand behind dropout. All that follows the first dropout is small and dense, so it is copied
out of the trained graph into a network of `bncourse.nn`. There every layer has a mode of its own, where the graph has
one placeholder for BN and dropout together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bncourse.data import Dataset, batches
from bncourse.nn import SELU, BatchNorm, Dense, Dropout, Sequential
from bncourse.nn.calibration import ProbabilityScores, score_probabilities, softmax
from bncourse.nn.checks import positive_int
from bncourse.nn.moments import Moments
from bncourse.nn.monte_carlo import monte_carlo
from bncourse.nn.settle import Settled, settle
from bncourse.tf_layers import tf1
from bncourse.tf_layers.improved_network import DROPOUT_RATES, ImprovedNetwork, build_improved_network

Array = npt.NDArray[Any]

#: What goes into the first dropout: the pooled maps, flat.
POOLED = "flatten/Reshape:0"

#: The conditions that are compared; see `VarianceShiftRun`.
CONDITIONS = ("stored", "dropout on", "dropout off", "monte carlo")


@dataclass(frozen=True, eq=False)
class ShiftedLayer:
    """A BN layer behind dropout and a dense layer. All arrays have the shape (units,).

    Attributes
    ----------
    rate : float
        Of the dropout in front of the dense layer.
    stored : Moments
        Its moving mean and moving variance at the end of training.
    dropout_on : Moments
        Of its inputs for training images, the weights at rest, dropout on: what the moving statistics would be without
        lag and noise.
    dropout_off : Moments
        Of its inputs for training images in inference mode: what really arrives.
    predicted : array
        The variance of its inputs with dropout on, from the formula of `bncourse.nn.moments.dense_shift`.
    ratio_at_start : array
        The formula's ratio of the variances, dropout on over dropout off, for the start weights.
    ratio_of_random_weights : float
        The formula's ratio, averaged above and below the line over random weights of mean 0, for what reaches the
        dropout in inference mode after training.
    """

    rate: float
    stored: Moments
    dropout_on: Moments
    dropout_off: Moments
    predicted: Array
    ratio_at_start: Array
    ratio_of_random_weights: float

    @property
    def shift(self) -> Array:
        """Variance with dropout on over the variance that arrives: the variance shift alone."""
        return np.asarray(self.dropout_on.variance / self.dropout_off.variance)

    @property
    def predicted_shift(self) -> Array:
        """The same, with the formula's variance."""
        return self.predicted / self.dropout_off.variance

    @property
    def stored_ratio(self) -> Array:
        """Stored variance over the variance that arrives: shift, lag and noise together."""
        return np.asarray(self.stored.variance / self.dropout_off.variance)


@dataclass(frozen=True, eq=False)
class VarianceShiftRun:
    """One trained network, and what it answers under four conditions.

    Attributes
    ----------
    seed, steps : int
        How it was trained.
    layers : tuple of ShiftedLayer
        The BN layer of the 32 dense units, and the one of the 10 logits.
    labels : int array, shape (images,)
        Of the validation and the test images, which training has not seen.
    probabilities : mapping of str to array, shape (images, 10)
        The network's answers. Under the names

        - ``"stored"``: in inference mode, as trained;
        - ``"dropout on"``: the statistics of the two layers estimated anew from training images, with dropout on;
        - ``"dropout off"``: the same with dropout off, so without the shift;
        - ``"monte carlo"``: the stored statistics, and the mean over draws of dropout.
    """

    seed: int
    steps: int
    layers: tuple[ShiftedLayer, ShiftedLayer]
    labels: npt.NDArray[np.int64]
    probabilities: Mapping[str, Array]

    def scores(self, condition: str) -> ProbabilityScores:
        """Return accuracy, loss (nats) and confidence under a condition.

        Raises
        ------
        ValueError
            If there is no such condition.
        """
        if condition not in self.probabilities:
            raise ValueError(f"condition = {condition!r}; expected one of {', '.join(self.probabilities)}.")
        return score_probabilities(self.probabilities[condition], self.labels)

    def figures(self) -> dict[str, float]:
        """Return the scores and the medians over the units as plain numbers by name, for a record."""
        found = {
            f"{condition.replace(' ', '_')}_{name}": value
            for condition in self.probabilities
            for name, value in self.scores(condition)._asdict().items()
        }
        for place, layer in enumerate(self.layers, start=1):
            for name in ("shift", "predicted_shift", "stored_ratio", "ratio_at_start", "ratio_of_random_weights"):
                found[f"layer_{place}_{name}"] = float(np.median(getattr(layer, name)))
        return found


def measure_variance_shift(
    data: Dataset,
    *,
    seed: int = 0,
    steps: int = 120,
    batch_size: int = 100,
    statistics_images: int = 5000,
    repeats: int = 4,
    samples: int = 20,
    chunk: int = 500,
) -> VarianceShiftRun:
    """Train article E's network, and measure the variance shift at its two BN layers behind dropout.

    Parameters
    ----------
    data : Dataset
        Trained on `train`; scored on `validation` and `test` together, which nothing here chooses by.
    seed : int
        Of the start weights, the batches, and all dropout.
    steps, batch_size : int
        Training steps, and images in each.
    statistics_images : int
        So many training images, at most, give the statistics. Their pooled maps take 25 kB each, `repeats` times over.
    repeats : int
        How often each of them is sent through dropout.
    samples : int
        Draws of Monte-Carlo dropout.
    chunk : int
        Images that go through the convolutions at once.

    Returns
    -------
    VarianceShiftRun
        Repeatable up to rounding: TensorFlow's sums depend on the processor and on the order of its threads.

    Raises
    ------
    TypeError, ValueError
        If an argument is impossible.
    """
    for name, value in (("steps", steps), ("statistics_images", statistics_images), ("chunk", chunk)):
        positive_int(value, name)
    draws = islice(batches(data.train, batch_size, seed=seed), steps)
    known = data.train.images[:statistics_images]
    network = build_improved_network(seed=seed)
    with tf1.Session(graph=network.graph) as session:
        session.run(network.initializer)
        # At the start only the batch's statistics make sense: the moving ones are still 0 and 1.
        start = settle(cut_head(session, seed), pooled(session, network, known, chunk, training=True), dropout=True)
        for images, labels in draws:
            session.run(network.train_op, {network.inputs: images, network.labels: labels, network.training: True})
        heads = {condition: cut_head(session, seed) for condition in CONDITIONS}
        maps = pooled(session, network, known, chunk)
        arriving = _arriving(heads["stored"], maps)
        on = settle(heads["dropout on"], maps, dropout=True, repeats=repeats)
        settle(heads["dropout off"], maps, dropout=False)
        stored = [layer for layer in heads["stored"].layers if isinstance(layer, BatchNorm)]
        layers = [_layer(*parts) for parts in zip(DROPOUT_RATES, stored, on, arriving, start, strict=True)]
        held_out = [data.validation, data.test]
        answers: dict[str, list[Array]] = {condition: [] for condition in CONDITIONS}
        for split in held_out:
            for first in range(0, len(split), chunk):
                part = pooled(session, network, split.images[first : first + chunk], chunk)
                for condition, head in heads.items():
                    answers[condition].append(_answer(head, part, samples if condition == "monte carlo" else 0))
    return VarianceShiftRun(
        seed=seed,
        steps=steps,
        layers=(layers[0], layers[1]),
        labels=np.concatenate([split.labels for split in held_out]),
        probabilities={condition: np.concatenate(parts) for condition, parts in answers.items()},
    )


def cut_head(session: Any, seed: int = 0) -> Sequential:
    """Copy what follows the pooling layer of article E's network out of a session.

    Parameters
    ----------
    session : tf1.Session
        On the graph of `build_improved_network`, with initialised variables.
    seed : int
        Of the copy's dropout layers, which draw other numbers than the graph's.

    Returns
    -------
    Sequential
        From pooled maps, float32 of shape (n, 6272), to the logits behind the last BN.
    """
    with session.graph.as_default():
        values = session.run({variable.op.name: variable for variable in tf1.global_variables()})
    layers: list[Any] = []
    for place, (rate, dense) in enumerate(zip(DROPOUT_RATES, ("dense", "output"), strict=True)):
        kernel, bias = values[f"{dense}/kernel"], values[f"{dense}/bias"]
        linear, norm = Dense(len(bias)), BatchNorm(momentum=0.9, epsilon=1e-3)  # epsilon: the default of tf.layers
        linear.set_weights({"kernel": kernel, "bias": bias})
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        norm.set_weights({name: values[f"batch_normalization_{place + 2}/{name}"] for name in names} | {"updates": 0})
        layers += [Dropout(rate, seed=(seed, place)), linear, norm, SELU()]
    return Sequential(layers[:-1])


def pooled(
    session: Any, network: ImprovedNetwork, images: npt.NDArray[np.float32], chunk: int = 500, *, training: bool = False
) -> npt.NDArray[np.float32]:
    """Return what goes into the first dropout, the pooled maps, as float32 of shape (n, 6272).

    Parameters
    ----------
    session : tf1.Session
        On the graph of `network`.
    network : ImprovedNetwork
        From `build_improved_network`.
    images : float32 array, shape (n, 28, 28, 1)
        Any number of images but none.
    chunk : int
        Images at once.
    training : bool
        Whether the convolutions' BN layers take the statistics of each chunk; the moving ones do not move.
    """
    maps = network.graph.get_tensor_by_name(POOLED)
    starts = range(0, len(images), chunk)
    return np.concatenate(
        [session.run(maps, {network.inputs: images[i : i + chunk], network.training: training}) for i in starts]
    )


class _Arriving(NamedTuple):
    """The moments of what reaches a BN layer in inference mode, and the ratio for random weights in front of it."""

    moments: Moments
    ratio_of_random_weights: float


def _arriving(head: Sequential, maps: npt.NDArray[np.float32]) -> list[_Arriving]:
    """Return what reaches each BN layer in inference mode, each normalising with what it has."""
    found, ratio, x = [], 1.0, maps
    for layer in head.layers:
        if isinstance(layer, Dropout):
            square = np.mean(np.square(x), axis=0, dtype=np.float64).sum()
            ratio = float(1 + layer.rate / (1 - layer.rate) * square / x.var(axis=0, dtype=np.float64).sum())
        if isinstance(layer, BatchNorm):
            moments = Moments(x.mean(axis=0, dtype=np.float64), x.var(axis=0, dtype=np.float64))
            found.append(_Arriving(moments, ratio))
        x = layer(x, training=False)
    return found


def _layer(rate: float, norm: BatchNorm, on: Settled, arriving: _Arriving, start: Settled) -> ShiftedLayer:
    assert on.formula is not None
    assert start.formula is not None
    return ShiftedLayer(
        rate=rate,
        stored=Moments(np.asarray(norm.moving_mean, np.float64), np.asarray(norm.moving_variance, np.float64)),
        dropout_on=on.moments,
        dropout_off=arriving.moments,
        predicted=on.formula.training.variance,
        ratio_at_start=start.formula.ratio,
        ratio_of_random_weights=arriving.ratio_of_random_weights,
    )


def _answer(head: Sequential, maps: npt.NDArray[np.float32], draws: int) -> Array:
    """Return the probabilities, averaged over `draws` of dropout; 0 stands for dropout off."""
    if draws:
        return monte_carlo(head, maps, samples=draws).mean(axis=0)
    return softmax(head.predict(maps))
