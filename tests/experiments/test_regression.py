"""The regression to heat maps: its data, its network, and what is left of a run for any momentum."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from bncourse.data import Split, load_digits
from bncourse.experiments.regression import (
    HeatMaps,
    build_regressor,
    heat_maps,
    predict_maps,
    score_maps,
    train_regressor,
)
from bncourse.nn import BatchNorm, Conv2D, Sequential


@pytest.fixture(scope="module")
def data() -> HeatMaps:
    return heat_maps(load_digits().validation)


def norms(network: Sequential) -> list[BatchNorm]:
    return [layer for layer in network.layers if isinstance(layer, BatchNorm)]


def test_the_canvas_holds_the_whole_digit_somewhere(data: HeatMaps) -> None:
    split = load_digits().validation
    pixels = split.images[:, 3:27:3, 3:27:3, 0]
    assert np.array_equal(16 * pixels, np.round(16 * pixels))  # scikit-learn's digits have 17 shades
    for image, digit in zip(data.images[:20, ..., 0], pixels, strict=False):
        found = [
            (row, column)
            for row in range(5)
            for column in range(5)
            if np.array_equal(image[row : row + 8, column : column + 8], digit)
        ]
        assert found
    np.testing.assert_allclose(data.images.sum(axis=(1, 2, 3)), pixels.sum(axis=(1, 2)), rtol=1e-5)


def test_the_bump_stands_at_the_centre_of_mass(data: HeatMaps) -> None:
    rows, columns = np.mgrid[:12, :12]
    for image, target in zip(data.images[:20, ..., 0], data.maps[:20, ..., 0], strict=True):
        row, column = ndimage.center_of_mass(image.astype(np.float64))
        bump = 0.01 * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * 1.5**2))
        np.testing.assert_allclose(target, bump, rtol=1e-5, atol=1e-10)


def test_the_targets_are_bounded_as_in_the_question(data: HeatMaps) -> None:
    assert data.images.shape == data.maps.shape == (300, 12, 12, 1)
    assert data.images.dtype == data.maps.dtype == np.float32
    assert data.maps.min() >= 0
    assert 0.005 < data.maps.max() <= 0.01


def test_another_seed_gives_other_places() -> None:
    split = load_digits().validation
    assert not np.array_equal(heat_maps(split, seed=1).images, heat_maps(split, seed=2).images)
    assert np.array_equal(heat_maps(split, seed=1).images, heat_maps(split, seed=1).images)


@pytest.mark.parametrize("name", ["peak", "sigma"])
@pytest.mark.parametrize("value", [0.0, -1.0, np.inf])
def test_a_bump_needs_height_and_width(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} = "):
        heat_maps(load_digits().validation, **{name: value})


def test_an_empty_image_has_no_centre() -> None:
    blank = Split(np.zeros((2, 28, 28, 1), np.float32), np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="split has 2 empty images"):
        heat_maps(blank)


def test_with_and_without_bn_the_kernels_start_alike() -> None:
    kernels = [
        [layer.kernel for layer in build_regressor(batch_norm=bn, seed=3).layers if isinstance(layer, Conv2D)]
        for bn in (True, False)
    ]
    for one, other in zip(*kernels, strict=True):
        assert one is not None
        np.testing.assert_array_equal(one, other)


def test_start_scale_scales_the_start() -> None:
    tenth, whole = build_regressor(start_scale=0.1), build_regressor(start_scale=1.0)
    for one, other in zip(tenth.layers, whole.layers, strict=True):
        if isinstance(one, Conv2D):
            assert one.kernel is not None
            np.testing.assert_allclose(one.kernel, 0.1 * other.kernel, rtol=1e-6)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("hidden", "output", "count"), [(True, True, 3), (True, False, 2), (False, True, 1)])
def test_bn_stands_where_it_is_asked_for(hidden: bool, output: bool, count: int) -> None:
    network = build_regressor(batch_norm=hidden, output_batch_norm=output, epsilon=0.25)
    assert len(norms(network)) == count
    assert isinstance(network.layers[-1], BatchNorm) == output
    assert all(norm.epsilon == 0.25 for norm in norms(network))


@pytest.mark.parametrize("name", ["epsilon", "start_scale"])
def test_a_negative_option_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} = -1"):
        build_regressor(**{name: -1.0})  # type: ignore[arg-type]


def test_training_explains_the_maps(data: HeatMaps) -> None:
    network = build_regressor(seed=0)
    targets = data.maps / data.maps.std()
    trace = train_regressor(network, data.images, targets, steps=60, learning_rate=1e-2)
    assert trace.loss.shape == (60,)
    assert trace.loss[-10:].mean() < trace.loss[:10].mean() / 2
    scores = score_maps(predict_maps(network, data.images, training=True), targets, targets.mean(axis=0))
    assert scores.unexplained < 0.6


def test_the_trace_gives_what_layers_of_that_momentum_keep(data: HeatMaps) -> None:
    network, twin = build_regressor(seed=1), build_regressor(seed=1)
    for norm in norms(twin):
        norm.momentum = 0.9
    for norm in norms(twin):  # building the network called it in inference mode: the start values are still there
        assert np.array_equal(norm.moving_mean, np.zeros(8))
        assert np.array_equal(norm.moving_variance, np.ones(8))
    trace = train_regressor(network, data.images, data.maps, steps=12, seed=5)
    train_regressor(twin, data.images, data.maps, steps=12, seed=5)
    trace.set_moving(network, 0.9)
    for one, other in zip(norms(network), norms(twin), strict=True):
        np.testing.assert_allclose(one.moving_mean, other.moving_mean, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(one.moving_variance, other.moving_variance, rtol=1e-4)


def test_momentum_one_means_that_no_update_ran(data: HeatMaps) -> None:
    network = build_regressor(seed=1)
    train_regressor(network, data.images, data.maps, steps=3).set_moving(network, 1.0)
    for norm in norms(network):
        np.testing.assert_array_equal(norm.moving_mean, np.zeros(8))
        np.testing.assert_array_equal(norm.moving_variance, np.ones(8))


def test_a_trace_fits_its_own_network_only(data: HeatMaps) -> None:
    trace = train_regressor(build_regressor(), data.images, data.maps, steps=1)
    with pytest.raises(ValueError, match="network has 0 BN layers; expected 2"):
        trace.set_moving(build_regressor(batch_norm=False), 0.9)
    with pytest.raises(ValueError, match=r"momentum = 1\.5"):
        trace.set_moving(build_regressor(), 1.5)


@pytest.mark.parametrize("name", ["steps", "batch_size"])
def test_training_needs_steps_and_images(name: str, data: HeatMaps) -> None:
    with pytest.raises(ValueError, match=f"{name} = 0"):
        train_regressor(build_regressor(), data.images, data.maps, **{name: 0})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=f"{name} = 1.5"):
        train_regressor(build_regressor(), data.images, data.maps, **{name: 1.5})  # type: ignore[arg-type]


def test_targets_have_the_shape_of_the_images(data: HeatMaps) -> None:
    with pytest.raises(ValueError, match="targets has shape"):
        train_regressor(build_regressor(), data.images, data.maps[:-1])


def test_predicting_leaves_the_network_as_it_was(data: HeatMaps) -> None:
    network = build_regressor()
    train_regressor(network, data.images, data.maps, steps=2)
    before = {name: array.copy() for name, array in network.weights.items()}
    predict_maps(network, data.images, training=True)
    assert all(np.array_equal(array, before[name]) for name, array in network.weights.items())


def test_chunks_matter_in_training_mode_only(data: HeatMaps) -> None:
    network = build_regressor()
    train_regressor(network, data.images, data.maps, steps=2)
    for training in (True, False):
        one, other = (predict_maps(network, data.images, training=training, batch_size=size) for size in (300, 7))
        assert np.allclose(one, other, rtol=0, atol=1e-5) is not training
    with pytest.raises(ValueError, match="batch_size = 0"):
        predict_maps(network, data.images, training=False, batch_size=0)


def test_scores_of_known_predictions(data: HeatMaps) -> None:
    mean_map = data.maps.mean(axis=0)
    assert score_maps(data.maps, data.maps, mean_map) == pytest.approx((0.0, 1.0))
    constant = np.broadcast_to(mean_map, data.maps.shape)
    assert score_maps(constant, data.maps, mean_map) == pytest.approx((1.0, 0.0), abs=1e-6)
    half = (data.maps + mean_map) / 2  # half the deviation, a quarter of its square
    assert score_maps(half, data.maps, mean_map) == pytest.approx((0.25, 0.5), rel=1e-4)


def test_scores_refuse_other_shapes(data: HeatMaps) -> None:
    with pytest.raises(ValueError, match="predicted has shape"):
        score_maps(data.maps[:-1], data.maps, data.maps.mean(axis=0))
    with pytest.raises(ValueError, match="mean_map has shape"):
        score_maps(data.maps, data.maps, data.maps.mean())
