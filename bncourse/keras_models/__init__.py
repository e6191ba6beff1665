"""The present-day counterparts of the articles' networks in Keras 3, and the way there.

Keras 3 and ``tf.layers`` share this process: ``bncourse.tf_layers`` is imported first, `keras` after it.
"""

from bncourse.keras_models.arguments import Argument, argument_table
from bncourse.keras_models.deep_network import build_deep_model, compile_deep_model
from bncourse.keras_models.runtime import keras
from bncourse.keras_models.step import Step, graph_step, largest_difference, model_step
from bncourse.keras_models.transfer import (
    pair_in_order,
    read_checkpoint,
    read_graph,
    read_model,
    write_graph,
    write_model,
)

__all__ = [
    "Argument",
    "Step",
    "argument_table",
    "build_deep_model",
    "compile_deep_model",
    "graph_step",
    "keras",
    "largest_difference",
    "model_step",
    "pair_in_order",
    "read_checkpoint",
    "read_graph",
    "read_model",
    "write_graph",
    "write_model",
]
