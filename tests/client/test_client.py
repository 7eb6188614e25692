"""Requests about the server as a whole, and threads as scopes, against a scripted server."""

from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from trio_codex import CodexConfig, Policy, TurnStatus, errors, policies
from trio_codex._session import listeners as _listeners
from trio_codex.binary import TESTED
from trio_codex.testing import fake_codex
from trio_codex.tools import tool


@asynccontextmanager
async def scripted(config=None):
    with trio.fail_after(5):
        async with fake_codex(config) as both:
            yield both


async def test_the_handshake_sends_the_clients_name_and_parses_the_servers_version():
    async with scripted() as (codex, server):
        assert codex.metadata.server_version == TESTED[1]
        assert codex.pid is None
        await trio.testing.wait_all_tasks_blocked()
        assert server.notified == ["initialized"]
        assert TESTED[1] in repr(codex)


async def test_any_request_can_be_sent_and_returns_plain_json():
    async with scripted() as (codex, server):
        server.give("some/newMethod", {"anything": [1, None]})
        assert await codex.request("some/newMethod", {"x": 1}) == {"anything": [1, None]}


async def test_a_method_that_the_server_lacks_raises_unsupported_method():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:

        async def body():
            with pytest.raises(errors.UnsupportedMethod) as caught:
                await codex.request("some/newMethod")
            assert len(str(caught.value)) < 700

        nursery.start_soon(body)
        asked = await server.expect("some/newMethod")
        assert asked.params == {}
        await asked.refuse("Invalid request: unknown variant `some/newMethod`, expected one of " + "x" * 5000)


@pytest.mark.parametrize("version", ["0.160.0", "0.163.0", "0.163.5-alpha.1"])
async def test_a_method_that_is_newer_than_the_server_is_refused_before_it_is_sent(version):
    with trio.fail_after(5):
        async with fake_codex(version=version) as (codex, _):
            with pytest.raises(errors.UnsupportedMethod) as caught, trio.testing.assert_checkpoints():
                await codex.api.thread.sample_cancel(request_id="1")
            assert (caught.value.method, caught.value.since) == ("thread/sample/cancel", "0.164.0")
            assert str(caught.value) == (
                f"thread/sample/cancel: needs codex 0.164.0 or later; this server is {version} (-32600)"
            )


@pytest.mark.parametrize("version", ["0.164.0-alpha.1", "0.164.0", "0.165.1", "1.0.0", "0.0.0", "unknown"])
async def test_a_method_that_the_server_may_have_is_sent(version):
    with trio.fail_after(5):
        async with fake_codex(version=version) as (codex, server):
            server.give("thread/sample/cancel", {})
            await codex.api.thread.sample_cancel(request_id="1")


async def test_a_plain_request_is_sent_whatever_the_version_of_the_server():
    with trio.fail_after(5):
        async with fake_codex(version="0.160.0") as (codex, server):
            server.give("thread/sample/cancel", {})
            assert await codex.request("thread/sample/cancel", {"requestId": "1"}) == {}


async def test_an_invalid_result_is_reported_with_its_path():
    async with scripted() as (codex, server):
        server.give("model/list", {"data": "not a list"})
        with pytest.raises(errors.DecodeError) as caught:
            await codex.models()
        assert caught.value.what == "model/list"
        assert caught.value.path == "$.data"


@pytest.mark.parametrize(
    ("opening", "method", "undo", "thread_id"),
    [
        (lambda codex: codex.thread_start(), "thread/start", "thread/delete", "thread-1"),
        (lambda codex: codex.thread_resume("thread-1"), "thread/resume", "thread/unsubscribe", "thread-1"),
        (lambda codex: codex.thread_fork("thread-1"), "thread/fork", "thread/delete", "thread-2"),
        (
            lambda codex: codex.thread_start(ephemeral=True),
            "thread/start",
            "thread/unsubscribe",
            "thread-1",
        ),
        (
            lambda codex: codex.thread_fork("thread-1", ephemeral=True),
            "thread/fork",
            "thread/unsubscribe",
            "thread-2",
        ),
    ],
    ids=["start", "resume", "fork", "ephemeral start", "ephemeral fork"],
)
async def test_opening_a_thread_is_undone_if_cancelled(opening, method, undo, thread_id):
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        opened = server._defaults[method]
        server.take_over(method, undo)
        scope = trio.CancelScope()

        async def body():
            with scope:
                await opening(codex)

        nursery.start_soon(body)
        asked = await server.expect(method)
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert not scope.cancelled_caught
        await asked.answer(opened)
        asked = await server.expect(undo)
        assert asked.params == {"threadId": thread_id}
        await asked.answer({"status": "unsubscribed"} if undo == "thread/unsubscribe" else {})
        await trio.testing.wait_all_tasks_blocked()
        assert scope.cancelled_caught


async def test_an_opening_answered_right_after_its_cancellation_is_undone_too():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        opened = server._defaults["thread/start"]
        server.take_over("thread/start", "thread/delete")
        scope = trio.CancelScope()

        async def body():
            with scope:
                await codex.thread_start()

        nursery.start_soon(body)
        asked = await server.expect("thread/start")
        scope.cancel()
        # Answer before the cancelled task runs, as if the reader were scheduled first.
        codex._session.connection._take_portion(
            codex._session.router, [msgspec.json.encode({"id": asked.id, "result": opened})]
        )
        await (await server.expect("thread/delete")).answer({})
        await trio.testing.wait_all_tasks_blocked()
        assert scope.cancelled_caught


async def test_a_cancelled_opening_that_the_server_refuses_is_not_undone():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/start", "thread/delete")
        scope = trio.CancelScope()

        async def body():
            with scope:
                await codex.thread_start()

        nursery.start_soon(body)
        asked = await server.expect("thread/start")
        scope.cancel()
        await asked.refuse("no")
        await trio.testing.wait_all_tasks_blocked()
        assert scope.cancelled_caught
        assert server.unexpected() == []


async def test_a_refused_opening_raises_once_and_is_not_undone():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/start")
        caught = []

        async def body():
            with pytest.raises(errors.InvalidRequestError) as refused:
                await codex.thread_start()
            caught.append(refused)

        nursery.start_soon(body)
        await (await server.expect("thread/start")).refuse("no")
        await trio.testing.wait_all_tasks_blocked()
        assert [entry.name for entry in caught[0].traceback].count("answer") == 1


async def test_conflicting_tools_are_refused_before_a_thread_is_unarchived():
    @tool
    async def twice() -> str:
        """Do it twice."""
        await trio.lowlevel.checkpoint()
        return ""

    async with scripted() as (codex, server):
        with pytest.raises(ValueError, match="two tools are named twice"):
            await codex.thread_unarchive("thread-1", tools=[twice, twice])
        assert server.unexpected() == []


async def test_leaving_a_thread_ends_its_turn_cleans_its_terminals_and_unsubscribes():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/backgroundTerminals/clean", "thread/unsubscribe")
        turns = []

        leave = trio.Event()

        async def run(thread):
            async with thread.turn("hi") as turn:
                turns.append(turn)
                await turn.wait()

        async def body():
            async with await codex.thread_start() as thread:
                nursery.start_soon(run, thread)
                await leave.wait()
            with pytest.raises(errors.ThreadClosed) as caught:
                await thread.run("again")
            assert caught.value.thread_id == thread.id
            assert "closed" in repr(thread)
            async with await codex.thread_resume(thread.id):
                pass

        nursery.start_soon(body)
        await server.accept_turn()
        await trio.testing.wait_all_tasks_blocked()
        leave.set()
        await (await server.expect("turn/interrupt")).answer({})
        await server.end_turn(status="interrupted")
        await (await server.expect("thread/backgroundTerminals/clean")).answer({})
        await (await server.expect("thread/unsubscribe")).answer({"status": "unsubscribed"})
        await (await server.expect("thread/backgroundTerminals/clean")).answer({})
        await (await server.expect("thread/unsubscribe")).refuse("thread not found")
    assert turns[0].result.status is TurnStatus.interrupted


async def test_leaving_a_thread_that_was_unloaded_sends_nothing():
    async with scripted() as (codex, server):
        server.take_over("thread/backgroundTerminals/clean", "thread/unsubscribe")
        async with await codex.thread_start() as thread:
            await server.notify(
                "thread/status/changed", {"threadId": thread.id, "status": {"type": "notLoaded"}}
            )
            await trio.testing.wait_all_tasks_blocked()
        assert server.unexpected() == []


async def test_leaving_a_thread_that_was_unloaded_and_opened_again_cleans_it():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/backgroundTerminals/clean", "thread/unsubscribe")

        @nursery.start_soon
        async def body():
            async with await codex.thread_start() as thread:
                await server.notify(
                    "thread/status/changed", {"threadId": thread.id, "status": {"type": "notLoaded"}}
                )
                await trio.testing.wait_all_tasks_blocked()
                async with await codex.thread_resume(thread.id):
                    pass

        await (await server.expect("thread/backgroundTerminals/clean")).answer({})
        await (await server.expect("thread/unsubscribe")).answer({"status": "unsubscribed"})


async def test_leaving_one_handle_does_not_affect_another_handle_of_the_thread():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/unsubscribe")
        thread = await codex.thread_start()
        async with await codex.thread_resume(thread.id):
            pass
        assert server.unexpected() == []
        nursery.start_soon(thread.run, "hi")
        await server.accept_turn()
        await server.end_turn()
        await trio.testing.wait_all_tasks_blocked()
        # The last handle closes.
        nursery.start_soon(enter_and_leave, thread)
        await (await server.expect("thread/unsubscribe")).answer({"status": "unsubscribed"})


async def enter_and_leave(thread):
    async with thread:
        pass


async def test_no_turn_starts_on_a_thread_that_was_unsubscribed_from_until_it_is_resumed():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        await thread.unsubscribe()
        for scope in (thread.turn("hi"), thread.review(), thread.goal("reach it")):
            with pytest.raises(errors.ThreadClosed):
                await enter_and_leave(scope)
        assert server.unexpected() == []
        await codex.thread_resume(thread.id)
        nursery.start_soon(thread.run, "hi")
        await server.accept_turn()
        await server.end_turn()


async def test_a_second_handle_does_not_inherit_policy_or_tools_from_the_first():
    @tool
    async def look_up() -> str:
        """Look it up."""
        await trio.lowlevel.checkpoint()
        return "found"

    async def lax(_):
        await trio.lowlevel.checkpoint()
        return policies.accept()

    where = {"threadId": "thread-1", "turnId": "turn-1"}
    question = {**where, "itemId": "c1", "startedAtMs": 0, "command": "rm", "cwd": "/"}
    with trio.fail_after(5):
        async with fake_codex(policy=Policy(command=lax)) as (codex, server), trio.open_nursery() as nursery:
            thread = await codex.thread_start(policy=policies.decline_all, tools=[look_up])
            await codex.thread_resume(thread.id)
            nursery.start_soon(thread.run, "hi")
            await server.accept_turn()
            await server.ask(0, "item/commandExecution/requestApproval", question)
            assert await server.answer_to(0) == {"decision": "decline"}
            call = {**where, "callId": "d1", "namespace": None, "tool": "look_up", "arguments": {}}
            await server.ask(1, "item/tool/call", call)
            assert (await server.answer_to(1))["success"]
            # A new policy replaces the first one.
            await codex.thread_resume(thread.id, policy=Policy(command=lax))
            await server.ask(2, "item/commandExecution/requestApproval", question)
            assert await server.answer_to(2) == {"decision": "accept"}
            await server.end_turn()


async def test_cancelling_a_second_resume_does_not_unsubscribe_the_open_handle():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/resume", "thread/unsubscribe")
        thread = await codex.thread_start()
        scope = trio.CancelScope()

        async def body():
            with scope:
                await codex.thread_resume(thread.id)

        nursery.start_soon(body)
        asked = await server.expect("thread/resume")
        scope.cancel()
        await asked.answer()
        await trio.testing.wait_all_tasks_blocked()
        assert scope.cancelled_caught
        assert server.unexpected() == []


async def test_leaving_a_handle_of_an_agents_thread_keeps_it_subscribed():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/unsubscribe")
        thread = await codex.thread_start()
        nursery.start_soon(thread.run, "hi")
        await server.accept_turn()
        spawn = {
            "type": "collabAgentToolCall", "id": "s", "tool": "spawnAgent", "status": "completed",
            "senderThreadId": "thread-1", "receiverThreadIds": ["child"], "agentsStates": {},
        }  # fmt: skip
        await server.item("completed", spawn)
        opened = server._defaults["thread/resume"]
        server.give("thread/resume", {**opened, "thread": {**opened["thread"], "id": "child"}})
        async with await codex.thread_resume("child"):
            pass
        assert server.unexpected() == []
        await server.end_turn()


@pytest.mark.parametrize("kind", ["turn", "review", "goal"])
async def test_a_scope_created_before_its_thread_closed_cannot_be_entered_afterwards(kind):
    async with scripted() as (codex, server):
        async with await codex.thread_start() as thread:
            scope = {
                "turn": lambda: thread.turn("hi"),
                "review": lambda: thread.review(),
                "goal": lambda: thread.goal("reach it"),
            }[kind]()
        with pytest.raises(errors.ThreadClosed):
            await enter_and_leave(scope)
        assert server.unexpected() == []


async def test_listening_to_a_thread_ends_when_its_scope_exits():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        heard, told = [], trio.Event()

        async def listen(thread):
            async with thread.events() as events:
                heard.append((await events.__anext__()).method)
                with pytest.raises(errors.ThreadClosed):
                    await events.__anext__()
            told.set()

        async with await codex.thread_start() as thread:
            nursery.start_soon(listen, thread)
            await trio.testing.wait_all_tasks_blocked()
            await server.delta("hi")
        await told.wait()
        assert heard == ["item/agentMessage/delta"]


async def test_each_listener_of_a_thread_gets_all_its_events_and_no_others():
    async with scripted() as (codex, server):
        thread = await codex.thread_start()
        async with thread.events() as one, thread.events() as two:
            await server.delta("late", turn_id="long ago")
            await server.delta("elsewhere", thread_id="another")
            await server.notify("thread/name/updated", {"threadId": thread.id, "threadName": "n"})
            for listener in (one, two):
                events = [await listener.__anext__(), await listener.__anext__()]
                assert [event.method for event in events] == [
                    "item/agentMessage/delta",
                    "thread/name/updated",
                ]


async def test_junk_is_reported_and_the_connection_survives():
    async with scripted() as (codex, server), codex.events("trio_codex/junk") as events:
        for line in (b"no json", b"[]", b'{"id":77,"result":{}}', b"\xff\xfe"):
            await server.send_line(line)
        reasons = [(await events.__anext__()).raw["reason"] for _ in range(4)]
        assert reasons == [
            "not JSON",
            "not a JSON-RPC message",
            "a response to an unknown request",
            "not JSON",
        ]
        server.give("model/list", {"data": []})
        await codex.models()


async def test_an_unread_event_without_a_thread_goes_to_the_first_listener():
    async with scripted() as (codex, server):
        await server.notify("configWarning", {"summary": "one"})
        await server.notify("account/updated", {"authMode": None})
        await server.delta("of a thread")
        await trio.testing.wait_all_tasks_blocked()
        async with codex.events("configWarning") as warnings, codex.events() as rest:
            await server.notify("configWarning", {"summary": "two"})
            assert [(await warnings.__anext__()).raw["summary"] for _ in range(2)] == ["one", "two"]
            assert [(await rest.__anext__()).method for _ in range(2)] == ["account/updated", "configWarning"]


async def test_an_event_without_a_listener_is_kept_only_if_it_is_small():
    async with scripted() as (codex, server):
        for size in (_listeners.UNHEARD_BYTES, 10):
            await server.notify("configWarning", {"summary": "x" * size})
        await trio.testing.wait_all_tasks_blocked()
        async with codex.events() as events:
            assert len((await events.__anext__()).raw["summary"]) == 10


async def test_listeners_end_with_the_connection_and_its_cause():
    async with scripted() as (codex, server):
        thread = await codex.thread_start()
        async with codex.events() as everything, thread.events() as of_thread:
            await server.hang_up()
            for listener in (everything, of_thread):
                with pytest.raises(errors.ConnectionBroken):
                    async for _ in listener:
                        pytest.fail("there was no event")


async def test_leaving_the_client_ends_listeners_even_if_the_server_is_silent():
    async with scripted() as (codex, _), trio.open_nursery() as nursery:

        async def listen(events):
            async for _ in events:
                pytest.fail("there was no event")

        async with codex.events() as events:
            nursery.start_soon(listen, events)
            await trio.testing.wait_all_tasks_blocked()


async def test_a_lagging_consumer_gets_merged_text_without_loss():
    async with scripted() as (codex, server):
        thread = await codex.thread_start()
        async with thread.events() as events:
            for number in range(5000):
                await server.delta(f"{number} ")
            await server.notify("thread/name/updated", {"threadId": thread.id})
            await trio.testing.wait_all_tasks_blocked()
            seen = [await events.__anext__()]
            while seen[-1].method != "thread/name/updated":
                seen.append(await events.__anext__())
        *deltas, _ = seen
        assert "".join(event.params.delta for event in deltas) == "".join(
            f"{number} " for number in range(5000)
        )
        assert sum(event.merged for event in deltas) == 5000
        assert len(deltas) < 2000


async def test_a_consumer_of_a_thread_can_select_methods():
    async with scripted() as (codex, server):
        thread = await codex.thread_start()
        async with thread.events("thread/name/updated", "thread/closed") as events:
            for number in range(3):
                await server.delta(f"{number} ")
                await server.notify("thread/name/updated", {"threadId": thread.id})
            await server.notify("thread/name/updated", {"threadId": "another"})
            await server.notify("thread/closed", {"threadId": thread.id})
            seen = [(await events.__anext__()).method for _ in range(4)]
        assert seen == ["thread/name/updated"] * 3 + ["thread/closed"]
        async with thread.events("turn/completed") as events:
            await server.hang_up()
            with pytest.raises(errors.ConnectionBroken):
                await events.__anext__()


async def test_unknown_values_of_a_newer_server_do_not_raise_and_keep_their_json():
    async with scripted() as (codex, server), codex.events() as events:
        await server.notify("thread/somethingNew", {"threadId": "t", "x": 1})
        event = await events.__anext__()
        assert type(event.params).__name__ == "UnknownNotification"
        assert event.raw == {"threadId": "t", "x": 1}
        item = {"type": "newKind", "id": "i", "what": [1]}
        await server.notify(
            "item/completed", {"threadId": "t", "turnId": "u", "item": item, "completedAtMs": 1, "new": 2}
        )
        event = await events.__anext__()
        assert event.params.item.tag == "newKind"
        assert event.params.item.raw == item
        assert event.raw["new"] == 2
        await server.notify("item/agentMessage/delta", {"threadId": 5, "turnId": None, "turn": 3})
        event = await events.__anext__()
        assert event.params.problem is not None


async def test_a_nullable_field_may_be_missing_from_an_older_server():
    async with scripted() as (codex, server):
        opened = server._defaults["thread/start"]
        older = {name: value for name, value in opened["thread"].items() if name != "projectId"}
        server.give("thread/start", {**opened, "thread": older})
        assert (await codex.thread_start()).info.project_id is None


async def test_closing_ends_open_turns_of_other_tasks():
    async with scripted(CodexConfig(stop_grace=1)) as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        results = []

        async def run():
            async with thread.turn("hi") as turn:
                results.append(await turn.wait())

        nursery.start_soon(run)
        await server.accept_turn()
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(codex.aclose)
        await (await server.expect("turn/interrupt")).answer({})
        await server.end_turn(status="interrupted")
        await trio.testing.wait_all_tasks_blocked()
        assert [result.status for result in results] == [TurnStatus.interrupted]
        with pytest.raises(errors.ConnectionClosed):
            await thread.run("again")


@pytest.mark.parametrize("kind", ["turn", "goal", "watch", "events", "thread"])
async def test_another_tasks_scope_may_exit_after_the_client(kind):
    goal = {
        "threadId": "thread-1", "objective": "reach it", "tokensUsed": 0, "timeUsedSeconds": 0,
        "createdAt": 0, "updatedAt": 0,
    }  # fmt: skip
    entered, leave = trio.Event(), trio.Event()

    async def linger(scope):
        async with scope:
            entered.set()
            await leave.wait()

    async with trio.open_nursery() as others:
        async with scripted() as (codex, server):
            server.give("thread/goal/clear", {"cleared": False})
            server.give("fs/watch", {"path": "/"})
            thread = await codex.thread_start()
            scope = {
                "turn": lambda: thread.turn("hi"),
                "goal": lambda: thread.goal("reach it"),
                "watch": lambda: codex.watch("/"),
                "events": lambda: thread.events(),
                "thread": lambda: thread,
            }[kind]()
            others.start_soon(linger, scope)
            if kind == "turn":
                await server.accept_turn()
            elif kind == "goal":
                await (await server.expect("thread/goal/set")).answer({"goal": {**goal, "status": "active"}})
                await server.start_turn()
            await entered.wait()
            others.start_soon(codex.aclose)
            if kind == "goal":
                await (await server.expect("thread/goal/set")).answer({"goal": {**goal, "status": "paused"}})
            if kind in ("turn", "goal"):
                await (await server.expect("turn/interrupt")).answer({})
                await server.end_turn(status="interrupted")
            await codex.wait_closed()
        leave.set()
