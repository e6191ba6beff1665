"""Sweeps on a Dask cluster: two local workers, one of which dies."""

import os
import time

import pytest

from bncourse.experiments import sweep
from bncourse.experiments.record import read

distributed = pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # Dask's own, about ports and shutdown


@pytest.fixture
def cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as local:
        yield local


def plan(folder, seeds):
    choices = {"seed": list(range(seeds)), "batches": [8], "batch_size": [20], "every": [8]}
    return sweep.tasks("by-hand", choices, folder)


def test_a_cluster_finds_what_one_process_finds_though_a_worker_dies(cluster, tmp_path):
    expected = {task.path.name: found for task, found in sweep.execute_all(plan(tmp_path / "here", 3))}
    found, killed = {}, False
    for task, run in sweep.execute_all(plan(tmp_path / "there", 3), scheduler=cluster.scheduler_address):
        found[task.path.name] = run
        if not killed:
            worker = next(iter(cluster.workers.values()))
            os.kill(worker.pid, 9)
            killed = True
    assert found == expected
    for task in plan(tmp_path / "there", 3):
        assert read(task.path) == expected[task.path.name]


def test_a_scheduler_that_is_not_there(tmp_path):
    begin = time.monotonic()
    import dask

    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}), pytest.raises(OSError, match="Timed out"):
        list(sweep.execute_all(plan(tmp_path, 1), scheduler="tcp://127.0.0.1:9"))
    assert time.monotonic() - begin < 30
