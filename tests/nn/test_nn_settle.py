"""Statistics layer by layer, against what the layers themselves would average, and against the formula."""

import numpy as np
import pytest

from bncourse.nn import SELU, AlphaDropout, BatchNorm, Dense, Dropout, ReLU, Sequential
from bncourse.nn.moments import dense_shift
from bncourse.nn.settle import settle
from bncourse.repair import recalibrate


def network(kind=Dropout, rate=0.5, seed=0):
    return Sequential(
        [
            Dense(12, seed=(seed, 0)),
            BatchNorm(),
            SELU(),
            kind(rate, seed=(seed, 1)),
            Dense(6, seed=(seed, 2)),
            BatchNorm(),
            ReLU(),
            Dropout(rate, seed=(seed, 3)),
            Dense(3, seed=(seed, 4)),
            BatchNorm(),
        ]
    )


def population(n=300):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 8)) @ rng.normal(size=(8, 8)) + 0.5


def norms(model):
    return [layer for layer in model.layers if isinstance(layer, BatchNorm)]


def test_without_dropout_one_batch_of_all_would_say_the_same():
    x, one, other = population(), network(), network()
    other(x, training=False)
    found = settle(one, x, dropout=False)
    recalibrate(other, x, batch_size=len(x))
    for mine, theirs, entry in zip(norms(one), norms(other), found, strict=True):
        np.testing.assert_allclose(mine.moving_mean, theirs.moving_mean, atol=1e-9)
        np.testing.assert_allclose(mine.moving_variance, theirs.moving_variance, rtol=1e-9)
        np.testing.assert_array_equal(mine.moving_variance, entry.moments.variance)


def test_settled_layers_standardise_in_inference_mode():
    x, model = population(), network()
    settle(model, x, dropout=False)
    for place, layer in enumerate(model.layers):
        x = layer(x, training=False)
        if isinstance(layer, BatchNorm):
            np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-10, err_msg=str(place))
            np.testing.assert_allclose(x.std(axis=0), 1, atol=0.02)  # epsilon


@pytest.mark.parametrize("kind", [Dropout, AlphaDropout])
def test_with_dropout_a_long_run_in_training_mode_would_say_the_same(kind):
    x, one, other = population(400), network(kind), network(kind, seed=0)
    settle(one, x, dropout=True, repeats=200)
    for layer in norms(other):
        layer.momentum = None
    for _ in range(300):  # the whole population is the batch: its moments are those of all images
        other(x, training=True)
    for mine, theirs in zip(norms(one), norms(other), strict=True):
        np.testing.assert_allclose(mine.moving_variance, theirs.moving_variance, rtol=0.04)
        scale = np.sqrt(theirs.moving_variance)
        np.testing.assert_allclose(mine.moving_mean / scale, theirs.moving_mean / scale, atol=0.04)


@pytest.mark.parametrize("kind", [Dropout, AlphaDropout])
@pytest.mark.parametrize("dropout", [True, False])
def test_the_formula_is_given_the_inputs_of_the_dropout(kind, dropout):
    x, model = population(), network(kind)
    first, second, third = settle(model, x, dropout=dropout, repeats=60)
    assert first.formula is None
    inputs = Sequential(model.layers[:3])(x, training=False)
    kernel = model.layers[4].kernel
    expected = dense_shift(inputs, kernel, 0.5, alpha=kind is AlphaDropout)
    np.testing.assert_allclose(second.formula.ratio, expected.ratio, rtol=1e-9)
    found = expected.training if dropout else expected.inference
    rtol = 0.05 if dropout else 1e-9
    np.testing.assert_allclose(second.moments.variance, found.variance, rtol=rtol)
    mode = "training" if dropout else "inference"
    np.testing.assert_allclose(third.moments.variance, getattr(third.formula, mode).variance, rtol=rtol)


def test_repeats_make_the_draws_quieter():
    x = population(50)
    exact = dense_shift(x, np.eye(8)[:, :3], 0.5).training.variance

    def distance(repeats):
        model = Sequential([Dropout(0.5, seed=1), Dense(3, use_bias=False), BatchNorm()])
        model(x, training=False)
        model.set_weights({**model.weights, "1.kernel": np.eye(8)[:, :3]})
        return np.abs(settle(model, x, dropout=True, repeats=repeats)[0].moments.variance / exact - 1).mean()

    assert distance(400) < 0.02 < distance(1)


def test_nothing_but_the_moving_statistics_changes():
    x, model = population(), network()
    model(x, training=True)
    before = {name: np.copy(array) for name, array in model.weights.items()}
    settle(model, x, dropout=True)
    for name, array in model.weights.items():
        assert np.array_equal(array, before[name]) != ("moving_" in name)


def test_a_network_that_was_never_called_is_built():
    x, one, other = population(), network(), network()
    other(x, training=False)
    for fresh, built in zip(settle(one, x, dropout=False), settle(other, x, dropout=False), strict=True):
        np.testing.assert_array_equal(fresh.moments.variance, built.moments.variance)


def test_there_must_be_samples():
    with pytest.raises(ValueError, match=r"x has shape \(0, 8\) and holds no samples"):
        settle(network(), np.ones((0, 8)), dropout=False)


def test_repeats_are_counted():
    with pytest.raises(ValueError, match="repeats = 0; expected an integer >= 1"):
        settle(network(), population(), dropout=True, repeats=0)
    with pytest.raises(TypeError, match=r"repeats = 1\.5; expected an integer"):
        settle(network(), population(), dropout=True, repeats=1.5)


def test_the_channels_are_the_last_axis():
    model = Sequential([BatchNorm(axis=1)])
    with pytest.raises(ValueError, match=r"axis = 1; expected -1"):
        settle(model, np.ones((2, 3, 4)), dropout=False)
