"""Scopes that rejoin a running turn, on a scripted server."""

import logging

import pytest
import trio
import trio.testing
from scripted_rejoin import ENDING, GAP, OPENED, message, page, record, resumed, running, settle, usage
from scripted_turns import COMMAND, QUESTION, accept_interrupt, scripted

from trio_codex import Budget, CodexConfig, Policy, TurnStatus, errors, policies, tool

# -- rejoined ------------------------------------------------------------------------------------------------------


async def test_a_rejoined_turn_begins_with_a_gap_and_its_result_is_complete(caplog):
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await resumed(codex, server, message("before", "item-1"))
        server.take_over("thread/turns/list")
        events, stored = [], []

        @nursery.start_soon
        async def _():
            async with thread.rejoin() as turn:
                assert turn.id == "turn-1"
                stored.append(await turn.wait_stored())
                events.extend([event async for event in turn])
                assert turn.result.final_response == "one two"
                assert [item.id for item in turn.result.items] == ["message-0", "message-1"]
                assert turn.result.status is TurnStatus.completed
                assert turn.result.turn_usage.total_tokens == 7

        await settle()
        assert stored == [True]
        # This item never started here, and is not listed once the turn has ended.
        await server.delta("two")
        await server.item("completed", message("one two"))
        await server.notify("thread/tokenUsage/updated", usage(7))
        await server.end_turn()
        # The newest turn is one that has started in the meantime.
        await server.start_turn("turn-2")
        first = await server.expect("thread/turns/list")
        assert [event.method for event in events] == []
        await first.answer(page(record("turn-2", "inProgress"), cursor="next"))
        second = await server.expect("thread/turns/list")
        assert second.params == {"threadId": "thread-1", "itemsView": "full", "limit": 1, "cursor": "next"}
        interrupted = {"type": "commandExecution", "id": "c1", "status": "inProgress", "command": "x"}
        await second.answer(
            page(record(items=[message("before", "message-0"), interrupted, message("one two")]))
        )
    assert [event.method for event in events] == [
        GAP,
        "item/agentMessage/delta",
        "item/completed",
        "thread/tokenUsage/updated",
        "turn/completed",
    ]
    assert events[0].raw == {"threadId": "thread-1", "turnId": "turn-1"}
    assert caplog.record_tuples == []


async def test_the_text_of_a_rejoined_turn_begins_at_the_rejoin():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await resumed(codex, server)
        server.give("thread/turns/list", page(record(items=[message("one two")])))
        pieces = []

        @nursery.start_soon
        async def _():
            async with thread.rejoin() as turn:
                pieces.extend([piece async for piece in turn.text()])
                assert turn.result.final_response == "one two"

        await settle()
        await server.delta("two")
        await server.item("completed", message("one two"))
        await server.end_turn()
    assert pieces == ["two"]


@pytest.mark.parametrize("end", ["refused", "another turn", "lost"])
async def test_a_rejoined_turn_whose_items_cannot_be_read_is_lost_with_the_reason(end):
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await resumed(codex, server)
        server.take_over("thread/turns/list")

        @nursery.start_soon
        async def _():
            with pytest.raises(errors.TurnLost, match="it ended, but its items could not be read") as caught:
                async with thread.rejoin() as turn:
                    await turn.wait()
            assert isinstance(caught.value.__cause__, errors.ConnectionBroken) == (end == "lost")
            done.set()

        done = trio.Event()
        await settle()
        await server.end_turn()
        listing = await server.expect("thread/turns/list")
        match end:
            case "refused":
                await listing.refuse("no rollout found")
            case "another turn":
                await listing.answer(page(record("turn-0")))
            case _:
                await server.hang_up()
        await done.wait()


async def test_leaving_a_rejoined_turn_sends_nothing_and_it_can_be_rejoined_again():
    async with scripted() as (codex, server):
        thread = await resumed(codex, server)
        for _ in range(3):
            async with thread.rejoin() as turn:
                await trio.lowlevel.checkpoint()
            assert not turn._state.owned
            assert turn._state.sinks == ()
        assert codex._session.meter.turns == 0
        await codex.aclose()
        assert server.unexpected() == []


async def test_a_turn_rejoined_while_another_scope_is_leaving_it_outlives_the_client():
    stopping, go_on = trio.Event(), trio.Event()

    async def stubborn(_):
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                stopping.set()
                await go_on.wait()

    async with scripted(policy=Policy(command=stubborn)) as (codex, server), trio.open_nursery() as nursery:
        thread = await resumed(codex, server)

        @nursery.start_soon
        async def _():
            async with thread.rejoin():
                await server.ask(1, COMMAND, QUESTION)
                await settle()

        await stopping.wait()
        with pytest.raises(errors.TurnLost):
            async with thread.rejoin():
                go_on.set()
                await settle()
                await codex.aclose()
        assert server.unexpected() == []


async def test_with_end_true_both_leaving_and_closing_the_client_interrupt_the_turn():
    async with scripted(ENDING) as (codex, server), trio.open_nursery() as nursery:
        thread = await resumed(codex, server)
        server.give("thread/goal/get", {"goal": None})

        @nursery.start_soon
        async def _():
            async with thread.rejoin(end=True):
                pass

        await accept_interrupt(server, "thread-1", "turn-1")
    async with scripted(ENDING) as (codex, server), trio.open_nursery() as nursery:
        thread = await resumed(codex, server)
        server.give("thread/goal/get", {"goal": None})

        @nursery.start_soon
        async def _():
            with pytest.raises(trio.Cancelled):
                async with thread.rejoin(end=True):
                    await trio.sleep_forever()
            await trio.lowlevel.checkpoint_if_cancelled()

        await settle()
        nursery.start_soon(codex.aclose)
        await accept_interrupt(server, "thread-1", "turn-1")
        nursery.cancel_scope.cancel()


async def test_the_clients_policy_applies_while_the_turn_is_rejoined_and_its_failure_ends_the_scope():
    asked = []

    async def decide(request):
        await trio.lowlevel.checkpoint()
        asked.append(request)
        if len(asked) > 1:
            raise ZeroDivisionError
        return policies.accept()

    async with scripted(policy=Policy(command=decide)) as (codex, server), trio.open_nursery() as nursery:
        thread = await resumed(codex, server)
        await server.ask(1, COMMAND, QUESTION)
        await settle()
        assert [record.outcome for record in codex.decisions] == ["left"]
        server.take_over("thread/resume")
        left = trio.Event()

        @nursery.start_soon
        async def _():
            with pytest.raises(errors.PolicyError):
                async with thread.rejoin() as turn:
                    await turn.wait()
            left.set()

        # Requests that were left to others are delivered again.
        await (await server.expect("thread/resume")).answer(running())
        await server.ask(1, COMMAND, QUESTION)
        assert await server.answer_to(1) == {"decision": "accept"}
        await server.ask(2, COMMAND, QUESTION)
        assert await server.answer_to(2) == {"decision": "decline"}
        await left.wait()
        await server.ask(3, COMMAND, QUESTION)
        await settle()
        assert 3 not in server.answers
        assert server.unexpected() == []


async def test_rejoining_a_turn_that_another_scope_owns_only_watches_it():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        owner_asked, seen = [], []

        async def decide(request):
            await trio.lowlevel.checkpoint()
            owner_asked.append(request)
            return policies.accept()

        thread = await codex.thread_start()
        other = await codex.thread_resume("thread-1", policy=Policy())
        running = trio.Event()

        @nursery.start_soon
        async def _():
            async with thread.turn("hi", policy=Policy(command=decide)) as turn:
                running.set()
                assert (await turn.wait()).final_response == "one"

        await server.accept_turn()
        await running.wait()
        async with other.rejoin():
            pass

        @nursery.start_soon
        async def _():
            async with other.rejoin() as view:
                assert view.thread is other
                seen.extend([event.method async for event in view])
                assert view.result.final_response == "one"

        await settle()
        await server.ask(1, COMMAND, QUESTION)
        assert await server.answer_to(1) == {"decision": "accept"}
        await server.item("completed", message("one"))
        await server.end_turn()
    assert len(owner_asked) == 1
    assert seen == [GAP, "item/completed", "turn/completed"]


async def test_watching_with_end_true_ends_the_turn_of_the_other_scope():
    async with scripted(ENDING) as (codex, server), trio.open_nursery() as nursery:
        server.give("thread/goal/get", {"goal": None})
        thread = await codex.thread_start()
        running = trio.Event()

        @nursery.start_soon
        async def _():
            async with thread.turn("hi") as turn:
                running.set()
                assert (await turn.wait()).status is TurnStatus.interrupted

        await server.accept_turn()
        await running.wait()

        @nursery.start_soon
        async def _():
            async with thread.rejoin(end=True):
                pass

        await accept_interrupt(server, "thread-1", "turn-1")


async def test_a_budget_counts_usage_from_the_rejoin_on_but_not_the_rejoined_turn():
    async with (
        scripted() as (codex, server),
        trio.open_nursery() as nursery,
    ):
        thread = await resumed(codex, server, budget=Budget(tokens=10, turns=1))

        @nursery.start_soon
        async def _():
            async with thread.rejoin():
                pass
            with pytest.raises(errors.BudgetExceeded) as caught:
                async with thread.rejoin() as turn:
                    await turn.wait()
            assert caught.value.limit == "tokens"
            with pytest.raises(errors.BudgetExceeded):
                async with thread.rejoin():
                    pytest.fail("the budget is used up")

        await settle()
        await server.notify("thread/tokenUsage/updated", usage(20))
        await settle()
        assert server.unexpected() == []


# -- which turn ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["none", "ended before", "interrupted without items", "ours has ended"])
async def test_rejoining_without_a_turn_raises(state, autojump_clock):
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        if state == "ended before":
            server.give("thread/resume", {**OPENED, "initialTurnsPage": page(record())})
        elif state == "interrupted without items":
            server.give("thread/resume", {**OPENED, "initialTurnsPage": page(record(status="interrupted"))})
        thread = await codex.thread_resume("thread-1")
        if state == "ours has ended":
            nursery.start_soon(thread.run, "hi")
            await server.accept_turn()
            await server.end_turn()
            await settle()
        with pytest.raises(errors.NoTurnRuns) as caught:
            async with thread.rejoin():
                pytest.fail("it rejoined without a turn")
        assert caught.value.thread_id == "thread-1"


@pytest.mark.parametrize("announced", ["by the server", "by an event", "by its snapshot"])
async def test_a_rejoin_waits_for_a_turn_that_is_about_to_start(announced, autojump_clock):
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        about_to_run = {**OPENED, "initialTurnsPage": page(record(status="interrupted"))}
        server.give("thread/resume", about_to_run)
        thread = await codex.thread_resume("thread-1")
        server.give("thread/turns/list", page(record(items=[message("whole")])))

        @nursery.start_soon
        async def _():
            async with thread.rejoin() as turn:
                assert (await turn.wait()).final_response == "whole"

        await trio.sleep(0.2)
        match announced:
            case "by the server":
                await server.start_turn()
                await server.item("completed", message("whole"))
            case "by an event":
                await server.delta("who")
            case _:
                server.give("thread/resume", running())
        await trio.sleep(0.2)
        await server.end_turn()


async def test_a_rejoin_stops_waiting_once_the_client_is_closed(autojump_clock):
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery, scripted() as (codex, server):
            server.give("thread/resume", {**OPENED, "initialTurnsPage": page(record(status="interrupted"))})
            thread = await codex.thread_resume("thread-1")

            @nursery.start_soon
            async def _():
                with pytest.raises(errors.ConnectionClosed):
                    await thread.rejoin().__aenter__()

            await settle()


async def test_an_agent_that_another_clients_interrupted_turn_spawns_late_is_not_ended():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_resume("thread-1")
        await server.start_turn()
        entered = trio.Event()

        @nursery.start_soon
        async def _():
            async with thread.rejoin() as turn:
                entered.set()
                assert (await turn.wait()).status is TurnStatus.interrupted

        await entered.wait()
        await server.end_turn(status="interrupted")
        child = {"id": "child-turn", "rootTurnId": "turn-1", "items": [], "status": "inProgress"}
        await server.notify("turn/started", {"threadId": "child", "turn": child})
        await settle()
        assert server.unexpected() == []


async def test_late_events_do_not_revive_an_ended_turn():
    async with scripted() as (codex, server):
        server.give("thread/resume", {**OPENED, "initialTurnsPage": page(record(status="interrupted"))})
        thread = await codex.thread_resume("thread-1")
        await server.start_turn()
        await server.end_turn()
        await server.delta("late")
        await settle()
        assert thread._state.turn is None


async def test_a_turn_that_ended_since_the_resume_is_returned_even_if_its_end_was_missed():
    async with scripted() as (codex, server):
        thread = await resumed(codex, server)
        server.give("thread/turns/list", page(record(items=[message("whole")])))
        await server.end_turn()
        await settle()
        async with thread.rejoin() as turn:
            assert turn.result.final_response == "whole"
            assert [event.method async for event in turn] == [GAP]
            assert await turn.wait() is turn.result
        # Complete items are not read again.
        server.give("thread/turns/list", page())
        async with thread.rejoin() as turn:
            assert turn.result.final_response == "whole"
        await thread.unsubscribe()
        server.give("thread/resume", running("turn-2"))
        thread = await codex.thread_resume("thread-1")
        await thread.unsubscribe()
        with pytest.raises(errors.ThreadClosed):
            async with thread.rejoin():
                pytest.fail("no event would arrive")
        server.give(
            "thread/resume",
            {**OPENED, "initialTurnsPage": page(record("turn-2", items=[message("missed")]))},
        )
        thread = await codex.thread_resume("thread-1")
        async with thread.rejoin() as turn:
            assert (turn.id, turn.result.final_response) == ("turn-2", "missed")


async def test_a_review_is_interrupted_by_one_id_and_stored_under_the_id_of_its_events():
    async with scripted(ENDING) as (codex, server), trio.open_nursery() as nursery:
        server.give("thread/resume", running("inner", rootTurnId="outer"))
        server.give("thread/goal/get", {"goal": None})
        server.give("thread/turns/list", page(record("outer", items=[message("review")])))
        thread = await codex.thread_resume("thread-1")

        @nursery.start_soon
        async def _():
            async with thread.rejoin(end=True) as turn:
                assert turn.id == "inner"
                await turn.interrupt()
                result = await turn.wait()
            assert (result.id, result.final_response) == ("outer", "review")

        interrupt = await server.expect("turn/interrupt")
        assert interrupt.params == {"threadId": "thread-1", "turnId": "inner"}
        await interrupt.answer({})
        await server.end_turn("outer", status="interrupted")


async def test_a_review_listed_without_its_root_ends_when_the_turn_of_its_events_ends():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await resumed(codex, server, message("one", "item-1"))
        server.give("thread/turns/list", page(record(items=[message("one two", "item-1")])))

        @nursery.start_soon
        async def _():
            async with thread.rejoin() as turn:
                assert (await turn.wait()).final_response == "one two"

        await settle()
        await server.notify("thread/tokenUsage/updated", {**usage(7), "turnId": "turn-0"})
        delta = {"threadId": "thread-1", "turnId": "turn-9", "itemId": "item-1", "delta": " two"}
        await server.notify("item/agentMessage/delta", delta)
        await server.end_turn("turn-9")


# -- tools ---------------------------------------------------------------------------------------------------------

CALL = {"threadId": "thread-1", "turnId": "turn-1", "callId": "d1", "tool": "count", "arguments": {}}


@pytest.mark.parametrize("whose", ["rejoined", "ours"])
async def test_only_a_repeated_call_is_answered_from_memory(whose):
    calls = []

    @tool
    async def count() -> str:
        """Count."""
        await trio.lowlevel.checkpoint()
        calls.append(1)
        return f"call {len(calls)}"

    for _ in range(2):
        async with scripted() as (codex, server), trio.open_nursery() as nursery:
            if whose == "rejoined":
                thread = await resumed(codex, server, tools=[count])
            else:
                thread = await codex.thread_start(tools=[count])
                nursery.start_soon(thread.run, "hi")
                await server.accept_turn()
            await server.ask(1, "item/tool/call", CALL)
            answer = await server.answer_to(1)
            assert answer["contentItems"][0]["text"] == f"call {len(calls)}"
            await server.end_turn()
    assert len(calls) == (1 if whose == "rejoined" else 2)


async def test_a_callback_that_does_not_end_delays_leaving_by_at_most_interrupt_grace(caplog, autojump_clock):
    config = CodexConfig(interrupt_grace=1, on_stuck_turn="abandon")
    async with scripted(config) as (codex, server), trio.open_nursery() as nursery:
        asked, go_on = trio.Event(), trio.Event()

        async def decide(_):
            asked.set()
            with trio.CancelScope(shield=True):
                await go_on.wait()
            return policies.accept()

        thread = await codex.thread_start()

        @nursery.start_soon
        async def _():
            async with thread.turn("hi", policy=Policy(command=decide), leave_running=True):
                await asked.wait()
            go_on.set()

        await server.accept_turn()
        await server.ask(1, COMMAND, QUESTION)
        with caplog.at_level(logging.ERROR):
            await go_on.wait()
        await settle()
        assert server.answers == {}
    assert "one of its callbacks is still running" in caplog.text


# -- ending --------------------------------------------------------------------------------------------

GOAL = {
    "threadId": "thread-1", "objective": "reach it", "status": "active", "tokensUsed": 0, "timeUsedSeconds": 0,
    "createdAt": 0, "updatedAt": 0,
}  # fmt: skip


async def test_the_next_turn_of_a_goal_also_ends_if_it_started_before_the_pause(
    autojump_clock,
):
    async with scripted(ENDING) as (codex, server), trio.open_nursery() as nursery:
        thread = await resumed(codex, server)
        server.give("thread/goal/get", {"goal": GOAL})

        @nursery.start_soon
        async def _():
            async with thread.rejoin(end=True):
                pass

        paused = await server.expect("thread/goal/set")
        assert paused.params == {"threadId": "thread-1", "status": "paused"}
        await paused.answer({"goal": {**GOAL, "status": "paused"}})
        interrupt = await server.expect("turn/interrupt")
        await server.end_turn()
        await interrupt.refuse("no active turn to interrupt")
        await server.start_turn("turn-2")
        await accept_interrupt(server, "thread-1", "turn-2")


@pytest.mark.parametrize("goal", ["paused", "refused", "none follows", "not paused", "unanswered"])
async def test_a_turn_ends_even_if_pausing_its_goal_fails(goal, autojump_clock, caplog):
    async with scripted(ENDING) as (codex, server), trio.open_nursery() as nursery:
        thread = await resumed(codex, server)

        @nursery.start_soon
        async def _():
            async with thread.rejoin(end=True):
                pass

        asked = await server.expect("thread/goal/get")
        if goal == "refused":
            await asked.refuse("goals are disabled")
        elif goal == "paused":
            await asked.answer({"goal": {**GOAL, "status": "paused"}})
        else:
            await asked.answer({"goal": GOAL})
            pause = await server.expect("thread/goal/set")
            if goal == "none follows":
                await pause.answer({"goal": GOAL})
            elif goal == "not paused":
                await pause.refuse("the disk is full", code=-32603)
        interrupt = await server.expect("turn/interrupt")
        await interrupt.answer({})
        await server.end_turn(status="completed" if goal == "none follows" else "interrupted")
    assert server.unexpected() == []
    assert ("may still be active" in caplog.text) is (goal in ("not paused", "unanswered"))


async def test_leaving_a_rejoined_turn_that_has_ended_waits_for_its_callbacks(autojump_clock):
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        ended, go_on = trio.Event(), trio.Event()

        async def decide(_):
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await go_on.wait()

        thread = await resumed(codex, server, policy=Policy(command=decide))
        server.give("thread/turns/list", page(record()))

        @nursery.start_soon
        async def _():
            async with thread.rejoin() as turn:
                await turn.wait()
                ended.set()
            assert go_on.is_set()

        await settle()
        await server.ask(1, COMMAND, QUESTION)
        await settle()
        await server.end_turn()
        await ended.wait()
        await trio.sleep(1)
        go_on.set()
        await settle()
        assert server.answers == {}


async def test_agents_of_a_rejoined_turn_are_tracked_and_end_with_it():
    spawned = {
        "type": "collabAgentToolCall", "status": "completed", "tool": "spawnAgent", "agentsStates": {},
        "senderThreadId": "thread-1",
    }  # fmt: skip
    async with scripted(ENDING) as (codex, server), trio.open_nursery() as nursery:
        item = {**spawned, "id": "s1", "receiverThreadIds": ["agent-1", "agent-2", "thread-1"]}
        thread = await resumed(codex, server, item)
        server.take_over("thread/resume")
        server.give("thread/goal/get", {"goal": None})

        @nursery.start_soon
        async def _():
            async with thread.rejoin(end=True) as turn:
                assert turn.children == ("agent-1", "agent-2", "thread-1")

        for agent, turn, items in (
            ("agent-1", "turn-a1", [{**spawned, "id": "s2", "receiverThreadIds": ["agent-3"]}]),
            ("agent-3", "turn-a3", []),
            ("agent-2", None, []),
        ):
            resume = await server.expect("thread/resume")
            assert resume.params["threadId"] == agent
            if turn is None:
                await resume.refuse("no rollout found")
            else:
                await resume.answer(running(turn, items))
        await accept_interrupt(server, "thread-1", "turn-1")
        await accept_interrupt(server, "agent-1", "turn-a1")
        await accept_interrupt(server, "agent-3", "turn-a3")
    assert [state.id for state in codex._session.threads] == ["thread-1"]


@pytest.mark.parametrize("how", ["closed", "lost"])
async def test_a_rejoined_turn_is_lost_with_the_connection(how):
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await resumed(codex, server)
        rejoined = trio.Event()

        @nursery.start_soon
        async def _():
            with pytest.raises(errors.TurnLost):
                async with thread.rejoin() as turn:
                    rejoined.set()
                    await turn.wait()
            with pytest.raises((errors.ConnectionClosed, errors.ConnectionBroken)):
                async with thread.rejoin():
                    pytest.fail("there is no connection")

        await rejoined.wait()
        await (codex.aclose() if how == "closed" else server.hang_up())


async def test_a_turn_that_ends_while_the_client_closes_is_lost():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await resumed(codex, server)
        server.take_over("thread/turns/list")

        @nursery.start_soon
        async def _():
            with pytest.raises(errors.TurnLost, match="it ended"):
                async with thread.rejoin() as turn:
                    await turn.wait()

        await settle()
        await server.end_turn()
        await server.expect("thread/turns/list")
        await codex.aclose()
