"""Re-estimation in Keras 3 models."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from bncourse.repair.engine import Measurement, Pair, chosen
from bncourse.repair.numpy_network import check_some


def is_keras_model(model: Any) -> bool:
    """Return whether `model` is a layer or model of Keras 3; never imports Keras."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(model, keras.layers.Layer)


class KerasModel:
    """A Keras 3 model as the engine sees it."""

    def __init__(self, model: Any, layers: Iterable[str] | None) -> None:
        import keras  # loaded already: the model came from it

        self._keras = keras
        self._model = model
        # The public `layers` does not see into a layer of layers.
        found = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
        if not (model.built and all(layer.built for layer in found)):
            raise ValueError(f"model {model.name!r} is not built yet; train it first, or load its weights.")
        every = _named(found)
        learning = [name for name, layer in every.items() if layer.trainable]
        check_some(list(every), learning, f"model {model.name!r}", "keras.layers.BatchNormalization")
        self.names = [learning[place] for place in chosen(learning, layers)]
        self.frozen = [name for name in every if name not in self.names]
        self._layers = [every[name] for name in self.names]

    def read(self) -> list[Pair]:
        """Return copies of the moving statistics."""
        return [_statistics(self._keras, layer) for layer in self._layers]

    def write(self, statistics: Sequence[Pair]) -> None:
        """Set the moving statistics."""
        for layer, pair in zip(self._layers, statistics, strict=True):
            _set(layer, pair)

    def measure(self, batch: Any) -> tuple[int, list[Measurement]]:
        """Return the number of images of a batch, and its statistics at the layers."""
        images = int(self._keras.tree.flatten(batch)[0].shape[0])
        seen: list[Measurement] = []
        with self._observing(images, seen):
            # Called, not predicted: every operation runs at once, and the numbers can be read between the layers.
            self._model(batch, training=False)
        return images, seen

    @contextmanager
    def _observing(self, images: int, seen: list[Measurement]) -> Iterator[None]:
        """Let the BN layers normalise with the batch's statistics and note them; all else is in inference mode."""
        # Without momentum, the moving statistics become the batch's. Renormalising layers (renorm=True) would
        # normalise with what they remember.
        changed = [
            {"momentum": 0.0} | ({"renorm": False} if hasattr(layer, "renorm") else {}) for layer in self._layers
        ]
        before = [
            {name: getattr(layer, name) for name in new} for layer, new in zip(self._layers, changed, strict=True)
        ]
        try:
            for place, (layer, new) in enumerate(zip(self._layers, changed, strict=True)):
                _set_attributes(layer, new)
                vars(layer)["call"] = self._observer(layer, place, images, seen)
            yield
        finally:
            for layer, old in zip(self._layers, before, strict=True):
                vars(layer).pop("call", None)
                _set_attributes(layer, old)

    def _observer(self, layer: Any, place: int, images: int, seen: list[Measurement]) -> Any:
        original = layer.call
        mean, variance = _statistics(self._keras, layer)
        zeros = np.zeros_like(mean), np.zeros_like(variance)

        def call(inputs: Any, _training: bool | None = None, mask: Any = None, **_mode: Any) -> Any:
            _set(layer, zeros)  # a NaN would survive momentum 0
            outputs = original(inputs, training=True, mask=mask)
            mean, variance = (array.astype(np.float64) for array in _statistics(self._keras, layer))
            seen.append(Measurement(place, mean, variance, images))
            return outputs

        return call


def _named(layers: Iterable[Any]) -> dict[str, Any]:
    """Return the layers by their paths; of equal paths, the later ones get a number."""
    named: dict[str, Any] = {}
    for layer in layers:
        name, number = layer.path, 2
        while name in named:
            name, number = f"{layer.path} ({number})", number + 1
        named[name] = layer
    return named


def _set_attributes(layer: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(layer, name, value)


def _statistics(keras: Any, layer: Any) -> Pair:
    """Return copies. By way of a tensor and `asarray`: what Keras offers makes NumPy 2 warn."""
    mean, variance = (
        np.asarray(keras.ops.convert_to_tensor(variable)).copy()
        for variable in (layer.moving_mean, layer.moving_variance)
    )
    return mean, variance


def _set(layer: Any, statistics: Pair) -> None:
    layer.moving_mean.assign(statistics[0])
    layer.moving_variance.assign(statistics[1])
