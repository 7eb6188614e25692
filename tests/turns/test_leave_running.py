"""Turns that are left running, on a scripted server."""

import pytest
import trio
import trio.testing
from scripted_rejoin import ENDING, OPENED, page, record, resumed, settle, usage
from scripted_turns import COMMAND, QUESTION, accept_interrupt, scripted

from trio_codex import Budget, Policy, errors, policies


@pytest.mark.parametrize("how", ["at once", "by an exception", "cancelled", "by closing the client"])
async def test_a_turn_left_running_is_not_interrupted_and_keeps_its_thread_busy(how):
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        entered = trio.Event()

        @nursery.start_soon
        async def _():
            scope = trio.CancelScope()
            try:
                with scope:
                    async with thread.turn("hi", leave_running=True):
                        entered.set()
                        if how == "by an exception":
                            raise ZeroDivisionError
                        if how == "cancelled":
                            scope.cancel()
                        if how == "by closing the client":
                            await trio.sleep_forever()
                        await trio.lowlevel.checkpoint()
            except ZeroDivisionError:
                assert how == "by an exception"

        await server.accept_turn()
        await entered.wait()
        await settle()
        if how == "by closing the client":
            await codex.aclose()
            nursery.cancel_scope.cancel()
        else:
            with pytest.raises(errors.TurnActive):
                await thread.run("again")
            async with thread:
                pass
        await codex.aclose()
        assert server.unexpected() == []


async def test_a_cancelled_start_is_undone_because_nobody_could_rejoin_the_turn():
    async with scripted(ENDING) as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        scope = trio.CancelScope()

        @nursery.start_soon
        async def _():
            with scope:
                async with thread.turn("hi", leave_running=True):
                    pytest.fail("it has not started")

        start = await server.expect("turn/start")
        scope.cancel()
        await settle()
        await start.answer({"turn": record(status="inProgress")})
        await server.start_turn()
        await accept_interrupt(server, "thread-1", "turn-1")


async def test_exceeding_a_limit_ends_a_turn_despite_leave_running():
    async with scripted(ENDING) as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        @nursery.start_soon
        async def _():
            with pytest.raises(errors.BudgetExceeded):
                async with thread.turn("hi", leave_running=True, budget=Budget(tokens=10)) as turn:
                    await turn.wait()

        await server.accept_turn()
        await server.notify("thread/tokenUsage/updated", usage(20))
        await accept_interrupt(server, "thread-1", "turn-1")


async def test_after_the_scope_exits_only_a_thread_policy_answers_and_only_later_requests():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        asked, accepting = trio.Event(), False

        async def decide(_):
            asked.set()
            while not accepting:
                await trio.sleep_forever()
            return policies.accept()

        thread = await codex.thread_start()
        left = trio.Event()

        @nursery.start_soon
        async def _():
            async with thread.turn("hi", policy=Policy(command=decide), leave_running=True):
                await asked.wait()
            left.set()

        await server.accept_turn()
        await server.ask(1, COMMAND, QUESTION)
        await left.wait()
        await server.ask(2, COMMAND, QUESTION)
        await settle()
        assert server.answers == {}
        assert [record.outcome for record in codex.decisions] == ["withdrawn", "left"]
        accepting = True
        await codex.thread_resume("thread-1", policy=Policy(command=decide))
        await server.ask(3, COMMAND, QUESTION)
        assert await server.answer_to(3) == {"decision": "accept"}


async def test_leave_running_on_an_ephemeral_thread_is_refused_before_anything_is_sent():
    async with scripted() as (codex, server):
        server.give("thread/start", {**OPENED, "thread": {**OPENED["thread"], "ephemeral": True}})
        thread = await codex.thread_start(ephemeral=True)
        with pytest.raises(ValueError, match="ephemeral"):
            thread.turn("hi", leave_running=True)


async def test_rejoining_with_a_handle_whose_scope_exits_meanwhile_raises(autojump_clock):
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/resume")

        async def resume():
            stale = {**OPENED, "initialTurnsPage": page(record("turn-9", "interrupted"))}
            await (await server.expect("thread/resume")).answer(stale)

        nursery.start_soon(resume)
        thread = await codex.thread_resume("thread-1")
        raised = []

        async def rejoin():
            try:
                async with thread.rejoin():
                    raised.append(None)
            except errors.CodexError as exc:
                raised.append(type(exc))

        nursery.start_soon(rejoin)
        await settle()
        await thread.__aexit__(None, None, None)
        await server.start_turn("turn-9")
        await trio.sleep(1)
        assert raised == [errors.ThreadClosed]


SPAWN = {
    "type": "collabAgentToolCall", "id": "i1", "tool": "spawnAgent", "status": "completed", "senderThreadId": "thread-1",
    "receiverThreadIds": ["agent"], "agentsStates": {},
}  # fmt: skip


@pytest.mark.parametrize("turn_id", ["turn-1", "turn-2"])
async def test_an_agent_follows_its_thread_when_that_is_closed_and_opened_again(turn_id):
    async def allow(_):
        await trio.lowlevel.checkpoint()
        return policies.accept()

    policy = Policy(command=allow)
    async with scripted() as (codex, server), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            await server.accept_turn()
            await server.item("completed", SPAWN)
            await server.start_turn("a1", "agent")

        async with await codex.thread_start() as thread, thread.turn("hi", leave_running=True):
            await settle()
        if turn_id == "turn-1":
            thread = await resumed(codex, server, SPAWN)
            server.give("thread/turns/list", page(record(items=[SPAWN])))
            scope = thread.rejoin(policy=policy)
        else:
            thread = await codex.thread_resume("thread-1")
            scope = thread.turn("again", policy=policy)

            @nursery.start_soon
            async def _():
                await server.accept_turn("turn-2")
                await server.item("completed", {**SPAWN, "tool": "sendInput"}, "turn-2")

        async with scope:
            await settle()
            await server.ask(1, COMMAND, {**QUESTION, "threadId": "agent", "turnId": "a1"})
            assert await server.answer_to(1) == {"decision": "accept"}
            await server.end_turn("a1", "agent")
            await server.end_turn(turn_id)
            await settle()
