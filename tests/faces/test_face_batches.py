"""Batches through both faces, on the real server: solvers and workspaces that need no Trio."""

import asyncio
import threading

import pytest

from benchmarks.batches import offline
from trio_codex import aio, blocking
from trio_codex.batch import Task

pytestmark = pytest.mark.real

TASKS = [Task(f"t{number}", f"do t{number}") for number in range(4)]


class Noted:
    """A workspace of plain functions."""

    def __init__(self):
        self.paths = set()
        self.removed = set()

    def create(self, path):
        path.mkdir()
        (path / "note").write_text(threading.current_thread().name)
        self.paths.add(path)

    def remove(self, path):
        if path.exists():
            (path / "note").unlink()
            path.rmdir()
            self.removed.add(path)

    def __repr__(self):
        return "Noted()"


def check(outcomes, workspace):
    found = {outcome.task.id: (outcome.status, outcome.value, outcome.error) for outcome in outcomes}
    expected = dict.fromkeys((task.id for task in TASKS), ("ok", "hello", None))
    assert found == {**expected, "t2": ("failed", None, "ZeroDivisionError: t2")}
    assert len(workspace.paths) == len(TASKS)
    assert {path.name for path in workspace.paths - workspace.removed} == {"t2-1"}


def solve_in_thread(ctx):
    assert threading.current_thread() is not threading.main_thread()
    assert (ctx.workspace / "note").exists()
    if ctx.task.id == "t2":
        raise ZeroDivisionError(ctx.task.id)
    return ctx.thread.run(ctx.task.prompt).final_response


def test_a_solver_in_a_blocking_batch_is_a_plain_function():
    workspace = Noted()
    with offline() as home:
        options = {"out": home.tmp / "run", "config": home.config(), "workspace": workspace, "turns": 2}
        with blocking.batch.open_batch(TASKS, solve_in_thread, **options) as batch:
            outcomes = list(batch)
            assert batch.status().done == len(TASKS)
        check(outcomes, workspace)
        # A task with an outcome is not run again, and its workspace is not created again.
        with blocking.batch.open_batch(TASKS, solve_in_thread, **options) as batch:
            assert all(outcome.resumed for outcome in batch)


def test_a_solver_in_an_asyncio_batch_is_a_coroutine_in_the_callers_event_loop():
    workspace = Noted()

    async def main(home):
        loop = asyncio.get_running_loop()

        async def solve(ctx):
            assert asyncio.get_running_loop() is loop
            if ctx.task.id == "t2":
                raise ZeroDivisionError(ctx.task.id)
            async with ctx.thread.turn(ctx.task.prompt) as turn:
                text = "".join([piece async for piece in turn.text()])
            assert turn.result.final_response == text
            return text

        options = {"out": home.tmp / "run", "config": home.config(), "workspace": workspace, "turns": 2}
        async with aio.batch.open_batch(TASKS, solve, **options) as batch:
            return [outcome async for outcome in batch]

    with offline() as home:
        check(asyncio.run(main(home)), workspace)


def test_the_default_solver_needs_no_user_function():
    with (
        offline() as home,
        blocking.batch.open_batch(TASKS, out=home.tmp / "run", config=home.config()) as batch,
    ):
        assert [outcome.value for outcome in batch] == ["hello"] * len(TASKS)


def test_leaving_a_batch_early_ends_the_work_of_its_solvers():
    async def main(home):
        reached, ended = asyncio.Event(), []

        async def solve(ctx):
            reached.set()
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(ctx.task.id)

        async with aio.batch.open_batch(
            TASKS, solve, out=home.tmp / "run", config=home.config(), turns=2
        ) as batch:
            await reached.wait()
            assert not ended
        assert 0 < len(ended) <= 2
        assert batch.status().done == 0

    with offline() as home:
        asyncio.run(main(home))
