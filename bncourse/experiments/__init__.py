"""The systems of the source articles as named, repeatable runs. TensorFlow is loaded when one is run."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bncourse.experiments.catalogue import EXPERIMENTS, run
from bncourse.experiments.record import RecordError, Run

if TYPE_CHECKING:
    from bncourse.experiments.deep_network import train_deep_network
    from bncourse.experiments.improved_network import ImprovedNetworkRun, train_improved_network

__all__ = [
    "EXPERIMENTS",
    "ImprovedNetworkRun",
    "RecordError",
    "Run",
    "run",
    "train_deep_network",
    "train_improved_network",
]

_LATER = {
    "train_deep_network": "deep_network",
    "ImprovedNetworkRun": "improved_network",
    "train_improved_network": "improved_network",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"bncourse.experiments.{_LATER[name]}"), name)
