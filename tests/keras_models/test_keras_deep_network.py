"""Article A's network in Keras 3: its build, its start and its training."""

import subprocess
import sys

import numpy as np
import pytest

from bncourse.data import load_digits, one_hot
from bncourse.keras_models import build_deep_model, compile_deep_model, keras, read_model
from bncourse.tf_layers import tf1
from bncourse.tf_layers.deep_network import build_deep_network


def test_names_and_shapes_are_those_of_tf_layers_however_often_it_is_built():
    network = build_deep_network()
    with network.graph.as_default():
        shapes = {v.op.name: tuple(v.shape) for v in tf1.global_variables() if "Adam" not in v.name}
    shapes = {name: shape for name, shape in shapes.items() if "power" not in name}
    for _ in range(2):
        assert {name: value.shape for name, value in read_model(build_deep_model()).items()} == shapes


def test_without_bn_every_layer_has_a_bias():
    names = list(read_model(build_deep_model(batch_norm=False, conv_layers=2)))
    assert not [name for name in names if "batch" in name]
    assert len([name for name in names if "bias" in name]) == 4


def test_the_seed_decides_the_start_and_every_layer_draws_its_own():
    one, same, other = (read_model(build_deep_model(conv_layers=2, seed=seed)) for seed in (0, 0, 1))
    assert all(np.array_equal(value, same[name]) for name, value in one.items())
    kernels = [name for name in one if "kernel" in name]
    assert not any(np.array_equal(one[name], other[name]) for name in kernels)
    first, second = one["conv2d/kernel"].ravel(), one["conv2d_1/kernel"].ravel()
    assert not np.allclose(first / first.std(), second[: first.size] / second[: first.size].std(), atol=0.1)


def test_one_seed_for_two_layers_gives_them_the_same_weights():
    """Why every layer draws with a seed of its own."""
    draw = keras.initializers.GlorotUniform(seed=3)
    assert np.array_equal(draw((4, 4)).numpy(), draw((4, 4)).numpy())


def test_start_weights_are_glorots():
    kernel = read_model(build_deep_model(conv_layers=1))["dense/kernel"]  # 28 * 28 * 4 in, 100 out
    limit = np.sqrt(6 / (28 * 28 * 4 + 100))
    assert 0.999 * limit < np.abs(kernel).max() <= limit
    assert abs(kernel.std() / (limit / np.sqrt(3)) - 1) < 0.01


def test_momentum_reaches_every_layer():
    model = build_deep_model(conv_layers=2, momentum=0.9)
    assert [layer.momentum for layer in model.layers if "batch" in layer.name] == [0.9] * 3


def test_it_learns_the_digits():
    digits = load_digits()
    images, labels = digits.train.images[:64], one_hot(digits.train.labels[:64], 10)
    model = compile_deep_model(build_deep_model(conv_layers=2, momentum=0.5))
    history = model.fit(images, labels, batch_size=64, epochs=12, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert model.evaluate(images, labels, verbose=0, return_dict=True)["accuracy"] > 0.8


def test_the_loss_is_the_articles():
    model = compile_deep_model(build_deep_model(conv_layers=1, seed=2))
    images = np.random.default_rng(0).random((6, 28, 28, 1), dtype=np.float32)
    labels = np.eye(10, dtype=np.float32)[:6]
    logits = model.predict(images, verbose=0).astype(np.float64)
    expected = np.mean(np.logaddexp(0, logits) - labels * logits)
    assert model.evaluate(images, labels, verbose=0)[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"momentum": 1.5}, ValueError, r"momentum = 1\.5; expected a number in \[0, 1\]\."),
        ({"conv_layers": 0}, ValueError, "conv_layers = 0; expected an integer >= 1."),
        ({"conv_layers": 1.0}, TypeError, r"conv_layers = 1\.0; expected an integer."),
        ({"seed": -1}, ValueError, "seed = -1; expected an integer >= 0."),
        ({"dtype": "float16"}, ValueError, "dtype = 'float16'; expected 'float32' or 'float64'."),
    ],
)
def test_impossible_arguments_are_refused(options, kind, message):
    with pytest.raises(kind, match=message):
        build_deep_model(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0}, "learning_rate = 0; expected a finite number > 0"),
        ({"epsilon": -1.0}, r"epsilon = -1\.0; expected a finite number >= 0\."),
    ],
)
def test_an_impossible_optimizer_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        compile_deep_model(build_deep_model(conv_layers=1), **options)


def test_another_backend_is_named_with_the_remedy(monkeypatch):
    from bncourse.keras_models import runtime

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ImportError, match=r"Keras runs on jax; .* KERAS_BACKEND=tensorflow"):
        runtime._import_keras()


def test_importing_the_room_leaves_tf_layers_usable():
    program = "import bncourse.keras_models; from bncourse.tf_layers import tf1; print(tf1.layers.dense.__name__)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "dense"
