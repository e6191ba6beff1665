"""A whole network: gradients, training, evaluation, files."""

import numpy as np
import pytest
from nn_oracles import gradient
from sklearn.datasets import load_digits

from bncourse.nn import (
    SGD,
    Adam,
    BatchNorm,
    Dense,
    Dropout,
    Flatten,
    History,
    ReLU,
    Sequential,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
)


@pytest.fixture(scope="module")
def digits():
    """Return 8x8 digits as (n, 64) in [0, 1], and their labels."""
    data = load_digits()
    return (data.data / 16).astype(np.float32), data.target


def network(momentum=0.9, width=8, classes=3, seed=0):
    return Sequential(
        [
            Dense(width, use_bias=False, seed=[seed, 1]),
            BatchNorm(momentum=momentum),
            ReLU(),
            Dense(classes, seed=[seed, 2]),
        ]
    )


def samples(count=12, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 4)), rng.integers(0, 3, count)


def state_of(model):
    return {name: array.copy() for name, array in model.weights.items()}


def assert_same_state(model, state):
    assert model.weights.keys() == state.keys()
    for name, array in model.weights.items():
        np.testing.assert_array_equal(array, state[name], err_msg=name)


# Composition


def test_layers_are_applied_in_order():
    x, _ = samples()
    model = network()
    y = model(x, training=True)
    parts, expected = network().layers, x
    for layer in parts:
        expected = layer(expected, training=True)
    np.testing.assert_array_equal(y, expected)


def test_training_mode_reaches_every_layer():
    model, (x, _) = Sequential([BatchNorm(momentum=0.0), Dropout(0.5, seed=0)]), samples()
    model(x, training=False)
    np.testing.assert_array_equal(model.layers[0].moving_mean, np.zeros(4))
    np.testing.assert_array_equal(model(x, training=False), model.layers[0](x, training=False))
    assert (model(x, training=True) == 0).any()


@pytest.mark.parametrize("training", [True, False])
def test_backward_agrees_with_finite_differences(training):
    model, (x, labels) = network(), samples()
    model(x, training=True)
    before = state_of(model)

    def loss(x=x, **changes):
        model.set_weights(before | changes)
        return softmax_cross_entropy(model(x, training=training), labels)[0]

    loss()
    dx = model.backward(softmax_cross_entropy(model(x, training=training), labels)[1])
    gradients = model.gradients
    np.testing.assert_allclose(dx, gradient(lambda v: loss(x=v), x), atol=1e-8)
    assert gradients.keys() == model.parameters.keys()
    for name, analytic in gradients.items():
        numeric = gradient(lambda v, name=name: loss(**{name: v}), before[name])
        np.testing.assert_allclose(analytic, numeric, atol=1e-8, err_msg=name)


def test_a_bias_before_batch_norm_has_no_gradient():
    model, (x, labels) = Sequential([Dense(5, seed=0), BatchNorm(), ReLU(), Dense(3, seed=1)]), samples()
    model.backward(softmax_cross_entropy(model(x, training=True), labels)[1])
    np.testing.assert_allclose(model.gradients["0.bias"], 0.0, atol=1e-15)
    assert np.abs(model.gradients["0.kernel"]).max() > 1e-3


def test_names_are_number_and_name():
    model, (x, _) = network(), samples()
    model(x)
    assert list(model.parameters) == ["0.kernel", "1.gamma", "1.beta", "3.kernel", "3.bias"]
    assert set(model.weights) - set(model.parameters) == {"1.moving_mean", "1.moving_variance", "1.updates"}
    assert model.parameters["1.gamma"] is model.layers[1].gamma


def test_a_network_inside_a_network_is_flattened():
    inner = network()
    model = Sequential([Flatten(), inner])
    assert model.layers[1:] == inner.layers


def test_freezing_a_layer_takes_its_parameters_from_the_optimizer():
    model, (x, labels) = network(), samples()
    model(x)
    model.layers[0].trainable = False
    before = state_of(model)
    model.train_on_batch(x, labels, optimizer=SGD(0.1))
    np.testing.assert_array_equal(model.layers[0].kernel, before["0.kernel"])
    assert not np.array_equal(model.layers[3].kernel, before["3.kernel"])


def test_freezing_the_network_freezes_every_layer():
    model, (x, labels) = network(), samples()
    model(x)
    model.trainable = False
    before = state_of(model)
    model.train_on_batch(x, labels, optimizer=SGD(0.1))
    assert not model.trainable
    assert_same_state(model, before)


def test_repr_shows_the_layers():
    assert repr(Sequential([Dense(2, seed=1), ReLU(), Dropout(0.5, seed=3)])) == (
        "Sequential([Dense(2, use_bias=True, init='glorot', seed=1), ReLU(), Dropout(0.5, seed=3)])"
    )


# Training and evaluation


def test_train_on_batch_reports_the_scores_before_the_update():
    model, (x, labels) = network(), samples()
    logits = network()(x, training=True)
    scores = model.train_on_batch(x, labels, optimizer=SGD(0.1))
    assert scores.loss == pytest.approx(softmax_cross_entropy(logits, labels)[0], rel=1e-12)
    assert scores.accuracy == (logits.argmax(axis=1) == labels).mean()
    assert softmax_cross_entropy(model(x, training=True), labels)[0] < scores.loss


@pytest.mark.parametrize("make", [lambda: SGD(0.1, momentum=0.9), lambda: Adam(0.005)])
def test_a_network_learns_the_digits(digits, make):
    x, labels = digits
    model = network(width=32, classes=10)
    history = model.fit(
        x[:1200],
        labels[:1200],
        batch_size=50,
        epochs=6,
        optimizer=make(),
        seed=0,
        validation=(x[1200:], labels[1200:]),
    )
    assert len(history.loss) == len(history.accuracy) == 144
    assert history.validation_steps == [24, 48, 72, 96, 120, 144]
    assert history.validation_accuracy[-1] > 0.9
    assert np.mean(history.loss[-10:]) < 0.3 * np.mean(history.loss[:10])
    assert model.evaluate(x[1200:], labels[1200:]) == (history.validation_loss[-1], history.validation_accuracy[-1])


def test_a_seed_fixes_the_whole_run(digits):
    x, labels = digits

    def run(seed):
        model = network(classes=10)
        model.fit(x, labels, batch_size=64, steps=5, optimizer=Adam(), seed=seed)
        return state_of(model)

    first, other = run(1), run(2)
    for name, array in run(1).items():
        np.testing.assert_array_equal(array, first[name])
    assert not np.array_equal(first["0.kernel"], other["0.kernel"])


def test_an_epoch_visits_every_sample_once_in_an_order_of_its_own():
    seen = []

    class Spy(Flatten):
        def _forward(self, x, training):
            seen.append(x[:, 0].copy())
            return super()._forward(x, training)

    x, labels = np.arange(10.0)[:, None], np.zeros(10, int)
    Sequential([Spy(), Dense(2, seed=0)]).fit(x, labels, batch_size=4, epochs=2, optimizer=SGD(0.0), seed=0)
    assert [len(batch) for batch in seen] == [4, 4, 2, 4, 4, 2]
    first, second = np.concatenate(seen[:3]), np.concatenate(seen[3:])
    np.testing.assert_array_equal(np.sort(first), np.arange(10))
    np.testing.assert_array_equal(np.sort(second), np.arange(10))
    assert not np.array_equal(first, second)


def test_labels_stay_with_their_samples():
    labels = np.arange(30) % 3
    x = np.eye(3)[labels]
    model = Sequential([Dense(3, seed=0)])
    model.fit(x, labels, batch_size=7, steps=60, optimizer=SGD(1.0), seed=0)
    assert model.evaluate(x, labels).accuracy == 1.0


def test_validation_every_few_steps_and_at_the_last():
    x, labels = samples()
    history = network().fit(
        x, labels, batch_size=4, steps=7, optimizer=SGD(0.1), seed=0, validation=(x, labels), validate_every=3
    )
    assert history.validation_steps == [3, 6, 7]
    assert len(history.validation_loss) == len(history.validation_accuracy) == 3


def test_without_validation_there_are_no_validation_scores():
    x, labels = samples()
    history = network().fit(x, labels, batch_size=4, steps=2, optimizer=SGD(0.1), seed=0)
    assert history.validation_steps == []


def test_the_loss_can_be_chosen():
    x, labels = samples()
    model = network()
    history = model.fit(x, labels, batch_size=12, steps=1, optimizer=SGD(0.0), seed=0, loss=sigmoid_cross_entropy)
    fresh = network()(x, training=True)
    assert history.loss[0] == pytest.approx(sigmoid_cross_entropy(fresh, labels)[0], rel=1e-9)
    expected = sigmoid_cross_entropy(model.predict(x), labels)[0]
    assert model.evaluate(x, labels, loss=sigmoid_cross_entropy).loss == expected


def test_progress_goes_to_standard_error_and_only_on_request(capsys):
    x, labels = samples()
    network().fit(x, labels, batch_size=4, steps=2, optimizer=SGD(0.1), seed=0)
    assert capsys.readouterr() == ("", "")
    network().fit(x, labels, batch_size=4, steps=2, optimizer=SGD(0.1), seed=0, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "2/2" in err


def test_predictions_do_not_depend_on_the_chunks():
    model, (x, _) = network(), samples(25)
    model(x, training=True)
    before = state_of(model)
    np.testing.assert_allclose(model.predict(x, batch_size=4), model(x, training=False), rtol=1e-12)
    assert_same_state(model, before)


def test_evaluate_weighs_the_samples_alike_whatever_the_chunks():
    model, (x, labels) = network(), samples(25)
    whole, chunks = model.evaluate(x, labels), model.evaluate(x, labels, batch_size=4)
    assert whole == pytest.approx(chunks, rel=1e-12)
    assert whole.accuracy == (model.predict(x).argmax(axis=1) == labels).mean()


# Errors


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"epochs": 1, "steps": 1}, ValueError, "epochs = 1 and steps = 1; give one of the two"),
        ({"steps": None}, ValueError, "epochs = None and steps = None"),
        ({"steps": 0}, ValueError, "steps = 0; expected an integer >= 1"),
        ({"batch_size": 0}, ValueError, "batch_size = 0"),
        ({"batch_size": 2.5}, TypeError, r"batch_size = 2\.5; expected an integer"),
        ({"validate_every": 0}, ValueError, "validate_every = 0"),
        ({"x": np.ones((12, 4), int)}, TypeError, "x has dtype int64"),
        ({"x": np.ones((11, 4))}, ValueError, r"x has shape \(11, 4\) and labels \(12,\); expected one label for each"),
        ({"labels": np.ones(12)}, TypeError, "labels have dtype float64; expected integers"),
        ({"labels": np.full(12, 3)}, ValueError, "labels hold 3; expected classes from 0 to 2"),
        ({"validation": (np.ones((2, 4)), [0])}, ValueError, r"x has shape \(2, 4\) and labels \(1,\)"),
    ],
)
def test_fit_refuses_what_does_not_fit_and_trains_nothing(change, error, message):
    model, (x, labels), optimizer = network(), samples(), SGD(0.1)
    model(x)
    before = state_of(model)
    arguments = {"x": x, "labels": labels, "batch_size": 4, "steps": 2, "optimizer": optimizer, "seed": 0}
    with pytest.raises(error, match=message):
        model.fit(**(arguments | change))
    assert_same_state(model, before)
    assert optimizer.steps == 0


def test_an_error_in_a_later_layer_undoes_the_earlier_ones():
    model = Sequential([BatchNorm(momentum=0.5), Dropout(0.5, seed=0), Flatten(), Dense(2, seed=0)])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 3, 2))
    dx = model.backward(model(x))
    before = state_of(model)
    with pytest.raises(ValueError, match="14 inputs; this layer was built for 6"):
        model(rng.normal(size=(4, 7, 2)), training=True)
    assert_same_state(model, before)
    np.testing.assert_array_equal(model.backward(model.layers[3]._x @ model.layers[3].kernel), dx)
    undisturbed = Sequential([BatchNorm(momentum=0.5), Dropout(0.5, seed=0), Flatten(), Dense(2, seed=0)])
    undisturbed(x)
    np.testing.assert_array_equal(model(x), undisturbed(x))  # Dropout has not lost a draw


def test_an_error_in_the_loss_undoes_the_forward_pass():
    model, (x, _) = network(), samples()
    y = model(x)
    dx, before = model.backward(np.ones_like(y)), state_of(model)
    with pytest.raises(ValueError, match="labels hold 7; expected classes from 0 to 2"):
        model.train_on_batch(x[:5], np.full(5, 7), optimizer=SGD(0.1))
    assert_same_state(model, before)
    np.testing.assert_array_equal(model.backward(np.ones_like(y)), dx)


def test_an_error_in_the_first_call_leaves_the_network_unbuilt():
    model = Sequential([Dense(3, seed=0), BatchNorm(axis=2)])
    with pytest.raises(ValueError, match="axis = 2 is out of range"):
        model(np.ones((2, 4)))
    assert model.weights == {"1.updates": 0}
    with pytest.raises(RuntimeError, match="backward before forward"):
        model.backward(np.ones((2, 3)))


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ([], ValueError, "layers is empty"),
        ([Dense(2), np.tanh], TypeError, r"layers hold <ufunc 'tanh'>; expected instances of bncourse\.nn\.Layer"),
        ([shared := ReLU(), Dense(2), shared], ValueError, "layers hold the same layer twice"),
    ],
)
def test_impossible_layers_are_refused(layers, error, message):
    with pytest.raises(error, match=message):
        Sequential(layers)


def test_predict_refuses_no_samples():
    with pytest.raises(ValueError, match=r"x has shape \(0, 4\) and holds no samples"):
        network().predict(np.ones((0, 4)))


# Files


def test_a_file_gives_back_every_bit(tmp_path):
    model, (x, labels) = network(momentum=None), samples()
    model.fit(x, labels, batch_size=5, epochs=3, optimizer=Adam(), seed=0)
    model.save(tmp_path / "network.npz")
    fresh = network(momentum=None, seed=1)
    fresh.load(tmp_path / "network.npz")
    assert_same_state(fresh, state_of(model))
    np.testing.assert_array_equal(fresh.predict(x), model.predict(x))
    fresh(x, training=True)
    model(x, training=True)
    assert_same_state(fresh, state_of(model))  # the cumulative average goes on where it was
    assert [path.name for path in tmp_path.iterdir()] == ["network.npz"]


def test_a_file_holds_plain_arrays_under_their_names(tmp_path):
    model, (x, _) = network(), samples()
    model(x)
    model.save(str(tmp_path / "network"))
    with np.load(tmp_path / "network", allow_pickle=False) as arrays:
        assert set(arrays) == set(model.weights)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    model, (x, _) = network(), samples()
    model(x)
    model.save(tmp_path / "network.npz")
    old = (tmp_path / "network.npz").read_bytes()

    def full_disk(*args, **kwargs):
        args[0].write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="No space left"):
        model.save(tmp_path / "network.npz")
    assert (tmp_path / "network.npz").read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["network.npz"]


def test_saving_puts_a_new_file_in_place_of_the_old_one(tmp_path):
    model, (x, _) = network(), samples()
    model(x)
    model.save(tmp_path / "network.npz")
    old = (tmp_path / "network.npz").read_bytes()
    (tmp_path / "reader.npz").hardlink_to(tmp_path / "network.npz")  # as good as a reader that has it open
    model(x)
    model.save(tmp_path / "network.npz")
    assert (tmp_path / "reader.npz").read_bytes() == old != (tmp_path / "network.npz").read_bytes()


def test_a_network_that_was_never_called_has_nothing_to_save(tmp_path):
    with pytest.raises(ValueError, match="save before the first call: there are no weights yet"):
        network().save(tmp_path / "network.npz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Sequential([Dense(8, seed=0), ReLU(), Dense(3, seed=0)]), r"missing \['1.beta', .* unknown \['0.bias', '2."),
        (network(width=9), r"gamma has shape \(9,\)|kernel has shape"),
        (network(classes=4), r"kernel has shape \(8, 4\); expected"),
    ],
)
def test_a_file_of_another_network_is_refused_and_nothing_changes(tmp_path, other, message, built):
    x, _ = samples()
    other(x)
    other.save(tmp_path / "other.npz")
    model = network()
    if built:
        model(x)
    before = state_of(model)
    with pytest.raises(ValueError, match=message):
        model.load(tmp_path / "other.npz")
    assert_same_state(model, before)


def test_a_file_with_pickles_is_refused(tmp_path):
    np.savez(tmp_path / "evil.npz", **{"0.kernel": np.array([{}], object)})
    with pytest.raises(ValueError, match="pickle"):
        network().load(tmp_path / "evil.npz")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"optimizer": "adam"}, r"optimizer = 'adam'; expected an instance of Optimizer, for example Adam\(\)"),
        ({"validation": np.ones((3, 2))}, r"expected a pair \(x, labels\)"),
    ],
)
def test_fit_names_what_keras_would_have_taken(wrong, message):
    network = Sequential([Dense(2, seed=0)])
    arguments = {"batch_size": 2, "epochs": 1, "optimizer": SGD(0.1), "seed": 0, **wrong}
    with pytest.raises(TypeError, match=message):
        network.fit(np.ones((4, 3)), np.zeros(4, int), **arguments)


def test_a_history_prints_in_a_line():
    network = Sequential([Dense(2, seed=0)])
    x, labels = np.ones((4, 3)), np.zeros(4, int)
    assert repr(History()) == "History(0 steps: nothing yet)"
    history = network.fit(x, labels, batch_size=2, epochs=1, optimizer=SGD(0.1), seed=0, validation=(x, labels))
    assert repr(history).startswith("History(2 steps: last loss ")
    assert repr(history).endswith(", last validation accuracy 1.000)")


@pytest.mark.parametrize("optimizer", [SGD(0.1, momentum=0.5), Adam()])
def test_an_optimizer_belongs_to_one_network(optimizer):
    for units, fails in ((2, False), (3, True)):
        network = Sequential([Dense(units, seed=0)])
        if fails:
            with pytest.raises(ValueError, match="make a new optimiser for each network"):
                network.train_on_batch(np.ones((4, 3)), np.zeros(4, int), optimizer=optimizer)
        else:
            network.train_on_batch(np.ones((4, 3)), np.zeros(4, int), optimizer=optimizer)
