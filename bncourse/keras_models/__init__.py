"""Keras 3: the present-day counterparts of the articles' networks, the way there, and early stopping in ``fit``.

Keras 3 and ``tf.layers`` share a process if ``bncourse.tf_layers`` is imported first, `keras` after it. What needs no
``tf.layers`` works the other way round, too.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bncourse.keras_models.arguments import Argument, argument_table
    from bncourse.keras_models.deep_network import build_deep_model, compile_deep_model
    from bncourse.keras_models.early_stopping import GuardCallback, ModelVariables
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
    "GuardCallback",
    "ModelVariables",
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

_WHERE = {
    "arguments": ("Argument", "argument_table"),
    "deep_network": ("build_deep_model", "compile_deep_model"),
    "early_stopping": ("GuardCallback", "ModelVariables"),
    "runtime": ("keras",),
    "step": ("Step", "graph_step", "largest_difference", "model_step"),
    "transfer": ("pair_in_order", "read_checkpoint", "read_graph", "read_model", "write_graph", "write_model"),
}


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(import_module(f"bncourse.keras_models.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
