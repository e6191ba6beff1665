"""How a training step goes: Adam, or turns of a set angle for the kernels whose length BN ignores.

BN behind a kernel makes the network blind to the kernel's length (the chapter on scale and depth proves it). So the
length may be kept at 1, and the size of a step is then its angle. "muon" sets this angle directly, the same for every
layer, however small or large its gradient. The direction is that of Muon (Jordan and others, 2024): the gradient with
all its singular values made about equal, so that a step turns every direction of the kernel and not only the strongest.
That kernels keep a set length is from `airbench94_muon.py`, one of Jordan's programs for CIFAR-10 (there it is the
square root of the number of outputs).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bncourse.tf_layers.arguments import Optimizer
from bncourse.tf_layers.runtime import tf, tf1

#: Share of the old value in Muon's mean of the gradients, which enters with Nesterov's look ahead.
GRADIENT_MOMENTUM = 0.6

#: The odd polynomial a x + b x^3 + c x^5 that draws all singular values in (0, 1] towards 1, and how often it is
#: applied (Jordan and others, 2024: they end between about 0.7 and 1.2).
_POLYNOMIAL = (3.4445, -4.7750, 2.0315)
_TIMES = 5


def minimize(loss: Any, optimizer: Optimizer, rate: Any, *, turned: Sequence[Any] = (), steps: Any = None) -> Any:
    """Add a training step to the default graph.

    Parameters
    ----------
    loss : tf.Tensor, float32, shape ()
        What is minimised.
    optimizer : Optimizer
        ``"adam"``: Adam for all trainable variables. ``"muon"``: the kernels in `turned` are kept at length 1 and
        turned by about `rate` radians a step; Adam for all others.
    rate : tf.Tensor, float32, shape ()
        Adam's learning rate, and the angle.
    turned : sequence of tf.Variable
        Kernels that a BN follows; the last axis counts outputs. Not used by ``"adam"``.
    steps : tf.Variable, optional
        Counts the steps taken.

    Returns
    -------
    tf.Operation
    """
    if optimizer == "adam":
        return tf1.train.AdamOptimizer(rate).minimize(loss, global_step=steps)
    names = {variable.name for variable in turned}
    others = [variable for variable in tf1.trainable_variables() if variable.name not in names]
    gradients = tf1.gradients(loss, [*turned, *others])
    small = tf1.train.AdamOptimizer(rate).apply_gradients(
        list(zip(gradients[len(turned) :], others, strict=True)), global_step=steps
    )
    turns = [_turn(kernel, gradient, rate) for kernel, gradient in zip(turned, gradients, strict=False)]
    return tf.group(small, *turns)


def _turn(kernel: Any, gradient: Any, angle: Any) -> Any:
    """Return the operation that turns one kernel."""
    with tf1.variable_scope(tf1.get_variable_scope(), reuse=tf1.AUTO_REUSE):
        mean = tf1.get_variable(
            f"{kernel.op.name}/gradient_mean", kernel.shape, initializer=tf1.zeros_initializer(), trainable=False
        )
    new_mean = GRADIENT_MOMENTUM * mean + gradient
    ahead = gradient + GRADIENT_MOMENTUM * new_mean
    direction = tf.reshape(orthogonalised(tf.reshape(ahead, (-1, kernel.shape[-1]))), kernel.shape)
    moved = tf.math.l2_normalize(kernel) - angle * tf.math.l2_normalize(direction)
    values = [tf.math.l2_normalize(moved), new_mean]
    with tf.control_dependencies(values):  # both are read before either is written
        return tf.group(*(old.assign(new) for old, new in zip((kernel, mean), values, strict=True)))


def orthogonalised(matrix: Any) -> Any:
    """Return a matrix with the same singular vectors, and singular values near 1 where they were not far below others.

    Parameters
    ----------
    matrix : tf.Tensor, shape (m, n)

    Returns
    -------
    tf.Tensor, shape (m, n)
        Five times a polynomial of the matrix; nothing is decomposed (Jordan and others, 2024).
    """
    tall = matrix.shape[0] > matrix.shape[1]
    wide = tf.transpose(matrix) if tall else matrix
    wide = tf.math.l2_normalize(wide)
    a, b, c = _POLYNOMIAL
    for _ in range(_TIMES):
        square = tf.matmul(wide, wide, transpose_b=True)
        wide = a * wide + tf.matmul(b * square + c * tf.matmul(square, square), wide)
    return tf.transpose(wide) if tall else wide
