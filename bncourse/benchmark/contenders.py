"""Who takes part: each contender turns a case into two functions, one for the forward pass, one for both passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, TypeAlias

import numpy as np

from bncourse.nn import BatchNorm
from bncourse.nn.checks import FloatArray

EPSILON = 1e-3

#: The forward pass, and the forward pass with the backward pass; the first returns y.
Passes: TypeAlias = tuple[Callable[[], object], Callable[[], object]]


@dataclass(frozen=True)
class Case:
    """One input to be timed.

    Attributes
    ----------
    shape
        Shape of x, rank 2 to 5.
    axis
        Where the channels are: -1 or 1.
    """

    shape: tuple[int, ...]
    axis: int = -1

    @property
    def layout(self) -> str:
        """``"last"`` or ``"first"``; dense layers have only the one."""
        return "first" if self.axis == 1 and len(self.shape) > 2 else "last"

    @property
    def name(self) -> str:
        """The shape and where its channels are."""
        return f"{'×'.join(map(str, self.shape))}, channels {self.layout}"

    def data(self) -> tuple[FloatArray, FloatArray]:
        """Return x and dy, float32, the same in every call."""
        rng = np.random.default_rng(0)
        x, dy = (rng.standard_normal(self.shape, np.float32) for _ in range(2))
        return x, dy


def numpy_layer(case: Case, *, fast: bool) -> Passes:
    """Make the course's own layer ready, in blocks or plain."""
    layer, (x, dy) = BatchNorm(case.axis, epsilon=EPSILON, fast=fast), case.data()

    def both() -> None:
        layer(x)
        layer.backward(dy)

    return lambda: layer(x), both


def copy(case: Case) -> Passes:
    """Make ready the bound that memory sets: x is copied; for both passes, x and dy."""
    x, dy = case.data()
    y, dx = np.empty_like(x), np.empty_like(x)

    def both() -> None:
        np.copyto(y, x)
        np.copyto(dx, dy)

    return lambda: np.copyto(y, x), both


def fused_kernel(case: Case) -> Passes | None:
    """Make TensorFlow's fused kernel ready, called directly; on a CPU it takes channels last only."""
    if case.layout == "first":
        return None
    from bncourse.tf_layers import tf

    rows, channels = int(np.prod(case.shape[:-1])), case.shape[-1]
    shape = case.shape if len(case.shape) == 4 else (rows, 1, 1, channels)
    x, dy = (tf.constant(array.reshape(shape)) for array in case.data())
    gamma, beta, none = tf.ones(channels), tf.zeros(channels), tf.constant([], tf.float32)

    def kernel() -> Any:
        return tf.raw_ops.FusedBatchNormV3(
            x=x, scale=gamma, offset=beta, mean=none, variance=none, epsilon=EPSILON, is_training=True
        )

    def both() -> None:
        _, _, _, mean, variance, rest = kernel()
        tf.raw_ops.FusedBatchNormGradV3(
            y_backprop=dy,
            x=x,
            scale=gamma,
            reserve_space_1=mean,
            reserve_space_2=variance,
            reserve_space_3=rest,
            epsilon=EPSILON,
            is_training=True,
        )

    return lambda: kernel()[0], both


def keras_layer(case: Case) -> Passes:
    """Make the layer of Keras 3 ready, compiled with ``tf.function``."""
    from bncourse.tf_layers import tf

    import keras  # isort: skip

    layer = keras.layers.BatchNormalization(axis=case.axis, epsilon=EPSILON)
    layer.build(case.shape)
    x, dy = (tf.constant(array) for array in case.data())

    @tf.function  # type: ignore[untyped-decorator]
    def forward(x: Any) -> Any:
        return layer(x, training=True)

    @tf.function  # type: ignore[untyped-decorator]
    def both(x: Any, dy: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return tape.gradient(y, [x, layer.gamma.value, layer.beta.value], dy)

    return lambda: forward(x), lambda: both(x, dy)


def pytorch_layer(case: Case) -> Passes | None:
    """Make PyTorch's layer ready, where it is installed; its channels are axis 1, so channels last are a view."""
    if find_spec("torch") is None:
        return None
    import torch

    channels = case.shape[case.axis]
    kind = {2: torch.nn.BatchNorm1d, 3: torch.nn.BatchNorm1d, 4: torch.nn.BatchNorm2d, 5: torch.nn.BatchNorm3d}
    layer = kind[len(case.shape)](channels, eps=EPSILON)
    x, dy = (torch.from_numpy(np.moveaxis(array, case.axis, 1)) for array in case.data())
    x.requires_grad_()

    def forward() -> Any:
        with torch.no_grad():
            return layer(x)

    def both() -> None:
        x.grad = layer.weight.grad = layer.bias.grad = None
        layer(x).backward(dy)

    return forward, both


#: What each contender is called, and how it is made ready; ``None`` says that it has no such case.
CONTENDERS: dict[str, Callable[[Case], Passes | None]] = {
    "bncourse": lambda case: numpy_layer(case, fast=True),
    "bncourse, plain": lambda case: numpy_layer(case, fast=False),
    "TensorFlow, fused": fused_kernel,
    "Keras 3, compiled": keras_layer,
    "PyTorch": pytorch_layer,
    "copy": copy,
}
