# ruff: noqa: ARG005 (an answer that forgets an argument does not use it)
"""The checks of forward, of the convolutional case and of inference mode.

Every planted mistake is written out here as a reader would write it; none comes from the checks themselves.
"""

from __future__ import annotations

import re

import numpy as np
import pytest

from bncourse.exercises import catalogue, check_convolution, check_forward, check_inference
from bncourse.nn import batch_norm_inference, batch_norm_train

sqrt = np.sqrt


# --- right answers, in several styles ---------------------------------------------------------------------------------


def of_the_course(x, gamma, beta, epsilon):
    return batch_norm_train(x, gamma, beta, epsilon=epsilon, axis=-1)[0]


def with_loops(x, gamma, beta, epsilon):
    rows, columns = x.shape
    y = [[0.0] * columns for _ in range(rows)]
    for j in range(columns):
        mean = sum(x[i][j] for i in range(rows)) / rows
        variance = sum((x[i][j] - mean) ** 2 for i in range(rows)) / rows
        for i in range(rows):
            y[i][j] = gamma[j] * (x[i][j] - mean) / (variance + epsilon) ** 0.5 + beta[j]
    return y  # a list of lists


def with_var(x, gamma, beta, epsilon):
    return (x - np.mean(x, 0)) / np.sqrt(np.var(x, 0) + epsilon) * gamma + beta


def with_einsum(x, gamma, beta, epsilon):
    centred = x - np.einsum("nc->c", x) / len(x)
    variance = np.einsum("nc,nc->c", centred, centred) / len(x)
    return np.einsum("c,nc,c->nc", gamma, centred, (variance + epsilon) ** -0.5) + beta


def in_float32(x, gamma, beta, epsilon):
    x = x.astype(np.float32)
    return (gamma * ((x - x.mean(0)) / sqrt(x.var(0) + np.float32(epsilon))) + beta).astype(np.float32)


def in_one_pass_but_shifted(x, gamma, beta, epsilon):
    x = x - x[0]
    return gamma * (x - x.mean(0)) / sqrt((x**2).mean(0) - x.mean(0) ** 2 + epsilon) + beta


@pytest.mark.parametrize(
    "answer", [of_the_course, with_loops, with_var, with_einsum, in_float32, in_one_pass_but_shifted]
)
def test_right_answers_pass(answer):
    result = check_forward(answer)
    assert result.passed, result
    assert result
    assert repr(result) == "forward: passed."
    assert (result.mistakes, result.symptoms) == ((), ())


def test_an_answer_may_refuse_float32():
    def answer(x, gamma, beta, epsilon):
        if x.dtype != np.float64:
            raise TypeError("float64 only")
        return with_var(x, gamma, beta, epsilon)

    assert check_forward(answer).passed


# --- each known mistake -----------------------------------------------------------------------------------------------


def hat(x, e):
    return (x - x.mean(0)) / sqrt(x.var(0) + e)


def one_pass(x, g, b, e):
    return g * (x - x.mean(0)) / sqrt((x * x).mean(0) - x.mean(0) ** 2 + e) + b


def for_eight_rows(x, g, b, e):
    mean = x.sum(0) / 8
    return g * (x - mean) / sqrt(((x - mean) ** 2).sum(0) / 8 + e) + b


def three_columns(x, g, b, e):
    y = np.zeros_like(x)
    for j in range(3):
        y[:, j] = g[j] * hat(x[:, j], e) + b[j]
    return y


def in_place(x, g, b, e):
    x -= x.mean(0)
    return g * x / sqrt(x.var(0) + e) + b


def gamma_in_place(x, g, b, e):
    y = g * hat(x, e) + b
    g *= 2
    return y


def remembering():
    calls = []

    def answer(x, g, b, e):
        calls.append(1)
        return g * hat(x, e) + b * len(calls)

    return answer


def drawing():
    rng = np.random.default_rng(0)
    return lambda x, g, b, e: g * hat(x, e) + b + rng.normal(size=x.shape)


def keeping_the_first_mean():
    kept = []

    def answer(x, g, b, e):
        kept.append(x.mean(0))
        return g * (x - kept[0]) / sqrt(x.var(0) + e) + b

    return answer


def keeping_a_mean_for_each_shape():
    kept = {}

    def answer(x, g, b, e):
        if kept.get("shape") != x.shape:
            kept.update(shape=x.shape, mean=x.mean(0))
        return g * (x - kept["mean"]) / sqrt(x.var(0) + e) + b

    return answer


FORWARD = [
    ("remembers", keeping_a_mean_for_each_shape()),
    ("wrong-axis", lambda x, g, b, e: g * (x - x.mean(1, keepdims=True)) / sqrt(x.var(1, keepdims=True) + e) + b),
    ("wrong-axis", lambda x, g, b, e: g * (x - x.mean(1)) / sqrt(x.var(1) + e) + b),
    ("all-axes", lambda x, g, b, e: g * (x - x.mean()) / sqrt(x.var() + e) + b),
    ("all-axes", lambda x, g, b, e: g * (x - x.mean(0)) / sqrt(x.var() + e) + b),
    ("all-axes", lambda x, g, b, e: g * (x - x.mean()) / sqrt(x.var(0) + e) + b),
    ("sample-variance", lambda x, g, b, e: g * (x - x.mean(0)) / sqrt(x.var(0, ddof=1) + e) + b),
    ("uncentred", lambda x, g, b, e: g * (x - x.mean(0)) / sqrt((x**2).mean(0) + e) + b),
    ("mean-not-subtracted", lambda x, g, b, e: g * x / sqrt(x.var(0) + e) + b),
    ("parentheses-missing", lambda x, g, b, e: g * (x - x.mean(0) / sqrt(x.var(0) + e)) + b),
    ("root-of-each", lambda x, g, b, e: g * (x - x.mean(0)) / (x.std(0) + sqrt(e)) + b),
    ("epsilon-as-floor", lambda x, g, b, e: g * (x - x.mean(0)) / sqrt(np.maximum(x.var(0), e)) + b),
    ("gamma-twice", lambda x, g, b, e: g * (g * hat(x, e)) + b),
    ("first-only", keeping_the_first_mean()),
    ("first-only", lambda x, g, b, e: g * hat(x, 0.1) + b),
    ("epsilon-outside", lambda x, g, b, e: g * (x - x.mean(0)) / (x.std(0) + e) + b),
    ("epsilon-outside", lambda x, g, b, e: g * (x - x.mean(0)) * (1 / x.std(0) + e) + b),
    ("epsilon-forgotten", lambda x, g, b, e: g * (x - x.mean(0)) / x.std(0) + b),
    ("epsilon-fixed", lambda x, g, b, e: g * hat(x, 1e-3) + b),
    ("epsilon-fixed", lambda x, g, b, e: g * hat(x, 1e-5) + b),
    ("epsilon-fixed", lambda x, g, b, e: g * hat(x, 1e-6) + b),
    ("epsilon-fixed", lambda x, g, b, e: g * hat(x, 1e-7) + b),
    ("epsilon-fixed", lambda x, g, b, e: g * hat(x, 1e-8) + b),
    ("epsilon-squared", lambda x, g, b, e: g * hat(x, e**2) + b),
    ("no-root", lambda x, g, b, e: g * (x - x.mean(0)) / (x.var(0) + e) + b),
    ("gamma-forgotten", lambda x, g, b, e: hat(x, e) + b),
    ("beta-forgotten", lambda x, g, b, e: g * hat(x, e)),
    ("gamma-beta-swapped", lambda x, g, b, e: b * hat(x, e) + g),
    ("gamma-on-beta", lambda x, g, b, e: g * (hat(x, e) + b)),
    ("beta-subtracted", lambda x, g, b, e: g * hat(x, e) - b),
    ("one-pass-variance", one_pass),
    ("shape-fixed", for_eight_rows),
    ("shape-fixed", three_columns),
    ("mutates-input", in_place),
    ("mutates-input", gamma_in_place),
    ("remembers", remembering()),
    ("remembers", drawing()),
]


@pytest.mark.parametrize(("code", "answer"), FORWARD)
def test_each_known_mistake_is_named(code, answer):
    result = check_forward(answer)
    assert not result.passed
    assert not result
    assert result.mistakes == (code,)
    mistake = next(m for m in catalogue("forward") if m.code == code)
    flat = " ".join(repr(result).split())
    assert f"[{code}] {mistake.diagnosis}" in flat
    assert f"Hint: {mistake.hint}" in flat


def test_every_mistake_of_the_catalogue_is_planted_here():
    assert {code for code, _ in FORWARD} == {mistake.code for mistake in catalogue("forward")}


@pytest.mark.parametrize(
    ("codes", "answer"),
    [
        (
            {"sample-variance", "gamma-on-beta"},
            lambda x, g, b, e: g * ((x - x.mean(0)) / sqrt(x.var(0, ddof=1) + e) + b),
        ),
        ({"epsilon-outside", "beta-forgotten"}, lambda x, g, b, e: g * (x - x.mean(0)) / (x.std(0) + e)),
        ({"gamma-forgotten", "beta-forgotten"}, lambda x, g, b, e: hat(x, e)),
        ({"all-axes", "epsilon-forgotten"}, lambda x, g, b, e: g * (x - x.mean()) / x.std() + b),
    ],
)
def test_two_mistakes_together_are_both_named(codes, answer):
    assert set(check_forward(answer).mistakes) == codes


def test_a_mistake_and_a_change_in_place_are_both_named():
    def answer(x, g, b, e):
        x -= x.mean(0)
        return g * x / (x.std(0) + e) + b

    result = check_forward(answer)
    assert result.mistakes == ("mutates-input", "epsilon-outside")
    assert "Changed: x." in repr(result)


# --- what no catalogue knows gets a symptom, not a diagnosis ----------------------------------------------------------


def right(x, g, b, e):
    return g * hat(x, e) + b


def failing(x, g, b, e):
    raise KeyError("no <b>such</b> key")


def object_of_ones_own(x, g, b, e):
    class Odd:
        def __array__(self, *args, **kwargs):
            raise RuntimeError("odd")

    return Odd()


SYMPTOMS = [
    ("none", lambda x, g, b, e: None, "returns None"),
    ("count", lambda x, g, b, e: (right(x, g, b, e), x.mean(0)), "returns a tuple of 2; expected y alone"),
    ("exception", failing, "raises KeyError: 'no <b>such</b> key'"),
    ("exception", lambda x: x, "raises TypeError"),
    ("dtype", lambda x, g, b, e: right(x, g, b, e).astype(int), "dtype int64"),
    ("dtype", lambda x, g, b, e: right(x, g, b, e) + 0j, "dtype complex128"),
    ("dtype", lambda x, g, b, e: [[1.0], [1.0, 2.0]], "of type list"),
    ("dtype", object_of_ones_own, "of type Odd"),
    ("shape", lambda x, g, b, e: right(x, g, b, e).ravel(), "The numbers are right."),
    ("shape", lambda x, g, b, e: x.mean(0), "the shape is (3,); expected (8, 3)"),
    ("transposed", lambda x, g, b, e: right(x, g, b, e).T, "transpose"),
    ("not-finite", lambda x, g, b, e: np.log(right(x, g, b, e) - 100), "24 of 24 entries are NaN or infinite"),
    ("unchanged", lambda x, g, b, e: x, "it is x, unchanged"),
    ("zero", lambda x, g, b, e: 0 * x, "every entry is 0"),
    ("factor", lambda x, g, b, e: 3 * right(x, g, b, e), "every entry is 3 times"),
    ("factor", lambda x, g, b, e: -right(x, g, b, e), "every entry is -1 times"),
    ("offset", lambda x, g, b, e: right(x, g, b, e) + 0.25, "too large by 0.25"),
    ("factor-by-channel", lambda x, g, b, e: right(x, g, b, e) * np.arange(1, 1 + len(g)), "factor: 1, 2, 3"),
    ("offset-by-channel", lambda x, g, b, e: right(x, g, b, e) + np.arange(len(g)), "offset: 0, 1, 2"),
    ("spread", lambda x, g, b, e: 1.5 * g * hat(x, e) + b, "mean is right, its spread is off by a factor: 1.5"),
    ("affine", lambda x, g, b, e: 1.5 * g * hat(x, e) + 2 * b, "a factor and an offset"),
    ("numbers", lambda x, g, b, e: right(x, g, b, e) ** 3, "24 of 24 entries are wrong"),
]


@pytest.mark.parametrize(("kind", "answer", "words"), SYMPTOMS)
def test_an_unknown_mistake_gets_a_symptom(kind, answer, words):
    result = check_forward(answer)
    assert not result.passed
    assert result.mistakes == ()
    assert result.symptoms == (kind,)
    assert words in " ".join(repr(result).split())


def generator(x, g, b, e):
    yield from right(x, g, b, e)


async def asynchronous(x, g, b, e):
    return right(x, g, b, e)


@pytest.mark.parametrize(("answer", "kind"), [(generator, "generator"), (asynchronous, "coroutine")])
def test_what_computes_nothing_yet_is_named_by_its_type(answer, kind):
    result = check_forward(answer)
    assert (result.mistakes, result.symptoms) == ((), ("dtype",))
    assert f"returns a {kind}; expected an array." in " ".join(repr(result).split())


def test_float16_is_named_with_digits_that_differ():
    result = check_forward(lambda x, g, b, e: right(x, g, b, e).astype(np.float16))
    text = " ".join(repr(result).split())
    assert (result.mistakes, result.symptoms) == ((), ("precision",))
    assert "Your answer has dtype float16, which keeps three digits." in text
    assert "No known mistake" not in text
    got, expected = re.search(r"= (\S+), expected (\S+)\.", text).groups()
    assert got != expected
    assert float(got) == pytest.approx(float(expected), rel=1e-3)


def test_numbers_that_differ_late_are_printed_until_they_do():
    def answer(x, g, b, e):
        y = right(x, g, b, e)
        y[0, 0] += 1e-3
        return y

    text = repr(check_forward(answer))
    got, expected = re.search(r"= (\S+), expected (\S+)\.", " ".join(text.split())).groups()
    assert got != expected
    assert "float16" not in text


def test_float16_does_not_excuse_a_mistake():
    result = check_forward(lambda x, g, b, e: (3 * right(x, g, b, e)).astype(np.float16))
    assert "precision" not in result.symptoms
    result = check_forward(lambda x, g, b, e: (right(x, g, b, e) ** 3).astype(np.float16))
    assert "precision" not in result.symptoms


def test_three_mistakes_at_once_are_thought_of():
    result = check_forward(lambda x, g, b, e: (x - x.mean(0)) / (x.std(0, ddof=1) + e) + b)
    assert (result.mistakes, result.symptoms) == ((), ("spread",))
    assert "alone or with one more; perhaps there are more than two." in " ".join(repr(result).split())


def test_a_plain_symptom_is_not_laid_to_several_mistakes():
    assert "more than two" not in repr(check_forward(lambda x, g, b, e: x))
    assert "No known mistake" not in repr(check_forward(lambda x, g, b, e: right(x, g, b, e).T))


def test_the_first_wrong_entry_is_named():
    def answer(x, g, b, e):
        y = right(x, g, b, e)
        y[1, 2] += 1
        return y

    assert "1 of 24 entries are wrong, by up to 1; the first is y[1, 2]" in " ".join(
        repr(check_forward(answer)).split()
    )


def test_a_long_error_message_is_cut():
    def answer(x, g, b, e):
        raise ValueError("long " * 1000)

    assert len(repr(check_forward(answer))) < 400


def test_an_exception_that_cannot_be_printed_is_reported():
    class OddError(Exception):
        def __str__(self):
            raise RuntimeError

    def answer(x, g, b, e):
        raise OddError

    assert "raises OddError." in repr(check_forward(answer))


def test_a_stub_is_told_so():
    def answer(x, g, b, e):
        raise NotImplementedError

    result = check_forward(answer)
    assert result.symptoms == ("unwritten",)
    assert repr(result) == "forward: not yet.\n  Your answer is not written yet: it raises NotImplementedError."


def test_warnings_of_an_answer_stay_inside():
    check_forward(lambda x, g, b, e: np.log(-np.abs(x)) / np.zeros(1))
    check_forward(lambda x, g, b, e: x[:0].var(0) + x)


def test_messages_fit_the_page_and_repeat():
    for _, answer in FORWARD:
        assert max(map(len, repr(check_forward(answer)).splitlines())) <= 79
    answer = FORWARD[0][1]
    assert repr(check_forward(answer)) == repr(check_forward(answer))


# --- the convolutional case -------------------------------------------------------------------------------------------


def hat_over(x, axes, e, **options):
    return (x - x.mean(axes, keepdims=True)) / sqrt(x.var(axes, keepdims=True, **options) + e)


def channels_first(x, g, b, e):
    return g.reshape(1, -1, 1, 1) * hat_over(x, (0, 2, 3), e) + b.reshape(1, -1, 1, 1)


def for_three_by_two(x, g, b, e):
    table = x.reshape(4 * 3 * 2, -1)
    return (g * hat(table, e) + b).reshape(x.shape)


def images_in_place(x, g, b, e):
    x -= x.mean((0, 1, 2))
    return g * x / sqrt(x.var((0, 1, 2)) + e) + b


def images_in_one_pass(x, g, b, e):
    mean, square = x.mean((0, 1, 2)), (x * x).mean((0, 1, 2))
    return g * (x - mean) / sqrt(square - mean**2 + e) + b


def images_remembering():
    seen = []

    def answer(x, g, b, e):
        seen.append(x)
        return g * hat_over(seen[0] if seen[0].shape == x.shape else x, (0, 1, 2), e) + b * len(seen)

    return answer


def mixed(into, out_of):
    """The table's answer for images, with a reshape of the reader's own there and back."""

    def answer(x, g, b, e):
        table = into(x)
        return out_of(g * hat(table, e) + b, x.shape)

    return answer


def channels_as_rows(x, g, b, e):
    rows = x.reshape(x.shape[-1], -1)
    rows = (rows - rows.mean(1, keepdims=True)) / sqrt(rows.var(1, keepdims=True) + e)
    return (g[:, None] * rows + b[:, None]).reshape(x.shape)


def moved(x):
    return np.moveaxis(x, 3, 1).reshape(-1, x.shape[3])


def moved_back(y, shape):
    n, height, width, channels = shape
    return np.moveaxis(y.reshape(n, channels, height, width), 1, 3)


MAPS = (0, 1, 2)
CONVOLUTION = [
    ("channels-mixed", channels_as_rows),
    ("channels-mixed", mixed(moved, np.reshape)),
    ("channels-mixed", mixed(moved, moved_back)),
    ("parentheses-missing", lambda x, g, b, e: g * (x - x.mean(MAPS) / sqrt(x.var(MAPS) + e)) + b),
    ("root-of-each", lambda x, g, b, e: g * (x - x.mean(MAPS)) / (x.std(MAPS) + sqrt(e)) + b),
    ("epsilon-as-floor", lambda x, g, b, e: g * (x - x.mean(MAPS)) / sqrt(np.maximum(x.var(MAPS), e)) + b),
    ("gamma-twice", lambda x, g, b, e: g**2 * hat_over(x, MAPS, e) + b),
    ("first-only", lambda x, g, b, e: g * hat_over(x, MAPS, 0.1) + b),
    ("batch-only", lambda x, g, b, e: g * hat_over(x, 0, e) + b),
    ("batch-and-channels", lambda x, g, b, e: g * hat_over(x, (0, 3), e) + b),
    ("space-only", lambda x, g, b, e: g * hat_over(x, (1, 2), e) + b),
    ("channels-only", lambda x, g, b, e: g * hat_over(x, 3, e) + b),
    ("channels-first", lambda x, g, b, e: g * hat_over(x, (0, 2, 3), e) + b),
    ("channels-first", channels_first),
    ("channels-first", lambda x, g, b, e: g * (x - x.mean((0, 2, 3))) / sqrt(x.var((0, 2, 3)) + e) + b),
    ("per-sample", lambda x, g, b, e: g * hat_over(x, (1, 2, 3), e) + b),
    ("all-axes", lambda x, g, b, e: g * hat_over(x, None, e) + b),
    ("sample-variance", lambda x, g, b, e: g * hat_over(x, MAPS, e, ddof=1) + b),
    ("uncentred", lambda x, g, b, e: g * (x - x.mean(MAPS)) / sqrt((x**2).mean(MAPS) + e) + b),
    ("mean-not-subtracted", lambda x, g, b, e: g * x / sqrt(x.var(MAPS) + e) + b),
    ("epsilon-outside", lambda x, g, b, e: g * (x - x.mean(MAPS)) / (x.std(MAPS) + e) + b),
    ("epsilon-forgotten", lambda x, g, b, e: g * (x - x.mean(MAPS)) / x.std(MAPS) + b),
    ("epsilon-fixed", lambda x, g, b, e: g * hat_over(x, MAPS, 1e-3) + b),
    ("epsilon-squared", lambda x, g, b, e: g * hat_over(x, MAPS, e * e) + b),
    ("no-root", lambda x, g, b, e: g * (x - x.mean(MAPS)) / (x.var(MAPS) + e) + b),
    ("gamma-forgotten", lambda x, g, b, e: hat_over(x, MAPS, e) + b),
    ("beta-forgotten", lambda x, g, b, e: g * hat_over(x, MAPS, e)),
    ("gamma-beta-swapped", lambda x, g, b, e: b * hat_over(x, MAPS, e) + g),
    ("gamma-on-beta", lambda x, g, b, e: g * (hat_over(x, MAPS, e) + b)),
    ("beta-subtracted", lambda x, g, b, e: g * hat_over(x, MAPS, e) - b),
    ("one-pass-variance", images_in_one_pass),
    ("shape-fixed", for_three_by_two),
    ("mutates-input", images_in_place),
    ("remembers", images_remembering()),
]


@pytest.mark.parametrize(("code", "answer"), CONVOLUTION)
def test_each_known_mistake_with_images_is_named(code, answer):
    assert check_convolution(answer).mistakes == (code,)


def test_images_returned_with_the_channels_first_are_called_transposed():
    result = check_convolution(lambda x, g, b, e: np.moveaxis(g * hat_over(x, MAPS, e) + b, 3, 1))
    assert (result.mistakes, result.symptoms) == ((), ("transposed",))
    assert "the right answer transposed, with the axes in the order (0, 3, 1, 2)" in " ".join(repr(result).split())


def test_a_shape_of_as_many_axes_need_not_be_transposed():
    assert check_convolution(lambda x, g, b, e: x.reshape(x.shape[::-1])).symptoms == ("shape",)


def test_every_mistake_with_images_is_planted_here():
    assert {code for code, _ in CONVOLUTION} == {mistake.code for mistake in catalogue("convolution")}


@pytest.mark.parametrize(
    "answer",
    [
        of_the_course,
        lambda x, g, b, e: g * hat_over(x, MAPS, e) + b,
        lambda x, g, b, e: with_einsum(x.reshape(-1, x.shape[-1]), g, b, e).reshape(x.shape),
    ],
)
def test_right_answers_with_images_pass(answer):
    assert check_convolution(answer).passed


# --- inference mode ---------------------------------------------------------------------------------------------------


def only_eight(x, g, b, m, v, e):
    return np.stack([g * (x[i] - m) / sqrt(v + e) + b for i in range(8)])


def inference_in_place(x, g, b, m, v, e):
    v += e
    return g * (x - m) / sqrt(v) + b


def inference_remembering():
    calls = []

    def answer(x, g, b, m, v, e):
        calls.append(1)
        return g * (x - m) / sqrt(v + e) + b * len(calls)

    return answer


def inference_keeping_the_first_mean():
    kept = []

    def answer(x, g, b, m, v, e):
        kept.append(m)
        return g * (x - kept[0]) / sqrt(v + e) + b

    return answer


def as_torch_asks(x, running_mean, running_var, weight, bias, eps):
    return weight * (x - running_mean) / sqrt(running_var + eps) + bias


def as_tf_asks(x, mean, variance, offset, scale, variance_epsilon):
    return scale * (x - mean) / sqrt(variance + variance_epsilon) + offset


INFERENCE = [
    ("arguments-misordered", as_torch_asks),
    ("arguments-misordered", as_tf_asks),
    ("inference-sample", lambda x, g, b, m, v, e: g * (x - m) / sqrt(v * len(x) / (len(x) - 1) + e) + b),
    ("inference-sample", lambda x, g, b, m, v, e: g * (x - m) / sqrt(len(x) / (len(x) - 1) * v + e) + b),
    ("parentheses-missing", lambda x, g, b, m, v, e: g * (x - m / sqrt(v + e)) + b),
    ("root-of-each", lambda x, g, b, m, v, e: g * (x - m) / (sqrt(v) + sqrt(e)) + b),
    ("epsilon-as-floor", lambda x, g, b, m, v, e: g * (x - m) / sqrt(np.maximum(v, e)) + b),
    ("gamma-twice", lambda x, g, b, m, v, e: g * g * (x - m) / sqrt(v + e) + b),
    ("first-only", inference_keeping_the_first_mean()),
    ("batch-statistics", lambda x, g, b, m, v, e: g * hat(x, e) + b),
    ("batch-statistics", lambda x, g, b, m, v, e: g * (x - x.mean(0)) / sqrt(v + e) + b),
    ("batch-statistics", lambda x, g, b, m, v, e: g * (x - m) / sqrt(x.var(0) + e) + b),
    ("moving-swapped", lambda x, g, b, m, v, e: g * (x - v) / sqrt(m + e) + b),
    ("mean-not-subtracted", lambda x, g, b, m, v, e: g * x / sqrt(v + e) + b),
    ("epsilon-outside", lambda x, g, b, m, v, e: g * (x - m) / (sqrt(v) + e) + b),
    ("epsilon-forgotten", lambda x, g, b, m, v, e: g * (x - m) / sqrt(v) + b),
    ("epsilon-fixed", lambda x, g, b, m, v, e: g * (x - m) / sqrt(v + 1e-5) + b),
    ("epsilon-squared", lambda x, g, b, m, v, e: g * (x - m) / sqrt(v + e**2) + b),
    ("no-root", lambda x, g, b, m, v, e: g * (x - m) / (v + e) + b),
    ("gamma-forgotten", lambda x, g, b, m, v, e: (x - m) / sqrt(v + e) + b),
    ("beta-forgotten", lambda x, g, b, m, v, e: g * (x - m) / sqrt(v + e)),
    ("gamma-beta-swapped", lambda x, g, b, m, v, e: b * (x - m) / sqrt(v + e) + g),
    ("gamma-on-beta", lambda x, g, b, m, v, e: g * ((x - m) / sqrt(v + e) + b)),
    ("beta-subtracted", lambda x, g, b, m, v, e: g * (x - m) / sqrt(v + e) - b),
    ("shape-fixed", only_eight),
    ("mutates-input", inference_in_place),
    ("remembers", inference_remembering()),
]


@pytest.mark.parametrize(("code", "answer"), INFERENCE)
def test_each_known_mistake_of_inference_is_named(code, answer):
    assert check_inference(answer).mistakes == (code,)


def test_every_mistake_of_inference_is_planted_here():
    assert {code for code, _ in INFERENCE} == {mistake.code for mistake in catalogue("inference")}


@pytest.mark.parametrize(
    "answer",
    [
        lambda x, g, b, m, v, e: batch_norm_inference(x, g, b, m, v, epsilon=e, axis=-1),
        lambda x, g, b, m, v, e: x * (g / sqrt(v + e)) + (b - m * g / sqrt(v + e)),
        lambda x, g, b, m, v, e: [[g[j] * (r[j] - m[j]) / (v[j] + e) ** 0.5 + b[j] for j in range(len(g))] for r in x],
    ],
)
def test_right_answers_of_inference_pass(answer):
    assert check_inference(answer).passed


@pytest.mark.parametrize("check", [check_forward, check_convolution, check_inference])
def test_what_cannot_be_called_is_refused(check):
    with pytest.raises(TypeError, match=r"answer = 3 cannot be called; give the function itself"):
        check(3)
