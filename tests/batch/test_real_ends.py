"""How attempts, tasks and batches end on the real server, and how they are cleaned up."""

import sqlite3
import time
from contextlib import closing

import pytest
import trio
import trio.lowlevel
from batches import kill, some, stage

from trio_codex import errors
from trio_codex.batch import BatchBudget, EmptyDirectory, Retry, Task
from trio_codex.testing import HTTPFailure


class Unprintable(Exception):
    def __str__(self):
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("error", "text"),
    [(ValueError("half \ud800"), r"ValueError: half \ud800"), (Unprintable(), "Unprintable, whose message raises ValueError")],
)  # fmt: skip
async def test_an_error_whose_message_cannot_be_stored_still_results_in_an_outcome(error, text):
    async def solve(ctx):
        await trio.lowlevel.checkpoint()
        raise error

    async with stage() as on:
        outcomes = await on.run(some(1), solve)
        assert (outcomes["t0"].status, outcomes["t0"].error) == ("failed", text)


async def test_the_error_of_an_outcome_contains_the_messages_of_all_exceptions_in_a_group():
    async def solve(ctx):
        await trio.lowlevel.checkpoint()
        raise ExceptionGroup("two", [ValueError("one"), ExceptionGroup("more", [errors.ThreadClosed("t")])])

    async with stage() as on:
        outcomes = await on.run(some(1), solve)
        assert outcomes["t0"].error == f"ValueError: one; ThreadClosed: {errors.ThreadClosed('t')}"


async def test_an_error_from_another_client_of_a_solver_fails_only_its_task():
    raised = [
        errors.BudgetExceeded("client", "tokens", 1, 15),
        errors.ConnectionClosed(),
        errors.JournalInUse("other.db", "is in use", "Choose another path."),
        errors.RestartLimitExceeded("more than 0 restarts within 300 s", ()),
        errors.ThreadInUse(-32600, "already has an active writer"),
    ]

    async def solve(ctx):
        await ctx.thread.run(ctx.task.prompt)
        raise raised[ctx.task.data]

    tasks = [Task(type(error).__name__, "go", data=number) for number, error in enumerate(raised)]
    async with stage() as on:
        outcomes = await on.run(tasks, solve)
        assert {outcome.status for outcome in outcomes.values()} == {"failed"}
        assert all(outcome.error.startswith(name) for name, outcome in outcomes.items())


@pytest.mark.parametrize("exit_request", [SystemExit, KeyboardInterrupt])
async def test_an_exit_request_from_a_solver_ends_the_batch_unchanged(exit_request):
    exits = [exit_request(3)]

    async def solve(context):
        await context.thread.run("x")
        if exits:
            raise exits.pop()

    async with stage() as on:
        with pytest.raises(exit_request, match="3"):
            await on.run(some(2), solve)
        assert {outcome.status for outcome in (await on.run(some(2), solve)).values()} == {"ok"}


async def test_a_value_that_cannot_be_encoded_fails_its_task():
    async def solve(ctx):
        await trio.lowlevel.checkpoint()
        return "\ud800"

    async with stage() as on:
        outcomes = await on.run(some(1), solve)
        assert outcomes["t0"].status == "failed"


async def test_leaving_the_batch_still_removes_workspaces_of_finished_tasks():
    async with stage() as on:
        on.model.script("do t1").hang()
        async with on.batch(some(2)) as batch:
            assert (await anext(batch)).task.id == "t0"
            while not on.requests_with()["do t1"]:  # noqa: ASYNC110  # the model has no event for this
                await trio.sleep(0.01)
        # The other workspace is kept, because the next run continues that attempt.
        assert [path.name for path in (on.out / "workspaces").iterdir()] == ["t1-1"]


class Sticky(EmptyDirectory):
    """Workspaces that cannot be removed until the test allows it."""

    is_sticky = False

    async def remove(self, path):
        if Sticky.is_sticky and path.exists():
            await trio.lowlevel.checkpoint()
            raise OSError("busy")
        await super().remove(path)

    def __repr__(self):
        return "Sticky()"


async def test_the_next_run_completes_a_failed_cleanup(monkeypatch):
    monkeypatch.setattr(Sticky, "is_sticky", True)
    async with stage() as on:
        on.model.script("do t1").respond(HTTPFailure(429))
        retry = Retry(first=0.01, maximum=0.01)
        outcomes = await on.run(some(2), workspace=Sticky(), retry=retry)
        assert {name: outcome.attempts for name, outcome in outcomes.items()} == {"t0": 1, "t1": 2}
        left = {path.name for path in (on.out / "workspaces").iterdir()}
        assert left >= {"t0-1", "t1-2"}
        monkeypatch.setattr(Sticky, "is_sticky", False)
        async with on.batch(some(2), workspace=Sticky(), retry=retry) as batch:
            assert len([outcome async for outcome in batch]) == 2
        assert {path.name for path in (on.out / "workspaces").iterdir()} == left - {"t0-1", "t1-2"}


@pytest.mark.parametrize("hangs", [True, False])
async def test_an_iteration_outside_the_scope_ends_with_the_batch(hangs):
    seen, ends = [], []

    async def iterate(batch):
        try:
            async for outcome in batch:
                seen.append(outcome.task.id)  # noqa: PERF401  # those before an error count
        except errors.BatchStopped as exc:
            ends.append(exc.left)

    async with stage() as on:
        if hangs:
            on.model.script("do t1").hang()
        async with trio.open_nursery() as nursery, on.batch(some(2)) as batch:
            nursery.start_soon(iterate, batch)
            while batch.status().done < 2 - hangs:  # noqa: ASYNC110  # the test leaves before the iteration ends
                await trio.lowlevel.checkpoint()
        await iterate(batch)
        assert (len(seen), ends) == (2 - hangs, [1, 1] if hangs else [])


async def test_after_its_scope_a_batch_does_not_hide_outcomes():
    async with stage() as on:
        async with on.batch(some(1)) as batch:
            while not batch.status().done:  # noqa: ASYNC110  # it is not read here
                await trio.sleep(0.01)
        with pytest.raises(errors.ConnectionClosed, match="read_outcomes"):
            await anext(batch)


async def test_a_workspace_is_kept_until_the_outcome_is_stored():
    full = "create trigger full before insert on outcomes begin select raise(abort, 'database or disk is full'); end"

    async def solve(ctx):
        await ctx.thread.run(ctx.task.prompt)
        with (ctx.workspace / "calls").open("a") as calls:
            calls.write("once ")
        return (ctx.workspace / "calls").read_text()

    async with stage() as on:
        with pytest.raises(errors.JournalError, match="disk is full"):
            async with on.batch(some(1), solve):
                with closing(sqlite3.connect(on.out / "batch.db")) as db:
                    db.execute(full)
                await trio.sleep_forever()
        with closing(sqlite3.connect(on.out / "batch.db")) as db:
            db.execute("drop trigger full")
        outcome = (await on.run(some(1), solve))["t0"]
        assert (outcome.value, outcome.attempts) == ("once once ", 1)


async def test_a_stopped_batch_does_not_wait_out_a_retry_delay():
    async with stage() as on:
        on.model.script("do t0").respond(HTTPFailure(429))
        async with on.batch(some(1), retry=Retry(first=10_000, maximum=10_000)) as batch:
            await on.model.wait_for_requests(1)
            while batch.status().running:  # noqa: ASYNC110  # there is no event for the end of an attempt
                await trio.sleep(0.01)
            batch.stop()
            with trio.fail_after(5), pytest.raises(errors.BatchStopped, match="asked to stop"):
                await anext(batch)


async def test_a_turn_interrupted_by_its_solver_is_not_continued_by_the_next_run():
    programs = 0

    async def solve(ctx):
        await ctx.thread.run("plan")
        if programs == 1:
            await trio.sleep_forever()
        async with ctx.thread.turn("think") as turn:
            await turn.interrupt()
            return str((await turn.wait()).status)

    async with stage() as on:
        on.model.script("think").hang("half")
        for programs in (1, 2):
            async with on.batch(some(1), solve) as batch:
                if programs == 1:
                    await on.model.wait_for_requests(1)
                    await trio.sleep(0.5)
                else:
                    outcome = await anext(batch)
        assert (outcome.value, outcome.attempts) == ("interrupted", 1)


async def test_a_turn_that_timed_out_in_its_solver_is_not_continued_by_the_next_run():
    programs = 0
    waiting = trio.Event()

    async def solve(ctx):
        status = "late"
        with trio.move_on_after(0.5):
            status = str((await ctx.thread.run("think")).status)
        await ctx.thread.run("go on")
        if programs == 1:
            waiting.set()
            await trio.sleep_forever()
        return status

    async with stage() as on:
        on.model.script("think").hang("half")
        for programs in (1, 2):
            async with on.batch(some(1), solve) as batch:
                if programs == 1:
                    await waiting.wait()
                else:
                    outcome = await anext(batch)
        assert (outcome.value, outcome.attempts) == ("interrupted", 1)
        assert on.prompts() == {"think": 1, "go on": 1}


async def test_the_time_of_a_task_does_not_include_waiting_to_start():
    taken = {}

    async def solve(ctx):
        began = trio.current_time()
        await trio.sleep(0.5)
        await ctx.thread.run(ctx.task.prompt)
        taken[ctx.task.id] = trio.current_time() - began

    async with stage() as on:
        outcomes = await on.run(some(3), solve, starting=1)
        assert all(outcome.seconds - taken[name] < 0.4 for name, outcome in outcomes.items())


@pytest.mark.parametrize("where", ["configuration", "thread", "task", "turn", "with other settings"])
async def test_the_sandbox_cannot_write_to_temporary_directories(where):
    table = {"network_access": True}
    options = {
        "configuration": {},
        "thread": {"sandbox": "workspace-write"},
        "with other settings": {"sandbox": "workspace-write", "config": {"sandbox_workspace_write": table}},
    }.get(where, {"sandbox": "read-only"})
    task = Task("t0", "do t0", options={"sandbox": "workspace-write"} if where == "task" else {})
    turn_options = {"sandbox": "workspace-write"} if where == "turn" else {}
    async with stage(sandbox_mode="workspace-write") as on:
        other = on.home.tmp.parent / "probe"
        on.model.run_command(
            f"touch inside; touch {other} && echo slash; touch $TMPDIR/probe && echo tmpdir; ls"
        )

        async def solve(ctx):
            await ctx.thread.run(ctx.task.prompt, **turn_options)
            return sorted(path.name for path in ctx.workspace.iterdir())

        outcomes = await on.run([task], solve, thread_options=options)
        assert outcomes["t0"].value == ["inside"]
        assert not other.exists()
        assert not (on.home.tmp / "probe").exists()


# -- tokens --------------------------------------------------------------------------------------------------------


async def test_tokens_are_counted_once_if_no_more_turns_may_start():
    async def solve(ctx):
        for number in range(3):
            await ctx.thread.run(f"step {number}")

    async with stage() as on:
        outcomes = await on.run(some(1), solve, budget=BatchBudget(task_tokens=30))
        assert (outcomes["t0"].status, outcomes["t0"].usage.total_tokens) == ("over_budget", 30)


async def test_tokens_are_counted_once_across_runs_and_attempts():
    waiting = trio.Event()
    seen = []

    async def solve(ctx):
        for number in range(2):
            await ctx.thread.run(f"step {number}")
        if not waiting.is_set():
            waiting.set()
            await trio.sleep_forever()
        if ctx.attempt == 1:
            await ctx.thread.run("limited")
        seen.append(ctx.attempt)

    async with stage() as on:
        on.model.script("limited").respond(HTTPFailure(429))
        budget, retry = BatchBudget(task_tokens=75), Retry(first=0.01, maximum=0.01)
        async with on.batch(some(1), solve, budget=budget, retry=retry):
            await waiting.wait()
        # The first run used 30, which the second run reads from the history, and another attempt used 30.
        outcomes = await on.run(some(1), solve, budget=budget, retry=retry)
        outcome = outcomes["t0"]
        assert (outcome.status, outcome.attempts, outcome.usage.total_tokens) == ("ok", 2, 60)
        assert seen == [2]


@pytest.mark.parametrize(("on_death", "tokens"), [("continue", 30), ("fresh", 45)])
async def test_tokens_are_counted_once_across_server_crashes(on_death, tokens):
    async with stage() as on:
        on.model.script("second").hang("half")

        async def solve(ctx):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def _():
                    if ctx.attempt == 1:
                        await on.model.wait_for_requests(2)
                        kill(ctx.codex.pid)

                await ctx.thread.run("first")
                await ctx.thread.run("second")

        outcomes = await on.run(some(1), solve, on_death=on_death)
        assert (outcomes["t0"].status, outcomes["t0"].usage.total_tokens) == ("ok", tokens)


async def test_time_in_which_the_program_is_blocked_does_not_count_as_time_of_a_task():
    async def solve(ctx):
        async with ctx.thread.turn(ctx.task.prompt) as turn:
            await trio.sleep(0.3)
            time.sleep(2.5)  # noqa: ASYNC251  # deliberately
            return (await turn.wait()).final_response

    async with stage() as on:
        outcomes = await on.run(some(1), solve, budget=BatchBudget(task_seconds=2))
        assert outcomes["t0"].status == "ok"
        assert outcomes["t0"].seconds < 2
