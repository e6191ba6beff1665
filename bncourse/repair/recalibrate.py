"""Re-estimation of the moving statistics of a trained network from data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import ceil
from typing import Any

from bncourse.nn import Layer
from bncourse.nn.checks import positive_int
from bncourse.repair.engine import Target, Variance, run
from bncourse.repair.keras_model import KerasModel, is_keras_model
from bncourse.repair.numpy_network import NumpyNetwork
from bncourse.repair.report import Report


def recalibrate(
    model: Any,
    x: Any,
    *,
    batch_size: int = 64,
    batches: int | None = None,
    variance: Variance = "averaged",
    layers: Iterable[str] | None = None,
    progress: bool = False,
) -> Report:
    r"""Re-estimate the moving statistics of the BN layers of a trained network from data.

    During training the moving statistics lag behind the weights, and they are noisy. Here the weights stand still:
    every batch goes through the network once, all BN layers normalise with the batch's statistics, and these are
    averaged, every image counting alike. That is algorithm 2 of Ioffe and Szegedy (2015), lines 7 to 10, and the
    precise BN of Wu and Johnson (2021), Rethinking "Batch" in BatchNorm.

    Parameters
    ----------
    model : keras.Model, keras.layers.Layer or bncourse.nn.Layer
        A trained Keras 3 model (sequential, functional or subclassed, nested or not), or a network of `bncourse.nn`.
        For graphs of ``tf.compat.v1`` there is `recalibrate_graph`.
    x : array, dict of arrays, or iterable of batches
        Inputs like those of training; labels are not needed. An array, of shape (images, ...), or a dict of them for
        several inputs, is cut into batches here. Anything else is iterated over once, a batch at a time, so that
        memory does not grow with the data: a generator, a list of arrays, a ``tf.data.Dataset`` that is batched. Of a
        batch that is a tuple, such as (images, labels), the first element is taken.
    batch_size : int
        For an array: at most so many images in a batch. n images make ``k = ceil(n / batch_size)`` batches ``x[i::k]``,
        equal in size to one image, and mixed even where the array is sorted by class. For other `x` it has no effect.
    batches : int, optional
        Use at most so many batches; needed for a generator without end.
    variance : {"averaged", "pooled"}
        Which variance becomes the moving variance; see the notes.
    layers : iterable of str, optional
        Names of the BN layers to re-estimate, as the report shows them. By default all that are not frozen.
    progress : bool
        Show a bar on standard error.

    Returns
    -------
    Report
        Old and new statistics of every layer; print it for a table. ``report.undo()`` takes everything back.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If an argument is out of range, the model has no BN layer that learns or is not built, there are no batches, a
        batch does not reach a layer, or a statistic is NaN or infinite. On these and on all other errors, those
        of `x` and an interrupt among them, the model is what it was.

    Notes
    -----
    **What stays.** Everything but the moving statistics, bit for bit: weights, momentum, flags, the state of random
    generators, the optimizer. (The NumPy layers' `updates`, too: it counts the steps of training.)

    **Modes.** Only BN layers are in training mode. Dropout is off, as in inference. BN layers with ``trainable =
    False`` are in inference mode in Keras 3 and in `bncourse.nn`: they stay so, keep their statistics, and are listed
    in ``report.frozen``. Batch Renormalization is measured without its corrections, which follow the old statistics.
    All layers are measured at once: each sees inputs that the layers before it normalised with the batch's
    statistics, as in training, and not with the new averages, as inference does.

    **Variance.** Let :math:`\mu_B, \sigma_B^2` be the statistics of batch B that the layer itself would put into its
    moving averages. The mean is :math:`E[\mu_B]`.

    ``"averaged"`` takes :math:`E[\sigma_B^2]`: the limit of the framework's own moving average, so re-estimating
    removes its lag and its noise, and nothing else where no dropout stands in front of BN. (Where it does, training's
    statistics are those with dropout on, and these are not: the variance shift goes, too, together with what the
    weights behind had learnt to make of it. Compare both on validation images.) It is the BN paper's choice. The
    paper also multiplies by n/(n-1), n being the numbers of a channel in a batch; the NumPy layers do so with
    ``moving_variance="sample"``, Keras does not.

    ``"pooled"`` takes :math:`E[\sigma_B^2] + Var[\mu_B]`: the variance of all images together, whatever the size of
    the batches (for the first layer exactly; the inputs of the others depend on the batches). It is the formula of Wu
    and Johnson, and describes the population from which inference draws its images.

    Of independent numbers, "averaged" is below "pooled" by 1/n of the variance; of numbers that go together within an
    image, as in a convolution, by up to 1/m, m being the images in a batch. So prefer "pooled" when batches are small.
    A layer with ``moving_variance="sample"`` corrects for independent numbers by itself, and "pooled" then counts that
    1/n twice.

    Examples
    --------
    >>> import numpy as np
    >>> from bncourse.nn import BatchNorm
    >>> layer, x = BatchNorm(), np.array([[1.0], [3.0], [5.0], [7.0]])
    >>> y = layer(x, training=True)
    >>> layer.moving_mean.round(2).tolist()
    [0.04]
    >>> report = recalibrate(layer, x, variance="pooled")
    >>> layer.moving_mean.tolist(), layer.moving_variance.tolist(), report.images
    ([4.0], [5.0], 4)
    """
    target = _target(model, layers)
    positive_int(batch_size, "batch_size")
    stream = _batches(x, batch_size)
    return run(target, stream, limit=batches, variance=variance, progress=progress, source="x")


def _target(model: Any, layers: Iterable[str] | None) -> Target:
    if isinstance(model, Layer):
        return NumpyNetwork(model, layers)
    if is_keras_model(model):
        return KerasModel(model, layers)
    raise TypeError(
        f"model is a {type(model).__module__}.{type(model).__qualname__}; expected a Keras 3 model or a network of "
        "bncourse.nn. For a graph of tf.compat.v1 there is recalibrate_graph."
    )


def _batches(x: Any, batch_size: int) -> Iterator[Any]:
    """Return the batches of `x`, one at a time."""
    if _is_array(x):
        return (part["x"] for part in _slices({"x": x}, batch_size))
    if isinstance(x, Mapping):
        return _slices(x, batch_size)
    # A tuple is most likely (images, labels), and labels are no batch.
    if isinstance(x, tuple | str | bytes) or not isinstance(x, Iterable):
        raise TypeError(f"x is a {type(x).__name__}; expected an array of images or an iterable of batches.")
    return (batch[0] if isinstance(batch, tuple) else batch for batch in x)


def _slices(arrays: Mapping[str, Any], batch_size: int) -> Iterator[dict[str, Any]]:
    lengths = {int(array.shape[0]) if _is_array(array) else -1 for array in arrays.values()}
    if len(lengths) != 1 or min(lengths) < 1:
        raise ValueError(f"x holds arrays of the lengths {sorted(lengths)}; expected one length, 1 or more images.")
    count = ceil(lengths.pop() / batch_size)
    return ({name: array[i::count] for name, array in arrays.items()} for i in range(count))


def _is_array(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "__getitem__") and len(x.shape) > 0
