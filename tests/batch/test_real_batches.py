"""Batches on the real server: each task has one outcome, even if servers are killed."""

import sqlite3
from contextlib import asynccontextmanager

import pytest
import trio
from batches import kill, some, stage, texts_of

from trio_codex import Restart, errors, wire
from trio_codex.batch import BatchBudget, Outcome, Retry, Task, read_outcomes
from trio_codex.batch._batch import HASHED
from trio_codex.testing import HTTPFailure

QUICK = Retry(first=0.01, maximum=0.05)


async def test_every_task_has_one_outcome_although_the_server_is_killed():
    async with stage() as on:
        on.model.script("do t5").hang("half")

        async def solve(ctx):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def _():
                    if ctx.task.id == "t5" and ctx.attempt == 1:
                        while "do t5" not in on.prompts():  # noqa: ASYNC110  # there is no event for this request
                            await trio.sleep(0.01)
                        kill(ctx.codex.pid)

                return (await ctx.thread.run(ctx.task.prompt)).final_response

        outcomes = await on.run(some(20), solve, turns=4)
        assert outcomes.keys() == {task.id for task in some(20)}
        assert {(outcome.status, outcome.value) for outcome in outcomes.values()} == {("ok", "did it")}
        assert outcomes["t5"].attempts == 2
        assert outcomes["t5"].usage.total_tokens == 15
        # The prompt ran again in a new thread, so each context contains it once.
        assert all(len(set(texts)) == len(texts) for texts in map(texts_of, on.model.requests))
        # Workspaces of tasks that are ok are removed.
        assert list((on.out / "workspaces").iterdir()) == []


async def test_a_task_with_an_outcome_is_not_run_again():
    async with stage() as on:
        first = await on.run(some(3))
        again = await on.run(some(4))
        assert [outcome.resumed for outcome in again.values()] == [True, True, True, False]
        assert set(on.prompts().values()) == {1}
        assert [outcome.thread_id for outcome in first.values()] == [again[name].thread_id for name in first]
        assert [outcome.task.id for outcome in read_outcomes(on.out)] == list(again)


async def test_failed_tasks_are_repeated_only_in_another_directory():
    async with stage() as on:
        on.model.script("do t1").respond(HTTPFailure(400))
        await on.run(some(3))
        assert (await on.run(some(3)))["t1"].resumed
        failed = [outcome.task for outcome in read_outcomes(on.out) if outcome.status == "failed"]
        assert failed == [some(3)[1]]
        assert (await on.run(failed, out=on.out.with_name("again")))["t1"].status == "ok"


async def test_each_kind_of_failure_has_the_expected_outcome():
    async with stage() as on:
        for name, replies in {
            "t0": [HTTPFailure(429)] * 2,
            "t1": [HTTPFailure(400)],
            "t2": [HTTPFailure(503)] * 5,
        }.items():
            script = on.model.script(f"do {name}")
            for reply in replies:
                script.respond(reply)
        on.model.script("do t3").hang()
        tasks = [*some(5), Task("t5", "do t5", options={"output_schema": {"type": "object"}})]
        on.model.script("do t5").say("no JSON", phase="final_answer")
        outcomes = await on.run(tasks, retry=QUICK, budget=BatchBudget(task_seconds=3))
        found = {name: (outcome.status, outcome.attempts) for name, outcome in outcomes.items()}
        assert found == {
            "t0": ("ok", 3), "t1": ("failed", 1), "t2": ("failed", 5), "t3": ("timed_out", 1), "t4": ("ok", 1),
            "t5": ("failed", 1),
        }  # fmt: skip
        assert outcomes["t1"].error.startswith("TurnFailed: ")
        assert outcomes["t5"].error.startswith("OutputError: ")
        # If a task is not ok, only the workspace of its last attempt is kept.
        kept = {path.name for path in (on.out / "workspaces").iterdir()}
        assert kept == {"t1-1", "t2-5", "t3-1", "t5-1"}


async def test_the_token_limit_of_a_task_covers_all_its_attempts():
    async with stage() as on:

        async def solve(ctx):
            for _ in range(5):
                await ctx.thread.run("more")

        outcomes = await on.run([Task("a", "x")], solve, budget=BatchBudget(task_tokens=40))
        assert (outcomes["a"].status, outcomes["a"].usage.total_tokens) == ("over_budget", 45)


async def test_a_solver_that_raises_or_returns_no_json_value_fails_its_task():
    async def solve(ctx):
        await trio.lowlevel.checkpoint()
        if ctx.task.id == "t0":
            raise ZeroDivisionError("no")
        return object() if ctx.task.id == "t1" else {"n": 1}

    async with stage() as on:
        outcomes = await on.run(some(3), solve)
        assert [outcomes[name].status for name in ("t0", "t1", "t2")] == ["failed", "failed", "ok"]
        assert outcomes["t0"].error == "ZeroDivisionError: no"
        assert outcomes["t2"].value == {"n": 1}


@asynccontextmanager
async def deadly(on, ctx, *, is_deadly=True):
    """Kill the server whenever the model is asked about this task."""
    asked = on.prompts()[ctx.task.prompt]

    async def kill_when_asked():
        while on.prompts()[ctx.task.prompt] == asked:
            await on.model.wait_for_requests(len(on.model.requests) + 1)
        kill(ctx.codex.pid)

    async with trio.open_nursery() as nursery:
        if is_deadly:
            nursery.start_soon(kill_when_asked)

        yield


async def test_only_the_task_that_crashes_the_server_is_quarantined():
    async with stage() as on:
        for _ in range(10):
            on.model.script("do t0").hang("half")

        async def solve(ctx):
            async with deadly(on, ctx, is_deadly=ctx.task.id == "t0"):
                return (await ctx.thread.run(ctx.task.prompt)).final_response

        outcomes = await on.run(some(6), solve, turns=3, retry=Retry(deaths=2))
        others = {outcome.status for name, outcome in outcomes.items() if name != "t0"}
        assert others == {"ok"}
        assert (outcomes["t0"].status, outcomes["t0"].attempts) == ("quarantined", 3)


async def test_a_task_that_crashes_the_server_runs_alone_before_it_is_quarantined():
    together = []
    async with stage() as on:
        for _ in range(10):
            on.model.script("do t0").hang("half")

        async def solve(ctx):
            if ctx.task.id != "t0":
                await trio.sleep(0.5)
                return None
            await trio.sleep(0.2)
            together.append(len(batch.status().running))
            async with deadly(on, ctx):
                return (await ctx.thread.run(ctx.task.prompt)).final_response

        async with on.batch(some(12), solve, turns=3, retry=Retry(deaths=1)) as batch:
            outcomes = {outcome.task.id: outcome async for outcome in batch}
        assert outcomes["t0"].status == "quarantined"
        assert together == [3, 1]


async def test_threads_of_ended_tasks_are_unloaded():
    async with stage() as on:
        servers = []

        async def solve(ctx):
            servers.append(ctx.codex)
            return (await ctx.thread.run(ctx.task.prompt)).final_response

        async with on.batch(some(8), solve, turns=4) as batch:
            outcomes = [outcome async for outcome in batch]
            assert len(outcomes) == 8
            with trio.fail_after(5):
                while batch.status().running:  # noqa: ASYNC110  # there is no event for a completed cleanup
                    await trio.sleep(0.01)
            assert (await servers[0].api.thread.loaded_list()).data == []


async def test_too_many_restarts_end_the_batch_with_the_supervisors_error():
    async with stage() as on:
        on.model.script("do t0").hang("half")

        async def solve(ctx):
            async with deadly(on, ctx, is_deadly=not killed):
                killed.append(ctx.task.id)
                return (await ctx.thread.run(ctx.task.prompt)).final_response

        killed = []
        with pytest.raises(errors.RestartLimitExceeded, match="more than 0 restarts"):
            await on.run(some(1), solve, restart=Restart(max_restarts=0))
        outcomes = await on.run(some(1), solve)
        assert (outcomes["t0"].status, outcomes["t0"].attempts) == ("ok", 2)


async def test_a_usage_limit_stops_the_batch_and_the_next_run_resumes():
    async with stage() as on:
        on.model.script("do t1").respond(HTTPFailure(429, error="usage_limit_reached"))
        with pytest.raises(errors.BatchStopped, match="usage limit") as caught:
            await on.run(some(4), turns=1)
        assert caught.value.left == 3
        outcomes = await on.run(some(4), turns=1)
        assert [(outcome.status, outcome.resumed) for outcome in outcomes.values()] == [
            ("ok", True),
            *[("ok", False)] * 3,
        ]


async def test_the_budget_of_the_batch_stops_it():
    async with stage() as on:
        with pytest.raises(errors.BatchStopped, match="budget of the batch"):
            await on.run(some(6), turns=1, budget=BatchBudget(tokens=40))
        assert len(read_outcomes(on.out)) == 2
        assert len(await on.run(some(6), budget=BatchBudget(tokens=1000))) == 6


async def test_leaving_a_batch_early_ends_its_turns_and_the_next_run_resumes():
    async with stage() as on:
        on.model.script("do t0").hang("half")
        async with on.batch(some(3), turns=3, on_death="continue") as batch:
            outcomes = [await anext(batch), await anext(batch)]
            assert "t0" in batch.status().running
        assert {outcome.task.id for outcome in outcomes} == {"t1", "t2"}
        again = await on.run(some(3), turns=3, on_death="continue")
        assert again["t0"].status == "ok"
        assert again["t0"].attempts == 1
        assert on.prompts()["do t0"] == 1


async def test_a_stopped_batch_finishes_its_running_tasks():
    async with stage() as on, on.batch(some(5), turns=2) as batch:
        await anext(batch)
        batch.stop()
        with pytest.raises(errors.BatchStopped, match="asked to stop") as caught:
            [outcome async for outcome in batch]
        assert 5 - len(read_outcomes(on.out)) == caught.value.left > 0


async def test_an_exception_from_the_body_propagates_unchanged():
    error = ZeroDivisionError("body")
    async with stage() as on:
        with pytest.raises(ZeroDivisionError) as caught:
            async with on.batch(some(5), turns=2):
                await trio.lowlevel.checkpoint()
                raise error
        assert caught.value is error


async def test_another_batch_in_the_same_directory_is_refused_before_anything_is_started():
    async with stage() as on:
        await on.run(some(2))
        cases = {
            "on_death was fresh and is now continue": (some(2), {"on_death": "continue"}),
            "tasks 't0', 't1': different": ([Task("t0", "x"), Task("t1", "x")], {}),
            "task 't1': missing": (some(1), {}),
            r"thread_options was \[\] and is now \[\('sandbox'": (some(2), {"thread_options": {"sandbox": "read-only"}}),
        }  # fmt: skip
        for match, (tasks, options) in cases.items():
            with pytest.raises(errors.BatchConflict, match=match):
                await on.run(tasks, **options, config=None)


def test_elided_values_are_compared_by_their_hash():
    assert wire.ThreadStartParams.__wire__.elided == HASHED


async def test_a_conflict_of_instructions_does_not_reveal_them():
    async with stage() as on:
        await on.run(some(1), thread_options={"developer_instructions": "sesame one"})
        await on.run(some(1), thread_options={"developer_instructions": "sesame one"})
        with pytest.raises(errors.BatchConflict, match="developer_instructions") as caught:
            await on.run(some(1), thread_options={"developer_instructions": "sesame two"}, config=None)
        assert "sesame" not in f"{caught.value}{caught.value!r}"


async def test_an_unsuitable_directory_is_refused(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    (tmp_path / "other").mkdir()
    sqlite3.connect(tmp_path / "other" / "batch.db").execute("create table t(x)").connection.close()
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage" / "batch.db").write_bytes(b"x" * 5000)
    (tmp_path / "file").touch()
    async with stage() as on:
        for name, match in {
            "full": "not empty", "other": "not the journal of a batch", "garbage": "not a database", "file": "File exists",
        }.items():  # fmt: skip
            with pytest.raises(errors.JournalError, match=match):
                await on.run(some(1), out=tmp_path / name)
        async with on.batch(some(1)):
            with pytest.raises(errors.JournalInUse):
                await on.run(some(1))
    with pytest.raises(errors.JournalError, match="does not exist"):
        read_outcomes(tmp_path / "nothing")


async def test_a_shard_runs_its_share_of_the_tasks():
    async with stage() as on:
        runs = [await on.run(some(12), out=on.home.tmp / str(index), shard=(index, 3)) for index in range(3)]
        names = [name for run in runs for name in run]
        assert sorted(names) == sorted(task.id for task in some(12))
        assert min(map(len, runs)) > 0


def test_an_outcome_is_ok_if_its_status_is_ok():
    assert [Outcome(task=some(1)[0], status=status).is_ok for status in ("ok", "failed")] == [True, False]
