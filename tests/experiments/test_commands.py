"""``bncourse run``, ``bncourse compare`` and ``bncourse results``, as somebody types them."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image
from typer.testing import CliRunner

from bncourse.cli import app
from bncourse.experiments import EXPERIMENTS, plan
from bncourse.experiments.compare import gather
from bncourse.experiments.record import read, write
from bncourse.experiments.sweep import tasks

QUICK = ["by-hand", "--batches", "4", "--batch-size", "20"]


def bncourse(*words):
    return CliRunner().invoke(app, list(map(str, words)), env={"COLUMNS": "200"})


def test_the_list_names_every_experiment_its_rows_and_its_minutes():
    shown = bncourse("run", "--list")
    assert shown.exit_code == 0
    for experiment in EXPERIMENTS.values():
        assert experiment.name in shown.output
        assert experiment.rows[0] in shown.output


def test_list_and_help_do_without_tensorflow():
    code = (
        "import sys; from typer.testing import CliRunner; from bncourse.cli import app\n"
        "for words in (['run', '--list'], ['run', 'deep', '--help'], ['results', '--help']):\n"
        "    CliRunner().invoke(app, words)\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_explains_every_option():
    shown = bncourse("run", "deep", "--help").output
    for place in dataclasses.fields(EXPERIMENTS["deep"].configuration):
        assert f"--{place.name.replace('_', '-')}" in shown
    assert "yes|no" in shown


def test_help_has_room_for_the_help():
    """A list of 21 words stands in the text, not beside the option's name; a flag takes no value."""
    lines = bncourse("run", "wired", "--help").output.splitlines()
    (wiring,) = [line for line in lines if "--wiring" in line]
    assert "--wiring" in wiring.split("How the update ops")[0]
    assert wiring.index("How the update ops") < 60
    assert "always-true-in-place" in " ".join(" ".join(lines).replace("│", " ").split())
    for flag in ("--resume", "--overwrite"):
        (line,) = [line for line in lines if flag in line]
        assert "bool" not in line


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["deeep"], 2, "No such command 'deeep'"),
        (["deep", "--order", "up"], 2, "'up' is not one of 'bn-relu'"),
        (["deep", "--momentum", "1.5"], 1, "error: momentum = 1.5; expected a number in [0, 1]."),
        (["deep", "--batches", "0"], 1, "error: batches = 0; expected an integer >= 1."),
        (["deep", "--data", "cifar"], 1, "error: name must be one of 'digits', 'mnist'"),
        (["deep", "--seed", "1", "--seeds", "3"], 1, "error: --seed and --seeds exclude each other"),
        (["deep", "--resume", "--overwrite"], 1, "error: --resume and --overwrite exclude each other"),
        (["deep", "--seeds", "2", "--out", "x.json"], 1, "error: --out x.json is one file, and there are 2 runs"),
        (["deep", "--resume"], 1, "there is no checkpoint to go on from"),
    ],
)
def test_mistakes_are_explained(words, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = bncourse("run", *words)
    assert shown.exit_code == code
    assert message in " ".join(shown.output.replace("│", " ").split())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_folder_without_the_data(tmp_path, monkeypatch):
    monkeypatch.setenv("BNCOURSE_DATA", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # the download fails at once
    shown = bncourse("run", *QUICK, "--data", "mnist", "--out", tmp_path / "runs")
    assert shown.exit_code == 1
    assert "mnist.npz" in shown.output
    assert not list((tmp_path / "runs").glob("*.json"))


def test_a_run_is_stored_and_kept(tmp_path):
    first = bncourse("run", *QUICK, "--out", tmp_path)
    assert first.exit_code == 0, first.output
    assert "test_moving_accuracy" in first.output
    (path,) = tmp_path.iterdir()
    assert read(path).configuration["batches"] == 4
    before = path.read_bytes()
    second = bncourse("run", *QUICK, "--out", tmp_path)
    assert second.exit_code == 1
    assert "exists. --resume keeps what is there and goes on, --overwrite makes it anew." in second.output
    assert bncourse("run", *QUICK, "--out", tmp_path, "--resume").exit_code == 0
    assert path.read_bytes() == before


def test_a_sweep_is_compared_in_a_table_and_a_figure(tmp_path):
    made = bncourse(
        "run", *QUICK, "--every", "1", "--momentum", "0.9", "--momentum", "0.99", "--seeds", "2", "--out", tmp_path
    )
    assert made.exit_code == 0, made.output
    assert len(list(tmp_path.iterdir())) == 4
    groups = gather([tmp_path])
    assert sorted(groups) == ["momentum 0.9", "momentum 0.99"]
    assert [len(runs) for runs in groups.values()] == [2, 2]
    shown = bncourse("compare", tmp_path, "--column", "test_moving_accuracy")
    assert shown.exit_code == 0
    assert "momentum 0.99" in shown.output
    assert "±" in shown.output
    drawn = bncourse("compare", tmp_path, "--figure", tmp_path / "figure.png")
    assert drawn.exit_code == 0, drawn.output
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_a_sweep_made_anew_does_not_go_on_from_a_checkpoint(tmp_path):
    words = ["run", *QUICK, "--seeds", "2", "--out", tmp_path]
    assert bncourse(*words).exit_code == 0
    left = next(tmp_path.glob("*.json")).with_suffix(".checkpoint.npz")
    left.write_bytes(b"of another time")
    again = bncourse(*words, "--overwrite")
    assert again.exit_code == 0, again.output
    assert not left.exists()


def test_what_cannot_be_compared(tmp_path):
    assert "there are no result files here" in bncourse("compare", tmp_path).output
    assert "there is no such file or folder" in " ".join(bncourse("compare", tmp_path / "nothing.json").output.split())
    bncourse("run", *QUICK, "--out", tmp_path / "a.json")
    (tmp_path / "b.json").write_bytes((tmp_path / "a.json").read_bytes())
    twice = " ".join(bncourse("compare", tmp_path).output.split())
    assert (
        f"{tmp_path / 'b.json'} and {tmp_path / 'a.json'} hold the same run: the same options, data and seed" in twice
    )
    (tmp_path / "b.json").write_text(json.dumps({"format": "bncourse run 9"}))
    assert "has the format 'bncourse run 9'" in " ".join(bncourse("compare", tmp_path).output.split())
    unknown = bncourse("compare", tmp_path / "a.json", "--column", "speed")
    assert "no result has a final number 'speed'; they have: validation_moving_loss" in unknown.output


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path):
    words = [sys.executable, "-m", "bncourse", "run", "by-hand", "--batches", "3000", "--every", "2"]
    path = tmp_path / "run.json"
    process = subprocess.Popen([*words, "--out", str(path)], stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    checkpoint = path.with_suffix(".checkpoint.npz")
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert "of 3000 batches; the checkpoint is" in said
    assert "The same command with --resume goes on." in said
    assert checkpoint.exists()
    assert not path.exists()


# Photographs: an experiment that loads its own data.

TINY = ["--image-size", "8", "--epochs", "2"]


@pytest.fixture
def folder(tmp_path):
    """Return a folder of photographs, one of which is damaged and has a name that would draw on the terminal."""
    place = tmp_path / "my photo\ngraphs"
    for number, name in enumerate(("cats", "dogs")):
        (place / name).mkdir(parents=True)
        for k in range(6):
            Image.new("RGB", (9, 9), (80 * number, 20 * k, 0)).save(place / name / f"{k}.png")
    (place / "cats" / "\x1b[31mred\n.jpg").write_bytes(b"no picture")
    return place


def test_a_run_on_the_embedded_crops(tmp_path):
    made = bncourse("run", "photographs-logistic", *TINY, "--out", tmp_path / "run.json")
    assert made.exit_code == 0, made.output
    assert "test_moving_accuracy" in made.output
    assert "pictures are used" not in made.output
    found = read(tmp_path / "run.json")
    assert (found.experiment, found.data["name"], found.configuration["data"]) == (
        "photographs-logistic",
        "crops",
        "crops",
    )
    assert f"{found.seconds:,.1f} s" in made.output
    if sys.platform != "win32":
        assert f"at most {found.peak_memory / 2**20:,.0f} MiB in the process" in made.output


def test_a_run_on_a_folder_says_what_was_left_out(folder, tmp_path):
    made = bncourse("run", "photographs-logistic", *TINY, "--data", folder, "--out", tmp_path / "runs")
    assert made.exit_code == 0, made.output
    assert "12 pictures are used (train 8, validation 2, test 2); left out: 1\n" in made.stdout
    assert r"  cats/\x1b[31mred\n.jpg: no picture in a known format" in made.output
    assert "\x1b" not in made.output.split("  cats/")[1].splitlines()[0]
    (path,) = (tmp_path / "runs").iterdir()  # its name holds the folder's, without what a name must not have
    assert path.name.startswith("photographs-logistic-data=my_photo_graphs-")
    assert read(path).configuration["data"] == str(folder)
    again = bncourse("run", "photographs-logistic", *TINY, "--data", folder, "--out", tmp_path / "runs", "--resume")
    assert again.exit_code == 0, again.output


def test_a_finished_run_is_not_taken_for_one_on_other_photographs(folder, tmp_path):
    """Found by a reader: --resume showed the result of a folder that had changed since."""
    words = ["run", "photographs-logistic", *TINY, "--data", folder, "--out", tmp_path / "run.json"]
    made = bncourse(*words)
    assert made.exit_code == 0, made.output
    next(folder.rglob("0.*")).unlink()
    again = bncourse(*words, "--resume")
    assert again.exit_code == 1
    assert "was made from other photographs: " in again.output
    assert "or make it anew with --overwrite" in again.output


def test_what_is_wrong_with_a_folder_and_with_the_momentum_is_said_before_the_training(folder, tmp_path, monkeypatch):
    """Found by a reader: the list of files that were left out came after hours, and nothing was said of the lag."""

    def broken(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("bncourse.experiments.photographs.run", broken)
    words = ["run", "photographs-logistic", *TINY, "--data", folder, "--out", tmp_path / "runs"]
    for more in ([], ["--seeds", "2"]):
        stopped = bncourse(*words, *more)
        assert stopped.exit_code == 130
        assert "12 pictures are used (train 8, validation 2, test 2); left out: 1\n" in stopped.output
        assert "momentum = 0.99 is late: after all 2 steps of this run" in stopped.output
        assert "still hold 98% of their start values" in stopped.output
    assert "is late" not in bncourse(*words, "--batch-norm", "none").output


def test_files_of_two_folders_of_the_same_name_differ(tmp_path):
    plans = tasks("photographs-deep", {"data": ("a/pets", "b/pets", "pets", "crops", "../..")}, tmp_path)
    names = {task.path.name for task in plans}
    assert len(names) == 5
    assert {"photographs-deep-data=pets.json", "photographs-deep-data=crops.json"} < names
    assert all(task.path.parent == tmp_path for task in plans)


def test_several_runs_on_a_folder_with_two_processes(folder, tmp_path):
    words = ["run", "photographs-logistic", *TINY, "--data", folder, "--batch-norm", "input", "--batch-norm", "none"]
    made = bncourse(*words, "--seeds", "2", "--jobs", "2", "--out", tmp_path / "runs")
    assert made.exit_code == 0, made.output
    assert made.output.count("left out: 1") == 1  # the same for all four, said once
    compared = bncourse("compare", tmp_path / "runs")
    assert compared.exit_code == 0, compared.output
    assert "batch_norm input" in compared.output
    assert "batch_norm none" in compared.output
    kept = bncourse(*words, "--seeds", "2", "--resume", "--out", tmp_path / "runs")
    assert kept.exit_code == 0, kept.output


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["photographs-deep", "--model", "wide"], 2, "No such option: --model"),
        (["photographs-logistic", "--batch-norm", "between"], 2, "'between' is not one of 'input', 'none'"),
        (["photographs-deep", "--data", "nowhere"], 1, "error: nowhere is no folder. Name a folder with"),
        (["photographs-deep", "--image-size", "64"], 1, "error: image_size = 64; expected at least 128 for the deep"),
    ],
)
def test_mistakes_with_photographs_are_explained(words, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = bncourse("run", *words)
    assert shown.exit_code == code
    assert message in " ".join(shown.output.replace("│", " ").split())


def test_ctrl_c_and_resume_with_photographs(tmp_path):
    words = ["run", "photographs-logistic", "--image-size", "16", "--epochs", "12", "--threads", "1"]
    path = tmp_path / "run.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "bncourse", *words, "--out", str(path)], stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    checkpoint = path.with_suffix(".checkpoint.npz")
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert "of 12, after" in said
    assert "The same command with --resume goes on." in said
    again = subprocess.run(
        [sys.executable, "-m", "bncourse", *words, "--out", str(path), "--resume"], check=False, capture_output=True
    )
    assert again.returncode == 0, again.stderr
    assert [entry["epoch"] for entry in read(path).log] == list(range(1, 13))
    assert not checkpoint.exists()


def test_ctrl_c_before_anything_is_saved(monkeypatch, tmp_path):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("bncourse.experiments.photographs.load_photographs", stopped)
    shown = bncourse("run", "photographs-logistic", *TINY, "--out", tmp_path)
    assert shown.exit_code == 130
    assert "stopped. The same command starts anew; nothing was saved yet." in shown.output


@pytest.fixture
def small_plan(tmp_path, monkeypatch):
    quick = plan.Sweep("quick", "by-hand", {"batches": (2,), "batch_size": (20,), "seed": (0, 1)}, "a test")
    monkeypatch.setattr(plan, "RUNS", tmp_path)
    monkeypatch.setattr("bncourse.results.commands.SWEEPS", {"quick": quick})
    monkeypatch.setattr(plan, "SWEEPS", {"quick": quick})
    monkeypatch.setattr("bncourse.data.load_mnist", lambda: None)
    return quick


def test_results_are_made_checked_and_made_anew_when_the_code_changes(small_plan):
    assert bncourse("results", "check").exit_code == 1
    made = bncourse("results", "make", "--jobs", "1")
    assert made.exit_code == 0, made.output
    assert bncourse("results", "check").exit_code == 0
    assert "nothing to do" in bncourse("results", "make").output
    assert [run.configuration["seed"] for run in plan.recorded("quick")] == [0, 1]

    path = small_plan.tasks()[0].path
    write(path, dataclasses.replace(read(path), code="0" * 16))
    small_plan.tasks()[1].path.write_text("{")
    assert [plan.state(task) for task in small_plan.tasks()] == ["stale", "stale"]
    shown = bncourse("results", "check")
    assert shown.exit_code == 1
    assert "make results makes anew what is stale or missing." in shown.output
    bncourse("results", "make", "--jobs", "1")
    assert [plan.state(task) for task in small_plan.tasks()] == ["fits", "fits"]


def test_sweeps_that_do_not_exist(small_plan):
    for command in ("check", "make"):
        shown = bncourse("results", command, "slow")
        assert shown.exit_code == 1
        assert "there is no sweep 'slow'; there are: quick." in shown.output
    with pytest.raises(ValueError, match=r"there is no sweep 'slow'; there are: quick"):
        plan.recorded("slow")
    with pytest.raises(FileNotFoundError, match=r"is missing; make results makes it"):
        plan.recorded("quick")
