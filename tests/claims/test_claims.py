"""Every verdict of the ledger still holds, and would not hold if its figures were others."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bncourse import averages, nn
from bncourse.claims import (
    CLAIMS,
    Claim,
    Evidence,
    VerdictError,
    article_a,
    article_b,
    article_d,
    article_e,
    claims_of,
    figures,
    markdown,
    show,
)
from bncourse.claims.claim import claim
from bncourse.claims.table import BADGES, CHAPTERS
from bncourse.experiments import plan
from bncourse.experiments.record import Run
from bncourse.experiments.regression import MapScores
from bncourse.nn import BatchNorm

ROOT = Path(__file__).parents[2]
BY_ROW = {entry.row: entry for entry in CLAIMS}

#: The rows of the list of what the course owes to the articles.
ROWS = [
    *(f"S-A{n}" for n in range(1, 6)),
    *(f"C-A{n}" for n in range(1, 11)),
    "S-B1",
    *(f"C-B{n}" for n in range(1, 5)),
    *(f"S-B2 ({n})" for n in range(1, 5)),
    *(f"S-C{n}" for n in range(1, 4)),
    *(f"C-C{n}" for n in range(1, 6)),
    *(f"S-D{n}" for n in range(1, 5)),
    *(f"C-D{n}" for n in range(1, 4)),
    *(f"S-E{n}" for n in range(1, 6)),
    *(f"C-E{n}" for n in range(1, 8)),
]

#: The rows whose verdict rests on recorded runs.
RECORDED = ["S-A3", "S-A4", "S-A5", "C-A3", "C-A4", "C-A5", "C-A8", "C-A10"]
RECORDED += ["S-C1", "S-C2", "S-C3", "C-C2", "C-C3", "C-C4"]
RECORDED += ["S-D2", "S-D3", "S-D4", "C-D1", "C-D2", "C-D3"]
RECORDED += ["S-E2", "S-E4", "S-E5", "C-E1", "C-E4", "C-E6"]


def test_no_row_is_missing_and_none_stands_twice() -> None:
    assert [entry.row for entry in CLAIMS] == ROWS


@pytest.mark.parametrize("row", ROWS)
def test_the_verdict_holds(row: str) -> None:
    finding = BY_ROW[row].check()
    assert "{" not in finding.replace("{bdg", "")
    assert "nan" not in finding


@pytest.mark.parametrize("row", RECORDED)
def test_no_verdict_survives_runs_in_which_every_score_is_a_half(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verdict that rests on records looks at them."""
    real = plan.recorded

    def halved(name: str) -> list[Run]:
        return [_halved(run) for run in real(name)]

    monkeypatch.setattr(plan, "recorded", halved)
    with pytest.raises((VerdictError, ValueError), match=rf"{re.escape(row)}|has no runs"):
        BY_ROW[row].check()


def _halved(run: Run) -> Run:
    half = [{name: value if name == "batch" else 0.5 for name, value in entry.items()} for entry in run.log]
    configuration = {**run.configuration, "order": "unknown"} if run.configuration.get("order") else run.configuration
    return dataclasses.replace(run, configuration=configuration, log=tuple(half), final=dict.fromkeys(run.final, 0.5))


@pytest.fixture
def anew() -> Iterator[None]:
    """Train small networks again, before the test and after it."""
    figures.small_networks.cache_clear()
    yield
    figures.small_networks.cache_clear()


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize("row", ["C-A5", "C-A9", "S-B2 (3)", "C-C1", "C-C2"])
def test_small_networks_that_do_not_learn_support_nothing(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(network: nn.Sequential, x: Any, labels: Any, **options: Any) -> None:
        network(x, training=True)

    monkeypatch.setattr(nn.Sequential, "fit", fit)
    with pytest.raises(VerdictError, match=re.escape(row)):
        BY_ROW[row].check()


@pytest.mark.parametrize("row", ["S-A1", "S-A2", "C-A1", "C-A2", "C-A9"])
def test_another_network_is_noticed(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(**options: Any) -> Any:
        return figures.deep_network(batch_norm=False, conv_layers=7)

    monkeypatch.setattr(article_a, "deep_network", other)
    with pytest.raises(VerdictError, match=row):
        BY_ROW[row].check()


def test_a_moving_variance_without_the_correction_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def beside_numpy(x: Any) -> Any:
        return True, np.ones(x.shape[-1])

    monkeypatch.setattr(article_a, "_beside_numpy", beside_numpy)
    with pytest.raises(VerdictError, match=r"C-A6: .* Not true: images: n / \(n - 1\) of it\.$"):
        BY_ROW["C-A6"].check()


@pytest.mark.parametrize("row", ["S-B1", "C-B2", "C-B3"])
def test_other_printed_digits_are_noticed(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(article_b, "MEAN", article_b.MEAN + 1e-4)
    with pytest.raises(VerdictError, match=row):
        BY_ROW[row].check()


def test_an_average_that_takes_the_first_batch_as_it_is_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def as_it_is(old: Any, new: Any, momentum: float) -> Any:
        return np.asarray(new)

    monkeypatch.setattr(averages, "update", as_it_is)
    with pytest.raises(VerdictError, match=r"C-B1: 'refuted' does not hold\. Not true: the printed mean fits\.$"):
        BY_ROW["C-B1"].check()


def test_an_order_between_step_and_updates_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def everything(operations: Any) -> frozenset[Any]:
        first = operations[0] if isinstance(operations, tuple) else operations
        return frozenset(first.graph.get_operations())

    monkeypatch.setattr("bncourse.tf_layers.one_step.ancestors", everything)
    with pytest.raises(VerdictError, match=r"C-B4: .* the step does not wait for the updates; nor they for the step"):
        BY_ROW["C-B4"].check()


def test_a_regression_that_fails_in_every_way_supports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing() -> Any:
        return dict.fromkeys(("plain", "bn", "scaled", "lagging", "mended"), (MapScores(1.5, 0.1),))

    monkeypatch.setattr(article_b, "_regressions", failing)
    with pytest.raises(VerdictError, match=r"without BN it learns; with scaled targets it does; 0\.9 mends it"):
        BY_ROW["S-B2 (1)"].check()


def test_an_article_whose_layer_shares_its_variables_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from bncourse.tf_layers import by_hand

    monkeypatch.setattr(by_hand, "article_batch_norm", by_hand.batch_norm_by_hand)
    with pytest.raises(VerdictError, match=r"C-C5: .* the article's two copies have eight"):
        BY_ROW["C-C5"].check()


@pytest.mark.parametrize("row", ["C-C3", "C-A4"])
def test_another_closed_form_of_the_average_is_noticed(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def equal(momentum: float, steps: int) -> Any:
        return np.full(steps, 1 / steps)

    def nothing(momentum: float, steps: int) -> float:
        return 0.0

    monkeypatch.setattr(averages, "weights", equal)
    monkeypatch.setattr(averages, "start_share", nothing)
    with pytest.raises(VerdictError, match=row):
        BY_ROW[row].check()


def test_a_layer_that_keeps_the_mean_makes_a_bias_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    def keeping(layer: BatchNorm, x: Any, training: bool = True) -> Any:
        return x / x.std(axis=0)

    monkeypatch.setattr(BatchNorm, "__call__", keeping)
    with pytest.raises(VerdictError, match=r"^C-A7: 'reproduced' does not hold\. Not true: the outputs agree\.$"):
        BY_ROW["C-A7"].check()


@pytest.mark.parametrize("row", ["S-B2 (2)", "S-B2 (4)", "C-B3", "C-C4"])
def test_a_layer_that_does_nothing_supports_nothing(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def idle(self: BatchNorm, x: Any, training: bool = True) -> Any:
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            setattr(self, name, np.ones(x.shape[-1]))
        return x

    monkeypatch.setattr(BatchNorm, "__call__", idle)
    with pytest.raises(VerdictError, match=re.escape(row)):
        BY_ROW[row].check()


@pytest.mark.parametrize(
    ("row", "trained"),
    [
        ("C-D2", (article_d, "_sigmoids")),
        ("C-D3", (article_d, "_one_class")),
        ("C-E3", (article_e, "_alpha")),
        ("C-E6", (article_e, "_optimism")),
    ],
)
def test_networks_that_take_no_step_support_nothing(
    row: str, trained: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name = trained
    # Not what was trained before; and two starts are enough.
    monkeypatch.setattr(module, name, partial(getattr(module, name).__wrapped__, starts=2))

    def idle(network: nn.Sequential, x: Any, labels: Any, **options: Any) -> nn.sequential.Scores:
        network(x, training=True)
        return nn.sequential.Scores(0.0, 0.0)

    monkeypatch.setattr(nn.Sequential, "train_on_batch", idle)
    with pytest.raises(VerdictError, match=row):
        BY_ROW[row].check()


@pytest.mark.parametrize("row", ["S-E4", "C-E1", "C-E3"])
def test_another_improved_network_is_noticed(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from bncourse.tf_layers.improved_network import build_improved_network

    monkeypatch.setattr(article_e, "improved_network", lambda: build_improved_network(normalise_logits=False))
    with pytest.raises(VerdictError, match=row):
        BY_ROW[row].check()


@pytest.mark.parametrize("row", ["S-E2", "C-E2"])
def test_another_base_network_is_noticed(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from bncourse.tf_layers.base_network import build_base_network

    monkeypatch.setattr(article_e, "base_network", lambda: build_base_network(strides=(2, 2)))
    with pytest.raises(VerdictError, match=row):
        BY_ROW[row].check()


def test_another_model_for_photographs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = article_d._model
    monkeypatch.setattr(article_d, "_model", lambda *_: real("wide"))
    for row in ("S-D2", "S-D4"):
        with pytest.raises(VerdictError, match=rf"{row}: .* the layers are the article's"):
            BY_ROW[row].check()


@pytest.mark.parametrize(("row", "untrue"), [("S-E3", "chunks bound the memory"), ("C-E5", "float16 saves little")])
def test_memory_that_every_way_halves_supports_nothing(row: str, untrue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {
        key: dataclasses.replace(found, peak_bytes=10**9 if found.way == "all at once" else 5 * 10**8)
        for key, found in article_e.memory().items()
    }
    monkeypatch.setattr(article_e, "memory", lambda: rows)
    with pytest.raises(VerdictError, match=rf"{row}: .*{untrue}"):
        BY_ROW[row].check()


@pytest.mark.parametrize(
    ("row", "place", "instead", "untrue"),
    [
        ("S-D1", (article_d, "_folder_read_back"), (False, []), "with the right labels; a file that is no picture"),
        ("S-E1", (article_e, "_loaded"), (False, True, [*range(100)]), "first images in file order .* another order"),
        ("C-E2", (article_e, "_pixels_read"), (1, 0), "TensorFlow reads the same pixels"),
        (
            "C-E3",
            (article_e, "_shifts"),
            article_e._Shifts(*(np.array([1.0, 1.0]), np.array([2.0, 2.0]), np.array([5.0, 5.0]), np.zeros(2))),
            "the shift of the first layer; the shift of the second; .* lowers the loss; and leaves the accuracy",
        ),
        (
            "C-E5",
            (article_e, "_smaller"),
            {"article": np.array([80.0, 81.0]), "smaller": np.array([82.0, 80.0])},
            "and scores lower",
        ),
        (
            "C-E7",
            (article_e, "_biases"),
            article_e._Biases(np.array([1e-5, 1e-5, 0.1, 1e-5]), np.full(4, 0.01), 0.5),
            "rounding; those of the convolutions move all the same; and in training mode nobody sees it",
        ),
    ],
)
def test_other_measurements_are_noticed(
    row: str, place: tuple[Any, str], instead: Any, untrue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*place, lambda: instead)
    with pytest.raises(VerdictError, match=rf"{row}: .*{untrue}"):
        BY_ROW[row].check()


@pytest.mark.parametrize(
    ("row", "name", "printed"),
    [
        ("S-E2", "BASE_LOG", {0: 97.12, 9: 90.0}),
        ("S-E2", "BASE_TEXT", 98.86),
        ("S-E5", "STOPPED", 9922),
        ("S-E5", "BEST", 97.0),
        ("S-E5", "TEST", 97.0),
    ],
)
def test_other_figures_in_the_log_of_article_e_are_noticed(
    row: str, name: str, printed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(article_e, name, printed)
    with pytest.raises(VerdictError, match=row):
        BY_ROW[row].check()


def test_a_rule_that_waits_longer_is_not_the_articles(monkeypatch: pytest.MonkeyPatch) -> None:
    class Patient(article_e.EarlyStopping):
        def __init__(self, *, patience: int, **options: Any) -> None:
            super().__init__(patience=patience + 10, **options)

    monkeypatch.setattr(article_e, "EarlyStopping", Patient)
    with pytest.raises(VerdictError, match=r"S-E5: .* the two rules agree; .*the printed step comes out"):
        BY_ROW["S-E5"].check()


def test_an_effect_is_the_mean_difference_that_a_part_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = np.array([0.0, 1.0, 2.0])
    cells = {
        (bn, dropout, stop): 90 + starts + 3 * bn + 0.5 * dropout - 0.25 * stop + bn * dropout
        for bn in (False, True)
        for dropout in (False, True)
        for stop in (False, True)
    }
    monkeypatch.setattr(article_e, "_cells", lambda: cells)
    assert [article_e._effect(part).mean for part in range(3)] == pytest.approx([3.5, 1.0, -0.25])


def test_the_error_names_the_row_the_verdict_and_what_is_not_true() -> None:
    wrong = claim("C-X1", "two and two are five", "reproduced", "{sum}")(
        lambda: Evidence({"sum": 4}, {"the sum is a number": True, "the sum is five": False})
    )
    with pytest.raises(VerdictError, match=r"^C-X1: 'reproduced' does not hold\. Not true: the sum is five\.$"):
        wrong.check()


def test_a_verdict_that_checks_nothing_is_refused() -> None:
    idle = claim("C-X1", "something", "open", "so be it")(lambda: Evidence({}, {}))
    with pytest.raises(VerdictError, match=r"^C-X1: nothing was checked, so 'open' rests on nothing\.$"):
        idle.check()


def test_runs_that_do_not_exist_are_named() -> None:
    with pytest.raises(ValueError, match=r"the sweep 'deep' has no runs with {'seed': 77}\."):
        figures.runs("deep", seed=77)


def test_an_article_without_measured_claims_is_named() -> None:
    with pytest.raises(ValueError, match=r"article = 'F'; expected one of A, B, C, D, E\."):
        claims_of("F")


def test_the_table_has_one_line_for_each_claim_with_badge_and_links() -> None:
    entries = [BY_ROW["C-A1"], BY_ROW["C-B1"]]
    _, rule, *lines = markdown(entries).splitlines()
    assert rule.count("---") == 3
    assert lines[0] == (
        "| C-A1 | The network has 20 convolutional layers | {bdg-warning}`corrected` Its loop, `range(1, 20)`, "
        "makes 19. *See* [a deep network](../3-tf-layers/deep-network.ipynb#one-change-to-the-program). |"
    )
    assert "{bdg-danger}`refuted`" in lines[1]
    assert len(lines) == 2


def test_a_notebook_gets_markdown() -> None:
    assert show("B").data == markdown(claims_of("B"))


@pytest.mark.parametrize("entry", CLAIMS, ids=ROWS)
def test_a_cell_of_the_table_cannot_break_it(entry: Claim) -> None:
    for text in (entry.row, entry.says, entry.finding):
        assert "|" not in text
        assert "\n" not in text
    assert entry.verdict in BADGES


@pytest.mark.parametrize("entry", CLAIMS, ids=ROWS)
def test_the_chapters_that_show_it_are_there(entry: Claim) -> None:
    assert entry.shown
    for place in entry.shown:
        chapter, _, anchor = place.partition("#")
        assert chapter in CHAPTERS
        source = (ROOT / "book" / f"{chapter}.ipynb").read_text(encoding="utf-8")
        assert not anchor or anchor in _anchors(source)


def _anchors(source: str) -> set[str]:
    """Return the anchors of a notebook's chief headings, as GitHub and MyST make them."""
    headings = re.findall(r'"## ([^"\\]+)(?:\\n)?"', source)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def test_importing_the_claims_loads_nothing_heavy() -> None:
    program = "import sys, bncourse.claims; print([n for n in ('tensorflow', 'matplotlib') if n in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
