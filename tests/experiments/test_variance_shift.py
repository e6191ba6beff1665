"""The variance shift in article E's network: the copied head against its graph, and what is measured on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
from scipy import special

from bncourse.data import Dataset, Split, batches, load_digits
from bncourse.experiments.variance_shift import CONDITIONS, VarianceShiftRun, cut_head, measure_variance_shift, pooled
from bncourse.nn import BatchNorm
from bncourse.nn.moments import dense_shift
from bncourse.nn.settle import settle
from bncourse.repair import recalibrate_graph
from bncourse.tf_layers import tf1
from bncourse.tf_layers.improved_network import ImprovedNetwork, build_improved_network
from bncourse.training.checkpoint import assign


def small(split: Split, n: int) -> Split:
    return Split(split.images[:n], split.labels[:n])


@pytest.fixture(scope="module")
def data() -> Dataset:
    digits = load_digits()
    return replace(
        digits,
        train=small(digits.train, 200),
        validation=small(digits.validation, 60),
        test=small(digits.test, 50),
    )


@pytest.fixture(scope="module")
def trained(data: Dataset) -> Iterator[tuple[ImprovedNetwork, Any]]:
    network = build_improved_network(seed=3)
    with tf1.Session(graph=network.graph) as session:
        session.run(network.initializer)
        for images, labels in islice(batches(data.train, 100, seed=3), 8):
            session.run(network.train_op, {network.inputs: images, network.labels: labels, network.training: True})
        yield network, session


@pytest.fixture(scope="module")
def run(data: Dataset) -> VarianceShiftRun:
    return measure_variance_shift(data, seed=3, steps=8, samples=3, chunk=40, repeats=6)


def set_statistics(session: Any, norms: list[BatchNorm]) -> None:
    with session.graph.as_default():
        variables = {variable.op.name: variable for variable in tf1.global_variables()}
        for place, norm in enumerate(norms, start=2):
            for name in ("moving_mean", "moving_variance"):
                values = np.asarray(getattr(norm, name), np.float32)
                assign(session, {variables[f"batch_normalization_{place}/{name}"]: values})


def norms(head: Any) -> list[BatchNorm]:
    return [layer for layer in head.layers if isinstance(layer, BatchNorm)]


def test_the_head_answers_as_the_graph_does(trained: tuple[ImprovedNetwork, Any], data: Dataset) -> None:
    network, session = trained
    images = data.test.images
    expected = session.run(network.normalised_logits, {network.inputs: images})
    head = cut_head(session)
    np.testing.assert_allclose(head.predict(pooled(session, network, images, 7)), expected, rtol=1e-4, atol=1e-4)
    assert [layer.rate for layer in (head.layers[0], head.layers[4])] == [0.25, 0.5]  # type: ignore[attr-defined]


def test_a_graph_with_the_settled_statistics_answers_as_the_head_does(
    trained: tuple[ImprovedNetwork, Any], data: Dataset
) -> None:
    network, session = trained
    head, before = cut_head(session), cut_head(session)
    settle(head, pooled(session, network, data.train.images), dropout=False)
    set_statistics(session, norms(head))
    try:
        found = session.run(network.normalised_logits, {network.inputs: data.test.images})
    finally:
        set_statistics(session, norms(before))
    maps = pooled(session, network, data.test.images)
    np.testing.assert_allclose(found, head.predict(maps), rtol=1e-4, atol=1e-4)
    assert np.abs(found - before.predict(maps)).max() > 0.05


def test_statistics_with_dropout_on_are_those_of_the_graph_in_training_mode(
    trained: tuple[ImprovedNetwork, Any], data: Dataset
) -> None:
    network, session = trained
    # One batch of all images, so that the convolutions' BN layers do the same in both.
    maps = pooled(session, network, data.train.images, 200, training=True)
    head = cut_head(session)
    found = settle(head, maps, dropout=True, repeats=40)
    # The graph's dropout draws by the number of the step.
    feed = {network.inputs: data.train.images, network.training: True}
    feeds = [{**feed, "now:0": step} for step in range(15)]
    report = recalibrate_graph(session, network.update_ops, feeds, inputs=network.inputs)
    try:
        for place, entry in enumerate(found, start=2):
            change = report[f"batch_normalization_{place}"]
            np.testing.assert_allclose(entry.moments.variance, change.new_variance, rtol=0.15)
            ratio = np.mean(entry.moments.variance / change.new_variance)
            assert ratio == pytest.approx(1, abs=0.04)
            off = np.abs(entry.moments.mean - change.new_mean) / np.sqrt(change.new_variance)
            assert off.max() < 0.1
    finally:
        report.undo()


def test_maps_in_training_mode_move_no_statistics(trained: tuple[ImprovedNetwork, Any], data: Dataset) -> None:
    network, session = trained
    with network.graph.as_default():
        moving = [variable for variable in tf1.global_variables() if "moving" in variable.name]
    before = session.run(moving)
    one = pooled(session, network, data.test.images, training=True)
    assert not np.array_equal(one, pooled(session, network, data.test.images))
    for old, new in zip(before, session.run(moving), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_run_is_that_of_the_same_training(
    run: VarianceShiftRun, trained: tuple[ImprovedNetwork, Any], data: Dataset
) -> None:
    network, session = trained
    images = np.concatenate([data.validation.images, data.test.images])
    logits = session.run(network.normalised_logits, {network.inputs: images})
    np.testing.assert_allclose(run.probabilities["stored"], special.softmax(logits, axis=1), atol=0.02)
    np.testing.assert_array_equal(run.labels, np.concatenate([data.validation.labels, data.test.labels]))
    assert (run.seed, run.steps) == (3, 8)


def test_all_conditions_differ_and_are_probabilities(run: VarianceShiftRun) -> None:
    assert tuple(run.probabilities) == CONDITIONS
    for one in CONDITIONS:
        assert run.probabilities[one].shape == (110, 10)
        np.testing.assert_allclose(run.probabilities[one].sum(axis=1), 1, rtol=1e-6)
        others = [run.probabilities[other] for other in CONDITIONS if other != one]
        assert all(np.abs(run.probabilities[one] - other).max() > 1e-3 for other in others)


def test_the_formula_predicts_the_variance(run: VarianceShiftRun) -> None:
    for layer, rate, units in zip(run.layers, (0.25, 0.5), (32, 10), strict=True):
        assert layer.rate == rate
        assert layer.shift.shape == layer.stored_ratio.shape == (units,)
        np.testing.assert_allclose(layer.dropout_on.variance, layer.predicted, rtol=0.15)  # 1,200 draws
        assert np.mean(layer.dropout_on.variance / layer.predicted) == pytest.approx(1, abs=0.04)
        np.testing.assert_allclose(
            layer.predicted_shift / layer.shift, layer.predicted / layer.dropout_on.variance, rtol=1e-10
        )
        assert layer.shift.min() > 1
        assert layer.ratio_at_start.min() > 1.2


def test_what_arrives_is_what_the_graph_computes(
    run: VarianceShiftRun, trained: tuple[ImprovedNetwork, Any], data: Dataset
) -> None:
    network, session = trained
    for layer, name in zip(run.layers, ("dense", "output"), strict=True):
        inputs = session.run(f"{name}/BiasAdd:0", {network.inputs: data.train.images})
        np.testing.assert_allclose(layer.dropout_off.variance, inputs.var(axis=0), rtol=0.02)
        np.testing.assert_allclose(layer.dropout_off.mean, inputs.mean(axis=0), atol=0.02 * inputs.std())


def test_random_weights_have_the_ratio_on_average(
    run: VarianceShiftRun, trained: tuple[ImprovedNetwork, Any], data: Dataset
) -> None:
    network, session = trained
    for layer, name in zip(run.layers, ("flatten/Reshape:0", "Selu_2:0"), strict=True):
        inputs = session.run(name, {network.inputs: data.train.images}).astype(np.float64)
        kernel = np.random.default_rng(0).normal(size=(inputs.shape[1], 3000))
        shift = dense_shift(inputs, kernel, layer.rate)
        expected = shift.training.variance.mean() / shift.inference.variance.mean()
        assert layer.ratio_of_random_weights == pytest.approx(expected, rel=0.05)


def test_the_figures_are_plain_numbers(run: VarianceShiftRun) -> None:
    figures = run.figures()
    assert len(figures) == 4 * 3 + 2 * 5
    assert all(type(value) is float and np.isfinite(value) for value in figures.values())
    assert figures["dropout_off_loss"] == run.scores("dropout off").loss
    assert figures["layer_2_shift"] == np.median(run.layers[1].shift)


def test_an_unknown_condition_is_refused(run: VarianceShiftRun) -> None:
    with pytest.raises(ValueError, match="condition = 'dropout'; expected one of stored, dropout on"):
        run.scores("dropout")


@pytest.mark.parametrize("name", ["steps", "statistics_images", "chunk"])
def test_a_count_below_one_is_refused(name: str, data: Dataset) -> None:
    with pytest.raises(ValueError, match=f"{name} = 0; expected an integer >= 1"):
        measure_variance_shift(data, **{name: 0})
