"""The layers that the table of conventions knows; each library is imported only when its layer is asked."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, ClassVar

import numpy as np

from bncourse.conventions.probes import Float32, Request, Statistics, Subject


def _column(batch: Sequence[float], rank: int = 2) -> Float32:
    """Return a batch with one channel, last or first: shape (samples, 1) or (samples, 1, 1, 1)."""
    return np.array(batch, np.float32).reshape(-1, *[1] * (rank - 1))


def _vector(y: Any) -> Float32:
    return np.asarray(y, np.float32).reshape(-1)


def _number(value: Any) -> float:
    return float(np.asarray(value).reshape(()))


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that are not ``None``."""
    return {name: value for name, value in options.items() if value is not None}


class Course(Subject):
    """The layer of :mod:`bncourse.nn`."""

    name = "bncourse.nn"
    packages = ("bncourse",)

    def _run(self, request: Request) -> tuple[Float32, Statistics]:
        from bncourse.nn import BatchNorm

        layer = BatchNorm(**_given(momentum=request.momentum, epsilon=request.epsilon))
        layer(_column([0.0]), training=False)  # builds the arrays
        layer.trainable = not request.frozen
        if request.start is not None:
            layer.moving_mean, layer.moving_variance = (np.array([value]) for value in request.start)
        for batch in request.batches:
            y = layer(_column(batch), **_given(training=request.training))
        return _vector(y), Statistics(_number(layer.moving_mean), _number(layer.moving_variance))

    def _count(self, shape: tuple[int, ...]) -> int:
        from bncourse.nn import BatchNorm

        layer = BatchNorm()
        layer(np.zeros(shape, np.float32), training=False)
        return int(np.asarray(layer.moving_mean).size)


class TfLayers(Subject):
    """``tf.compat.v1.layers.batch_normalization`` without the fused kernel."""

    name = "tf.layers, not fused"
    packages = ("tensorflow", "tf-keras")
    fused: ClassVar[bool] = False
    rank: ClassVar[int] = 2

    def _run(self, request: Request) -> tuple[Float32, Statistics]:
        tf1 = self._tf1()
        with tf1.Graph().as_default() as graph:
            inputs = tf1.placeholder(tf1.float32, (None, *[1] * (self.rank - 1)))
            y = tf1.layers.batch_normalization(
                inputs,
                fused=self.fused,
                trainable=not request.frozen,
                **_given(training=request.training, momentum=request.momentum, epsilon=request.epsilon),
            )
            moving = [v for v in tf1.global_variables() if "moving" in v.op.name]  # mean, variance
            updates = graph.get_collection(tf1.GraphKeys.UPDATE_OPS)
            with tf1.Session() as session:
                session.run(tf1.global_variables_initializer())
                if request.start is not None:
                    session.run([v.assign([value]) for v, value in zip(moving, request.start, strict=True)])
                for batch in request.batches:
                    # Two runs: within one, inference might read the statistics before or after their update.
                    feed = {inputs: _column(batch, self.rank)}
                    outputs = session.run(y, feed)
                    session.run(updates, feed)
                mean, variance = session.run(moving)
        return _vector(outputs), Statistics(_number(mean), _number(variance))

    def _count(self, shape: tuple[int, ...]) -> int:
        tf1 = self._tf1()
        with tf1.Graph().as_default():
            tf1.layers.batch_normalization(tf1.placeholder(tf1.float32, shape), fused=self.fused)
            return int(tf1.global_variables()[0].shape[0])

    @staticmethod
    def _tf1() -> Any:
        from bncourse.tf_layers import tf1

        return tf1


class TfLayersFused(TfLayers):
    """The same with the fused kernel, its own choice for images."""

    name = "tf.layers, fused"
    fused = True
    rank = 4


class Keras(Subject):
    """``keras.layers.BatchNormalization`` of Keras 3."""

    name = "Keras 3"
    packages = ("keras",)

    def _run(self, request: Request) -> tuple[Float32, Statistics]:
        layer = self._layer(**_given(momentum=request.momentum, epsilon=request.epsilon))
        layer.build((None, 1))
        layer.trainable = not request.frozen
        if request.start is not None:
            layer.moving_mean.assign([request.start.mean])
            layer.moving_variance.assign([request.start.variance])
        for batch in request.batches:
            y = layer(_column(batch), **_given(training=request.training))
        return _vector(y), Statistics(_number(layer.moving_mean), _number(layer.moving_variance))

    def _count(self, shape: tuple[int, ...]) -> int:
        layer = self._layer()
        layer.build(shape)
        return int(layer.moving_mean.shape[0])

    @staticmethod
    def _layer(**options: Any) -> Any:
        from bncourse.tf_layers import tf  # noqa: F401  # first, so that tf.layers stays available in this process

        keras: Any = import_module("keras")
        return keras.layers.BatchNormalization(**options)


class PyTorch(Subject):
    """``torch.nn.BatchNorm1d``, and ``BatchNorm2d`` for images."""

    name = "PyTorch"
    packages = ("torch",)

    def _run(self, request: Request) -> tuple[Float32, Statistics]:
        torch: Any = import_module("torch")
        layer = torch.nn.BatchNorm1d(1, **_given(momentum=request.momentum, eps=request.epsilon))
        layer.requires_grad_(not request.frozen)
        if request.training is not None:
            layer.train(request.training)
        if request.start is not None:
            layer.running_mean.fill_(request.start.mean)
            layer.running_var.fill_(request.start.variance)
        with torch.no_grad():
            for batch in request.batches:
                y = layer(torch.from_numpy(_column(batch)))
        return _vector(y), Statistics(layer.running_mean.item(), layer.running_var.item())

    def _count(self, shape: tuple[int, ...]) -> int:
        torch: Any = import_module("torch")
        layer = torch.nn.LazyBatchNorm2d()
        layer(torch.zeros(shape))
        return len(layer.running_mean)


class Onnx(Subject):
    """The operator ``BatchNormalization`` of ONNX (version 15), in the reference evaluator.

    It is a pure function: the moving statistics go in and come out.
    """

    name = "ONNX"
    packages = ("onnx",)
    can_freeze = False

    def _run(self, request: Request) -> tuple[Float32, Statistics]:
        # The standard names no start values, they are inputs; 0 and 1 are what exporters store.
        statistics = [np.array([value], np.float32) for value in request.start or Statistics(0.0, 1.0)]
        options = _given(
            training_mode=None if request.training is None else int(request.training),
            momentum=request.momentum,
            epsilon=request.epsilon,
        )
        for batch in request.batches:
            y, *updated = self._evaluate(_column(batch), statistics, options)
            statistics = updated or statistics
        return _vector(y), Statistics(*map(_number, statistics))

    def _count(self, shape: tuple[int, ...]) -> int:
        for channels in sorted(set(shape[1:])):
            statistics = [np.zeros(channels, np.float32), np.arange(1.0, 1.0 + channels, dtype=np.float32)]
            try:
                self._evaluate(np.zeros(shape, np.float32), statistics, {})
            except ValueError:
                continue  # the arrays do not fit together
            return channels
        raise ValueError(f"no number of channels fits the shape {shape}.")

    @staticmethod
    def _evaluate(x: Float32, statistics: Sequence[Float32], options: dict[str, Any]) -> list[Any]:
        onnx: Any = import_module("onnx")
        evaluator: Any = import_module("onnx.reference").ReferenceEvaluator
        helper, kind = onnx.helper, onnx.TensorProto.FLOAT
        ones = np.ones_like(statistics[0])
        feed = dict(zip(("x", "scale", "bias", "mean", "variance"), (x, ones, 0 * ones, *statistics), strict=True))
        outputs = ["y", "new_mean", "new_variance"] if options.get("training_mode") else ["y"]
        node = helper.make_node("BatchNormalization", list(feed), outputs, **options)
        graph = helper.make_graph(
            [node],
            "one_node",
            [helper.make_tensor_value_info(name, kind, array.shape) for name, array in feed.items()],
            [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
        found: list[Any] = evaluator(model).run(None, feed)
        return found


class FlaxNnx(Subject):
    """``flax.nnx.BatchNorm``."""

    name = "Flax nnx"
    packages = ("flax", "jax")
    can_freeze = False

    def _run(self, request: Request) -> tuple[Float32, Statistics]:
        layer = self._layer(1, **_given(momentum=request.momentum, epsilon=request.epsilon))
        if request.start is not None:
            layer.mean[...], layer.var[...] = (np.array([value], np.float32) for value in request.start)
        for batch in request.batches:
            y = layer(
                _column(batch), **_given(use_running_average=None if request.training is None else not request.training)
            )
        return _vector(y), Statistics(_number(layer.mean[...]), _number(layer.var[...]))

    def _count(self, shape: tuple[int, ...]) -> int:
        for channels in sorted(set(shape[1:])):
            layer = self._layer(channels)
            try:
                layer(np.zeros(shape, np.float32))
            except (TypeError, ValueError):
                continue  # the arrays do not fit together
            return channels
        raise ValueError(f"no number of channels fits the shape {shape}.")

    @staticmethod
    def _layer(channels: int, **options: Any) -> Any:
        nnx: Any = import_module("flax.nnx")
        return nnx.BatchNorm(channels, rngs=nnx.Rngs(0), **options)


class FlaxLinen(Subject):
    """``flax.linen.BatchNorm``: the layer is a pure function, its statistics are in a tree of arrays."""

    name = "Flax linen"
    packages = ("flax", "jax")
    can_freeze = False

    def _run(self, request: Request) -> tuple[Float32, Statistics]:
        layer = self._linen().BatchNorm(**_given(momentum=request.momentum, epsilon=request.epsilon))
        variables = self._start(layer, _column([0.0]))
        if request.start is not None:
            mean, variance = (np.array([value], np.float32) for value in request.start)
            variables = {**variables, "batch_stats": {"mean": mean, "var": variance}}
        mode = _given(use_running_average=None if request.training is None else not request.training)
        for batch in request.batches:
            y, changed = layer.apply(variables, _column(batch), mutable=["batch_stats"], **mode)
            variables = {**variables, **changed}
        statistics = variables["batch_stats"]
        return _vector(y), Statistics(_number(statistics["mean"]), _number(statistics["var"]))

    def _count(self, shape: tuple[int, ...]) -> int:
        variables = self._start(self._linen().BatchNorm(), np.zeros(shape, np.float32))
        return int(variables["batch_stats"]["mean"].size)

    @staticmethod
    def _linen() -> Any:
        return import_module("flax.linen")

    @staticmethod
    def _start(layer: Any, x: Float32) -> Any:
        jax: Any = import_module("jax")
        return layer.init(jax.random.key(0), x, use_running_average=True)


class Haiku(Subject):
    """``haiku.BatchNorm``: the layer is a pure function, its statistics are in a tree of arrays."""

    name = "Haiku"
    packages = ("dm-haiku", "jax")
    can_freeze = False

    def _run(self, request: Request) -> tuple[Float32, Statistics]:
        transformed = self._transformed(**_given(decay_rate=request.momentum, eps=request.epsilon))
        parameters, state = transformed.init(None, _column([0.0]), True)
        if request.start is not None:
            values = dict(zip(("mean_ema", "var_ema"), request.start, strict=True))
            state = {
                name: {**ema, "average": np.full_like(ema["average"], values[name.rpartition("/")[2]])}
                for name, ema in state.items()
            }
        mode = [] if request.training is None else [request.training]
        for batch in request.batches:
            y, state = transformed.apply(parameters, state, None, _column(batch), *mode)
        averages = {name.rpartition("/")[2]: _number(ema["average"]) for name, ema in state.items()}
        return _vector(y), Statistics(averages["mean_ema"], averages["var_ema"])

    def _count(self, shape: tuple[int, ...]) -> int:
        _, state = self._transformed(decay_rate=0.9).init(None, np.zeros(shape, np.float32), True)
        return int(next(iter(state.values()))["average"].size)

    @staticmethod
    def _transformed(**options: Any) -> Any:
        haiku: Any = import_module("haiku")

        def call(x: Any, *mode: bool) -> Any:
            return haiku.BatchNorm(create_scale=True, create_offset=True, **options)(x, *mode)

        return haiku.transform_with_state(call)


#: In the order of the table.
SUBJECTS: tuple[Subject, ...] = (
    Course(),
    TfLayers(),
    TfLayersFused(),
    Keras(),
    PyTorch(),
    Onnx(),
    FlaxNnx(),
    FlaxLinen(),
    Haiku(),
)
