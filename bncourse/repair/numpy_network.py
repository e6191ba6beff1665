"""Re-estimation in networks made of the layers of ``bncourse.nn``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from bncourse.nn import BatchRenorm, GhostBatchNorm, Layer, Sequential, virtual_batch_sizes
from bncourse.nn.checks import FloatArray
from bncourse.nn.moving_statistics import MovingState, MovingStatisticsLayer
from bncourse.repair.engine import Measurement, Pair, chosen


class NumpyNetwork:
    """A layer or network of ``bncourse.nn`` as the engine sees it."""

    def __init__(self, model: Layer, layers: Iterable[str] | None) -> None:
        self._model = model
        self._all = dict(_inner_layers(model))
        every = {name: layer for name, layer in self._all.items() if isinstance(layer, MovingStatisticsLayer)}
        learning = [name for name, layer in every.items() if layer.trainable]
        check_some(list(every), learning, "the network", "BatchNorm, BatchRenorm or GhostBatchNorm")
        self.names = [learning[place] for place in chosen(learning, layers)]
        self.frozen = [name for name in every if name not in self.names]
        self._layers = [every[name] for name in self.names]

    def read(self) -> list[Pair]:
        """Return copies of the moving statistics."""
        pairs = []
        for name, layer in zip(self.names, self._layers, strict=True):
            if layer.moving_mean is None or layer.moving_variance is None:
                raise ValueError(f"{name} has no statistics yet; train the network first, or load its weights.")
            pairs.append((layer.moving_mean.copy(), layer.moving_variance.copy()))
        return pairs

    def write(self, statistics: Sequence[Pair]) -> None:
        """Set the moving statistics."""
        for layer, (mean, variance) in zip(self._layers, statistics, strict=True):
            layer.moving_mean, layer.moving_variance = mean.copy(), variance.copy()

    def measure(self, batch: Any) -> tuple[int, list[Measurement]]:
        """Return the number of images of a batch, and its statistics at the layers."""
        images = len(batch)
        seen: list[Measurement] = []
        with self._as_it_was():
            for place, layer in enumerate(self._layers):
                _observe(layer, place, seen, images)
            # Everything else is in inference mode: dropout passes its inputs on.
            self._model(batch, training=False)
        return images, seen

    @contextmanager
    def _as_it_was(self) -> Iterator[None]:
        """Give all layers back what they held, for example for `backward`: layers assign, they change no array."""
        before = [(layer, dict(vars(layer))) for layer in self._all.values()]
        try:
            yield
        finally:
            for layer, state in before:
                vars(layer).clear()
                vars(layer).update(state)


def _observe(layer: MovingStatisticsLayer, place: int, seen: list[Measurement], images: int) -> None:
    """Let this layer normalise with the batch's statistics and note them, instead of moving towards them."""
    original = partial(type(layer)._forward, layer)

    def note(state: MovingState, statistics: list[tuple[FloatArray, FloatArray]]) -> MovingState:
        # A virtual batch counts as many images as it holds.
        sizes: tuple[int, ...] = (images,)
        if isinstance(layer, GhostBatchNorm):
            sizes = virtual_batch_sizes(images, layer.virtual_batch_size)
        for (mean, variance), size in zip(statistics, sizes, strict=True):
            seen.append(Measurement(place, mean.astype(np.float64), variance.astype(np.float64), size))
        return state

    vars(layer)["_moved"] = note
    vars(layer)["_forward"] = lambda x, _training, **given: original(x, True, **given)
    if isinstance(layer, BatchRenorm):
        layer.r_max, layer.d_max = 1.0, 0.0  # its corrections would follow the old moving statistics


def _inner_layers(model: Layer) -> Iterator[tuple[str, Layer]]:
    """Yield `model` and all layers in it, each once, with names like ``"1 BatchNorm"``: place and class."""
    waiting, met = [("", model)], set()
    while waiting:
        path, layer = waiting.pop()
        if id(layer) in met:
            continue
        met.add(id(layer))
        yield f"{path} {type(layer).__name__}".strip(), layer
        inner = enumerate(layer.layers) if isinstance(layer, Sequential) else vars(layer).items()
        found = [pair for key, value in inner for pair in _layers_in(value, str(key))]
        waiting += [(f"{path}.{key}".strip("."), child) for key, child in reversed(found)]


def _layers_in(value: Any, path: str) -> Iterator[tuple[str, Layer]]:
    """Yield the layers in an attribute: itself, or what a list, tuple or dictionary holds."""
    if isinstance(value, Layer):
        yield path, value
    elif isinstance(value, list | tuple | dict):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _layers_in(item, f"{path}.{key}")


def check_some(every: Sequence[str], learning: Sequence[str], model: str, kinds: str) -> None:
    """Refuse a model without layers to re-estimate.

    Raises
    ------
    ValueError
        If it has no BN layer, or only frozen ones.
    """
    if not every:
        raise ValueError(f"{model} has no BN layer ({kinds}), so there are no moving statistics to re-estimate.")
    if not learning:
        raise ValueError(
            f"all BN layers are frozen: {', '.join(every)}. Their trainable = False means inference mode, so their "
            "statistics are left alone; set trainable = True to re-estimate them."
        )
