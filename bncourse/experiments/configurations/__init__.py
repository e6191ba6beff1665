"""The options of every experiment: checked when they are set, and the same for Python and the command line.

One module for each, so that a record depends on the options of its own experiment only. None loads TensorFlow.
"""

from bncourse.experiments.configurations.article_e import (
    BaseConfiguration,
    EarlyStoppedConfiguration,
    ImprovedConfiguration,
)
from bncourse.experiments.configurations.averaged import AveragedConfiguration
from bncourse.experiments.configurations.both_modes import BothModesConfiguration
from bncourse.experiments.configurations.by_hand import ByHandConfiguration
from bncourse.experiments.configurations.common import Configuration
from bncourse.experiments.configurations.deep import DeepConfiguration
from bncourse.experiments.configurations.moving_weights import MovingWeightsConfiguration
from bncourse.experiments.configurations.one_step import OneStepConfiguration
from bncourse.experiments.configurations.photographs import (
    DeepPhotographsConfiguration,
    LogisticPhotographsConfiguration,
    PhotographsConfiguration,
    WidePhotographsConfiguration,
)
from bncourse.experiments.configurations.wired import WiredConfiguration

__all__ = [
    "AveragedConfiguration",
    "BaseConfiguration",
    "BothModesConfiguration",
    "ByHandConfiguration",
    "Configuration",
    "DeepConfiguration",
    "DeepPhotographsConfiguration",
    "EarlyStoppedConfiguration",
    "ImprovedConfiguration",
    "LogisticPhotographsConfiguration",
    "MovingWeightsConfiguration",
    "OneStepConfiguration",
    "PhotographsConfiguration",
    "WidePhotographsConfiguration",
    "WiredConfiguration",
]
