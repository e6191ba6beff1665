"""Article D's three models: layer by layer against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from bncourse.keras_models import keras
from bncourse.keras_models.photographs import (
    LEARNING_RATES,
    SMALLEST,
    build_photograph_model,
    compile_photograph_model,
    silent_maps,
)

MODELS_AND_PLACES = [
    (model, place)
    for model in ("logistic", "wide", "deep")
    for place in ("input", "none", "between")
    if (model, place) != ("logistic", "between")
]


def randomised(model, seed=0):
    """Give every weight, moving statistics too, a value of its own; return them by path."""
    rng = np.random.default_rng(seed)
    values = {}
    for variable in model.weights:
        value = rng.normal(0, 0.5, variable.shape)
        if variable.path.endswith("variance"):
            value = rng.uniform(0.5, 2, variable.shape)
        variable.assign(value)
        values[variable.path] = np.asarray(value, np.float64)
    return values


def normalise(x, weights, name, training):
    if training:
        mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    else:
        mean, variance = weights[f"{name}/moving_mean"], weights[f"{name}/moving_variance"]
    return (x - mean) / np.sqrt(variance + 1e-3) * weights[f"{name}/gamma"] + weights[f"{name}/beta"]


def convolve(x, kernel, bias, padding):
    """Convolve with a 2x2 kernel; "same" pads one row below and one column on the right (TensorFlow's SAME)."""
    if padding == "same":
        x = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    rows, columns = x.shape[1] - 1, x.shape[2] - 1
    return bias + sum(x[:, i : i + rows, j : j + columns] @ kernel[i, j] for i in (0, 1) for j in (0, 1))


def pool(x, side):
    n, rows, columns, maps = x.shape
    rows, columns = rows // side, columns // side
    x = x[:, : rows * side, : columns * side]
    return x.reshape(n, rows, side, columns, side, maps).max(axis=(2, 4))


def expected(name, place, weights, x, training):
    x = x.astype(np.float64)
    if place == "input":
        x = normalise(x, weights, "bn_input", training)
    for number in {"logistic": (), "wide": (1,), "deep": range(1, 8)}[name]:
        kernel, bias = weights[f"conv_{number}/kernel"], weights[f"conv_{number}/bias"]
        x = convolve(x, kernel, bias, "same" if name == "deep" else "valid")
        if place == "between":
            x = normalise(x, weights, f"bn_{number}", training)
        x = pool(np.maximum(x, 0), 2 if name == "deep" else 16)
    logits = x.reshape(len(x), -1) @ weights["dense/kernel"] + weights["dense/bias"]
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("name", "place"), MODELS_AND_PLACES)
def test_every_model_computes_what_the_article_describes(name, place, training):
    size = {"logistic": 5, "wide": 35, "deep": 130}[name]
    model = build_photograph_model(name, image_size=size, classes=3, batch_norm=place)
    weights = randomised(model)
    x = np.random.default_rng(1).random((2, size, size, 3)).astype(np.float32)
    found = np.array(model(x, training=training))
    np.testing.assert_allclose(found, expected(name, place, weights, x, training), atol=2e-4)
    assert np.ptp(found) > 0.01  # the weights matter


@pytest.mark.parametrize("size", [128, 224])
def test_the_numbers_of_weights(size):
    """In closed form; 12 is BN on three colours: gamma, beta and two moving statistics."""
    counted = {name: build_photograph_model(name, image_size=size).count_params() for name in SMALLEST}
    assert counted["logistic"] == 12 + size * size * 3 * 2 + 2
    assert counted["wide"] == 12 + (2 * 2 * 3 + 1) * 100 + ((size - 1) // 16) ** 2 * 100 * 2 + 2
    assert counted["deep"] == 12 + (2 * 2 * 3 + 1) * 20 + 6 * (2 * 2 * 20 + 1) * 20 + (size // 128) ** 2 * 20 * 2 + 2


@pytest.mark.parametrize(
    ("name", "place", "number"),
    [
        ("logistic", "none", 0),
        ("wide", "input", 1),
        ("wide", "between", 1),
        ("deep", "none", 0),
        ("deep", "between", 7),
    ],
)
def test_bn_stands_where_it_was_asked_for(name, place, number):
    model = build_photograph_model(name, image_size=128, batch_norm=place, momentum=0.7)
    found = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(found) == number
    for layer in found:
        assert (layer.momentum, layer.epsilon, layer.axis) == (0.7, 1e-3, -1)
        names = [other.name for other in model.layers]
        before, after = names[names.index(layer.name) - 1], names[names.index(layer.name) + 1]
        if place == "between":
            assert (before[:5], after[:5]) == ("conv_", "relu_")
        else:
            assert before == "photographs"


def test_start_weights_hang_on_the_seed_and_not_on_bn():
    def kernels(place, seed):
        model = build_photograph_model("deep", image_size=128, batch_norm=place, seed=seed)
        return {v.path: v.numpy() for v in model.weights if v.path.endswith("kernel")}

    first = kernels("input", 3)
    assert len(first) == 8
    for other in (kernels("none", 3), kernels("between", 3)):
        assert first.keys() == other.keys()
        for name, kernel in first.items():
            np.testing.assert_array_equal(other[name], kernel)
    assert not np.array_equal(kernels("input", 4)["conv_2/kernel"], first["conv_2/kernel"])
    assert not np.array_equal(first["conv_2/kernel"], first["conv_3/kernel"])


def test_the_smallest_sizes_leave_one_pixel():
    for name, size in SMALLEST.items():
        model = build_photograph_model(name, image_size=size)
        assert model.layers[-2].output.shape[1] in (3, 20, 100)  # logistic: three colours
        if size > 1:
            message = (
                f"^image_size = {size - 1}; expected at least {size} for the {name} model, whose pooling would leave"
            )
            with pytest.raises(ValueError, match=message):
                build_photograph_model(name, image_size=size - 1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": "huge"}, ValueError, "model = 'huge'; expected one of 'logistic', 'wide', 'deep'."),
        ({"batch_norm": "after"}, ValueError, "batch_norm = 'after'; expected one of 'input', 'none', 'between'."),
        ({"model": "logistic", "batch_norm": "between"}, ValueError, "batch_norm = 'between'; logistic regression has"),
        ({"classes": 1}, ValueError, "classes = 1; expected at least 2."),
        ({"classes": 2.0}, TypeError, "classes = 2.0; expected an integer."),
        ({"image_size": 0}, ValueError, "image_size = 0; expected an integer >= 1."),
        ({"image_size": "224"}, TypeError, "image_size = '224'; expected an integer."),
        ({"momentum": 1.5}, ValueError, r"momentum = 1.5; expected a number in \[0, 1\]."),
        ({"seed": -1}, ValueError, "seed = -1; expected an integer >= 0."),
    ],
)
def test_impossible_models_are_refused(options, error, message):
    with pytest.raises(error, match=f"^{message}"):
        build_photograph_model(**{"model": "wide", **options})


@pytest.mark.parametrize("name", LEARNING_RATES)
def test_the_articles_optimizer(name):
    model = compile_photograph_model(build_photograph_model(name, image_size=128))
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    assert np.isclose(float(model.optimizer.learning_rate), {"logistic": 0.01, "wide": 0.001, "deep": 0.01}[name])
    compile_photograph_model(model, learning_rate=0.5)
    assert float(model.optimizer.learning_rate) == 0.5
    with pytest.raises(ValueError, match="learning_rate = -1"):
        compile_photograph_model(model, learning_rate=-1)


def test_loss_and_accuracy():
    model = compile_photograph_model(build_photograph_model("logistic", image_size=4, classes=3))
    weights = randomised(model)
    x, y = np.random.default_rng(2).random((6, 4, 4, 3)).astype(np.float32), np.array([0, 1, 2, 0, 1, 2])
    probabilities = expected("logistic", "input", weights, x, training=False)
    scores = model.test_on_batch(x, y, return_dict=True)
    assert np.isclose(scores["loss"], -np.log(probabilities[np.arange(6), y]).mean(), rtol=1e-4)
    assert np.isclose(scores["accuracy"], np.mean(probabilities.argmax(axis=1) == y))


def test_silent_maps_are_those_that_no_photograph_wakes():
    model = build_photograph_model("wide", image_size=33, batch_norm="none")
    kernel, bias = np.zeros((2, 2, 3, 100)), np.full(100, -1.0)
    bias[:30] = 1.0  # these see everything
    kernel[0, 0, 0, 30:40], bias[30:40] = 1.0, -0.5  # and these a red pixel
    model.get_layer("conv_1").set_weights([kernel, bias])
    dark = np.zeros((2, 33, 33, 3), np.float32)
    bright = dark.copy()
    bright[1, 7, 9, 0] = 1.0
    assert silent_maps(model, [dark, dark]) == {"relu_1": pytest.approx(0.7)}
    assert silent_maps(model, [dark, bright]) == {"relu_1": pytest.approx(0.6)}
    assert silent_maps(build_photograph_model("logistic", image_size=8), [dark[:, :8, :8]]) == {}


def test_silent_maps_of_every_relu():
    model = build_photograph_model("deep", image_size=128, batch_norm="between")
    model.get_layer("bn_4").set_weights([np.ones(20), np.full(20, -100.0), np.zeros(20), np.ones(20)])
    found = silent_maps(model, [np.random.default_rng(0).random((2, 128, 128, 3)).astype(np.float32)])
    assert list(found) == [f"relu_{i}" for i in range(1, 8)]
    assert found["relu_4"] == 1.0
    assert found["relu_1"] < 0.8
