"""Arithmetic of sizes: where the windows lie on an axis, and how many numbers each layer has and makes.

The padding itself is that of `bncourse.nn.convolution`; here one can ask for it without any image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from bncourse.nn.checks import IntArray, positive_int
from bncourse.nn.convolution import Padding, Pair, check_padding, same_padding
from bncourse.nn.layer import Layer
from bncourse.nn.layers import SELU, AlphaDropout, Dropout, Flatten, ReLU, Sigmoid
from bncourse.nn.sequential import Sequential

#: Layers whose output can stand where their input stood: each number is changed by itself, or none is.
IN_PLACE: tuple[type[Layer], ...] = (ReLU, SELU, Sigmoid, Dropout, AlphaDropout, Flatten)


def window_starts(length: int, kernel: int, stride: int = 1, padding: Padding | Pair = "same") -> IntArray:
    """Return the first place of each window on an axis, counted on the axis without its padding.

    Places below 0, and from `length` on, are padding. There are ``(length + before + after - kernel) // stride + 1``
    windows.

    Parameters
    ----------
    length, kernel, stride
        Length of the axis, of the window, and of a step, in places.
    padding
        ``"same"`` and ``"valid"`` as in :func:`bncourse.nn.conv2d`, or places added (before, after): PyTorch's
        ``padding=1`` is ``(1, 1)``.

    Raises
    ------
    TypeError
        If a length is not an integer.
    ValueError
        If a length is smaller than one, the padding is unknown or negative, or the window does not fit.

    Examples
    --------
    >>> window_starts(8, 3, 2).tolist(), window_starts(8, 3, 2, (1, 1)).tolist()
    ([0, 2, 4, 6], [-1, 1, 3, 5])
    """
    length, kernel, stride = (
        positive_int(value, name) for value, name in ((length, "length"), (kernel, "kernel"), (stride, "stride"))
    )
    before, after = _pads(length, kernel, stride, padding)
    if length + before + after < kernel:
        raise ValueError(f"a window of {kernel} does not fit into {length} places with padding {(before, after)}.")
    return np.arange(-before, length + after - kernel + 1, stride)


@dataclass(frozen=True)
class LayerSize:
    """How large one layer is.

    Attributes
    ----------
    name
        Kind of the layer, say ``"Conv2D"``.
    output
        Shape of what it makes of one image.
    parameters
        Numbers that training changes.
    held
        Numbers an image needs while the layer is computed: those it reads and those it makes; or only the latter, if
        they can take the place of the former.
    """

    name: str
    output: tuple[int, ...]
    parameters: int
    held: int

    @property
    def activations(self) -> int:
        """Numbers that the layer makes of one image."""
        return prod(self.output)


def layer_sizes(network: Sequential, shape: Sequence[int]) -> list[LayerSize]:
    """Return the size of each layer for images of `shape`; weights that are not there yet are started.

    Parameters
    ----------
    network
        The layers.
    shape
        Of one image, say ``(28, 28, 1)``.

    Raises
    ------
    ValueError
        If the shape does not fit.
    """
    x = np.zeros((1, *shape), np.float32)
    sizes = []
    for layer in network.layers:
        y = layer(x, training=False)
        held = y.size if isinstance(layer, IN_PLACE) else x.size + y.size
        parameters = sum(array.size for array in layer.parameters.values())
        sizes.append(LayerSize(type(layer).__name__, y.shape[1:], parameters, held))
        x = y
    return sizes


def least_memory(sizes: Sequence[LayerSize], images: int, *, bytes_each: int = 4) -> int:
    """Return how many bytes the activations need at least, when layer after layer treats all images at once.

    A layer needs its inputs and its outputs at one time; that of the layer with the most of them is a bound from below
    for every program that works this way. Weights, copies and work space come on top.

    Parameters
    ----------
    sizes
        From :func:`layer_sizes`.
    images
        At once.
    bytes_each
        Bytes of a number: 4 for float32, 2 for float16 and bfloat16.

    Raises
    ------
    TypeError, ValueError
        If a number is no integer, or below 1, or there are no layers.
    """
    if not sizes:
        raise ValueError("sizes is empty; expected the size of at least one layer.")
    return max(size.held for size in sizes) * positive_int(images, "images") * positive_int(bytes_each, "bytes_each")


def _pads(length: int, kernel: int, stride: int, padding: Padding | Pair) -> Pair:
    """Return the places added before and after."""
    if isinstance(padding, tuple):
        if len(padding) != 2 or min(padding) < 0:
            raise ValueError(f"padding = {padding}; expected 'valid', 'same' or a pair (before, after) >= 0.")
        return padding
    return same_padding(length, kernel, stride) if check_padding(padding) == "same" else (0, 0)
