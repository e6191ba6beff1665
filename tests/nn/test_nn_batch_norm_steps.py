"""Whole lives of a BatchNorm layer, call after call, against thirty lines of float64."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncourse.nn import BatchNorm, moving_statistics

#: What can happen to a layer; "step" is an optimiser's, "move" takes all weights over into a new layer.
CALLS = ["train", "train", "masked", "infer", "frozen", "step", "move", "refused"]
#: Largest errors of y and of the gradients, in units of their size.
TOLERANCE = {np.float16: 2e-3, np.float32: 1e-5, np.float64: 1e-11}


class Oracle:
    """Batch Normalization in float64; each column of a table is a channel, and no average is ever updated."""

    def __init__(self, axis, rank, momentum, epsilon, kind, bias_corrected):
        self.kept = sorted(a % rank for a in np.atleast_1d(axis))
        self.momentum, self.epsilon, self.kind, self.bias_corrected = momentum, epsilon, kind, bias_corrected
        self.means, self.variances = [], []

    def table(self, x):
        return np.moveaxis(x.astype(np.float64), self.kept, range(-len(self.kept), 0)).reshape(-1, self.channels(x))

    def channels(self, x):
        return int(np.prod([x.shape[a] for a in self.kept]))

    def train(self, x, dy, gamma, beta, mask):
        x, dy = self.table(x), self.table(dy)
        weight = np.ones(len(x)) if mask is None else mask.ravel().astype(float)
        n = weight.sum()
        mean = weight @ x / n
        variance = weight @ (x - mean) ** 2 / n
        self.means.append(mean)
        self.variances.append(variance * (n / (n - 1) if self.kind == "sample" and n > 1 else 1.0))
        std = np.sqrt(variance + self.epsilon)
        x_hat, dx = (x - mean) / std, np.empty_like(x)
        for c in range(x.shape[1]):  # by the whole Jacobian matrix of x_hat
            through_variance = np.outer(x_hat[:, c], weight * x_hat[:, c])
            jacobian = (np.eye(len(x)) - weight / n - through_variance / n) / std[c]
            dx[:, c] = gamma[c] * dy[:, c] @ jacobian
        return gamma * x_hat + beta, dx, (dy * x_hat).sum(axis=0), dy.sum(axis=0), std

    def infer(self, x, dy, gamma, beta):
        x, dy = self.table(x), self.table(dy)
        std = np.sqrt(self.moving(self.variances, 1.0) + self.epsilon)
        x_hat = (x - self.moving(self.means, 0.0)) / std
        return gamma * x_hat + beta, gamma / std * dy, (dy * x_hat).sum(axis=0), dy.sum(axis=0), std

    def moving(self, history, start):
        if not history:
            return start
        momentum = 1.0 if self.momentum is None else self.momentum
        weights = momentum ** np.arange(len(history))[::-1]
        if self.momentum is None or self.bias_corrected:
            return weights @ history / weights.sum()
        return momentum ** len(history) * start + (1 - momentum) * (weights @ history)


@st.composite
def lives(draw):
    """Draw the options of a layer, what x looks like, and what happens to the layer."""
    rank = draw(st.integers(2, 5))
    axis = draw(st.lists(st.integers(0, rank - 1), min_size=1, max_size=rank - 1, unique=True))
    axis = [a - rank * draw(st.booleans()) for a in axis]
    momentum = draw(st.sampled_from([None, 0.0, 0.3, 0.9, 0.99, 1.0]))
    options = {
        "axis": axis[0] if len(axis) == 1 and draw(st.booleans()) else axis,
        "momentum": momentum,
        "epsilon": draw(st.sampled_from([1e-5, 1e-3, 0.5])),
        "moving_variance": draw(st.sampled_from(["population", "sample"])),
        "bias_corrected": draw(st.booleans()),
        "center": draw(st.booleans()),
        "scale": draw(st.booleans()),
        "fast": draw(st.booleans()),
    }
    dtype = draw(st.sampled_from(list(TOLERANCE)))
    calls = draw(st.lists(st.sampled_from(CALLS), min_size=1, max_size=8))
    return rank, options, dtype, calls, np.random.default_rng(draw(st.integers(0, 2**32 - 1)))


def kept_axes(rank, options):
    return sorted(a % rank for a in np.atleast_1d(options["axis"]))


def new_data(rng, kept_lengths, rank, dtype):
    """Return x and dy; only the lengths of the kept axes stay the same from call to call."""
    shape = [kept_lengths.get(a, rng.integers(1, 5)) for a in range(rank)]
    if rank - 1 not in kept_lengths and rng.random() < 0.5:
        shape[-1] = 40  # long enough for the fast functions, channels first
    x, dy = rng.normal(rng.uniform(-3, 3), rng.uniform(0.1, 3), shape), rng.normal(size=shape)
    return x.astype(dtype), dy.astype(dtype)


def assert_near(ours, expected, size, tolerance):
    """Errors are measured against what the numbers were made of, since differences may cancel to nothing."""
    assert np.isfinite(ours).all()
    scale = np.maximum(np.abs(expected).max(initial=0.0), size)
    np.testing.assert_array_less(np.abs(ours - expected), tolerance * scale + 1e-300)


def parameters(layer, channels):
    pairs = ((layer.gamma, 1.0), (layer.beta, 0.0))
    return [np.full(channels, start) if array is None else array.ravel().astype(float) for array, start in pairs]


def check_call(layer, oracle, x, dy, call, mask, tolerance):
    """Call the layer and the oracle, and compare y, dx and the parameters' gradients."""
    channels = oracle.channels(x)
    gamma, beta = parameters(layer, channels) if layer.moving_mean is not None else (np.ones(channels), 0.0)
    if call in ("train", "masked"):
        expected = oracle.train(x, dy, gamma, beta, mask)
    else:
        expected = oracle.infer(x, dy, gamma, beta)
    y, dx, dgamma, dbeta, std = expected

    layer.trainable = call != "frozen"
    ours = layer(x, training=call != "infer", mask=mask)
    assert (ours.dtype, ours.shape) == (x.dtype, x.shape)
    assert_near(oracle.table(ours), y, np.abs(gamma).max(), tolerance)
    gradient = layer.backward(dy)
    assert (gradient.dtype, gradient.shape) == (x.dtype, x.shape)
    assert_near(oracle.table(gradient), dx, np.abs(gamma / std).max() * np.abs(dy).max(), tolerance)
    assert set(layer.gradients) == {name for name, has in (("gamma", layer.scale), ("beta", layer.center)) if has}
    tolerance = TOLERANCE[np.result_type(np.float32, x).type]  # the type to calculate in
    size = len(y) * np.abs(dy).max() * max(1.0, np.abs(oracle.table(x) / std).max())
    for name, gradient in (("gamma", dgamma), ("beta", dbeta)):
        if name in layer.gradients:
            assert_near(layer.gradients[name].ravel(), gradient, size, tolerance)


def check_state(layer, oracle, tolerance):
    """Compare the moving statistics with those of all batches so far."""
    assert layer.updates == len(oracle.means)
    for ours, history, start in (
        (layer.moving_mean, oracle.means, 0.0),
        (layer.moving_variance, oracle.variances, 1.0),
    ):
        assert_near(ours.ravel(), oracle.moving(history, start), 3.0, tolerance)


@given(life=lives())
def test_a_layer_agrees_with_float64_at_every_step_of_its_life(life):
    rank, options, dtype, calls, rng = life
    layer = BatchNorm(**options)
    kept = kept_axes(rank, options)
    lengths = {a: int(rng.integers(1, 4)) for a in kept}
    oracle = Oracle(
        options["axis"],
        rank,
        options["momentum"],
        options["epsilon"],
        options["moving_variance"],
        options["bias_corrected"],
    )
    with patch.object(moving_statistics, "WORTH_THE_BLOCKS", 0):  # small inputs go to the fast functions too
        for call in calls:
            x, dy = new_data(rng, lengths, rank, dtype)
            reduced = tuple(n for a, n in enumerate(x.shape) if a not in kept)
            if call == "step":
                layer.trainable = True
                for array in layer.parameters.values():
                    array[...] = rng.normal(size=array.shape)
            elif call == "move" and layer.moving_mean is not None:
                layer, old = BatchNorm(**options), layer
                layer.set_weights(old.weights)
                for array in old.weights.values():
                    array[...] = 99  # they are copies
            elif call == "refused":
                with pytest.raises(ValueError, match="mask has shape"):
                    layer(x, mask=np.ones((*reduced, 2)))
            elif call != "move":
                mask = None
                if call == "masked":
                    mask = rng.random(reduced) < 0.6
                    mask.flat[rng.integers(mask.size)] = True
                check_call(layer, oracle, x, dy, call, mask, TOLERANCE[dtype])
            if layer.moving_mean is not None:
                check_state(layer, oracle, TOLERANCE[np.result_type(np.float32, dtype).type])
