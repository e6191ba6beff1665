"""The checks of the readers' answers.

Each takes the reader's function, asks it about a few inputs, and returns a :class:`bncourse.exercises.Result`. A wrong
answer never raises: what it raises is reported. The inputs are the same in every run, and copies, so that no answer
can spoil them. They are chosen so that every known mistake changes the result: gamma is not 1, epsilon not small,
the batch small, one input has as many samples as channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np

from bncourse.exercises import planted as faulty
from bncourse.exercises.diagnose import Probe, Task, diagnose, probe_of
from bncourse.exercises.layer_script import OUTPUTS, Script, shares_statistics
from bncourse.exercises.mistakes import CODES, Check, switches
from bncourse.exercises.observe import Answer, Case, Failure
from bncourse.exercises.result import Result
from bncourse.exercises.symptoms import agree
from bncourse.nn.checks import FloatArray

_FORWARD = ("x", "gamma", "beta", "epsilon")
_BACKWARD = ("dy", "x", "gamma", "epsilon")
_INFERENCE = ("x", "gamma", "beta", "moving_mean", "moving_variance", "epsilon")
_UPDATE = ("moving_mean", "moving_variance", "x", "momentum")
_WHAT = {"answer": "function", "layer": "class"}
_GRADIENTS = ("dx", "dgamma", "dbeta")

#: Shape, spread of x, and epsilon. The second spread is so small that epsilon 1e-8, 1e-5 and none differ.
_TABLES = (((8, 3), 2.0, 0.1), ((8, 3), 3e-3, 2e-5), ((4, 4), 1.5, 0.5), ((5, 2), 2.0, 0.01))
_IMAGES = (
    ((4, 3, 2, 5), 2.0, 0.1),
    ((4, 3, 2, 5), 3e-3, 2e-5),
    ((3, 4, 4, 4), 1.5, 0.5),
    ((2, 2, 3, 2), 2.0, 0.01),
)

#: How far an answer may be off, per channel of spread 1, when x is float32 and lies at 10,000: several times what
#: float32 leaves of such an x, and far less than the mean of x² minus the mean squared is off.
_OFFSET, _OFFSET_TOLERANCE = 1e4, 0.05


def check_forward(answer: Callable[..., Any]) -> Result:
    """Check ``forward(x, gamma, beta, epsilon) -> y``: training mode, for a table.

    Parameters
    ----------
    answer
        Function of x, shape (samples, channels), gamma and beta, shape (channels,), and the number epsilon. It
        returns y, of the shape of x. The variance is the population variance.

    Raises
    ------
    TypeError
        If `answer` cannot be called.
    """
    return diagnose(_forward_task("forward", _TABLES), _callable(answer))


def check_convolution(answer: Callable[..., Any]) -> Result:
    """Check ``forward(x, gamma, beta, epsilon) -> y`` for images, with one mean for each feature map.

    Parameters
    ----------
    answer
        As for :func:`check_forward`, but x has the shape (samples, height, width, channels).

    Raises
    ------
    TypeError
        If `answer` cannot be called.
    """
    return diagnose(_forward_task("convolution", _IMAGES), _callable(answer))


def check_backward(answer: Callable[..., Any]) -> Result:
    """Check ``backward(dy, x, gamma, epsilon) -> (dx, dgamma, dbeta)``: training mode, for a table.

    Parameters
    ----------
    answer
        Function of dy, the gradient of a loss with respect to y, and of the arguments of forward. It returns the
        gradients with respect to x, gamma and beta, of their shapes.

    Raises
    ------
    TypeError
        If `answer` cannot be called.
    """
    return diagnose(_backward_task("backward", _TABLES), _callable(answer))


def check_convolution_backward(answer: Callable[..., Any]) -> Result:
    """Check ``backward(dy, x, gamma, epsilon) -> (dx, dgamma, dbeta)`` for images.

    Parameters
    ----------
    answer
        As for :func:`check_backward`, but x and dy have the shape (samples, height, width, channels).

    Raises
    ------
    TypeError
        If `answer` cannot be called.
    """
    return diagnose(_backward_task("convolution_backward", _IMAGES), _callable(answer))


def check_inference(answer: Callable[..., Any]) -> Result:
    """Check ``inference(x, gamma, beta, moving_mean, moving_variance, epsilon) -> y``.

    Parameters
    ----------
    answer
        Function of x, shape (samples, channels), four arrays of shape (channels,), and the number epsilon. It
        returns y, of the shape of x.

    Raises
    ------
    TypeError
        If `answer` cannot be called.
    """
    probes = []
    for number, (shape, spread, epsilon) in enumerate([*_TABLES, ((1, 3), 2.0, 0.1)]):
        x, _, gamma, beta = _numbers(number, shape, spread)
        mean, deviation = _rng(50 + number).uniform(0.5, 1.5, (2, shape[1])) * spread
        case = Case(((x, gamma, beta, mean, 1.7 * deviation**2, epsilon),))
        probes.append(probe_of(case, _INFERENCE, ("y",), _about(shape, epsilon), shape))
    return diagnose(_task("inference", ("y",), probes), _callable(answer))


def check_moving_averages(
    answer: Callable[..., Any], variance: Literal["population", "sample"] = "population"
) -> Result:
    """Check ``update(moving_mean, moving_variance, x, momentum) -> (moving_mean, moving_variance)``.

    Parameters
    ----------
    answer
        Function of the two moving statistics, shape (channels,), of a batch x, shape (samples, channels), and of the
        momentum, the share of the *old* value. It returns both statistics after the batch. It is asked for one
        update, and for five in a row.
    variance
        Which variance of the batch is to enter: ``"population"``, divided by n (Keras), or ``"sample"``, divided by
        n - 1 (PyTorch).

    Raises
    ------
    TypeError
        If `answer` cannot be called.
    ValueError
        If `variance` is another word.
    """
    if variance not in ("population", "sample"):
        raise ValueError(f"variance = {variance!r}; expected 'population' or 'sample'.")
    probes = []
    for number, (shape, steps) in enumerate([((8, 3), 1), ((8, 3), 5), ((4, 4), 1), ((5, 2), 2)]):
        mean, spread = _rng(60 + number).uniform(1.0, 3.0, (2, shape[1]))
        momentum = (0.9, 0.8, 0.7, 0.6)[number]
        batches = [_numbers(70 + 10 * number + step, shape, 2.0)[0] for step in range(steps)]
        case = Case(tuple((mean, spread, x, momentum) for x in batches))
        about = f"{steps} update{'s' * (steps > 1)} with x of shape {shape}, momentum {momentum}"
        probes.append(probe_of(case, _UPDATE, ("moving_mean", "moving_variance"), about, shape))
    task = _task("moving_averages", ("moving_mean", "moving_variance"), probes)
    return diagnose(task if variance == "population" else _of_sample_variance(task), _callable(answer))


def check_layer(layer: Callable[..., Any]) -> Result:
    """Check a whole layer: both modes, its state, and its backward pass in both modes.

    Parameters
    ----------
    layer
        A class, or a function that makes a layer: ``layer(channels, momentum=..., epsilon=...)``. What it makes is
        called as ``y = made(x, training)``, and ``dx = made.backward(dy)`` after it. It has the arrays `gamma`,
        `beta`, `moving_mean` and `moving_variance` of shape (channels,), which start at 1, 0, 0 and 1, and, after
        `backward`, a dict `gradients` with the keys ``"gamma"`` and ``"beta"``, for the last call alone: they are not
        added up. The check sets `gamma` and `beta` to other arrays. The moving variance is of population variances.

    Raises
    ------
    TypeError
        If `layer` cannot be called, or is a layer already.
    """
    _callable(layer, "layer")
    if hasattr(layer, "backward") and not isinstance(layer, type):
        raise TypeError(f"layer is an instance of {type(layer).__name__}; give the class itself, without ().")
    scripts = [_script(80, (4, 4), 2.0, 0.5), _script(90, (6, 3), 2.0, 0.1), _script(95, (6, 3), 3e-3, 2e-5)]
    probes = [Probe(script.observe, f"x of shape {script.x.shape[1:]}", script.x.shape[1:]) for script in scripts]
    if any(shares_statistics(script, layer) for script in scripts):
        # Nothing else can be told apart as long as one layer spoils the next.
        task = Task("layer", (), (), lambda _: layer, (), extra=lambda _: "shared-statistics")
        return diagnose(task, layer)
    return diagnose(_task("layer", OUTPUTS, probes, pairs=False), layer)


def planted(check: Check, *codes: str) -> Callable[..., Any]:
    """Return an implementation that makes known mistakes, in the form that the check of that name asks for.

    Parameters
    ----------
    check
        ``"forward"``, ``"backward"``, ``"convolution"``, ``"convolution_backward"``, ``"inference"``,
        ``"moving_averages"`` or ``"layer"``.
    codes
        The mistakes; none gives a right implementation.

    Raises
    ------
    ValueError
        If the check does not know the mistake, or it is none that can be planted.
    """
    if check not in CODES:
        raise ValueError(f"check = {check!r}; expected one of {', '.join(CODES)}.")
    known = switches(check)
    for code in codes:
        if code not in known:
            raise ValueError(f"{code!r} cannot be planted for the check {check!r}; expected one of {', '.join(known)}.")
    return _planted(check, codes)


def _planted(check: Check, codes: Iterable[str]) -> Answer:
    makers: dict[str, Answer] = {
        "forward": faulty.forward,
        "convolution": faulty.forward,
        "backward": faulty.backward,
        "convolution_backward": faulty.backward,
        "inference": faulty.inference,
        "moving_averages": faulty.update,
        "layer": faulty.PlantedLayer,
    }
    return partial(makers[check], faults=frozenset(codes))


def _task(
    check: Check,
    outputs: tuple[str, ...],
    probes: Sequence[Probe],
    *,
    pairs: bool = True,
    extra: Callable[[Answer], str | None] = lambda _: None,
) -> Task:
    return Task(check, outputs, tuple(probes), partial(_planted, check), switches(check), pairs, extra)


def _of_sample_variance(task: Task) -> Task:
    """Return the task of the moving averages for sample variances: what was the mistake is right, and vice versa."""
    other = "moving-population"

    def plant(codes: Iterable[str]) -> Answer:
        return _planted("moving_averages", set(codes) - {other} if other in codes else {*codes, "moving-sample"})

    known = [other if code == "moving-sample" else code for code in task.switches]
    return replace(task, planted=plant, switches=known)


def _forward_task(check: Check, inputs: Sequence[tuple[tuple[int, ...], float, float]]) -> Task:
    probes = []
    for number, (shape, spread, epsilon) in enumerate(inputs):
        x, _, gamma, beta = _numbers(number, shape, spread)
        probes.append(probe_of(Case(((x, gamma, beta, epsilon),)), _FORWARD, ("y",), _about(shape, epsilon), shape))
    return _task(check, ("y",), probes, extra=partial(_loses_digits, shape=inputs[0][0]))


def _backward_task(check: Check, inputs: Sequence[tuple[tuple[int, ...], float, float]]) -> Task:
    probes = []
    for number, (shape, spread, epsilon) in enumerate(inputs):
        x, dy, gamma, _ = _numbers(number, shape, spread)
        probes.append(probe_of(Case(((dy, x, gamma, epsilon),)), _BACKWARD, _GRADIENTS, _about(shape, epsilon), shape))
    return _task(check, _GRADIENTS, probes)


def _loses_digits(answer: Answer, shape: tuple[int, ...]) -> str | None:
    """Ask about float32 numbers far from zero; return a code if the answer is off by more than float32 explains."""
    x = (_rng(40).normal(size=shape) + _OFFSET).astype(np.float32)
    gamma, beta = np.ones(shape[-1], np.float32), np.zeros(shape[-1], np.float32)
    got = Case(((x, gamma, beta, 1e-3),)).observe(answer, _FORWARD, ("y",)).values["y"]
    expected = faulty.forward(x.astype(np.float64), gamma, beta, 1e-3)
    if isinstance(got, Failure) or agree(got, expected, _OFFSET_TOLERANCE):  # float32 may be refused
        return None
    return "one-pass-variance"


def _script(seed: int, shape: tuple[int, int], spread: float, epsilon: float) -> Script:
    batches = [_numbers(seed + number, shape, spread) for number in range(3)]
    _, _, gamma, beta = batches[0]
    x, dy = np.stack([b[0] for b in batches]), np.stack([b[1] for b in batches])
    return Script(x, dy, gamma, beta, momentum=0.7, epsilon=epsilon)


def _numbers(seed: int, shape: tuple[int, ...], spread: float) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return x, dy, gamma and beta; no two channels are alike, and neither gamma nor beta is 0 or 1."""
    rng, channels = _rng(seed), shape[-1]
    centre, stretch = rng.uniform(-1.5, 1.5, channels), rng.uniform(0.6, 1.4, channels)
    x = spread * (centre + stretch * rng.normal(size=shape))
    dy = rng.normal(0.5, 1.0, size=shape)
    return x, dy, rng.uniform(1.3, 2.5, channels) * (-1.0) ** np.arange(channels), rng.uniform(0.5, 1.5, channels)


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng([2015, seed])


def _about(shape: tuple[int, ...], epsilon: float) -> str:
    return f"x of shape {shape}, epsilon = {epsilon:g}"


def _callable(answer: Any, name: str = "answer") -> Answer:
    if not callable(answer):
        raise TypeError(f"{name} = {answer!r} cannot be called; give the {_WHAT[name]} itself, without ().")
    function: Answer = answer
    return function
