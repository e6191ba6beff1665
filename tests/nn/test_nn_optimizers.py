"""One step and several, in closed form."""

import math

import numpy as np
import pytest

from bncourse.nn import SGD, Adam, Optimizer


def run(optimizer, gradients, start=1.0):
    """Return the path of one parameter under given gradients."""
    parameter, path = np.array([start]), []
    for gradient in gradients:
        optimizer.update({"p": parameter}, {"p": np.array([gradient])})
        path.append(parameter.item())
    return path


def test_sgd():
    assert run(SGD(0.1), [1.0, -2.0]) == pytest.approx([0.9, 1.1])


def test_sgd_with_momentum():
    assert run(SGD(0.1, momentum=0.5), [1.0, 1.0, 1.0]) == pytest.approx([0.9, 0.75, 0.575])


def test_the_first_step_of_adam_is_the_learning_rate():
    assert run(Adam(0.01), [5.0])[0] == pytest.approx(1 - 0.01, rel=1e-8)


def test_adam_in_closed_form_for_a_constant_gradient():
    # m = (1 - beta_1^t) g and v = (1 - beta_2^t) g^2, so each step is the learning rate
    assert run(Adam(0.01, epsilon=0.0), [3.0] * 4) == pytest.approx([0.99, 0.98, 0.97, 0.96])


def test_the_epsilon_of_adam_stands_beside_the_uncorrected_root():
    g, epsilon = 1e-3, 1e-4
    expected = 1 - 0.1 * math.sqrt(1 - 0.999) / (1 - 0.9) * 0.1 * g / (math.sqrt(0.001 * g * g) + epsilon)
    paper = 1 - 0.1 * g / (g + epsilon)
    (after,) = run(Adam(0.1, epsilon=epsilon), [g])
    assert after == pytest.approx(expected, rel=1e-12)
    assert abs(after - paper) > 0.05


def test_algorithm_1_has_epsilon_beside_the_corrected_root():
    # Kingma and Ba (2015), algorithm 1, line by line
    alpha, beta_1, beta_2, epsilon = 0.1, 0.8, 0.95, 0.3
    theta, m, v, expected = 1.0, 0.0, 0.0, []
    gradients = [0.5, -2.0, 0.1, 0.0]
    for t, g in enumerate(gradients, start=1):
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g**2
        m_hat, v_hat = m / (1 - beta_1**t), v / (1 - beta_2**t)
        theta = theta - alpha * m_hat / (math.sqrt(v_hat) + epsilon)
        expected.append(theta)
    arguments = alpha, beta_1, beta_2, epsilon
    assert run(Adam(*arguments, epsilon_beside="corrected"), gradients) == pytest.approx(expected, rel=1e-12)
    assert run(Adam(*arguments), gradients) != pytest.approx(expected, rel=1e-2)


def test_without_epsilon_the_two_forms_of_adam_are_one():
    gradients = [0.5, -2.0, 0.1]
    one, other = (run(Adam(0.1, epsilon=0.0, epsilon_beside=word), gradients) for word in ("corrected", "uncorrected"))
    assert one == pytest.approx(other, rel=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("epsilon", [1e-8, 1e-2])
def test_the_corrected_form_is_that_of_pytorch(dtype, tolerance, epsilon):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    parameter = rng.normal(size=5).astype(dtype)
    theirs = torch.nn.Parameter(torch.tensor(parameter))
    step = torch.optim.Adam([theirs], lr=0.01, betas=(0.8, 0.95), eps=epsilon)
    ours = Adam(0.01, 0.8, 0.95, epsilon, epsilon_beside="corrected")
    for gradient in (1e-3 * rng.normal(size=(20, 5))).astype(dtype):
        ours.update({"p": parameter}, {"p": gradient})
        theirs.grad = torch.tensor(gradient)
        step.step()
    np.testing.assert_allclose(parameter, theirs.detach().numpy(), rtol=tolerance, atol=tolerance)


def test_parameters_change_in_place():
    parameter = np.ones(2, np.float32)
    SGD(1.0).update({"p": parameter}, {"p": np.ones(2, np.float32)})
    np.testing.assert_array_equal(parameter, [0.0, 0.0])


def test_each_parameter_has_its_own_memory():
    optimizer, a, b = SGD(1.0, momentum=0.9), np.zeros(1), np.zeros(1)
    for _ in range(2):
        optimizer.update({"a": a, "b": b}, {"a": np.ones(1), "b": np.zeros(1)})
    assert (a.item(), b.item()) == (pytest.approx(-2.9), 0.0)


def test_gradients_of_frozen_parameters_are_ignored():
    parameter = np.ones(1)
    SGD(1.0).update({"p": parameter}, {"p": np.ones(1), "frozen": np.ones(5)})
    assert parameter.item() == 0.0


@pytest.mark.parametrize(
    ("gradients", "message"),
    [
        ({"a": np.ones(2)}, "no gradient for the parameter 'b'; call backward before update"),
        ({"a": np.ones(2), "b": np.ones(3)}, r"the gradient of 'b' has shape \(3,\); expected \(2,\)"),
    ],
)
def test_a_missing_gradient_changes_no_parameter(gradients, message):
    optimizer, a, b = SGD(1.0), np.zeros(2), np.zeros(2)
    with pytest.raises(ValueError, match=message):
        optimizer.update({"a": a, "b": b}, gradients)
    assert optimizer.steps == 0
    np.testing.assert_array_equal([a, b], np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(-0.1), r"learning_rate = -0\.1; expected a finite number >= 0"),
        (lambda: SGD(0.1, momentum=1.0), r"momentum = 1\.0; expected a number in \[0, 1\)"),
        (lambda: Adam(float("nan")), "learning_rate = nan"),
        (lambda: Adam(beta_1=1.0), r"beta_1 = 1\.0; expected a number in \[0, 1\)"),
        (lambda: Adam(beta_2=-1), "beta_2 = -1"),
        (lambda: Adam(epsilon=-1e-8), "epsilon = -1e-08"),
        (lambda: Adam(epsilon_beside="root"), "epsilon_beside = 'root'; expected 'uncorrected' or 'corrected'"),
    ],
)
def test_impossible_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_optimizer_has_to_say_how_it_steps():
    with pytest.raises(NotImplementedError):
        Optimizer(0.1).update({"p": np.ones(1)}, {"p": np.ones(1)})
