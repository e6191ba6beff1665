"""The claims of article A: a deep convolutional network with ``tf.layers``."""

from __future__ import annotations

import numpy as np

from bncourse import averages
from bncourse.claims.claim import Evidence, claim
from bncourse.claims.figures import (
    BOUNDS,
    across,
    at,
    blind_alone,
    deep_network,
    difference,
    final,
    operations,
    runs,
    trained_shapes,
    within_bounds,
)
from bncourse.intervals import t_interval
from bncourse.nn import BatchNorm, batch_norm_backward, batch_norm_train

#: What the article's log prints: validation accuracy in per cent by batch; then validation, test, 100 single images.
LOG = {0: 10.7, 100: 11.26, 200: 11.26, 300: 55.32, 400: 92.36, 500: 94.06}
FINAL = {"validation_moving": 94.04, "test_moving": 93.84, "single": 95.0}
FIRST_LOSS = 0.69091

#: The loss of a network that knows how frequent ten equal classes are, and nothing else.
FLOOR = -(0.1 * np.log(0.1) + 0.9 * np.log(0.9))

DEEP = "3-tf-layers/deep-network"
ORDERS = ("bias-bn-relu", "bias-relu-bn", "relu-bn")


@claim(
    "S-A1",
    "A fully connected layer: dense without bias, BN, ReLU",
    "reproduced",
    "It runs. A kernel of {kernel} is trained, {gamma} $\\gamma$ and {beta} $\\beta$, and no bias.",
    f"{DEEP}#three-changes-to-a-layer",
)
def dense_layer() -> Evidence:
    """Look at the arrays behind the convolutions."""
    *_, kernel, gamma, beta, _, _ = trained_shapes(deep_network())
    flags = {op.get_attr("dtype").name for op in operations(deep_network(), "Placeholder") if op.name == "training"}
    return Evidence(
        {"kernel": "×".join(map(str, kernel)), "gamma": gamma[0], "beta": beta[0]},
        {
            "the kernel is followed by gamma and beta and no bias": gamma == beta == (100,) == kernel[1:],
            "the mode is handed to the graph as a bool": flags == {"bool"},
        },
    )


@claim(
    "S-A2",
    "A convolutional layer: 3×3, four maps for each level of depth, stride 2 now and then, no bias, BN, ReLU",
    "reproduced",
    "It runs: {first} to {last} maps. The only bias of the graph is that of the logits.",
    f"{DEEP}#three-changes-to-a-layer",
)
def conv_layer() -> Evidence:
    """Look at the shapes of all kernels."""
    network = deep_network()
    kernels = [shape for shape in trained_shapes(network) if len(shape) == 4]
    biases = operations(network, "BiasAdd")
    return Evidence(
        {"first": kernels[0][-1], "last": kernels[-1][-1]},
        {
            "every kernel is 3x3": all(shape[:2] == (3, 3) for shape in kernels),
            "there are 4 maps for each level of depth": [k[-1] for k in kernels] == [4 * d for d in range(1, 20)],
            "the only bias is that of the logits": len(biases) == 1,
        },
    )


@claim(
    "S-A3",
    "Three other orders: bias + BN + ReLU; bias + ReLU + BN; ReLU + BN without bias",
    "reproduced",
    "All three run, each from {starts} random starts for {batches} batches.",
    "3-tf-layers/orders",
)
def other_orders() -> Evidence:
    """Look at the recorded runs, and at how many biases each graph holds."""
    found = {order: runs("deep-orders", order=order) for order in ORDERS}
    biases = [len(operations(deep_network(order=order, conv_layers=2), "BiasAdd")) for order in ORDERS]
    return Evidence(
        {"starts": len(found["relu-bn"]), "batches": found["relu-bn"][0].configuration["batches"]},
        {
            "there are five starts of each": all(len(of) == 5 for of in found.values()),
            "with two convolutions, the first two have two biases more than the third": biases == [3, 3, 1],
        },
    )


@claim(
    "S-A4",
    "The training program: Adam at 0.002, 800 batches of 64, update ops as dependencies, its log, its final scores",
    "reproduced",
    "It runs on MNIST. At the end {validation:.1f} on the validation images, {test:.1f} on the test images, "
    "{single:.1f} on 100 single ones.",
    DEEP,
)
def program() -> Evidence:
    """Compare the recorded configuration with the article's."""
    of = runs("deep")
    same: dict[str, object] = {"batches": 800, "batch_size": 64, "learning_rate": 0.002, "momentum": 0.99, "every": 25}
    same |= {"loss": "sigmoid", "schedule": "constant", "update_ops": True, "order": "bn-relu", "batch_norm": True}
    configured = all(run.configuration[name] == value for run in of for name, value in same.items())
    return Evidence(
        {
            "validation": t_interval(final(of, "validation_moving")),
            "test": t_interval(final(of)),
            "single": t_interval(final(of, "single")),
        },
        {
            "the recorded program is the article's": configured,
            "5,000 images of MNIST are for validation": all(
                (run.data["name"], run.data["validation"]) == ("mnist", 5000) for run in of
            ),
            "every start learns": bool(final(of).min() > 80),
        },
    )


@claim(
    "S-A5",
    "The same network without BN, for contrast",
    "reproduced",
    "It learns nothing in 800 batches: test accuracy {test:.1f} %, at best {best:.0f} %, and a loss of {loss:.3f} in "
    "every start. That is the loss of a network that knows how frequent the classes are, and does not see its images.",
    f"{DEEP}#the-network-without-bn",
)
def without_bn() -> Evidence:
    """Look at the loss at which the plain network rests."""
    of = runs("deep-plain")
    losses = np.array([run.final["test_moving_loss"] for run in of])
    return Evidence(
        {"test": t_interval(final(of)), "best": final(of).max(), "loss": losses.mean()},
        {
            "no start learns": bool(final(of).max() < 25),
            "every loss is that of the class frequencies": bool(np.abs(losses - FLOOR).max() < 2e-3),
        },
    )


@claim(
    "C-A1",
    "The network has 20 convolutional layers",
    "corrected",
    "Its loop, `range(1, 20)`, makes {count}.",
    f"{DEEP}#one-change-to-the-program",
)
def twenty_layers() -> Evidence:
    """Count the convolutions of the graph."""
    count = len(operations(deep_network(), "Conv2D"))
    return Evidence({"count": count}, {"range(1, 20) makes 19 layers": count == len(range(1, 20)) == 19})


@claim(
    "C-A2",
    "The stride is 1 at odd depths and 2 at even depths",
    "corrected",
    "Its code strides at every third depth. So the image is down to one pixel at depth {code}; with the article's "
    "words that would happen at depth {words}.",
    f"{DEEP}#one-change-to-the-program",
)
def strides() -> Evidence:
    """Read the strides off the graph, and halve 28 pixels both ways."""
    made = [op.get_attr("strides")[1] for op in operations(deep_network(), "Conv2D")]
    code, words = _depth_of_one_pixel(made), _depth_of_one_pixel([2 if d % 2 == 0 else 1 for d in range(1, 20)])
    return Evidence(
        {"code": code, "words": words},
        {"every third depth strides": made == [1, 1, 2] * 6 + [1], "the two differ": code != words},
    )


def _depth_of_one_pixel(strides: list[int]) -> int | None:
    side = 28
    for depth, stride in enumerate(strides, start=1):
        side = -(-side // stride)
        if side == 1:
            return depth
    return None


@claim(
    "C-A3",
    "Its log: a first loss of 0.691; validation at 11 % up to batch 200, at 55 % at 300, 92 % at 400, 94 % at 500; "
    "at the end 94.0 %, test 93.8 %, single images 95 %",
    "reproduced",
    "The first loss is {first:.3f} in every start: $\\ln 2$, because behind 19 layers in inference mode all logits are "
    "near 0. Validation: {v100:.1f} % at batch 100; {v300:.0f} % at 300, the starts from {r300}; {v500:.1f} % at 500; "
    "{end:.1f} % at the end; single images {single:.1f} %. The article's figures from batch 300 on lie between our "
    "lowest and highest start. At 200 ours stand at {r200} %, above its 11 %: its one start wakes later.",
    f"{DEEP}#reading-the-log",
    "4-moving-averages/the-lag-and-three-cures",
)
def log() -> Evidence:
    """Hold the article's log against five recorded ones."""
    of = runs("deep")
    first = np.array([run.at(0)["validation_moving_loss"] for run in of])
    ranges = {batch: at(of, batch) for batch in LOG}
    ends = {score: final(of, score) for score in FINAL}
    return Evidence(
        {
            "first": first.mean(),
            "v100": t_interval(ranges[100]),
            "v300": t_interval(ranges[300]),
            "v500": t_interval(ranges[500]),
            "r200": across(ranges[200]),
            "r300": across(ranges[300]),
            "end": t_interval(ends["validation_moving"]),
            "single": t_interval(ends["single"]),
        },
        {
            "the first loss is the article's": bool(np.abs(first - FIRST_LOSS).max() < 1e-3),
            "it is nearly ln 2": bool(np.abs(first - np.log(2)).max() < 5e-3),
            "validation stands at chance up to batch 100": bool(max(ranges[0].max(), ranges[100].max()) < 15),
            "the article's figures from batch 300 on lie between ours": all(
                ranges[batch].min() <= LOG[batch] <= ranges[batch].max() for batch in (300, 400, 500)
            ),
            "the article's final scores lie between ours": all(
                ends[score].min() <= FINAL[score] <= ends[score].max() for score in FINAL
            ),
            "at batch 200 all our starts are above the article's": bool(ranges[200].min() > LOG[200]),
        },
    )


@claim(
    "C-A4",
    "(not seen by the article) Why validation stands at chance while the network already knows the digits",
    "explained",
    "At batch 100 the same weights score {batch:.1f} % with the batch's statistics and {moving:.1f} % with the moving "
    "ones. Of these {share:.0f} % are still the start values; that share alone takes the score down to {start:.1f} %. "
    "What the closed form of the average predicts is off by {miss:.1f} points on average over the whole log. Mended: "
    "momentum 0.9 gives {quick:.1f} %, re-estimated statistics {estimated:.1f} %. Without the start values but with "
    "the stale batches it is {corrected:.0f} %. The lag is not over at the end: test {end:.1f} %, re-estimated "
    "{end_estimated:.1f} %.",
    "4-moving-averages/the-lag-and-three-cures",
    "4-moving-averages/one-step-and-the-lag#the-riddle-what-is-still-there-after-100-batches",
)
def lag() -> Evidence:
    """Score the same weights with other statistics."""
    of = runs("deep", cures=True)
    score = {
        name: at(of, 100, f"validation_{name}")
        for name in ("batch", "moving", "start", "quick", "corrected", "estimated")
    }
    predicted, moving = (
        np.array([100 * run.accuracies(f"validation_{name}") for run in of]) for name in ("predicted", "moving")
    )
    miss = np.abs(predicted - moving).mean(axis=1)
    end, repaired = final(of), final(of, "test_estimated")
    share = averages.start_share(of[0].configuration["momentum"], 100)
    figures = {name: t_interval(values) for name, values in score.items()}
    return Evidence(
        {
            **figures,
            "share": 100 * share,
            "miss": t_interval(miss),
            "end": t_interval(end),
            "end_estimated": t_interval(repaired),
        },
        {
            "the network knows the digits": bool(score["batch"].min() > 80),
            "inference is at chance": bool(score["moving"].max() < 15),
            "more than a third of the average is the start": share > 1 / 3,
            "this share alone does that": bool(score["start"].max() < 15),
            "the closed form predicts the log": bool(miss.max() < 2),
            "momentum 0.9 mends it": bool(score["quick"].min() > 75),
            "re-estimated statistics mend it": bool(score["estimated"].min() > 80),
            "bias correction alone mends a part": bool(
                score["moving"].mean() + 10 < score["corrected"].mean() < score["estimated"].mean() - 10
            ),
            "re-estimation helps every start at the end": bool((repaired > end).all()),
        },
    )


@claim(
    "C-A5",
    "A low score on single images means that BN was wired wrongly",
    "corrected",
    "A right program fails the check early: {early:.1f} % at batch 100, single or not, for in inference mode company "
    "does not count. A wrong one passes it: article C's layer, which averages nothing, scores {wrong:.1f} % on single "
    "images. Only a *difference* convicts. In training mode, small networks score above {together} % together, and "
    "give every single image the same ten numbers.",
    "3-tf-layers/update-ops#what-single-images-tell",
)
def single_images() -> Evidence:
    """Find right programs that fail, and wrong ones that pass."""
    right, wrong = runs("deep"), runs("by-hand-mistakes", momentum=1e-5, moment_axes="batch")
    early, passing = at(right, 100), final(wrong, "single")
    return Evidence(
        {"early": t_interval(early), "wrong": t_interval(passing), "together": BOUNDS["batch"]},
        {
            "right programs score low at first": bool(early.max() < 15),
            "and are right": bool(final(right, "test_estimated").min() > 95),
            "wrong programs score high": bool(passing.min() > 90),
            **within_bounds("batch"),
            "in training mode single images all give the same": blind_alone(),
        },
    )


@claim(
    "C-A6",
    "With tf.layers the dense and the convolutional case look alike; with tf.nn they differ",
    "reproduced",
    "The same call averages over axis 0 behind a dense layer, and over axes 0, 1 and 2 behind a convolution. An "
    "addition: tf.layers hides another difference. Behind a convolution its moving variance takes in $n / (n - 1)$ "
    "times the batch's ({image} for $n = {n}$), behind a dense layer the batch's own.",
    "3-tf-layers/by-hand#what-tflayers-hides",
)
def one_call() -> Evidence:
    """Call tf.layers on rows and on images, beside NumPy."""
    rng = np.random.default_rng(0)
    rows, images = (rng.normal(1, 2, shape).astype(np.float32) for shape in ((16, 3), (2, 2, 4, 3)))
    agree, ratios = zip(*(_beside_numpy(x) for x in (rows, images)), strict=True)
    n = images.size // 3
    return Evidence(
        {"image": f"{n}/{n - 1}", "n": n},
        {
            "one call serves both": all(agree),
            "rows: the batch's own variance": bool(np.allclose(ratios[0], 1, rtol=1e-3)),
            "images: n / (n - 1) of it": bool(np.allclose(ratios[1], n / (n - 1), rtol=1e-3)),
        },
    )


def _beside_numpy(x: np.ndarray) -> tuple[bool, np.ndarray]:
    """Return whether tf.layers averages over all axes but the last, and its stored variance beside the batch's."""
    from bncourse.tf_layers import tf1

    with tf1.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        outputs = tf1.layers.batch_normalization(x, training=True, momentum=0.0)
        (stored,) = (variable for variable in tf1.global_variables() if "moving_variance" in variable.name)
        session.run(tf1.global_variables_initializer())
        normalised, _ = session.run([outputs, tf1.get_collection(tf1.GraphKeys.UPDATE_OPS)])
        variance = session.run(stored)
    axes = tuple(range(x.ndim - 1))
    expected = (x - x.mean(axis=axes)) / np.sqrt(x.var(axis=axes) + 1e-3)
    return bool(np.allclose(normalised, expected, atol=1e-4)), variance / x.var(axis=axes)


@claim(
    "C-A7",
    "A bias before BN is redundant",
    "reproduced",
    "Proven: BN subtracts the mean, and the bias with it. Outputs with and without agree to rounding, and the bias's "
    "gradient is 0 to rounding.",
    "1-theory/what-bn-computes#what-training-mode-cannot-see",
    "2-numpy-layer/convolutions-and-axes#a-convolution-forward-and-backward",
)
def bias() -> Evidence:
    """Add a bias in front of BN, and send a gradient back."""
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(2, 64, 7, 7, 12))
    without, with_bias = (BatchNorm()(x + offset, training=True) for offset in (0.0, np.linspace(-5, 5, 12)))
    _, cache = batch_norm_train(x, rng.normal(size=12), np.zeros(12), epsilon=1e-3, axis=-1)[:2]
    gradient = batch_norm_backward(dy, cache)[0]
    return Evidence(
        {},
        {
            "the outputs agree": bool(np.allclose(without, with_bias, rtol=0, atol=1e-10)),
            "the gradient of the bias is 0": float(np.abs(gradient.sum(axis=(0, 1, 2))).max()) < 1e-10,
            "and that of the inputs is not": float(np.abs(gradient).max()) > 1e-3,
        },
    )


@claim(
    "C-A8",
    "All orders of BN, bias and ReLU still run well, some perhaps better",
    "reproduced",
    "Test accuracy at the end: BN, ReLU {test_0:.1f} %; bias, BN, ReLU {test_1:.1f} %; bias, ReLU, BN {test_2:.1f} %; "
    "ReLU, BN {test_3:.1f} %. With the batch's statistics, late in training: {late_0:.1f}, {late_1:.1f}, {late_2:.1f} "
    "and {late_3:.1f} %. Five starts do not tell the orders apart; the width of the first two is the lag (C-A4). Early "
    "they differ: at batch 100 BN in front of the ReLU is {ahead:.1f} points ahead, with the batch's statistics.",
    "3-tf-layers/orders",
)
def orders() -> Evidence:
    """Compare the recorded runs of all four orders, start by start."""
    of = [runs("deep"), *(runs("deep-orders", order=order) for order in ORDERS)]
    test, early, late = (
        [final(order) for order in of],
        [at(order, 100, "validation_batch") for order in of],
        [at(order, 700, "validation_batch") for order in of],
    )
    ahead = difference((early[0] + early[1]) / 2, (early[2] + early[3]) / 2)
    apart = [difference(scores[k], scores[0]) for scores in (test, late) for k in (1, 2, 3)]
    return Evidence(
        {
            **{f"test_{k}": t_interval(scores) for k, scores in enumerate(test)},
            **{f"late_{k}": t_interval(scores) for k, scores in enumerate(late)},
            "ahead": ahead,
        },
        {
            "every start of every order learns": min(scores.min() for scores in late) > 90,
            "and can be used": min(scores.min() for scores in test) > 75,
            "no order differs from the first": all(gap.low < 0 < gap.high for gap in apart),
            "early, BN in front of the ReLU is ahead": bool(ahead.low > 0),
        },
    )


@claim(
    "C-A9",
    "Without the control dependency on the update ops inference fails",
    "reproduced",
    "With it a step writes to {with_it} of the 40 moving statistics, without it to {without_it}. Then inference keeps "
    "the start values 0 and 1 for ever. Small networks on the digits fall from above {moving} % to below "
    "{forgotten} % by that.",
    f"{DEEP}#the-classic-mistake",
    "3-tf-layers/update-ops#one-step-of-each",
)
def dependency() -> Evidence:
    """Ask both graphs what a step writes to."""
    from bncourse.tf_layers.wirings import updates_run_by

    written = []
    for wanted in (True, False):
        network = deep_network(update_ops=wanted)
        written.append(sum(updates_run_by(network.train_op, network.graph).values()))
    return Evidence(
        {"with_it": written[0], "without_it": written[1] or "none", **BOUNDS},
        {
            "with the dependency all move": written[0] == 40,
            "without it none moves": written[1] == 0,
            **within_bounds("moving", "forgotten"),
        },
    )


@claim(
    "C-A10",
    'The lines "training accuracy" tell how training goes',
    "corrected",
    "They are computed in inference mode, so they measure the moving statistics as much as the weights. At batch 100 "
    "they say {printed:.0f} %, where the same batch with its own statistics scores {trained:.0f} %. Up to batch 300 "
    "they stay within {to_validation:.0f} points of the validation accuracy on average, and {to_training:.0f} away "
    "from the accuracy in training.",
    f"{DEEP}#reading-the-log",
)
def training_accuracy() -> Evidence:
    """Score the training batches both ways."""
    of = runs("deep")
    plateau = (of[0].steps > 0) & (of[0].steps <= 300)
    printed, trained, validation = (
        np.array([100 * run.accuracies(name)[plateau] for run in of])
        for name in ("train_moving", "train_batch", "validation_moving")
    )
    near, far = (np.abs(printed - other).mean(axis=1) for other in (validation, trained))
    return Evidence(
        {
            "printed": t_interval(at(of, 100, "train_moving")),
            "trained": t_interval(at(of, 100, "train_batch")),
            "to_validation": t_interval(near),
            "to_training": t_interval(far),
        },
        {
            "the batch is learnt": bool(at(of, 100, "train_batch").min() > 75),
            "the line does not say so": bool(at(of, 100, "train_moving").max() < 25),
            "it goes with the validation": bool((near < far / 4).all()),
        },
    )
