"""The articles' graph networks, written with ``tf.compat.v1.layers`` and ``tf.nn``."""

from bncourse.tf_layers.runtime import tf, tf1

__all__ = ["tf", "tf1"]
