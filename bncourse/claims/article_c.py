"""The claims of article C: using BN, and writing it by hand."""

from __future__ import annotations

import numpy as np

from bncourse import averages
from bncourse.claims.claim import Evidence, claim
from bncourse.claims.figures import BOUNDS, blind_alone, difference, final, runs, within_bounds
from bncourse.intervals import t_interval
from bncourse.nn import BatchNorm

HAND = "3-tf-layers/by-hand"


@claim(
    "S-C1",
    "`tf.layers.batch_normalization`, with the update ops as dependencies of the training step",
    "reproduced",
    "It runs: test accuracy {test:.1f} % on MNIST, in a small network.",
    "3-tf-layers/update-ops#one-step-of-each",
    f"{HAND}#what-tflayers-hides",
)
def ready_layer() -> Evidence:
    """Look at the recorded runs."""
    scores = final(runs("by-hand", layer="tf_layers"))
    return Evidence({"test": t_interval(scores)}, {"every start learns": bool(scores.min() > 90)})


@claim(
    "S-C2",
    "`tf.contrib.layers.batch_norm`",
    "reproduced",
    "It went with TensorFlow 2; a layer with its arguments and defaults stands in: {test:.1f} %. Its default decay, "
    "0.999, keeps {share:.0f} % of the start values after 800 steps, it has no $\\gamma$ unless asked for, and its "
    "zero-debias corrects the mean and not the variance.",
    f"{HAND}#the-layer-of-tfcontrib",
)
def contrib_layer() -> Evidence:
    """Look at the recorded runs, and at the layer's variables and defaults."""
    import inspect

    from bncourse.tf_layers import tf, tf1
    from bncourse.tf_layers.by_hand import contrib_batch_norm

    scores = final(runs("by-hand", layer="contrib"))
    defaults = {name: value.default for name, value in inspect.signature(contrib_batch_norm).parameters.items()}
    with tf1.Graph().as_default():
        contrib_batch_norm(tf1.placeholder(tf.float32, (None, 4)))
        names = {variable.op.name.rpartition("/")[2] for variable in tf1.global_variables()}
    share = averages.start_share(defaults["decay"], 800)
    return Evidence(
        {"test": t_interval(scores), "share": 100 * share},
        {
            "every start learns": bool(scores.min() > 90),
            "decay 0.999, no gamma, no zero-debias": (
                defaults["decay"], defaults["scale"], defaults["zero_debias_moving_mean"]
            ) == (0.999, False, False),
            "there is a beta and no gamma": names == {"beta", "moving_mean", "moving_variance"},
        },
    )  # fmt: skip


@claim(
    "S-C3",
    "A layer written by hand: `tf.nn.moments`, assignments, `tf.nn.batch_normalization`",
    "reproduced",
    "Without the article's three mistakes it scores {test:.1f} %, {gap:.2f} points from `tf.layers`.",
    f"{HAND}#what-tflayers-hides",
)
def hand_written() -> Evidence:
    """Compare the recorded runs, start by start."""
    hand, ready = (final(runs("by-hand", layer=layer)) for layer in ("by_hand", "tf_layers"))
    gap = difference(hand, ready)
    return Evidence(
        {"test": t_interval(hand), "gap": gap},
        {"every start learns": bool(hand.min() > 90), "it is as good as the ready layer": abs(gap.mean) < 1},
    )


@claim(
    "C-C1",
    "Forgetting the update ops opens a large gap between training and test",
    "reproduced",
    "In small networks on the digits, training mode scores above {batch} %; inference with the forgotten statistics, "
    "still 0 and 1, below {forgotten} %. With the updates it is above {moving} %.",
    "3-tf-layers/deep-network#the-classic-mistake",
    "3-tf-layers/update-ops#after-a-hundred-steps",
)
def forgotten_updates() -> Evidence:
    """Score the same weights with the statistics that were never updated."""
    return Evidence(BOUNDS, within_bounds("batch", "moving", "forgotten"))


@claim(
    "C-C2",
    "`is_training=True` at test time gives a high accuracy and is unreasonable",
    "reproduced",
    "Both halves. Article A's network scores {chunk:.1f} % on the validation images in chunks of 1,000. But the answer "
    "to an image depends on its company: in small networks on the digits, which score above {batch} % all together, "
    "pairs score below {pairs} %, and single images all get the same ten numbers.",
    "1-theory/noise-and-limits#the-answer-depends-on-the-company",
    f"{HAND}#training-mode-at-test-time",
)
def training_mode_at_test_time() -> Evidence:
    """Score in training mode: in chunks, in pairs, alone."""
    chunk = np.array([100 * run.log[-1]["validation_batch_accuracy"] for run in runs("deep")])
    return Evidence(
        {**BOUNDS, "chunk": t_interval(chunk)},
        {
            "in chunks it is high": bool(chunk.min() > 90),
            **within_bounds("batch", "pairs"),
            "alone every image gets the same numbers": blind_alone(),
        },
    )


@claim(
    "C-C3",
    "A decay of 1e-5 keeps statistics of the population",
    "refuted",
    "It averages nothing: {newest} % of the result is the last batch. The score does not show it: on MNIST, with the "
    "same weights, it costs {cost:.2f} points against momentum 0.99.",
    f"{HAND}#the-articles-layer",
)
def tiny_decay() -> Evidence:
    """Compute the weight of the newest batch; compare recorded runs, start by start."""
    newest = float(averages.weights(1e-5, 50)[-1])
    batches = np.random.default_rng(0).uniform(1, 2, size=50)
    remembered = float(averages.run(batches, 1e-5, 0.0)[-1])
    tiny, usual = runs("by-hand-decay", momentum=1e-5), runs("by-hand", layer="by_hand", momentum=0.99)
    cost = difference(final(usual), final(tiny))
    weights_agree = all(
        np.array_equal(one.losses("train_batch"), other.losses("train_batch"))
        for one, other in zip(tiny, usual, strict=True)
    )
    return Evidence(
        {"newest": f"{100 * newest:.3f}", "cost": cost},
        {
            "the newest batch is all": newest > 0.9999,
            "what is remembered is the last batch": abs(remembered / batches[-1] - 1) < 1e-4,
            "and not the mean of all": abs(remembered / batches.mean() - 1) > 0.01,
            "the weights do not depend on the momentum": weights_agree,
            "the score does not show it": bool(final(tiny).min() > 90) and abs(cost.mean) < 1,
        },
    )


@claim(
    "C-C4",
    "Moments over axis 0 alone serve images",
    "corrected",
    "They give every pixel of every map its own mean and its own $\\gamma$: {gammas:,} for 16 maps of 28×28, where 16 "
    "belong. On centred digits that hardly shows: on MNIST it costs {cost:.2f} points. On moved digits it does.",
    "2-numpy-layer/convolutions-and-axes#too-few-axes-one-mean-per-pixel",
    f"{HAND}#the-articles-layer",
)
def axis_0() -> Evidence:
    """Count the parameters; compare recorded runs, start by start."""
    counts = []
    for axis in ((1, 2, 3), -1):
        layer = BatchNorm(axis=axis)
        layer(np.zeros((2, 28, 28, 16), np.float32), training=False)
        assert layer.gamma is not None
        counts.append(layer.gamma.size)
    alone, right = final(runs("by-hand-mistakes", momentum=0.99)), final(runs("by-hand", layer="by_hand"))
    cost = difference(right, alone)
    return Evidence(
        {"gammas": counts[0], "cost": cost},
        {
            "one gamma for each pixel of each map": counts == [28 * 28 * 16, 16],
            "on centred digits it hardly shows": bool(alone.min() > 90) and abs(cost.mean) < 1,
        },
    )


@claim(
    "C-C5",
    "`if is_training:` on a Python bool switches the mode",
    "corrected",
    "Between graphs, never within one: Python's `if` runs when the graph is built, and a placeholder is refused. Two "
    "copies work if they share their variables ({shared}); the article's layer makes new ones at every call "
    "({article}).",
    f"{HAND}#the-articles-layer",
)
def python_bool() -> Evidence:
    """Build a layer for training and for testing, and count its variables."""
    from bncourse.tf_layers import tf, tf1
    from bncourse.tf_layers.by_hand import article_batch_norm, batch_norm_by_hand

    counts = {}
    for name, layer in (("article", article_batch_norm), ("shared", batch_norm_by_hand)):
        with tf1.Graph().as_default():
            x = tf1.placeholder(tf.float32, (None, 4))
            for training in (True, False):
                with tf1.variable_scope("net", reuse=not training):
                    layer(x, training)
            counts[name] = len(tf1.global_variables())
    with tf1.Graph().as_default():
        try:
            bool(tf1.placeholder(tf.bool, ()))
        except TypeError:
            refused = True
        else:
            refused = False
    return Evidence(
        counts,
        {
            "a placeholder is refused": refused,
            "two shared copies have four variables": counts["shared"] == 4,
            "the article's two copies have eight": counts["article"] == 8,
        },
    )
