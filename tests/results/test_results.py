"""Records are part of the package, so that chapters find them wherever they run."""

import pytest

from bncourse.benchmark import read_record
from bncourse.experiments.sigmoid_race import read
from bncourse.results import path


def test_every_record_is_found_and_read() -> None:
    assert read_record(path("speed"))["rows"]
    assert read(path("sigmoid-race"))


RECORDS = "conventions, memory, photograph-cost, sigmoid-race, speed"


@pytest.mark.parametrize("name", ["nothing", "../pyproject", ""])
def test_an_unknown_record_is_named_with_those_that_are_there(name: str) -> None:
    with pytest.raises(ValueError, match=f"there is no record .*; there are: {RECORDS}"):
        path(name)
