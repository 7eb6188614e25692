"""Policies of turns and their agents: which policy is asked, and how callbacks end with their turn."""

import contextvars
import signal
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio

from trio_codex import Policy, errors, policies, wire
from trio_codex._process.pipes import PipeSendStream
from trio_codex.testing import fake_codex
from turns.scripted_turns import COMMAND, QUESTION, scripted, sleep_in_turn


async def test_a_policy_that_raises_denies_the_request_cancels_the_body_and_raises_policy_error():
    async def fail(_):
        raise RuntimeError("boom")

    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        async def body():
            with pytest.raises(errors.PolicyError, match="boom") as caught:
                async with thread.turn("hi", policy=Policy(command=fail)):
                    await trio.sleep_forever()
            assert isinstance(caught.value.__cause__, RuntimeError)

        nursery.start_soon(body)
        await server.accept_turn()
        await server.ask(0, COMMAND, QUESTION)
        assert await server.answer_to(0) == {"decision": "decline"}
        await (await server.expect("turn/interrupt")).answer({})
        await server.end_turn(status="interrupted")


async def test_a_policy_that_returns_an_invalid_value_also_raises_policy_error():
    async def nonsense(_):
        return True

    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        async def body():
            with pytest.raises(errors.PolicyError, match="bool"):
                await thread.run("hi", policy=Policy(command=nonsense))

        nursery.start_soon(body)
        await server.accept_turn()
        await server.ask("a string id", COMMAND, QUESTION)
        assert await server.answer_to("a string id") == {"decision": "decline"}
        await (await server.expect("turn/interrupt")).answer({})
        await server.end_turn(status="interrupted")


async def test_an_exception_in_the_body_takes_precedence_over_a_policy_error_which_becomes_a_note():
    async def fail(_):
        raise RuntimeError("boom")

    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        async def body():
            with pytest.raises(ValueError, match="mine") as caught:
                async with thread.turn("hi", policy=Policy(command=fail)):
                    try:
                        await trio.sleep_forever()
                    finally:
                        raise ValueError("mine")
            assert any("boom" in note for note in caught.value.__notes__)

        nursery.start_soon(body)
        await server.accept_turn()
        await server.ask(0, COMMAND, QUESTION)
        await (await server.expect("turn/interrupt")).answer({})
        await server.end_turn(status="interrupted")


@pytest.mark.parametrize("ending", ["withdrawn", "turn ended", "left"])
async def test_a_pending_policy_is_cancelled_without_an_answer_when(ending):
    outcome = []

    async def park(request):
        assert request.command == "touch x"
        try:
            await trio.sleep_forever()
        finally:
            outcome.append("cancelled")

    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.give("model/list", {"data": []})
        thread = await codex.thread_start(policy=Policy(command=park))
        scope = trio.CancelScope()
        nursery.start_soon(sleep_in_turn, thread, scope)
        await server.accept_turn()
        await server.ask(0, COMMAND, QUESTION)
        await trio.testing.wait_all_tasks_blocked()
        assert (await codex.models()).data == [], "a pending policy delayed something"
        if ending == "withdrawn":
            await server.notify("serverRequest/resolved", {"threadId": "thread-1", "requestId": 0})
        elif ending == "turn ended":
            await server.end_turn()
        else:
            scope.cancel()
            await server.expect("turn/interrupt")
        await trio.testing.wait_all_tasks_blocked()
        assert outcome == ["cancelled"]
        assert server.answers == {}
        if ending != "turn ended":
            scope.cancel()
            if ending == "withdrawn":
                await server.expect("turn/interrupt")
            await server.end_turn(status="interrupted")
        scope.cancel()


async def test_each_field_of_a_policy_falls_back_from_the_turn_to_the_thread_to_the_client():
    def says(decision):
        async def callback(_):
            return decision

        return callback

    client = Policy(command=says(policies.cancel()), file_change=says(policies.accept("session")))
    async with scripted(policy=client) as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start(policy=Policy(command=says(policies.accept())))
        nursery.start_soon(thread.run, "hi")
        await server.accept_turn()
        await server.ask(1, COMMAND, QUESTION)
        assert await server.answer_to(1) == {"decision": "accept"}
        await server.ask(2, "item/fileChange/requestApproval", QUESTION)
        assert await server.answer_to(2) == {"decision": "acceptForSession"}
        await server.ask(3, COMMAND, {**QUESTION, "threadId": "not a thread of this client"})
        assert await server.answer_to(3) == {"decision": "cancel"}
        await server.end_turn()


async def test_a_file_change_request_includes_the_changes_from_its_item():
    shown = []

    async def look(request):
        shown.extend(request.changes)
        return policies.accept()

    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        nursery.start_soon(lambda: thread.run("hi", policy=Policy(file_change=look)))
        await server.accept_turn()
        change = {"path": "/new.txt", "kind": {"type": "add"}, "diff": "new line\n"}
        await server.item(
            "started", {"type": "fileChange", "id": "c1", "changes": [change], "status": "inProgress"}
        )
        await server.ask(0, "item/fileChange/requestApproval", QUESTION)
        assert await server.answer_to(0) == {"decision": "accept"}
        await server.end_turn()
    assert shown == [
        wire.FileUpdateChange(path="/new.txt", kind=wire.AddPatchChangeKind(), diff="new line\n")
    ]


async def test_an_agents_requests_go_to_the_policy_of_its_parent_turn():
    async def allow(_):
        return policies.accept()

    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        nursery.start_soon(lambda: thread.run("hi", policy=Policy(command=allow)))
        await server.accept_turn()
        spawn = {
            "type": "collabAgentToolCall", "id": "s", "tool": "spawnAgent", "status": "completed",
            "senderThreadId": "thread-1", "receiverThreadIds": ["child"], "agentsStates": {},
        }  # fmt: skip
        await server.item("completed", spawn)
        await server.start_turn("child-turn", "child")
        await server.ask(0, COMMAND, {**QUESTION, "threadId": "child", "turnId": "child-turn"})
        assert await server.answer_to(0) == {"decision": "accept"}
        await server.end_turn()
        await trio.testing.wait_all_tasks_blocked()
        # Even after the parent has ended, the request must be answered, and the lineage still identifies the policy.
        await server.ask(1, COMMAND, {**QUESTION, "threadId": "child", "turnId": "child-turn"})
        assert await server.answer_to(1) == {"decision": "accept"}


def spawning(*children):
    return {
        "type": "collabAgentToolCall", "id": "s", "tool": "spawnAgent", "status": "completed",
        "senderThreadId": "thread-1", "receiverThreadIds": list(children), "agentsStates": {},
    }  # fmt: skip


AROUND = contextvars.ContextVar("AROUND", default="nothing")


@asynccontextmanager
async def asking_agent(policy, method=COMMAND, params=None):
    """Yield a turn in which an agent has sent a request, answered or not."""
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        left = trio.Event()
        turn_scope = trio.CancelScope()

        async def body():
            AROUND.set("the turn")
            with turn_scope:
                async with thread.turn("hi", policy=policy) as turn:
                    await turn.wait()
            left.set()

        nursery.start_soon(body)
        await server.accept_turn()
        await server.item("completed", spawning("child"))
        await server.start_turn("child-turn", "child")
        await server.ask(0, method, {**(params or QUESTION), "threadId": "child", "turnId": "child-turn"})
        await trio.testing.wait_all_tasks_blocked()
        yield SimpleNamespace(codex=codex, server=server, scope=turn_scope, left=left)


async def test_an_agents_request_is_answered_even_if_its_parent_turn_completes_first():
    gate = trio.Event()

    async def allow(_):
        await gate.wait()
        assert AROUND.get() == "the turn"
        return policies.accept()

    async with asking_agent(Policy(command=allow)) as one:
        await one.server.end_turn()
        await one.left.wait()
        assert one.server.answers == {}
        gate.set()
        assert await one.server.answer_to(0) == {"decision": "accept"}


async def test_an_agents_request_ends_with_its_own_turn_while_the_parent_turn_continues():
    cancelled = trio.Event()

    async def carry_out(_):
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    call = {"callId": "d1", "tool": "lookup", "arguments": {}}
    async with asking_agent(Policy(tool_call=carry_out), "item/tool/call", call) as one:
        await one.server.end_turn("child-turn", "child", status="interrupted")
        await cancelled.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert [record.reason for record in one.codex.decisions] == ["its turn ended"]
        assert not one.left.is_set()
        await one.server.end_turn()
    assert one.server.answers == {}


async def test_an_agents_request_is_cancelled_before_the_parent_turns_scope_exits():
    steps = []

    async def wait(request):
        steps.append(f"{request.thread_id} asks")
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
            steps.append("cancelled")

    async with asking_agent(Policy(command=wait)) as one:
        one.scope.cancel()
        asked = await one.server.expect("turn/interrupt")
        assert steps == ["child asks", "cancelled"]
        await one.server.item("completed", spawning("child", "late child"))
        await one.server.start_turn("late-turn", "late child")
        await one.server.ask(1, COMMAND, {**QUESTION, "threadId": "late child", "turnId": "late-turn"})
        await trio.testing.wait_all_tasks_blocked()
        assert steps == ["child asks", "cancelled"]
        await asked.answer({})
        await one.server.end_turn(status="interrupted")
        for thread_id, turn_id in (("child", "child-turn"), ("late child", "late-turn")):
            await (await one.server.expect("turn/interrupt")).answer({})
            await one.server.end_turn(turn_id, thread_id, status="interrupted")
        await one.left.wait()
    assert one.server.answers == {}


async def test_a_failing_callback_for_an_agent_fails_a_parent_turn_that_is_still_running(caplog):
    gate = trio.Event()

    async def fail(_):
        await gate.wait()
        raise RuntimeError("boom")

    async with asking_agent(Policy(command=fail)) as one:
        await one.server.end_turn()
        await one.left.wait()
        gate.set()
        assert await one.server.answer_to(0) == {"decision": "decline"}
    assert ["boom" in record.getMessage() for record in caplog.records] == [True]
    failure = pytest.RaisesExc(errors.PolicyError, match="boom")
    with pytest.RaisesGroup(failure, flatten_subgroups=True):
        async with asking_agent(Policy(command=fail)) as one:
            await (await one.server.expect("turn/interrupt")).answer({})
            await one.server.end_turn(status="interrupted")
            await (await one.server.expect("turn/interrupt")).answer({})
            await one.server.end_turn("child-turn", "child", status="interrupted")
            await trio.sleep_forever()


def test_ctrl_c_during_a_direct_write_leaves_the_line_whole(monkeypatch):
    send_nowait = PipeSendStream.send_nowait

    def write_a_part(self, data):
        if not bytes(data).startswith(b'{"id":') or b"turn/steer" not in bytes(data):
            return send_nowait(self, data)
        sent = send_nowait(self, bytes(data)[:10])
        signal.raise_signal(signal.SIGINT)
        return sent

    monkeypatch.setattr(PipeSendStream, "send_nowait", write_a_part)

    async def main():
        with trio.fail_after(5):
            async with fake_codex(process=True) as (codex, server), trio.open_nursery() as nursery:
                server.give("model/list", {"data": []})
                server.give("turn/steer", {"turnId": "turn-1"})
                thread = await codex.thread_start()
                nursery.start_soon(server.accept_turn)
                async with thread.turn("hi") as turn:
                    with pytest.raises(KeyboardInterrupt):
                        await turn.steer("more")
                    await codex.models()
                    await server.end_turn()
                    await turn.wait()

    trio.run(main)


async def test_a_policy_that_fails_while_its_turn_is_cancelled_is_logged(caplog):
    async def fail_late(_):
        try:
            await trio.sleep_forever()
        finally:
            raise RuntimeError("boom")

    async with scripted(policy=Policy(command=fail_late)) as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        scope = trio.CancelScope()
        nursery.start_soon(sleep_in_turn, thread, scope)
        await server.accept_turn()
        question = {"threadId": "thread-1", "turnId": "turn-1", "itemId": "c1", "startedAtMs": 0}
        await server.ask(0, "item/commandExecution/requestApproval", question)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await (await server.expect("turn/interrupt")).answer({})
        await server.end_turn(status="interrupted")
    assert ["boom" in record.getMessage() for record in caplog.records] == [True]
