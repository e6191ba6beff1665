"""The options of article D's programs, a class for each model; the defaults are the article's, but for the epochs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from bncourse.data.photographs import CROPS
from bncourse.experiments.configurations.common import option
from bncourse.nn.checks import fraction, positive_int
from bncourse.tf_layers.arguments import check_learning_rate, check_seed, known

# The words and rates of bncourse.keras_models.photographs, which would load Keras; a test keeps them equal.
PhotographModel = Literal["logistic", "wide", "deep"]
Place = Literal["input", "none", "between"]
#: A single layer has nothing between its layers.
LogisticPlace = Literal["input", "none"]


@dataclass(frozen=True, kw_only=True)
class PhotographsConfiguration:
    """What every run on photographs may choose. Use the subclass of a model."""

    model: ClassVar[PhotographModel]

    data: str = option(CROPS, "A folder with a folder of photographs for each class; or crops, the embedded ones.")
    image_size: int = option(224, "Height and width to which photographs are squeezed, in pixels.")
    batch_norm: Place = option("input", "Where BN stands: input (in front), none, or between (convolution and ReLU).")
    epochs: int = option(20, "Passes over the training photographs; the article's are 200.")
    batch_size: int = option(10, "Photographs in a step, and in memory.")
    learning_rate: float = option(0.01, "Adam's learning rate.")
    momentum: float = option(0.99, "Share of the old value in the moving statistics, from 0 to 1.")
    augment: bool = option(False, "Whether photographs are mirrored and cropped a little, at random.")
    seed: int = option(0, "Seed of the start weights, of the order of the photographs and of their augmentation.")
    threads: int = option(0, "Threads of a step; 0: as TensorFlow likes. With 1 the digits hang on no number of cores.")

    def __post_init__(self) -> None:
        if not isinstance(self.data, str):
            raise TypeError(f"data = {self.data!r}; expected a folder's name, or {CROPS!r}.")
        known(self.batch_norm, "batch_norm", LogisticPlace if self.model == "logistic" else Place)
        for name in ("image_size", "epochs", "batch_size"):
            positive_int(getattr(self, name), name)
        check_learning_rate(self.learning_rate)
        fraction(self.momentum, "momentum", end=True)
        check_seed(self.seed)
        if isinstance(self.threads, bool) or not isinstance(self.threads, int) or self.threads < 0:
            raise ValueError(f"threads = {self.threads!r}; expected an integer >= 0.")


@dataclass(frozen=True, kw_only=True)
class LogisticPhotographsConfiguration(PhotographsConfiguration):
    """The options of logistic regression on photographs."""

    model: ClassVar[PhotographModel] = "logistic"

    batch_norm: LogisticPlace = option("input", "Where BN stands: input (in front), or none.")


@dataclass(frozen=True, kw_only=True)
class WidePhotographsConfiguration(PhotographsConfiguration):
    """The options of the wide model: one convolution."""

    model: ClassVar[PhotographModel] = "wide"

    learning_rate: float = option(0.001, "Adam's learning rate.")


@dataclass(frozen=True, kw_only=True)
class DeepPhotographsConfiguration(PhotographsConfiguration):
    """The options of the deep model: seven convolutions."""

    model: ClassVar[PhotographModel] = "deep"
