"""Independent oracles: Batch Normalization written out number by number in float64, and finite differences."""

import itertools
import math

import numpy as np


def columns(x, axis):
    """Yield (index of the parameter, index into x) for every set of numbers that shares its statistics."""
    rank = np.ndim(x)
    kept = sorted(a % rank for a in np.atleast_1d(axis))
    for index in itertools.product(*(range(np.shape(x)[a]) for a in kept)):
        where = [slice(None)] * rank
        for a, i in zip(kept, index, strict=True):
            where[a] = i
        yield index, tuple(where)


def kept_shape(shape, axis):
    return tuple(shape[a] for a in sorted(a % len(shape) for a in np.atleast_1d(axis)))


def statistics(x, axis):
    """Mean and population variance of every column, summed exactly."""
    x = np.asarray(x, np.float64)
    mean, variance = (np.zeros(kept_shape(x.shape, axis)) for _ in range(2))
    for index, where in columns(x, axis):
        numbers = x[where].ravel().tolist()
        mean[index] = math.fsum(numbers) / len(numbers)
        variance[index] = math.fsum((value - mean[index]) ** 2 for value in numbers) / len(numbers)
    return mean, variance


def normalise(x, mean, variance, gamma, beta, epsilon, axis):
    x = np.asarray(x, np.float64)
    y = np.empty_like(x)
    for index, where in columns(x, axis):
        y[where] = gamma[index] * (x[where] - mean[index]) / math.sqrt(variance[index] + epsilon) + beta[index]
    return y


def slope(function, x, direction, step=1e-5):
    """Directional derivative of a scalar function, by a central difference of fourth order."""
    near = function(x + step * direction) - function(x - step * direction)
    far = function(x + 2 * step * direction) - function(x - 2 * step * direction)
    return (8 * near - far) / (12 * step)


def gradient(function, x, step=1e-4):
    """Gradient of a scalar function of an array, one coordinate at a time."""
    result = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        direction = np.zeros_like(x)
        direction[index] = 1.0
        result[index] = slope(function, x, direction, step)
    return result
