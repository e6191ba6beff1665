"""Re-estimation in a ``tf.compat.v1`` graph, through nothing but its session and its update ops.

The statistics of a batch are no tensors that could be fetched: with a placeholder for the mode they live inside
functional ``If`` bodies. So they are read off the moving statistics. An update is ``v - (v - b) * d``, where b is the
batch's statistic and ``d = 1 - momentum``. From ``v = 0`` it leaves ``b * d``, rounded once. From a v beside which b
is nothing it leaves ``v * (1 - d)``, which gives d, whatever the batch and whatever dropout does. Moving statistics
take no part in training mode, so what they hold meanwhile changes no batch's statistics.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from bncourse.repair.engine import Measurement, Pair, Variance, check_finite, chosen, run
from bncourse.repair.report import Array, Float64, Report

# The value of tf.compat.v1.GraphKeys.GLOBAL_VARIABLES; spelt out, so that this room does not load TensorFlow.
_GLOBAL_VARIABLES = "variables"

#: Size of the probes. Batch statistics must be so much smaller that they vanish beside them in float32.
_HUGE = 2.0**100
_LARGEST_STATISTIC = _HUGE * 2.0**-26

#: So many probed numbers, all channels of all layers together, give the momentum; but not more runs than that.
_PROBED_NUMBERS = 1_024
_MOST_PROBES = 64

#: One probe in float32 tells momenta apart that differ by more than this; the average over many channels is better.
_RESOLUTION = 2.0**-23

#: Below this, 1 - momentum could not be told from 0.
_SMALLEST_D = 1e-6


def recalibrate_graph(
    session: Any,
    update_ops: Iterable[Any],
    feeds: Iterable[Mapping[Any, Any]],
    *,
    batches: int | None = None,
    variance: Variance = "averaged",
    layers: Iterable[str] | None = None,
    inputs: Any = None,
    progress: bool = False,
) -> Report:
    """Re-estimate the moving statistics of a ``tf.compat.v1`` graph with BN layers of ``tf.layers``.

    Every feed goes through the network once in training mode. The moving statistics then become the average over the
    feeds of the statistics that the update ops deliver: where an endless run with frozen weights and a momentum near
    1 would arrive. This is algorithm 2 of Ioffe and Szegedy (2015), and the precise BN of Wu and Johnson (2021),
    Rethinking "Batch" in BatchNorm. Nothing but the moving statistics changes, and the momentum need not be known.

    Parameters
    ----------
    session : tf1.Session
        An open session with the trained network.
    update_ops : iterable of tf.Operation or tf.Tensor
        The updates of the moving statistics of all layers to re-estimate: ``network.update_ops``, or what
        ``session.graph.get_collection(tf1.GraphKeys.UPDATE_OPS)`` holds; all of them, even if the program runs only
        some. They must change nothing else.
    feeds : iterable of dict
        Feed dicts, with the mode set to training: ``({inputs: images, training: True} for images in ...)``. They are
        taken one at a time and may come from a generator. The images of a feed should be mixed as in training.
    batches : int, optional
        Use at most so many feeds; for a generator without end.
    variance : {"averaged", "pooled"}
        ``"averaged"``: the mean of the batches' variances, as in the BN paper's algorithm 2. It is what moving
        averages estimate, so that only their lag and their noise go. ``"pooled"`` adds the variance of the batches'
        means: the variance of all images together, and the formula of Wu and Johnson. See `recalibrate`.
    layers : iterable of str, optional
        Names of the BN layers to re-estimate, such as ``"batch_normalization_1"``. All others are left alone. By
        default all layers that have a ``moving_mean`` and a ``moving_variance``.
    inputs : tf.Tensor, optional
        The placeholder whose first axis counts the images of a feed. By default all arrays in a feed must be equally
        long.
    progress : bool
        Show a bar on standard error.

    Returns
    -------
    Report

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If the graph has no BN layer, `update_ops` is empty, lies inside a branch of ``tf.cond``, leaves a layer out
        or changes something else, there are no feeds, or a statistic is NaN or infinite. On these and on all other
        errors, those of `feeds` among them, the moving statistics are what they were.

    Notes
    -----
    The fused kernel (inputs of rank 4 and 5) delivers the batch variance times n/(n-1), where n counts the numbers of
    a channel in the batch; other ranks deliver it as it is. `recalibrate_graph` keeps that difference, because the
    graph's own averages have it, too. With ``"pooled"``, a fused layer's variance is too large by about 1/n of itself.

    Dropout that hangs on the same mode drops here as it does in training: these are the statistics that training
    sees, not those that inference sees. The draws advance the graph's random state.

    Batches count by their number of images. In float32, a statistic comes out with a relative error of about 1e-7,
    and with one below ``1e-8 / (1 - momentum)`` from the momentum, which is estimated from all channels together.
    Momentum must be below 0.999999.

    Renormalising layers (``renorm=True``) are refused.

    Examples
    --------
    >>> feeds = ({net.inputs: x, net.training: True} for x in batches)  # doctest: +SKIP
    >>> print(recalibrate_graph(session, net.update_ops, feeds))  # doctest: +SKIP
    """
    if isinstance(feeds, Mapping):
        raise TypeError("feeds is one feed dict; expected an iterable of them, for example [feed].")
    operations = list(update_ops) if isinstance(update_ops, Iterable) else [update_ops]
    if not operations:
        raise ValueError(
            "update_ops is empty; expected the updates of the moving statistics: network.update_ops, or what "
            "session.graph.get_collection(tf1.GraphKeys.UPDATE_OPS) holds after the layers were built. "
            "(tf1.get_collection looks into the default graph, which may be another one.) The collection holds none of "
            "a layer of tf.keras (they are in layer.updates), none of a layer with trainable=False, and none of a "
            "layer whose training is False, or was left out."
        )
    _check_graph(operations, session.graph)
    target = _Graph(session, operations, layers, inputs)
    return run(target, feeds, limit=batches, variance=variance, progress=progress, source="feeds")


def _check_graph(operations: Iterable[Any], graph: Any) -> None:
    """Refuse operations that a session of `graph` cannot run."""
    elsewhere = [operation.name for operation in operations if getattr(operation, "graph", graph) is not graph]
    if elsewhere:
        raise ValueError(
            f"update_ops holds {_some(elsewhere)}, not of the session's graph but inside a branch of tf.cond, or of "
            "another graph. A session cannot run these. Call tf.layers.batch_normalization outside tf.cond, with the "
            "mode as its argument training."
        )


@dataclass(frozen=True)
class _Layer:
    """A BN layer of the graph: its name and its two variables."""

    name: str
    mean: Any
    variance: Any


class _Graph:
    """A graph as the engine sees it."""

    def __init__(self, session: Any, operations: list[Any], layers: Iterable[str] | None, inputs: Any) -> None:
        self._session = session
        self._operations = operations
        self._inputs = inputs
        every = _bn_layers(session.graph)
        places = chosen([layer.name for layer in every], layers)
        self._layers = [every[place] for place in places]
        self.names = [layer.name for layer in self._layers]
        self.frozen = [layer.name for place, layer in enumerate(every) if place not in places]
        self._variables = [variable for layer in self._layers for variable in (layer.mean, layer.variance)]
        # The update ops may move the layers that are left alone, too; they are put back after every batch.
        moving = {id(variable) for layer in every for variable in (layer.mean, layer.variance)}
        mine = {id(variable) for variable in self._variables}
        of_graph = session.graph.get_collection(_GLOBAL_VARIABLES)
        self._spectators = [variable for variable in of_graph if id(variable) in moving - mine]
        self._others = [variable for variable in of_graph if id(variable) not in moving]
        self._d: list[float] | None = None

    def read(self) -> list[Pair]:
        values = self._session.run(self._variables)
        for variable, value in zip(self._variables, values, strict=True):
            if value.dtype not in (np.float32, np.float64):
                raise TypeError(f"{variable.op.name} has dtype {value.dtype}; expected float32 or float64.")
        return list(zip(values[::2], values[1::2], strict=True))

    def write(self, statistics: Sequence[Pair]) -> None:
        _assign(self._session, self._variables, [array for pair in statistics for array in pair])

    def measure(self, batch: Any) -> tuple[int, list[Measurement]]:
        if not isinstance(batch, Mapping):
            raise TypeError(f"feeds holds a {type(batch).__name__}; expected feed dicts.")
        images = _count(batch, self._inputs)
        moved = self._moved_from_zero(batch)
        if self._d is None:
            for layer, mean, variance in zip(self._layers, moved[::2], moved[1::2], strict=True):
                check_finite(mean, variance, layer.name, 0)
            self._d = self._learning_rates(batch)
        values = [array / d for array, d in zip(moved, self._d, strict=True)]
        self._refuse_huge(values)
        pairs = zip(values[::2], values[1::2], strict=True)
        return images, [Measurement(place, *pair, images) for place, pair in enumerate(pairs)]

    def _moved_from_zero(self, feed: Mapping[Any, Any]) -> list[Float64]:
        """Return where the update ops take the moving statistics from 0."""
        return self._updated([np.zeros(variable.shape) for variable in self._variables], feed)

    def _updated(self, starts: Sequence[Array], feed: Mapping[Any, Any]) -> list[Float64]:
        """Return where the update ops take the moving statistics from `starts`; nothing else may move."""
        # What the ops change is the same for every feed, so the other variables are watched once.
        watched = self._others if self._d is None else []
        kept = self._spectators + watched
        before = self._session.run(kept)
        _assign(self._session, self._variables, starts)
        try:
            self._session.run(self._operations, dict(feed))
        finally:
            changed = self._put_back(kept, before)
        wrong = [variable.op.name for variable in changed if any(variable is other for other in watched)]
        if wrong:
            raise ValueError(
                f"update_ops changed {_some(wrong)}; expected updates of moving means and variances only (so not "
                "train_op, and no layers with renorm=True). Everything is as it was."
            )
        return [value.astype(np.float64) for value in self._session.run(self._variables)]

    def _put_back(self, variables: Sequence[Any], before: Sequence[Array]) -> list[Any]:
        """Give `variables` the values they had `before`; return those that had others."""
        pairs = zip(variables, before, self._session.run(variables), strict=True)
        changed = [
            (variable, old) for variable, old, new in pairs if np.array(old).tobytes() != np.array(new).tobytes()
        ]
        if changed:
            _assign(self._session, *zip(*changed, strict=True))
        return [variable for variable, _ in changed]

    def _learning_rates(self, feed: Mapping[Any, Any]) -> list[float]:
        """Return ``1 - momentum`` for every variable, from probes beside which the batch's statistics vanish."""
        started, fallen = [0.0] * len(self._variables), [0.0] * len(self._variables)
        spread: list[list[float]] = [[] for _ in self._variables]
        numbers = sum(_size(variable) for variable in self._variables)
        for probe in range(min(ceil(_PROBED_NUMBERS / numbers), _MOST_PROBES)):
            # Different leading digits everywhere: then the errors of rounding average out.
            starts = [_probes(variable, place, probe) for place, variable in enumerate(self._variables)]
            for place, (start, end) in enumerate(zip(starts, self._updated(starts, feed), strict=True)):
                started[place] += float(start.sum())
                fallen[place] += float((start - end).sum())
                share = 1 - end / start
                spread[place] += [float(share.min()), float(share.max())]
        rates = [down / total for down, total in zip(fallen, started, strict=True)]
        self._check_rates(rates, spread)
        lowest, highest = min(map(min, spread)), max(map(max, spread))
        if highest - lowest <= 2 * _RESOLUTION:  # one momentum for all
            rates = [sum(fallen) / sum(started)] * len(rates)
        return rates

    def _check_rates(self, rates: list[float], spread: list[list[float]]) -> None:
        still = [
            layer.name
            for layer, *pair in zip(self._layers, rates[::2], rates[1::2], strict=True)
            if min(pair) < _SMALLEST_D
        ]
        if max(rates) < _SMALLEST_D:
            raise ValueError(
                "update_ops moved no moving statistic. Feed True for the training mode, and use a momentum below "
                "0.999999. The statistics are as they were."
            )
        if still:
            raise ValueError(
                f"update_ops did not move both statistics of {', '.join(still)}; the statistics are as they were. Pass "
                "the update ops of all layers (session.graph.get_collection(tf1.GraphKeys.UPDATE_OPS)), or, if these "
                "layers are meant to keep theirs (built with training=False), name the others in layers."
            )
        odd = [
            variable.op.name
            for variable, rate, shares in zip(self._variables, rates, spread, strict=True)
            if rate > 1 + _RESOLUTION or max(shares) - min(shares) > 2 * _RESOLUTION
        ]
        if odd:
            raise ValueError(
                f"update_ops does not move {_some(odd)} as a moving average does, by one share of the distance in all "
                "channels; such layers are not supported. The statistics are as they were."
            )

    def _refuse_huge(self, values: list[Float64]) -> None:
        for variable, value in zip(self._variables, values, strict=True):
            # NaN passes here: the engine names it.
            if (np.abs(value) > _LARGEST_STATISTIC).any():
                raise ValueError(
                    f"the batch statistics of {variable.op.name} exceed {_LARGEST_STATISTIC:.0e}; the statistics are "
                    "as they were. Scale the data down."
                )


def _bn_layers(graph: Any) -> list[_Layer]:
    """Return the graph's BN layers in the order in which they were built."""
    variables = {variable.op.name: variable for variable in graph.get_collection(_GLOBAL_VARIABLES)}
    layers = []
    for name, variable in variables.items():
        scope, _, last = name.rpartition("/")
        partner = variables.get(f"{scope}/moving_variance")
        if last == "moving_mean" and partner is not None:
            layers.append(_Layer(scope, variable, partner))
    if not layers:
        raise ValueError(
            "the session's graph has no BN layer: no global variables called .../moving_mean and .../moving_variance."
        )
    return layers


def _assign(session: Any, variables: Sequence[Any], values: Sequence[Array]) -> None:
    """Set variables through their initialisers: that needs no new operation in the graph."""
    waiting = list(zip(variables, values, strict=True))
    while waiting:
        # Variables that were made from one and the same tensor have to be set one after the other.
        now: dict[str, tuple[Any, Array]] = {}
        later = []
        for variable, value in waiting:
            source = variable.initializer.inputs[1].name
            if source in now:
                later.append((variable, value))
            else:
                now[source] = (variable.initializer, value)
        session.run([do for do, _ in now.values()], {source: value for source, (_, value) in now.items()})
        waiting = later


def _probes(variable: Any, place: int, probe: int) -> Array:
    """Return huge numbers in the variable's shape, with digits that differ from place to place."""
    golden = 0.6180339887498949  # its multiples spread evenly over [0, 1)
    digits = ((1 + np.arange(_size(variable))) * golden + 0.3247179572 * place + 0.7548776662 * probe) % 1.0
    # Rounded here, so that the start that enters the sums is the start that the graph gets.
    return (_HUGE * (1 + digits)).astype(np.float32).astype(np.float64).reshape(variable.shape)


def _size(variable: Any) -> int:
    return int(np.prod(variable.shape.as_list()))


def _count(feed: Mapping[Any, Any], inputs: Any) -> int:
    """Return the number of images in a feed."""
    if inputs is not None:
        # Tensors are compared by identity: == would add an operation to the graph.
        lengths = {len(value) for key, value in feed.items() if key is inputs}
        if not lengths:
            raise ValueError(f"a feed does not feed {inputs.name}, the placeholder that inputs names.")
        return lengths.pop()
    lengths = {len(value) for value in feed.values() if np.ndim(value)}
    if len(lengths) != 1:
        raise ValueError(
            f"the arrays of a feed have the lengths {sorted(lengths)}; expected one, the number of images. Otherwise "
            "name the placeholder of the images in inputs."
        )
    return lengths.pop()


def _some(names: list[str]) -> str:
    """Return at most three of `names`, for a message."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
