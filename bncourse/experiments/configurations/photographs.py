"""The options of article D's program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bncourse.data.photographs import CROPS
from bncourse.experiments.configurations.common import option
from bncourse.nn.checks import fraction, positive_int
from bncourse.tf_layers.arguments import check_learning_rate, check_seed, known

# As in bncourse.keras_models.photographs, which would load Keras; a test keeps them equal.
PhotographModel = Literal["logistic", "wide", "deep"]
Place = Literal["input", "none", "between"]


@dataclass(frozen=True, kw_only=True)
class PhotographsConfiguration:
    """The options of article D's program; the defaults are the article's, but for the epochs: it runs 200."""

    data: str = option(CROPS, "A folder with a folder of photographs for each class; or crops, the embedded ones.")
    image_size: int = option(224, "Height and width to which photographs are squeezed, in pixels.")
    model: PhotographModel = option("deep", "logistic, wide (one convolution) or deep (seven).")
    batch_norm: Place = option("input", "Where BN stands: input (in front), none, or between (convolution and ReLU).")
    epochs: int = option(20, "Passes over the training photographs; the article's are 200.")
    batch_size: int = option(10, "Photographs in a step, and in memory.")
    learning_rate: float = option(0.0, "Adam's learning rate; 0: the article's, 0.001 for wide, else 0.01.")
    momentum: float = option(0.99, "Share of the old value in the moving statistics, from 0 to 1.")
    augment: bool = option(False, "Whether photographs are mirrored and cropped a little, at random.")
    seed: int = option(0, "Seed of the start weights, of the order of the photographs and of their augmentation.")
    threads: int = option(0, "Threads of a step; 0: as TensorFlow likes. With 1 the digits hang on no number of cores.")

    def __post_init__(self) -> None:
        known(self.model, "model", PhotographModel)
        known(self.batch_norm, "batch_norm", Place)
        if self.model == "logistic" and self.batch_norm == "between":
            raise ValueError("batch_norm = 'between' with logistic; expected 'input' or 'none': it has a single layer.")
        for name in ("image_size", "epochs", "batch_size"):
            positive_int(getattr(self, name), name)
        if self.learning_rate != 0:
            check_learning_rate(self.learning_rate)
        fraction(self.momentum, "momentum", end=True)
        check_seed(self.seed)
        if isinstance(self.threads, bool) or not isinstance(self.threads, int) or self.threads < 0:
            raise ValueError(f"threads = {self.threads!r}; expected an integer >= 0.")
