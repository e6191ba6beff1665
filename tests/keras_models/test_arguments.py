"""The table of arguments against the signatures, and its remarks against the libraries."""

import numpy as np
import pytest

from bncourse.keras_models import argument_table, arguments, keras
from bncourse.tf_layers import tf, tf1

TABLE = {line.name: line for line in argument_table()}
X = np.random.default_rng(0).normal(5.0, 2.0, (8, 3)).astype(np.float32)


def test_every_argument_of_tf_layers_is_there():
    names = "inputs axis momentum epsilon center scale beta_initializer gamma_initializer moving_mean_initializer "
    names += "moving_variance_initializer beta_regularizer gamma_regularizer beta_constraint gamma_constraint training "
    names += "trainable name reuse renorm renorm_clipping renorm_momentum fused virtual_batch_size adjustment"
    assert [name for name, line in TABLE.items() if line.place != "new"] == names.split()


def test_what_stayed_kept_its_default():
    stayed = [line for line in TABLE.values() if line.place == "layer"]
    assert len(stayed) == 18
    assert all(line.then == line.now is not None for line in stayed)


def test_the_flag_of_the_mode_has_another_default():
    assert (TABLE["training"].then, TABLE["training"].now) == ("False", "None")


@pytest.mark.parametrize("name", [name for name, line in TABLE.items() if line.place == "gone"])
def test_what_is_gone_is_refused_by_keras(name):
    with pytest.raises(ValueError, match=f"Unrecognized keyword arguments .*{name}"):
        keras.layers.BatchNormalization(**{name: None})


def without(function, name):
    def dropped(**arguments):
        raise NotImplementedError

    import inspect

    signature = inspect.signature(function)
    kept = [p for key, p in signature.parameters.items() if key != name]
    dropped.__signature__ = signature.replace(parameters=kept)
    return dropped


def test_a_dropped_argument_is_noticed(monkeypatch):
    monkeypatch.setattr(tf1.layers, "batch_normalization", without(tf1.layers.batch_normalization, "fused"))
    with pytest.raises(ValueError, match="says 'fused' is 'gone'; the libraries say None"):
        argument_table()


def test_an_argument_that_moved_is_noticed(monkeypatch):
    layer = keras.layers.BatchNormalization
    monkeypatch.setattr(layer, "__init__", without(layer.__init__, "renorm"))
    with pytest.raises(ValueError, match="says 'renorm' is 'layer'; the libraries say 'gone'"):
        argument_table()


def test_an_unknown_argument_is_noticed(monkeypatch):
    monkeypatch.delitem(arguments._FATES, "synchronized")
    with pytest.raises(ValueError, match="the table of arguments does not know synchronized"):
        argument_table()


def test_keras_takes_one_axis_only():
    with pytest.raises(TypeError):
        keras.layers.BatchNormalization(axis=[1, 2])
    with tf1.Graph().as_default():
        tf1.layers.batch_normalization(tf1.placeholder(tf.float32, (None, 4, 5, 3)), axis=[1, 3])
        assert tf1.global_variables()[0].shape == (1, 4, 1, 3)


def test_a_regularizer_joins_the_loss_by_itself_only_in_keras():
    layer = keras.layers.BatchNormalization(gamma_regularizer=keras.regularizers.L2(0.5))
    layer(X)
    assert [float(loss) for loss in layer.losses] == [1.5]
    model = keras.Sequential([keras.Input((3,)), layer])
    model.compile(loss=lambda _, p: 0 * p)
    assert model.evaluate(X, X, verbose=0) == pytest.approx(1.5)
    with tf1.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, (None, 3))
        tf1.layers.batch_normalization(x, gamma_regularizer=lambda gamma: tf.reduce_sum(gamma**2))
        assert len(graph.get_collection(tf1.GraphKeys.REGULARIZATION_LOSSES)) == 1
        assert tf1.losses.get_losses() == []


def test_a_constraint_is_applied_by_both_optimizers():
    clip = 0.25
    layer = keras.layers.BatchNormalization(gamma_constraint=lambda gamma: keras.ops.clip(gamma, 0, clip))
    model = keras.Sequential([keras.Input((3,)), layer])
    model.compile("sgd", "mse", jit_compile=False)
    model.train_on_batch(X, X)
    assert layer.gamma.numpy().max() <= clip
    with tf1.Graph().as_default(), tf1.Session() as session:
        y = tf1.layers.batch_normalization(
            tf.constant(X), training=True, gamma_constraint=lambda gamma: tf.clip_by_value(gamma, 0, clip)
        )
        step = tf1.train.GradientDescentOptimizer(0.01).minimize(tf.reduce_mean((y - X) ** 2))
        session.run(tf1.global_variables_initializer())
        session.run(step)
        assert session.run(tf1.trainable_variables()[0]).max() <= clip


def test_frozen_means_batch_statistics_without_update_ops_then_and_inference_now():
    with tf1.Graph().as_default() as graph, tf1.Session() as session:
        training = tf1.placeholder(tf.bool, ())
        y = tf1.layers.batch_normalization(tf.constant(X), training=training, trainable=False)
        assert graph.get_collection(tf1.GraphKeys.UPDATE_OPS) == []
        assert tf1.trainable_variables() == []
        session.run(tf1.global_variables_initializer())
        np.testing.assert_allclose(session.run(y, {training: True}).mean(0), 0, atol=1e-5)
    layer = keras.layers.BatchNormalization(trainable=False)
    np.testing.assert_allclose(layer(X, training=True), X / np.sqrt(1.001), rtol=1e-5)
    assert layer.moving_mean.numpy().tolist() == [0, 0, 0]


def test_the_outer_flag_overrides_a_baked_one_in_functional_models_only():
    inputs = keras.Input((3,))
    for baked in (True, False):
        layer = keras.layers.BatchNormalization()
        model = keras.Model(inputs, layer(inputs, training=baked))
        model(X, training=not baked)
        assert bool(layer.moving_mean.numpy()[0] != 0) is not baked

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = keras.layers.BatchNormalization()

        def call(self, x, training=None):  # noqa: ARG002
            return self.norm(x, training=False)

    model = Subclassed()
    model(X, training=True)
    assert model.norm.moving_mean.numpy()[0] == 0


def test_a_frozen_layer_holds_in_fit():
    inputs, layer = keras.Input((3,)), keras.layers.BatchNormalization()
    layer.trainable = False
    model = keras.Model(inputs, keras.layers.Dense(3)(layer(inputs)))
    model.compile("sgd", "mse", jit_compile=False)
    model.fit(X, X, verbose=0)
    assert layer.moving_mean.numpy().tolist() == [0, 0, 0]


def test_a_keras_layer_in_a_graph_collects_no_update_ops_and_its_assignments_are_orphans():
    with tf1.Graph().as_default() as graph, tf1.Session() as session:
        layer = keras.layers.BatchNormalization()
        y = layer(tf.constant(X), training=True)
        assert graph.get_collection(tf1.GraphKeys.UPDATE_OPS) == []
        starts = {variable.initializer for variable in tf1.global_variables()}
        assignments = [op for op in graph.get_operations() if op.type == "AssignVariableOp" and op not in starts]
        session.run(tf1.global_variables_initializer())
        np.testing.assert_allclose(session.run(y).mean(0), 0, atol=1e-5)
        assert session.run(layer.moving_mean.value).tolist() == [0, 0, 0]
        session.run(assignments)
        np.testing.assert_allclose(session.run(layer.moving_mean.value), 0.01 * X.mean(0), rtol=1e-5)


def test_a_keras_layer_in_a_graph_takes_no_placeholder_for_the_mode():
    with tf1.Graph().as_default(), pytest.raises(Exception, match="as a Python `bool` is not allowed"):
        keras.layers.BatchNormalization()(tf.constant(X), training=tf1.placeholder(tf.bool, ()))
