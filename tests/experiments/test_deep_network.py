"""The training program of article A: its log, its scores, and its arguments."""

import dataclasses

import numpy as np
import pytest

from bncourse.data import Dataset, Split
from bncourse.experiments import deep_network as experiment
from bncourse.experiments import train_deep_network
from bncourse.experiments.deep_network import Score, lines, open_session, score
from bncourse.experiments.record import Run
from bncourse.tf_layers.deep_network import build_deep_network

RNG = np.random.default_rng(0)


def split(n):
    """Make n images of ten kinds that are easy to tell apart: a bright row for each class, and noise."""
    labels = np.arange(n) % 10
    images = 0.2 * RNG.random((n, 28, 28, 1), dtype=np.float32)
    for image, label in zip(images, labels, strict=True):
        image[2 * label + 4 : 2 * label + 6] += 0.8
    return Split(images, labels.astype(np.int64))


DATA = Dataset("rows", split(40), split(30), split(25), tuple("0123456789"), "made for the test")


@pytest.fixture(scope="module", autouse=True)
def shallow():
    """Train three convolutional layers instead of nineteen."""

    def build(**arguments):
        return build_deep_network(**arguments, conv_layers=3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "build_deep_network", build)
        yield


def train(**arguments):
    return train_deep_network(DATA, **{"batches": 7, "batch_size": 20, "every": 3, **arguments})


@pytest.fixture(scope="module")
def run():
    return train()


def test_the_log_has_an_entry_for_every_third_batch(run):
    assert run.steps.tolist() == [0, 3, 6]


def test_two_runs_of_one_seed_are_equal_bit_for_bit(run):
    again = train()
    assert run == again


def test_another_seed_gives_another_run(run):
    assert train(seed=1).log != run.log


def test_the_configuration_names_what_was_asked_for(run):
    assert run.configuration == {
        "data": "rows",
        "batch_norm": True,
        "batches": 7,
        "batch_size": 20,
        "learning_rate": 0.002,
        "schedule": "constant",
        "momentum": 0.99,
        "seed": 0,
        "every": 3,
        "threads": 1,
        "start": "glorot",
        "optimizer": "adam",
        "cures": False,
        "order": "bn-relu",
        "loss": "sigmoid",
        "update_ops": True,
    }
    assert run.data["name"] == "rows"
    assert (run.data["train"], run.data["validation"], run.data["test"]) == (40, 30, 25)


def test_columns_are_those_of_the_log(run):
    assert run.losses("train_moving").tolist() == [entry["train_moving_loss"] for entry in run.log]
    assert run.accuracies("validation_batch").tolist() == [entry["validation_batch_accuracy"] for entry in run.log]


def test_the_two_statistics_disagree_with_bn_and_agree_without(run):
    assert np.abs(run.losses("validation_batch") - run.losses("validation_moving")).min() > 1e-3
    plain = train(batch_norm=False)
    assert plain.losses("validation_batch").tolist() == plain.losses("validation_moving").tolist()


def test_training_learns_and_the_moving_statistics_follow():
    run = train(batches=60, every=59, momentum=0.8)
    assert run.accuracies("train_batch")[-1] == 1
    assert run.final["validation_moving_accuracy"] > 0.9
    assert run.final["test_moving_accuracy"] > 0.9
    assert run.final["single_accuracy"] > 0.9
    assert run.final["validation_moving_loss"] == run.log[-1]["validation_moving_loss"]


def test_forgotten_updates_leave_training_as_it_is_and_validation_behind():
    right, forgotten = (train(batches=60, every=59, momentum=0.8, update_ops=wanted) for wanted in (True, False))
    assert right.losses("train_batch").tolist() == forgotten.losses("train_batch").tolist()
    assert forgotten.final["validation_moving_loss"] > right.final["validation_moving_loss"] + 0.1


def test_scores_do_not_depend_on_the_chunks_with_moving_statistics():
    network = build_deep_network(conv_layers=2)
    with open_session(network.graph) as session:
        session.run(network.initializer)
        whole, parts = (score(session, network, DATA.test, training=False, chunk=chunk) for chunk in (25, 7))
    assert parts.accuracy == whole.accuracy
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)


def test_no_more_than_a_chunk_goes_through_the_network_at_once(monkeypatch):
    sizes = []

    class Session:
        def run(self, fetches, feed):
            sizes.append(len(feed[network.inputs]))
            return [0.5 for _ in fetches]

    network = build_deep_network(conv_layers=1)
    assert score(Session(), network, split(10), training=False, chunk=4) == Score(0.5, 0.5)
    assert sizes == [4, 4, 2]


def test_a_single_image_is_scored_alone():
    network = build_deep_network(conv_layers=2)
    with open_session(network.graph) as session:
        session.run(network.initializer)
        alone = score(session, network, DATA.test, training=True, chunk=1)
        together = score(session, network, DATA.test, training=True)
    assert abs(alone.loss - together.loss) > 1e-3


def test_lines_show_what_the_article_prints():
    def entry(batch):
        train = {"train_moving_loss": 0.2, "train_moving_accuracy": 0.8}
        return {"batch": batch, **train, "validation_moving_loss": 0.4, "validation_moving_accuracy": 0.6}

    final = {"validation_moving_accuracy": 0.5, "test_moving_accuracy": 0.25, "single_accuracy": 0.75}
    run = Run("deep", {}, {}, (entry(0), entry(25), entry(100)), final, 1.0, {}, "")
    assert lines(run) == [
        "batch   0: validation loss 0.40000, accuracy 0.60000",
        "batch  25: training   loss 0.20000, accuracy 0.80000",
        "batch 100: validation loss 0.40000, accuracy 0.60000",
        "final validation accuracy 0.50000",
        "final test accuracy       0.25000",
        "images scored one by one  0.75000",
    ]


def test_progress_is_shown_on_request_only(capsys):
    train(batches=1)
    assert capsys.readouterr().err == ""
    train(batches=1, progress=True)
    assert "deep" in capsys.readouterr().err


def with_classes(names):
    return dataclasses.replace(DATA, classes=names)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batches": 0}, ValueError, r"batches = 0; expected an integer >= 1"),
        ({"batches": 2.5}, TypeError, r"batches = 2\.5; expected an integer"),
        ({"every": 0}, ValueError, r"every = 0; expected an integer >= 1"),
        ({"batch_size": 41}, ValueError, r"batch_size = 41; expected at most 40, the number of training images"),
        ({"batch_size": 1}, ValueError, r"batch_size = 1; expected at least 2 with BN"),
        ({"momentum": -0.1}, ValueError, r"momentum = -0\.1; expected a number in \[0, 1\]"),
        ({"learning_rate": -1}, ValueError, r"learning_rate = -1; expected a finite number > 0"),
        ({"seed": -1}, ValueError, r"seed = -1; expected an integer >= 0"),
        ({"order": "up"}, ValueError, r"order = 'up'; expected one of 'bn-relu', 'bias-bn-relu', 'bias-relu-bn', 'rel"),
        ({"loss": "mse"}, ValueError, r"loss = 'mse'; expected one of 'sigmoid', 'softmax'"),
        ({"schedule": "up"}, ValueError, r"schedule = 'up'; expected one of 'constant', 'one-cycle', 'linear'"),
        ({"cures": True, "batch_norm": False}, ValueError, r"cures need moving statistics that move"),
        ({"cures": True, "momentum": 1.0}, ValueError, r"momentum = 1 with cures; expected a number below 1"),
        ({"epochs": 3}, TypeError, r"unexpected keyword argument 'epochs'"),
    ],
)
def test_impossible_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        train(**arguments)


def test_a_batch_of_one_is_possible_without_bn():
    assert len(train(batch_size=1, batch_norm=False, batches=1).log) == 1


def test_data_that_is_no_dataset_is_refused():
    with pytest.raises(TypeError, match=r"data is a ndarray; expected a bncourse\.data\.Dataset.*load_digits"):
        train_deep_network(np.zeros((5, 28, 28, 1), np.float32))


def test_data_of_eleven_classes_is_refused():
    with pytest.raises(ValueError, match=r"data has 11 classes; expected 10, one for each logit"):
        train_deep_network(with_classes(tuple("0123456789X")))
