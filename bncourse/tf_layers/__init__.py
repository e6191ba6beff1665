"""The articles' graph networks, written with ``tf.compat.v1.layers`` and ``tf.nn``.

``from bncourse.tf_layers import tf, tf1`` gives TensorFlow in the state that they need; it is loaded at that moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bncourse.tf_layers.runtime import tf, tf1

__all__ = ["tf", "tf1"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bncourse.tf_layers import runtime

    return getattr(runtime, name)
