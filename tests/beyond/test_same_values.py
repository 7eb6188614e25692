"""``open_batch``, Ray with two workers, and Inspect produce the same values for the same 40 tasks.

Ray and Inspect need not be installed together: each is compared with the values of a batch.
"""

import os

import pytest
import trio
from shards import some

from trio_codex.batch import open_batch

COUNT = 40

EXPECTED = {f"t{number}": f"did t{number}" for number in range(COUNT)}


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """Skip the check because the engines keep threads."""
    return


def test_with_open_batch(offline):
    async def run():
        async with open_batch(some(COUNT), out=offline.out, config=offline.config, turns=8) as batch:
            return {outcome.task.id: outcome.value async for outcome in batch}

    assert trio.run(run) == EXPECTED
    assert set(offline.counts().values()) == {1}


@pytest.mark.filterwarnings("ignore")
def test_on_ray(offline):
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = pytest.importorskip("ray")
    from trio_codex.batch.ray import run

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        options = {"config": offline.config, "turns": 4}
        outcomes = run(some(COUNT), out=offline.out, shards=2, options=options)
    finally:
        ray.shutdown()
    assert {outcome.task.id: outcome.value for outcome in outcomes} == EXPECTED
    assert set(offline.counts().values()) == {1}


@pytest.mark.filterwarnings("ignore")
def test_with_inspect(offline, tmp_path, monkeypatch):
    monkeypatch.setenv("INSPECT_ASYNC_BACKEND", "trio")
    monkeypatch.setenv("INSPECT_DISPLAY", "none")
    inspect_ai = pytest.importorskip("inspect_ai")
    from inspect_ai.dataset import Sample

    from trio_codex.inspect import codex_agent

    samples = [Sample(input=task.prompt, id=task.id) for task in some(COUNT)]
    task = inspect_ai.Task(dataset=samples, solver=codex_agent(offline.config))
    (log,) = inspect_ai.eval(task, model="mockllm/model", log_dir=str(tmp_path), max_samples=4)
    assert {sample.id: sample.output.completion for sample in log.samples} == EXPECTED
    assert set(offline.counts().values()) == {1}
