"""The systems of the source articles as named, repeatable runs. TensorFlow is loaded when one is run."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bncourse.experiments.catalogue import EXPERIMENTS, run
from bncourse.experiments.record import RecordError, Run

if TYPE_CHECKING:
    from bncourse.experiments.deep_network import train_deep_network

__all__ = [
    "EXPERIMENTS",
    "RecordError",
    "Run",
    "run",
    "train_deep_network",
]

_LATER = {
    "train_deep_network": "deep_network",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"bncourse.experiments.{_LATER[name]}"), name)
