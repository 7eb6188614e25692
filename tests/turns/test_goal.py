"""A goal as a scope, against a scripted server: its turns, the gap between two of them, and every way it ends."""

import pytest
import trio
import trio.testing

from trio_codex import CodexConfig, TurnStatus, errors
from turns.scripted_goals import accept_interrupt, accept_pause, begin, goal, on_thread, tell


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
async def test_a_goal_that_the_server_does_not_continue_with_is_over(status):
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
        # The goal is over, so the server rejects it.
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


async def test_who_iterates_over_a_goal_is_reported_when_it_is_taken_to_be_over(autojump_clock):
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
    # As by a policy that cancels: the server would leave the goal active, and continue it at the next opportunity.
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
