"""The catalogue: known mistakes in words, and which check knows which."""

from __future__ import annotations

from typing import Literal

from bncourse.exercises.result import Mistake

Check = Literal["forward", "backward", "convolution", "convolution_backward", "inference", "moving_averages", "layer"]

_TEXTS: dict[str, tuple[str, str]] = {
    # axes
    "wrong-axis": (
        "The averages run along each sample, not along the batch.",
        "How many means does a layer with C channels keep, and which axis of x has that length?",
    ),
    "all-axes": (
        "One mean or variance is formed of the whole array instead of one for each channel.",
        "Print the shape of your mean. Which shape should it have?",
    ),
    "batch-only": (
        "The averages run over the batch axis only, so every pixel keeps statistics of its own.",
        "A convolution treats all places of a feature map alike. What does that say about the axes?",
    ),
    "batch-and-channels": (
        "The averages run over the batch and the channels.",
        "Which axis of an image (N, H, W, C) tells the feature maps apart? It must be left.",
    ),
    "space-only": (
        "The averages run over height and width only, image by image: that is instance normalization.",
        "Should the output for one image depend on the other images of the batch?",
    ),
    "channels-only": (
        "The averages run over the channels only, pixel by pixel.",
        "Print the shape of your mean. Which shape should it have?",
    ),
    "channels-first": (
        "The channels are taken to be axis 1, as in (N, C, H, W).",
        "The images here are (N, H, W, C). Which axis is the last?",
    ),
    "per-sample": (
        "The averages run over all axes but the batch: that is layer normalization.",
        "Should the output for one image depend on the other images of the batch?",
    ),
    # moments
    "sample-variance": (
        "The variance that normalises is divided by n - 1, or by what comes to the same.",
        "By what does algorithm 1 of Ioffe and Szegedy (2015) divide the sum of squares, and by what does np.var?",
    ),
    "uncentred": (
        "The variance is the mean of x squared, taken without subtracting the mean first.",
        "What is the variance of a column that holds 5, 5, 5?",
    ),
    "mean-not-subtracted": (
        "The mean is not subtracted from x.",
        "What is the mean of your x_hat?",
    ),
    "one-pass-variance": (
        "The result loses its digits when x lies far from zero; the usual cause is the mean of x² minus the mean "
        "squared.",
        "In float32, what is 10000.5² - 10000²? Which subtraction could come first?",
    ),
    "parentheses-missing": (
        "Only the mean is divided by the root, not x minus the mean: parentheses are missing.",
        "In what order does Python work out a - b / c?",
    ),
    "channels-mixed": (
        "The images are reshaped so that the numbers of one channel do not stay together.",
        "Let x[..., c] = c, and reshape. Does each channel still hold one number only?",
    ),
    # epsilon and the root
    "epsilon-outside": (
        "Epsilon is added outside the root.",
        "Put variance 0 into your formula. Is the divisor epsilon, or its root?",
    ),
    "epsilon-forgotten": (
        "Epsilon is missing, or it changes nothing.",
        "What does your answer return for a channel whose values are all equal?",
    ),
    "epsilon-fixed": (
        "The argument epsilon is ignored, and a fixed number stands in its place.",
        "Call your function with epsilon = 1 and with epsilon = 1e-6. Does anything change?",
    ),
    "root-of-each": (
        "The root is taken of the variance and of epsilon, each by itself.",
        "Is the root of 9 + 16 the sum of the roots?",
    ),
    "epsilon-as-floor": (
        "Epsilon is used as the least value that the variance may have; it is not added.",
        "If variance and epsilon are both 2, the root of what number should you divide by?",
    ),
    "epsilon-squared": (
        "Epsilon is squared before it is added.",
        "Is epsilon in the units of x, or of x squared?",
    ),
    "no-root": (
        "The result is divided by the variance, not by its root.",
        "If x is measured in metres, which unit does your x_hat have?",
    ),
    # gamma and beta
    "gamma-forgotten": ("Gamma is not used.", "Give gamma another value than 1, and look at the spread of y."),
    "beta-forgotten": ("Beta is not used.", "Give beta another value than 0, and look at the mean of y."),
    "gamma-beta-swapped": ("Gamma and beta have changed places.", "Which of the two is y's mean?"),
    "gamma-twice": ("Gamma is multiplied in twice.", "With gamma = 3, what should the spread of y be?"),
    "gamma-on-beta": ("Gamma multiplies beta as well.", "With gamma = 0, what should be left of y?"),
    "beta-subtracted": ("Beta is subtracted.", "With gamma = 0, what should be left of y?"),
    # dx
    "mean-constant": (
        "dx treats the mean as a constant: what flows back through it is missing.",
        "Add a constant to a column of x: y does not change. What must each column of dx add up to?",
    ),
    "variance-constant": (
        "dx treats the variance as a constant: what flows back through it is missing.",
        "Stretch a column of x about its mean: y hardly changes. Along which vector must dx have nearly no part?",
    ),
    "statistics-constant": (
        "dx treats mean and variance as constants: that is the gradient of inference mode.",
        "In training mode, does changing one x move the outputs of the other samples?",
    ),
    "gamma-not-in-dx": (
        "Gamma is missing from dx.",
        "y = gamma * x_hat + beta. By what does the chain rule multiply dy on its way to x_hat?",
    ),
    "gamma-twice-in-dx": (
        "dx is multiplied by gamma twice.",
        "y = gamma * x_hat + beta. By what does the chain rule multiply dy on its way to x_hat?",
    ),
    "dy-x-swapped": ("The arguments x and dy have changed places.", "In which order does the check hand them over?"),
    "n-missing": (
        "dx is n times too large: a division by n is missing.",
        "Compare dx with a finite difference, for a batch of 4 and for a batch of 8.",
    ),
    "n-twice": (
        "dx is n times too small: it is divided by n once too often.",
        "Compare dx with a finite difference, for a batch of 4 and for a batch of 8.",
    ),
    "n-batch-only": (
        "dx is formed with the number of samples for n; each channel's mean is formed of more numbers.",
        "Out of how many numbers is one mean formed, if x is (N, H, W, C)?",
    ),
    "sums-for-means": (
        "In dx a sum stands where a mean belongs.",
        "Each sample moved the mean by 1/n only. Where is this 1/n?",
    ),
    "plus-for-minus": (
        "In dx a term is added that should be subtracted.",
        "x - mean: which sign does the derivative with respect to the mean have?",
    ),
    "sign": ("dx has the wrong sign.", "Compare the sign of one entry of dx with a finite difference."),
    "two-missing": (
        "What flows back through the variance is half as large as it should be.",
        "What is the derivative of a square?",
    ),
    "half-missing": (
        "What flows back through the variance is twice as large as it should be.",
        "What is the derivative of (variance + epsilon) ** (-1/2), with its factor?",
    ),
    "wrong-power": (
        "What flows back through the variance has a wrong power of variance + epsilon.",
        "What is the derivative of v ** (-1/2)? Its power is not the one you started from.",
    ),
    "inverse-std-squared": (
        "dx is divided by the standard deviation twice.",
        "If x is measured in metres, dx is in units of loss per metre. Count the metres in your formula.",
    ),
    "inverse-std-missing": (
        "dx is not divided by the standard deviation.",
        "If x is measured in metres, dx is in units of loss per metre. Count the metres in your formula.",
    ),
    "std-for-inverse": (
        "dx is multiplied by the standard deviation, not divided by it.",
        "If x is measured in metres, dx is in units of loss per metre. Count the metres in your formula.",
    ),
    # dgamma and dbeta
    "dgamma-with-x": ("dgamma is formed with x in place of x_hat.", "By what is gamma multiplied in y?"),
    "dgamma-with-centred": (
        "dgamma is formed with x minus its mean, in place of x_hat.",
        "By what is gamma multiplied in y?",
    ),
    "dgamma-with-y": (
        "dgamma is formed with gamma * x_hat in place of x_hat.",
        "By what is gamma multiplied in y? Is gamma itself a part of that?",
    ),
    "dbeta-with-gamma": (
        "dbeta is formed after dy was multiplied by gamma.",
        "Does y change more under a step of beta when gamma is large?",
    ),
    "mean-for-sum": (
        "The gradient of a parameter is a mean over the samples where it should be a sum.",
        "The loss is already averaged or not; dy knows. How do the samples' contributions add up?",
    ),
    "not-summed": (
        "The gradients of the parameters are not summed over the samples.",
        "Which shape has gamma, and which has your dgamma?",
    ),
    "parameters-batch-only": (
        "The sums of dgamma and dbeta run over the batch axis only.",
        "gamma has one entry for each channel. Which axes must be gone after the sum?",
    ),
    "gradients-swapped": ("dgamma and dbeta have changed places.", "In which order does the check ask for them?"),
    # moving averages
    "momentum-inverted": (
        "Momentum is used in the wrong sense: as the share of the new value.",
        "With momentum 0.99, should one batch move the average much or little?",
    ),
    "momentum-fixed": (
        "The argument momentum is ignored, and a fixed number stands in its place.",
        "With momentum 1, what should be left of the new value?",
    ),
    "moving-sample": (
        "The batch's variance that enters the moving average is divided by n - 1; the population variance was asked "
        "for.",
        "Which variance does Keras 3 take, and which PyTorch? Which one was asked for?",
    ),
    "moving-population": (
        "The batch's variance that enters the moving average is divided by n; the sample variance was asked for.",
        "Which variance does Keras 3 take, and which PyTorch? Which one was asked for?",
    ),
    "start-ignored": (
        "The old value is ignored; only the share of the new one is returned.",
        "Start from 100, take momentum 1: what should be left?",
    ),
    "batch-only-kept": (
        "The batch's own statistics are returned; nothing is averaged.",
        "Start from 100, take momentum 1: what should be left?",
    ),
    "old-not-shrunk": (
        "The old value is not multiplied by momentum.",
        "Feed the same batch for ever. Where does your average go?",
    ),
    "new-not-shrunk": (
        "The new value is not multiplied by 1 - momentum.",
        "Feed the same batch for ever. Where does your average go?",
    ),
    "std-averaged": (
        "Standard deviations are averaged where variances should be.",
        "Which of the two does inference mode expect under its root?",
    ),
    "about-moving-mean": (
        "The batch's variance is taken about the moving mean.",
        "About which mean is the variance of a batch?",
    ),
    "only-mean": ("The moving variance stays where it was.", "How many averages are there to move?"),
    "only-variance": ("The moving mean stays where it was.", "How many averages are there to move?"),
    "never-moves": ("The moving statistics stay where they were.", "Who else could move them?"),
    "pair-swapped": ("Mean and variance are returned in the wrong order.", "Read the signature once more."),
    # inference
    "batch-statistics": (
        "Inference normalises with a statistic of the batch.",
        "Give your function one sample, and then the same sample in company. Should y differ?",
    ),
    "moving-swapped": (
        "moving_mean and moving_variance have changed places.",
        "In which order does the check hand them over?",
    ),
    "arguments-misordered": (
        "The arguments gamma, beta, moving_mean and moving_variance are taken in another order.",
        "In which order does the check hand them over, and in which do PyTorch and TensorFlow ask for them?",
    ),
    "inference-sample": (
        "The moving variance is multiplied by n / (n - 1).",
        "What is n if one sample comes alone? Should y depend on how many come with it?",
    ),
    # the layer
    "always-training": (
        "The flag `training` is ignored: the layer is always in training mode.",
        "Call the layer on one sample in inference mode. What comes out?",
    ),
    "always-inference": (
        "The flag `training` is ignored: the layer always normalises with its moving statistics.",
        "At the first training step the moving statistics are 0 and 1. What does the layer do to x?",
    ),
    "updates-in-inference": (
        "The moving statistics move in inference mode.",
        "Score the same images twice. Should the second score differ?",
    ),
    "trains-on-moving": (
        "Training mode normalises with the moving statistics.",
        "With momentum 0.99, what is the variance of y after the first batch?",
    ),
    "ignores-mode": (
        "After a call in inference mode, `backward` uses the formula, or the memory, of training mode.",
        "Which of the statistics depend on x in inference mode?",
    ),
    "first-batch-starts": (
        "The first batch takes the place of the start values; it is not averaged with them.",
        "How large is the share of the start values, 0 and 1, after one update?",
    ),
    "gradients-accumulated": (
        "The gradients of the parameters are added to those of the call before.",
        "`backward` belongs to the last call. What should it leave if it is called for two batches in a row?",
    ),
    "shared-statistics": (
        "Two layers share their moving statistics: training one changes the other.",
        "Where are the arrays made: once for the class (or for a default argument), or anew for each layer?",
    ),
    "wrong-start": (
        "The moving statistics start at other values than 0 and 1.",
        "What should an untrained layer in inference mode do to x?",
    ),
    # how it is written
    "wrong-order": (
        "The outputs are returned in the wrong order.",
        "In which order does the check ask for them?",
    ),
    "first-only": (
        "The answer is right for the first input only.",
        "Is something kept from the first call, or is a number of it (its epsilon, say) written out in the code?",
    ),
    "shape-fixed": (
        "The answer is right for some shapes of x only.",
        "Look for a number that you wrote out, where the code could ask x for it.",
    ),
    "mutates-input": (
        "The answer changes an array that it was given.",
        "Look for +=, -=, *= or an assignment to x[...]. The caller still needs that array.",
    ),
    "remembers": (
        "Two calls with the same arguments give different results: something is remembered between calls, or drawn "
        "at random.",
        "Everything the answer needs is in its arguments. What else does it read?",
    ),
}

_MOMENTS = ["sample-variance", "uncentred"]
_ROOT = [
    "epsilon-outside",
    "root-of-each",
    "epsilon-forgotten",
    "epsilon-fixed",
    "epsilon-squared",
    "epsilon-as-floor",
    "no-root",
]
_AFFINE = [
    "gamma-forgotten",
    "beta-forgotten",
    "gamma-beta-swapped",
    "gamma-twice",
    "gamma-on-beta",
    "beta-subtracted",
]
_IMAGE_AXES = [
    "batch-only",
    "batch-and-channels",
    "space-only",
    "channels-only",
    "channels-first",
    "per-sample",
    "all-axes",
]
_DX = [
    "mean-constant",
    "variance-constant",
    "statistics-constant",
    "gamma-not-in-dx",
    "gamma-twice-in-dx",
    "n-missing",
    "n-twice",
    "sums-for-means",
    "plus-for-minus",
    "sign",
    "two-missing",
    "half-missing",
    "wrong-power",
    "inverse-std-squared",
    "inverse-std-missing",
    "std-for-inverse",
]
_DPARAMETERS = [
    "dgamma-with-x",
    "dgamma-with-centred",
    "dgamma-with-y",
    "dbeta-with-gamma",
    "mean-for-sum",
    "not-summed",
    "gradients-swapped",
]
_MOVING = [
    "momentum-inverted",
    "momentum-fixed",
    "moving-sample",
    "start-ignored",
    "batch-only-kept",
    "old-not-shrunk",
    "new-not-shrunk",
    "std-averaged",
    "about-moving-mean",
    "only-mean",
    "only-variance",
    "never-moves",
]
_LAYER = [
    "always-training",
    "always-inference",
    "updates-in-inference",
    "trains-on-moving",
    "ignores-mode",
    "wrong-start",
    "first-batch-starts",
    "gradients-accumulated",
]
_WRITTEN = ["shape-fixed", "mutates-input", "remembers", "first-only"]
_BACKWARD_MOMENTS = [*_MOMENTS[:1], "uncentred", *_ROOT]

#: The codes that each check knows.
CODES: dict[Check, list[str]] = {
    "forward": [
        "wrong-axis",
        "all-axes",
        *_MOMENTS,
        "mean-not-subtracted",
        "parentheses-missing",
        *_ROOT,
        *_AFFINE,
        "one-pass-variance",
        *_WRITTEN,
    ],
    "convolution": [
        *_IMAGE_AXES,
        "channels-mixed",
        *_MOMENTS,
        "mean-not-subtracted",
        "parentheses-missing",
        *_ROOT,
        *_AFFINE,
        "one-pass-variance",
        *_WRITTEN,
    ],
    "backward": [
        "wrong-axis",
        "all-axes",
        *_BACKWARD_MOMENTS,
        "dy-x-swapped",
        *_DX,
        *_DPARAMETERS,
        "wrong-order",
        *_WRITTEN,
    ],
    "convolution_backward": [
        *_IMAGE_AXES,
        "channels-mixed",
        "n-batch-only",
        *_BACKWARD_MOMENTS,
        "dy-x-swapped",
        *_DX,
        *_DPARAMETERS,
        "parameters-batch-only",
        "wrong-order",
        *_WRITTEN,
    ],
    "inference": [
        "batch-statistics",
        "moving-swapped",
        "arguments-misordered",
        "inference-sample",
        "mean-not-subtracted",
        "parentheses-missing",
        *_ROOT,
        *_AFFINE,
        *_WRITTEN,
    ],
    "moving_averages": ["wrong-axis", "all-axes", "uncentred", *_MOVING, "pair-swapped", *_WRITTEN],
    "layer": [
        *_MOVING,
        *_MOMENTS,
        "mean-not-subtracted",
        *_ROOT,
        *_AFFINE,
        "batch-statistics",
        "wrong-axis",
        "all-axes",
        *_DX,
        *_DPARAMETERS,
        *_LAYER,
        "shared-statistics",
        "mutates-input",
    ],
}

_MIXES = ["channels-mixed:moved", "channels-mixed:moved-back"]
_MOMENTA = ["momentum-fixed:0.99", "momentum-fixed:0.999", "momentum-fixed:0.1"]

#: Other ways to write a mistake, and the checks that know them.
VARIANTS: dict[Check, list[str]] = {
    "forward": ["wrong-axis:flat", "all-axes:mean", "all-axes:variance"],
    "convolution": [
        "channels-first:flat",
        "channels-first:parameters",
        "all-axes:mean",
        "all-axes:variance",
        *_MIXES,
    ],
    "backward": [
        "wrong-axis:flat",
        "wrong-axis:sums",
        "wrong-axis:moments",
        "all-axes:moments",
        "all-axes:statistics",
        "wrong-axis:statistics",
        "all-axes:sums",
    ],
    "convolution_backward": [
        *(f"{code}:{part}" for code in _IMAGE_AXES for part in ("moments", "statistics")),
        "channels-first:flat",
        *_MIXES,
        "n-batch-only:mean",
        "n-batch-only:variance",
    ],
    "inference": [
        "batch-statistics:mean",
        "batch-statistics:variance",
        "arguments-misordered:offset",
        "inference-sample:number",
    ],
    "moving_averages": ["std-averaged:both", *_MOMENTA],
    "layer": [
        "updates-in-inference:after",
        "sample-variance:moving",
        "trains-on-moving:old",
        "trains-on-moving:constants",
        "trains-on-moving:old-constants",
        "trains-on-moving:batch-gradient",
        "ignores-mode:batch",
        "ignores-mode:stale",
        "wrong-start:mean",
        "std-averaged:both",
        *_MOMENTA,
        "batch-statistics:mean",
        "batch-statistics:variance",
        "all-axes:moments",
    ],
}
_backward: tuple[Check, ...] = ("backward", "convolution_backward", "layer")
_with_root: tuple[Check, ...] = ("forward", "convolution", "inference", *_backward)
for _check in _backward:
    VARIANTS[_check] += ["sample-variance:consistent", "plus-for-minus:mean", "plus-for-minus:variance"]
    VARIANTS[_check] += ["sums-for-means:mean", "sums-for-means:variance", "wrong-power:one"]
for _check in _with_root:
    VARIANTS[_check] += ["epsilon-outside:after"]
    VARIANTS[_check] += [f"epsilon-fixed:1e-{digits}" for digits in (3, 5, 6, 7, 8)]

#: Mistakes of a kind that no switch makes: they are looked for directly.
DIRECT = {*_WRITTEN, "wrong-order", "one-pass-variance", "shared-statistics"}

#: What is to be said besides, in one check.
NOTES: dict[tuple[Check, str], str] = {
    ("layer", code): f"The check sets the attribute {name} anew: a copy that the layer keeps elsewhere does not follow."
    for code, name in (("gamma-forgotten", "gamma"), ("beta-forgotten", "beta"))
}


#: Mistakes of which one answer makes only one: the axes of images, and ways to mix the channels.
_ALTERNATIVES = {*_IMAGE_AXES, "channels-mixed"}


def can_meet(one: str, other: str) -> bool:
    """Tell whether two switches can spoil one output together, so that it is worth while to try them as a pair."""
    codes = {one.partition(":")[0], other.partition(":")[0]}
    elsewhere = bool(codes & set(_DX)) and bool(codes & {*_DPARAMETERS, "parameters-batch-only"})
    return len(codes) == 2 and not codes <= _ALTERNATIVES and not elsewhere


def catalogue(check: Check) -> tuple[Mistake, ...]:
    """Return the known mistakes of a check: ``"forward"``, ``"backward"`` and so on.

    Raises
    ------
    ValueError
        If there is no such check.
    """
    if check not in CODES:
        raise ValueError(f"check = {check!r}; expected one of {', '.join(CODES)}.")
    return tuple(mistake(code) for code in CODES[check])


def mistake(code: str) -> Mistake:
    """Return the mistake of that code (a variant's part after the colon is dropped)."""
    name = code.partition(":")[0]
    return Mistake(name, *_TEXTS[name])


def switches(check: Check) -> list[str]:
    """Return all switches that plant one mistake of a check."""
    plain = [code for code in CODES[check] if code not in DIRECT and code != "epsilon-fixed"]
    return plain + VARIANTS[check]
