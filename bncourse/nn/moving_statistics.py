"""What the layers with moving statistics have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from bncourse.nn.axes import Axis, AxisSplit, axis_tuple
from bncourse.nn.batch_norm import (
    Gradients,
    batch_norm_inference,
    batch_norm_inference_backward,
    momentum_at,
    update_moving,
)
from bncourse.nn.checks import FloatArray, compute_dtype, fraction, not_negative
from bncourse.nn.fast import fast_batch_norm_inference, supports
from bncourse.nn.layer import Layer

VarianceKind = Literal["population", "sample"]

#: From this many numbers on the fast functions are faster than the plain ones.
WORTH_THE_BLOCKS = 20_000

#: Start values of the arrays.
STARTS = {"gamma": 1.0, "beta": 0.0, "moving_mean": 0.0, "moving_variance": 1.0}


class MovingState(NamedTuple):
    """Arrays of the layer, before or after a call."""

    gamma: FloatArray | None
    beta: FloatArray | None
    moving_mean: FloatArray
    moving_variance: FloatArray
    updates: npt.NDArray[Any]


class Trained(NamedTuple):
    """What a call in training mode gives: y, statistics to move towards (in order), and the gradients."""

    y: FloatArray
    statistics: list[tuple[FloatArray, FloatArray]]
    gradients: Callable[[FloatArray], Gradients]


class MovingStatisticsLayer(Layer):
    """What Batch Normalization, Batch Renormalization and Ghost Batch Normalization share.

    That is: gamma and beta, the moving statistics, and inference mode. A subclass writes `_train`, which returns y,
    the statistics to move towards (pairs of mean and variance, in order) and the function for the gradients.
    """

    _parameter_names: ClassVar = ("gamma", "beta")
    _statistic_names: ClassVar = ("moving_mean", "moving_variance", "updates")

    def __init__(
        self,
        axis: Axis,
        momentum: float | None,
        epsilon: float,
        center: bool,
        scale: bool,
        moving_variance: VarianceKind = "population",
        *,
        bias_corrected: bool = False,
        starts: Mapping[str, npt.ArrayLike] = STARTS,
        fast: bool = True,
    ) -> None:
        super().__init__()
        axis_tuple(axis)
        if moving_variance not in ("population", "sample"):
            raise ValueError(f"moving_variance = {moving_variance!r}; expected 'population' or 'sample'.")
        self.axis = axis
        self.momentum = None if momentum is None else fraction(momentum, "momentum", end=True)
        self.epsilon = not_negative(epsilon, "epsilon")
        self.center = center
        self.scale = scale
        self.variance_kind = moving_variance
        self.bias_corrected = bias_corrected
        self.starts = {name: _start(value, f"{name}_start") for name, value in starts.items()}
        if (self.starts["moving_variance"] < 0).any():
            raise ValueError(f"moving_variance_start = {starts['moving_variance']!r}; expected numbers >= 0.")
        self.fast = fast
        self.gamma: FloatArray | None = None
        self.beta: FloatArray | None = None
        self.moving_mean: FloatArray | None = None
        self.moving_variance: FloatArray | None = None
        self.updates = np.array(0)
        self._gradients_of_last_call: Callable[[FloatArray], Gradients] | None = None

    def _train(self, x: FloatArray, state: MovingState) -> Trained:
        raise NotImplementedError

    def _forward(self, x: FloatArray, training: bool, **given: Any) -> FloatArray:
        """Return y and take over the new state; `given` goes to `_train`."""
        learns = training and self.trainable
        axes = AxisSplit.of(x.shape, self.axis, empty=not learns)
        if self.moving_mean is not None and self.moving_mean.shape != axes.kept_shape:
            raise ValueError(
                f"x has shape {x.shape}, so {axes.kept_shape} along axis = {self.axis!r}; this layer was built for "
                f"{self.moving_mean.shape}. Use a new layer for other channels."
            )
        state = self._state(axes.kept_shape, x)
        if learns:
            trained = self._train(x, state, **given)
            y, gradients = trained.y, trained.gradients
            state = self._moved(state, trained.statistics)
        else:
            y, gradients = self._infer(x, state)
        self.gamma, self.beta = state.gamma, state.beta
        self.moving_mean, self.moving_variance, self.updates = state.moving_mean, state.moving_variance, state.updates
        self._gradients_of_last_call = gradients
        return y

    def _state(self, shape: tuple[int, ...], x: FloatArray) -> MovingState:
        """Return the layer's arrays, or at the first call their start values."""
        if self.moving_mean is not None and self.moving_variance is not None:
            return MovingState(self.gamma, self.beta, self.moving_mean, self.moving_variance, self.updates)
        if self.gamma is not None or self.beta is not None:
            raise ValueError(f"{self!r}: gamma or beta was set before the first call; use set_weights for all arrays.")
        wrong = {name: start.shape for name, start in self.starts.items() if start.shape not in ((), shape)}
        if wrong:
            raise ValueError(f"start values have the shapes {wrong}; expected a number, or {shape} for this x.")
        new = {name: np.full(shape, start) for name, start in self.starts.items()}
        dtype = compute_dtype(x)
        gamma = new["gamma"].astype(dtype) if self.scale else None
        beta = new["beta"].astype(dtype) if self.center else None
        return MovingState(gamma, beta, new["moving_mean"], new["moving_variance"], self.updates)

    def _moved(self, state: MovingState, statistics: list[tuple[FloatArray, FloatArray]]) -> MovingState:
        """Return the state after its moving averages saw the `statistics`, one after the other."""
        moving_mean, moving_variance, seen = state.moving_mean, state.moving_variance, int(state.updates)
        for mean, variance in statistics:
            momentum = momentum_at(self.momentum, seen, self.bias_corrected)
            moving_mean = update_moving(moving_mean, mean, momentum)
            moving_variance = update_moving(moving_variance, variance, momentum)
            seen += 1
        return MovingState(state.gamma, state.beta, moving_mean, moving_variance, np.array(seen))

    def _averaged(self, variance: FloatArray, count: int) -> FloatArray:
        """Return the variance that enters the moving average: as it is, or the sample variance."""
        return variance if self.variance_kind == "population" else variance * (count / max(count - 1, 1))

    def _infer(self, x: FloatArray, state: MovingState) -> tuple[FloatArray, Callable[[FloatArray], Gradients]]:
        given: dict[str, Any] = {"moving_mean": state.moving_mean, "moving_variance": state.moving_variance}
        given |= {"epsilon": self.epsilon, "axis": self.axis}
        infer = fast_batch_norm_inference if self._is_fast(x) else batch_norm_inference
        y = infer(x, state.gamma, state.beta, **given)
        return y, partial(batch_norm_inference_backward, x=x, gamma=state.gamma, **given)

    def _is_fast(self, x: FloatArray) -> bool:
        return self.fast and x.size >= WORTH_THE_BLOCKS and supports(x, self.axis)

    def _backward(self, dy: FloatArray) -> FloatArray:
        assert self._gradients_of_last_call is not None
        dx, dgamma, dbeta = self._gradients_of_last_call(dy)
        gradients = {"gamma": dgamma, "beta": dbeta}
        self.gradients = {name: gradients[name] for name in self._expected_names() & gradients.keys()}
        return dx

    def _expected_names(self) -> set[str]:
        absent = {name for name, has in (("gamma", self.scale), ("beta", self.center)) if not has}
        return super()._expected_names() - absent

    def _check_weights(self, weights: Mapping[str, npt.ArrayLike]) -> None:
        super()._check_weights(weights)
        shapes = {name: np.shape(value) for name, value in weights.items() if name != "updates"}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"{self!r}: the weights have different shapes {shapes}; expected one.")


def _start(value: npt.ArrayLike, name: str) -> npt.NDArray[np.float64]:
    """Return a start value as float64, checked to be finite."""
    array = np.asarray(value)
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise ValueError(f"{name} = {value!r}; expected finite numbers.")
    return array.astype(np.float64)
