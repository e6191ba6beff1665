"""The run behind article B: one step of the 1-1-1 network, with all the digits that its author prints."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from bncourse.data import Dataset
from bncourse.experiments import fingerprint
from bncourse.experiments.configurations.one_step import OneStepConfiguration
from bncourse.experiments.record import Run, installed
from bncourse.tf_layers.one_step import one_step

CODE = ("bncourse.experiments.one_step", "bncourse.tf_layers.one_step", "bncourse.tf_layers.runtime")


def run(
    configuration: OneStepConfiguration,
    data: Dataset | None = None,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> Run:
    """Take the step and return its numbers; it is over before there is anything to show or to resume."""
    del data, checkpoint, resume, progress
    begin = time.perf_counter()
    step = one_step(
        configuration.hidden_weight,
        configuration.output_weight,
        momentum=configuration.momentum,
        learning_rate=configuration.learning_rate,
    )
    numbers = {name: float(np.ravel(getattr(step, name))[-1]) for name in _PRINTED}
    numbers["normalised_0"] = float(np.ravel(step.normalised)[0])
    return Run(
        experiment="one-step",
        configuration=asdict(configuration),
        data={"name": "the batch x = 0, 1 with y = 3, 4"},
        log=(),
        final=numbers,
        seconds=round(time.perf_counter() - begin, 1),
        versions=installed(),
        code=fingerprint.of(CODE),
    )


#: What the article prints, of the second of its two samples where there are two.
_PRINTED = ("weight", "moving_mean", "moving_variance", "gamma", "beta", "hidden", "normalised", "activated")
