"""The options of article A's program."""

from __future__ import annotations

from dataclasses import dataclass

from bncourse.experiments.configurations.both_modes import BothModesConfiguration
from bncourse.experiments.configurations.common import option
from bncourse.tf_layers.arguments import Loss, Optimizer, Order, Start, known


@dataclass(frozen=True, kw_only=True)
class DeepConfiguration(BothModesConfiguration):
    """The options of article A's program; the defaults are the article's."""

    batch_norm: bool = option(True, "Whether BN follows every layer but the logits.")
    order: Order = option("bn-relu", "What follows a convolution: bn-relu, bias-bn-relu, bias-relu-bn or relu-bn.")
    loss: Loss = option("sigmoid", "Cross-entropy of ten sigmoids (the article's), or of a softmax.")
    start: Start = option("glorot", "First weights of the convolutions: glorot, random; or identity, maps handed on.")
    optimizer: Optimizer = option("adam", "adam, the article's; or muon: turns of a set angle, and Adam for the rest.")
    update_ops: bool = option(True, "Whether a step updates the moving statistics; without is the classic mistake.")

    def __post_init__(self) -> None:
        super().__post_init__()
        known(self.order, "order", Order)
        known(self.loss, "loss", Loss)
        known(self.start, "start", Start)
        known(self.optimizer, "optimizer", Optimizer)
        if self.batch_norm and self.batch_size == 1:
            raise ValueError(
                "batch_size = 1; expected at least 2 with BN. A single image equals its own mean, so the fully "
                "connected BN layer would put out beta whatever the image shows."
            )
        if self.cures and not (self.batch_norm and self.update_ops):
            raise ValueError("cures need moving statistics that move; expected batch_norm and update_ops.")
