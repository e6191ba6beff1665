r"""Mathematics of the moving averages that Batch Normalization carries from training to inference.

One update with momentum :math:`m`, the share of the *old* value (TensorFlow, Keras; PyTorch calls :math:`1 - m` so)::

    new average = m * old average + (1 - m) * value

After :math:`t` updates from a start value :math:`a_0`, the average is a weighted sum of all that came before:

.. math:: a_t = m^t a_0 + \sum_{k=1}^{t} (1 - m)\, m^{t-k} x_k

All functions are pure and calculate in float64. The averages that BN layers keep are another matter: they are updated
in the layer's own type (:func:`bncourse.nn.update_moving`).
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from bncourse.nn.checks import fraction, positive_int

Array: TypeAlias = npt.NDArray[np.float64]


def update(old: npt.ArrayLike, new: npt.ArrayLike, momentum: float) -> Array:
    """Return the moving average after one more value: ``momentum * old + (1 - momentum) * new``.

    Parameters
    ----------
    old : array_like
        The average so far.
    new : array_like
        The value that arrives, of a shape that broadcasts with that of `old`.
    momentum : float
        Share of the old value, in [0, 1].

    Returns
    -------
    ndarray of float64

    Raises
    ------
    TypeError
        If `old` or `new` does not hold real numbers.
    ValueError
        If `momentum` lies outside [0, 1], or the shapes do not fit.
    """
    fraction(momentum, "momentum", end=True)
    before, value = _real(old, "old"), _real(new, "new")
    try:
        np.broadcast_shapes(before.shape, value.shape)
    except ValueError:
        raise ValueError(f"new has shape {value.shape}; expected one that fits {before.shape}, that of old.") from None
    return np.asarray(momentum * before + (1.0 - momentum) * value)


def run(values: npt.ArrayLike, momentum: float, start: npt.ArrayLike = 0.0) -> Array:
    """Return the moving average after each of `values`.

    Parameters
    ----------
    values : array_like, shape (steps, ...)
        The values in the order in which they arrive.
    momentum : float
        Share of the old value, in [0, 1].
    start : array_like
        The average before the first value, of a shape that broadcasts to ``values.shape[1:]``. BN layers start
        `moving_mean` at 0 and `moving_variance` at 1.

    Returns
    -------
    ndarray of float64, shape (steps, ...)
        Entry ``[t]`` is the average after ``t + 1`` values.

    Raises
    ------
    TypeError
        If `values` or `start` does not hold real numbers.
    ValueError
        If there are no values, `momentum` lies outside [0, 1], or `start` has another shape.
    """
    fraction(momentum, "momentum", end=True)
    series, average = _series(values), _real(start, "start")
    try:
        average = np.broadcast_to(average, series.shape[1:])
    except ValueError:
        raise ValueError(
            f"start has shape {average.shape}; expected a number or shape {series.shape[1:]}, that of one value."
        ) from None
    averages = np.empty_like(series)
    for step, value in enumerate(series):
        average = averages[step] = momentum * average + (1.0 - momentum) * value
    return averages


def weights(momentum: float, steps: int) -> Array:
    r"""Return the weight of each of the last `steps` values in a moving average, oldest first.

    The newest has :math:`1 - m`, and each older one :math:`m` times that of its successor. Together they weigh
    :math:`1 - m^{steps}`; the rest is :func:`start_share`.

    Parameters
    ----------
    momentum : float
        Share of the old value, in [0, 1].
    steps : int
        Number of values so far, 1 or more.

    Returns
    -------
    ndarray of float64, shape (steps,)

    Raises
    ------
    TypeError
        If `steps` is not an integer.
    ValueError
        If `momentum` lies outside [0, 1] or `steps` is smaller than 1.
    """
    fraction(momentum, "momentum", end=True)
    ages = np.arange(positive_int(steps, "steps"))[::-1]
    return np.asarray((1.0 - momentum) * np.power(float(momentum), ages))


def start_share(momentum: float, steps: int) -> float:
    r"""Return the weight that the start value still has after `steps` updates: :math:`m^{steps}`.

    Parameters
    ----------
    momentum : float
        Share of the old value, in [0, 1].
    steps : int
        Number of updates, 0 or more.

    Raises
    ------
    TypeError
        If `steps` is not an integer.
    ValueError
        If `momentum` lies outside [0, 1] or `steps` is negative.
    """
    fraction(momentum, "momentum", end=True)
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer):
        raise TypeError(f"steps = {steps!r}; expected an integer.")
    if steps < 0:
        raise ValueError(f"steps = {steps}; expected an integer >= 0.")
    return float(momentum) ** int(steps)


def steps_until(share: float, momentum: float) -> int:
    r"""Return after how many updates the start value weighs `share` or less: the smallest t with :math:`m^t \le share`.

    Parameters
    ----------
    share : float
        In (0, 1].
    momentum : float
        Share of the old value, in [0, 1). (With 1 the average never moves.)

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share = {share}; expected a number in (0, 1]: a moving average never quite forgets.")
    fraction(momentum, "momentum", end=False)
    if share == 1.0:
        return 0
    if momentum <= share:
        return 1
    # Rounded, not rounded up: two rounded logarithms may put a whole number a little too high.
    steps = round(math.log(share) / math.log(momentum))
    return steps if start_share(momentum, steps) <= share else steps + 1


def momentum_for(share: float, steps: int) -> float:
    r"""Return the momentum that leaves the start value `share` of the weight after `steps`: :math:`share^{1/steps}`.

    A larger momentum averages over more batches, a smaller one forgets the start sooner. So this is the quietest
    average that has forgotten its start in time.

    Parameters
    ----------
    share : float
        In [0, 1].
    steps : int
        Number of updates, 1 or more.

    Raises
    ------
    TypeError
        If `steps` is not an integer.
    ValueError
        If an argument is out of its range.
    """
    fraction(share, "share", end=True)
    return math.pow(share, 1.0 / positive_int(steps, "steps"))


def bias_corrected(average: npt.ArrayLike, momentum: float, steps: int, start: npt.ArrayLike = 0.0) -> Array:
    r"""Return a moving average without its start value: :math:`(a_t - m^t a_0) / (1 - m^t)`.

    What remains is the mean of the values with :func:`weights`, scaled so that they add up to 1. After one step it is
    the value itself. With start 0 this is the correction of Adam (Kingma and Ba 2015, algorithm 1 and section 3) and
    what ``tf.contrib.layers`` called zero-debias; `moving_variance` starts at 1 and needs the start value as well.

    Parameters
    ----------
    average : array_like
        The average after `steps` updates.
    momentum : float
        Share of the old value, in [0, 1).
    steps : int
        Number of updates, 1 or more.
    start : array_like
        The average before the first update, of a shape that broadcasts with that of `average`.

    Returns
    -------
    ndarray of float64

    Raises
    ------
    TypeError
        If `average` or `start` does not hold real numbers, or `steps` is not an integer.
    ValueError
        If an argument is out of its range, or the shapes do not fit.
    """
    fraction(momentum, "momentum", end=False)
    share = start_share(momentum, positive_int(steps, "steps"))
    after, before = _real(average, "average"), _real(start, "start")
    try:
        np.broadcast_shapes(after.shape, before.shape)
    except ValueError:
        raise ValueError(
            f"start has shape {before.shape}; expected one that fits {after.shape}, that of average."
        ) from None
    return np.asarray((after - share * before) / (1.0 - share))


def cumulative(values: npt.ArrayLike) -> Array:
    r"""Return the plain mean of all values so far, after each of `values`.

    It is a moving average whose momentum grows: :math:`m_t = (t - 1) / t`. The first, 0, wipes out the start value.
    (``bncourse.nn.BatchNorm(momentum=None)`` does this.)

    Parameters
    ----------
    values : array_like, shape (steps, ...)
        The values in the order in which they arrive.

    Returns
    -------
    ndarray of float64, shape (steps, ...)

    Raises
    ------
    TypeError
        If `values` does not hold real numbers.
    ValueError
        If there are no values.
    """
    series = _series(values)
    counts = np.arange(1, len(series) + 1).reshape(-1, *[1] * (series.ndim - 1))
    return np.asarray(np.cumsum(series, axis=0) / counts)


def effective_window(momentum: float) -> float:
    r"""Return how many values a plain mean must have to be as quiet as a moving average: :math:`(1 + m) / (1 - m)`.

    Independent values of variance :math:`s^2` give a moving average that varies, once its start is forgotten, by
    :math:`s^2 \sum_k w_k^2 = s^2 (1 - m) / (1 + m)`; a plain mean of n values varies by :math:`s^2 / n`.

    Parameters
    ----------
    momentum : float
        Share of the old value, in [0, 1).

    Raises
    ------
    ValueError
        If `momentum` lies outside [0, 1).
    """
    fraction(momentum, "momentum", end=False)
    return (1.0 + momentum) / (1.0 - momentum)


def _real(value: npt.ArrayLike, name: str) -> Array:
    """Return `value` as an array of float64."""
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} has dtype {array.dtype}; expected real numbers.")
    return array.astype(np.float64)


def _series(values: npt.ArrayLike) -> Array:
    """Return `values` as float64, checked to have at least one entry along axis 0."""
    series = _real(values, "values")
    if series.ndim == 0 or len(series) == 0:
        raise ValueError(f"values has shape {series.shape}; expected (steps, ...) with at least one step.")
    return series
