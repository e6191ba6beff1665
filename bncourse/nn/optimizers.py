"""Optimisers: they change parameters in place, given the gradients."""

from __future__ import annotations

from collections.abc import Mapping

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
    """

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = not_negative(learning_rate, "learning_rate")
        self.steps = 0
        self._memory: dict[str, tuple[FloatArray, ...]] = {}

    def update(self, parameters: Mapping[str, FloatArray], gradients: Mapping[str, FloatArray]) -> None:
        """Take one step: change each of `parameters` in place.

        Gradients of other names (frozen layers) are ignored.

        Raises
        ------
        ValueError
            If a parameter has no gradient or one of another shape; then no parameter is changed.
        """
        for name, parameter in parameters.items():
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
        return self._memory.get(name) or tuple(np.zeros_like(gradient) for _ in range(count))


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
        self._memory[name] = (velocity,)
        return velocity


class Adam(Optimizer):
    r"""Adam (Kingma and Ba 2015), with TensorFlow's epsilon.

    With :math:`m` and :math:`v` the moving averages of the gradient and of its square, step :math:`t` adds

    .. math:: -\eta \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \cdot \frac{m}{\sqrt{v} + \hat\epsilon}

    This is the form at the end of section 2 of the paper: :math:`\hat\epsilon` stands beside the *uncorrected*
    :math:`\sqrt{v}`. In algorithm 1 of the paper, and in PyTorch, epsilon stands beside the corrected one, which is
    :math:`1 / \sqrt{1 - \beta_2^t}` times larger: 32 times at the first step.

    Parameters
    ----------
    learning_rate
        Size of a step.
    beta_1, beta_2
        Shares of the old value in the two averages, in [0, 1).
    epsilon
        The :math:`\hat\epsilon` above; 1e-7 as in Keras. (``tf.compat.v1.train.AdamOptimizer`` has 1e-8.)

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """

    def __init__(
        self, learning_rate: float = 1e-3, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7
    ) -> None:
        super().__init__(learning_rate)
        self.beta_1 = fraction(beta_1, "beta_1", end=False)
        self.beta_2 = fraction(beta_2, "beta_2", end=False)
        self.epsilon = not_negative(epsilon, "epsilon")

    def _change(self, name: str, gradient: FloatArray) -> FloatArray:
        m, v = self._recall(name, gradient, 2)
        m = self.beta_1 * m + (1 - self.beta_1) * gradient
        v = self.beta_2 * v + (1 - self.beta_2) * np.square(gradient)
        self._memory[name] = (m, v)
        rate = self.learning_rate * float(np.sqrt(1 - self.beta_2**self.steps)) / (1 - self.beta_1**self.steps)
        return -rate * m / (np.sqrt(v) + self.epsilon)
