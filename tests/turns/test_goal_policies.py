"""Goals and policies, and goals whose thread, connection or budget ends."""

import contextvars

import pytest
import trio
import trio.testing

from trio_codex import Budget, CodexConfig, Policy, errors, policies
from turns.scripted_goals import accept, accept_interrupt, accept_pause, begin, on_thread, scripted, tell

# -- policies, the end of threads and connections ------------------------------------------------------------------

WHO = contextvars.ContextVar("WHO")


async def ask(server, request_id, turn_id):
    params = {"threadId": "thread-1", "turnId": turn_id, "itemId": "1", "command": "ls", "cwd": "/"}
    await server.ask(request_id, "item/commandExecution/requestApproval", {**params, "startedAtMs": 0})


async def test_the_policy_of_a_goal_decides_for_all_its_turns_in_the_goals_context():
    seen = []

    async def decide(request):
        await trio.lowlevel.checkpoint()
        seen.append((request.turn_id, WHO.get()))
        return policies.accept()

    async with on_thread() as (thread, server, nursery):

        @nursery.start_soon
        async def _():
            WHO.set("me")
            async with thread.goal("reach it", policy=Policy(command=decide)) as pursued:
                await pursued.wait()

        await accept(server)
        for number, turn_id in enumerate(("one", "two")):
            await server.start_turn(turn_id)
            await ask(server, number, turn_id)
            assert await server.answer_to(number) == {"decision": "accept"}
            if turn_id == "two":
                await tell(server, "complete", turn_id)
            await server.end_turn(turn_id)
    assert seen == [("one", "me"), ("two", "me")]


async def test_a_failing_policy_ends_the_goal_with_its_error():
    async def decide(_):
        raise ZeroDivisionError

    async with on_thread() as (thread, server, nursery):

        @nursery.start_soon
        async def _():
            with pytest.raises(errors.PolicyError):
                async with thread.goal("reach it", policy=Policy(command=decide)):
                    await trio.sleep_forever()

        await begin(server)
        await ask(server, 0, "one")
        await accept_pause(server)
        await accept_interrupt(server, "one")


async def test_leaving_a_goal_waits_for_callbacks_of_its_ended_turns():
    async with on_thread() as (thread, server, nursery):
        asked, cancelled, may_end, left = trio.Event(), trio.Event(), trio.Event(), trio.Event()

        async def linger(_):
            asked.set()
            try:
                await trio.sleep_forever()
            finally:
                cancelled.set()
                with trio.CancelScope(shield=True):
                    await may_end.wait()

        @nursery.start_soon
        async def _():
            async with thread.goal("reach it", policy=Policy(command=linger)) as pursued:
                await pursued.wait()
            left.set()

        await begin(server)
        await ask(server, 0, "one")
        await asked.wait()
        await tell(server, "complete", "one")
        await server.end_turn("one")
        await cancelled.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert not left.is_set()
        may_end.set()
        await left.wait()


async def test_a_goal_cleared_by_another_client_is_reported_as_cleared_even_if_left_early():
    async with on_thread() as (thread, server, nursery):
        leave = trio.Event()
        results = []

        @nursery.start_soon
        async def _():
            async with thread.goal("reach it") as pursued:
                await leave.wait()
            results.append(pursued.result)

        await begin(server)
        await server.notify("thread/goal/cleared", {"threadId": "thread-1"})
        await trio.testing.wait_all_tasks_blocked()
        leave.set()
        await accept_interrupt(server, "one")
        await trio.testing.wait_all_tasks_blocked()
        assert [result.goal for result in results] == [None]
        assert server.unexpected() == []


async def test_leaving_an_interrupted_goal_ends_agents_and_commands_of_its_turns():
    async with on_thread() as (thread, server, nursery):
        server.take_over("thread/backgroundTerminals/terminate")

        @nursery.start_soon
        async def _():
            async with thread.goal("reach it") as pursued:
                await pursued.interrupt()
                await pursued.wait()

        await begin(server)
        command = {"type": "commandExecution", "id": "1", "processId": "77", "command": "x", "cwd": "/"}
        await server.item("started", command, "one")
        await accept_pause(server)
        await accept_interrupt(server, "one")
        asked = await server.expect("thread/backgroundTerminals/terminate")
        assert asked.params["processId"] == "77"
        await asked.answer({"terminated": True})
    assert server.unexpected() == []


@pytest.mark.parametrize("by", ["cleared", "paused"])
async def test_after_another_client_ends_a_goal_a_turn_that_still_starts_is_interrupted(by):
    async with on_thread() as (thread, server, nursery):
        leave = trio.Event()

        @nursery.start_soon
        async def _():
            async with thread.goal("reach it"):
                await leave.wait()

        await begin(server)
        await server.end_turn("one")
        if by == "cleared":
            await server.notify("thread/goal/cleared", {"threadId": "thread-1"})
        else:
            await tell(server, "paused")
        await trio.testing.wait_all_tasks_blocked()
        leave.set()
        await trio.testing.wait_all_tasks_blocked()
        await server.start_turn("two")
        await accept_interrupt(server, "two")
    assert server.unexpected() == []


async def test_leaving_the_thread_ends_its_goal():
    async with on_thread() as (thread, server, nursery):

        @nursery.start_soon
        async def _():
            async with thread.goal("reach it") as pursued:
                await pursued.wait()

        await begin(server)

        @nursery.start_soon
        async def _():
            async with thread:
                pass

        await accept_pause(server)
        await accept_interrupt(server, "one")
    assert server.unexpected() == []


async def test_closing_the_client_ends_its_goals():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        @nursery.start_soon
        async def _():
            async with thread.goal("reach it") as pursued:
                await pursued.wait()

        await begin(server)
        nursery.start_soon(codex.aclose)
        await accept_pause(server)
        await accept_interrupt(server, "one")
    assert server.unexpected() == []


@pytest.mark.parametrize("moment", ["before", "in", "between"])
async def test_losing_the_connection_loses_the_goal(moment):
    async with on_thread() as (thread, server, nursery):

        @nursery.start_soon
        async def _():
            with pytest.raises(errors.TurnLost) as caught:
                async with thread.goal("reach it") as pursued:
                    with pytest.raises(errors.TurnLost):
                        async for _ in pursued:
                            pass
                    with pytest.raises(errors.TurnLost):
                        await pursued.wait()
            assert isinstance(caught.value.__cause__, errors.ConnectionBroken)

        await accept(server)
        if moment != "before":
            await server.start_turn("one")
            await server.delta("text", turn_id="one")
        if moment == "between":
            await server.end_turn("one")
        await server.hang_up()


async def test_an_abandoned_turn_loses_the_goal():
    config = CodexConfig(interrupt_grace=0.05, on_stuck_turn="abandon")
    async with on_thread(config) as (thread, server, nursery):

        @nursery.start_soon
        async def _():
            with pytest.raises(errors.TurnLost):
                async with thread.goal("reach it") as pursued:
                    await pursued.__anext__()

        await begin(server)
        await server.delta("text", turn_id="one")
        await accept_pause(server)
        await server.expect("turn/interrupt")


# -- budgets -------------------------------------------------------------------------------------------------------


async def test_exceeding_the_budget_of_the_thread_ends_the_goal():
    async with on_thread(budget=Budget(turns=1)) as (thread, server, nursery):

        @nursery.start_soon
        async def _():
            with pytest.raises(errors.BudgetExceeded) as caught:
                async with thread.goal("reach it"):
                    await trio.sleep_forever()
            assert (caught.value.limit, caught.value.result.id) == ("turns", "two")
            with pytest.raises(errors.BudgetExceeded):
                async with thread.goal("reach it"):
                    pytest.fail("the body must not run")
            assert thread._state.sequence is None

        await begin(server)
        await server.end_turn("one")
        await server.start_turn("two")
        await accept_pause(server)
        await accept_interrupt(server, "two")
    assert server.unexpected() == []


async def test_exceeding_a_time_limit_during_a_turn_ends_the_goal():
    async with on_thread(budget=Budget(seconds=0.05)) as (thread, server, nursery):

        @nursery.start_soon
        async def _():
            with pytest.raises(errors.BudgetExceeded) as caught:
                async with thread.goal("reach it"):
                    await trio.sleep_forever()
            assert caught.value.limit == "seconds"

        await begin(server)
        await accept_pause(server)
        await accept_interrupt(server, "one")


async def test_the_time_of_a_budget_does_not_pass_between_turns():
    async with on_thread(budget=Budget(seconds=1000)) as (thread, server, nursery):

        @nursery.start_soon
        async def _():
            async with thread.goal("reach it") as pursued:
                async for event in pursued:
                    if event.method == "turn/completed":
                        break
                *_, meter = thread._state.meters
                spent = meter.seconds
                await trio.testing.wait_all_tasks_blocked()
                assert meter.seconds == spent
                await pursued.wait()
            assert meter.turns == 2

        await begin(server)
        await server.end_turn("one")
        await trio.testing.wait_all_tasks_blocked()
        await server.start_turn("two")
        await tell(server, "complete", "two")
        await server.end_turn("two")
