"""A goal as a scope, against a scripted server: its turns, the gap between two of them, and its end by every way."""

import contextvars
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from trio_codex import Budget, CodexConfig, Policy, TurnStatus, errors, policies
from trio_codex.testing import fake_codex


@asynccontextmanager
async def scripted(config=None):
    with trio.fail_after(5):
        async with fake_codex(config) as (codex, server):
            server.give("thread/goal/clear", {"cleared": False})
            yield codex, server


@asynccontextmanager
async def on_thread(config=None, **options):
    """Give a thread, its server, and a nursery for what is done with the thread meanwhile."""
    async with scripted(config) as (codex, server), trio.open_nursery() as nursery:
        yield await codex.thread_start(**options), server, nursery


def goal(status):
    return {
        "threadId": "thread-1",
        "objective": "reach it",
        "status": status,
        "tokensUsed": 7,
        "timeUsedSeconds": 0,
        "createdAt": 0,
        "updatedAt": 0,
    }


async def tell(server, status, turn_id=None):
    params = {"threadId": "thread-1", "turnId": turn_id, "goal": goal(status)}
    await server.notify("thread/goal/updated", params)


async def accept(server):
    asked = await server.expect("thread/goal/set")
    await asked.answer({"goal": goal("active")})
    await tell(server, "active")
    return asked


async def begin(server):
    asked = await accept(server)
    await server.start_turn("one")
    return asked


async def accept_pause(server):
    asked = await server.expect("thread/goal/set")
    assert asked.params == {"threadId": "thread-1", "status": "paused"}
    await tell(server, "paused")
    await asked.answer({"goal": goal("paused")})


async def accept_interrupt(server, turn_id):
    asked = await server.expect("turn/interrupt")
    assert asked.params["turnId"] == turn_id
    await asked.answer({})
    await server.end_turn(turn_id, status="interrupted")


async def message(server, text, turn_id):
    await server.item("completed", {"type": "agentMessage", "id": text, "text": text}, turn_id)


async def test_several_turns_are_one_goal():
    async with on_thread() as (thread, server, nursery):

        @nursery.start_soon
        async def _():
            async with thread.goal("reach it", token_budget=100) as pursued:
                with pytest.raises(errors.TurnActive):
                    _ = pursued.result
                events = [(event.method, event.raw.get("turnId")) async for event in pursued]
                assert [method for method, _ in events].count("turn/completed") == 2
                assert events[-1][0] == "turn/completed"
                result = await pursued.wait()
            assert result == pursued.result
            assert result.status == "complete"
            assert result.goal.tokens_used == 7
            assert [turn.id for turn in result.turns] == ["one", "two"]
            assert [turn.final_response for turn in pursued.turns] == ["started", "reached"]
            assert result.final_response == "reached"
            assert (thread._state.sequence, thread._state.listeners) == (None, [])

        asked = await begin(server)
        assert asked.params == {
            "threadId": "thread-1",
            "objective": "reach it",
            "origin": "user",
            "status": "active",
            "tokenBudget": 100,
        }
        await message(server, "started", "one")
        await server.end_turn("one")
        await server.start_turn("two")
        await message(server, "reached", "two")
        await tell(server, "complete", "two")
        await server.end_turn("two")
    assert server.unexpected() == [], "a goal that is over needs no end"


@pytest.mark.parametrize("status", ["blocked", "usageLimited", "budgetLimited", "paused"])
async def test_a_goal_that_the_server_does_not_go_on_with_is_over(status):
    async with on_thread() as (thread, server, nursery):

        @nursery.start_soon
        async def _():
            async with thread.goal("reach it") as pursued:
                assert (await pursued.wait()).status == status
                assert pursued.status == status

        await begin(server)
        await tell(server, status, "one")
        await server.end_turn("one", status="failed")
    assert server.unexpected() == []


async def test_leaving_early_pauses_it_and_interrupts_the_turn_that_runs():
    async with on_thread() as (thread, server, nursery):

        @nursery.start_soon
        async def _():
            async with thread.goal("reach it") as pursued:
                async for _ in pursued.text():
                    break
                assert pursued.turn_id == "two"
            assert pursued.result.status == "paused"
            assert [turn.status for turn in pursued.turns] == [TurnStatus.completed, TurnStatus.interrupted]

        await begin(server)
        await server.end_turn("one")
        await server.start_turn("two")
        await server.delta("text", turn_id="two")
        await accept_pause(server)
        await accept_interrupt(server, "two")
    assert server.unexpected() == []


async def test_leaving_between_two_turns_ends_the_one_that_comes_although_it_is_paused():
    async with on_thread() as (thread, server, nursery):
        left = trio.Event()

        @nursery.start_soon
        async def _():
            async with thread.goal("reach it") as pursued:
                async for event in pursued:
                    if event.method == "turn/completed":
                        break
                assert pursued.turn_id is None
                with pytest.raises(errors.TurnActive):
                    async with thread.turn("hi"):
                        pytest.fail("the body must not run")
            left.set()

        await begin(server)
        await server.end_turn("one")
        await accept_pause(server)
        await trio.testing.wait_all_tasks_blocked()
        assert not left.is_set(), "the server has made up its mind already"
        await server.start_turn("two")
        await accept_interrupt(server, "two")
        await left.wait()


async def test_a_turn_that_completes_while_it_is_paused_may_have_a_successor():
    async with on_thread() as (thread, server, nursery):

        @nursery.start_soon
        async def _():
            async with thread.goal("reach it") as pursued:
                await pursued.__anext__()

        await begin(server)
        await server.delta("text", turn_id="one")
        await accept_pause(server)
        asked = await server.expect("turn/interrupt")
        await server.end_turn("one")
        await asked.refuse("no active turn to interrupt")
        await trio.testing.wait_all_tasks_blocked()
        await server.start_turn("two")
        await accept_interrupt(server, "two")


async def test_leaving_ends_what_its_earlier_turns_have_started():
    async with on_thread() as (thread, server, nursery):
        server.take_over("thread/backgroundTerminals/terminate")

        @nursery.start_soon
        async def _():
            async with thread.goal("reach it") as pursued:
                async for _ in pursued.text():
                    break

        await begin(server)
        command = {"type": "commandExecution", "id": "1", "processId": "77", "command": "x", "cwd": "/"}
        await server.item("started", command, "one")
        await server.end_turn("one")
        await server.start_turn("two")
        await server.delta("text", turn_id="two")
        await accept_pause(server)
        await accept_interrupt(server, "two")
        asked = await server.expect("thread/backgroundTerminals/terminate")
        assert asked.params["processId"] == "77"
        await asked.answer({"terminated": True})


async def test_a_cancelled_start_waits_for_its_first_turn_and_interrupts_it():
    async with on_thread() as (thread, server, nursery):
        scope = trio.CancelScope()

        @nursery.start_soon
        async def _():
            with scope:
                async with thread.goal("reach it"):
                    pytest.fail("the body must not run")

        asked = await server.expect("thread/goal/set")
        scope.cancel()
        await asked.answer({"goal": goal("active")})
        await accept_pause(server)
        await server.start_turn("one")
        await accept_interrupt(server, "one")
        await trio.testing.wait_all_tasks_blocked()
        assert scope.cancelled_caught


async def test_a_refused_goal_leaves_its_thread_usable():
    async with on_thread() as (thread, server, nursery):

        @nursery.start_soon
        async def _():
            with pytest.raises(errors.InvalidRequestError):
                async with thread.goal("reach it"):
                    pytest.fail("the body must not run")
            await thread.run("hi")

        await (await server.expect("thread/goal/set")).refuse("no goals here")
        await server.accept_turn()
        await server.end_turn()


async def test_a_start_that_nobody_answers_is_bounded():
    config = CodexConfig(request_timeout=0.05, interrupt_grace=0.1)
    async with on_thread(config) as (thread, server, nursery):

        @nursery.start_soon
        async def _():
            with pytest.raises(errors.RequestTimeout) as caught:
                async with thread.goal("reach it"):
                    pytest.fail("the body must not run")
            assert caught.value.method == "thread/goal/set"

        await server.expect("thread/goal/set")


# -- steer, interrupt ----------------------------------------------------------------------------------------------


async def test_a_steer_follows_the_roll_over_to_the_next_turn():
    async with on_thread() as (thread, server, nursery):

        @nursery.start_soon
        async def _():
            async with thread.goal("reach it") as pursued:
                await pursued.steer("this way")
                await pursued.wait()
                await pursued.steer("too late")

        await begin(server)
        asked = await server.expect("turn/steer")
        assert asked.params["expectedTurnId"] == "one"
        await server.end_turn("one")
        await asked.refuse("no active turn to steer")
        await trio.testing.wait_all_tasks_blocked()
        await server.start_turn("two")
        asked = await server.expect("turn/steer")
        assert asked.params["expectedTurnId"] == "two"
        await asked.answer({"turnId": "two"})
        await tell(server, "complete", "two")
        await server.end_turn("two")
        # A goal that is over: the refusal is the server's.
        asked = await server.expect("turn/steer")
        await asked.answer({"turnId": "two"})


async def test_a_steer_that_a_turn_accepted_last_thing_is_not_given_to_the_next_one_as_well():
    async with on_thread() as (thread, server, nursery):

        @nursery.start_soon
        async def _():
            async with thread.goal("reach it") as pursued:
                await pursued.steer("this way")
                await pursued.wait()

        await begin(server)
        asked = await server.expect("turn/steer")
        await server.end_turn("one")
        await server.start_turn("two")
        await trio.testing.wait_all_tasks_blocked()
        await asked.answer({"turnId": "one"})
        await tell(server, "complete", "two")
        await server.end_turn("two")
    assert server.unexpected() == []


async def test_an_interrupt_between_two_turns_reaches_the_next_one():
    async with on_thread() as (thread, server, nursery):

        @nursery.start_soon
        async def _():
            async with thread.goal("reach it") as pursued:
                async for event in pursued:
                    if event.method == "turn/completed":
                        break
                await pursued.interrupt()
                assert (await pursued.wait()).status == "paused"
                await pursued.interrupt()

        await begin(server)
        await server.end_turn("one")
        await accept_pause(server)
        await server.start_turn("two")
        await accept_interrupt(server, "two")
    assert server.unexpected() == []


async def test_a_goal_that_is_interrupted_between_two_turns_and_gets_no_second_is_over(autojump_clock):
    async with on_thread() as (thread, server, nursery):

        @nursery.start_soon
        async def _():
            async with thread.goal("reach it") as pursued:
                async for event in pursued:
                    if event.method == "turn/completed":
                        break
                await pursued.interrupt()
                assert [event async for event in pursued] == []
                assert (await pursued.wait()).status == "paused"
                assert [turn.id for turn in pursued.result.turns] == ["one"]

        await begin(server)
        await server.end_turn("one")
        await accept_pause(server)
    assert server.unexpected() == []


async def test_who_iterates_over_a_goal_is_told_when_it_is_taken_to_be_over(autojump_clock):
    async with on_thread() as (thread, server, nursery):
        ended, first = trio.Event(), trio.Event()

        async def iterate(pursued):
            async for event in pursued:
                if event.method == "turn/completed":
                    first.set()
            ended.set()

        @nursery.start_soon
        async def _():
            async with thread.goal("reach it") as pursued:
                nursery.start_soon(iterate, pursued)
                await first.wait()
                await pursued.interrupt()
                await ended.wait()

        await begin(server)
        await server.end_turn("one")
        await accept_pause(server)


async def test_a_turn_that_comes_when_its_goal_was_taken_to_be_over_ends_with_its_scope(autojump_clock):
    async with on_thread() as (thread, server, nursery):
        interrupted, left = trio.Event(), trio.Event()

        @nursery.start_soon
        async def _():
            async with thread.goal("reach it") as pursued:
                async for event in pursued:
                    if event.method == "turn/completed":
                        break
                await pursued.interrupt()
                interrupted.set()
                await left.wait()

        await begin(server)
        await server.end_turn("one")
        await accept_pause(server)
        await interrupted.wait()
        await server.start_turn("two")
        left.set()
        await accept_interrupt(server, "two")
    assert server.unexpected() == []


async def test_an_interrupted_turn_is_the_end_of_the_goal_which_is_paused():
    # As by a policy that cancels: the server would leave the goal active, and go on at the next occasion.
    async with on_thread() as (thread, server, nursery):

        @nursery.start_soon
        async def _():
            async with thread.goal("reach it") as pursued:
                result = await pursued.wait()
                assert (result.status, result.turns[-1].status) == ("active", TurnStatus.interrupted)
            assert pursued.result.status == "paused"

        await begin(server)
        await server.end_turn("one", status="interrupted")
        await accept_pause(server)
    assert server.unexpected() == []


# -- policies, the end of threads and connections ------------------------------------------------------------------

WHO = contextvars.ContextVar("WHO")


async def ask(server, request_id, turn_id):
    params = {"threadId": "thread-1", "turnId": turn_id, "itemId": "1", "command": "ls", "cwd": "/"}
    await server.ask(request_id, "item/commandExecution/requestApproval", {**params, "startedAtMs": 0})


async def test_its_policy_decides_for_all_of_its_turns_in_its_context():
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


async def test_a_policy_that_fails_ends_the_goal_with_its_error():
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


async def test_leaving_it_waits_for_a_callback_of_a_turn_that_has_ended():
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


async def test_a_goal_that_somebody_clears_is_cleared_also_when_it_is_left_early():
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


async def test_one_that_was_interrupted_ends_what_its_turns_have_started_when_it_is_left():
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
async def test_one_that_somebody_ends_between_two_turns_may_have_a_successor_to_end(by):
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


async def test_leaving_its_thread_ends_it():
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


async def test_closing_the_client_ends_it():
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
async def test_the_end_of_the_connection_loses_it(moment):
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


async def test_an_abandoned_turn_loses_it():
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


async def test_a_turn_of_it_that_is_over_the_budget_of_its_thread_ends_it():
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


async def test_the_time_of_a_budget_ends_it_in_a_turn():
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


async def test_the_time_of_a_budget_stands_still_between_two_turns():
    async with on_thread(budget=Budget(seconds=1000)) as (thread, server, nursery):

        @nursery.start_soon
        async def _():
            async with thread.goal("reach it") as pursued:
                async for event in pursued:
                    if event.method == "turn/completed":
                        break
                spent = thread._state.meter.seconds
                await trio.testing.wait_all_tasks_blocked()
                assert thread._state.meter.seconds == spent
                await pursued.wait()
            assert thread._state.meter.turns == 2

        await begin(server)
        await server.end_turn("one")
        await trio.testing.wait_all_tasks_blocked()
        await server.start_turn("two")
        await tell(server, "complete", "two")
        await server.end_turn("two")
