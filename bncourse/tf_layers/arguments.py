"""What the articles' image networks share: the shape of their data, and checks of their arguments."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

#: Height, width and channels of an image.
IMAGE_SHAPE = (28, 28, 1)
CLASSES = 10

#: What follows a convolution: BN and ReLU without a bias, and the three other orders that article A shows.
Order = Literal["bn-relu", "bias-bn-relu", "bias-relu-bn", "relu-bn"]
#: "sigmoid", article A's: ten yes-or-no questions; "softmax": one choice among ten.
Loss = Literal["sigmoid", "softmax"]
#: First weights of the convolutions: "glorot", random; "identity": every map hands on one map of the layer before.
Start = Literal["glorot", "identity"]
Activation = Literal["selu", "relu"]
#: "adam", or "muon": turns of a set angle for the kernels in front of a BN, Adam for the rest.
Optimizer = Literal["adam", "muon"]

#: Keys of `bncourse.tf_layers.wirings.WIRINGS`, which loads TensorFlow.
WiringName = Literal[
    "dependencies",
    "apply",
    "group",
    "fetched",
    "in-place",
    "towers",
    "cond-in-place",
    "cond-v1",
    "forgotten",
    "existing-op",
    "constructor",
    "on-the-loss",
    "wrong-name",
    "keras-layer",
    "not-trainable",
    "cond",
    "too-early",
    "one-scope",
    "always-true",
    "always-true-in-place",
    "always-false",
]


def check_learning_rate(learning_rate: float) -> float:
    """Return `learning_rate` if it is finite and above 0.

    Raises
    ------
    ValueError
        If it is not.
    """
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"learning_rate = {learning_rate}; expected a finite number > 0, for example 0.002.")
    return learning_rate


def check_seed(seed: int) -> int:
    """Return `seed` if TensorFlow's and NumPy's generators both accept it.

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is negative.
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed = {seed!r}; expected an integer.")
    if seed < 0:
        raise ValueError(f"seed = {seed}; expected an integer >= 0.")
    return seed


def known(value: str, name: str, words: Any) -> str:
    """Return `value` if it is one of the ``Literal`` `words`.

    Raises
    ------
    ValueError
        If it is not.
    """
    if value not in get_args(words):
        raise ValueError(f"{name} = {value!r}; expected one of {', '.join(map(repr, get_args(words)))}.")
    return value
