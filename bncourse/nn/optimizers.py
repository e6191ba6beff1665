"""Optimisers: they change parameters in place, given the gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from bncourse.nn.checks import FloatArray, fraction, not_negative


class Optimizer:
    """Base class: ``optimizer.update(model.parameters, model.gradients)`` takes one step.

    What an optimiser remembers of a parameter, it keeps under the parameter's name; use a new one for each network.

    Parameters
    ----------
    learning_rate
        Size of a step, zero or greater. May be changed between steps.

    Attributes
    ----------
    steps
        How many steps were taken.
    memory
        What is remembered of each parameter: for its name, arrays of its shape. With `steps`, all of the state.
    """

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = not_negative(learning_rate, "learning_rate")
        self.steps = 0
        self.memory: dict[str, tuple[FloatArray, ...]] = {}

    def update(self, parameters: Mapping[str, FloatArray], gradients: Mapping[str, FloatArray]) -> None:
        """Take one step: change each of `parameters` in place.

        Gradients of other names (frozen layers) are ignored.

        Raises
        ------
        ValueError
            If a parameter has no gradient or one of another shape, or the optimiser remembers another network; then no
            parameter is changed.
        """
        for name, parameter in parameters.items():
            remembered = self.memory.get(name)
            if remembered and remembered[0].shape != parameter.shape:
                raise ValueError(
                    f"{name!r} has shape {parameter.shape}, and this optimiser remembers one of shape "
                    f"{remembered[0].shape} by that name; make a new optimiser for each network."
                )
            if name not in gradients:
                raise ValueError(f"no gradient for the parameter {name!r}; call backward before update.")
            if gradients[name].shape != parameter.shape:
                raise ValueError(
                    f"the gradient of {name!r} has shape {gradients[name].shape}; expected {parameter.shape}."
                )
        self.steps += 1
        for name, parameter in parameters.items():
            parameter += self._change(name, gradients[name])

    def _change(self, name: str, gradient: FloatArray) -> FloatArray:
        raise NotImplementedError

    def _recall(self, name: str, gradient: FloatArray, count: int) -> tuple[FloatArray, ...]:
        """Return what is remembered of a parameter; at first, `count` arrays of zeros."""
        return self.memory.get(name) or tuple(np.zeros_like(gradient) for _ in range(count))


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, in Keras's form.

    ``velocity = momentum * velocity - learning_rate * gradient``, then ``parameter += velocity``.

    Parameters
    ----------
    learning_rate
        Size of a step.
    momentum
        Share of the old velocity, in [0, 1). (Not the momentum of Batch Normalization.)

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """

    def __init__(self, learning_rate: float = 0.01, momentum: float = 0.0) -> None:
        super().__init__(learning_rate)
        self.momentum = fraction(momentum, "momentum", end=False)

    def _change(self, name: str, gradient: FloatArray) -> FloatArray:
        (velocity,) = self._recall(name, gradient, 1)
        velocity = self.momentum * velocity - self.learning_rate * gradient
        self.memory[name] = (velocity,)
        return velocity


class Adam(Optimizer):
    r"""Adam (Kingma and Ba 2015), with epsilon where TensorFlow or where PyTorch has it.

    With :math:`m` and :math:`v` the moving averages of the gradient and of its square, step :math:`t` adds

    .. math:: -\eta \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \cdot \frac{m}{\sqrt{v} + e_t}

    The two forms differ in :math:`e_t` alone. At the end of section 2 of the paper it is the same at every step, and
    stands beside the *uncorrected* :math:`\sqrt{v}`: :math:`e_t = \hat\epsilon`. In algorithm 1 of the paper it stands
    beside the *corrected* one: :math:`e_t = \epsilon \sqrt{1 - \beta_2^t}`. So with the same number, the first form has
    the larger epsilon: 32 times at the first step with the usual :math:`\beta_2`, and equal in the long run.

    Parameters
    ----------
    learning_rate
        Size of a step.
    beta_1, beta_2
        Shares of the old value in the two averages, in [0, 1).
    epsilon
        1e-7 as in Keras. (``tf.compat.v1.train.AdamOptimizer`` and PyTorch have 1e-8.)
    epsilon_beside
        ``"uncorrected"``: the form of TensorFlow and Keras. ``"corrected"``: algorithm 1, the form of PyTorch.

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """

    def __init__(
        self,
        learning_rate: float = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        *,
        epsilon_beside: Literal["uncorrected", "corrected"] = "uncorrected",
    ) -> None:
        super().__init__(learning_rate)
        self.beta_1 = fraction(beta_1, "beta_1", end=False)
        self.beta_2 = fraction(beta_2, "beta_2", end=False)
        self.epsilon = not_negative(epsilon, "epsilon")
        if epsilon_beside not in ("uncorrected", "corrected"):
            raise ValueError(f"epsilon_beside = {epsilon_beside!r}; expected 'uncorrected' or 'corrected'.")
        self.epsilon_beside = epsilon_beside

    def _change(self, name: str, gradient: FloatArray) -> FloatArray:
        m, v = self._recall(name, gradient, 2)
        m = self.beta_1 * m + (1 - self.beta_1) * gradient
        v = self.beta_2 * v + (1 - self.beta_2) * np.square(gradient)
        self.memory[name] = (m, v)
        correction = float(np.sqrt(1 - self.beta_2**self.steps))
        epsilon = self.epsilon if self.epsilon_beside == "uncorrected" else self.epsilon * correction
        rate = self.learning_rate * correction / (1 - self.beta_1**self.steps)
        return -rate * m / (np.sqrt(v) + epsilon)
