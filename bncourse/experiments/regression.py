"""A small regression: where is the digit? The answer is a heat map, and its values are tiny.

It stands in for the regression network that article B's page asks about: pixel-wise targets, none below 0, hardly any
above 0.01. The images are real digits at random places of a larger canvas; each target is a Gaussian bump at the
digit's centre of mass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bncourse import averages
from bncourse.data import Split
from bncourse.nn import Adam, BatchNorm, Conv2D, Layer, ReLU, Sequential
from bncourse.nn.checks import FloatArray, not_negative, positive_int, same_shape

#: Height and width of a digit once its empty frame and the repeated pixels of the enlargement are taken away.
DIGIT_SIDE = 8

#: Height and width of the canvas, in pixels.
CANVAS_SIDE = 12


class HeatMaps(NamedTuple):
    """Images and their heat maps, both float32 of shape (n, 12, 12, 1)."""

    images: FloatArray
    maps: FloatArray


def heat_maps(split: Split, *, peak: float = 1e-2, sigma: float = 1.5, seed: int = 0) -> HeatMaps:
    """Put each digit at a random place of a 12 × 12 canvas, and mark its centre of mass.

    Parameters
    ----------
    split
        Images of 28 × 28 pixels, at least one. They are read at every third pixel, which gives back the 8 × 8 pixels
        of ``load_digits()`` exactly and a coarse picture of other digits.
    peak
        Value of the bump at its centre, above 0.
    sigma
        Standard deviation of the bump, in pixels, above 0.
    seed
        Seed of the places.

    Returns
    -------
    HeatMaps
        A map is ``peak * exp(-d² / (2 sigma²))``, where d is a pixel's distance from the centre of mass.

    Raises
    ------
    ValueError
        If `peak` or `sigma` is not a finite number above 0, or an image is empty and so has no centre.
    """
    for name, value in (("peak", peak), ("sigma", sigma)):
        if not not_negative(value, name):
            raise ValueError(f"{name} = {value}; expected a number above 0.")
    digits = split.images[:, 3:27:3, 3:27:3, 0]
    if empty := int((digits.sum(axis=(1, 2)) == 0).sum()):
        raise ValueError(f"split has {empty} empty images; expected ink in each: an empty image has no centre of mass.")
    images = np.zeros((len(digits), CANVAS_SIDE, CANVAS_SIDE, 1), np.float32)
    places = np.random.default_rng(seed).integers(0, CANVAS_SIDE - DIGIT_SIDE + 1, size=(len(digits), 2))
    for image, digit, (row, column) in zip(images, digits, places, strict=True):
        image[row : row + DIGIT_SIDE, column : column + DIGIT_SIDE, 0] = digit
    return HeatMaps(images, (peak * _bumps(images[..., 0].astype(np.float64), sigma)).astype(np.float32)[..., None])


def _bumps(images: FloatArray, sigma: float) -> FloatArray:
    """Return for each image a Gaussian of height 1 at its centre of mass."""
    pixel, ink = np.arange(CANVAS_SIDE), images.sum(axis=(1, 2))
    row, column = images.sum(axis=2) @ pixel / ink, images.sum(axis=1) @ pixel / ink
    down, across = (np.exp(-((pixel - at[:, None]) ** 2) / (2 * sigma**2)) for at in (row, column))
    bumps: FloatArray = down[:, :, None] * across[:, None, :]
    return bumps


def build_regressor(
    *,
    batch_norm: bool = True,
    output_batch_norm: bool = False,
    epsilon: float = 1e-3,
    start_scale: float = 0.1,
    seed: int = 0,
) -> Sequential:
    """Return a network from images to maps: twice (3 × 3 convolution to 8 channels, BN, ReLU), convolution to 1.

    Its BN layers have momentum 0: after a call in training mode they hold the statistics of that batch.
    `train_regressor` keeps them all, and :meth:`Trace.set_moving` makes of them what any other momentum would have
    made. Training itself does not depend on the momentum.

    Parameters
    ----------
    batch_norm
        Whether BN follows the two hidden convolutions; they have a bias if not.
    output_batch_norm
        Whether BN follows the last convolution.
    epsilon
        Added to the variance, >= 0.
    start_scale
        The start kernels are He's normal ones times this number, >= 0. Two networks of the same seed start from the
        same kernels, whether they have BN or not.
    seed
        Seed of the start kernels.

    Raises
    ------
    ValueError
        If `epsilon` or `start_scale` is negative or not finite.
    """
    not_negative(start_scale, "start_scale")
    layers: list[Layer] = []
    for number, channels in enumerate((8, 8, 1)):
        hidden = channels > 1
        normalised = batch_norm if hidden else output_batch_norm
        use_bias = not normalised
        layers.append(Conv2D(channels, 3, padding="same", use_bias=use_bias, init="he", seed=(seed, number)))
        if normalised:
            layers.append(BatchNorm(momentum=0.0, epsilon=epsilon))
        if hidden:
            layers.append(ReLU())
    network = Sequential(layers)
    network(np.zeros((1, CANVAS_SIDE, CANVAS_SIDE, 1), np.float32), training=False)  # builds the arrays
    for layer in layers:
        if isinstance(layer, Conv2D) and layer.kernel is not None:
            layer.kernel *= start_scale
    return network


@dataclass(frozen=True)
class Trace:
    """What `train_regressor` saw.

    Attributes
    ----------
    loss
        Mean squared error of each step's batch, in training mode, before the step. Shape (steps,).
    means, variances
        Batch statistics of each BN layer, in the order of the layers, each of shape (steps, channels).
    """

    loss: npt.NDArray[np.float64]
    means: tuple[FloatArray, ...]
    variances: tuple[FloatArray, ...]

    def set_moving(self, network: Sequential, momentum: float) -> None:
        """Give `network` the moving statistics that updates with `momentum` would have left, from 0 and 1 on.

        Parameters
        ----------
        network
            The network that was trained.
        momentum
            Share of the old value, in [0, 1]; 1 stands for update ops that never ran.

        Raises
        ------
        ValueError
            If `momentum` lies outside [0, 1], or the network has not as many BN layers as the trace.
        """
        norms = _norms(network)
        if len(norms) != len(self.means):
            raise ValueError(f"network has {len(norms)} BN layers; expected {len(self.means)}, as in the trace.")
        for norm, means, variances in zip(norms, self.means, self.variances, strict=True):
            norm.moving_mean = averages.run(means, momentum, 0.0)[-1].astype(np.float32)
            norm.moving_variance = averages.run(variances, momentum, 1.0)[-1].astype(np.float32)


def train_regressor(
    network: Sequential,
    images: FloatArray,
    targets: FloatArray,
    *,
    steps: int = 300,
    learning_rate: float = 3e-3,
    batch_size: int = 8,
    seed: int = 0,
) -> Trace:
    """Train on random batches with the mean squared error and Adam.

    Parameters
    ----------
    network
        From `build_regressor`; it is changed in place.
    images, targets
        Floats of one shape, (n, height, width, 1). Targets may be in any unit.
    steps, batch_size
        How many batches, of how many images; drawn with replacement.
    learning_rate
        Adam's.
    seed
        Seed of the batches.

    Raises
    ------
    TypeError
        If `steps` or `batch_size` is no integer.
    ValueError
        If one of them is below 1, or images and targets differ in shape.
    """
    positive_int(steps, "steps")
    positive_int(batch_size, "batch_size")
    same_shape(targets, images.shape, "targets", "images")
    rng, optimizer, norms = np.random.default_rng((seed, 1)), Adam(learning_rate), _norms(network)
    losses = np.zeros(steps)
    means: list[list[FloatArray]] = [[] for _ in norms]
    variances: list[list[FloatArray]] = [[] for _ in norms]
    for step in range(steps):
        batch = rng.integers(len(images), size=batch_size)
        error = network(images[batch], training=True) - targets[batch]
        losses[step] = np.mean(error.astype(np.float64) ** 2)
        network.backward(2 * error / np.float32(error.size))
        optimizer.update(network.parameters, network.gradients)
        for norm, mean, variance in zip(norms, means, variances, strict=True):
            assert norm.moving_mean is not None
            assert norm.moving_variance is not None
            mean.append(norm.moving_mean.copy())
            variance.append(norm.moving_variance.copy())
    return Trace(losses, tuple(map(np.array, means)), tuple(map(np.array, variances)))


def predict_maps(network: Sequential, images: FloatArray, *, training: bool, batch_size: int = 50) -> FloatArray:
    """Return the maps of `images`, worked out `batch_size` at a time; the network stays as it was.

    Parameters
    ----------
    network
        The network.
    images
        Floats, shape (n, height, width, 1), at least one.
    training
        True: each chunk is normalised with its own statistics. False: with the moving ones.
    batch_size
        Images in a chunk.

    Raises
    ------
    TypeError, ValueError
        If `batch_size` is no positive integer.
    """
    starts = range(0, len(images), positive_int(batch_size, "batch_size"))
    before = {name: array.copy() for name, array in network.weights.items()}
    maps = [network(images[start : start + batch_size], training=training) for start in starts]
    network.set_weights(before)
    return np.concatenate(maps)


class MapScores(NamedTuple):
    """How good predicted maps are, whatever their unit.

    Attributes
    ----------
    unexplained
        Mean squared error as a share of that of the mean map. 0: perfect; 1: no better than the mean map.
    variation
        How much the prediction of a pixel varies from image to image, as a share of how much its target does: the
        ratio of the root mean square deviations from the pixel's mean. 0: every image gets the same map.
    """

    unexplained: float
    variation: float


def score_maps(predicted: FloatArray, targets: FloatArray, mean_map: FloatArray) -> MapScores:
    """Compare predicted maps with their targets and with one map for all.

    Parameters
    ----------
    predicted, targets
        Of one shape, (n, height, width, 1), with two maps or more that are not all alike.
    mean_map
        The mean of the *training* targets, shape (height, width, 1).

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    same_shape(predicted, targets.shape, "predicted", "targets")
    same_shape(mean_map, targets.shape[1:], "mean_map", "one target")
    guess, truth = predicted.astype(np.float64), targets.astype(np.float64)
    unexplained = np.mean((guess - truth) ** 2) / np.mean((mean_map - truth) ** 2)
    return MapScores(float(unexplained), float(np.sqrt(guess.var(axis=0).mean() / truth.var(axis=0).mean())))


def _norms(network: Sequential) -> list[BatchNorm]:
    return [layer for layer in network.layers if isinstance(layer, BatchNorm)]
