"""Article D's training program: what it trains and logs, and how it is broken off and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from bncourse.data import DataError, load_digits
from bncourse.data.photographs import load_crops, load_folder
from bncourse.experiments import photographs as program
from bncourse.experiments import plan
from bncourse.experiments.configurations import photographs as options_of
from bncourse.experiments.configurations.photographs import (
    DeepPhotographsConfiguration,
    LogisticPhotographsConfiguration,
    WidePhotographsConfiguration,
)
from bncourse.experiments.photographs import PhotographRun, load, run, train_photographs
from bncourse.experiments.record import InterruptedRun, ResumeError, read, write
from bncourse.keras_models import photographs as models
from bncourse.keras_models.photographs import build_photograph_model, compile_photograph_model

OPTIONS = {"model": "logistic", "epochs": 3, "batch_size": 5, "learning_rate": 0.001}


@pytest.fixture(scope="module")
def crops():
    """Seventeen training crops, so that the last of four batches is shorter."""
    return load_crops(8, train=17, validation=7, test=6)


@pytest.fixture(scope="module")
def whole(crops):
    return train_photographs(crops, **OPTIONS)


def weights(run: PhotographRun) -> list[np.ndarray]:
    return run.model.get_weights()


def stop_in_batch(number: int, monkeypatch, sign: signal.Signals = signal.SIGINT) -> None:
    """Send the signal of Ctrl-C while the training batch of this number, from 1, is being made."""
    made = []
    batches = program.photograph_batches

    def counted(pictures, size, *, shuffle=True, **how):
        for batch in batches(pictures, size, shuffle=shuffle, **how):
            if shuffle:
                made.append(1)
                if len(made) == number:
                    os.kill(os.getpid(), sign)
            yield batch

    monkeypatch.setattr(program, "photograph_batches", counted)


# What is trained and logged.


def test_the_program_does_what_fit_does(crops, whole):
    """Keras's own loop over the same batches gives the same weights and the same log."""
    model = build_photograph_model("logistic", image_size=8)
    compile_photograph_model(model, learning_rate=0.001)
    images, labels = crops.train.all()
    for epoch in range(3):
        order = np.random.default_rng((0, epoch)).permutation(17)
        history = model.fit(
            images[order],
            labels[order],
            batch_size=5,
            shuffle=False,
            verbose=0,
            validation_data=crops.validation.all(),
            validation_batch_size=5,
        ).history
        entry = whole.log[epoch]
        assert entry["train_batch_loss"] == pytest.approx(history["loss"][0], rel=1e-5)
        assert entry["train_batch_accuracy"] == pytest.approx(history["accuracy"][0])
        assert entry["validation_moving_loss"] == pytest.approx(history["val_loss"][0], rel=1e-5)
        assert entry["validation_moving_accuracy"] == pytest.approx(history["val_accuracy"][0])
        assert (entry["epoch"], entry["batch"]) == (epoch + 1, 4 * epoch + 3)
    for mine, theirs in zip(weights(whole), model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-7)
    loss, accuracy = model.evaluate(*crops.test.all(), verbose=0)
    assert whole.final["test_moving_loss"] == pytest.approx(loss, rel=1e-5)
    assert whole.final["test_moving_accuracy"] == pytest.approx(accuracy)
    assert whole.final["validation_moving_loss"] == whole.log[-1]["validation_moving_loss"]


def test_a_log_has_columns(whole):
    assert whole.column("epoch").tolist() == [1, 2, 3]
    assert whole.column("train_batch_accuracy").shape == (3,)
    with pytest.raises(KeyError, match="nonsense"):
        whole.column("nonsense")


def test_training_learns_and_bn_in_front_is_the_default():
    data = load_crops(8, train=40, validation=10, test=10)
    found = train_photographs(data, model="logistic", epochs=15)
    assert found.final["test_moving_accuracy"] >= 0.5
    assert found.column("train_batch_accuracy")[-3:].min() > 0.85
    assert found.column("train_batch_loss")[-1] < found.column("train_batch_loss")[0]
    assert [layer.name for layer in found.model.layers][1] == "bn_input"


def test_the_deep_model_reports_its_silent_maps():
    data = load_crops(128, train=10, validation=4, test=4)
    found = train_photographs(data, model="deep", epochs=1, batch_norm="between", momentum=0.9)
    named = [name for name in found.final if name.startswith("silent")]
    assert named == [f"silent_relu_{i}" for i in range(1, 8)]
    expected = models.silent_maps(found.model, [data.validation.all()[0]])
    assert {f"silent_{name}": share for name, share in expected.items()} == {name: found.final[name] for name in named}


def test_the_same_seed_gives_the_same_digits_and_another_seed_others(crops, whole):
    assert train_photographs(crops, **OPTIONS) == whole
    other = train_photographs(crops, **OPTIONS, seed=1)
    assert other != whole
    assert train_photographs(crops, **OPTIONS, augment=True) != whole
    assert train_photographs(crops, **{**OPTIONS, "batch_norm": "none"}) != whole
    assert train_photographs(crops, **OPTIONS, momentum=0.9).column("train_batch_loss") == pytest.approx(
        whole.column("train_batch_loss")  # the moving statistics do not touch the training
    )


def test_validation_pictures_are_not_trained_on(crops, whole):
    other = load_crops(8, train=17, validation=30, test=30)
    np.testing.assert_array_equal(other.train.all()[0], crops.train.all()[0])
    found = train_photographs(other, **OPTIONS)
    for mine, theirs in zip(weights(found), weights(whole), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_folder_of_three_classes_without_test_pictures(tmp_path):
    for number, name in enumerate(("a", "b", "c")):
        for k in range(5):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("RGB", (9, 9), (80 * number, k, 0)).save(tmp_path / name / f"{k}.png")
    data = load_folder(tmp_path, size=4, test=0)
    found = train_photographs(data, model="logistic", epochs=2)
    assert set(found.final) == {"validation_moving_loss", "validation_moving_accuracy"}
    assert found.model.output_shape == (None, 3)
    for path in (tmp_path / "b").iterdir():
        path.write_text("gone")
    with pytest.raises(DataError, match="has changed since the folder was searched"):
        train_photographs(data, model="logistic", epochs=1)


def test_seconds_and_memory(whole):
    assert whole.seconds > 0
    if sys.platform != "win32":
        assert 2**26 < whole.memory_before <= whole.peak_memory < 2**36  # TensorFlow alone takes more than 64 MiB


def test_where_the_system_does_not_tell_the_memory(crops, monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    found = train_photographs(crops, model="logistic", epochs=1)
    assert (found.memory_before, found.peak_memory) == (None, None)


def test_progress_is_shown_on_standard_error(crops, capsys):
    train_photographs(crops, **OPTIONS, progress=True)
    said = capsys.readouterr().err
    assert "epoch 3 of 3: 100%" in said
    assert "validation" in said
    train_photographs(crops, **OPTIONS)
    assert capsys.readouterr().err == ""


# Broken off, and taken up again.


@pytest.mark.parametrize(
    ("batch", "augment", "sign"),
    [
        (1, False, signal.SIGINT),
        (6, False, signal.SIGINT),
        (8, False, signal.SIGTERM),  # the last of its epoch
        (11, True, signal.SIGTERM),
    ],
)
def test_a_run_that_was_told_to_stop_goes_on_to_the_same_digits(
    crops, whole, tmp_path, monkeypatch, batch, augment, sign
):
    unbroken = train_photographs(crops, **OPTIONS, augment=True) if augment else whole
    path, handler = tmp_path / "run.npz", signal.getsignal(sign)
    with monkeypatch.context() as patch:
        stop_in_batch(batch, patch, sign)
        epoch, within = (batch - 1) // 4 + 1, (batch - 1) % 4 + 1
        message = rf"^stopped in epoch {epoch} of 3, after {within} batches; the checkpoint is .*run\.npz$"
        with pytest.raises(InterruptedRun, match=message):
            train_photographs(crops, **OPTIONS, augment=augment, checkpoint=path)
    assert signal.getsignal(sign) is handler
    again = train_photographs(crops, **OPTIONS, augment=augment, checkpoint=path, resume=True)
    assert again == unbroken
    for mine, theirs in zip(weights(again), weights(unbroken), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert list(tmp_path.iterdir()) == []  # the checkpoint is gone, and nothing is left beside it


def test_a_run_that_died_goes_on_from_its_last_epoch(crops, whole, tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    with monkeypatch.context() as patch:
        batches = program.photograph_batches

        def dying(*arguments, epoch=0, **how):
            for number, batch in enumerate(batches(*arguments, epoch=epoch, **how)):
                if epoch == 2 and number == 1:
                    raise MemoryError
                yield batch

        patch.setattr(program, "photograph_batches", dying)
        with pytest.raises(MemoryError):
            train_photographs(crops, **OPTIONS, checkpoint=path)
    assert train_photographs(crops, **OPTIONS, checkpoint=path, resume=True) == whole


def test_a_run_may_be_broken_off_twice_and_its_seconds_add_up(crops, whole, tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    for number, resume in ((5, False), (3, True)):  # the second time, of the batches that are made anew
        with monkeypatch.context() as patch:
            stop_in_batch(number, patch)
            with pytest.raises(InterruptedRun):
                train_photographs(crops, **OPTIONS, checkpoint=path, resume=resume)
    state = json.loads(np.load(path)["run"].tobytes())
    state["seconds"] = 1_000.0
    arrays = {**np.load(path), "run": np.frombuffer(json.dumps(state).encode(), np.uint8)}
    np.savez(path, **arrays)
    again = train_photographs(crops, **OPTIONS, checkpoint=path, resume=True)
    assert again == whole
    assert again.seconds > 1_000


def test_without_a_checkpoint_a_run_that_is_stopped_says_so(crops, monkeypatch):
    stop_in_batch(2, monkeypatch)
    with pytest.raises(InterruptedRun, match=r"^stopped in epoch 1 of 3, after 2 batches$"):
        train_photographs(crops, **OPTIONS)


@pytest.fixture
def checkpoint(crops, tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    with monkeypatch.context() as patch:
        stop_in_batch(6, patch)
        with pytest.raises(InterruptedRun):
            train_photographs(crops, **OPTIONS, checkpoint=path)
    return path


def test_a_checkpoint_is_a_plain_archive_of_numbers(checkpoint):
    with np.load(checkpoint, allow_pickle=False) as archive:
        kinds = {archive[name].dtype.kind for name in archive}
        assert kinds <= set("fiub")
        # Weights and moving statistics; Adam's two averages for each that is trained, its step and its rate.
        assert len(archive.files) == 6 + 2 * 4 + 2 + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 4}, "the checkpoint has another configuration: epochs = 3 there, 4 here"),
        ({"batch_norm": "none"}, "the checkpoint has another configuration: batch_norm = 'input' there, 'none' here"),
        ({"seed": 1}, "the checkpoint has another configuration: seed = 0 there, 1 here"),
    ],
)
def test_another_configuration_does_not_go_on(crops, checkpoint, change, message):
    with pytest.raises(ResumeError, match=message):
        train_photographs(crops, **{**OPTIONS, **change}, checkpoint=checkpoint, resume=True)
    assert checkpoint.exists()


def test_other_data_and_other_code_do_not_go_on(checkpoint, crops, monkeypatch):
    other = load_crops(8, train=17, validation=7, test=6, seed=1)
    with pytest.raises(ResumeError, match="the checkpoint has another data: checksum = "):
        train_photographs(other, **OPTIONS, checkpoint=checkpoint, resume=True)
    monkeypatch.setattr(program.fingerprint, "of", lambda _: "0" * 16)
    with pytest.raises(ResumeError, match="the checkpoint has another code: "):
        train_photographs(crops, **OPTIONS, checkpoint=checkpoint, resume=True)


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "foreign"])
def test_a_damaged_checkpoint_is_refused(crops, checkpoint, damage):
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(
        {"cut": whole[: len(whole) // 2], "text": b"no archive", "empty": b"", "foreign": b""}[damage]
    )
    if damage == "foreign":
        with checkpoint.open("wb") as file:
            np.savez(file, weights=np.zeros(3))
    with pytest.raises(ResumeError, match=r"run\.npz: this is no checkpoint of this run"):
        train_photographs(crops, **OPTIONS, checkpoint=checkpoint, resume=True)


def test_there_must_be_a_checkpoint_to_go_on_from(crops, tmp_path):
    with pytest.raises(ResumeError, match="there is no checkpoint to go on from"):
        train_photographs(crops, **OPTIONS, checkpoint=tmp_path / "none.npz", resume=True)
    with pytest.raises(ResumeError, match="resume needs the checkpoint's path"):
        train_photographs(crops, **OPTIONS, resume=True)


# What `bncourse run` needs.


def test_a_record_of_the_run(whole, crops, tmp_path):
    options = {name: value for name, value in OPTIONS.items() if name != "model"}
    found = run(LogisticPhotographsConfiguration(image_size=8, **options), crops)
    assert found.experiment == "photographs-logistic"
    assert "model" not in found.configuration
    assert found.log == whole.log
    assert dict(found.final) == dict(whole.final)
    assert found.data == {
        "name": "crops",
        "train": 17,
        "validation": 7,
        "test": 6,
        "checksum": crops.describe()["checksum"],
    }
    assert {"keras", "pillow", "tensorflow"} <= found.versions.keys()
    assert found.code == program.fingerprint.of(program.CODE)
    assert found.notes == ()
    write(tmp_path / "run.json", found)
    again = read(tmp_path / "run.json")
    assert again == found
    assert "notes" not in json.loads((tmp_path / "run.json").read_text())
    if sys.platform != "win32":
        assert again.peak_memory == found.peak_memory > 2**26
    assert found.accuracies("validation_moving").shape == (3,)


def test_the_notes_of_a_folder_name_what_was_left_out_and_stay_out_of_the_record(tmp_path):
    for number, name in enumerate(("a", "b")):
        for k in range(5):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("RGB", (9, 9), (80 * number, k, 0)).save(tmp_path / name / f"{k}.png")
    (tmp_path / "a" / "x\n.jpg").write_text("secret words")
    configuration = LogisticPhotographsConfiguration(data=str(tmp_path), image_size=4, epochs=1)
    found = run(configuration, load(configuration))
    assert found.notes == (
        "10 pictures are used (train 6, validation 2, test 2); left out: 1",
        r"a/x\n.jpg: no picture in a known format (JPEG, PNG, GIF, BMP, WEBP, TIFF)",
    )
    write(tmp_path / "run.json", found)
    assert "known format" not in (tmp_path / "run.json").read_text()
    assert read(tmp_path / "run.json").notes == ()


def test_the_data_of_a_configuration(tmp_path):
    assert load(LogisticPhotographsConfiguration(image_size=8)).size == 8
    nowhere = str(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is no folder"):
        load(DeepPhotographsConfiguration(data=nowhere))
    with pytest.raises(ValueError, match="image_size = 100; expected at least 128"):  # before the folder is searched
        load(DeepPhotographsConfiguration(data=nowhere, image_size=100))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"data": 3}, TypeError, "data = 3; expected a folder's name, or 'crops'."),
        ({"batch_norm": True}, ValueError, "batch_norm = True; expected one of"),
        ({"epochs": 0}, ValueError, "epochs = 0; expected an integer >= 1."),
        ({"batch_size": 2.5}, TypeError, "batch_size = 2.5; expected an integer."),
        ({"image_size": -3}, ValueError, "image_size = -3; expected an integer >= 1."),
        ({"learning_rate": 0.0}, ValueError, "learning_rate = 0.0; expected a finite number > 0"),
        ({"momentum": 2.0}, ValueError, r"momentum = 2.0; expected a number in \[0, 1\]."),
        ({"seed": -1}, ValueError, "seed = -1; expected an integer >= 0."),
        ({"threads": -1}, ValueError, "threads = -1; expected an integer >= 0."),
        ({"threads": True}, ValueError, "threads = True; expected an integer >= 0."),
    ],
)
def test_impossible_options_are_refused(options, error, message):
    with pytest.raises(error, match=f"^{message}"):
        DeepPhotographsConfiguration(**options)


def test_logistic_regression_has_nothing_between_its_layers():
    with pytest.raises(ValueError, match=r"^batch_norm = 'between'; expected one of 'input', 'none'"):
        LogisticPhotographsConfiguration(batch_norm="between")


def test_data_and_options_must_go_together(crops):
    with pytest.raises(TypeError, match=r"data is a Dataset; expected bncourse\.data\.photographs\.Photographs"):
        train_photographs(load_digits(), model="logistic", epochs=1)
    with pytest.raises(ValueError, match=r"^image_size = 224, and the data have 8; load them with that size\.$"):
        run(DeepPhotographsConfiguration(), crops)
    with pytest.raises(ValueError, match=r"^image_size = 8; expected at least 128 for the deep model"):
        train_photographs(crops, model="deep", epochs=1)
    with pytest.raises(ValueError, match=r"^batch_norm = 'between'; expected one of 'input', 'none'"):
        train_photographs(crops, model="logistic", batch_norm="between", epochs=1)
    with pytest.raises(ValueError, match=r"^model = 'huge'; expected one of 'logistic', 'wide', 'deep'\.$"):
        train_photographs(crops, model="huge", epochs=1)


@pytest.mark.parametrize(
    ("kind", "model", "rate"),
    [
        (LogisticPhotographsConfiguration, "logistic", 0.01),
        (WidePhotographsConfiguration, "wide", 0.001),
        (DeepPhotographsConfiguration, "deep", 0.01),
    ],
)
def test_the_defaults_are_the_articles(kind, model, rate):
    defaults = kind()
    assert (defaults.image_size, defaults.batch_size, defaults.batch_norm) == (224, 10, "input")
    assert (defaults.model, defaults.learning_rate, defaults.momentum) == (model, rate, 0.99)
    assert models.LEARNING_RATES[model] == rate  # a second place, which this keeps equal


def test_the_words_are_those_of_the_models():
    assert get_args(options_of.PhotographModel) == get_args(models.PhotographModel)
    assert get_args(options_of.Place) == get_args(models.Place)


def test_threads_cannot_change_once_tensorflow_computes(crops, whole):
    with pytest.raises(ValueError, match=r"^threads = 7, but TensorFlow has begun to compute with another number\. "):
        train_photographs(crops, **OPTIONS, threads=7)


PROGRAM = """
import sys
import bncourse.experiments.configurations.photographs
assert not {"tensorflow", "keras", "PIL", "sklearn"} & set(sys.modules)
from bncourse.data.photographs import load_crops
from bncourse.experiments.photographs import train_photographs
from bncourse.tf_layers import tf
data = load_crops(8, train=6, validation=2, test=2)
runs = [train_photographs(data, model="logistic", epochs=1, threads=1) for _ in range(2)]
assert runs[0] == runs[1]
assert tf.config.threading.get_intra_op_parallelism_threads() == 1
"""


# What is recorded.

SWEEPS = [name for name in plan.SWEEPS if name.startswith("photographs-")]


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_has_five_random_starts_of_each_configuration_on_the_crops(name):
    crops = load_crops(128).describe()
    seeds = {}
    for found in plan.recorded(name):
        assert found.data == crops
        assert [entry["batch"] for entry in found.log] == list(range(19, 300, 20))  # 15 epochs of 20 batches
        assert np.isfinite([*found.final.values(), *found.column("train_batch_loss")]).all()
        seeds.setdefault(str({**found.configuration, "seed": None}), []).append(found.configuration["seed"])
    assert all(sorted(values) == [0, 1, 2, 3, 4] for values in seeds.values())


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_fits_the_code_of_today(name):
    assert {plan.state(task) for task in plan.SWEEPS[name].tasks()} == {"fits"}


def test_the_first_steps_come_out_as_recorded():
    """On the processor that recorded them to the last bit; another one rounds otherwise."""
    recorded = next(r for r in plan.recorded("photographs-logistic") if r.configuration["learning_rate"] == 0.0001)
    options = {**recorded.configuration, "epochs": 1, "threads": 0}
    again = run(LogisticPhotographsConfiguration(**options), load_crops(128))
    for column, value in again.log[0].items():
        assert value == pytest.approx(recorded.log[0][column], abs=0.02), column


def test_one_thread_in_a_fresh_process():
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
