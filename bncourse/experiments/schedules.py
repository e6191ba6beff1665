"""How a learning rate goes over the steps of a run."""

from __future__ import annotations

import math
from typing import Literal, assert_never

#: "constant"; "one-cycle": up in the first fifth of the steps, then down to 0 along a cosine; "linear": up in the first
#: twentieth, then straight down to 0. Both rises begin at a twentieth of the peak.
Schedule = Literal["constant", "one-cycle", "linear"]


def share_of_peak(schedule: Schedule, done: float) -> float:
    """Return the learning rate as a share of its peak.

    Parameters
    ----------
    schedule : Schedule
        Its shape.
    done : float
        Share of the steps that lies behind, in [0, 1).

    Returns
    -------
    float
        In [0, 1].
    """
    match schedule:
        case "constant":
            return 1.0
        case "one-cycle":
            return _rise(done, 0.2) or 0.5 * (1 + math.cos(math.pi * _after(done, 0.2)))
        case "linear":
            return _rise(done, 0.05) or 1 - _after(done, 0.05)
    assert_never(schedule)


def _rise(done: float, until: float) -> float:
    """Return the share of the peak while it is rising, and 0 from `until` on."""
    return 0.05 + 0.95 * done / until if done < until else 0.0


def _after(done: float, rise: float) -> float:
    """Return the share that lies behind of what follows the rise."""
    return (done - rise) / (1 - rise)
