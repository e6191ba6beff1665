"""Other statistics for the same weights: each against its closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncourse import averages
from bncourse.experiments.statistics import CURES, QUICK, Keeper, shares_of

STARTS = {"a/moving_mean": np.zeros(3), "a/moving_variance": np.ones(3)}
M = 0.97


def followed(steps=40, every=8, drift=0.05):
    """Feed a keeper with the averages of a drifting series; return it, the series, and the snapshots."""
    rng = np.random.default_rng(0)
    series = {name: 2 + drift * np.arange(steps)[:, None] + rng.normal(size=(steps, 3)) for name in STARTS}
    tracks = {name: averages.run(values, M, start=STARTS[name]) for name, values in series.items()}
    keeper = Keeper(STARTS, M)
    for step in range(steps):
        keeper.update({name: track[step] for name, track in tracks.items()})
        if step % every == 0 or step == steps - 1:
            keeper.note({name: 2 + drift * np.full(3, float(step)) for name in STARTS})
    return keeper, series, tracks


def test_the_quick_average_is_that_of_the_batches():
    keeper, series, _ = followed()
    for name, value in keeper.cure("quick").items():
        np.testing.assert_allclose(value, averages.run(series[name], QUICK, start=STARTS[name])[-1], rtol=1e-9)


def test_the_corrected_average_forgets_its_start():
    keeper, series, _ = followed()
    weights = averages.weights(M, 40)
    for name, value in keeper.cure("corrected").items():
        np.testing.assert_allclose(value, weights @ series[name] / weights.sum(), rtol=1e-9)


def test_the_estimate_is_the_last_one():
    keeper, _, _ = followed()
    assert keeper.cure("estimated")["a/moving_mean"].tolist() == [2 + 0.05 * 39] * 3


def test_the_share_of_the_start_alone():
    keeper, _, _ = followed()
    expected = M**40 * 1 + (1 - M**40) * (2 + 0.05 * 39)
    np.testing.assert_allclose(keeper.cure("start")["a/moving_variance"], expected, rtol=1e-12)


def test_the_prediction_is_exact_where_the_truth_moves_straight_and_without_noise():
    steps = np.arange(40)
    truth = 2 + 0.05 * steps
    track = averages.run(truth, M, start=1.0)
    keeper = Keeper({"moving_variance": np.ones(())}, M)
    for step in steps:
        keeper.update({"moving_variance": track[step]})
        if step in (0, 8, 20, 39):
            keeper.note({"moving_variance": truth[step]})
    assert keeper.cure("predicted")["moving_variance"] == pytest.approx(track[-1], rel=1e-12)


def test_all_cures_have_all_statistics():
    keeper, _, _ = followed()
    for name in CURES:
        assert keeper.cure(name).keys() == STARTS.keys()


def test_rounding_gives_no_variance_below_zero():
    keeper = Keeper({"moving_variance": np.ones(1)}, 0.5)
    keeper.update({"moving_variance": np.array([0.5 - 1e-12])})  # a batch variance of 0, rounded down
    assert keeper.cure("corrected")["moving_variance"].tolist() == [0.0]


def test_a_restored_keeper_goes_on_as_the_first():
    keeper, _, _ = followed()
    other = Keeper({name: value + 7 for name, value in STARTS.items()}, M)
    other.restore(keeper.state())
    for one in (keeper, other):
        one.update({name: np.full(3, 3.0) for name in STARTS})
        one.note({name: np.full(3, 4.0) for name in STARTS})
    for name in CURES:
        for key, value in keeper.cure(name).items():
            np.testing.assert_array_equal(value, other.cure(name)[key])


@given(
    times=st.lists(st.integers(1, 60), min_size=1, max_size=6, unique=True).map(sorted),
    momentum=st.floats(0, 0.999),
)
def test_shares_of_snapshots_add_up_to_what_is_not_start(times, momentum):
    shares = shares_of(times, momentum)
    assert shares.shape == (len(times),)
    assert (shares >= 0).all()
    assert shares.sum() == pytest.approx(1 - momentum ** times[-1], abs=1e-12)
