"""The systems of the source articles as named, repeatable runs."""

from bncourse.experiments.deep_network import DeepNetworkRun, train_deep_network

__all__ = ["DeepNetworkRun", "train_deep_network"]
