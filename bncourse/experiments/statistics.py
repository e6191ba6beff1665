"""Other statistics for the same weights: what inference would give, had the moving averages been kept otherwise.

Training never reads the moving statistics. So one training run serves for all ways to keep them; only scores differ.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from bncourse import averages

Array = npt.NDArray[np.float64]
#: One array for each moving statistic of the network, by the variable's name.
Statistics = dict[str, Array]

#: The momentum of the first cure.
QUICK = 0.9

#: What inference is scored with beside the moving statistics themselves.
CURES: Mapping[str, str] = {
    "quick": f"moving averages with momentum {QUICK}",
    "corrected": "the moving averages without their start values (bias-corrected)",
    "estimated": "statistics of the present weights, re-estimated from a few training batches",
    "start": "the present weights' statistics, but with the share of the start values that the averages still hold",
    "predicted": "the closed form of the moving averages, from the re-estimates at the log's entries so far",
}


class Keeper:
    """Follows the moving statistics of a training run, and tells what other averages would hold.

    Parameters
    ----------
    starts : mapping of str to array
        The moving statistics before the first step.
    momentum : float
        Share of the old value, in [0, 1).
    """

    def __init__(self, starts: Mapping[str, npt.NDArray[np.floating]], momentum: float) -> None:
        self.starts: Statistics = _double(starts)
        self.momentum = momentum
        self.moving: Statistics = dict(self.starts)
        self.quick: Statistics = dict(self.starts)
        self.updates = 0
        self.times: list[int] = []
        self.estimates: list[Statistics] = []

    def update(self, moving: Mapping[str, npt.NDArray[np.floating]]) -> None:
        """Take in the moving statistics after one more step."""
        new = _double(moving)
        for name, value in new.items():
            batch = (value - self.momentum * self.moving[name]) / (1 - self.momentum)
            self.quick[name] = averages.update(self.quick[name], batch, QUICK)
        self.moving = new
        self.updates += 1

    def note(self, estimate: Mapping[str, npt.NDArray[np.floating]]) -> None:
        """Take in the statistics of the present weights, estimated afresh."""
        self.times.append(self.updates)
        self.estimates.append(_double(estimate))

    def cure(self, name: str) -> Statistics:
        """Return the statistics of one of `CURES`, at the moment of the last `note`."""
        if name == "quick":
            return dict(self.quick)
        if name == "estimated":
            return self.estimates[-1]
        if name == "corrected":
            return {
                key: _allowed(key, averages.bias_corrected(value, self.momentum, self.updates, start=self.starts[key]))
                for key, value in self.moving.items()
            }
        share = averages.start_share(self.momentum, self.updates)
        shares = np.zeros(len(self.times))
        shares[-1] = 1 - share
        if name == "predicted":
            shares = shares_of(self.times, self.momentum)
        return {
            key: share * start + np.tensordot(shares, np.stack([estimate[key] for estimate in self.estimates]), 1)
            for key, start in self.starts.items()
        }

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return everything as arrays; `restore` takes it."""
        series = {"starts": self.starts, "moving": self.moving, "quick": self.quick}
        series |= {f"estimate {time}": estimate for time, estimate in zip(self.times, self.estimates, strict=True)}
        arrays = {f"{kind}|{name}": value for kind, values in series.items() for name, value in values.items()}
        return {"updates": np.array(self.updates), "times": np.array(self.times, np.int64), **arrays}

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Go on where `state` was taken."""

        def series(kind: str) -> Statistics:
            found = {key.partition("|")[2]: value for key, value in state.items() if key.startswith(f"{kind}|")}
            return _double(found)

        self.updates, self.times = int(state["updates"]), [int(time) for time in state["times"]]
        self.starts, self.moving, self.quick = series("starts"), series("moving"), series("quick")
        self.estimates = [series(f"estimate {time}") for time in self.times]


def shares_of(times: list[int], momentum: float) -> Array:
    r"""Return the weights of snapshots in a moving average, if what was averaged moved straight from one to the next.

    The average after :math:`t` updates is :math:`m^t a_0 + \sum_k (1 - m) m^{t - k} x_k`. Put for :math:`x_k` the line
    between the snapshots before and after it; before the first one, the first.

    Parameters
    ----------
    times : list of int, ascending
        After how many updates each snapshot was taken; the last one is the present, :math:`t`.
    momentum : float
        Share of the old value, in [0, 1).

    Returns
    -------
    ndarray of float64, shape (snapshots,)
        They add up to :math:`1 - m^t`.
    """
    past = np.arange(1, times[-1] + 1)
    lines = np.stack([np.interp(past, times, row) for row in np.eye(len(times))])
    return np.asarray(lines @ averages.weights(momentum, times[-1]))


def _allowed(name: str, value: Array) -> Array:
    """Return `value`; where rounding took a variance below zero, zero."""
    return np.maximum(value, 0.0) if "variance" in name else value


def _double(statistics: Mapping[str, npt.NDArray[np.generic]]) -> Statistics:
    return {name: np.asarray(value, np.float64) for name, value in statistics.items()}
