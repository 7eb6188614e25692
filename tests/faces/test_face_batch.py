"""Batches through the faces: solvers are the caller's functions, and receive the face's objects."""

import asyncio
import threading
from contextlib import asynccontextmanager, contextmanager

import pytest
from face_drivers import AIO, BLOCKING

from trio_codex.testing import MockModel, offline_home

pytestmark = pytest.mark.real

TASKS = ("a", "b", "c")


@asynccontextmanager
async def offline():
    async with MockModel() as model:
        for _ in TASKS:
            model.say("hello")
        with offline_home(model) as home:
            yield home.config()


@contextmanager
def offline_config():
    with BLOCKING.module.from_trio(offline)() as config:
        yield config


def tasks(face):
    return [face.module.batch.Task(id=name, prompt=f"Say hello, {name}.") for name in TASKS]


def solved(outcomes):
    return sorted((each.task.id, each.status, each.value) for each in outcomes)


def wanted(value):
    return [(name, "ok", value) for name in TASKS]


def test_a_plain_solver_runs_in_its_own_thread_and_uses_its_context_without_await(tmp_path):
    names = []

    def solve(ctx):
        names.append(threading.current_thread().name)
        assert ctx.codex.models().data
        with ctx.thread.turn(ctx.task.prompt) as turn:
            text = "".join(turn.text())
        return f"{text}!"

    with (
        offline_config() as config,
        BLOCKING.module.batch.open_batch(
            tasks(BLOCKING), solve, out=tmp_path, config=config, turns=2
        ) as batch,
    ):
        assert solved(batch) == wanted("hello!")
        assert batch.status().done == 3
    assert set(names) == {"trio-codex callback"}


def test_an_async_solver_runs_in_the_event_loop_of_the_batch(tmp_path):
    loops = set()

    async def solve(ctx):
        loops.add(asyncio.get_running_loop())
        return (await ctx.thread.run(ctx.task.prompt)).final_response

    async def test(config):
        open_batch = AIO.module.batch.open_batch
        async with open_batch(tasks(AIO), solve, out=tmp_path, config=config) as batch:
            assert solved([outcome async for outcome in batch]) == wanted("hello")
        assert loops == {asyncio.get_running_loop()}

    with offline_config() as config:
        AIO.run(lambda: test(config))


def test_the_default_solver_runs_the_prompt(tmp_path):
    with (
        offline_config() as config,
        BLOCKING.module.batch.open_batch(tasks(BLOCKING), out=tmp_path, config=config) as batch,
    ):
        assert solved(batch) == wanted("hello")
    assert len(BLOCKING.module.batch.read_outcomes(tmp_path)) == 3


def test_leaving_a_batch_cancels_its_solvers_and_the_next_run_resumes(tmp_path):
    started = threading.Event()

    def wait(ctx):
        started.set()
        ctx.thread.run(ctx.task.prompt)
        threading.Event().wait(60)

    with offline_config() as config:
        open_batch = BLOCKING.module.batch.open_batch
        with open_batch(tasks(BLOCKING)[:1], wait, out=tmp_path, config=config):
            started.wait(20)
        assert BLOCKING.module.batch.read_status(tmp_path).done == 0
