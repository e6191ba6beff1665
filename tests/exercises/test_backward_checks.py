# ruff: noqa: ARG005 (an answer that forgets an argument does not use it)
"""The checks of backward, for tables and for images; the mistakes are written out as a reader would write them."""

from __future__ import annotations

import numpy as np
import pytest

from bncourse.exercises import catalogue, check_backward, check_convolution_backward
from bncourse.nn import batch_norm_backward, batch_norm_backward_graph, batch_norm_train

sqrt = np.sqrt


def reader(
    dx=lambda g, s, n, dy, h: g * s / n * (n * dy - dy.sum(0) - h * (dy * h).sum(0)),
    dgamma=lambda dy, h, x, g: (dy * h).sum(0),
    dbeta=lambda dy, g: dy.sum(0),
    std=lambda x, e: sqrt(x.var(0) + e),
):
    """A reader's backward pass with one line replaced; `s` is 1 / std, `h` is x_hat."""

    def answer(dy, x, gamma, epsilon):
        s = 1 / std(x, epsilon)
        h = (x - x.mean(0)) * s
        return dx(gamma, s, len(x), dy, h), dgamma(dy, h, x, gamma), dbeta(dy, gamma)

    return answer


def along_axis_1(dy, x, gamma, epsilon):
    s = 1 / sqrt(x.var(1, keepdims=True) + epsilon)
    h = (x - x.mean(1, keepdims=True)) * s
    n = x.shape[1]
    dx = gamma * s / n * (n * dy - dy.sum(1, keepdims=True) - h * (dy * h).sum(1, keepdims=True))
    return dx, (dy * h).sum(1), dy.sum(1)


def sums_along_axis_1(dy, x, gamma, epsilon):
    s = 1 / sqrt(x.var(0) + epsilon)
    h = (x - x.mean(0)) * s
    n, dgamma, dbeta = x.shape[1], (dy * h).sum(1), dy.sum(1)
    return gamma * s / n * (n * dy - dbeta - h * dgamma), dgamma, dbeta


def over_everything(dy, x, gamma, epsilon):
    s = 1 / sqrt(x.var() + epsilon)
    h = (x - x.mean()) * s
    dx = gamma * s / x.size * (x.size * dy - dy.sum() - h * (dy * h).sum())
    return dx, (dy * h).sum(0), dy.sum(0)


def consistent_sample_variance(dy, x, gamma, epsilon):
    n = len(x)
    s = 1 / sqrt(x.var(0, ddof=1) + epsilon)
    h = (x - x.mean(0)) * s
    dx = gamma * s * (dy - dy.mean(0) - h * (dy * h).sum(0) / (n - 1))
    return dx, (dy * h).sum(0), dy.sum(0)


def uncentred(dy, x, gamma, epsilon):
    n = len(x)
    s = 1 / sqrt((x**2).mean(0) + epsilon)
    h = (x - x.mean(0)) * s
    return gamma * s / n * (n * dy - dy.sum(0) - h * (dy * h).sum(0)), (dy * h).sum(0), dy.sum(0)


def through_the_graph(variance_factor=-0.5, square_factor=2.0, power=3):
    def answer(dy, x, gamma, epsilon):
        n, centred = len(x), x - x.mean(0)
        s = (x.var(0) + epsilon) ** -0.5
        dx_hat = dy * gamma
        dvariance = variance_factor * s**power * (dx_hat * centred).sum(0)
        dcentred = dx_hat * s + dvariance * square_factor * centred / n
        return dcentred - dcentred.sum(0) / n, (dy * centred * s).sum(0), dy.sum(0)

    return answer


def for_eight_rows(dy, x, gamma, epsilon):
    s = 1 / sqrt(x.var(0) + epsilon)
    h = (x - x.mean(0)) * s
    return gamma * s / 8 * (8 * dy - dy.sum(0) - h * (dy * h).sum(0)), (dy * h).sum(0), dy.sum(0)


def in_place(dy, x, gamma, epsilon):
    dy *= gamma
    s = 1 / sqrt(x.var(0) + epsilon)
    h = (x - x.mean(0)) * s
    dx = s * (dy - dy.mean(0) - h * (dy * h).mean(0))
    return dx, (dy * h).sum(0) / gamma, dy.sum(0) / gamma


def remembering():
    total = []

    def answer(dy, x, gamma, epsilon):
        total.append(1)
        dx, dgamma, dbeta = reader()(dy, x, gamma, epsilon)
        return dx, dgamma * len(total), dbeta

    return answer


DX = [
    ("mean-constant", lambda g, s, n, dy, h: g * s * (dy - h * (dy * h).mean(0))),
    ("variance-constant", lambda g, s, n, dy, h: g * s * (dy - dy.mean(0))),
    ("statistics-constant", lambda g, s, n, dy, h: g * s * dy),
    ("gamma-not-in-dx", lambda g, s, n, dy, h: s * (dy - dy.mean(0) - h * (dy * h).mean(0))),
    ("gamma-twice-in-dx", lambda g, s, n, dy, h: g * s * (g * dy - (g * dy).mean(0) - h * (g * dy * h).mean(0))),
    ("n-missing", lambda g, s, n, dy, h: g * s * (n * dy - dy.sum(0) - h * (dy * h).sum(0))),
    ("n-twice", lambda g, s, n, dy, h: g * s / n * (dy - dy.mean(0) - h * (dy * h).mean(0))),
    ("sums-for-means", lambda g, s, n, dy, h: g * s * (dy - dy.sum(0) - h * (dy * h).sum(0))),
    ("sums-for-means", lambda g, s, n, dy, h: g * s * (dy - dy.sum(0) - h * (dy * h).mean(0))),
    ("sums-for-means", lambda g, s, n, dy, h: g * s * (dy - dy.mean(0) - h * (dy * h).sum(0))),
    ("plus-for-minus", lambda g, s, n, dy, h: g * s * (dy + dy.mean(0) + h * (dy * h).mean(0))),
    ("plus-for-minus", lambda g, s, n, dy, h: g * s * (dy + dy.mean(0) - h * (dy * h).mean(0))),
    ("plus-for-minus", lambda g, s, n, dy, h: g * s * (dy - dy.mean(0) + h * (dy * h).mean(0))),
    ("sign", lambda g, s, n, dy, h: g * s * (dy.mean(0) + h * (dy * h).mean(0) - dy)),
    ("inverse-std-squared", lambda g, s, n, dy, h: g * s**2 * (dy - dy.mean(0) - h * (dy * h).mean(0))),
    ("inverse-std-missing", lambda g, s, n, dy, h: g * (dy - dy.mean(0) - h * (dy * h).mean(0))),
    ("std-for-inverse", lambda g, s, n, dy, h: g / s * (dy - dy.mean(0) - h * (dy * h).mean(0))),
]


def in_order(*order):
    return lambda *a: tuple(reader()(*a)[i] for i in order)


BACKWARD = [
    *((code, reader(dx=dx)) for code, dx in DX),
    ("two-missing", through_the_graph(square_factor=1.0)),
    ("half-missing", through_the_graph(variance_factor=-1.0)),
    ("wrong-power", through_the_graph(power=1)),
    ("wrong-power", through_the_graph(power=2)),
    ("dy-x-swapped", lambda x, dy, g, e: reader()(dy, x, g, e)),
    ("root-of-each", reader(std=lambda x, e: x.std(0) + sqrt(e))),
    ("epsilon-as-floor", reader(std=lambda x, e: sqrt(np.maximum(x.var(0), e)))),
    ("wrong-order", in_order(1, 2, 0)),
    ("wrong-order", in_order(2, 1, 0)),
    ("wrong-order", in_order(1, 0, 2)),
    ("wrong-order", in_order(2, 0, 1)),
    ("first-only", reader(std=lambda x, e: sqrt(x.var(0) + 0.1))),
    ("wrong-axis", along_axis_1),
    ("wrong-axis", sums_along_axis_1),
    ("all-axes", over_everything),
    ("sample-variance", reader(std=lambda x, e: sqrt(x.var(0, ddof=1) + e))),
    ("sample-variance", consistent_sample_variance),
    ("uncentred", uncentred),
    ("epsilon-forgotten", reader(std=lambda x, e: x.std(0))),
    ("epsilon-outside", reader(std=lambda x, e: x.std(0) + e)),
    ("epsilon-fixed", reader(std=lambda x, e: sqrt(x.var(0) + 1e-3))),
    ("epsilon-squared", reader(std=lambda x, e: sqrt(x.var(0) + e**2))),
    ("no-root", reader(std=lambda x, e: x.var(0) + e)),
    ("dgamma-with-x", reader(dgamma=lambda dy, h, x, g: (dy * x).sum(0))),
    ("dgamma-with-centred", reader(dgamma=lambda dy, h, x, g: (dy * (x - x.mean(0))).sum(0))),
    ("dgamma-with-y", reader(dgamma=lambda dy, h, x, g: (dy * g * h).sum(0))),
    ("dbeta-with-gamma", reader(dbeta=lambda dy, g: (dy * g).sum(0))),
    ("mean-for-sum", reader(dgamma=lambda dy, h, x, g: (dy * h).mean(0), dbeta=lambda dy, g: dy.mean(0))),
    ("mean-for-sum", reader(dbeta=lambda dy, g: dy.mean(0))),
    ("not-summed", reader(dgamma=lambda dy, h, x, g: dy * h, dbeta=lambda dy, g: dy)),
    ("gradients-swapped", lambda *a: tuple(reader()(*a)[i] for i in (0, 2, 1))),
    ("shape-fixed", for_eight_rows),
    ("mutates-input", in_place),
    ("remembers", remembering()),
]


@pytest.mark.parametrize(("code", "answer"), BACKWARD)
def test_each_known_mistake_is_named(code, answer):
    result = check_backward(answer)
    assert not result.passed
    assert result.mistakes == (code,)
    assert max(map(len, repr(result).splitlines())) <= 79


def test_every_mistake_of_the_catalogue_is_planted_here():
    assert {code for code, _ in BACKWARD} == {mistake.code for mistake in catalogue("backward")}


def as_a_table(answer):
    def images(dy, x, gamma, epsilon):
        gradients = answer(dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1]), gamma, epsilon)
        table = (x.size // x.shape[-1], x.shape[-1])
        return tuple(np.reshape(g, x.shape) if np.shape(g) == table else g for g in gradients)

    return images


def over(axes, parameters=(0, 1, 2)):
    """Backward for images with the moments over `axes`, and the parameters' sums over the axes given."""

    def answer(dy, x, gamma, epsilon):
        s = 1 / sqrt(x.var(axes, keepdims=True) + epsilon)
        h = (x - x.mean(axes, keepdims=True)) * s
        dx = gamma * s * (dy - dy.mean(axes, keepdims=True) - h * (dy * h).mean(axes, keepdims=True))
        return dx, (dy * h).sum(parameters), dy.sum(parameters)

    return answer


def with_too_small_an_n(dy, x, gamma, epsilon):
    n = len(x)
    s = 1 / sqrt(x.var((0, 1, 2)) + epsilon)
    h = (x - x.mean((0, 1, 2))) * s
    dgamma, dbeta = (dy * h).sum((0, 1, 2)), dy.sum((0, 1, 2))
    return gamma * s / n * (n * dy - dbeta - h * dgamma), dgamma, dbeta


def images_for_one_shape(dy, x, gamma, epsilon):
    s = 1 / sqrt(x.var((0, 1, 2)) + epsilon)
    h = (x - x.mean((0, 1, 2))) * s
    dgamma, dbeta = (dy * h).sum((0, 1, 2)), dy.sum((0, 1, 2))
    return gamma * s / 24 * (24 * dy - dbeta - h * dgamma), dgamma, dbeta


def channels_mixed(into, out_of):
    def answer(dy, x, gamma, epsilon):
        dx, dgamma, dbeta = reader()(into(dy), into(x), gamma, epsilon)
        return out_of(dx, x.shape), dgamma, dbeta

    return answer


def with_moved_axes(x):
    return np.moveaxis(x, 3, 1).reshape(-1, x.shape[3])


def with_axes_moved_back(dx, shape):
    n, height, width, channels = shape
    return np.moveaxis(dx.reshape(n, channels, height, width), 1, 3)


_AXES = {
    "batch-only": 0,
    "batch-and-channels": (0, 3),
    "space-only": (1, 2),
    "channels-only": 3,
    "channels-first": (0, 2, 3),
    "per-sample": (1, 2, 3),
    "all-axes": None,
}
# These change nothing but the table that comes before them.
_OF_TABLES = [
    (code, as_a_table(answer)) for code, answer in BACKWARD if code not in ("wrong-axis", "all-axes", "shape-fixed")
]
IMAGES = [
    *((code, over(axes)) for code, axes in _AXES.items()),
    *((code, over(axes, axes)) for code, axes in _AXES.items()),
    ("channels-mixed", channels_mixed(lambda x: x.reshape(x.shape[3], -1).T, lambda dx, shape: dx.T.reshape(shape))),
    ("channels-mixed", channels_mixed(with_moved_axes, np.reshape)),
    ("channels-mixed", channels_mixed(with_moved_axes, with_axes_moved_back)),
    ("parameters-batch-only", over((0, 1, 2), 0)),
    ("n-batch-only", with_too_small_an_n),
    ("shape-fixed", images_for_one_shape),
    *_OF_TABLES,
]


@pytest.mark.parametrize(("code", "answer"), IMAGES)
def test_each_known_mistake_with_images_is_named(code, answer):
    # A function with a memory was called before by the test of tables; all others give what they gave there.
    result = check_convolution_backward(as_a_table(remembering()) if code == "remembers" else answer)
    assert result.mistakes == (code,)


def test_parameters_that_are_not_summed_over_images_are_named():
    def answer(dy, x, gamma, epsilon):
        dx, _, _ = as_a_table(reader())(dy, x, gamma, epsilon)
        return dx, dy * (x - x.mean((0, 1, 2))) / sqrt(x.var((0, 1, 2)) + epsilon), dy

    assert check_convolution_backward(answer).mistakes == ("not-summed",)


def test_every_mistake_with_images_is_planted_here():
    assert {code for code, _ in IMAGES} == {mistake.code for mistake in catalogue("convolution_backward")}


# --- right answers ----------------------------------------------------------------------------------------------------


def of_the_course(dy, x, gamma, epsilon):
    return batch_norm_backward(dy, batch_norm_train(x, gamma, gamma * 0, epsilon=epsilon, axis=-1)[1])


def of_the_course_by_the_graph(dy, x, gamma, epsilon):
    return batch_norm_backward_graph(dy, batch_norm_train(x, gamma, gamma * 0, epsilon=epsilon, axis=-1)[1])


def with_the_jacobian(dy, x, gamma, epsilon):
    n, dx = len(x), np.zeros_like(x)
    s = 1 / sqrt(x.var(0) + epsilon)
    h = (x - x.mean(0)) * s
    for j in range(x.shape[1]):
        dx[:, j] = gamma[j] * s[j] * (np.eye(n) - 1 / n - np.outer(h[:, j], h[:, j]) / n) @ dy[:, j]
    return [dx, np.einsum("nc,nc->c", dy, h), np.einsum("nc->c", dy)]


def in_float32(dy, x, gamma, epsilon):
    given = (np.asarray(v, np.float32) for v in (dy, x, gamma))
    return reader()(*given, np.float32(epsilon))


def by_finite_differences(dy, x, gamma, epsilon):
    def loss(v):
        return np.sum(dy * gamma * (v - v.mean(0)) / sqrt(v.var(0) + epsilon))

    dx, step = np.zeros_like(x), 1e-4 * x.std()
    for place in np.ndindex(x.shape):
        nudge = np.zeros_like(x)
        nudge[place] = step
        dx[place] = (loss(x + nudge) - loss(x - nudge)) / (2 * step)
    return dx, reader()(dy, x, gamma, epsilon)[1], dy.sum(0)


@pytest.mark.parametrize(
    "answer",
    [
        of_the_course,
        of_the_course_by_the_graph,
        reader(),
        through_the_graph(),
        with_the_jacobian,
        in_float32,
        by_finite_differences,
    ],
)
def test_right_answers_pass(answer):
    assert repr(check_backward(answer)) == "backward: passed."
    assert repr(check_convolution_backward(as_a_table(answer))) == "convolution backward: passed."


# --- several mistakes, and unknown ones -------------------------------------------------------------------------------


def test_each_output_is_diagnosed_by_itself():
    answer = reader(
        dx=lambda g, s, n, dy, h: s * (dy - dy.mean(0)),
        dgamma=lambda dy, h, x, g: (dy * x).sum(0),
        dbeta=lambda dy, g: 3 * dy.sum(0),
    )
    result = check_backward(answer)
    assert set(result.mistakes) == {"gamma-not-in-dx", "variance-constant", "dgamma-with-x"}
    assert result.symptoms == ("factor",)
    assert "dbeta: every entry is 3 times what it should be." in repr(result)


def test_what_is_right_is_said():
    result = check_backward(reader(dbeta=lambda dy, g: dy.sum(0) ** 2))
    assert result.mistakes == ()
    assert "Right: dx, dgamma." in repr(result)


@pytest.mark.parametrize(
    ("kind", "answer", "words"),
    [
        ("none", lambda *a: None, "Your answer returns None"),
        ("count", lambda *a: a[0], "returns one object of type ndarray; expected 3, as in: return dx, dgamma, dbeta."),
        ("count", lambda *a: (a[0], a[2]), "returns 2 outputs; expected 3, as in: return dx, dgamma, dbeta."),
        ("exception", lambda dy, x: dy, "Your answer raises TypeError"),
    ],
)
def test_an_answer_of_the_wrong_form_is_told_so(kind, answer, words):
    result = check_backward(answer)
    assert (result.passed, result.mistakes, result.symptoms) == (False, (), (kind,))
    assert words in " ".join(repr(result).split())


def test_the_order_returned_is_printed_and_a_mistake_in_it_is_found():
    dx, dgamma, dbeta = (lambda *a, i=i: reader()(*a)[i] for i in range(3))
    result = check_backward(lambda *a: (dgamma(*a), dbeta(*a), dx(*a)))
    assert "Returned: dgamma, dbeta, dx." in repr(result)
    assert result.symptoms == ()
    spoilt = check_backward(lambda dy, x, g, e: (dgamma(dy, x, g, e), dbeta(dy, x, g, e), dx(dy, x, g, e) / g))
    assert spoilt.mistakes == ("wrong-order", "gamma-not-in-dx")
    assert "Right: dgamma, dbeta." in repr(spoilt)


def test_sums_over_the_batch_only_get_one_verdict():
    result = check_convolution_backward(over((0, 1, 2), 0))
    assert (result.mistakes, result.symptoms) == (("parameters-batch-only",), ())
    assert "Seen in: dgamma, dbeta." in repr(result)


def test_an_output_of_none_is_told_so():
    result = check_backward(lambda *a: (reader()(*a)[0], None, reader()(*a)[2]))
    assert result.symptoms == ("none",)
    assert "dgamma is None." in repr(result)


@pytest.mark.parametrize("check", [check_backward, check_convolution_backward])
def test_what_cannot_be_called_is_refused(check):
    with pytest.raises(TypeError, match=r"answer = None cannot be called; give the function itself"):
        check(None)
