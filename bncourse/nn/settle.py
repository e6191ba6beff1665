"""Moving statistics as a population would have them, with dropout on or off: layer by layer, the weights at rest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bncourse.nn.checks import FloatArray, float_array, positive_int
from bncourse.nn.layer import Layer
from bncourse.nn.layers import AlphaDropout, Dense, Dropout
from bncourse.nn.moments import Moments, Shift, dense_shift
from bncourse.nn.normalization import BatchNorm
from bncourse.nn.sequential import Sequential, own_network


class Settled(NamedTuple):
    """What a BN layer was given.

    Attributes
    ----------
    moments
        Mean and variance of its inputs, float64, shape (channels,): its moving statistics from now on.
    formula
        What :func:`bncourse.nn.moments.dense_shift` says of the dense layer in front of it, from the numbers in front
        of the dropout before that; None if these are not the two layers in front. The formula leaves the bias out.
    """

    moments: Moments
    formula: Shift | None


def settle(network: Sequential, x: npt.ArrayLike, *, dropout: bool, repeats: int = 1) -> list[Settled]:
    """Set the moving statistics of all BN layers to the mean and variance of their inputs for `x`.

    Layer by layer: each BN layer is given its statistics and then normalises with them, so that the next one sees what
    it will see in inference mode. (:func:`bncourse.repair.recalibrate` measures batch after batch, in training mode,
    and always without dropout.)

    Parameters
    ----------
    network
        Changed in place: its moving statistics and, with dropout on, the draws of its dropout layers.
    x
        Floats, the batch axis first: the population, all at once. The more samples, the more memory.
    dropout
        True: dropout drops, so that the statistics become those that training would leave behind. False: it does not;
        they become those that inference mode meets.
    repeats
        With dropout on: how often each sample is sent through, each time with other zeros.

    Returns
    -------
    list of Settled
        One entry for each BN layer, in order.

    Raises
    ------
    TypeError
        If `network` is not one of the course's, x holds no floats, or `repeats` is no integer.
    ValueError
        If x is empty, `repeats` is below 1, or a BN layer's `axis` is not -1.
    """
    own_network(network, "bncourse.repair.recalibrate(model, batches) sets a Keras model's statistics")
    samples = float_array(x, "x")
    if not len(samples):
        raise ValueError(f"x has shape {samples.shape} and holds no samples; expected at least one.")
    copies, before, found = [samples], _Before(), []
    positive_int(repeats, "repeats")
    for layer in network.layers:
        if isinstance(layer, BatchNorm):
            moments = _moments(layer, copies)
            layer(copies[0], training=False)  # builds its arrays, if this is its first call
            layer.moving_mean, layer.moving_variance = moments
            found.append(Settled(moments, before.formula))
        drops = dropout and _is_dropout(layer)
        if drops and len(copies) < repeats:
            copies = copies * repeats
        before = before.then(layer, copies)
        copies = [layer(copy, training=drops) for copy in copies]
    return found


class _Before(NamedTuple):
    """The two layers in front: dropout and what went into it, and what the formula says of a dense layer behind it."""

    dropout: Dropout | AlphaDropout | None = None
    inputs: list[FloatArray] | None = None
    formula: Shift | None = None

    def then(self, layer: Layer, inputs: list[FloatArray]) -> _Before:
        """Return what stands in front of the layer after `layer`, which is about to see `inputs`."""
        if isinstance(layer, Dropout | AlphaDropout):
            return _Before(layer, inputs)
        if isinstance(layer, Dense) and self.dropout is not None and self.inputs is not None:
            if layer.kernel is None:
                layer(self.inputs[0], training=False)
            assert layer.kernel is not None
            # Copies of one array, of which each had its own zeros only later, are one array.
            distinct = {id(array): array for array in self.inputs}
            numbers = np.concatenate(list(distinct.values()))
            alpha = isinstance(self.dropout, AlphaDropout)
            return _Before(formula=dense_shift(numbers, layer.kernel, self.dropout.rate, alpha=alpha))
        return _Before()


def _is_dropout(layer: Layer) -> bool:
    return isinstance(layer, Dropout | AlphaDropout)


def _moments(layer: BatchNorm, copies: list[FloatArray]) -> Moments:
    if layer.axis not in (-1, copies[0].ndim - 1):
        raise ValueError(f"{layer!r}: axis = {layer.axis!r}; expected -1.")
    numbers = np.concatenate([copy.reshape(-1, copy.shape[-1]) for copy in copies]).astype(np.float64)
    return Moments(numbers.mean(axis=0), numbers.var(axis=0))
