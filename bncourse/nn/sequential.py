"""A network as a list of layers: train it, evaluate it, save it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from bncourse.nn.checks import FloatArray, IntArray, Seed, float_array, positive_int
from bncourse.nn.layer import Layer, Weights, same_names
from bncourse.nn.losses import Loss, class_labels, softmax_cross_entropy
from bncourse.nn.optimizers import Optimizer


class Scores(NamedTuple):
    """Mean loss in nats, and accuracy as a share in [0, 1]."""

    loss: float
    accuracy: float


@dataclass
class History:
    """What happened during :meth:`Sequential.fit`.

    Attributes
    ----------
    loss, accuracy
        One entry a step: on the batch of the step, in training mode, before the update.
    validation_steps, validation_loss, validation_accuracy
        One entry a validation: after how many steps, and the scores in inference mode.
    """

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    validation_steps: list[int] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)

    def __repr__(self) -> str:
        last = f"last loss {self.loss[-1]:.3g}" if self.loss else "nothing yet"
        if self.validation_accuracy:
            last += f", last validation accuracy {self.validation_accuracy[-1]:.3f}"
        return f"History({len(self.loss)} steps: {last})"


class Sequential(Layer):
    """Layers applied one after the other; itself a layer.

    Parameters
    ----------
    layers
        The layers, in order. A `Sequential` among them is replaced by its layers.

    Attributes
    ----------
    layers
        The layers, in order.
    parameters, gradients, weights
        Those of all layers, under names like ``"0.kernel"``: number of the layer, name of the array.
    trainable
        True if any layer is; setting it sets it for all.

    Raises
    ------
    TypeError
        If one of them is no layer.
    ValueError
        If the list is empty or holds a layer twice.

    Examples
    --------
    >>> from bncourse.nn import BatchNorm, Dense, ReLU
    >>> network = Sequential([Dense(4, use_bias=False, seed=0), BatchNorm(), ReLU(), Dense(2, seed=1)])
    >>> network(np.ones((3, 5)), training=False).shape
    (3, 2)
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        for layer in layers:
            if not isinstance(layer, Layer):
                raise TypeError(f"layers hold {layer!r}; expected instances of bncourse.nn.Layer.")
        flat = [leaf for layer in layers for leaf in (layer.layers if isinstance(layer, Sequential) else (layer,))]
        if not flat:
            raise ValueError("layers is empty; expected at least one layer.")
        if len({id(layer) for layer in flat}) < len(flat):
            raise ValueError("layers hold the same layer twice; a layer remembers one call, so make two.")
        self.layers: tuple[Layer, ...] = tuple(flat)
        self._output_shape = None

    # A network owns nothing but its layers: these two attributes of a layer are views on theirs.
    @property
    def trainable(self) -> bool:
        """True if any layer is trainable; setting it sets it for all layers."""
        return any(layer.trainable for layer in self.layers)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        for layer in self.layers:
            layer.trainable = value

    @property
    def gradients(self) -> dict[str, FloatArray]:  # type: ignore[override]
        """Gradients from the last `backward`, of all layers."""
        return self._collect(lambda layer: layer.gradients)

    @property
    def parameters(self) -> dict[str, FloatArray]:
        """The arrays themselves, not copies, that an optimiser may change, of all trainable layers."""
        return self._collect(lambda layer: layer.parameters)

    @property
    def weights(self) -> Weights:
        """All arrays of all layers, not copies; moving statistics included."""
        return self._collect(lambda layer: layer.weights)

    def _collect(self, of: Callable[[Layer], Mapping[str, Any]]) -> dict[str, Any]:
        return {f"{i}.{name}": array for i, layer in enumerate(self.layers) for name, array in of(layer).items()}

    def _forward(self, x: FloatArray, training: bool) -> FloatArray:
        with self._all_or_nothing():
            for layer in self.layers:
                x = layer(x, training)
        return x

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Undo what happened to the layers if an error occurs: a later one may refuse what an earlier accepted."""
        owners: tuple[Layer, ...] = (self, *self.layers)
        before = [dict(vars(owner)) for owner in owners]
        try:
            yield
        except BaseException:
            for owner, state in zip(owners, before, strict=True):
                vars(owner).clear()
                vars(owner).update(state)
            raise

    def _backward(self, dy: FloatArray) -> FloatArray:
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return dy

    def train_on_batch(
        self,
        x: npt.ArrayLike,
        labels: npt.ArrayLike,
        *,
        optimizer: Optimizer,
        loss: Loss = softmax_cross_entropy,
    ) -> Scores:
        """Take one step on one batch; return its scores in training mode, before the update.

        Parameters
        ----------
        x
            Floats, the batch axis first.
        labels
            Classes as integers of shape (batch,).
        optimizer
            Takes the step.
        loss
            Function of logits and labels that returns the loss and its gradient.

        Raises
        ------
        TypeError, ValueError
            If x or the labels do not fit; then network and optimiser are as before.
        """
        x, labels = _samples(x, labels)
        with self._all_or_nothing():
            logits = self(x, training=True)
            value, dlogits = loss(logits, labels)
            self.backward(dlogits)
            optimizer.update(self.parameters, self.gradients)
        return Scores(value, _accuracy(logits, labels))

    def fit(
        self,
        x: npt.ArrayLike,
        labels: npt.ArrayLike,
        *,
        batch_size: int,
        epochs: int | None = None,
        steps: int | None = None,
        optimizer: Optimizer,
        seed: Seed,
        loss: Loss = softmax_cross_entropy,
        validation: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
        validate_every: int | None = None,
        progress: bool = False,
    ) -> History:
        """Train on shuffled batches.

        Each epoch visits every sample once, in a new order; its last batch may be smaller than the others.

        Parameters
        ----------
        x
            Floats, the batch axis first.
        labels
            Classes as integers, as many as x has samples.
        batch_size
            Samples in a batch.
        epochs, steps
            How long to train: rounds through all samples, or batches. Give one of the two.
        optimizer
            Takes the steps, for example ``Adam()``; a new one for each network.
        seed
            Seed of the shuffling: the same seed gives the same batches. ``None`` draws a new order in every run.
        loss
            Function of logits and labels that returns the loss and its gradient.
        validation
            A pair of samples and labels to score in inference mode.
        validate_every
            Steps between two validations; by default one epoch's. The last step is always validated.
        progress
            Show a progress bar on standard error.

        Returns
        -------
        History
            Loss and accuracy of every step, and of every validation.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit. (A label that is no class is found at the step that meets it.)
        """
        x, labels = _samples(x, labels)
        per_epoch = ceil(len(x) / positive_int(batch_size, "batch_size"))
        total = _number_of_steps(epochs, steps, per_epoch)
        every = per_epoch if validate_every is None else positive_int(validate_every, "validate_every")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer = {optimizer!r}; expected an instance of Optimizer, for example Adam().")
        if validation is not None and not (isinstance(validation, tuple | list) and len(validation) == 2):
            raise TypeError(
                f"validation = {validation!r}; expected a pair (x, labels), for example (split.images, split.labels)."
            )
        held_out = None if validation is None else _samples(*validation)

        history = History()
        order = _shuffled_batches(len(x), batch_size, np.random.default_rng(seed))
        for step in tqdm(range(1, total + 1), disable=not progress, unit="step"):
            batch = next(order)
            scores = self.train_on_batch(x[batch], labels[batch], optimizer=optimizer, loss=loss)
            history.loss.append(scores.loss)
            history.accuracy.append(scores.accuracy)
            if held_out is not None and (step % every == 0 or step == total):
                scores = self.evaluate(*held_out, loss=loss)
                history.validation_steps.append(step)
                history.validation_loss.append(scores.loss)
                history.validation_accuracy.append(scores.accuracy)
        return history

    def predict(self, x: npt.ArrayLike, *, batch_size: int = 1000) -> FloatArray:
        """Return the logits for `x` in inference mode, worked out `batch_size` samples at a time.

        Raises
        ------
        TypeError, ValueError
            If x or `batch_size` does not fit.
        """
        x = float_array(x, "x")
        if not len(x):
            raise ValueError(f"x has shape {x.shape} and holds no samples; expected at least one.")
        starts = range(0, len(x), positive_int(batch_size, "batch_size"))
        return np.concatenate([self(x[i : i + batch_size], training=False) for i in starts])

    def evaluate(
        self,
        x: npt.ArrayLike,
        labels: npt.ArrayLike,
        *,
        batch_size: int = 1000,
        loss: Loss = softmax_cross_entropy,
    ) -> Scores:
        """Return the mean loss and the accuracy in inference mode, worked out in chunks.

        Raises
        ------
        TypeError, ValueError
            If x, the labels or `batch_size` do not fit.
        """
        x, labels = _samples(x, labels)
        logits = self.predict(x, batch_size=batch_size)
        return Scores(loss(logits, labels)[0], _accuracy(logits, labels))

    def set_weights(self, weights: Mapping[str, npt.ArrayLike]) -> None:
        """Take over copies of `weights`: all or, if one of them does not fit, none.

        Raises
        ------
        ValueError
            If a name is missing or unknown, or a shape does not fit.
        """
        self._check_weights(weights)
        for layer, own in zip(self.layers, self._split(weights), strict=True):
            layer.set_weights(own)

    @property
    def built(self) -> bool:
        """Whether every layer has its arrays: from the first call on."""
        return self.weights.keys() == self._expected_names()

    def _check_weights(self, weights: Mapping[str, npt.ArrayLike]) -> None:
        same_names(weights, self._expected_names(), "this network")
        for layer, own in zip(self.layers, self._split(weights), strict=True):
            layer._check_weights(own)

    def _expected_names(self) -> set[str]:
        return {f"{i}.{name}" for i, layer in enumerate(self.layers) for name in layer._expected_names()}

    def _split(self, weights: Mapping[str, npt.ArrayLike]) -> list[dict[str, npt.ArrayLike]]:
        """Sort the arrays by layer."""
        parts: list[dict[str, npt.ArrayLike]] = [{} for _ in self.layers]
        for key, value in weights.items():
            number, _, name = key.partition(".")
            parts[int(number)][name] = value
        return parts

    def __repr__(self) -> str:
        return f"Sequential([{', '.join(map(repr, self.layers))}])"


def _samples(x: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[FloatArray, IntArray]:
    """Return samples and labels as arrays of one length."""
    samples, classes = float_array(x, "x"), class_labels(labels)
    if samples.ndim < 2 or len(samples) != len(classes) or not len(samples):
        raise ValueError(
            f"x has shape {samples.shape} and labels {classes.shape}; expected one label for each sample, "
            "and at least one sample."
        )
    return samples, classes


def _number_of_steps(epochs: int | None, steps: int | None, per_epoch: int) -> int:
    if (epochs is None) == (steps is None):
        raise ValueError(f"epochs = {epochs} and steps = {steps}; give one of the two.")
    if epochs is not None:
        return per_epoch * positive_int(epochs, "epochs")
    assert steps is not None
    return positive_int(steps, "steps")


def _shuffled_batches(samples: int, batch_size: int, rng: np.random.Generator) -> Iterator[IntArray]:
    """Yield the indices of batch after batch, epoch after epoch, without end."""
    while True:
        order = rng.permutation(samples)
        for start in range(0, samples, batch_size):
            yield order[start : start + batch_size]


def _accuracy(logits: FloatArray, labels: IntArray) -> float:
    return float((logits.argmax(axis=1) == labels).mean())


def own_network(network: object, otherwise: str) -> None:
    """Check that `network` is a `Sequential` of this package, not, say, of Keras.

    Raises
    ------
    TypeError
        If it is not; the message says what to do `otherwise`.
    """
    if not isinstance(network, Sequential):
        raise TypeError(f"network is a {type(network).__name__}; expected bncourse.nn.Sequential ({otherwise}).")
