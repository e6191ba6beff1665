"""TensorFlow in the state that the articles' code needs: TF 1 graphs and ``tf.layers``, and quiet.

``tf.compat.v1.layers`` is served by ``tf-keras``, and only if ``TF_USE_LEGACY_KERAS=1`` is set before TensorFlow
is imported. TensorFlow also greets every import on standard error, which nbval would compare. This module is the one
place that arranges both; import ``tf`` and ``tf1`` from here.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

#: Parts of the lines that TensorFlow prints on import and that say nothing about the reader's work.
_GREETINGS = (
    "absl::InitializeLog",
    "oneDNN custom operations are on",
    "Could not find cuda drivers",
    "This TensorFlow binary is optimized to use available CPU instructions",
    "To enable the following instructions",
)


@contextmanager
def _without_greetings() -> Iterator[None]:
    """Hold back file descriptor 2 and pass on all of it but TensorFlow's greetings (they come from C++)."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with tempfile.TemporaryFile() as held:
            os.dup2(held.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(saved, 2)
                held.seek(0)
                for line in held.read().decode(errors="replace").splitlines():
                    if line.strip() and not any(greeting in line for greeting in _GREETINGS):
                        print(line, file=sys.stderr)
    finally:
        os.close(saved)


def _import_tensorflow() -> Any:
    """Import TensorFlow with legacy Keras, or say why that is no longer possible in this process."""
    if "tensorflow" in sys.modules and os.environ.get("TF_USE_LEGACY_KERAS") != "1":
        raise ImportError(
            "TensorFlow was imported before the course's, with Keras 3 behind tf.keras, so tf.compat.v1.layers is not "
            "available in this process. Restart it and begin with 'from bncourse.tf_layers import tf', or set the "
            "environment variable TF_USE_LEGACY_KERAS=1 before TensorFlow is imported."
        )
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _without_greetings():
        import tensorflow
    tensorflow.get_logger().setLevel("ERROR")
    return tensorflow


tf: Any = _import_tensorflow()
tf1: Any = tf.compat.v1

# The deprecation of tf.layers is a subject of the course, not news in every cell.
warnings.filterwarnings("ignore", message=r"`tf\.layers\.\w+` is deprecated", category=UserWarning)


def start_weights() -> Any:
    """Return the Glorot uniform initializer of TensorFlow 1, the default of ``tf.layers`` in the articles' time.

    Today's default is Keras's Glorot initializer, which draws its seed from Python's global generator and ignores
    the graph's: with it, two graphs of the same seed start from different weights.
    """
    return tf1.glorot_uniform_initializer()


def identity_start() -> Any:
    """Return an initializer for 3x3 convolutions with BN and ReLU behind them, which at first hand on what they get.

    Output k starts as a copy of input k. Outputs beyond the number of inputs, and all outputs of a kernel with a single
    input, start as under `start_weights`, scaled to the length 1 of the copies. What BN and ReLU leave of a map that is
    handed on is another matter: in training mode BN subtracts its mean, so only what lies above it passes. The idea is
    that of DiracNets (Zagoruyko and Komodakis, 2017), which keep such a part for good.
    """
    glorot = start_weights()

    def start(shape: Any, dtype: Any = None, **_: Any) -> Any:
        height, width, inputs, outputs = shape
        copies = min(inputs, outputs) if inputs > 1 else 0
        kernel = tf.math.l2_normalize(glorot(shape, dtype=dtype or tf.float32), axis=(0, 1, 2))
        one = np.zeros(shape, np.float32)
        one[height // 2, width // 2, np.arange(copies), np.arange(copies)] = 1
        return tf.where(np.arange(outputs) < copies, one, kernel)

    return start
