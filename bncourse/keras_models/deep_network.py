"""The deep convolutional network of article A in Keras 3."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from bncourse.keras_models.runtime import keras
from bncourse.nn.checks import fraction, not_negative, positive_int
from bncourse.tf_layers.arguments import CLASSES, IMAGE_SHAPE, check_learning_rate, check_seed
from bncourse.tf_layers.deep_network import CONV_LAYERS


def build_deep_model(
    *,
    batch_norm: bool = True,
    momentum: float = 0.99,
    conv_layers: int = CONV_LAYERS,
    dtype: Literal["float32", "float64"] = "float32",
    seed: int = 0,
) -> Any:
    """Build the network of article A as a Keras model.

    The layers bear the names that ``tf.layers`` gives them (``conv2d``, ``conv2d_1``, ``batch_normalization`` and so
    on), whatever was built before in the process. So weights move between the two by name.

    Parameters
    ----------
    batch_norm : bool
        Whether BN follows every layer but the logits. With BN these layers have no bias.
    momentum : float
        Share of the old value in each update of the moving statistics, in [0, 1].
    conv_layers : int
        Number of convolutional layers, 1 or more.
    dtype : {"float32", "float64"}
        Type of variables and calculations.
    seed : int
        The same number gives the same start weights. Every layer draws with a seed of its own: initializers that
        share one number give layers of one shape the same weights.

    Returns
    -------
    keras.Model
        Images of shape (batch, 28, 28, 1) to logits of shape (batch, 10). Not compiled.

    Raises
    ------
    ValueError
        If an argument lies outside its range.
    TypeError
        If `conv_layers` or `seed` is not an integer.
    """
    fraction(momentum, "momentum", end=True)
    positive_int(conv_layers, "conv_layers")
    check_seed(seed)
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype = {dtype!r}; expected 'float32' or 'float64'.")
    layers = keras.layers
    seeds = (int(number) for number in np.random.SeedSequence(seed).generate_state(conv_layers + 2))

    def start() -> Any:
        return keras.initializers.GlorotUniform(seed=next(seeds))

    def behind(layer: Any, index: int) -> Any:
        if batch_norm:
            name = _numbered("batch_normalization", index)
            layer = layers.BatchNormalization(momentum=momentum, dtype=dtype, name=name)(layer)
        return layers.ReLU(dtype=dtype, name=_numbered("relu", index))(layer)

    inputs = keras.Input(IMAGE_SHAPE, dtype=dtype, name="inputs")
    layer = inputs
    for depth in range(1, conv_layers + 1):
        layer = layers.Conv2D(
            4 * depth,
            3,
            strides=2 if depth % 3 == 0 else 1,
            padding="same",
            use_bias=not batch_norm,
            kernel_initializer=start(),
            dtype=dtype,
            name=_numbered("conv2d", depth - 1),
        )(layer)
        layer = behind(layer, depth - 1)
    layer = layers.Flatten(dtype=dtype, name="flatten")(layer)
    layer = layers.Dense(100, use_bias=not batch_norm, kernel_initializer=start(), dtype=dtype, name="dense")(layer)
    layer = behind(layer, conv_layers)
    logits = layers.Dense(CLASSES, kernel_initializer=start(), dtype=dtype, name="dense_1")(layer)
    return keras.Model(inputs, logits, name="deep_network")


def compile_deep_model(model: Any, *, learning_rate: float = 0.002, epsilon: float = 1e-8) -> Any:
    """Give the model the article's loss, metric and optimizer, with a fresh state; return it.

    Parameters
    ----------
    model : keras.Model
        Images to logits, one for each class; labels are one-hot.
    learning_rate : float
        Adam's learning rate, above 0.
    epsilon : float
        Adam's epsilon. 1e-8 is the default of ``tf.compat.v1.train.AdamOptimizer``; that of Keras is 1e-7. Both stand
        in the same place (see `bncourse.nn.Adam`, ``epsilon_beside="uncorrected"``).

    Raises
    ------
    ValueError
        If an argument lies outside its range.
    """
    check_learning_rate(learning_rate)
    not_negative(epsilon, "epsilon")
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate, epsilon=epsilon),
        # The mean over images and classes, as in the article. Without dtype Keras would round the logits to float32.
        loss=keras.losses.BinaryCrossentropy(from_logits=True, dtype=model.outputs[0].dtype),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile=False,  # compiling takes longer than a short run of a small network
    )
    return model


def _numbered(name: str, index: int) -> str:
    return f"{name}_{index}" if index else name
