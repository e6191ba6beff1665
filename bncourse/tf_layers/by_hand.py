r"""Batch Normalization with ``tf.nn``: what ``tf.layers`` hides, article C's layer, and the layer of ``tf.contrib``.

In training mode the layer normalises with the moments of the batch, and moves two variables towards them::

    moving = momentum * moving + (1 - momentum) * moment of the batch

In inference mode it normalises with these variables. No gradient reaches them; somebody must run the updates.

The variables are made by ``tf1.get_variable``, so that a graph may build the same layer twice and share them
(``tf1.variable_scope(..., reuse=True)``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from bncourse.nn.checks import fraction, not_negative
from bncourse.tf_layers.arguments import CLASSES, check_learning_rate, check_seed, known
from bncourse.tf_layers.ends import accuracy_of, placeholders, rate_placeholder
from bncourse.tf_layers.network import ImageNetwork
from bncourse.tf_layers.runtime import start_weights, tf, tf1

LayerKind: TypeAlias = Literal["by_hand", "tf_layers", "contrib"]
MomentAxes: TypeAlias = Literal["all", "batch"]
Updates: TypeAlias = Literal["collected", "in_place", "forgotten"]
#: Who runs the updates of one layer.
LayerUpdates: TypeAlias = Literal["collected", "in_place"]
VarianceKind: TypeAlias = Literal["population", "sample"]
DataFormat: TypeAlias = Literal["NHWC", "NCHW"]

#: The options of `build_by_hand_network` that together are article C's layer.
ARTICLE_OPTIONS: Mapping[str, Any] = MappingProxyType(
    {"momentum": 1e-5, "moment_axes": "batch", "training": True, "updates": "in_place"}
)


def batch_norm_by_hand(
    inputs: Any,
    training: Any,
    *,
    axes: Sequence[int] | None = None,
    momentum: float = 0.99,
    epsilon: float = 1e-3,
    moving_variance: VarianceKind = "population",
    updates: LayerUpdates = "collected",
    name: str | None = None,
) -> Any:
    r"""Add Batch Normalization, written with ``tf.nn.moments``, assignments and ``tf.nn.batch_normalization``.

    Parameters
    ----------
    inputs : tf.Tensor, of floating-point numbers
        What the layer reads; the axes that are not averaged over have known sizes.
    training : tf.Tensor of bool, shape (), or bool
        True: the batch's moments, and the updates move the moving statistics. False: the moving statistics, and
        nothing moves. A Python bool decides for ever, when the graph is built.
    axes : sequence of int, optional
        Axes that the moments are averaged over. Default: all but the last, which is right for a dense layer (rows)
        and for a convolution (rows, height and width) alike. Each position along the other axes has statistics and
        parameters of its own.
    momentum : float
        Share of the old value in each update, in [0, 1].
    epsilon : float
        Added to the variance, in the squared unit of `inputs`.
    moving_variance : {"population", "sample"}
        Which variance the moving average takes in: that of the batch, or n/(n-1) times as much (n numbers to each
        moment). Outputs in training mode use the former in both cases. ``tf.layers`` does the latter where it calls
        the fused kernel, that is on inputs of rank 4 and 5.
    updates : {"collected", "in_place"}
        ``"collected"``: the two updates go to the collection ``UPDATE_OPS``, and the training program must run them.
        ``"in_place"``: whoever computes the outputs in training mode runs them.
    name : str, optional
        Variable scope of the layer.

    Returns
    -------
    tf.Tensor, shape of `inputs`

    Raises
    ------
    TypeError
        If `inputs` does not hold floating-point numbers.
    ValueError
        If an argument lies outside its range, or a kept axis has no known size.

    References
    ----------
    Ioffe and Szegedy (2015), Batch Normalization, algorithms 1 and 2.
    """
    fraction(momentum, "momentum", end=True)
    not_negative(epsilon, "epsilon")
    known(moving_variance, "moving_variance", VarianceKind)
    known(updates, "updates", LayerUpdates)
    inputs = _float_tensor(inputs)
    axes = _axes(inputs, axes)
    shape = _kept_shape(inputs, axes)
    broadcast = [1 if axis in axes else size for axis, size in enumerate(inputs.shape)]

    with tf1.variable_scope(name, "batch_norm_by_hand"):
        gamma = _variable("gamma", shape, inputs.dtype, tf1.ones_initializer())
        beta = _variable("beta", shape, inputs.dtype, tf1.zeros_initializer())
        moving = (
            _variable("moving_mean", shape, inputs.dtype, tf1.zeros_initializer(), trainable=False),
            _variable("moving_variance", shape, inputs.dtype, tf1.ones_initializer(), trainable=False),
        )
        moments = _choose(training, lambda: tuple(tf.nn.moments(inputs, axes)), lambda: _read(moving))

        def update() -> list[Any]:
            mean, variance = moments
            if moving_variance == "sample":
                variance = variance * _bessel(inputs, axes)
            return [_move(*pair, momentum) for pair in zip(moving, (mean, variance), strict=True)]

        mean, variance = _with_updates(training, moments, update, moving, _collections(updates))
        parameters = (tf.reshape(value, broadcast) for value in (mean, variance, beta, gamma))
        return tf.nn.batch_normalization(inputs, *parameters, epsilon)


def article_batch_norm(
    inputs: Any, is_training: bool, *, decay: float = 1e-5, axes: Sequence[int] = (0,), epsilon: float = 1e-3
) -> Any:
    """Add the layer of article C, written anew, with its mistakes as they stand there.

    Each can be taken away alone: `decay` near 1, `axes` of all but the last. That `is_training` is a Python bool, and
    that every call makes variables of its own, is the article's way; `batch_norm_by_hand` mends both.

    Parameters
    ----------
    inputs : tf.Tensor, of floating-point numbers
        What the layer reads; all axes but the first have known sizes.
    is_training : bool
        True: the batch's moments, and the outputs carry the updates with them. False: the population statistics.
    decay : float
        Share of the old value in each update, in [0, 1]. The article's 1e-5 keeps next to nothing of it.
    axes : sequence of int
        Axes that the moments are averaged over. The article's axis 0 gives an image one mean for each pixel.
    epsilon : float
        Added to the variance.

    Returns
    -------
    tf.Tensor, shape of `inputs`

    Raises
    ------
    TypeError
        If `is_training` is a tensor: ``if`` would have to know its value while the graph is built.
    ValueError
        If an argument lies outside its range.
    """
    if not isinstance(is_training, bool):
        raise TypeError(
            f"is_training is a {type(is_training).__name__}; expected True or False, because `if is_training:` is "
            "decided while the graph is built. batch_norm_by_hand takes a placeholder."
        )
    fraction(decay, "decay", end=True)
    not_negative(epsilon, "epsilon")
    inputs = _float_tensor(inputs)
    axes = _axes(inputs, axes)
    if axes != tuple(range(len(axes))):
        raise ValueError(f"axes = {axes}; expected the first axes in order, for example (0,) or (0, 1, 2).")
    shape = _kept_shape(inputs, axes)

    scale = tf1.Variable(tf.ones(shape), name="scale")
    beta = tf1.Variable(tf.zeros(shape), name="beta")
    pop_mean = tf1.Variable(tf.zeros(shape), trainable=False, name="pop_mean")
    pop_var = tf1.Variable(tf.ones(shape), trainable=False, name="pop_var")
    if not is_training:
        return tf.nn.batch_normalization(inputs, pop_mean, pop_var, beta, scale, epsilon)
    batch_mean, batch_var = tf.nn.moments(inputs, axes)
    updates = [
        tf1.assign(old, decay * old + (1 - decay) * new) for old, new in ((pop_mean, batch_mean), (pop_var, batch_var))
    ]
    with tf.control_dependencies(updates):
        return tf.nn.batch_normalization(inputs, batch_mean, batch_var, beta, scale, epsilon)


def contrib_batch_norm(
    inputs: Any,
    decay: float = 0.999,
    center: bool = True,
    scale: bool = False,
    epsilon: float = 0.001,
    activation_fn: Callable[[Any], Any] | None = None,
    param_initializers: Mapping[str, Any] | None = None,
    param_regularizers: None = None,
    updates_collections: str | Sequence[str] | None = tf1.GraphKeys.UPDATE_OPS,
    is_training: Any = True,
    reuse: Any = None,
    variables_collections: None = None,
    outputs_collections: None = None,
    trainable: bool = True,
    batch_weights: Any = None,
    fused: bool | None = None,
    data_format: DataFormat = "NHWC",
    zero_debias_moving_mean: bool = False,
    scope: str | None = None,
    renorm: bool = False,
    renorm_clipping: None = None,
    renorm_decay: float = 0.99,
    adjustment: None = None,
) -> Any:
    r"""Add a layer that behaves as ``tf.contrib.layers.batch_norm`` did, which went with TensorFlow 2.

    The arguments stand in their old order. What is not implemented is refused, never ignored.

    Parameters
    ----------
    inputs : tf.Tensor, of floating-point numbers, rank 2 or more
        What the layer reads; the channels' axis has a known size.
    decay : float
        Share of the old value in each update of the moving statistics, in [0, 1]: `momentum` elsewhere.
    center, scale : bool
        Whether there is a beta; whether there is a gamma (here: not, unless asked for).
    epsilon : float
        Added to the variance.
    activation_fn : callable, optional
        Applied to the outputs.
    param_initializers : mapping, optional
        Initializers of ``"beta"``, ``"gamma"``, ``"moving_mean"`` and ``"moving_variance"``.
    updates_collections : str, sequence of str or None
        Collections that the two updates go to. None: the outputs carry them ("in place").
    is_training : tf.Tensor of bool, shape (), or bool
        True: the batch's moments. False: the moving statistics, and nothing moves.
    reuse : bool or tf1.AUTO_REUSE, optional
        Of the variable scope; needs `scope`.
    trainable : bool
        Whether gamma and beta are trained. It touches neither the mode nor the updates.
    batch_weights : array_like, shape (batch,), optional
        A weight for each sample in the moments.
    fused : bool, optional
        None and True: on inputs of rank 2 and 4 without `batch_weights`, the moving variance takes in the sample
        variance, n/(n-1) times that of the batch, as the fused kernel gives it. Otherwise: the population variance.
    data_format : {"NHWC", "NCHW"}
        Channels last, or channels on axis 1.
    zero_debias_moving_mean : bool
        Whether the moving mean is divided by :math:`1 - decay^t` after `t` updates, so that its start does not count.
        Two more variables hold the undivided average and `t`; they start at 0 whatever the start value of the moving
        mean. **The moving variance is not corrected**: it keeps :math:`decay^t` of its start value 1.
    scope : str, optional
        Variable scope of the layer.
    param_regularizers, variables_collections, outputs_collections, renorm, renorm_clipping, renorm_decay, adjustment
        Not implemented: only their defaults are accepted.

    Returns
    -------
    tf.Tensor, shape of `inputs`

    Raises
    ------
    NotImplementedError
        If an argument that is not implemented is set.
    TypeError
        If `inputs` does not hold floating-point numbers.
    ValueError
        If an argument lies outside its range.

    Notes
    -----
    After ``tensorflow/contrib/layers/python/layers/layers.py`` and ``tensorflow/python/training/moving_averages.py``
    of TensorFlow 1. In its first versions `fused` was False by default. The scope of the two variables of
    zero-debias repeated the layer's name there; here they are ``moving_mean/biased`` and ``moving_mean/local_step``.
    """
    _refuse(
        param_regularizers=(param_regularizers, None, "add tf.nn.l2_loss of gamma and beta to the loss"),
        variables_collections=(variables_collections, None, "find the variables in tf1.global_variables()"),
        outputs_collections=(outputs_collections, None, "keep the returned tensor"),
        renorm=(renorm, False, "use bncourse.nn.BatchRenorm"),
        renorm_clipping=(renorm_clipping, None, "use bncourse.nn.BatchRenorm"),
        renorm_decay=(renorm_decay, 0.99, "use bncourse.nn.BatchRenorm"),
        adjustment=(adjustment, None, "apply it to the returned tensor"),
    )
    fraction(decay, "decay", end=not zero_debias_moving_mean)
    not_negative(epsilon, "epsilon")
    known(data_format, "data_format", DataFormat)
    initializers = _initializers(param_initializers)
    inputs = _float_tensor(inputs)
    channels = 1 if data_format == "NCHW" else inputs.shape.rank - 1
    axes = tuple(axis for axis in range(inputs.shape.rank) if axis != channels)
    shape = _kept_shape(inputs, axes)
    broadcast = [1 if axis in axes else size for axis, size in enumerate(inputs.shape)]
    takes_sample_variance = fused is not False and inputs.shape.rank in (2, 4) and batch_weights is None

    with tf1.variable_scope(scope, "BatchNorm", reuse=reuse):

        def variable(name: str, learnt: bool) -> Any:
            return _variable(name, shape, inputs.dtype, initializers[name], trainable=learnt)

        beta = variable("beta", trainable) if center else None
        gamma = variable("gamma", trainable) if scale else None
        moving = variable("moving_mean", False), variable("moving_variance", False)
        move_mean = _debiased(moving[0]) if zero_debias_moving_mean and is_training is not False else _move

        def batch_moments() -> tuple[Any, Any]:
            if batch_weights is None:
                return tuple(tf.nn.moments(inputs, axes))
            weights = tf.reshape(tf.cast(batch_weights, inputs.dtype), (-1, *(1 for _ in inputs.shape[1:])))
            return tuple(tf.nn.weighted_moments(inputs, axes, weights))

        moments = _choose(is_training, batch_moments, lambda: _read(moving))

        def update() -> list[Any]:
            mean, variance = moments
            if takes_sample_variance:
                variance = variance * _bessel(inputs, axes)
            return [move_mean(moving[0], mean, decay), _move(moving[1], variance, decay)]

        mean, variance = _with_updates(is_training, moments, update, moving, updates_collections)
        statistics = (
            None if value is None else tf.reshape(value, broadcast) for value in (mean, variance, beta, gamma)
        )
        outputs = tf.nn.batch_normalization(inputs, *statistics, epsilon)
        return outputs if activation_fn is None else activation_fn(outputs)


def by_hand_logits(
    images: Any,
    training: Any,
    *,
    layer: LayerKind = "by_hand",
    momentum: float = 0.99,
    moment_axes: MomentAxes = "all",
    updates: Updates = "collected",
    zero_debias_moving_mean: bool = False,
) -> Any:
    """Add the small network of the chapter, from the images to the logits.

    Convolution (16 maps, 3x3, stride 2), convolution (32 maps, 3x3, stride 2), 64 fully connected units, each
    followed by BN and ReLU; then 10 logits. The variables live in the scopes ``conv1``, ``conv2``, ``dense`` and
    ``logits``, so that a second call with ``reuse=True`` shares them.

    Parameters
    ----------
    images : tf.Tensor, float32, shape (batch, 28, 28, 1)
        The images.
    training : tf.Tensor of bool, shape (), or bool
        The mode.
    layer, momentum, moment_axes, updates, zero_debias_moving_mean
        As in :func:`build_by_hand_network`.

    Returns
    -------
    tf.Tensor, float32, shape (batch, 10)

    Raises
    ------
    ValueError
        If an argument lies outside its range, or two of them do not go together.
    """
    _check_options(layer, momentum, moment_axes, updates, zero_debias_moving_mean)

    def batch_norm(inputs: Any) -> Any:
        if layer == "tf_layers":
            return tf1.layers.batch_normalization(inputs, momentum=momentum, training=training, name="bn")
        if layer == "contrib":
            return contrib_batch_norm(
                inputs,
                momentum,
                is_training=training,
                updates_collections=_collections(updates),
                zero_debias_moving_mean=zero_debias_moving_mean,
                scope="bn",
            )
        return batch_norm_by_hand(
            inputs,
            training,
            axes=(0,) if moment_axes == "batch" else None,
            momentum=momentum,
            updates="in_place" if updates == "in_place" else "collected",
            name="bn",
        )

    outputs = images
    for name, maps in (("conv1", 16), ("conv2", 32)):
        with tf1.variable_scope(name):
            outputs = tf.nn.conv2d(outputs, _kernel((3, 3, outputs.shape[-1], maps)), 2, "SAME")
            outputs = tf.nn.relu(batch_norm(outputs))
    outputs = tf.reshape(outputs, (-1, math.prod(outputs.shape[1:])))
    with tf1.variable_scope("dense"):
        outputs = tf.nn.relu(batch_norm(outputs @ _kernel((outputs.shape[-1], 64))))
    with tf1.variable_scope("logits"):
        bias = tf1.get_variable("bias", (CLASSES,), initializer=tf1.zeros_initializer())
        return outputs @ _kernel((64, CLASSES)) + bias


def build_by_hand_network(
    *,
    layer: LayerKind = "by_hand",
    momentum: float = 0.99,
    moment_axes: MomentAxes = "all",
    training: Literal["placeholder"] | bool = "placeholder",
    updates: Updates = "collected",
    zero_debias_moving_mean: bool = False,
    learning_rate: float = 0.002,
    seed: int = 0,
) -> ImageNetwork:
    """Build the small network of the chapter in a graph of its own, right or with article C's mistakes.

    The layers are those of :func:`by_hand_logits`. The loss is the softmax cross-entropy, the optimizer is Adam. The
    defaults are right; ``build_by_hand_network(**ARTICLE_OPTIONS)`` is the article's layer.

    Parameters
    ----------
    layer : {"by_hand", "tf_layers", "contrib"}
        Who normalises: `batch_norm_by_hand`, ``tf.layers.batch_normalization`` or `contrib_batch_norm` (without a
        gamma).
    momentum : float
        Share of the old value in each update of the moving statistics, in [0, 1]. The article's is 1e-5.
    moment_axes : {"all", "batch"}
        Axes of the moments: all but the last, or axis 0 only, as in the article: one mean for each pixel.
    training : {"placeholder", True, False}
        What decides the mode: the network's placeholder, or a Python bool for ever. With a bool the placeholder is
        there, and nothing reads it.
    updates : {"collected", "in_place", "forgotten"}
        Who runs the updates: the training step, by a control dependency; everybody who computes the outputs in
        training mode; nobody.
    zero_debias_moving_mean : bool
        For the layer ``"contrib"`` only.
    learning_rate : float
        Adam's learning rate, above 0.
    seed : int
        Seed of the graph, 0 or more: the same number gives the same start weights.

    Returns
    -------
    ImageNetwork

    Raises
    ------
    ValueError
        If an argument lies outside its range, or two of them do not go together.
    TypeError
        If `seed` is not an integer.
    """
    if not (training is True or training is False or training == "placeholder"):
        raise ValueError(f"training = {training!r}; expected 'placeholder', True or False.")
    check_learning_rate(learning_rate)
    check_seed(seed)

    with tf1.Graph().as_default() as graph:
        tf1.set_random_seed(seed)
        inputs, labels, mode = placeholders()
        logits = by_hand_logits(
            inputs,
            mode if training == "placeholder" else training,
            layer=layer,
            momentum=momentum,
            moment_axes=moment_axes,
            updates=updates,
            zero_debias_moving_mean=zero_debias_moving_mean,
        )
        loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels=labels, logits=logits))
        collected = tuple(tf1.get_collection(tf1.GraphKeys.UPDATE_OPS))
        rate = rate_placeholder(learning_rate)
        with tf.control_dependencies(() if updates == "forgotten" else collected):
            train_op = tf1.train.AdamOptimizer(rate).minimize(loss)
        accuracy = accuracy_of(logits, labels)
        initializer = tf1.global_variables_initializer()
    return ImageNetwork(graph, inputs, labels, mode, logits, loss, accuracy, train_op, collected, initializer, rate)


def _choose(training: Any, when_true: Callable[[], Any], when_false: Callable[[], Any]) -> Any:
    """Return one of two results: now, if `training` is a bool, else in every run of the graph."""
    if isinstance(training, bool):
        return when_true() if training else when_false()
    return tf.cond(training, when_true, when_false)


def _with_updates(
    training: Any,
    moments: tuple[Any, Any],
    update: Callable[[], list[Any]],
    moving: tuple[Any, Any],
    collections: str | Sequence[str] | None,
) -> tuple[Any, Any]:
    """Return the moments, and see to it that the updates are collected, or run before anybody reads the moments."""
    if training is False:
        return moments
    updated = _choose(training, lambda: tuple(map(tf.identity, update())), lambda: _read(moving))
    if collections is None:
        with tf.control_dependencies(updated):
            return tf.identity(moments[0]), tf.identity(moments[1])
    for collection in (collections,) if isinstance(collections, str) else collections:
        for value in updated:
            tf1.add_to_collection(collection, value)
    return moments


def _move(moving: Any, value: Any, momentum: float) -> Any:
    """Move the average; the form with a difference is TensorFlow's own, and rounds as it does."""
    return tf1.assign_sub(moving, (moving - value) * (1 - momentum))


def _debiased(moving_mean: Any) -> Callable[[Any, Any, float], Any]:
    """Return an update like `_move` that divides the average by the weight of what it has seen."""
    with tf1.variable_scope("moving_mean"):
        biased = _variable("biased", moving_mean.shape, moving_mean.dtype, tf1.zeros_initializer(), trainable=False)
        step = _variable("local_step", (), moving_mean.dtype, tf1.zeros_initializer(), trainable=False)

    def move(moving: Any, value: Any, momentum: float) -> Any:
        average, updates = _move(biased, value, momentum), tf1.assign_add(step, 1)
        return tf1.assign(moving, average / (1 - tf.pow(tf.cast(momentum, step.dtype), updates)))

    return move


def _bessel(inputs: Any, axes: Sequence[int]) -> Any:
    """Return n / (n - 1) for n numbers to each moment, and 1 for a single one, as the fused kernel does."""
    n = tf.cast(tf.reduce_prod(tf.gather(tf.shape(inputs), axes)), inputs.dtype)
    return n / tf.maximum(n - 1, 1)


def _read(variables: tuple[Any, Any]) -> tuple[Any, Any]:
    return tf.identity(variables[0]), tf.identity(variables[1])


def _variable(name: str, shape: Any, dtype: Any, start: Any, *, trainable: bool = True) -> Any:
    return tf1.get_variable(name, shape, dtype, start, trainable=trainable)


def _kernel(shape: tuple[int, ...]) -> Any:
    return tf1.get_variable("kernel", shape, initializer=start_weights())


def _collections(updates: str) -> str | None:
    return None if updates == "in_place" else tf1.GraphKeys.UPDATE_OPS


def _float_tensor(inputs: Any) -> Any:
    tensor = tf.convert_to_tensor(inputs)
    if not tensor.dtype.is_floating:
        raise TypeError(f"inputs has dtype {tensor.dtype.name}; expected floating-point numbers. Use tf.cast first.")
    if tensor.shape.rank is None or tensor.shape.rank < 2:
        raise ValueError(f"inputs has shape {tensor.shape}; expected a known rank, 2 or more: (batch, ..., channels).")
    return tensor


def _axes(inputs: Any, axes: Sequence[int] | None) -> tuple[int, ...]:
    rank = inputs.shape.rank
    if axes is None:
        return tuple(range(rank - 1))
    given = tuple(axis + rank if axis < 0 else axis for axis in axes)
    if not given or len(set(given)) < len(given) or not all(0 <= axis < rank for axis in given):
        raise ValueError(f"axes = {tuple(axes)}; expected different axes of inputs, which has rank {rank}.")
    return tuple(sorted(given))


def _kept_shape(inputs: Any, axes: tuple[int, ...]) -> tuple[int, ...]:
    shape = tuple(size for axis, size in enumerate(inputs.shape) if axis not in axes)
    if None in shape:
        raise ValueError(
            f"inputs has shape {inputs.shape}; expected known sizes along the axes that are not averaged over, "
            f"axes = {axes}. Each position there has parameters of its own."
        )
    return shape


def _initializers(given: Mapping[str, Any] | None) -> dict[str, Any]:
    zeros, ones = tf1.zeros_initializer(), tf1.ones_initializer()
    starts = {"beta": zeros, "gamma": ones, "moving_mean": zeros, "moving_variance": ones}
    unknown = sorted(set(given or ()) - set(starts))
    if unknown:
        raise ValueError(f"param_initializers has the key {unknown[0]!r}; expected {', '.join(starts)}.")
    return {**starts, **(given or {})}


def _refuse(**arguments: tuple[Any, Any, str]) -> None:
    for name, (value, default, remedy) in arguments.items():
        if value is not default and value != default:
            raise NotImplementedError(f"{name} = {value!r} is not implemented; {remedy}.")


def _check_options(layer: str, momentum: float, moment_axes: str, updates: str, zero_debias_moving_mean: bool) -> None:
    known(layer, "layer", LayerKind)
    known(moment_axes, "moment_axes", MomentAxes)
    known(updates, "updates", Updates)
    fraction(momentum, "momentum", end=True)
    if moment_axes == "batch" and layer != "by_hand":
        raise ValueError(f"moment_axes = 'batch' with layer = {layer!r}; only the layer 'by_hand' can do that.")
    if updates == "in_place" and layer == "tf_layers":
        raise ValueError("updates = 'in_place' with layer = 'tf_layers'; tf.layers only collects its updates.")
    if zero_debias_moving_mean and layer != "contrib":
        raise ValueError(f"zero_debias_moving_mean = True with layer = {layer!r}; only the layer 'contrib' has it.")
