"""Batches on several servers, and batches with changed settings."""

import attrs
import pytest
import trio
from batches import kill, some, stage

from trio_codex import errors
from trio_codex.batch import BatchBudget, EmptyDirectory, Task, read_outcomes
from trio_codex.testing import HTTPFailure


class Servers:
    """A solver that records the server of each attempt."""

    def __init__(self):
        self.pids = {}

    async def __call__(self, ctx):
        self.pids[f"{ctx.task.id}-{ctx.attempt}"] = ctx.codex.pid
        return (await ctx.thread.run(ctx.task.prompt)).final_response


@pytest.mark.parametrize(("servers", "count"), [(1, 1), (2, 2), ("per-task", 6)])
async def test_attempts_are_spread_over_the_servers(servers, count):
    async with stage() as on:
        solve = Servers()
        outcomes = await on.run(some(6), solve, servers=servers, turns=3)
        assert {outcome.value for outcome in outcomes.values()} == {"did it"}
        assert len({*solve.pids.values()}) == count


@pytest.mark.parametrize("servers", [2, "per-task"])
@pytest.mark.parametrize("on_death", ["fresh", "continue"])
async def test_the_death_of_a_server_interrupts_only_its_own_attempts(servers, on_death):
    async with stage() as on:
        solve = Servers()
        scripts = [on.model.script(f"do t{number}") for number in range(2)]
        gates = [script.gate() for script in scripts]
        for script in scripts:
            script.say("did it")
        async with on.batch(some(2), solve, servers=servers, on_death=on_death) as batch:
            await on.model.wait_for_requests(2)
            kill(solve.pids["t0-1"])
            await on.model.wait_for_requests(3)
            for gate in gates:
                gate.open()
            outcomes = {outcome.task.id: outcome async for outcome in batch}
        attempts = {name: outcome.attempts for name, outcome in outcomes.items()}
        assert attempts == {"t0": 2 if on_death == "fresh" else 1, "t1": 1}
        assert {outcome.status for outcome in outcomes.values()} == {"ok"}


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, "per-task"), ("per-task", 1)])
async def test_an_attempt_continues_with_another_number_of_servers(before, after):
    async with stage() as on:
        for number in range(3):
            on.model.script(f"do t{number}").hang("half")
        options = {"on_death": "continue", "turns": 3}
        async with on.batch(some(3), servers=before, **options):
            await on.model.wait_for_requests(3)
        outcomes = await on.run(some(3), servers=after, **options)
        assert {(outcome.status, outcome.attempts) for outcome in outcomes.values()} == {("ok", 1)}
        assert all(on.prompts()[f"do t{number}"] == 1 for number in range(3))


async def test_servers_share_the_budget_of_the_batch():
    async with stage() as on:
        with pytest.raises(errors.BatchStopped, match="budget of the batch"):
            await on.run(some(6), turns=2, servers=2, budget=BatchBudget(tokens=40))
        # The budget is checked before each turn, and two turns run at once.
        assert 2 <= len(read_outcomes(on.out)) <= 4


@pytest.mark.parametrize("servers", [2, "per-task"])
async def test_a_server_that_fails_to_start_ends_the_batch_with_the_start_error(servers):
    async with stage() as on:
        config = attrs.evolve(on.home.config(), launch_args_override=("/bin/false",))
        with pytest.raises(errors.StartError):
            async with on.batch(some(2), servers=servers, config=config) as batch:
                await anext(batch)


# -- changed settings ----------------------------------------------------------------------------------------------


async def test_another_model_is_refused_before_any_turn():
    async with stage() as on:
        await on.run(some(1))
        config = on.home.codex_home / "config.toml"
        config.write_text(config.read_text().replace('model = "mock-model"', 'model = "other"'))
        with pytest.raises(errors.BatchConflict, match="model was mock-model and is now other"):
            await on.run(some(2))
        assert len(on.model.requests) == 1
        outcomes = await on.run(some(2), allow_changes=True)
        assert [outcome.resumed for outcome in outcomes.values()] == [True, False]
        # Later runs are compared with the allowed settings.
        assert len(await on.run(some(2))) == 2


async def test_the_name_of_a_solver_does_not_contain_its_address():
    async with stage() as on:
        for _ in range(2):
            outcomes = await on.run(some(1), Servers())
        assert outcomes["t0"].resumed


async def test_settings_and_unfinished_tasks_may_change_if_allowed():
    async with stage() as on:
        on.model.script("do t1").hang("half")
        on.model.script("do t2").hang("half")
        async with on.batch(some(3), on_death="continue") as batch:
            assert (await anext(batch)).task.id == "t0"
            await on.model.wait_for_requests(3)
        changed = [Task("t0", "do t0"), Task("t1", "do more")]
        options = {"on_death": "fresh", "workspace": EmptyDirectory(), "allow_changes": True}
        outcomes = await on.run(changed, **options)
        found = {name: (outcome.task.prompt, outcome.attempts) for name, outcome in outcomes.items()}
        assert found == {"t0": ("do t0", 1), "t1": ("do more", 2)}
        assert list((on.out / "workspaces").iterdir()) == [on.out / "workspaces" / "t2-1"]


async def test_a_task_that_was_removed_and_is_back_has_a_new_thread():
    threads = []

    async def solve(ctx):
        await ctx.thread.run(ctx.task.prompt)
        threads.append(ctx.thread.id)
        if len(threads) == 1:
            await trio.sleep_forever()
        return ctx.attempt

    async with stage() as on:
        async with on.batch(some(1), solve):
            while not threads:  # noqa: ASYNC110  # there is no event for this
                await trio.sleep(0.01)
        others = [Task("other", "do other")]
        assert (await on.run(others, solve, allow_changes=True))["other"].is_ok
        assert (await on.run([*others, *some(1)], solve))["t0"].value == 2
        assert len({*threads}) == 3


async def test_a_finished_task_cannot_change():
    async with stage() as on:
        on.model.script("do t1").respond(HTTPFailure(400))
        await on.run(some(2))
        for tasks, match in (([Task("t0", "do t0")], "task 't1': missing"), ([Task("t0", "x"), some(2)[1]], "'t0': different")):  # fmt: skip
            with pytest.raises(errors.BatchConflict, match=match):
                await on.run(tasks, allow_changes=True)
