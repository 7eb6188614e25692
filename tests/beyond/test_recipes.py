"""The recipes in ``examples/beyond``, each on the engine it is written for."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from shards import SECONDS, some

from trio_codex.batch import ShardSpec, read_outcomes

RECIPES = Path(__file__).parents[2] / "examples" / "beyond"


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    return importlib.import_module


def write_tasks(path, tasks):
    path.write_text("".join(json.dumps({"id": task.id, "prompt": task.prompt}) + "\n" for task in tasks))
    return str(path)


# -- Slurm and Kubernetes ------------------------------------------------------------------------------------------


def job(offline, tasks, variable, index, count=2):
    """Start a job as an engine would, with its environment and an index."""
    environment = {**os.environ, **offline.home.env, variable: str(index)}
    command = [sys.executable, str(RECIPES / "shard_job.py"), tasks, offline.out, str(count)]
    return subprocess.Popen(
        command, cwd=offline.home.workspace, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_the_jobs_of_an_array_share_the_tasks_and_can_be_resubmitted(offline, tmp_path):
    tasks = write_tasks(tmp_path / "tasks.jsonl", some(6))
    for variable in ("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"):
        with job(offline, tasks, variable, 0) as first, job(offline, tasks, variable, 1) as second:
            texts = [each.stdout.read().decode() for each in (first, second)]
            assert (first.wait(), second.wait()) == (0, 0), first.stderr.read()
        assert sum(int(text.split()[0]) for text in texts) == 6
    assert set(offline.counts().values()) == {1}
    assert len(offline.counts()) == 6


def test_a_job_that_runs_out_of_time_ends_its_turns_and_the_next_job_continues(offline, tmp_path):
    tasks = write_tasks(tmp_path / "tasks.jsonl", some(1, "stall"))
    with job(offline, tasks, "SLURM_ARRAY_TASK_ID", 0, count=1) as process:
        offline.wait_for("stall t0")
        process.terminate()  # as Slurm does 30 s before SIGKILL
        assert process.wait(SECONDS) == 1
        assert process.stderr.read() == b"the batch stopped with 1 task left: it was cancelled\n"
    offline.wait_until_dropped("stall t0")
    with job(offline, tasks, "SLURM_ARRAY_TASK_ID", 0, count=1) as process:
        assert process.stdout.read() == b"1 of 1 tasks are ok\n"
        assert process.wait() == 0


# -- submitit ------------------------------------------------------------------------------------------------------


def test_submitit_runs_shards_and_returns_their_outcomes(offline, tmp_path, recipe, monkeypatch):
    submitit = pytest.importorskip("submitit")
    tasks = write_tasks(tmp_path / "tasks.jsonl", some(6))
    for name, value in offline.home.env.items():
        monkeypatch.setenv(name, value)
    executor = submitit.LocalExecutor(folder=str(tmp_path / "jobs"))
    executor.update_parameters(timeout_min=2)
    found = {
        each.task.id: each.value for each in recipe("submitit_batch").run_all(executor, tasks, offline.out, 2)
    }
    assert found == {f"t{number}": f"did t{number}" for number in range(6)}


# -- Dask ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(recipe):  # workers inherit the import path of the recipe
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as local,
        distributed.Client(local) as client,
    ):
        yield client


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """Skip the check because Dask keeps threads in this process. The tests themselves check what shards leave behind."""
    return


@pytest.mark.filterwarnings("ignore")
def test_dask_runs_shards_and_cancels_them(cluster, offline, recipe):
    batch = recipe("dask_batch")
    options = {"config": offline.config}
    specs = [
        ShardSpec(tasks=some(6), out=offline.out, shard=(index, 2), options=options) for index in range(2)
    ]
    assert {each.task.id: each.value for each in batch.run_all(cluster, specs)} == {
        f"t{number}": f"did t{number}" for number in range(6)
    }
    # Dropping the future of a hanging shard cancels it on the server, too.
    other = ShardSpec(tasks=some(1), out=offline.out + "-1", options=options)
    hanging = ShardSpec(tasks=some(1, "hang"), out=offline.out + "-2", options=options)
    outcomes = batch.run_all(cluster, [hanging, other])
    assert next(outcomes).task.id == "t0"
    offline.wait_for("hang t0")
    began = time.monotonic()
    outcomes.close()
    offline.wait_until_dropped("hang t0")
    assert time.monotonic() - began < SECONDS
    assert read_outcomes(hanging.directory) == []
