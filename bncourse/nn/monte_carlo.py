"""Monte-Carlo dropout: many predictions with dropout on, and what their disagreement says."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bncourse.nn.calibration import softmax
from bncourse.nn.checks import FloatArray, float_array, positive_int
from bncourse.nn.layers import AlphaDropout, Dropout
from bncourse.nn.sequential import Sequential, own_network


def monte_carlo(network: Sequential, x: npt.ArrayLike, *, samples: int, batch_size: int = 1000) -> FloatArray:
    """Return the class probabilities of `x` for several draws of dropout, everything else in inference mode.

    In particular, Batch Normalization normalises with its moving statistics, so that no sample of x sees another, and
    it updates nothing. (Gal and Ghahramani 2016, Dropout as a Bayesian Approximation, for networks without BN.)

    Parameters
    ----------
    network
        Its outputs are logits. Nothing changes in it but the draws of its dropout layers, which advance.
    x
        Floats, the batch axis first; at least one sample.
    samples
        How many draws.
    batch_size
        Samples of x at a time; bounds the memory. Another size gives other draws.

    Returns
    -------
    float64 array, shape (samples, len(x), classes)
        The prediction of Monte-Carlo dropout is the mean over the first axis.

    Raises
    ------
    TypeError
        If `network` is not one of the course's, x holds no floats, or `samples` or `batch_size` is not an integer.
    ValueError
        If one of them is below 1, x is empty, or the network has no dropout layer, so that all draws would be equal.
    """
    own_network(network, "with a Keras model, call it with training=True, its BN layers frozen by trainable = False")
    x = float_array(x, "x")
    if not len(x):
        raise ValueError(f"x has shape {x.shape} and holds no samples; expected at least one.")
    if not any(isinstance(layer, Dropout | AlphaDropout) for layer in network.layers):
        raise ValueError("network has no dropout layer, so all draws would be equal; use network.predict.")
    parts = [x[i : i + batch_size] for i in range(0, len(x), positive_int(batch_size, "batch_size"))]
    draws = range(positive_int(samples, "samples"))
    return np.stack([softmax(np.concatenate([_dropped(network, part) for part in parts])) for _ in draws])


def entropy(probabilities: npt.ArrayLike) -> FloatArray:
    """Return ``-sum(p log p)`` over the last axis, in nats; 0 log 0 counts as 0.

    Raises
    ------
    TypeError
        If the probabilities are no floats.
    """
    p = float_array(probabilities, "probabilities").astype(np.float64)
    nats: FloatArray = np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1)
    return -nats


def mutual_information(draws: npt.ArrayLike) -> FloatArray:
    """Return how much the draws disagree: the entropy of their mean minus the mean of their entropies, in nats.

    0 where all draws say the same, however unsure each of them is. It is the information that the answer for one
    sample would give about which draw is right.

    Parameters
    ----------
    draws
        Probabilities of shape (samples, n, classes), from `monte_carlo`.

    Returns
    -------
    float64 array, shape (n,)

    Raises
    ------
    TypeError
        If they are no floats.
    ValueError
        If the shape is another.
    """
    p = float_array(draws, "draws")
    if p.ndim != 3 or not len(p):
        raise ValueError(f"draws have shape {p.shape}; expected (samples, n, classes), as monte_carlo returns them.")
    total, within = entropy(p.mean(axis=0)), entropy(p).mean(axis=0)
    difference: FloatArray = total - within
    return difference


def _dropped(network: Sequential, x: FloatArray) -> FloatArray:
    for layer in network.layers:
        x = layer(x, training=isinstance(layer, Dropout | AlphaDropout))
    return x
