"""What a folder of photographs costs: the folder, the process, and the record."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest

from bncourse.data.photographs import load_folder
from bncourse.experiments import photograph_cost
from bncourse.experiments.photograph_cost import CASES, Cost, make_folder, measure, read, write
from bncourse.results import path

COST = Cost("deep", 200, 224, 1.5, 20.0, 10**9, 2 * 10**9)


def test_the_folder_holds_as_many_different_photographs_as_were_asked_for(tmp_path):
    make_folder(tmp_path, 40, 16)
    found = load_folder(tmp_path, size=16)
    assert (len(found.train), len(found.validation), found.test) == (40, 2, None)
    assert found.classes == ("china", "flower")
    assert found.report.skipped == ()


@pytest.mark.skipif(sys.platform == "win32", reason="the system does not tell how much memory a process holds")
def test_a_process_of_its_own():
    cost = measure("logistic", pictures=20, size=8)
    assert (cost.model, cost.pictures, cost.size) == ("logistic", 20, 8)
    assert cost.search_seconds > 0
    assert cost.epoch_seconds > 0
    assert 2**26 < cost.memory_before <= cost.peak_memory < 2**36


def test_a_process_that_fails():
    with pytest.raises(RuntimeError, match=r"^huge, 4 photographs: the process ended with 1; [\s\S]*model = 'huge'"):
        measure("huge", pictures=4, size=8)


def test_a_system_that_does_not_tell_the_memory(tmp_path, monkeypatch):
    make_folder(tmp_path, 4, 8)
    monkeypatch.setitem(sys.modules, "resource", None)
    with pytest.raises(OSError, match="does not tell how much memory"):
        photograph_cost.train_here("logistic", str(tmp_path), 8)


def test_a_record_comes_back_as_it_was(tmp_path):
    write(tmp_path / "cost.json", [COST])
    assert read(tmp_path / "cost.json") == [COST]


@pytest.mark.parametrize("content", ["{", "{}", '{"rows": [{"model": 1}]}', "[]"])
def test_what_is_no_record(tmp_path, content):
    (tmp_path / "cost.json").write_text(content)
    with pytest.raises(ValueError, match=r"cost\.json is no record of what photographs cost"):
        read(tmp_path / "cost.json")


def test_a_value_of_another_kind_is_no_record(tmp_path):
    row = {**dataclasses.asdict(COST), "pictures": "many"}
    (tmp_path / "cost.json").write_text(json.dumps({"rows": [row]}))
    with pytest.raises(ValueError, match="pictures = 'many'"):
        read(tmp_path / "cost.json")


def test_all_cases_are_measured_and_stored(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(photograph_cost, "measure", lambda model, **_: dataclasses.replace(COST, model=model))
    photograph_cost.main(tmp_path / "cost.json", None)
    assert [row.model for row in read(tmp_path / "cost.json")] == [model for model, _ in CASES]
    assert "deep" in capsys.readouterr().out


def test_the_stored_record_has_the_cases_of_the_book():
    rows = read(path("photograph-cost"))
    assert [(row.model, row.pictures, row.size) for row in rows] == [(*case, 224) for case in CASES]
