"""Goals as scopes on a scripted server: their turns, the gaps between turns, and every way they end."""

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
    assert server.unexpected() == [], "a finished goal was ended again"


@pytest.mark.parametrize("status", ["blocked", "usageLimited", "budgetLimited", "paused"])
async def test_a_goal_that_the_server_does_not_continue_ends(status):
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


async def test_leaving_a_goal_early_pauses_it_and_interrupts_its_running_turn():
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


async def test_leaving_between_two_turns_ends_the_turn_that_still_starts_despite_the_pause():
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
        assert not left.is_set(), "the server had already decided"
        await server.start_turn("two")
        await accept_interrupt(server, "two")
        await left.wait()


async def test_a_turn_that_completes_during_the_pause_may_be_followed_by_another():
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


async def test_leaving_a_goal_ends_agents_and_commands_of_its_earlier_turns():
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


async def test_an_unanswered_goal_start_times_out():
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


async def test_a_steer_moves_on_to_the_next_turn():
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


async def test_a_steer_accepted_at_the_end_of_a_turn_is_not_repeated_in_the_next_one():
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


async def test_an_interrupt_between_two_turns_reaches_the_next_turn():
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


async def test_a_goal_interrupted_between_turns_ends_if_no_turn_follows(autojump_clock):
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


async def test_iteration_over_a_goal_ends_when_the_goal_is_presumed_over(autojump_clock):
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


async def test_a_turn_that_starts_after_its_goal_was_presumed_over_ends_with_the_scope(autojump_clock):
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


async def test_an_interrupted_turn_ends_the_goal_and_pauses_it():
    # A policy may have cancelled the turn. The server would leave the goal active and continue it later.
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
