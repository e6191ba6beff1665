"""Faulty implementations: Batch Normalization with switches, each of which makes one known mistake.

A switch is a mistake's code, or a code and a variant, as in ``"wrong-axis:flat"``: the same mistake, written another
way. Without a switch the functions are right. They are written for the checks: plainly, and in float64 for float64
inputs. The course's own implementation is :mod:`bncourse.nn`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from types import SimpleNamespace
from typing import Any

import numpy as np

from bncourse.nn.checks import FloatArray

Faults = Collection[str]

#: Axes averaged over by mistake, by code. The right ones are all but the last.
WRONG_AXES: dict[str, tuple[int, ...]] = {
    "wrong-axis": (1,),
    "batch-only": (0,),
    "batch-and-channels": (0, 3),
    "space-only": (1, 2),
    "channels-only": (3,),
    "channels-first": (0, 2, 3),
    "per-sample": (1, 2, 3),
}

#: A momentum of one's own in place of the argument, by variant.
FIXED_MOMENTA = {
    "momentum-fixed": 0.9,
    "momentum-fixed:0.99": 0.99,
    "momentum-fixed:0.999": 0.999,
    "momentum-fixed:0.1": 0.1,
}

#: An epsilon of one's own in place of the argument, by variant.
FIXED_EPSILONS = {f"epsilon-fixed:1e-{digits}": float(f"1e-{digits}") for digits in (3, 5, 6, 7, 8)}


#: Ways from images to a table, and back to the shape given, that do not keep the channels apart.
MIXES: dict[str, tuple[Callable[[FloatArray], FloatArray], Callable[[FloatArray, tuple[int, ...]], FloatArray]]] = {
    "channels-mixed": (lambda x: x.reshape(x.shape[-1], -1).T, lambda y, shape: y.T.reshape(shape)),
    "channels-mixed:moved": (
        lambda x: x.transpose(0, 3, 1, 2).reshape(-1, x.shape[-1]),
        lambda y, shape: y.reshape(shape),
    ),
    "channels-mixed:moved-back": (
        lambda x: x.transpose(0, 3, 1, 2).reshape(-1, x.shape[-1]),
        lambda y, shape: y.reshape(*(shape[axis] for axis in (0, 3, 1, 2))).transpose(0, 2, 3, 1),
    ),
}


def forward(x: FloatArray, gamma: FloatArray, beta: FloatArray, epsilon: float, faults: Faults = ()) -> FloatArray:
    """Return y in training mode, for a table or for images NHWC."""
    for fault in MIXES.keys() & set(faults):
        into, out_of = MIXES[fault]
        return out_of(forward(into(x), gamma, beta, epsilon, set(faults) - {fault}), x.shape)
    return _affine(_moments(x, epsilon, faults).x_hat, gamma, beta, faults)


def inference(
    x: FloatArray,
    gamma: FloatArray,
    beta: FloatArray,
    moving_mean: FloatArray,
    moving_variance: FloatArray,
    epsilon: float,
    faults: Faults = (),
) -> FloatArray:
    """Return y in inference mode."""
    axes = tuple(range(x.ndim - 1))
    if "arguments-misordered" in faults:  # as in PyTorch's functional form
        gamma, beta, moving_mean, moving_variance = moving_mean, moving_variance, gamma, beta
    if "arguments-misordered:offset" in faults:  # as in tf.nn, which asks for beta before gamma
        gamma, beta, moving_mean, moving_variance = moving_variance, moving_mean, gamma, beta
    mean, variance = moving_mean, moving_variance
    n = math.prod(x.shape[:-1])
    if "inference-sample" in faults:
        variance = variance * n / (n - 1)
    if "inference-sample:number" in faults:  # one sample: this raises, where the line above gives infinity
        variance = variance * (n / (n - 1))
    if "moving-swapped" in faults:
        mean, variance = variance, mean
    if {"batch-statistics", "batch-statistics:mean"} & set(faults):
        mean = x.mean(axis=axes)
    if {"batch-statistics", "batch-statistics:variance"} & set(faults):
        variance = x.var(axis=axes)
    inverse_std = _inverse_std(variance, epsilon, faults)
    return _affine(_x_hat(x, mean, inverse_std, faults), gamma, beta, faults)


def update(
    moving_mean: FloatArray, moving_variance: FloatArray, x: FloatArray, momentum: float, faults: Faults = ()
) -> tuple[FloatArray, FloatArray]:
    """Return the moving mean and the moving variance after the batch `x`."""
    axes = tuple(range(x.ndim - 1))
    if "wrong-axis" in faults:
        axes = (1,)
    elif "all-axes" in faults:
        axes = tuple(range(x.ndim))
    mean, variance = x.mean(axis=axes), x.var(axis=axes)
    if {"moving-sample", "sample-variance:moving"} & set(faults):
        variance = x.var(axis=axes, ddof=1)
    if "uncentred" in faults:
        variance = np.mean(x**2, axis=axes)
    if "std-averaged" in faults:
        variance = np.sqrt(variance)
    for fault, value in FIXED_MOMENTA.items():
        if fault in faults:
            momentum = value
    m, new_share = momentum, 1 - momentum
    if "momentum-inverted" in faults:
        m, new_share = new_share, m
    if "old-not-shrunk" in faults:
        m = 1.0
    if "new-not-shrunk" in faults:
        new_share = 1.0
    if "batch-only-kept" in faults:
        m, new_share = 0.0, 1.0
    if "start-ignored" in faults:
        m = 0.0
    after_mean = m * moving_mean + new_share * mean
    after_variance = m * moving_variance + new_share * variance
    if "std-averaged:both" in faults:
        after_variance = (m * np.sqrt(np.abs(moving_variance)) + new_share * np.sqrt(variance)) ** 2
    if "about-moving-mean" in faults:
        after_variance = m * moving_variance + new_share * np.mean((x - after_mean) ** 2, axis=axes)
    if "only-mean" in faults:
        after_variance = moving_variance
    if "only-variance" in faults:
        after_mean = moving_mean
    if "never-moves" in faults:
        after_mean, after_variance = moving_mean, moving_variance
    if "pair-swapped" in faults:
        after_mean, after_variance = after_variance, after_mean
    return after_mean, after_variance


def backward(
    dy: FloatArray, x: FloatArray, gamma: FloatArray, epsilon: float, faults: Faults = ()
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return dx, dgamma and dbeta of :func:`forward`, for a table or for images NHWC."""
    for fault in MIXES.keys() & set(faults):
        into, out_of = MIXES[fault]
        dx, dgamma, dbeta = backward(into(dy), into(x), gamma, epsilon, set(faults) - {fault})
        return out_of(dx, x.shape), dgamma, dbeta
    if "dy-x-swapped" in faults:
        dy, x = x, dy
    return _backward(dy, _moments(x, epsilon, faults), gamma, faults)


def _backward(
    dy: FloatArray, m: SimpleNamespace, gamma: FloatArray, faults: Faults
) -> tuple[FloatArray, FloatArray, FloatArray]:
    over = _axes(dy.ndim, faults, of="sums")
    keep = not any(fault.endswith((":flat", ":sums")) for fault in faults)
    n = float(np.prod([dy.shape[axis] for axis in over]))
    mean_share, variance_share = _shares(n, len(dy), faults)
    for fault, power in {"wrong-power": 2, "wrong-power:one": 1}.items():
        if fault in faults:  # (variance + epsilon) to the power -1/2, or -1, in place of -3/2
            variance_share = variance_share / m.inverse_std**power
    sum_dy = dy.sum(axis=over, keepdims=keep)
    sum_dy_x_hat = (dy * m.x_hat).sum(axis=over, keepdims=keep)
    dx = dy - mean_share * sum_dy / n - variance_share * m.x_hat * sum_dy_x_hat / n
    dx = dx * _factor(m.inverse_std, gamma, n, faults)
    return dx, *_parameter_gradients(dy, m, gamma, faults)


def _shares(n: float, samples: int, faults: Faults) -> tuple[float, float]:
    """Return how much of the terms of mean and variance is taken away; rightly 1 and 1."""
    shares = {"mean": 1.0, "variance": 1.0}
    for name in shares:

        def has(code: str, name: str = name) -> bool:
            return code in faults or f"{code}:{name}" in faults

        if f"{name}-constant" in faults or "statistics-constant" in faults:
            shares[name] = 0.0
        if has("plus-for-minus"):
            shares[name] *= -1
        if has("sums-for-means"):
            shares[name] *= n
        if has("n-batch-only"):
            shares[name] *= n / samples
    if "two-missing" in faults:
        shares["variance"] /= 2
    if "half-missing" in faults:
        shares["variance"] *= 2
    if "sample-variance:consistent" in faults:
        shares["variance"] *= n / (n - 1)
    return shares["mean"], shares["variance"]


def _factor(inverse_std: FloatArray, gamma: FloatArray, n: float, faults: Faults) -> FloatArray:
    """Return what dx is multiplied by; rightly ``gamma * inverse_std``."""
    powers = {"inverse-std-squared": 2, "inverse-std-missing": 0, "std-for-inverse": -1}
    factor: FloatArray = inverse_std ** next((powers[code] for code in powers if code in faults), 1)
    if "gamma-not-in-dx" not in faults:
        factor = factor * gamma
    if "gamma-twice-in-dx" in faults:
        factor = factor * gamma
    if "n-missing" in faults:
        factor = factor * n
    if "n-twice" in faults:
        factor = factor / n
    return -factor if "sign" in faults else factor


def _parameter_gradients(
    dy: FloatArray, m: SimpleNamespace, gamma: FloatArray, faults: Faults
) -> tuple[FloatArray, FloatArray]:
    terms, factor = m.x_hat, 1.0
    if "dgamma-with-x" in faults:
        terms = m.x
    if "dgamma-with-centred" in faults:
        terms = m.x - m.mean
    if "dgamma-with-y" in faults:
        terms = gamma * m.x_hat
    per_sample, per_sample_beta = dy * terms, dy
    if "dbeta-with-gamma" in faults:
        per_sample_beta = dy * gamma
    over = (0,) if "parameters-batch-only" in faults else _axes(dy.ndim, faults, of="parameters")
    if "mean-for-sum" in faults:
        factor = 1 / float(np.prod([dy.shape[axis] for axis in over]))
    if "not-summed" not in faults:
        per_sample, per_sample_beta = per_sample.sum(axis=over), per_sample_beta.sum(axis=over)
    if "gradients-swapped" in faults:
        per_sample, per_sample_beta = per_sample_beta, per_sample
    return factor * per_sample, factor * per_sample_beta


def _axes(rank: int, faults: Faults, *, of: str) -> tuple[int, ...]:
    """Return the axes to average over: `of` is "moments", "sums" (in dx) or "parameters" (in dgamma and dbeta)."""
    unless = {"moments": ("sums",), "sums": ("statistics",), "parameters": ("moments", "statistics")}[of]
    wrong: dict[str, tuple[int, ...]] = {**WRONG_AXES, "all-axes": tuple(range(rank))}
    for fault in faults:
        code, _, variant = fault.partition(":")
        if code in wrong and variant not in unless:
            return wrong[code]
    return tuple(range(rank - 1))


def _moments(x: FloatArray, epsilon: float, faults: Faults) -> SimpleNamespace:
    """Return mean, inverse_std and x_hat, all to broadcast with x."""
    axes = _axes(x.ndim, faults, of="moments")
    keep = not any(fault.endswith(":flat") for fault in faults)
    mean = x.mean(axis=axes, keepdims=keep)
    variance = x.var(axis=axes, keepdims=keep)
    if "all-axes:mean" in faults:
        variance = x.var(axis=tuple(range(x.ndim - 1)), keepdims=keep)
    if "all-axes:variance" in faults:
        mean = x.mean(axis=tuple(range(x.ndim - 1)), keepdims=keep)
    if any(fault.startswith("sample-variance") for fault in faults):
        n = np.prod([x.shape[axis] for axis in axes])
        variance = variance * n / (n - 1)
    if "uncentred" in faults:
        variance = np.mean(x**2, axis=axes, keepdims=keep)
    inverse_std = _inverse_std(variance, epsilon, faults)
    x_hat = _x_hat(x, mean, inverse_std, faults)
    return SimpleNamespace(x=x, mean=mean, inverse_std=inverse_std, x_hat=x_hat)


def _x_hat(x: FloatArray, mean: FloatArray, inverse_std: FloatArray, faults: Faults) -> FloatArray:
    if "parentheses-missing" in faults:
        return x - mean * inverse_std
    return (x if "mean-not-subtracted" in faults else x - mean) * inverse_std


def _inverse_std(variance: FloatArray, epsilon: float, faults: Faults) -> FloatArray:
    if "epsilon-forgotten" in faults:
        epsilon = 0.0
    for fault, value in FIXED_EPSILONS.items():
        if fault in faults:
            epsilon = value
    if "epsilon-squared" in faults:
        epsilon = epsilon**2
    if "no-root" in faults:
        result: FloatArray = 1 / (variance + epsilon)
    elif "root-of-each" in faults:
        result = 1 / (np.sqrt(variance) + np.sqrt(epsilon))
    elif "epsilon-as-floor" in faults:
        result = 1 / np.sqrt(np.maximum(variance, epsilon))
    elif "epsilon-outside" in faults:
        result = 1 / (np.sqrt(variance) + epsilon)
    elif "epsilon-outside:after" in faults:
        result = 1 / np.sqrt(variance) + epsilon
    else:
        result = 1 / np.sqrt(variance + epsilon)
    return result


def _affine(x_hat: FloatArray, gamma: FloatArray, beta: FloatArray, faults: Faults) -> FloatArray:
    if "channels-first:parameters" in faults:
        gamma, beta = gamma.reshape(1, -1, 1, 1), beta.reshape(1, -1, 1, 1)
    if "gamma-beta-swapped" in faults:
        gamma, beta = beta, gamma
    if "gamma-forgotten" in faults:
        gamma = np.ones_like(gamma)
    if "gamma-twice" in faults:
        gamma = gamma**2
    if "beta-forgotten" in faults:
        beta = np.zeros_like(beta)
    if "gamma-on-beta" in faults:
        return gamma * (x_hat + beta)
    if "beta-subtracted" in faults:
        return gamma * x_hat - beta
    return gamma * x_hat + beta


class PlantedLayer:
    """The layer with both modes, and with known mistakes.

    Parameters
    ----------
    channels
        Number of columns of x, or of feature maps.
    momentum, epsilon
        As in :class:`bncourse.nn.BatchNorm`.
    faults
        Switches.

    Attributes
    ----------
    gamma, beta, moving_mean, moving_variance
        Arrays of shape (channels,).
    gradients
        After `backward`: ``"gamma"`` and ``"beta"``.
    """

    def __init__(self, channels: int, momentum: float = 0.99, epsilon: float = 1e-3, *, faults: Faults = ()) -> None:
        self.momentum, self.epsilon, self.faults = momentum, epsilon, frozenset(faults)
        self.gamma: FloatArray = np.ones(channels)
        self.beta: FloatArray = np.zeros(channels)
        self.moving_mean: FloatArray = np.zeros(channels)
        self.moving_variance: FloatArray = np.ones(channels)
        if "wrong-start" in faults:
            self.moving_variance = np.zeros(channels)
        if "wrong-start:mean" in faults:
            self.moving_mean = np.ones(channels)
        self.gradients: dict[str, FloatArray] = {}
        self._last: Any = None
        self._started = False

    def __call__(self, x: FloatArray, training: bool) -> FloatArray:
        """Return y for `x`."""
        faults = self.faults
        learns = (training or "always-training" in faults) and "always-inference" not in faults
        if "updates-in-inference" in faults and not training:
            self._move(x)
        y = self._train(x) if learns else self._infer(x)
        if "updates-in-inference:after" in faults and not training:
            self._move(x)
        return y

    def _move(self, x: FloatArray) -> None:
        self.moving_mean, self.moving_variance = update(
            self.moving_mean, self.moving_variance, x, self.momentum, self.faults
        )

    def _train(self, x: FloatArray) -> FloatArray:
        old = self.moving_mean, self.moving_variance
        self._move(x)
        if "first-batch-starts" in self.faults and not self._started:
            axes = tuple(range(x.ndim - 1))
            self.moving_mean, self.moving_variance = x.mean(axis=axes), x.var(axis=axes)
        self._started = True
        batch = _moments(x, self.epsilon, self.faults)
        if any(fault.startswith("trains-on-moving") for fault in self.faults):
            of_old = {"trains-on-moving:old", "trains-on-moving:old-constants"} & self.faults
            mean, variance = old if of_old else (self.moving_mean, self.moving_variance)
            used = _given(x, mean, variance, self.epsilon, self.faults)
            y = inference(x, self.gamma, self.beta, mean, variance, self.epsilon, self.faults)
            constants = any(fault.endswith("constants") for fault in self.faults)
            self._last = "constants" if constants else "projection", used
            if "trains-on-moving:batch-gradient" in self.faults:
                self._last = "projection", batch
        else:
            y = forward(x, self.gamma, self.beta, self.epsilon, self.faults)
            self._last = "projection", batch
        self._memory = self._last
        return y

    def _infer(self, x: FloatArray) -> FloatArray:
        faults, used = self.faults, _given(x, self.moving_mean, self.moving_variance, self.epsilon, self.faults)
        self._last = "constants", used
        if "ignores-mode" in faults:
            self._last = "projection", used
        if "ignores-mode:batch" in faults:
            self._last = "projection", _moments(x, self.epsilon, faults)
        if "ignores-mode:stale" in faults:
            self._last = getattr(self, "_memory", self._last)
        return inference(x, self.gamma, self.beta, self.moving_mean, self.moving_variance, self.epsilon, faults)

    def backward(self, dy: FloatArray) -> FloatArray:
        """Return dx of the last call; leaves the parameters' gradients in `gradients`."""
        kind, used = self._last
        if kind == "projection":
            dx, dgamma, dbeta = _backward(dy, used, self.gamma, self.faults)
        else:
            dx = dy * _factor(used.inverse_std, self.gamma, 1.0, self.faults - {"n-missing", "n-twice"})
            dgamma, dbeta = _parameter_gradients(dy, used, self.gamma, self.faults)
        new = {"gamma": dgamma, "beta": dbeta}
        if "gradients-accumulated" in self.faults and self.gradients:
            new = {name: self.gradients[name] + value for name, value in new.items()}
        self.gradients = new
        return dx


def _given(x: FloatArray, mean: FloatArray, variance: FloatArray, epsilon: float, faults: Faults) -> SimpleNamespace:
    """Return what `_moments` returns, from given statistics."""
    inverse_std = _inverse_std(variance, epsilon, faults)
    return SimpleNamespace(x=x, mean=mean, inverse_std=inverse_std, x_hat=_x_hat(x, mean, inverse_std, faults))
