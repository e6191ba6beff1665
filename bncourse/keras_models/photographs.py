"""The three models of article D for photographs, in Keras 3: logistic regression, a wide one, a deep one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bncourse.keras_models.runtime import keras
from bncourse.nn.checks import fraction, positive_int
from bncourse.tf_layers.arguments import check_learning_rate, check_seed, known

PhotographModel = Literal["logistic", "wide", "deep"]
#: "input": in front of the first layer, as in the article; "between": behind every convolution, before its ReLU.
Place = Literal["input", "none", "between"]

#: Adam's learning rates in the article.
LEARNING_RATES: Mapping[PhotographModel, float] = MappingProxyType({"logistic": 0.01, "wide": 0.001, "deep": 0.01})

#: Smallest height and width that leave a pixel behind all the pooling.
SMALLEST: Mapping[PhotographModel, int] = MappingProxyType({"logistic": 1, "wide": 17, "deep": 128})


def build_photograph_model(
    model: PhotographModel,
    *,
    image_size: int = 224,
    classes: int = 2,
    batch_norm: Place = "input",
    momentum: float = 0.99,
    seed: int = 0,
) -> Any:
    """Build one of the article's three models.

    ``"logistic"``: flatten, dense. ``"wide"``: one convolution (100 maps, 2x2, no padding, ReLU), 16x16 max pooling,
    flatten, dense. ``"deep"``: seven times a convolution (20 maps, 2x2, padded to the same size, ReLU) and 2x2 max
    pooling; then flatten, dense. The dense layer has a softmax.

    Parameters
    ----------
    model : {"logistic", "wide", "deep"}
        Which.
    image_size : int
        Height and width of the photographs in pixels; at least 17 for the wide and 128 for the deep model.
    classes : int
        Number of classes, 2 or more.
    batch_norm : {"input", "none", "between"}
        Where BN stands: in front of the first layer (the article's), nowhere, or behind every convolution, before its
        ReLU. Its channels are the last axis, red, green and blue in front of the first layer.
    momentum : float
        Share of the old value in each update of the moving statistics, in [0, 1].
    seed : int
        The same number gives the same start weights. BN draws nothing, so they are the same in all three places.

    Returns
    -------
    keras.Model
        Pictures of shape (batch, image_size, image_size, 3), from 0 to 1, to probabilities of shape (batch, classes).
        Not compiled.

    Raises
    ------
    ValueError
        If an argument lies outside its range, or logistic regression is to have BN between its layers: it has one.
    TypeError
        If `image_size`, `classes` or `seed` is not an integer.
    """
    known(model, "model", PhotographModel)
    known(batch_norm, "batch_norm", Place)
    check_image_size(model, image_size)
    if positive_int(classes, "classes") < 2:
        raise ValueError(f"classes = {classes}; expected at least 2.")
    if model == "logistic" and batch_norm == "between":
        raise ValueError("batch_norm = 'between'; logistic regression has a single layer. Expected 'input' or 'none'.")
    fraction(momentum, "momentum", end=True)
    check_seed(seed)
    layers = keras.layers
    # A seed of its own for every layer: those that share one start with the same numbers.
    seeds = (int(number) for number in np.random.SeedSequence(seed).generate_state(8))

    def start() -> Any:
        return keras.initializers.GlorotUniform(seed=next(seeds))

    def convolution(layer: Any, maps: int, padding: str, number: int) -> Any:
        layer = layers.Conv2D(maps, 2, padding=padding, kernel_initializer=start(), name=f"conv_{number}")(layer)
        if batch_norm == "between":
            layer = layers.BatchNormalization(momentum=momentum, name=f"bn_{number}")(layer)
        return layers.ReLU(name=f"relu_{number}")(layer)

    inputs = keras.Input((image_size, image_size, 3), name="photographs")
    layer = inputs
    if batch_norm == "input":
        layer = layers.BatchNormalization(momentum=momentum, name="bn_input")(layer)
    if model == "wide":
        layer = layers.MaxPooling2D(16, name="pool_1")(convolution(layer, 100, "valid", 1))
    if model == "deep":
        for number in range(1, 8):
            layer = layers.MaxPooling2D(2, name=f"pool_{number}")(convolution(layer, 20, "same", number))
    layer = layers.Flatten(name="flatten")(layer)
    outputs = layers.Dense(classes, activation="softmax", kernel_initializer=start(), name="dense")(layer)
    return keras.Model(inputs, outputs, name=model)


def compile_photograph_model(model: Any, *, learning_rate: float | None = None) -> Any:
    """Give the model the article's loss, metric and optimizer, with a fresh state; return it.

    Parameters
    ----------
    model : keras.Model
        From `build_photograph_model`. Its labels are class numbers; the article's one-hot ones give the same loss.
    learning_rate : float, optional
        Adam's learning rate, above 0; by default the article's for this model.

    Raises
    ------
    ValueError
        If `learning_rate` is not above 0.
    """
    rate = LEARNING_RATES[model.name] if learning_rate is None else check_learning_rate(learning_rate)
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=False,  # compiling takes longer than a short run
    )
    return model


def silent_maps(model: Any, batches: Iterable[npt.NDArray[np.float32]]) -> dict[str, float]:
    """Return for each ReLU of a model the share of its maps that are 0 at every place of every photograph.

    No gradient passes such a map on these photographs. Maps, not units: a convolution has the same weights everywhere.

    Parameters
    ----------
    model : keras.Model
        From `build_photograph_model`; used in inference mode.
    batches : iterable of arrays, each of shape (batch, image_size, image_size, 3)
        Photographs.

    Returns
    -------
    dict of str to float
        By the layer's name, "relu_1" first; empty for logistic regression.
    """
    names = [layer.name for layer in model.layers if isinstance(layer, keras.layers.ReLU)]
    if not names:
        return {}
    behind = keras.Model(model.inputs[0], [model.get_layer(name).output for name in names])
    largest = [
        [np.max(maps, axis=(0, 1, 2)) for maps in keras.tree.flatten(behind(images, training=False))]
        for images in batches
    ]
    return {
        name: float(np.mean(np.max(found, axis=0) == 0))
        for name, found in zip(names, zip(*largest, strict=True), strict=True)
    }


def check_image_size(model: PhotographModel, image_size: int) -> int:
    """Return `image_size` if the model's pooling leaves at least one pixel of it.

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is too small.
    """
    if positive_int(image_size, "image_size") < SMALLEST[model]:
        raise ValueError(
            f"image_size = {image_size}; expected at least {SMALLEST[model]} for the {model} model, whose pooling "
            "would leave no pixel."
        )
    return image_size
