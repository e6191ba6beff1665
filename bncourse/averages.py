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

from bncourse.nn.checks import fraction, not_negative, positive_int

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
    return float(momentum) ** _count(steps, "steps")


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


def mean_age(momentum: float) -> float:
    r"""Return how many steps back the values of a moving average lie on average: :math:`m / (1 - m)`.

    The newest value has age 0. This is the centre of mass of :func:`weights` once the start is forgotten, and how
    many steps the average is late on a ramp. A plain mean of the last n values has age :math:`(n - 1) / 2`: the same
    age for n = :func:`effective_window`.

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
    return momentum / (1.0 - momentum)


def noise_gain(momentum: float, steps: int | None = None, *, bias_corrected: bool = False) -> float:
    r"""Return the variance of a moving average of independent values, in units of the variance of one value.

    It is the sum of the squared weights: :math:`\frac{1 - m}{1 + m} (1 - m^{2t})` after t steps, divided by
    :math:`(1 - m^t)^2` if the start value was taken out. Both tend to ``1 / effective_window(momentum)``.

    Parameters
    ----------
    momentum : float
        Share of the old value, in [0, 1).
    steps : int, optional
        Number of values so far, 1 or more; None (the default) for the limit of many.
    bias_corrected : bool
        Whether the average is divided as in :func:`bias_corrected`.

    Raises
    ------
    TypeError
        If `steps` is not an integer.
    ValueError
        If `momentum` lies outside [0, 1) or `steps` is smaller than 1.
    """
    limit = 1.0 / effective_window(momentum)
    if steps is None:
        return limit
    share = start_share(momentum, positive_int(steps, "steps"))
    # (1 - m^2t) / (1 - m^t)^2 = (1 + m^t) / (1 - m^t); and 1 - m^t without cancellation where m is close to 1.
    rest = 1.0 if momentum == 0 else -math.expm1(steps * math.log(momentum))
    return limit * (1.0 + share) * (1.0 / rest if bias_corrected else rest)


def noise_gain_in_epochs(momentum: float, steps: int, *, batch_size: int, samples: int, per_epoch: int) -> float:
    r"""Return what :func:`noise_gain` becomes when batches are drawn without replacement within an epoch.

    The unit is the variance of the mean of `batch_size` *independent* samples, :math:`\sigma^2 / n`. Two batches of
    one epoch share no sample, so where one is too high the other tends to be too low; their covariance is
    :math:`-\sigma^2 / (N - 1)`. With :math:`W_e` for the sum of the weights of epoch e,

    .. math:: \frac{N \sum_k w_k^2 - n \sum_e W_e^2}{N - 1} .

    It holds for averages of anything that is a mean over the samples: of batch means, or of batch means of squares.

    Parameters
    ----------
    momentum : float
        Share of the old value, in [0, 1).
    steps : int
        Number of batches so far, 1 or more; the first begins an epoch.
    batch_size, samples : int
        n and N: samples in a batch, and in the whole set, 2 or more.
    per_epoch : int
        Batches in an epoch; a remainder of the samples is left out, other ones in every epoch.

    Raises
    ------
    TypeError
        If a count is not an integer.
    ValueError
        If `momentum` lies outside [0, 1), a count is smaller than 1, or an epoch holds more than `samples`.
    """
    fraction(momentum, "momentum", end=False)
    n, total = positive_int(batch_size, "batch_size"), positive_int(samples, "samples")
    k = positive_int(per_epoch, "per_epoch")
    if total < 2 or n * k > total:
        raise ValueError(f"samples = {samples}; expected at least 2, and at least batch_size * per_epoch = {n * k}.")
    each = weights(momentum, steps)
    epochs = np.add.reduceat(each, np.arange(0, len(each), k))
    return float((total * np.square(each).sum() - n * np.square(epochs).sum()) / (total - 1))


def frequency_response(momentum: float, frequency: npt.ArrayLike) -> npt.NDArray[np.complex128]:
    r"""Return by what a moving average multiplies an oscillation :math:`e^{i \omega t}` of the values.

    .. math:: H(\omega) = \frac{1 - m}{1 - m e^{-i \omega}}, \qquad
        |H(\omega)|^2 = \frac{(1 - m)^2}{1 - 2 m \cos \omega + m^2}

    The modulus says how much of the oscillation is left, the angle by how much it is delayed: a first-order low-pass
    filter.

    Parameters
    ----------
    momentum : float
        Share of the old value, in [0, 1).
    frequency : array_like
        :math:`\omega` in radians per step: :math:`2 \pi / T` for a period of T steps.

    Raises
    ------
    TypeError
        If `frequency` does not hold real numbers.
    ValueError
        If `momentum` lies outside [0, 1).
    """
    fraction(momentum, "momentum", end=False)
    turned = np.exp(-1j * _real(frequency, "frequency"))
    return np.asarray((1.0 - momentum) / (1.0 - momentum * turned))


def warm_up_momentum(momentum: float, seen: int) -> float:
    r"""Return the momentum for the next update, after `seen` updates: :math:`\min(m, (1 + t) / (10 + t))`.

    What ``tf.train.ExponentialMovingAverage`` does when it is told ``num_updates``. Until m is reached, the start's
    share after t updates is :math:`1 / \binom{t + 9}{9}`.

    Parameters
    ----------
    momentum : float
        Share of the old value that is never exceeded, in [0, 1].
    seen : int
        How many updates there were, 0 or more.

    Raises
    ------
    TypeError
        If `seen` is not an integer.
    ValueError
        If `momentum` lies outside [0, 1] or `seen` is negative.
    """
    fraction(momentum, "momentum", end=True)
    t = _count(seen, "seen")
    return min(float(momentum), (1 + t) / (10 + t))


def tracking_error(momentum: float, drift: float, noise: float) -> float:
    r"""Return the mean squared error of a moving average that follows a drifting truth, once the start is forgotten.

    Lag squared plus noise: :math:`\left( d \frac{m}{1 - m} \right)^2 + s^2 \frac{1 - m}{1 + m}`.

    Parameters
    ----------
    momentum : float
        Share of the old value, in [0, 1).
    drift : float
        d: how much the truth grows per step.
    noise : float
        s: standard deviation of one value around the truth.

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """
    return (not_negative(drift, "drift") * mean_age(momentum)) ** 2 + not_negative(noise, "noise") ** 2 * noise_gain(
        momentum
    )


def best_momentum(drift: float, noise: float) -> float:
    r"""Return the momentum with the smallest :func:`tracking_error`.

    Set the derivative to zero: :math:`\alpha = 1 - m` solves :math:`\alpha^3 = r^2 (1 - \alpha) (2 - \alpha)^2` with
    :math:`r = d / s`. For small r that is :math:`\alpha \approx (2 r)^{2/3}`.

    Parameters
    ----------
    drift : float
        How much the truth grows per step, above 0. (With no drift, average everything: :func:`cumulative`.)
    noise : float
        Standard deviation of one value around the truth; 0 gives momentum 0.

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """
    if not (math.isfinite(drift) and drift > 0):
        raise ValueError(f"drift = {drift}; expected a finite number > 0: without drift, average everything.")
    if not_negative(noise, "noise") == 0:
        return 0.0
    ratio = drift / noise
    # The left side grows with alpha and the right side falls, so halving the interval finds the one solution.
    low, high = 0.0, 1.0
    for _ in range(200):
        alpha = (low + high) / 2
        if alpha**1.5 < ratio * math.sqrt(1.0 - alpha) * (2.0 - alpha):
            low = alpha
        else:
            high = alpha
    return 1.0 - (low + high) / 2


def dead_zone(average: npt.ArrayLike, momentum: float, bits: int) -> Array:
    r"""Return how far a value may be from a rounded moving average without moving it.

    ``average -= (average - value) * (1 - momentum)`` changes nothing where the step is smaller than half the gap to
    the next number of that type. The gap at a is :math:`2^{\lfloor \log_2 |a| \rfloor - bits + 1}`, so the average
    rests while the value is nearer than :math:`\text{gap} / (2 (1 - m))`. Underflow is left out of account.

    Parameters
    ----------
    average : array_like
        The average, not 0.
    momentum : float
        Share of the old value, in [0, 1).
    bits : int
        Significant bits of the type: 53 in float64, 24 in float32, 11 in float16, 8 in bfloat16.

    Raises
    ------
    TypeError
        If `average` does not hold real numbers or `bits` is not an integer.
    ValueError
        If `momentum` lies outside [0, 1), `bits` is smaller than 1, or an average is 0.
    """
    fraction(momentum, "momentum", end=False)
    positive_int(bits, "bits")
    at = _real(average, "average")
    if (at == 0).any():
        raise ValueError("average holds 0; expected other numbers: near 0 the gaps shrink with the average.")
    gap = np.ldexp(1.0, np.frexp(at)[1] - bits)
    return np.asarray(gap / 2 / (1.0 - momentum))


def _count(value: int, name: str) -> int:
    """Return `value`, checked to be an integer, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} = {value!r}; expected an integer.")
    if value < 0:
        raise ValueError(f"{name} = {value}; expected an integer >= 0.")
    return int(value)


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
