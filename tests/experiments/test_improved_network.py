"""The training program of article E: what is logged, when it stops, and what is restored."""

from __future__ import annotations

import numpy as np
import pytest

from bncourse.data import Dataset, Split, load_digits
from bncourse.experiments import ImprovedNetworkRun, train_improved_network
from bncourse.experiments import improved_network as module


@pytest.fixture(scope="module")
def data() -> Dataset:
    """A small part of the digits: enough to learn from, quick to score."""
    digits = load_digits()

    def part(split: Split, count: int) -> Split:
        return Split(split.images[:count], split.labels[:count])

    return Dataset(
        "few digits",
        part(digits.train, 200),
        part(digits.validation, 60),
        part(digits.test, 60),
        digits.classes,
        "scikit-learn",
    )


@pytest.fixture(scope="module")
def run(data: Dataset) -> ImprovedNetworkRun:
    return train_improved_network(data, batch_size=50, max_epochs=6, validate_every=5, patience=15, seed=1)


def test_it_learns(run: ImprovedNetworkRun) -> None:
    assert run.log[-1].training_loss < run.log[0].training_loss
    assert run.best_validation > 0.3


def test_the_best_step_is_that_of_the_best_validation(run: ImprovedNetworkRun) -> None:
    accuracies = run.accuracies()
    assert run.best_validation == accuracies.max()
    assert run.best_step == run.steps[accuracies.argmax()]


def test_steps_are_those_validated(run: ImprovedNetworkRun) -> None:
    expected = sorted({*range(5, run.stopped_step + 1, 5), run.stopped_step})
    assert run.steps.tolist() == expected


def test_the_same_seed_gives_the_same_run(run: ImprovedNetworkRun, data: Dataset) -> None:
    again = train_improved_network(data, batch_size=50, max_epochs=6, validate_every=5, patience=15, seed=1)
    assert [entry.step for entry in again.log] == [entry.step for entry in run.log]
    assert np.allclose(again.accuracies(), run.accuracies(), atol=0.04)
    assert np.isclose(again.log[0].training_loss, run.log[0].training_loss, rtol=1e-3)


def test_it_stops_when_patience_runs_out_and_tests_what_was_best(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are dictated: best at step 4, then worse; the test must see the weights of step 4."""
    dictated = iter([0.2, 0.9, 0.5, 0.5, 0.5])
    weights: list[np.ndarray] = []

    def score(session, network, split, _chunk):
        with network.graph.as_default():
            kernel = next(v for v in module.tf1.global_variables() if v.name == "output/kernel:0")
        weights.append(session.run(kernel))
        if split is data.test:
            return 0.0, 0.0
        value = next(dictated)
        return value, value

    monkeypatch.setattr(module, "_accuracies", score)
    result = train_improved_network(data, batch_size=50, max_epochs=6, validate_every=2, patience=6)
    assert result.patience_ran_out
    assert (result.best_step, result.stopped_step) == (4, 10)
    best, last, restored = weights[1], weights[-2], weights[-1]
    assert np.array_equal(restored, best)
    assert not np.array_equal(restored, last)


def test_monitoring_before_the_last_bn_lets_those_scores_decide(data: Dataset) -> None:
    result = train_improved_network(data, batch_size=50, max_epochs=3, validate_every=4, monitor="before")
    assert result.best_validation == result.accuracies("before").max()
    assert not result.patience_ran_out


def test_both_accuracies_do_not_depend_on_the_chunk(data: Dataset) -> None:
    network = module.build_improved_network(seed=0)
    with module.tf1.Session(graph=network.graph) as session:
        session.run(network.initializer)
        session.run(
            network.train_op,
            {
                network.inputs: data.train.images[:50],
                network.labels: data.train.labels[:50],
                network.training: True,
            },
        )
        scores = [module._accuracies(session, network, data.test, chunk) for chunk in (7, 60)]
    assert np.allclose(scores[0], scores[1], atol=1.5 / 60)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"monitor": "loss"}, "monitor = 'loss'; expected 'after' or 'before'"),
        ({"validate_every": 0}, "validate_every = 0"),
        ({"chunk": 0}, "chunk = 0"),
        ({"patience": -1}, "patience = -1"),
        ({"batch_size": 500}, "size must be at most 200"),
        ({"max_epochs": 0}, "epochs must be"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0"),
        ({"seed": -1}, "seed must"),
    ],
)
def test_impossible_arguments_are_named(data: Dataset, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_improved_network(data, **options)


def test_a_log_has_two_kinds_of_accuracies(run: ImprovedNetworkRun) -> None:
    with pytest.raises(ValueError, match="which = 'between'"):
        run.accuracies("between")
