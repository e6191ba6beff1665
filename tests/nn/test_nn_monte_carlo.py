"""Monte-Carlo dropout: its mean over all masks, its independence of neighbours, and what disagreement is."""

import itertools

import numpy as np
import pytest
from scipy import special, stats

from bncourse.nn import SELU, AlphaDropout, BatchNorm, Dense, Dropout, Sequential
from bncourse.nn.monte_carlo import entropy, monte_carlo, mutual_information
from bncourse.nn.settle import settle

X = np.zeros((2, 4))


def trained(kind=Dropout, seed=0):
    """Return a network whose moving statistics have moved, and some samples."""
    rng = np.random.default_rng(seed)
    network = Sequential([Dense(5, seed=1), BatchNorm(momentum=0.5), SELU(), kind(0.5, seed=2), Dense(3, seed=3)])
    for _ in range(5):
        network(rng.normal(1.0, 2.0, (20, 4)), training=True)
    return network, rng.normal(1.0, 2.0, (7, 4))


def test_the_mean_tends_to_that_over_all_masks():
    network, x = trained()
    *front, dense = (layer for layer in network.layers if not isinstance(layer, Dropout))
    inputs = Sequential(front)(x, training=False)
    masks = 2.0 * np.array(list(itertools.product([0, 1], repeat=5)))
    exact = np.mean([special.softmax((inputs * mask) @ dense.kernel + dense.bias, axis=1) for mask in masks], axis=0)
    found = monte_carlo(network, x, samples=4000)
    assert found.shape == (4000, 7, 3)
    np.testing.assert_allclose(found.mean(axis=0), exact, atol=0.04)  # five standard deviations
    assert np.abs(special.softmax(network.predict(x), axis=1) - exact).max() > 0.05


@pytest.mark.parametrize("kind", [Dropout, AlphaDropout])
def test_only_dropout_is_in_training_mode(kind):
    network, x = trained(kind)
    before = {name: np.copy(array) for name, array in network.weights.items()}
    draws = monte_carlo(network, x, samples=3)
    assert not np.array_equal(draws[0], draws[1])
    for name, array in network.weights.items():
        np.testing.assert_array_equal(array, before[name])


def test_no_sample_sees_another():
    (one, x), (other, _) = trained(), trained()
    stranger = np.concatenate([x[:1], 100 * x[1:]])
    np.testing.assert_array_equal(monte_carlo(one, x, samples=4)[:, 0], monte_carlo(other, stranger, samples=4)[:, 0])


def test_the_same_seed_draws_the_same():
    (one, x), (other, _) = trained(), trained()
    np.testing.assert_array_equal(monte_carlo(one, x, samples=4), monte_carlo(other, x, samples=4))


def test_chunks_cover_all_samples_in_order():
    network, x = trained()
    many = np.tile(x, (40, 1))
    found = monte_carlo(network, many, samples=60, batch_size=33).mean(axis=0).reshape(40, 7, 3)
    whole = monte_carlo(network, x, samples=2400).mean(axis=0)
    np.testing.assert_allclose(found.mean(axis=0), whole, atol=0.05)


def test_entropy_agrees_with_scipy():
    p = np.random.default_rng(0).dirichlet(np.ones(4), 50)
    np.testing.assert_allclose(entropy(p), stats.entropy(p, axis=1), rtol=1e-12)
    np.testing.assert_array_equal(entropy(np.array([1.0, 0.0])), 0.0)


def test_mutual_information_by_hand():
    agree = np.full((5, 2, 2), 0.5)
    np.testing.assert_allclose(mutual_information(agree), 0, atol=1e-15)
    contradict = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    np.testing.assert_allclose(mutual_information(contradict), np.log(2))


def test_mutual_information_is_the_mean_divergence_from_the_mean():
    draws = np.random.default_rng(0).dirichlet(np.ones(3), (6, 10))
    expected = stats.entropy(draws, draws.mean(axis=0)[None], axis=-1).mean(axis=0)
    np.testing.assert_allclose(mutual_information(draws), expected, rtol=1e-10)


def test_without_dropout_there_is_nothing_to_draw():
    network = Sequential([Dense(2)])
    with pytest.raises(ValueError, match="network has no dropout layer, so all draws would be equal"):
        monte_carlo(network, np.ones((1, 2)), samples=2)


@pytest.mark.parametrize("work", [lambda net: monte_carlo(net, X, samples=2), lambda net: settle(net, X, dropout=True)])
def test_a_network_of_another_library_is_refused(work):
    """Found by a reader: `settle` passed over a Keras model without a word."""

    class Functional:
        layers = ()

    with pytest.raises(TypeError, match=r"network is a Functional; expected bncourse\.nn\.Sequential \(.*Keras model"):
        work(Functional())


@pytest.mark.parametrize("name", ["samples", "batch_size"])
def test_counts_are_positive(name):
    network, x = trained()
    with pytest.raises(ValueError, match=f"{name} = 0; expected an integer >= 1"):
        monte_carlo(network, x, **{"samples": 2, name: 0})
    with pytest.raises(TypeError, match=f"{name} = 1.5; expected an integer"):
        monte_carlo(network, x, **{"samples": 2, name: 1.5})


def test_there_must_be_samples():
    network, x = trained()
    with pytest.raises(ValueError, match=r"x has shape \(0, 4\) and holds no samples"):
        monte_carlo(network, x[:0], samples=2)


def test_draws_have_three_axes():
    with pytest.raises(ValueError, match=r"draws have shape \(2, 3\); expected \(samples, n, classes\)"):
        mutual_information(np.ones((2, 3)))


def test_integers_are_refused():
    with pytest.raises(TypeError, match="probabilities has dtype int64"):
        entropy(np.array([1, 0]))
