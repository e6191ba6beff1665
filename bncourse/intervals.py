"""What several random starts say together: their mean, and how far it may be off."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class Interval(NamedTuple):
    """A mean and the half width of its interval; prints as ``0.943 ± 0.012``.

    Both are floats, or arrays of one shape when several quantities were measured at once.
    """

    mean: Any
    half: Any

    def __format__(self, spec: str) -> str:
        return f"{self.mean:{spec}} ± {self.half:{spec}}"

    @property
    def low(self) -> Any:
        """Lower end."""
        return self.mean - self.half

    @property
    def high(self) -> Any:
        """Upper end."""
        return self.mean + self.half


def t_interval(values: npt.ArrayLike, level: float = 0.95) -> Interval:
    """Return the mean of independent values and the half width of Student's interval for it.

    The interval covers the true mean with probability `level` if the values are normally distributed; for a handful
    of training runs it is an honest rule of thumb.

    Parameters
    ----------
    values : array_like, shape (starts, ...)
        One result for each random start, two or more starts. Further axes hold several quantities, say one for each
        step; each gets an interval of its own.
    level : float
        Coverage, above 0 and below 1.

    Raises
    ------
    ValueError
        If there are fewer than two starts, a value is not finite, or `level` lies outside its range.

    References
    ----------
    Student (1908), The Probable Error of a Mean, Biometrika 6(1).
    """
    from scipy import stats  # takes a moment to load, and few need it

    array = np.asarray(values, np.float64)
    if array.ndim == 0 or len(array) < 2:
        raise ValueError(f"values has shape {array.shape}; expected (starts, ...) with two starts or more.")
    if not np.isfinite(array).all():
        raise ValueError(f"values holds {array[~np.isfinite(array)][0]}; expected finite numbers.")
    if not 0 < level < 1:
        raise ValueError(f"level = {level}; expected a number between 0 and 1, both excluded.")
    mean = array.mean(axis=0)
    half = stats.t.ppf((1 + level) / 2, len(array) - 1) * array.std(axis=0, ddof=1) / np.sqrt(len(array))
    return Interval(float(mean), float(half)) if array.ndim == 1 else Interval(mean, half)
