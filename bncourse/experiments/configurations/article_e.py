"""The options of article E's programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bncourse.experiments.configurations.common import Configuration, option
from bncourse.nn.checks import fraction
from bncourse.tf_layers.arguments import Activation, Optimizer, known

#: Whose accuracy is watched: that of the outputs after the last BN, or (article E) of the logits before it.
Watched = Literal["after", "before"]


@dataclass(frozen=True, kw_only=True)
class EarlyStoppedConfiguration(Configuration):
    """What every run may choose that `bncourse.experiments.early_stopped` trains."""

    patience: int = option(2000, "Steps without a better validation after which the training stops; 0: never.")
    audit: int = option(
        0,
        "Score the test images every so many steps, too, and train on after patience has run out, to see what "
        "stopping cost; 0: the test images are scored at the end only.",
    )
    shift: int = option(0, "Move every training image at random by up to so many pixels, down and across.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("patience", "audit", "shift"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"{name} = {value!r}; expected an integer >= 0.")
        if self.audit % self.every:
            raise ValueError(f"audit = {self.audit}; expected a multiple of every = {self.every}, or 0.")


@dataclass(frozen=True, kw_only=True)
class BaseConfiguration(EarlyStoppedConfiguration):
    """The options of article E's base network; the defaults are the article's, on MNIST: 10 epochs."""

    batches: int = option(5500, "Training steps.")
    batch_size: int = option(100, "Images in a step.")
    learning_rate: float = option(0.001, "Adam's learning rate; its peak, if the schedule is not constant.")
    every: int = option(550, "Steps from one entry of the log to the next.")
    patience: int = option(0, "Steps without a better validation after which the training stops; 0: never.")
    maps: int = option(16, "Feature maps of the first convolution; the second has twice as many.")
    stride: int = option(2, "Stride of the second convolution.")
    units: int = option(32, "Units of the fully connected layer.")


@dataclass(frozen=True, kw_only=True)
class ImprovedConfiguration(EarlyStoppedConfiguration):
    """The options of article E's improved network; the defaults are the article's, on MNIST: at most 20 epochs."""

    batches: int = option(11000, "Training steps, at most.")
    batch_size: int = option(100, "Images in a step.")
    learning_rate: float = option(0.01, "The optimizer's learning rate; its peak, if the schedule is not constant.")
    momentum: float = option(0.9, "Share of the old value in the moving statistics, from 0 to 1.")
    every: int = option(10, "Steps from one validation to the next.")
    watch: Watched = option("after", "Accuracy that decides: after the last BN, or before it, as in the article.")
    batch_norm: bool = option(True, "Whether BN follows the convolutions and the fully connected layer.")
    normalise_logits: bool = option(True, "Whether BN follows the logits, too.")
    normalise_pooled: bool = option(False, "Whether one more BN follows the pooling.")
    dropout: float = option(0.25, "Share that dropout drops behind the pooling, from 0 to below 1.")
    dense_dropout: float = option(0.5, "Share that dropout drops behind the fully connected layer.")
    activation: Activation = option("selu", "selu, the article's, or relu.")
    optimizer: Optimizer = option("adam", "adam, the article's; or muon: turns of a set angle, and Adam for the rest.")

    def __post_init__(self) -> None:
        super().__post_init__()
        known(self.watch, "watch", Watched)
        known(self.activation, "activation", Activation)
        known(self.optimizer, "optimizer", Optimizer)
        fraction(self.dropout, "dropout", end=False)
        fraction(self.dense_dropout, "dense_dropout", end=False)
