"""The claims of article B: a forum question on one step of the moving averages."""

from __future__ import annotations

from functools import cache

import numpy as np

from bncourse import averages
from bncourse.claims.claim import Evidence, claim
from bncourse.claims.figures import blind_alone, within_bounds
from bncourse.data import load_digits
from bncourse.experiments.regression import (
    MapScores,
    build_regressor,
    heat_maps,
    predict_maps,
    score_maps,
    train_regressor,
)
from bncourse.nn import BatchNorm, Dense, Sequential

#: What the question prints after the step; of two samples, both.
PRINTED = {
    "weight": ["1.404974"],
    "moving_mean": ["0.3514931"],
    "moving_variance": ["0.74709475"],
    "gamma": ["0.999"],
    "beta": ["-0.001"],
    "hidden": ["0.", "1.404974"],
    "normalised": ["-0.40697935", "1.215785"],
    "activated": ["0.", "1.215785"],
}
MEAN, VARIANCE = 0.3514931, 0.74709475

STEP = "4-moving-averages/one-step-and-the-lag"
QUESTIONS = "4-moving-averages/four-questions"


def _digits(array: np.ndarray) -> list[str]:
    """Return each number as NumPy prints a float32."""
    return [str(np.array([number], np.float32))[1:-1] for number in np.ravel(array)]


def _weight_before() -> float:
    """Return the weight before the step: four times the moving mean, which is exact in binary."""
    return float(4 * np.float32(MEAN))


@claim(
    "S-B1",
    "A network of one unit in each layer, BN with momentum 0.5, one step of Adam; eight printed lines",
    "reproduced",
    "All {count} numbers come out to the last digit.",
    f"{STEP}#every-digit-twice",
)
def one_step_digits() -> Evidence:
    """Take the step, and print as the question does."""
    from bncourse.tf_layers.one_step import one_step

    step = one_step(_weight_before(), -0.285)
    ours = {name: _digits(getattr(step, name)) for name in PRINTED}
    return Evidence(
        {"count": sum(map(len, PRINTED.values()))},
        {f"{name} is as printed": ours[name] == texts for name, texts in PRINTED.items()},
    )


@claim(
    "C-B1",
    "Momentum only counts from the second batch",
    "refuted",
    "It counts at once: half of 0 and half of the batch's mean make {mean:.7f}, as printed. From the second batch on, "
    "it would be {rival:.7f}.",
    f"{STEP}#the-weight-before-the-step",
)
def first_batch() -> Evidence:
    """Update once, with momentum and without."""
    batch = _weight_before() / 2
    ours, rival = (float(averages.update(0, batch, momentum)) for momentum in (0.5, 0.0))
    return Evidence(
        {"mean": ours, "rival": rival},
        {"the printed mean fits": abs(ours - MEAN) < 5e-8, "the asker's guess does not": abs(rival - MEAN) > 0.3},
    )


@claim(
    "C-B2",
    "(the answer) The moving statistics are 0.35 and 0.75",
    "corrected",
    "Right to two digits. The digits beyond give away the weight *before* the step, {before:.7f}. With it both come "
    "out as printed, {variance} for the variance; with the weight after the step, which the answer takes, the "
    "mean would be {after:.7f}.",
    f"{STEP}#the-weight-before-the-step",
)
def rounded() -> Evidence:
    """Recover the weight from the mean, and with it the variance."""
    before, after = _weight_before(), float(PRINTED["weight"][0])
    layer = BatchNorm(momentum=0.5)
    layer(np.array([[0], [before]], np.float32), training=True)
    assert layer.moving_mean is not None
    assert layer.moving_variance is not None
    wrong = float(averages.update(0, after / 2, 0.5))
    return Evidence(
        {"before": before, "variance": _digits(layer.moving_variance)[0], "after": wrong},
        {
            "the mean is as printed": _digits(layer.moving_mean) == PRINTED["moving_mean"],
            "the variance is as printed": _digits(layer.moving_variance) == PRINTED["moving_variance"],
            "the weight after the step does not fit": abs(wrong - MEAN) > 1e-4,
        },
    )


@claim(
    "C-B3",
    "(not asked) Why the weight moves by less than the learning rate",
    "explained",
    "It moved by {share:.4f} learning rates. BN does not see the size of the weight before it but through $\\epsilon$, "
    "so its gradient is as small as {gradient:.1e}, {ratio:.0f} times smaller than that of $\\beta$. There Adam's own "
    "$\\epsilon$ begins to count.",
    f"{STEP}#why-the-weight-moved-by-less-than-the-learning-rate",
)
def short_step() -> Evidence:
    """Solve Adam's first step for the gradient, and compare with the slope of BN."""
    before, epsilon = _weight_before(), 1e-3
    step = before - float(np.float32(PRINTED["weight"][0]))
    damping = 1e-8 / np.sqrt(1 - 0.999)
    gradient = damping * step / (1e-3 - step)
    slope = 4 * epsilon / (before**2 + 4 * epsilon) ** 1.5
    nudge = 1e-4
    high, low = (
        BatchNorm(epsilon=epsilon)(np.array([[0.0], [before + sign * nudge]]), training=True)[1, 0] for sign in (1, -1)
    )
    return Evidence(
        {"share": step / 1e-3, "gradient": gradient, "ratio": 1 / slope},
        {
            "the step is shorter than the learning rate": 0.998 < step / 1e-3 < 0.999,
            "the gradient is tiny": 1.8e-4 < gradient < 2.1e-4,
            "the slope is that of BN": bool(np.isclose((high - low) / (2 * nudge), slope, rtol=1e-3)),
        },
    )


@claim(
    "C-B4",
    "(not asked) The order of update ops that are fetched beside the optimizer",
    "explained",
    "The order is undefined, the result is defined: neither waits for the other, but both need the moments, and these "
    "are formed before the new weight is written. (Read off the graph of TensorFlow 2; TensorFlow 1 was not run.)",
    f"{STEP}#beside-the-optimizer-in-which-order",
)
def order_of_updates() -> Evidence:
    """Ask the graph who waits for whom."""
    from bncourse.tf_layers.one_step import ancestors, build_one_step_network

    network = build_one_step_network(_weight_before(), 0.13)
    operation = network.graph.get_operation_by_name
    write = operation("Adam/update_hidden1/dense/kernel/ResourceApplyAdam")
    moments = {operation(f"hidden1/batch_normalization/moments/{name}") for name in ("mean", "variance")}
    before_step, before_updates = ancestors(network.train_op), ancestors(network.update_ops)
    return Evidence(
        {},
        {
            "the step does not wait for the updates": not before_step & set(network.update_ops),
            "nor they for the step": network.train_op not in before_updates and write not in before_updates,
            "the moments come before the new weight": moments <= ancestors(write),
            "and before the updates": moments <= before_updates,
        },
    )


#: Random starts of the regression.
_STARTS = 2


@cache
def _regressions() -> dict[str, tuple[MapScores, ...]]:
    """Train small regressions onto heat maps; return scores on unseen images."""
    digits = load_digits()
    train, unseen = heat_maps(digits.train, seed=1), heat_maps(digits.validation, seed=2)
    mean_map, spread = train.maps.mean(axis=0), np.float32(train.maps.std())
    found: dict[str, tuple[MapScores, ...]] = {}
    for name, batch_norm, unit in (
        ("plain", False, np.float32(1)),
        ("bn", True, np.float32(1)),
        ("scaled", True, spread),
    ):
        for seed in range(_STARTS):
            network = build_regressor(batch_norm=batch_norm, seed=seed)
            trace = train_regressor(network, train.images, train.maps / unit, seed=seed)
            ways = {name: None} if name != "scaled" else {"scaled": None, "lagging": 0.999, "mended": 0.9}
            for way, momentum in ways.items():
                if momentum is not None:
                    trace.set_moving(network, momentum)
                maps = unit * predict_maps(network, unseen.images, training=momentum is None)
                found[way] = (*found.get(way, ()), score_maps(maps, unseen.maps, mean_map))
    return found


@claim(
    "S-B2 (1)",
    "(related question) With BN, a regression onto tiny targets is slow and at best gives the mean",
    "reproduced",
    "And explained. Two causes, each of which alone spoils it. The scale of the targets, in both modes: of the "
    "mean map's error BN leaves more than {bn}, no BN less than {plain}, BN with targets in units of their spread "
    "less than {scaled}. The lag, in inference: with momentum 0.999 every image gets nearly the same map, with 0.9 "
    "all is well. On this task BN suits regression, better than none. Which cause the asker met cannot be told.",
    f"{QUESTIONS}#1-a-regression-that-ends-at-the-mean",
)
def regression() -> Evidence:
    """Switch the causes on, one at a time."""
    bounds = {"bn": 0.6, "plain": 0.5, "scaled": 0.25}
    error = {way: [score.unexplained for score in scores] for way, scores in _regressions().items()}
    variation = [score.variation for score in _regressions()["lagging"]]
    return Evidence(
        bounds,
        {
            "without BN it learns": max(error["plain"]) < bounds["plain"],
            "with BN it does not": min(error["bn"]) > bounds["bn"],
            "with scaled targets it does": max(error["scaled"]) < bounds["scaled"],
            "a momentum of 0.999 spoils inference": min(error["lagging"]) > 1 and max(variation) < 0.2,
            "0.9 mends it": max(error["mended"]) < 0.3,
        },
    )


@claim(
    "S-B2 (2)",
    "(related question) BN after 3-D convolutions",
    "explained",
    "One rule for all ranks: average over every axis but the channels. Six channels of volumes have 6 means; with one "
    "axis forgotten it is {forgotten}, and nothing complains.",
    f"{QUESTIONS}#2-bn-after-3-d-convolutions",
)
def volumes() -> Evidence:
    """Normalise volumes, with all axes and with one too few."""
    x = np.random.default_rng(0).normal(3, 2, size=(4, 8, 6, 24, 6))
    layer, too_few = BatchNorm(epsilon=0.0), BatchNorm(axis=(3, 4), epsilon=0.0)
    expected = (x - x.mean(axis=(0, 1, 2, 3))) / x.std(axis=(0, 1, 2, 3))
    right, wrong = layer(x, training=True), too_few(x, training=True)
    assert layer.gamma is not None
    assert too_few.gamma is not None
    return Evidence(
        {"forgotten": too_few.gamma.size},
        {
            "one mean for each channel": layer.gamma.size == 6 and bool(np.allclose(right, expected)),
            "one axis forgotten gives other numbers": not np.allclose(right, wrong, atol=1e-3),
            "and 24 times as many": too_few.gamma.size == 144,
        },
    )


@claim(
    "S-B2 (3)",
    "(related question) Channel-wise BN by hand, without running averages, trains terribly",
    "open",
    "Shape traps are shown: arrays of equal lengths make wrong axes run in silence. That running averages are missing "
    "cannot spoil training, which never reads them; it spoils tests: of single images every one gets the same answer. "
    "The terrible training was *not reproduced*, even with the wrong axes (0, 1, 3). The asker's code is not quoted.",
    f"{QUESTIONS}#3-channel-wise-bn-by-hand",
)
def by_channel() -> Evidence:
    """Broadcast moments of the wrong axes; score single images in training mode."""
    rng = np.random.default_rng(0)
    alike, unlike = rng.normal(size=(6, 6, 6, 6)), rng.normal(size=(5, 4, 3, 2))
    wrong = alike - alike.mean(axis=(0, 1, 3))  # one mean for each column, subtracted from the channels
    try:
        unlike - unlike.mean(axis=(0, 1, 3))
    except ValueError:
        refused = True
    else:
        refused = False
    return Evidence(
        {},
        {
            "equal lengths broadcast": wrong.shape == alike.shape,
            "and give wrong numbers": float(np.abs(wrong.mean(axis=(0, 1, 2))).max()) > 1e-3,
            "unequal lengths are refused": refused,
            "without running averages single images are all alike": blind_alone(),
            **within_bounds("moving"),
        },
    )


@claim(
    "S-B2 (4)",
    "(related question) Folding BN into the layer before it, for a phone",
    "explained",
    "In inference mode BN is one factor and one offset for each channel, so kernel and bias take it over, exactly. The "
    "limits: not forwards into a padded convolution, not in training mode, and ranges are to be chosen after folding.",
    f"{QUESTIONS}#4-folding-bn-into-the-layer-before-it",
)
def folding() -> Evidence:
    """Fold, and compare."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 8))
    dense, bn = Dense(5, seed=0), BatchNorm()
    network = Sequential([dense, bn])
    for _ in range(3):
        network(rng.normal(1, 3, size=(64, 8)), training=True)
    assert dense.kernel is not None
    assert dense.bias is not None
    assert bn.gamma is not None
    assert bn.beta is not None
    assert bn.moving_mean is not None
    assert bn.moving_variance is not None
    gain = bn.gamma / np.sqrt(bn.moving_variance + bn.epsilon)
    folded = x @ (dense.kernel * gain) + bn.beta + (dense.bias - bn.moving_mean) * gain
    inference, training = network(x, training=False), network(x, training=True)
    return Evidence(
        {},
        {
            "in inference mode folding is exact": bool(np.allclose(folded, inference, rtol=0, atol=1e-5)),
            "in training mode it is not": not np.allclose(folded, training, atol=1e-2),
        },
    )
