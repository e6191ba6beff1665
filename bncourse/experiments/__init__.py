"""The systems of the source articles as named, repeatable runs."""

from bncourse.experiments.deep_network import DeepNetworkRun, train_deep_network
from bncourse.experiments.improved_network import ImprovedNetworkRun, train_improved_network

__all__ = ["DeepNetworkRun", "ImprovedNetworkRun", "train_deep_network", "train_improved_network"]
