"""The claims of article D: BN on photographs, with Keras."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bncourse.claims.claim import Evidence, claim
from bncourse.claims.figures import across, column, difference, digit_rows, final, runs
from bncourse.experiments.record import Run
from bncourse.intervals import t_interval
from bncourse.nn import SGD, Adam, BatchNorm, Dense, ReLU, Sequential, Sigmoid, softmax_cross_entropy

#: The article's side of a photograph in pixels, and its batch.
SIDE, BATCH = 224, 10

PHOTOGRAPHS = "6-practice/photographs"


@cache
def _model(name: str) -> Any:
    from bncourse.keras_models.photographs import build_photograph_model

    return build_photograph_model(name, image_size=SIDE)  # type: ignore[arg-type]


def _kinds(name: str) -> list[str]:
    """Return the kinds of a model's layers, in order, without the input."""
    return [type(layer).__name__ for layer in _model(name).layers][1:]


def _runs(model: str, **options: Any) -> list[Run]:
    """Return the recorded runs of one of the article's models, by default with its BN in front and its rate."""
    rate = {"learning_rate": 0.01} if model == "logistic" else {}
    return runs(f"photographs-{model}", **({"batch_norm": "input"} | rate | options))


def _trained(of: Sequence[Run], score: str = "accuracy") -> npt.NDArray[np.float64]:
    """Return the training accuracy in per cent, or the loss in nats, of the last epoch, shape (starts,)."""
    values = column(of, f"train_batch_{score}")[:, -1]
    return 100 * values if score == "accuracy" else values


def _stuck(of: Sequence[Run]) -> int:
    """Return how many starts classify their training pictures like a coin."""
    return int(np.sum(_trained(of) < 55))


@claim(
    "S-D1",
    "Photographs in one folder for each class, 224×224 pixels, in batches of 10, divided by 255; a sheet of ten",
    "reproduced",
    "It runs with any such folder, and reports what it cannot use. Cats and dogs may not be passed on with a book. "
    "So the default is crops of two photographs, a building and a flower: {train} to train on from the left half, "
    "{validation} to validate and {test} to test from a quarter each. No pixel is shared.",
    f"{PHOTOGRAPHS}#a-folder-that-nobody-vouches-for",
    f"{PHOTOGRAPHS}#two-photographs-instead",
)
def folder_of_photographs() -> Evidence:
    """Write a folder, read it back; look where the crops were cut."""
    from bncourse.data.photographs import load_crops

    right, skipped = _folder_read_back()
    crops = load_crops(SIDE, train=20, validation=10, test=10)
    columns = [(min(edge[0] for edge in edges), max(edge[2] for edge in edges)) for edges in _edges(crops)]
    counts = _runs("deep")[0].data
    return Evidence(
        {name: counts[name] for name in ("train", "validation", "test")},
        {
            "a batch holds the folder's pictures, divided by 255, with the right labels": right,
            "a file that is no picture is reported": skipped == ["train/cats/notes.jpg"],
            "training crops come from the left half of 640 columns": columns[0][1] <= 320,
            "crops of different parts share no column": all(one[1] <= other[0] for one, other in pairwise(columns)),
        },
    )


def _edges(crops: Any) -> list[list[tuple[int, int, int, int]]]:
    return [pictures.edges() for pictures in crops.splits().values()]


def _folder_read_back() -> tuple[bool, list[str]]:
    """Return whether a batch is what was written, and the names that were left out."""
    from PIL import Image

    from bncourse.data.photographs import load_folder, photograph_batches

    written: dict[bytes, str] = {}
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        for part, count in (("train", BATCH), ("validation", 2)):
            for number in range(count):
                kind = ("cats", "dogs")[number % 2]
                pixels = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
                file = Path(name, part, kind, f"{number}.png")
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(file)
                written[(pixels / np.float32(255)).tobytes()] = kind
        Path(name, "train", "cats", "notes.jpg").write_text("no picture", encoding="utf-8")
        found = load_folder(name, size=SIDE)
        images, labels = next(photograph_batches(found.train, BATCH, seed=0))
    kinds = [written.get(image.tobytes()) for image in images]
    right = images.shape == (BATCH, SIDE, SIDE, 3) and kinds == [found.classes[label] for label in labels]
    return right, [item.name for item in found.report.skipped]


@claim(
    "S-D2",
    "Logistic regression behind BN: BN, flatten, dense 2 with softmax; Adam 0.01",
    "reproduced",
    "It runs, with {weights:,} weights at 224 pixels, more than the other two models. On crops of 128 pixels it "
    "learns {train:.0f} % of its training pictures in {epochs} epochs. Its loss of {loss:.1f} nats says that the "
    "rate is too large: with 0.0001 it is {small:.2f}.",
    f"{PHOTOGRAPHS}#three-models",
)
def logistic() -> Evidence:
    """Look at the layers, and at the recorded runs."""
    of, slow = _runs("logistic"), _runs("logistic", learning_rate=0.0001)
    weights, loss, small = _model("logistic").count_params(), _trained(of, "loss"), _trained(slow, "loss")
    return Evidence(
        {
            "weights": weights,
            "train": t_interval(_trained(of)),
            "epochs": of[0].configuration["epochs"],
            "loss": t_interval(loss),
            "small": t_interval(small),
        },
        {
            "the layers are the article's": _kinds("logistic") == ["BatchNormalization", "Flatten", "Dense"],
            "it has the most weights": weights == 4 * 3 + (SIDE**2 * 3 + 1) * 2
            and weights > max(_model(name).count_params() for name in ("wide", "deep")),
            "every start learns": bool(_trained(of).min() > 85),
            "at the small rate the loss is smaller": bool((small < loss).all()),
        },
    )


@claim(
    "S-D3",
    "The wide model: BN, 100 2×2 convolutions with ReLU, 16×16 max pooling, dense 2; Adam 0.001",
    "reproduced",
    "It runs, with {weights:,} weights. Every start learns all its training crops ({train:.0f} %).",
    f"{PHOTOGRAPHS}#three-models",
)
def wide() -> Evidence:
    """Look at the layers, and at the recorded runs."""
    of = _runs("wide")
    weights, places = _model("wide").count_params(), ((SIDE - 1) // 16) ** 2
    layers = ["BatchNormalization", "Conv2D", "ReLU", "MaxPooling2D", "Flatten", "Dense"]
    return Evidence(
        {"weights": weights, "train": t_interval(_trained(of))},
        {
            "the layers are the article's": _kinds("wide") == layers,
            "and so are their weights": weights == 4 * 3 + (2 * 2 * 3 + 1) * 100 + (places * 100 + 1) * 2,
            "every start learns": bool(_trained(of).min() > 98),
        },
    )


@claim(
    "S-D4",
    "The deep model: BN, seven times (20 2×2 convolutions with ReLU, 2×2 max pooling), dense 2; Adam 0.01",
    "reproduced",
    "It runs, with {weights:,} weights. But at the article's rate {stuck} of {starts} starts never left chance. With "
    "BN behind every convolution every start learns ({between:.0f} % of the training crops).",
    f"{PHOTOGRAPHS}#three-models",
)
def deep() -> Evidence:
    """Look at the layers, and at the recorded runs."""
    of, between = _runs("deep"), _runs("deep", batch_norm="between")
    layers = ["BatchNormalization", *(7 * ["Conv2D", "ReLU", "MaxPooling2D"]), "Flatten", "Dense"]
    weights = _model("deep").count_params()
    return Evidence(
        {"weights": weights, "stuck": _stuck(of), "starts": len(of), "between": t_interval(_trained(between))},
        {
            "the layers are the article's": _kinds("deep") == layers,
            "and so are their weights": weights == 4 * 3 + (12 + 1) * 20 + 6 * (80 + 1) * 20 + (20 + 1) * 2,
            "some starts learn nothing, most learn": 0 < _stuck(of) < len(of) / 2,
            "with BN behind every convolution all learn": bool(_trained(between).min() > 95),
        },
    )


@claim(
    "C-D1",
    "The wide model is much better than logistic regression, the deep one a little better still (no figure is given)",
    "corrected",
    "On crops of two photographs the first half holds: on the validation crops logistic regression scores "
    "{logistic:.0f} %, the wide model {wide:.0f} %, {lead:.0f} points more, and more in every start. The second does "
    "not at the article's rate: the deep one scores {deep:.0f} %, its starts from {deep_starts}; deep minus wide is "
    "{gap:.0f} points. At a tenth of that rate it does, and not by a little: {slow:.0f} %. The order owes nothing to "
    "BN: without it the three score {bare} %, the deep one at the small rate {bare_slow:.0f} %. On the test crops it "
    "is {tests} %. Two photographs are no cats and dogs: other pictures may give another order.",
    f"{PHOTOGRAPHS}#is-wide-much-better-and-deep-a-little-better-still",
)
def wide_and_deep() -> Evidence:
    """Compare the recorded runs, start by start."""
    models = ("logistic", "wide", "deep")
    score = {model: final(_runs(model), "validation_moving") for model in models}
    bare = {model: final(_runs(model, batch_norm="none"), "validation_moving") for model in models}
    tests = [final(_runs(model), "test_moving") for model in models]
    slow, bare_slow = (
        final(runs("photographs-deep-slow", batch_norm=place), "validation_moving") for place in ("input", "none")
    )
    lead, gap = difference(score["wide"], score["logistic"]), difference(score["deep"], score["wide"])
    return Evidence(
        {
            **{model: t_interval(values) for model, values in score.items()},
            "lead": lead,
            "gap": gap,
            "deep_starts": across(score["deep"]),
            "slow": t_interval(slow),
            "bare_slow": t_interval(bare_slow),
            "bare": ", ".join(f"{t_interval(values):.0f}" for values in bare.values()),
            "tests": ", ".join(f"{t_interval(values):.0f}" for values in tests),
        },
        {
            "wide is better in every start": bool((score["wide"] > score["logistic"]).all()) and lead.low > 5,
            "deep and wide cannot be told apart": bool(gap.low < 0 < gap.high),
            "at a tenth of the rate deep is better": bool((slow > score["wide"]).all()),
            "without BN wide is better, too": bool((bare["wide"] > bare["logistic"]).all()),
            "and deep at the small rate better still": bool((bare_slow >= bare["wide"]).all()),
        },
    )


class _Sigmoids(NamedTuple):
    """What three layers of 100 sigmoids with small weights do while they train.

    ``flat``: the largest share of flat inputs in any layer at any look, in per cent. ``last_flat``: that of the last
    layer after 50 steps. ``accuracy``: on the validation digits at the end. ``gradient``: of the first layer after 50
    steps, as a share of that at the start.
    """

    flat: float
    last_flat: float
    accuracy: float
    gradient: float


#: A sigmoid counts as flat where its slope is below a tenth of the largest: 1 / (4 cosh² (z / 2)) < 1 / 40.
FLAT = 2 * np.arccosh(np.sqrt(10))

#: What must hold of them, in per cent, in every start; the texts quote these bounds.
SIGMOIDS: Mapping[str, int] = {"unsaturated": 2, "slow": 40, "quick": 85, "saturated": 98, "nothing": 20}


def _sigmoid_network(seed: int, *, batch_norm: bool, depth: int = 3) -> Sequential:
    """Build layers of 100 sigmoids with Gaussian weights of standard deviation 0.1."""
    rng = np.random.default_rng((seed, 0))
    layers: list[Any] = []
    for inputs in [64] + [100] * (depth - 1):
        dense = Dense(100, use_bias=not batch_norm)
        bias = {} if batch_norm else {"bias": np.zeros(100, np.float32)}
        dense.set_weights({"kernel": rng.normal(0, 0.1, (inputs, 100)).astype(np.float32), **bias})
        layers += [dense, *([BatchNorm(momentum=0.9)] if batch_norm else []), Sigmoid()]
    return Sequential([*layers, Dense(10, seed=(seed, 1))])


def _inside(network: Sequential) -> tuple[list[float], list[float]]:
    """Return for each layer of sigmoids the share of flat inputs, and the length of their gradient."""
    x, labels = digit_rows("train")
    flat, lengths = [], []
    for layer in network.layers:
        if isinstance(layer, Sigmoid):
            flat.append(float(np.mean(np.abs(x) > FLAT)))
        x = layer(x, training=True)
    gradient = softmax_cross_entropy(x, labels)[1]
    for layer in reversed(network.layers):
        gradient = layer.backward(gradient)
        if isinstance(layer, Sigmoid):
            lengths.append(float(np.linalg.norm(gradient)))
    return flat, lengths[::-1]


@cache
def _sigmoids(rate: float, *, batch_norm: bool = False, steps: int = 150, starts: int = 3) -> tuple[_Sigmoids, ...]:
    """Train on the digits, and look inside every 50 steps."""
    x, labels = digit_rows("train")
    unseen, answers = digit_rows("validation")
    found = []
    for seed in range(starts):
        network = _sigmoid_network(seed, batch_norm=batch_norm)
        rng, optimizer = np.random.default_rng((seed, 2)), SGD(rate)
        looks = [_inside(network)]
        for step in range(1, steps + 1):
            batch = rng.choice(len(x), 60, replace=False)
            network.train_on_batch(x[batch], labels[batch], optimizer=optimizer)
            if step % 50 == 0:
                looks.append(_inside(network))
        flat, lengths = (np.array(parts) for parts in zip(*looks, strict=True))
        accuracy = np.mean(network(unseen, training=batch_norm).argmax(axis=1) == answers)
        found.append(_Sigmoids(100 * flat.max(), 100 * flat[1, -1], 100 * accuracy, lengths[1, 0] / lengths[0, 0]))
    return tuple(found)


@claim(
    "C-D2",
    "Activations drift to the saturated ends and gradients vanish; BN pulls them back to the standard normal "
    "distribution",
    "corrected",
    "True at a large learning rate: three layers of sigmoids at rate 4 have more than {saturated} % of the last "
    "layer flat after 50 steps, the first layer's gradient is below a fifth of what it was, and after 150 steps they "
    "score below {nothing} %. But at rate 0.5 they are slow (below {slow} %, with BN above {quick} %) and less than "
    "{unsaturated} % is flat. Gradients also vanish with nothing flat: from layer 8 down to layer 1 of fresh "
    "sigmoids to less than a ten-thousandth. What BN hands on has mean 0 and variance 1, but any shape. In the "
    "article's own deep model the BN stands in front and touches no activation: after training {input:.0f} % of its "
    "ReLU maps are 0 on every crop, without BN {none:.0f} %, with BN behind every convolution {between}. At a tenth "
    "of the learning rate it is {small:.0f} %.",
    "1-theory/the-papers-experiment#what-is-true-of-it",
    "1-theory/what-bn-computes#standardised-not-normal",
    "1-theory/shift-and-smoothness#what-is-left-of-the-three",
    f"{PHOTOGRAPHS}#saturated-ends-or-silent-ones",
)
def saturation() -> Evidence:
    """Look into sigmoids while they train, into fresh ones, and at the silent maps of the recorded runs."""
    slow, quick, stalled = _sigmoids(0.5), _sigmoids(0.5, batch_norm=True), _sigmoids(4)
    flat, lengths = _inside(_sigmoid_network(0, batch_norm=False, depth=8))
    silent = {place: _silent(_runs("deep", batch_norm=place)) for place in ("input", "none", "between")}
    small = _silent(runs("photographs-deep-slow", batch_norm="input"))
    # Values that are 0 or 1 stay two values, however they are scaled.
    two = BatchNorm(epsilon=1e-12)(np.repeat([[0.0], [1.0]], [30, 10], axis=0), training=True)
    lost = max(run.gradient for run in stalled)
    return Evidence(
        {
            **SIGMOIDS,
            "input": t_interval(silent["input"]),
            "none": t_interval(silent["none"]),
            "small": t_interval(small),
            "between": "none" if not silent["between"].any() else f"{silent['between'].mean():.0f} %",
        },
        {
            "at rate 4 the last layer is flat": min(run.last_flat for run in stalled) > SIGMOIDS["saturated"],
            "its gradient is lost": lost < 1 / 5,
            "and nothing is learnt": max(run.accuracy for run in stalled) < SIGMOIDS["nothing"],
            "at rate 0.5 it is slow": max(run.accuracy for run in slow) < SIGMOIDS["slow"],
            "with BN it is not": min(run.accuracy for run in quick) > SIGMOIDS["quick"],
            "and next to nothing is flat": max(run.flat for run in slow) < SIGMOIDS["unsaturated"],
            "fresh sigmoids lose their gradient with nothing flat": max(flat) == 0 and lengths[0] < 1e-4 * lengths[-1],
            "what BN hands on is standardised": bool(np.isclose(two.mean(), 0) and np.isclose(two.var(), 1)),
            "and not normal": len(np.unique(two.round(6))) == 2,
            "BN in front leaves maps silent in every start": bool(silent["input"].min() > 5),
            "as many as without BN": bool(abs(silent["input"].mean() - silent["none"].mean()) < 15),
            "a smaller rate silences few": bool(small.max() < 10),
            "BN behind every convolution leaves none": not silent["between"].any(),
        },
    )


def _silent(of: Sequence[Run]) -> npt.NDArray[np.float64]:
    """Return the share of all ReLU maps that are silent at the end, in per cent, shape (starts,)."""
    layers = [name for name in of[0].final if name.startswith("silent_relu")]
    return np.array([100 * np.mean([run.final[name] for name in layers]) for run in of])


#: Test errors of a small network in per cent, with batches of one class each, that must not be missed.
ONE_CLASS: Mapping[str, int] = {"learns": 25, "fails": 60}


@cache
def _one_class(*, batch_norm: bool, mixed: bool = False, starts: int = 3) -> tuple[float, ...]:
    """Return validation errors in per cent of small networks; each of their batches holds one class, unless `mixed`."""
    x, labels = digit_rows("train")
    unseen, answers = digit_rows("validation")
    pools = [np.arange(len(x))] if mixed else [np.flatnonzero(labels == digit) for digit in range(10)]
    errors = []
    for seed in range(starts):
        layers: list[Any] = []
        for number in range(2):
            norm = [BatchNorm(momentum=0.9)] if batch_norm else []
            layers += [Dense(64, seed=(seed, number)), *norm, ReLU()]
        network = Sequential([*layers, Dense(10, seed=(seed, 9))])
        rng, optimizer = np.random.default_rng(seed), Adam(0.003)
        for _ in range(300):
            batch = rng.choice(pools[rng.integers(len(pools))], 30, replace=False)
            network.train_on_batch(x[batch], labels[batch], optimizer=optimizer)
        errors.append(float(100 * np.mean(network(unseen, training=False).argmax(axis=1) != answers)))
    return tuple(errors)


@claim(
    "C-D3",
    "BN helps in many cases, not in all (no case is shown)",
    "reproduced",
    "It helps: with BN behind every convolution the deep model learns in every start, where {stuck} of {starts} fail "
    "with BN in front. It does not help: in front of the wide model it takes {cost:.0f} points off the score of the "
    "validation crops. Nor in front of logistic regression at the article's rate: the training loss changes by "
    "{change:.1f} nats. It ruins: small networks whose batches hold one class each err on more than {fails} % of the "
    "digits with BN, on less than {learns} % without.",
    f"{PHOTOGRAPHS}#when-bn-does-not-help",
    "1-theory/noise-and-limits#when-bn-does-not-help",
)
def not_always() -> Evidence:
    """Compare recorded runs start by start; train small networks on batches of one class."""
    front, between = _runs("deep"), _runs("deep", batch_norm="between")
    cost = difference(
        final(_runs("wide", batch_norm="none"), "validation_moving"), final(_runs("wide"), "validation_moving")
    )
    change = difference(_trained(_runs("logistic"), "loss"), _trained(_runs("logistic", batch_norm="none"), "loss"))
    with_bn, without, mixed = (
        _one_class(batch_norm=True),
        _one_class(batch_norm=False),
        _one_class(batch_norm=True, mixed=True),
    )
    return Evidence(
        {"stuck": _stuck(front), "starts": len(front), "cost": cost, "change": change, **ONE_CLASS},
        {
            "between the layers every start learns": _stuck(between) == 0,
            "in front not every one does": _stuck(front) > 0,
            "in front of the wide model it costs": bool(cost.low > 0),
            "in front of logistic regression it does not help": bool(change.high > 0),
            "batches of one class ruin BN": min(with_bn) > ONE_CLASS["fails"],
            "and nothing else": max(without) < ONE_CLASS["learns"],
            "the same network learns from mixed batches": max(mixed) < ONE_CLASS["learns"],
        },
    )
