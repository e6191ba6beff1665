"""Keras 3, imported so that ``tf.layers`` stays available in the same process, if it still can be."""

from __future__ import annotations

import sys
from contextlib import nullcontext, suppress
from importlib import import_module
from typing import Any

#: What Keras 3 may run on beside TensorFlow.
_OTHERS = ("jax", "numpy", "openvino", "torch")


def _import_keras() -> Any:
    """Import Keras 3, or say why the course cannot use what there is."""
    # First: this sets TF_USE_LEGACY_KERAS before TensorFlow is imported, which Keras 3 would do without it. Whoever has
    # imported Keras already cannot have tf.layers any more, and may not want them.
    with suppress(ImportError) if "keras" in sys.modules else nullcontext():
        import_module("bncourse.tf_layers.runtime")
    keras: Any = import_module("keras")
    backend = keras.backend.backend()
    if backend in _OTHERS:
        raise ImportError(
            f"Keras runs on {backend}; bncourse.keras_models compares it with TensorFlow's graphs. "
            "Set the environment variable KERAS_BACKEND=tensorflow, or unset it, and start Python again."
        )
    return keras


keras: Any = _import_keras()
