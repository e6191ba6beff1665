"""Re-estimation in Keras 3 models."""

from __future__ import annotations

import numpy as np
import pytest

from bncourse.repair import recalibrate
from bncourse.tf_layers import tf

import keras  # isort: skip  # after TensorFlow, which bncourse.tf_layers sets up

RNG = np.random.default_rng(0)
X = RNG.normal(3.0, 2.0, (60, 5)).astype(np.float32)


def dense_oracle(model, parts, first="bn1", second="bn2"):
    """Return means and averaged variances at two BN layers of dense nets, in float64, from the weights alone."""
    w = {layer.name: [array(v).astype(np.float64) for v in layer.weights] for layer in model._flatten_layers()}
    kernel, bias = w["dense1"]
    gamma, beta, *_ = w[first]
    statistics = []
    for part in np.asarray(parts, np.float64):
        h1 = part @ kernel + bias
        h2 = gamma * (h1 - h1.mean(0)) / np.sqrt(h1.var(0) + 1e-3) + beta
        h2 = np.maximum(h2, 0) @ w["dense2"][0] + w["dense2"][1]
        statistics.append([h1.mean(0), h1.var(0), h2.mean(0), h2.var(0)])
    mean1, variance1, mean2, variance2 = [np.mean(column, axis=0) for column in zip(*statistics, strict=True)]
    return {first: (mean1, variance1), second: (mean2, variance2)}


def layers():
    return [
        keras.layers.Dense(6, name="dense1"),
        keras.layers.BatchNormalization(name="bn1"),
        keras.layers.ReLU(),
        keras.layers.Dropout(0.5, seed=1),
        keras.layers.Dense(4, name="dense2"),
        keras.layers.BatchNormalization(name="bn2"),
        keras.layers.GaussianNoise(1.0, seed=2),
        keras.layers.Dense(3, name="dense3"),
    ]


def array(variable):
    return np.asarray(keras.ops.convert_to_tensor(variable)).copy()


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        first, second = layers()[:4], layers()[4:]
        self.inner = keras.Sequential(first)
        self.parts = {"rest": second}

    def call(self, x, training=None):
        x = self.inner(x, training=training)
        for layer in self.parts["rest"]:
            x = layer(x, training=training) if layer._call_has_training_arg else layer(x)
        return x


def sequential():
    return keras.Sequential([keras.Input((5,)), *layers()])


def functional():
    inputs = outputs = keras.Input((5,), name="x")
    for layer in layers():
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


def nested():
    body = layers()
    inputs = keras.Input((5,))
    inner = keras.Sequential([keras.Input((5,)), *body[:4]])
    return keras.Model(inputs, keras.Sequential(body[4:])(inner(inputs)))


def made(build, seed=0):
    keras.utils.set_random_seed(seed)
    model = build()
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=True)
    model.train_on_batch(X, np.ones((60, 3), np.float32))
    return model


def bn(model, name):
    return next(layer for layer in model._flatten_layers() if layer.name == name)


def statistics(model, name):
    layer = bn(model, name)
    return array(layer.moving_mean), array(layer.moving_variance)


def everything(model):
    """Return all variables but the moving statistics, and the flags, for a comparison bit for bit."""
    values = [array(v).tobytes() for v in model.variables if "moving_" not in v.path]
    values += [array(v).tobytes() for v in model.optimizer.variables]
    flags = [(layer.trainable, sorted(vars(layer))) for layer in model._flatten_layers()]
    return values, flags, bn(model, "bn1").momentum, bn(model, "bn2").momentum


@pytest.fixture(scope="module")
def model():
    return made(functional)


@pytest.mark.parametrize("build", [sequential, functional, nested, Subclassed])
def test_all_kinds_of_models_get_the_batches_statistics_and_keep_everything_else(build):
    model = made(build)
    before = everything(model)
    report = recalibrate(model, X, batch_size=20)
    assert everything(model) == before
    assert [layer.name.split("/")[-1] for layer in report.layers] == ["bn1", "bn2"]
    for name, expected in dense_oracle(model, [X[i::3] for i in range(3)]).items():
        for ours, theirs in zip(statistics(model, name), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_statistics_are_those_of_the_layers_inputs_caught_by_a_model_of_their_own(model):
    for layer in ("bn1", "bn2"):
        bn(model, layer).momentum = 0.99
    recalibrate(model, X, batch_size=60, variance="pooled")
    catch = keras.Model(model.inputs[0], bn(model, "bn1").input)
    caught = array(catch(X, training=False)).astype(np.float64)
    mean, variance = statistics(model, "bn1")
    np.testing.assert_allclose(mean, caught.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variance, caught.var(0), rtol=1e-5)


def test_a_dataset_a_generator_a_tensor_and_a_dictionary_give_the_same():
    model = made(functional)
    parts = [X[i::3] for i in range(3)]
    recalibrate(model, X, batch_size=20)
    expected = statistics(model, "bn2")
    labelled = tf.data.Dataset.from_tensor_slices((np.concatenate(parts), np.ones(60))).batch(20)
    keyed = keras.Model({"x": model.inputs[0]}, model.outputs)
    for who, x in [
        (model, labelled),
        (model, (part for part in parts)),
        (model, parts),
        (model, tf.constant(X)),
        (keyed, {"x": X}),
        (keyed, [{"x": part} for part in parts]),
    ]:
        bn(model, "bn2").moving_mean.assign(np.full(4, 9.0))
        recalibrate(who, x, batch_size=20)
        for ours, theirs in zip(statistics(model, "bn2"), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_old_statistics_that_are_nan_are_healed():
    model = made(functional)
    bn(model, "bn1").moving_mean.assign(np.full(6, np.nan))
    recalibrate(model, X)
    assert np.isfinite(statistics(model, "bn1")).all()


def test_a_frozen_layer_is_left_alone_and_used_in_inference_mode():
    model = made(functional)
    bn(model, "bn1").trainable = False
    before = statistics(model, "bn1")
    report = recalibrate(model, X, batch_size=60)
    assert report.frozen == ("bn1",)
    assert all((a == b).all() for a, b in zip(before, statistics(model, "bn1"), strict=True))
    catch = keras.Model(model.inputs[0], bn(model, "bn2").input)
    caught = array(catch(X, training=False)).astype(np.float64)  # bn1 in inference mode, dropout off
    np.testing.assert_allclose(statistics(model, "bn2")[0], caught.mean(0), rtol=1e-5, atol=1e-6)


def test_renormalising_layers_are_measured_without_their_corrections():
    inputs = keras.Input((5,))
    model = keras.Model(inputs, keras.layers.BatchNormalization(name="bn", renorm=True)(inputs))
    before = [array(v) for v in model.variables if "moving_" not in v.path]
    recalibrate(model, X, batch_size=60)
    after = [array(v) for v in model.variables if "moving_" not in v.path]
    assert all((a == b).all() for a, b in zip(before, after, strict=True))
    assert bn(model, "bn").renorm
    np.testing.assert_allclose(statistics(model, "bn")[0], X.mean(0), rtol=1e-5)


def test_layers_of_one_name_are_told_apart():
    class Twins(keras.Model):
        def __init__(self):
            super().__init__()
            self.one = keras.layers.BatchNormalization(name="bn")
            self.two = keras.layers.BatchNormalization(name="bn")

        def call(self, x, training=None):
            return self.two(self.one(x, training=training), training=training)

    model = Twins()
    model(X)
    report = recalibrate(model, X)
    names = [layer.name for layer in report.layers]
    assert len(names) == len(set(names)) == 2
    np.testing.assert_allclose(array(model.one.moving_mean), X.mean(0), rtol=1e-4)
    np.testing.assert_allclose(array(model.two.moving_mean), 0, atol=1e-5)


def nan_in_the_second_batch():
    bad = X.copy()
    bad[0, 0] = np.nan
    return [X, bad]


def broken():
    yield X
    raise OSError("the disk is gone")


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (nan_in_the_second_batch(), ValueError, "batch 1 gives bn1 a mean or variance that is NaN"),
        (broken(), OSError, "the disk is gone"),
        ([X, X[:, :4]], Exception, "shape"),
        (iter([]), ValueError, "x holds no batches"),
        ({"x": X, "z": X[:3]}, ValueError, r"lengths \[3, 60\]"),
    ],
)
def test_after_an_error_all_is_what_it_was(x, error, message):
    model = made(functional)
    before = everything(model), [array(v).tobytes() for v in model.variables]
    with pytest.raises(error, match=message):
        recalibrate(model, x)
    assert (everything(model), [array(v).tobytes() for v in model.variables]) == before


def test_models_that_cannot_be_re_estimated_are_refused():
    with pytest.raises(ValueError, match="has no BN layer"):
        recalibrate(keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)]), X)
    with pytest.raises(ValueError, match="is not built yet"):
        recalibrate(keras.Sequential([keras.layers.BatchNormalization()]), X)
    frozen = functional()
    frozen.trainable = False
    with pytest.raises(ValueError, match="all BN layers are frozen: bn1, bn2"):
        recalibrate(frozen, X)


def test_undo():
    model = made(functional)
    before = [array(v).tobytes() for v in model.variables]
    recalibrate(model, X).undo()
    assert [array(v).tobytes() for v in model.variables] == before
