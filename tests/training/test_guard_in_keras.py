"""The guard as a callback of Keras 3: the same decisions as a loop by hand, and the best state back, all of it."""

import functools
import math
import os
import subprocess
import sys

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np
import pytest

from bncourse.keras_models.early_stopping import GuardCallback, ModelVariables
from bncourse.keras_models.runtime import keras
from bncourse.training import (
    CheckpointError,
    EarlyStopping,
    GeneralizationLoss,
    ProgressQuotient,
    SuccessiveRises,
)

RNG = np.random.default_rng(0)
X = RNG.normal(3, 2, (48, 5)).astype(np.float32)
Y = (X[:, :1] + RNG.normal(size=(48, 1)) > 3).astype(np.float32)
TRAIN, HELD_OUT = (X[:24], Y[:24]), (X[24:], Y[24:])
BATCHES = 4


def build(units=6):
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(units, kernel_initializer=keras.initializers.GlorotUniform(seed=1)),
            keras.layers.BatchNormalization(momentum=0.5),
            keras.layers.ReLU(),
            keras.layers.Dropout(0.2, seed=2),
            keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=3)),
        ]
    )
    model.compile(keras.optimizers.Adam(0.1), "mse", jit_compile=False)
    return model


@functools.cache
def built():
    """Build a model once, and keep its start: building and compiling costs more than training."""
    model = build()
    return model, ModelVariables(model).read()


@pytest.fixture
def model():
    model, start = built()
    return begin_anew(model, start)


def begin_anew(model, start):
    """Set a model to its start, as a new process would build it."""
    ModelVariables(model).write(start)
    model._initial_epoch = None  # `BackupAndRestore` leaves it set, and the next fit would begin there
    return model


def fit(model, *callbacks, epochs=30, validation=HELD_OUT):
    return model.fit(
        *TRAIN,
        batch_size=6,
        epochs=epochs,
        validation_data=validation,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    ).history


def bits(model):
    return {name: value.tobytes() for name, value in ModelVariables(model).read().items()}


class Dictated:
    """A score that was settled beforehand; remembers what the model predicted."""

    def __init__(self, *values):
        self.values, self.predictions = list(values), []

    def __call__(self, model):
        self.predictions.append(model.predict_on_batch(X))
        return self.values[len(self.predictions) - 1]


RULES = [
    EarlyStopping(patience=3),
    EarlyStopping(patience=3 * BATCHES, unit="steps"),
    EarlyStopping(patience=2, start_from=6 * BATCHES),
    GeneralizationLoss(10.0),
    ProgressQuotient(0.1, strip=3),
    SuccessiveRises(2, strip=2),
]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_it_stops_where_the_rule_says_and_goes_back(model, rule):
    fresh = eval(repr(rule))
    callback = GuardCallback(fresh)
    history = fit(model, callback)
    again = eval(repr(rule))
    for epoch, (loss, value) in enumerate(zip(history["loss"], history["val_loss"], strict=True), start=1):
        assert not again.should_stop
        again.update(value, epoch * BATCHES, training_error=loss)
    assert again.should_stop
    assert fresh.state() == again.state()
    assert callback.guard.log == [((i + 1) * BATCHES, v) for i, v in enumerate(history["val_loss"])]
    # It is the best epoch's model that is left.
    assert model.evaluate(*HELD_OUT, batch_size=6, verbose=0) == pytest.approx(fresh.best, rel=1e-6)
    assert fresh.best < history["val_loss"][-1]


def test_where_patience_lasts_it_goes_back_all_the_same(model):
    rule = EarlyStopping(patience=99)
    history = fit(model, GuardCallback(rule), epochs=12)
    assert len(history["loss"]) == 12
    assert rule.best_step < 12 * BATCHES
    assert model.evaluate(*HELD_OUT, batch_size=6, verbose=0) == pytest.approx(min(history["val_loss"]), rel=1e-6)


def test_the_callback_of_keras_leaves_the_same_weights_and_not_the_same_optimizer(model):
    options = {"patience": 3, "restore_best_weights": True}
    theirs = fit(model, keras.callbacks.EarlyStopping("val_loss", mode="min", **options))
    weights, iterations = model.get_weights(), int(model.optimizer.iterations)
    rule = EarlyStopping(patience=3)
    assert fit(begin_anew(*built()), GuardCallback(rule)) == theirs
    assert all(np.array_equal(*pair) for pair in zip(weights, model.get_weights(), strict=True))
    assert (iterations, int(model.optimizer.iterations)) == (rule.stopped_step, rule.best_step)


def test_moving_statistics_and_optimizer_are_part_of_the_best_state(model):
    score = Dictated(0.1, *[1.0] * 20)
    fit(model, GuardCallback(EarlyStopping(patience=9), score=score))
    assert np.array_equal(model.predict_on_batch(X), score.predictions[0])
    assert int(model.optimizer.iterations) == BATCHES
    # Without them: the weights of the best epoch with the statistics of the last, nine epochs later.
    best = ModelVariables(model).read()
    fit(begin_anew(*built()), epochs=10)
    moving = [f"model/{i}" for i, v in enumerate(model.variables) if "moving_" in v.path]
    mixed = best | {name: ModelVariables(model).read()[name] for name in moving}
    ModelVariables(model).write(mixed)
    assert len(moving) == 2
    assert np.abs(model.predict_on_batch(X) - score.predictions[0]).max() > 0.05


def test_it_may_look_every_so_many_steps(model):
    score = Dictated(*np.linspace(1, 0.5, 5), 0.75, 0.75, 0.75)
    rule = EarlyStopping(patience=9, unit="steps")
    history = fit(model, GuardCallback(rule, score=score, every=3))
    # 3, 6, 9, 12, 15: the best; 18, 21, 24: too late.
    assert (rule.best_step, rule.stopped_step) == (15, 24)
    assert len(history["loss"]) == 6
    assert np.array_equal(model.predict_on_batch(X), score.predictions[4])


def test_it_stops_in_the_middle_of_an_epoch(model):
    rule = EarlyStopping(patience=1)
    fit(model, GuardCallback(rule, score=Dictated(1.0, 0.5, 0.75), every=2), epochs=9)
    assert (rule.best_step, rule.stopped_step) == (4, 6)


def test_several_steps_at_a_time_are_counted():
    rule, model = EarlyStopping(patience=9), build()
    model.compile(keras.optimizers.Adam(0.1), "mse", jit_compile=False, steps_per_execution=2)
    callback = GuardCallback(rule, score=Dictated(*[0.5] * 9), every=3)
    fit(model, callback, epochs=3)
    assert [step for step, _ in callback.guard.log] == [4, 6, 10, 12]


@pytest.mark.parametrize(("every", "batches"), [(2, [(0, 2), (2, 4)] * 2), (3, [(0, 3), (0, 2)])])
def test_progress_is_computed_from_the_losses_since_the_last_look(every, batches):
    """The loss of a model that does not learn, by hand. What is left at the end of an epoch is passed over."""
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1, kernel_initializer="ones")])
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    squares = np.square(TRAIN[0].sum(axis=1, keepdims=True) - TRAIN[1])
    losses = [float(np.mean(squares[i : i + 6])) for i in range(0, 24, 6)]
    assert len(set(losses)) == 4
    seen = []

    class Rule(ProgressQuotient):
        def update(self, value, step, *, training_error=None):
            seen.append((step, training_error))
            return super().update(value, step, training_error=training_error)

    fit(model, GuardCallback(Rule(99.0), score=Dictated(*[0.5] * 9), every=every), epochs=2)
    assert [step for step, _ in seen] == [every * (i + 1) for i in range(len(batches))]
    assert [error for _, error in seen] == pytest.approx([np.mean(losses[i:j]) for i, j in batches], rel=1e-5)


@pytest.mark.parametrize("cut", [1, 4])
def test_killed_after_any_epoch_it_ends_as_if_never_interrupted(tmp_path, model, cut):
    _, start = built()

    def callback(path=None):
        return GuardCallback(EarlyStopping(patience=3 * BATCHES, unit="steps"), path=path)

    whole = callback()
    fit(model, whole)
    assert whole.guard.should_stop
    expected = bits(model)

    class Dies(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, _logs=None):
            if epoch + 1 == cut:
                raise KeyboardInterrupt

    path = tmp_path / "run.npz"
    with pytest.raises(KeyboardInterrupt):
        fit(begin_anew(model, start), callback(path), Dies())
    again = callback(path)
    history = fit(begin_anew(model, start), again)
    assert again.rule.state() == whole.rule.state()
    assert again.guard.log == whole.guard.log
    assert len(history["loss"]) == whole.rule.stopped_step // BATCHES - cut
    assert bits(model) == expected
    # Called once more, it trains no further.
    with pytest.warns(UserWarning, match="this training has ended"):
        assert fit(begin_anew(model, start), callback(path)) == {}
    assert bits(model) == expected


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own, when it saves
def test_what_keras_offers_against_crashes_forgets_the_best(tmp_path, model):
    """`BackupAndRestore` brings back weights and epoch; `EarlyStopping` starts with nothing."""
    values = [0.25, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]

    class Dictates(keras.callbacks.Callback):
        def __init__(self, dies_after=None):
            super().__init__()
            self.dies_after = dies_after

        def on_epoch_end(self, epoch, logs):
            logs["value"] = values[epoch]

        def on_epoch_begin(self, epoch, _logs=None):
            if epoch == self.dies_after:
                raise KeyboardInterrupt

    def callbacks(dies_after=None):
        stopping = keras.callbacks.EarlyStopping("value", mode="min", patience=3, restore_best_weights=True)
        return Dictates(dies_after), stopping, keras.callbacks.BackupAndRestore(tmp_path / "backup")

    _, whole, _ = callbacks()
    fit(model, Dictates(), whole)
    assert (whole.stopped_epoch, whole.best_epoch) == (3, 0)
    with pytest.raises(KeyboardInterrupt):
        fit(begin_anew(*built()), *callbacks(dies_after=2))
    dictates, again, backup = callbacks()
    fit(begin_anew(*built()), dictates, again, backup)
    assert (again.stopped_epoch, again.best_epoch) == (5, 2)


def test_a_model_that_is_built_anew_takes_up_the_file(tmp_path, model):
    path = tmp_path / "run.npz"
    fit(model, GuardCallback(EarlyStopping(patience=9), path=path), epochs=2)
    new = build()
    with pytest.warns(UserWarning, match="this training has ended"):
        assert fit(new, GuardCallback(EarlyStopping(patience=9), path=path), epochs=2) == {}
    assert bits(new) == bits(model)


def test_in_one_process_fit_may_be_called_again(tmp_path, model):
    callback = GuardCallback(EarlyStopping(patience=99), path=tmp_path / "run.npz")
    assert len(fit(model, callback, epochs=3)["loss"]) == 3
    assert len(fit(model, callback, epochs=5)["loss"]) == 2
    assert [step for step, _ in callback.guard.log] == [4, 8, 12, 16, 20]


def test_without_a_finite_value_the_last_weights_stay(model):
    rule = EarlyStopping(patience=2)
    history = fit(model, GuardCallback(rule, score=Dictated(*[math.nan] * 9)))
    assert (len(history["loss"]), rule.best_step) == (2, None)
    assert int(model.optimizer.iterations) == 2 * BATCHES


def test_the_file_of_another_model_is_refused(tmp_path, model):
    path = tmp_path / "run.npz"
    fit(model, GuardCallback(EarlyStopping(patience=9), path=path), epochs=1)
    other = build(units=7)
    before = bits(other)
    with pytest.raises(CheckpointError, match=r"'model/0' has shape \(5, 6\) and dtype float32; the model's variable"):
        fit(other, GuardCallback(EarlyStopping(patience=9), path=path), epochs=1)
    assert {name: value for name, value in bits(other).items() if name in before} == before


def test_the_file_of_another_optimizer_is_refused(tmp_path, model):
    path = tmp_path / "run.npz"
    fit(model, GuardCallback(EarlyStopping(patience=9), path=path), epochs=1)
    other = build()
    other.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    with pytest.raises(CheckpointError, match=r"another model or optimizer: 'optimizer/\d+' stands on one side only"):
        fit(other, GuardCallback(EarlyStopping(patience=9), path=path), epochs=1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"every": 10},
            ValueError,
            "every = 10 without score; Keras validates at the end of an epoch only. Give score",
        ),
        ({"every": 0, "score": len}, ValueError, "every = 0; expected an integer >= 1."),
        ({"every": 1.0, "score": len}, TypeError, "every = 1.0; expected an integer."),
    ],
)
def test_impossible_options_are_refused(options, error, message):
    with pytest.raises(error) as caught:
        GuardCallback(EarlyStopping(), **options)
    assert str(caught.value).startswith(message)


def test_a_name_that_is_not_in_the_logs_is_refused(model):
    with pytest.raises(ValueError, match=r"^monitor = 'val_los' is not in the logs; there are: loss, val_loss\.$"):
        fit(model, GuardCallback(EarlyStopping(), "val_los"), epochs=2)


@pytest.mark.parametrize("rule", [EarlyStopping(patience=2), GeneralizationLoss(5)])
def test_an_accuracy_for_which_small_is_good_is_refused(rule):
    """Found by a reader: val_accuracy with the default mode went back to the worst epoch, without a word."""
    with pytest.raises(ValueError, match=r"monitor = 'val_accuracy' grows as a network gets better.*mode='max'"):
        GuardCallback(rule, "val_accuracy")
    GuardCallback(EarlyStopping(patience=2, mode="max"), "val_accuracy")


def test_a_file_whose_training_has_ended_is_told(tmp_path, model):
    path = tmp_path / "guard.npz"
    fit(model, GuardCallback(EarlyStopping(patience=3), path=path), epochs=2)
    with pytest.warns(UserWarning, match=r"guard\.npz: this training has ended, after 2 epochs; nothing is trained"):
        again = fit(model, GuardCallback(EarlyStopping(patience=3), path=path), epochs=2)
    assert again == {}


def test_keras_may_be_imported_first():
    """Found by a reader: the callback, which needs no tf.layers, could not be imported after Keras."""
    program = (
        "import keras\nfrom bncourse.keras_models import GuardCallback\nfrom bncourse.training import EarlyStopping\n"
        "GuardCallback(EarlyStopping())\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
