# ruff: noqa: ARG002, ARG005 (a layer that forgets an argument does not use it)
"""The check of a whole layer; every mistake is a line of a hand-written layer, changed as a reader might write it."""

from __future__ import annotations

import numpy as np
import pytest

from bncourse.exercises import catalogue, check_layer
from bncourse.nn import BatchNorm

sqrt = np.sqrt


class Hand:
    """A right layer in the form that the check asks for; the subclasses below spoil one method each."""

    def __init__(self, channels, momentum=0.99, epsilon=1e-3):
        self.momentum, self.epsilon = momentum, epsilon
        self.gamma, self.beta = np.ones(channels), np.zeros(channels)
        self.moving_mean, self.moving_variance = np.zeros(channels), np.ones(channels)
        self.gradients = {}

    def statistics(self, x):
        return x.mean(0), x.var(0)

    def scale(self, variance):
        return 1 / sqrt(variance + self.epsilon)

    def move(self, old, new):
        return self.momentum * old + (1 - self.momentum) * new

    def update(self, x, mean, variance):
        self.moving_mean = self.move(self.moving_mean, mean)
        self.moving_variance = self.move(self.moving_variance, variance)

    def affine(self, x_hat):
        return self.gamma * x_hat + self.beta

    def __call__(self, x, training):
        self.training = training
        if training:
            mean, variance = self.statistics(x)
            self.update(x, mean, variance)
        else:
            mean, variance = self.moving_mean, self.moving_variance
        self.remember(x, mean, variance)
        return self.affine(self.x_hat)

    def remember(self, x, mean, variance):
        self.x, self.inverse_std = x, self.scale(variance)
        self.x_hat = (x - mean) * self.inverse_std

    def dx(self, dy):
        inner = dy - dy.mean(0) - self.x_hat * (dy * self.x_hat).mean(0) if self.training else dy
        return self.gamma * self.inverse_std * inner

    def backward(self, dy):
        self.gradients = {"gamma": (dy * self.x_hat).sum(0), "beta": dy.sum(0)}
        return self.dx(dy)


def variant(**methods):
    return type("Variant", (Hand,), methods)


# --- modes and state --------------------------------------------------------------------------------------------------


class AlwaysTraining(Hand):
    def __call__(self, x, training):
        return super().__call__(x, True)


class AlwaysInference(Hand):
    def __call__(self, x, training):
        return super().__call__(x, False)


class MovesButInfers(Hand):
    def __call__(self, x, training):
        y = super().__call__(x, False)
        if training:
            self.update(x, x.mean(0), x.var(0))
        return y


class UpdatesBefore(Hand):
    def __call__(self, x, training):
        if not training:
            self.update(x, x.mean(0), x.var(0))
        return super().__call__(x, training)


class UpdatesAfter(Hand):
    def __call__(self, x, training):
        y = super().__call__(x, training)
        if not training:
            self.update(x, x.mean(0), x.var(0))
        return y


class TrainsOnNewMoving(Hand):
    def __call__(self, x, training):
        self.training = training
        if training:
            self.update(x, x.mean(0), x.var(0))
        self.remember(x, self.moving_mean, self.moving_variance)
        return self.affine(self.x_hat)


class TrainsOnNewMovingAsConstants(TrainsOnNewMoving):
    def dx(self, dy):
        return self.gamma * self.inverse_std * dy


class TrainsOnOldMoving(Hand):
    def __call__(self, x, training):
        self.training = training
        self.remember(x, self.moving_mean, self.moving_variance)
        if training:
            self.update(x, x.mean(0), x.var(0))
        return self.affine(self.x_hat)


class BackwardAlwaysOfTraining(Hand):
    def dx(self, dy):
        return self.gamma * self.inverse_std * (dy - dy.mean(0) - self.x_hat * (dy * self.x_hat).mean(0))


class BackwardWithStaleMemory(Hand):
    def __call__(self, x, training):
        if training:
            return super().__call__(x, training)
        return self.affine((x - self.moving_mean) * self.scale(self.moving_variance))


class BackwardFromTheBatch(Hand):
    def backward(self, dy):
        training = self.training
        self.training = True
        self.remember(self.x, self.x.mean(0), self.x.var(0))
        dx = super().backward(dy)
        self.training = training
        return dx


class SharedInPlace(Hand):
    moving_mean = np.zeros(3)
    moving_variance = np.ones(3)

    def __init__(self, channels, momentum=0.99, epsilon=1e-3):
        self.momentum, self.epsilon = momentum, epsilon
        self.gamma, self.beta = np.ones(channels), np.zeros(channels)

    def update(self, x, mean, variance):
        for moving, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving *= self.momentum
            moving += (1 - self.momentum) * new


class SharedByADefault(Hand):
    def __init__(self, channels, momentum=0.99, epsilon=1e-3, memory={}):  # noqa: B006
        super().__init__(channels, momentum, epsilon)
        memory.setdefault(channels, [np.zeros(channels), np.ones(channels)])
        self.moving_mean, self.moving_variance = memory[channels]

    def update(self, x, mean, variance):
        self.moving_mean[:] = self.move(self.moving_mean, mean)
        self.moving_variance[:] = self.move(self.moving_variance, variance)


class SharedByTheClass(Hand):
    def update(self, x, mean, variance):
        type(self).mean_of_all = self.move(self.moving_mean, mean)

    mean_of_all = None

    @property
    def moving_mean(self):
        return self._own if self.mean_of_all is None or self.mean_of_all.shape != self._own.shape else self.mean_of_all

    @moving_mean.setter
    def moving_mean(self, value):
        self._own = value


class InPlace(Hand):
    def statistics(self, x):
        mean, variance = x.mean(0), x.var(0)
        x -= mean
        return 0 * mean, variance

    def update(self, x, mean, variance):
        pass


class ChangesDy(Hand):
    def backward(self, dy):
        dx = super().backward(dy)
        dy *= 0
        return dx


def start(mean, variance):
    def init(self, channels, momentum=0.99, epsilon=1e-3):
        Hand.__init__(self, channels, momentum, epsilon)
        self.moving_mean, self.moving_variance = np.full(channels, mean), np.full(channels, variance)

    return variant(__init__=init)


def moves(**new):
    """Move the averages by other rules: functions of layer, x, and the old value."""

    def update(self, x, mean, variance):
        for name, value in (("mean", mean), ("variance", variance)):
            old = getattr(self, f"moving_{name}")
            rule = new.get(name, new.get("both"))
            result = rule(self, x, old, value) if rule else self.move(old, value)
            setattr(self, f"moving_{name}", result)

    return variant(update=update)


def gradients(dgamma=None, dbeta=None):
    def backward(self, dy):
        Hand.backward(self, dy)
        if dgamma:
            self.gradients["gamma"] = dgamma(self, dy)
        if dbeta:
            self.gradients["beta"] = dbeta(self, dy)
        return self.dx(dy)

    return variant(backward=backward)


def dx(rule):
    """Another dx in training mode; `s` is gamma / std, `h` is x_hat."""

    def method(self, dy):
        if not self.training:
            return Hand.dx(self, dy)
        return rule(self.gamma, self.inverse_std, len(dy), dy, self.x_hat)

    return variant(dx=method)


def about_the_moving_mean(self, x, old, variance):
    return self.move(old, ((x - self.moving_mean) ** 2).mean(0))


def without_subtracting(self, x, mean, variance):
    self.x, self.inverse_std = x, self.scale(variance)
    self.x_hat = x * self.inverse_std


def batch_in_inference(self, x, training):
    y = Hand.__call__(self, x, training)
    if not training:
        y = self.affine((x - x.mean(0)) * self.scale(x.var(0)))
    return y


class TakesTheFirstBatch(Hand):
    def update(self, x, mean, variance):
        if hasattr(self, "begun"):
            super().update(x, mean, variance)
        else:
            self.begun, self.moving_mean, self.moving_variance = True, mean, variance


class AddsGradientsUp(Hand):
    def backward(self, dy):
        old = self.gradients
        result = super().backward(dy)
        for name, value in old.items():
            self.gradients[name] = self.gradients[name] + value
        return result


def with_power(power):
    """dx through the graph, with (variance + epsilon) to the power -power / 2 in the variance's gradient."""

    def rule(gamma, s, n, dy, h):
        dvariance = -0.5 * s**power * (gamma * dy * h / s).sum(0)
        dcentred = gamma * dy * s + dvariance * 2 * h / s / n
        return dcentred - dcentred.mean(0)

    return dx(rule)


LAYERS = [
    ("first-batch-starts", TakesTheFirstBatch),
    ("gradients-accumulated", AddsGradientsUp),
    ("momentum-fixed", moves(both=lambda s, x, old, new: 0.9 * old + 0.1 * new)),
    ("momentum-fixed", moves(both=lambda s, x, old, new: 0.99 * old + 0.01 * new)),
    ("root-of-each", variant(scale=lambda self, v: 1 / (sqrt(v) + sqrt(self.epsilon)))),
    ("epsilon-as-floor", variant(scale=lambda self, v: 1 / sqrt(np.maximum(v, self.epsilon)))),
    ("gamma-twice", variant(affine=lambda self, h: self.gamma * (self.gamma * h) + self.beta)),
    ("gamma-twice-in-dx", variant(dx=lambda self, dy: Hand.dx(self, dy) * self.gamma)),
    ("wrong-power", with_power(1)),
    ("wrong-power", with_power(2)),
    ("always-training", AlwaysTraining),
    ("always-inference", AlwaysInference),
    ("trains-on-moving", MovesButInfers),
    ("updates-in-inference", UpdatesBefore),
    ("updates-in-inference", UpdatesAfter),
    ("trains-on-moving", TrainsOnNewMoving),
    ("trains-on-moving", TrainsOnNewMovingAsConstants),
    ("trains-on-moving", TrainsOnOldMoving),
    ("ignores-mode", BackwardAlwaysOfTraining),
    ("ignores-mode", BackwardWithStaleMemory),
    ("ignores-mode", BackwardFromTheBatch),
    ("wrong-start", start(0.0, 0.0)),
    ("wrong-start", start(1.0, 1.0)),
    ("shared-statistics", SharedInPlace),
    ("shared-statistics", SharedByADefault),
    ("shared-statistics", SharedByTheClass),
    ("mutates-input", ChangesDy),
    ("batch-statistics", variant(__call__=batch_in_inference)),
    # the moving averages
    ("momentum-inverted", moves(both=lambda s, x, old, new: (1 - s.momentum) * old + s.momentum * new)),
    ("moving-sample", moves(variance=lambda s, x, old, new: s.move(old, x.var(0, ddof=1)))),
    ("start-ignored", moves(both=lambda s, x, old, new: (1 - s.momentum) * new)),
    ("batch-only-kept", moves(both=lambda s, x, old, new: new)),
    ("old-not-shrunk", moves(both=lambda s, x, old, new: old + (1 - s.momentum) * new)),
    ("new-not-shrunk", moves(both=lambda s, x, old, new: s.momentum * old + new)),
    ("std-averaged", moves(variance=lambda s, x, old, new: s.move(old, sqrt(new)))),
    ("about-moving-mean", moves(variance=about_the_moving_mean)),
    ("only-mean", moves(variance=lambda s, x, old, new: old)),
    ("only-variance", moves(mean=lambda s, x, old, new: old)),
    ("never-moves", moves(both=lambda s, x, old, new: old)),
    # normalisation
    ("sample-variance", variant(statistics=lambda self, x: (x.mean(0), x.var(0, ddof=1)))),
    ("uncentred", variant(statistics=lambda self, x: (x.mean(0), (x**2).mean(0)))),
    ("wrong-axis", variant(statistics=lambda self, x: (x.mean(1), x.var(1)))),
    ("all-axes", variant(statistics=lambda self, x: (x.mean(), x.var()))),
    ("mean-not-subtracted", variant(remember=without_subtracting)),
    ("epsilon-outside", variant(scale=lambda self, v: 1 / (sqrt(v) + self.epsilon))),
    ("epsilon-forgotten", variant(scale=lambda self, v: 1 / sqrt(v))),
    ("epsilon-fixed", variant(scale=lambda self, v: 1 / sqrt(v + 1e-5))),
    ("epsilon-squared", variant(scale=lambda self, v: 1 / sqrt(v + self.epsilon**2))),
    ("no-root", variant(scale=lambda self, v: 1 / (v + self.epsilon))),
    ("gamma-forgotten", variant(affine=lambda self, h: h + self.beta)),
    ("beta-forgotten", variant(affine=lambda self, h: self.gamma * h)),
    ("gamma-beta-swapped", variant(affine=lambda self, h: self.beta * h + self.gamma)),
    ("gamma-on-beta", variant(affine=lambda self, h: self.gamma * (h + self.beta))),
    ("beta-subtracted", variant(affine=lambda self, h: self.gamma * h - self.beta)),
    # dx
    ("mean-constant", dx(lambda g, s, n, dy, h: g * s * (dy - h * (dy * h).mean(0)))),
    ("variance-constant", dx(lambda g, s, n, dy, h: g * s * (dy - dy.mean(0)))),
    ("statistics-constant", dx(lambda g, s, n, dy, h: g * s * dy)),
    ("gamma-not-in-dx", variant(dx=lambda self, dy: Hand.dx(self, dy) / self.gamma)),
    ("n-missing", dx(lambda g, s, n, dy, h: g * s * (n * dy - dy.sum(0) - h * (dy * h).sum(0)))),
    ("n-twice", dx(lambda g, s, n, dy, h: g * s / n * (dy - dy.mean(0) - h * (dy * h).mean(0)))),
    ("sums-for-means", dx(lambda g, s, n, dy, h: g * s * (dy - dy.sum(0) - h * (dy * h).sum(0)))),
    ("plus-for-minus", dx(lambda g, s, n, dy, h: g * s * (dy + dy.mean(0) + h * (dy * h).mean(0)))),
    ("sign", variant(dx=lambda self, dy: -Hand.dx(self, dy))),
    ("two-missing", dx(lambda g, s, n, dy, h: g * s * (dy - dy.mean(0) - h * (dy * h).mean(0) / 2))),
    ("half-missing", dx(lambda g, s, n, dy, h: g * s * (dy - dy.mean(0) - h * (dy * h).mean(0) * 2))),
    ("inverse-std-squared", variant(dx=lambda self, dy: Hand.dx(self, dy) * self.inverse_std)),
    ("inverse-std-missing", variant(dx=lambda self, dy: Hand.dx(self, dy) / self.inverse_std)),
    ("std-for-inverse", variant(dx=lambda self, dy: Hand.dx(self, dy) / self.inverse_std**2)),
    # the parameters' gradients
    ("dgamma-with-x", gradients(dgamma=lambda self, dy: (dy * self.x).sum(0))),
    ("dgamma-with-centred", gradients(dgamma=lambda self, dy: (dy * self.x_hat / self.inverse_std).sum(0))),
    ("dgamma-with-y", gradients(dgamma=lambda self, dy: (dy * self.gamma * self.x_hat).sum(0))),
    ("dbeta-with-gamma", gradients(dbeta=lambda self, dy: (dy * self.gamma).sum(0))),
    ("mean-for-sum", gradients(lambda self, dy: (dy * self.x_hat).mean(0), lambda self, dy: dy.mean(0))),
    ("not-summed", gradients(lambda self, dy: dy * self.x_hat, lambda self, dy: dy)),
    ("gradients-swapped", gradients(lambda self, dy: dy.sum(0), lambda self, dy: (dy * self.x_hat).sum(0))),
]


@pytest.mark.parametrize(("code", "layer"), LAYERS)
def test_each_known_mistake_is_named(code, layer):
    result = check_layer(layer)
    assert not result.passed
    assert result.mistakes == (code,), result


def test_every_mistake_of_the_catalogue_is_planted_here():
    assert {code for code, _ in LAYERS} == {mistake.code for mistake in catalogue("layer")}


def test_shared_statistics_are_named_every_time():
    assert check_layer(SharedInPlace).mistakes == check_layer(SharedInPlace).mistakes == ("shared-statistics",)


def test_changes_in_place_are_named_with_their_array():
    result = check_layer(InPlace)
    assert {"mutates-input", "never-moves"} <= set(result.mistakes)
    assert "Changed: x." in repr(result)


def test_three_mistakes_in_three_places_are_all_named():
    layer = moves(both=lambda s, x, old, new: (1 - s.momentum) * old + s.momentum * new)
    layer.scale = lambda self, v: 1 / sqrt(v)
    layer.dx = lambda self, dy: Hand.dx(self, dy) / self.gamma
    result = check_layer(layer)
    assert set(result.mistakes) == {"momentum-inverted", "epsilon-forgotten", "gamma-not-in-dx"}
    assert result.symptoms == ()


# --- right layers -----------------------------------------------------------------------------------------------------


def of_the_course(channels, momentum, epsilon):
    return BatchNorm(momentum=momentum, epsilon=epsilon)


class InFloat32(Hand):
    def __call__(self, x, training):
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            setattr(self, name, getattr(self, name).astype(np.float32))
        return super().__call__(x.astype(np.float32), training)


class InPlaceOnItsOwn(Hand):
    """Moves its own arrays in place: nobody else sees them."""

    def update(self, x, mean, variance):
        self.moving_mean += (1 - self.momentum) * (mean - self.moving_mean)
        self.moving_variance += (1 - self.momentum) * (variance - self.moving_variance)


@pytest.mark.parametrize("layer", [Hand, of_the_course, InFloat32, InPlaceOnItsOwn])
def test_right_layers_pass(layer):
    result = check_layer(layer)
    assert result.passed, result
    assert repr(result) == "layer: passed."


# --- unknown mistakes -------------------------------------------------------------------------------------------------


def without_a_constructor(channels, momentum, epsilon):
    raise NotImplementedError


class WithoutBackward:
    def __init__(self, channels, momentum, epsilon):
        self.gamma = self.beta = np.ones(channels)

    def __call__(self, x, training):
        return 2 * x


def test_a_stub_is_told_so():
    result = check_layer(without_a_constructor)
    assert (result.mistakes, result.symptoms) == ((), ("unwritten",))
    assert repr(result) == "layer: not yet.\n  Your answer is not written yet: it raises NotImplementedError."


def test_a_class_of_stubs_is_told_so_and_not_that_its_statistics_stand_still():
    def unwritten(self, *arguments):
        raise NotImplementedError

    result = check_layer(variant(__call__=unwritten, backward=unwritten))
    assert (result.mistakes, result.symptoms) == ((), ("unwritten",))
    assert " ".join(repr(result).split()).count("is not written yet") == 1
    assert "Every call raises NotImplementedError: it is not written yet." in repr(result)
    assert repr(result).endswith("Right: moving_mean, moving_variance at the start.")


def test_a_stub_of_backward_leaves_forward_right():
    def unwritten(self, *arguments):
        raise NotImplementedError

    result = check_layer(variant(backward=unwritten))
    assert (result.mistakes, result.symptoms) == ((), ("unwritten",))
    assert "backward in both modes is not written yet: it raises NotImplementedError." in repr(result)
    assert repr(result).endswith("All else is right.")


def test_a_maker_of_nothing_is_told_so():
    assert "returns None where a layer was expected" in repr(check_layer(lambda channels, momentum, epsilon: None))


def test_what_is_missing_is_named():
    result = check_layer(WithoutBackward)
    assert result.mistakes == ()
    text = " ".join(repr(result).split())
    assert "has no attribute 'backward'" in text
    assert "has no attribute 'moving_mean'" in text


def test_missing_gradients_are_named():
    def backward(self, dy):
        return self.dx(dy)

    def init(self, channels, momentum, epsilon):
        Hand.__init__(self, channels, momentum, epsilon)
        del self.gradients

    result = check_layer(variant(backward=backward, __init__=init))
    assert result.mistakes == ()
    assert "has no attribute 'gradients'" in " ".join(repr(result).split())


def test_parameters_that_cannot_be_set_are_told_so():
    class Fixed(Hand):
        gamma = property(lambda self: np.ones(3), lambda self, value: self.refuse())

        def __init__(self, channels, momentum, epsilon):
            self.moving_mean, self.moving_variance = np.zeros(channels), np.ones(channels)

        def refuse(self):
            raise AttributeError("gamma is fixed")

    result = check_layer(Fixed)
    assert result.symptoms == ("exception",)
    assert "Setting gamma and beta raises AttributeError: gamma is fixed." in repr(result)


def test_an_unknown_mistake_in_one_place_leaves_the_rest_right():
    result = check_layer(variant(dx=lambda self, dy: Hand.dx(self, dy) ** 2))
    assert result.mistakes == ()
    assert repr(result).endswith("All else is right.")


def flat(result):
    return " ".join(repr(result).split())


def keys(**names):
    """A layer that hands its gradients over by other names."""

    def backward(self, dy):
        result = Hand.backward(self, dy)
        self.gradients = {new: self.gradients[old] for old, new in names.items()}
        return result

    return variant(backward=backward)


def test_other_keys_of_the_gradients_are_named_with_those_expected():
    result = check_layer(keys(gamma="dgamma", beta="dbeta"))
    assert (result.mistakes, result.symptoms) == ((), ("keys",))
    expected = "layer: not yet. gradients has the keys dgamma, dbeta; expected gamma, beta. All else is right."
    assert flat(result) == expected
    assert "gradients has no keys; expected gamma, beta." in flat(check_layer(keys()))


def test_gradients_that_are_missing_in_one_mode_are_told_so():
    def backward(self, dy):
        result = Hand.backward(self, dy)
        if not self.training:
            self.gradients = {}
        return result

    words = "gradients has no keys; expected gamma, beta. Seen in: dgamma, dbeta in inference mode."
    assert words in flat(check_layer(variant(backward=backward)))


def test_one_key_that_is_missing_is_enough():
    result = check_layer(keys(gamma="gamma"))
    assert "gradients has the keys gamma; expected gamma, beta." in flat(result)


def test_a_backward_that_returns_all_gradients_is_asked_for_dx_alone():
    def backward(self, dy):
        return Hand.backward(self, dy), self.gradients["gamma"], self.gradients["beta"]

    result = check_layer(variant(backward=backward))
    assert (result.mistakes, result.symptoms) == ((), ("count",))
    words = "backward returns a tuple of 3; expected dx alone. The others belong in gradients. All else is right."
    assert flat(result) == f"layer: not yet. {words}"


def test_an_error_in_every_call_is_said_once():
    result = check_layer(variant(__call__=lambda self, x: x))
    assert flat(result).count("raises TypeError") == 1
    assert "Every call raises TypeError" in flat(result)


def test_an_error_in_backward_of_one_mode_is_said_once():
    def backward(self, dy):
        return Hand.backward(self, dy) if self.training else self.nothing

    text = flat(check_layer(variant(backward=backward)))
    assert "backward in inference mode raises AttributeError" in text
    assert text.count("AttributeError") == 1


def test_outputs_are_listed_by_mode():
    text = flat(check_layer(moves(both=lambda s, x, old, new: old)))
    words = "Seen in: moving_mean, moving_variance after training; y, dx, dgamma in inference mode."
    assert words in text
    text = flat(check_layer(variant(affine=lambda self, h: h + self.beta)))
    assert "Seen in: y in both modes." in text


def test_a_layer_with_a_gamma_of_its_own_is_told_that_the_check_sets_gamma():
    def init(self, channels, momentum=0.99, epsilon=1e-3):
        Hand.__init__(self, channels, momentum, epsilon)
        self.weight = self.gamma

    result = check_layer(variant(__init__=init, affine=lambda self, h: self.weight * h + self.beta))
    assert result.mistakes == ("gamma-forgotten",)
    assert "The check sets the attribute gamma anew: a copy that the layer keeps elsewhere" in flat(result)


def test_a_backward_that_takes_a_step_is_told_what_it_changed():
    def backward(self, dy):
        result = Hand.backward(self, dy)
        self.gamma = self.gamma - 0.1 * self.gradients["gamma"]
        return result

    result = check_layer(variant(backward=backward))
    assert result.mistakes[0] == "mutates-input"
    assert "Changed: gamma." in repr(result)


def test_an_instance_is_refused_and_so_is_what_cannot_be_called():
    with pytest.raises(TypeError, match=r"layer is an instance of Hand; give the class itself, without \(\)"):
        check_layer(Hand(3))
    with pytest.raises(TypeError, match=r"layer = None cannot be called; give the class itself"):
        check_layer(None)
