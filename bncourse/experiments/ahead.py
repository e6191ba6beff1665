"""What a reader should know before a run on photographs of their own begins, and not after hours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bncourse import averages
from bncourse.data.photographs import CROPS, Photographs
from bncourse.experiments.configurations.photographs import PhotographsConfiguration

#: More of the start values than this, left in the moving statistics at the end of a run, is worth a word.
MUCH = 0.01
#: Momenta to propose.
MOMENTA = (0.99, 0.97, 0.95, 0.9, 0.8, 0.7)


def ahead(configuration: Any, data: Any) -> Iterator[str]:
    """Tell which files of a folder are left out and why, and whether the moving statistics will be late.

    Parameters
    ----------
    configuration : configuration of an experiment
        Its options.
    data : Photographs, Dataset or None
        What it will train on. Nothing is said of data that come with the course.
    """
    if not isinstance(data, Photographs) or data.name == CROPS:
        return
    from bncourse.experiments.photographs import _notes  # the record has the same words; the module loads TensorFlow

    used, *left_out = _notes(data)
    yield used
    yield from (f"  {line}" for line in left_out)
    warning = late(configuration, len(data.train))
    if warning:
        yield warning


def late(configuration: PhotographsConfiguration, pictures: int) -> str | None:
    """Return a warning if the run is too short for its momentum.

    Parameters
    ----------
    configuration : PhotographsConfiguration
        Its options.
    pictures : int
        Number of training pictures.
    """
    if configuration.batch_norm == "none":
        return None
    steps = configuration.epochs * -(-pictures // configuration.batch_size)
    left = averages.start_share(configuration.momentum, steps)
    if left <= MUCH:
        return None
    # Less than that much should be left after a fifth of the steps, so that most validations can be believed.
    wanted = averages.momentum_for(MUCH, max(1, steps // 5))
    smaller = [f"take --momentum {momentum:g}" for momentum in MOMENTA if momentum <= wanted]
    return (
        f"momentum = {configuration.momentum:g} is late: after all {steps:,} steps of this run the moving statistics "
        f"still hold {left:.0%} of their start values, so that the validation is worse than the network. Take more "
        f"epochs{', or ' + smaller[0] if smaller else ''}."
    )
