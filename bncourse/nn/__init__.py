"""The manual layers and the small network around them, in NumPy: pure functions first, thin layers on top."""

from bncourse.nn.axes import AxisSplit
from bncourse.nn.batch_norm import (
    BatchNormCache,
    batch_norm_backward,
    batch_norm_backward_graph,
    batch_norm_inference,
    batch_norm_inference_backward,
    batch_norm_train,
    momentum_at,
    update_moving,
)
from bncourse.nn.batch_renorm import BatchRenorm, BatchRenormCache, batch_renorm_backward, batch_renorm_train
from bncourse.nn.convolution import (
    Conv2D,
    MaxPool,
    conv2d,
    conv2d_backward,
    max_pool,
    max_pool_backward,
    same_padding,
)
from bncourse.nn.ghost_batch_norm import (
    GhostBatchNorm,
    GhostBatchNormCache,
    ghost_batch_norm_backward,
    ghost_batch_norm_train,
    virtual_batch_sizes,
)
from bncourse.nn.group_norm import (
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    SampleNormCache,
    group_norm,
    instance_norm,
    layer_norm,
    sample_norm_backward,
)
from bncourse.nn.layer import Layer
from bncourse.nn.layers import SELU, AlphaDropout, Dense, Dropout, Flatten, ReLU, Sigmoid
from bncourse.nn.losses import sigmoid_cross_entropy, softmax_cross_entropy
from bncourse.nn.normalization import BatchNorm
from bncourse.nn.optimizers import SGD, Adam, Optimizer
from bncourse.nn.sequential import History, Scores, Sequential

__all__ = [
    "SELU",
    "SGD",
    "Adam",
    "AlphaDropout",
    "AxisSplit",
    "BatchNorm",
    "BatchNormCache",
    "BatchRenorm",
    "BatchRenormCache",
    "Conv2D",
    "Dense",
    "Dropout",
    "Flatten",
    "GhostBatchNorm",
    "GhostBatchNormCache",
    "GroupNorm",
    "History",
    "InstanceNorm",
    "Layer",
    "LayerNorm",
    "MaxPool",
    "Optimizer",
    "ReLU",
    "SampleNormCache",
    "Scores",
    "Sequential",
    "Sigmoid",
    "batch_norm_backward",
    "batch_norm_backward_graph",
    "batch_norm_inference",
    "batch_norm_inference_backward",
    "batch_norm_train",
    "batch_renorm_backward",
    "batch_renorm_train",
    "conv2d",
    "conv2d_backward",
    "ghost_batch_norm_backward",
    "ghost_batch_norm_train",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "max_pool",
    "max_pool_backward",
    "momentum_at",
    "same_padding",
    "sample_norm_backward",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
    "update_moving",
    "virtual_batch_sizes",
]
