"""Batches on a real Ray cluster of two workers: early outcomes, and cleanup after a cancel or a kill."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from shards import SECONDS, some

from trio_codex import errors
from trio_codex.batch import BatchBudget, Task, read_outcomes

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray")
from trio_codex.batch.ray import run  # noqa: E402  # it imports Ray

HERE = str(Path(__file__).parent)
PROGRAM = str(Path(__file__).with_name("ray_program.py"))

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def cluster():
    environment = {"env_vars": {"PYTHONPATH": HERE}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def nothing_left_behind(offline):
    """Fail a test that leaves a server behind. Ray starts threads and workers at any time, so they are not checked."""
    yield
    wait_for_no_server(offline)


def servers_of(offline):
    """Return the servers that use the home of a test."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("CODEX_HOME") == str(offline.home.codex_home):
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for_no_server(offline):
    limit = time.monotonic() + SECONDS
    while left := servers_of(offline):
        assert time.monotonic() < limit, left
        time.sleep(0.05)


def run_here(offline, tasks, solve=None, *, shards=2, on_outcome=None, **options):
    return run(
        tasks,
        solve,
        out=offline.out,
        shards=shards,
        on_outcome=on_outcome,
        options={"config": offline.config, **options},
    )


def statuses(outcomes):
    return {outcome.task.id: outcome.status for outcome in outcomes}


async def where(ctx):
    await ctx.thread.run(ctx.task.prompt)
    return os.getpid()


def test_two_workers_share_the_tasks_and_the_driver_stores_the_outcomes(cluster, offline):
    outcomes = run_here(offline, some(8), where)
    assert statuses(outcomes) == {f"t{number}": "ok" for number in range(8)}
    assert len({outcome.value for outcome in outcomes} - {os.getpid()}) == 2
    assert [outcome.task.id for outcome in read_outcomes(offline.out)] == [
        outcome.task.id for outcome in outcomes
    ]
    # A second run finds nothing to do.
    again = run_here(offline, some(8), where)
    assert {outcome.resumed for outcome in again} == {True}
    assert set(offline.counts().values()) == {1}


@pytest.mark.parametrize("reason", [KeyboardInterrupt, InterruptedError])
def test_outcomes_arrive_immediately_and_turns_end_on_the_server_when_the_driver_ends(
    cluster, offline, reason
):
    seen = []

    def note(outcome):
        seen.append((outcome.task.id, len(read_outcomes(offline.out))))
        if len(seen) == 2:
            offline.wait_for("hang t2")
            offline.wait_for("hang t3")
            raise reason

    with pytest.raises(reason):
        run_here(offline, [*some(2), *some(4, "hang")[2:]], turns=2, on_outcome=note)
    # Both outcomes arrived and were stored while the other tasks hung.
    assert sorted(name for name, _ in seen) == ["t0", "t1"]
    assert [stored for _, stored in seen] == [1, 2]
    # The hanging turns were interrupted on the server.
    offline.wait_until_dropped("hang t2")
    offline.wait_until_dropped("hang t3")
    assert offline.statuses()["turn_aborted"] == 2


def test_a_killed_worker_is_replaced_and_only_its_open_tasks_run_again(cluster, offline, tmp_path):
    tasks = some(6)
    tasks[2] = Task("t2", "do t2", data=str(tmp_path / "died"))
    outcomes = run_here(offline, tasks, "shards:die_once", turns=1)
    assert (tmp_path / "died").exists()
    assert statuses(outcomes) == {task.id: "ok" for task in tasks}
    assert len(outcomes) == 6
    assert offline.counts() == {"do t2": 2, **{f"do t{number}": 1 for number in (0, 1, 3, 4, 5)}}


def test_repeated_worker_deaths_stop_the_batch(cluster, offline):
    with pytest.raises(errors.BatchStopped, match="3 workers died in a row") as caught:
        run_here(offline, some(1), "shards:die", shards=1)
    assert caught.value.left == 1


def test_a_budget_stops_the_batch_and_worker_errors_keep_their_type(cluster, offline):
    with pytest.raises(errors.BatchStopped, match="budget") as caught:
        run_here(offline, some(4), turns=1, budget=BatchBudget(turns=1))
    assert caught.value.left == 2
    with pytest.raises(errors.BatchConflict, match="on_death was the default and is now 'continue'"):
        run_here(offline, some(4), on_death="continue")
    with pytest.raises(ValueError, match="turns and starting must be at least 1") as caught:
        run_here(offline, some(4), turns=0)
    assert type(caught.value) is ValueError
    with pytest.raises(ValueError, match="shards must be"):
        run_here(offline, some(4), shards=0)


def test_a_killed_driver_resumes_when_it_is_restarted(cluster, offline):
    environment = json.dumps(dict(offline.home.env))
    command = [sys.executable, PROGRAM, environment, str(offline.home.workspace), offline.out]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        lines = [process.stdout.readline().split() for _ in range(2)]
        offline.wait_for("hang t2")
        process.kill()
    assert sorted(lines) == [[b"t0", b"ok", b"False"], [b"t1", b"ok", b"False"]]
    offline.wait_until_dropped("hang t2")
    # Nothing ended the turns, but the servers exited with their workers.
    wait_for_no_server(offline)
    again = []

    def stop_at_the_second(outcome):
        again.append((outcome.task.id, outcome.resumed))
        if len(again) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run_here(offline, [*some(2), *some(4, "hang")[2:]], turns=2, on_outcome=stop_at_the_second)
    assert sorted(again) == [("t0", True), ("t1", True)]
    assert offline.counts()["do t0"] == offline.counts()["do t1"] == 1
