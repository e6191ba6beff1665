"""Checks of the readers' answers: they say which known mistake an answer makes, not only that it is wrong.

>>> import numpy as np
>>> from bncourse.exercises import check_forward
>>> def forward(x, gamma, beta, epsilon):
...     return gamma * (x - x.mean(axis=0)) / (x.std(axis=0) + epsilon) + beta
>>> check_forward(forward)
forward: not yet.
  [epsilon-outside] Epsilon is added outside the root.
    Hint: Put variance 0 into your formula. Is the divisor epsilon, or its
      root?
"""

from bncourse.exercises.checks import (
    check_backward,
    check_convolution,
    check_convolution_backward,
    check_forward,
    check_inference,
    check_layer,
    check_moving_averages,
    planted,
)
from bncourse.exercises.mistakes import catalogue
from bncourse.exercises.result import Mistake, Result

__all__ = [
    "Mistake",
    "Result",
    "catalogue",
    "check_backward",
    "check_convolution",
    "check_convolution_backward",
    "check_forward",
    "check_inference",
    "check_layer",
    "check_moving_averages",
    "planted",
]
