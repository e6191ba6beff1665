"""The probes against planted layers whose conventions are known, and against the installed libraries."""

import numpy as np
import pytest

from bncourse.conventions import QUESTIONS, SUBJECTS, Statistics, Subject, differences, probe, read_record
from bncourse.results import path

SUBJECT = {subject.name: subject for subject in SUBJECTS}


class Planted(Subject):
    """A layer written anew, with any of the conventions."""

    name = "planted"
    packages = ("numpy",)

    def __init__(self, **conventions):
        self.sense = conventions.get("sense", "old")
        self.default = conventions.get("default", 0.99)
        self.corrected = conventions.get("corrected", False)
        self.epsilon = conventions.get("epsilon", 1e-3)
        self.inside = conventions.get("inside", True)
        self.normalises = conventions.get("normalises", 0)
        self.averages = conventions.get("averages", 0)
        self.mode = conventions.get("mode", False)
        self.frozen = conventions.get("frozen", "inference")
        self.axis = conventions.get("axis", -1)
        self.least = conventions.get("least", 1)

    def _run(self, request):
        momentum = self.default if request.momentum is None else request.momentum
        if momentum is None:
            raise TypeError("momentum is missing")
        share = momentum if self.sense == "old" else 1 - momentum
        training = self.mode if request.training is None else request.training
        if training is None:
            raise TypeError("training is missing")
        learns = not (request.frozen and self.frozen != "nothing")
        if request.frozen and self.frozen == "inference":
            training = False
        mean, variance = request.start or ((0.0, 0.0) if self.corrected else (0.0, 1.0))
        epsilon = self.epsilon if request.epsilon is None else request.epsilon
        steps = 0
        for batch in request.batches:
            x = np.array(batch)
            if training and len(x) < self.least:
                raise ValueError("too few")
            m, v = (x.mean(), self._variance(x, self.normalises)) if training else (mean, variance)
            if training and learns:
                weight = 1 - share
                if self.corrected:  # the weight that makes the average what division by 1 - share^t would
                    steps += 1
                    weight = (1 - share) / (1 - share**steps)
                mean = (1 - weight) * mean + weight * x.mean()
                variance = (1 - weight) * variance + weight * self._variance(x, self.averages)
            y = (x - m) / (np.sqrt(v + epsilon) if self.inside else np.sqrt(v) + epsilon)
        return y.astype(np.float32), Statistics(float(mean), float(variance))

    @staticmethod
    def _variance(x, ddof):
        return x.var() * len(x) / (len(x) - ddof) if len(x) > ddof else float("nan")

    def _count(self, shape):
        return shape[self.axis]


DEFAULTS = {
    "sense": "share of the old value",
    "momentum": "0.99",
    "start": "part of the average",
    "epsilon": "0.001",
    "place": "inside the root",
    "normalises": "population",
    "averaged": "population",
    "frozen": "normalises with the moving statistics, the moving ones do not move",
    "mode": "inference",
    "one": "0; learns the variance 0",
    "axis": "last",
}


@pytest.mark.parametrize(
    ("conventions", "changed"),
    [
        ({}, {}),
        ({"sense": "new", "default": 0.1}, {"sense": "share of the new value", "momentum": "0.1"}),
        ({"default": 0.9}, {"momentum": "0.9"}),
        ({"default": None}, {"momentum": "none, must be given"}),
        ({"corrected": True}, {"start": "corrected away"}),
        ({"corrected": True, "sense": "new", "default": 0.3},
         {"start": "corrected away", "sense": "share of the new value", "momentum": "0.3"}),
        ({"epsilon": 1e-5}, {"epsilon": "1e-05"}),
        ({"epsilon": 1e-5, "inside": False}, {"epsilon": "1e-05", "place": "outside the root"}),
        ({"normalises": 1}, {"normalises": "sample", "one": "nan; learns the variance 0"}),
        ({"averages": 1}, {"averaged": "sample", "one": "0; learns the variance nan"}),
        ({"mode": True}, {"mode": "training"}),
        ({"mode": None}, {"mode": "none, must be given"}),
        ({"frozen": "batch"}, {"frozen": "normalises with the batch statistics, the moving ones do not move"}),
        ({"frozen": "nothing"}, {"frozen": "normalises with the batch statistics, the moving ones move on"}),
        ({"axis": 1}, {"axis": "first after the batch"}),
        ({"least": 2}, {"one": "refuses"}),
    ],
)  # fmt: skip
def test_the_probes_find_out_every_planted_convention(conventions, changed):
    assert probe(Planted(**conventions)) == {**DEFAULTS, **changed}


def test_a_layer_without_the_switch_says_so():
    planted = Planted()
    planted.can_freeze = False
    assert probe(planted)["frozen"] == "no such switch"
    with pytest.raises(ValueError, match=r"frozen = True; planted has no such switch\."):
        planted.run([(1.0,)], training=True, frozen=True)


def test_no_batch_is_refused():
    with pytest.raises(ValueError, match=r"batches is empty; expected one batch or more\."):
        Planted().run([], training=True)


class Strange(Planted):
    """A layer whose every number is off."""

    def _run(self, request):
        y, statistics = super()._run(request)
        return y * np.float32(0.5), Statistics(statistics.mean**2, 3 * statistics.variance)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("sense", r"planted: momentum = 0\.75 keeps the share .* of the old value"),
        ("place", "planted: epsilon stands neither inside nor outside the root"),
        ("normalises", r"planted: the variance of \(-3\.0, 3\.0\) is 36.* there; expected one of"),
        ("averaged", r"planted: the variance of \(-3\.0, 3\.0\) is .* there; expected one of"),
    ],
)
def test_what_fits_no_convention_is_not_forced_into_one(key, message):
    ask = {question.key: question.ask for question in QUESTIONS}[key]
    with pytest.raises(ValueError, match=message):
        ask(Strange())


@pytest.mark.parametrize("name", list(SUBJECT))
def test_the_record_is_what_the_library_answers_today(name):
    subject = SUBJECT[name]
    versions = subject.versions()
    if versions is None:
        pytest.skip(f"{' and '.join(subject.packages)} not installed")
    found = {name: {"versions": versions, "answers": probe(subject)}}
    assert differences(read_record(path("conventions")), found) == []


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 5, 4, 3)])
def test_counting_asks_for_the_axis_not_for_a_number(shape):
    for subject in SUBJECTS:
        if subject.versions() is not None:
            axis = 1 if subject.name in ("PyTorch", "ONNX") else -1
            assert subject.count(shape) == shape[axis], subject.name


def test_onnx_says_if_nothing_fits():
    if SUBJECT["ONNX"].versions() is None:
        pytest.skip("onnx not installed")
    with pytest.raises(ValueError, match=r"no number of channels fits the shape \(2,\)"):
        SUBJECT["ONNX"].count((2,))


def test_a_missing_package_gives_no_versions():
    class Missing(Planted):
        packages = ("numpy", "there-is-no-such-package")

    assert Missing().versions() is None
    assert Planted().versions() == {"numpy": np.__version__}
