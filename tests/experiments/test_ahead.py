"""What is said before a run on a reader's photographs."""

import pytest

from bncourse import averages
from bncourse.experiments.ahead import late
from bncourse.experiments.configurations import DeepPhotographsConfiguration


@pytest.mark.parametrize(("epochs", "proposed"), [(2, None), (10, "0.7"), (20, "0.8"), (60, None)])
def test_a_momentum_is_proposed_that_leaves_little_of_the_start_early_on(epochs, proposed):
    """A hundred pictures in batches of ten: ten steps an epoch."""
    configuration = DeepPhotographsConfiguration(epochs=epochs)
    said = late(configuration, 100)
    if epochs == 60:
        assert said is None  # 600 steps: 0.99 leaves 0.2 %
        return
    assert f"still hold {averages.start_share(0.99, 10 * epochs):.0%} of their start values" in said
    if proposed is None:
        assert said.endswith("Take more epochs.")
    else:
        assert said.endswith(f"Take more epochs, or take --momentum {proposed}.")
        assert averages.start_share(float(proposed), 10 * epochs // 5) < 0.01


def test_without_bn_nothing_is_late():
    assert late(DeepPhotographsConfiguration(epochs=1, batch_norm="none"), 100) is None
