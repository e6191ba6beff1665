"""Everything that training changes in a network of :mod:`bncourse.nn`, as arrays by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bncourse.nn import Optimizer, Sequential
from bncourse.training.arrays import Arrays, below

_WEIGHTS, _MEMORY, _DRAWS, _STEPS = "weights/", "memory/", "draws/", "steps"


class NetworkVariables:
    """All that training changes in a network and its optimiser.

    That is: the weights, the moving statistics of Batch Normalization and the number of their updates; the
    optimiser's memory and number of steps; and how often each dropout layer has drawn. Restored into a network that
    is built alike, with an optimiser of the same kind, training goes on bitwise as if it had never stopped.

    Parameters
    ----------
    network : Sequential
        The network. To `read`, it must have been called once.
    optimizer : Optimizer
        Its optimiser. The learning rate counts as an option, not as a variable.
    """

    def __init__(self, network: Sequential, optimizer: Optimizer) -> None:
        self.network, self.optimizer = network, optimizer

    def read(self) -> Arrays:
        """Return copies of all arrays.

        Raises
        ------
        ValueError
            If the network was not called yet.
        """
        weights = self.network.weights
        if not self.network.built:
            raise ValueError("the network has no weights before its first call; call it once.")
        arrays: Arrays = {f"{_WEIGHTS}{name}": array.copy() for name, array in weights.items()}
        for name, memory in self.optimizer.memory.items():
            arrays |= {f"{self._memory_prefix}{i}/{name}": array.copy() for i, array in enumerate(memory)}
        arrays |= {f"{_DRAWS}{i}": np.array(layer.draws) for i, layer in self._drawing().items()}
        return arrays | {_STEPS: np.array(self.optimizer.steps)}

    def write(self, values: Mapping[str, npt.NDArray[Any]]) -> None:
        """Set everything to copies of `values`, or nothing if one of them does not fit.

        Raises
        ------
        ValueError
            If a name is missing or unknown, or a shape does not fit.
        """
        weights = below(values, _WEIGHTS)
        memory = self._memory(below(values, self._memory_prefix), weights)
        drawing = self._drawing()
        expected = {_STEPS, *(f"{_DRAWS}{i}" for i in drawing)}
        others = {name for name in values if not name.startswith((_WEIGHTS, self._memory_prefix))}
        if others != expected:
            raise ValueError(
                f"the values hold {sorted(others)}; expected {sorted(expected)}. Build the network that was saved, "
                f"with an optimizer of the same kind (here {type(self.optimizer).__name__})."
            )
        self.network.set_weights(weights)  # checks first, so from here on nothing fails
        self.optimizer.memory = memory
        self.optimizer.steps = int(values[_STEPS])
        for i, layer in drawing.items():
            layer.draws = int(values[f"{_DRAWS}{i}"])

    @property
    def _memory_prefix(self) -> str:
        return f"{_MEMORY}{type(self.optimizer).__name__}/"

    def _drawing(self) -> dict[int, Any]:
        """Return the layers that draw random numbers, by their place."""
        return {i: layer for i, layer in enumerate(self.network.layers) if hasattr(layer, "draws")}

    def _memory(
        self, values: Mapping[str, npt.NDArray[Any]], weights: Mapping[str, npt.NDArray[Any]]
    ) -> dict[str, tuple[npt.NDArray[Any], ...]]:
        """Return the optimiser's memory, sorted by parameter, as copies."""
        memory: dict[str, tuple[npt.NDArray[Any], ...]] = {}
        for key, value in sorted(values.items(), key=lambda item: int(item[0].partition("/")[0])):
            name = key.partition("/")[2]
            if name not in weights or np.shape(weights[name]) != np.shape(value):
                raise ValueError(f"the optimizer's memory of {name!r} has shape {np.shape(value)}; no weight fits it.")
            memory[name] = (*memory.get(name, ()), np.array(value))
        return memory
