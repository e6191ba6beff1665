"""The manual layers and the small network around them, in NumPy: pure functions first, thin layers on top."""

from bncourse.nn.axes import AxisSplit
from bncourse.nn.batch_norm import (
    BatchNormCache,
    batch_norm_backward,
    batch_norm_backward_graph,
    batch_norm_inference,
    batch_norm_inference_backward,
    batch_norm_train,
    update_moving,
)
from bncourse.nn.layer import Layer
from bncourse.nn.layers import Dense, Dropout, Flatten, ReLU, Sigmoid
from bncourse.nn.losses import sigmoid_cross_entropy, softmax_cross_entropy
from bncourse.nn.normalization import BatchNorm
from bncourse.nn.optimizers import SGD, Adam, Optimizer
from bncourse.nn.sequential import History, Scores, Sequential

__all__ = [
    "SGD",
    "Adam",
    "AxisSplit",
    "BatchNorm",
    "BatchNormCache",
    "Dense",
    "Dropout",
    "Flatten",
    "History",
    "Layer",
    "Optimizer",
    "ReLU",
    "Scores",
    "Sequential",
    "Sigmoid",
    "batch_norm_backward",
    "batch_norm_backward_graph",
    "batch_norm_inference",
    "batch_norm_inference_backward",
    "batch_norm_train",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
    "update_moving",
]
