"""What a re-estimation found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LayerChange:
    """The moving statistics of one BN layer before and after.

    Attributes
    ----------
    name : str
        The layer's name.
    old_mean, old_variance : ndarray, shape (channels,)
        What the layer held before.
    new_mean, new_variance : ndarray, shape (channels,)
        What it holds now, in the layer's own dtype.
    """

    name: str
    old_mean: Array
    old_variance: Array
    new_mean: Array
    new_variance: Array

    @property
    def mean_shift(self) -> Float64:
        """Distance of the old moving mean from the new one in new standard deviations, shape (channels,).

        0 where both means are equal, infinite where they differ and the new variance is 0.
        """
        distance = np.abs(self.old_mean.astype(np.float64) - self.new_mean)
        return _ratio(distance, np.sqrt(self.new_variance.astype(np.float64)), same=0.0)

    @property
    def variance_ratio(self) -> Float64:
        """Old moving variance divided by the new one, shape (channels,).

        1 where both are 0, infinite where only the new one is.
        """
        return _ratio(self.old_variance.astype(np.float64), self.new_variance.astype(np.float64), same=1.0)


@dataclass(frozen=True, eq=False)
class Report:
    """What `recalibrate` or `recalibrate_graph` did.

    Attributes
    ----------
    layers : tuple of LayerChange
        One for each BN layer that was re-estimated, in the network's order.
    frozen : tuple of str
        Names of the BN layers that were left alone, because ``trainable = False`` keeps them in inference mode, or
        because `layers` did not name them.
    batches : int
        Batches seen.
    images : int
        Images seen.
    variance : str
        Which variance was taken: ``"averaged"`` or ``"pooled"``.
    """

    layers: tuple[LayerChange, ...]
    frozen: tuple[str, ...]
    batches: int
    images: int
    variance: str
    _write_old: Callable[[], None] = field(repr=False)

    def undo(self) -> None:
        """Put the old statistics back, bit for bit. A graph's session must still be open."""
        self._write_old()

    def __getitem__(self, name: str) -> LayerChange:
        """Return the layer called `name`.

        Raises
        ------
        KeyError
            If no layer of the report has this name.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"no layer {name!r} in this report; it holds {', '.join(layer.name for layer in self.layers)}.")

    def __str__(self) -> str:
        """Return a table: how far each layer's old statistics were from the new ones, over its channels."""
        width = max(5, *(len(layer.name) for layer in self.layers))
        lines = [
            f"{_counted(len(self.layers), 'BN layer')} re-estimated from {_counted(self.images, 'image')} "
            f"in {_counted(self.batches, 'batch', 'batches')} ({self.variance} variance)",
            f"{'':{width}}  {'shift of the mean':>19}  {'old / new variance':>29}",
            f"{'layer':{width}}  {'median':>9} {'largest':>9}  {'smallest':>9} {'median':>9} {'largest':>9}",
        ]
        for layer in self.layers:
            shift, ratio = layer.mean_shift, layer.variance_ratio
            figures = [np.median(shift), shift.max(), ratio.min(), np.median(ratio), ratio.max()]
            cells = [f"{figure:9.3g}" for figure in figures]
            lines.append(f"{layer.name:{width}}  {' '.join(cells[:2])}  {' '.join(cells[2:])}")
        lines.append("The shift is in units of the new standard deviation.")
        if self.frozen:
            lines.append(f"Left alone: {', '.join(self.frozen)}.")
        return "\n".join(lines)


def _ratio(above: Float64, below: Float64, *, same: float) -> Float64:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Float64 = above / below
    return np.where((above == 0) & (below == 0), same, ratio)


def _counted(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
