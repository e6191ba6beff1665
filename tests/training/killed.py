"""Kills a training run again and again, and prints what was found as JSON; `test_guard_killed` runs it as a program.

It is a process of its own, with one thread, so that it may fork: a killed child then costs milliseconds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from bncourse.nn import Adam, BatchNorm, Dense, Dropout, ReLU, Sequential
from bncourse.training import EarlyStopping, Guard, NetworkVariables
from bncourse.training.arrays import read_arrays

EVERY, PATIENCE = 4, 120
RNG = np.random.default_rng(0)
LABELS = RNG.integers(3, size=180)
SAMPLES = RNG.normal(size=(180, 6)) + 0.8 * np.eye(3, 6)[LABELS] + 4
TRAIN, HELD_OUT = slice(0, 80), slice(80, None)


def start(path: Path) -> tuple[Guard, int]:
    """Build everything as a fresh process would, and take up the file."""
    layers = [Dense(8, use_bias=False, seed=1), BatchNorm(momentum=0.9), ReLU(), Dropout(0.2, seed=2), Dense(3, seed=3)]
    guard = Guard(
        path, EarlyStopping(patience=PATIENCE, unit="steps"), NetworkVariables(Sequential(layers), Adam(0.02))
    )
    return guard, guard.resume()


def train(guard: Guard, step: int, until: int = 10**9) -> None:
    """Train from `step` until the rule says stop, or to the step `until`."""
    network, optimizer = guard.variables.network, guard.variables.optimizer
    while step < until and not guard.should_stop:
        batch = np.random.default_rng((7, step)).choice(80, size=16, replace=False)
        network.train_on_batch(SAMPLES[TRAIN][batch], LABELS[TRAIN][batch], optimizer=optimizer)
        step += 1
        if step % EVERY == 0:
            guard.update(network.evaluate(SAMPLES[HELD_OUT], LABELS[HELD_OUT]).loss, step)


class Reference:
    """The unbroken run: its result, and what its file held after every evaluation."""

    def __init__(self, folder: Path) -> None:
        path = folder / "whole.npz"
        self.at: dict[int, dict[str, bytes]] = {0: {}}
        guard, step = start(path)
        assert step == 0
        while not guard.should_stop:
            step += EVERY
            train(guard, step - EVERY, step)
            self.at[step] = content(path)
        self.result = result(guard)


def content(path: Path) -> dict[str, bytes]:
    """Return everything in the file, bit by bit."""
    return {name: value.tobytes() for name, value in read_arrays(path).items()} if path.exists() else {}


def step_of(found: dict[str, bytes]) -> int:
    return int(json.loads(found["run"])["step"]) if found else 0


def result(guard: Guard) -> dict[str, Any]:
    """Return where the run stopped, what was best, and its weights, bit by bit."""
    best_step = guard.go_back()
    assert guard.variables.network.evaluate(SAMPLES[HELD_OUT], LABELS[HELD_OUT]).loss == guard.rule.best
    weights = {name: value.tobytes().hex() for name, value in guard.variables.read().items()}
    rule = guard.rule
    return {
        "stopped": rule.stopped_step,
        "best_step": best_step,
        "best": rule.best,
        "weights": weights,
        "log": guard.log,
    }


def child(path: Path, until: int = 10**9, kill_at_line: int | None = None) -> int:
    """Fork a process that resumes and trains, and return its number."""
    number = os.fork()
    if number:
        return number
    status = 1
    try:
        guard, step = start(path)
        if kill_at_line is not None:
            kill_itself(guard, kill_at_line)
        train(guard, step, until)
        status = 0
    finally:
        os._exit(status)


def wait(number: int) -> bool:
    """Wait for a child; tell whether it was killed."""
    status = os.waitpid(number, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed"
    return os.WIFSIGNALED(status)


def kill_at_random(folder: Path, reference: Reference, kills: int) -> dict[str, Any]:
    """Kill at random moments, resume every time, and look at the file all the while; when done, begin again.

    A moment is a number of saves and a time after them, so that the kills reach the end of the run on any machine.
    """
    path, rng, end = folder / "killed.npz", np.random.default_rng(1), reference.result["stopped"]
    looks, killed, steps, same = 0, 0, set(), []

    def look() -> int:
        found = content(path)
        step = step_of(found)
        assert found == reference.at[step], f"the file says step {step}, and is not that of the unbroken run"
        return step

    def finish() -> None:
        assert not parts(folder), "a killed save left something behind"
        guard, _ = start(path)
        same.append(result(guard) == reference.result)
        path.unlink()

    while killed < kills:
        saves, delay = rng.integers(0, 4), rng.uniform(0, 0.006)
        before, number = look(), child(path)
        while look() < min(before + saves * EVERY, end):
            looks += 1
            time.sleep(0.001)
        time.sleep(delay)
        os.kill(number, signal.SIGKILL)
        if wait(number):
            killed += 1
            steps.add(look())
        else:  # it was done before the signal came
            finish()
    assert not wait(child(path))
    finish()
    return {"killed": killed, "looks": looks, "steps": len(steps), "last": max(steps), "same": same}


def kill_itself(guard: Guard, line: int) -> list[int]:
    """Let the process kill itself at a line of the course's code that `guard.update` runs; return their counter."""
    lines, update = [0], guard.update

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if "bncourse" not in frame.f_code.co_filename:
            return None
        lines[0] += event == "line"
        if lines[0] == line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    def traced(*args: Any, **options: Any) -> Any:
        sys.settrace(trace)
        try:
            return update(*args, **options)
        finally:
            sys.settrace(None)

    guard.update = traced  # type: ignore[method-assign]
    return lines


def kill_at_lines(folder: Path, reference: Reference, stride: int) -> dict[str, Any]:
    """Kill at every `stride`-th line that one save runs, and at its last ones; the file must be the old or the new."""
    path = folder / "lines.npz"
    old, new = 5 * EVERY, 6 * EVERY
    assert not wait(child(path, until=old))
    before, outcomes, leftovers = path.read_bytes(), {"old": 0, "new": 0}, 0
    guard, step = start(path)
    lines = kill_itself(guard, line=-1)
    train(guard, step, new)
    for line in sorted({*range(1, lines[0], stride), *range(lines[0] - 8, lines[0] + 1)}):
        path.write_bytes(before)
        assert wait(child(path, until=new, kill_at_line=line)), f"line {line} of {lines[0]} was not reached"
        found = content(path)
        assert found in (reference.at[old], reference.at[new]), (
            f"killed at line {line}: the file is neither old nor new"
        )
        outcomes["old" if step_of(found) == old else "new"] += 1
        leftovers += bool(parts(folder))
        start(path)  # tidies up
        assert not parts(folder)
    return {**outcomes, "leftovers": leftovers, "lines": lines[0]}


def parts(folder: Path) -> list[str]:
    """Return the files that were being written when their process died."""
    return [other.name for other in folder.iterdir() if other.name.endswith(".part")]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    whole = Reference(folder)
    found = {
        "evaluations": len(whole.result["log"]),
        "stopped": whole.result["stopped"],
        "random": kill_at_random(folder, whole, int(sys.argv[2])),
        "lines": kill_at_lines(folder, whole, int(sys.argv[3])),
    }
    print(json.dumps(found))
