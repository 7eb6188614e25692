"""Messages about a thread that is being opened, which policy decides on them, and cleanup of failed openings."""

import json
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from trio_codex import CodexConfig, DecidedBy, Policy, TurnStatus, attach_codex, errors, policies
from trio_codex._session.held import HELD_BYTES
from trio_codex._session.threads import UNKNOWN_BYTES
from trio_codex.testing import fake_codex, fake_websocket
from trio_codex.testing._fake import DEFAULTS

CONFIG = CodexConfig(interrupt_grace=2, on_stuck_turn="abandon")
OPENED = DEFAULTS["thread/resume"]
COMMAND = "item/commandExecution/requestApproval"
FILE_CHANGE = "item/fileChange/requestApproval"


@asynccontextmanager
async def scripted(config=CONFIG, **options):
    with trio.fail_after(5):
        async with fake_codex(config, **options) as both:
            yield both


def question(thread_id="thread-1", turn_id="turn-1", item_id="c1"):
    return {"threadId": thread_id, "turnId": turn_id, "itemId": item_id, "startedAtMs": 0}


def command(**ids):
    return {**question(**ids), "command": "ls", "cwd": "/"}


def snapshot(turn_id="turn-1", status="inProgress", items=()):
    page = {"data": [{"id": turn_id, "status": status, "items": list(items)}], "nextCursor": None}
    return {**OPENED, "initialTurnsPage": page}


def thread_called(thread_id):
    return {**OPENED, "thread": {**OPENED["thread"], "id": thread_id}}


def deciding(asked, name, answer=policies.accept):
    async def decide(request):
        await trio.lowlevel.checkpoint()
        asked.append((name, request))
        return answer()

    return Policy(command=decide, file_change=decide)


async def send_together(server, *messages):
    await server._own.send_all(b"".join(json.dumps(message).encode() + b"\n" for message in messages))


# -- requests held until the thread is open
# --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["before the answer", "right after the answer"])
async def test_a_request_of_a_thread_being_resumed_goes_to_the_policy_of_the_resume(order):
    asked = []
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/resume")

        @nursery.start_soon
        async def _():
            await codex.thread_resume("thread-1", policy=deciding(asked, "thread"))

        resume = await server.expect("thread/resume")
        answer = {"id": resume.id, "result": snapshot()}
        ask = {"id": 7, "method": COMMAND, "params": command()}
        await send_together(server, *((ask, answer) if order == "before the answer" else (answer, ask)))
        assert await server.answer_to(7) == {"decision": "accept"}
    assert [name for name, _ in asked] == ["thread"]


async def test_a_pending_file_change_contains_the_content_from_the_resume_response():
    asked = []
    change = {"path": "/a", "kind": {"type": "add"}, "diff": "new\n"}
    item = {"type": "fileChange", "id": "p1", "status": "inProgress", "changes": [change]}
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/resume")

        @nursery.start_soon
        async def _():
            await codex.thread_resume("thread-1", policy=deciding(asked, "thread"))

        resume = await server.expect("thread/resume")
        await server.ask(7, FILE_CHANGE, question(item_id="p1"))
        await trio.testing.wait_all_tasks_blocked()
        assert not asked
        await resume.answer(snapshot(items=[item]))
        await server.answer_to(7)
    assert [change.diff for change in asked[0][1].changes] == ["new\n"]


async def test_a_request_withdrawn_while_its_thread_is_being_resumed_reaches_no_policy():
    asked = []
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/resume")

        @nursery.start_soon
        async def _():
            await codex.thread_resume("thread-1", policy=deciding(asked, "thread"))

        resume = await server.expect("thread/resume")
        await server.ask(7, COMMAND, command())
        await server.notify("serverRequest/resolved", {"threadId": "thread-1", "requestId": 7})
        await resume.answer(snapshot())
        await trio.testing.wait_all_tasks_blocked()
        assert (asked, server.answers) == ([], {})
        assert [record.outcome for record in codex.decisions] == ["withdrawn"]


@pytest.mark.parametrize("method", ["thread/start", "thread/fork"])
async def test_a_request_of_a_new_thread_waits_until_the_threads_id_is_known(method):
    asked = []
    async with scripted(policy=deciding(asked, "client", policies.decline)) as (codex, server):
        if method == "thread/fork":
            parent = await codex.thread_start()
        async with trio.open_nursery() as nursery:
            server.take_over(method)

            @nursery.start_soon
            async def _():
                policy = deciding(asked, "thread")
                if method == "thread/fork":
                    await parent.fork(policy=policy)
                else:
                    await codex.thread_start(policy=policy)

            opening = await server.expect(method)
            await server.ask(7, COMMAND, command(thread_id="new"))
            await server.ask(8, COMMAND, command(thread_id="stranger"))
            await trio.testing.wait_all_tasks_blocked()
            assert server.answers == {}
            await opening.answer(thread_called("new"))
            assert await server.answer_to(7) == {"decision": "accept"}
            assert await server.answer_to(8) == {"decision": "decline"}
    assert {name: request.thread_id for name, request in asked} == {"thread": "new", "client": "stranger"}


async def test_events_of_other_threads_are_not_held_while_a_thread_is_being_started():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        server.take_over("thread/start")
        async with thread.events() as events:
            nursery.start_soon(codex.thread_start)
            opening = await server.expect("thread/start")
            await server.delta("text")
            assert (await events.__anext__()).method == "item/agentMessage/delta"

            @nursery.start_soon
            async def _():
                with pytest.raises(ZeroDivisionError):
                    async with thread.turn("hi") as turn:
                        await turn._state.started.wait()
                        while "child" not in turn.children:
                            await trio.testing.wait_all_tasks_blocked()
                        raise ZeroDivisionError

            await server.accept_turn()
            child = {"id": "turn-c", "rootTurnId": "turn-1", "items": [], "status": "inProgress"}
            await server.notify("turn/started", {"threadId": "child", "turn": child})
            for thread_id, turn_id in (("thread-1", "turn-1"), ("child", "turn-c")):
                interrupt = await server.expect("turn/interrupt")
                assert interrupt.params == {"threadId": thread_id, "turnId": turn_id}
                await interrupt.answer({})
                await server.end_turn(turn_id, thread_id, status="interrupted")
            await opening.answer(thread_called("thread-2"))


async def test_held_messages_are_bounded_in_bytes_and_ended_turns_are_not_open():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/resume")
        threads = []

        @nursery.start_soon
        async def _():
            threads.append(await codex.thread_resume("thread-1"))

        resume = await server.expect("thread/resume")
        await server.end_turn("turn-9")
        await server.delta("x" * (HELD_BYTES // 2), turn_id="turn-9")
        await server.delta("x" * (HELD_BYTES // 2), turn_id="turn-9")
        await trio.testing.wait_all_tasks_blocked()
        assert codex._session.router._openings._bytes <= HELD_BYTES
        await resume.answer(snapshot("turn-9"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(threads[0].run, "hi")
        await server.accept_turn()
        await server.end_turn()


NOT_STORED = [(-32601, "list_turns is not supported yet"), (-32603, "failed to read: rollout.jsonl is empty")]


@pytest.mark.parametrize(("code", "message"), NOT_STORED)
async def test_a_resume_waits_until_the_first_turn_of_another_client_is_stored(code, message, autojump_clock):
    asked = []
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/resume")

        @nursery.start_soon
        async def _():
            async with await codex.thread_resume("thread-1", policy=deciding(asked, "thread")):
                await server.answer_to(7)

        for _ in range(3):
            await (await server.expect("thread/resume")).refuse(message, code)
        resume = await server.expect("thread/resume")
        await server.ask(7, COMMAND, command())
        await resume.answer(OPENED)
    assert [name for name, _ in asked] == ["thread"]


@pytest.mark.parametrize(("code", "message"), [*NOT_STORED, (-32603, "disk full")])
async def test_a_resume_that_stays_refused_raises_within_a_second(code, message, autojump_clock):
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/resume")
        began = trio.current_time()

        @nursery.start_soon
        async def _():
            with pytest.raises(errors.RpcError, match=message):
                await codex.thread_resume("thread-1")
            assert trio.current_time() - began < 1
            nursery.cancel_scope.cancel()

        tries = 0
        while True:
            await (await server.expect("thread/resume")).refuse(message, code)
            tries += 1
            assert tries == 1 or "disk" not in message


@pytest.mark.parametrize("end", ["refused", "cancelled"])
async def test_a_failed_resume_drops_its_policy_and_held_messages(end):
    asked = []
    async with scripted(policy=deciding(asked, "client")) as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/resume")
        scope = trio.CancelScope()

        @nursery.start_soon
        async def _():
            with scope:
                with pytest.raises(errors.ThreadInUse if end == "refused" else trio.Cancelled):
                    await codex.thread_resume("thread-1", policy=deciding(asked, "thread"))
                await trio.lowlevel.checkpoint_if_cancelled()

        resume = await server.expect("thread/resume")
        await server.ask(7, COMMAND, command())
        if end == "refused":
            await resume.refuse("thread thread-1 already has an active writer")
        else:
            scope.cancel()
            await resume.answer(OPENED)
        await server.answer_to(7)
        assert [name for name, _ in asked] == ["client"]
        assert codex._session.threads.find("thread-1") is None
        assert not codex._session.router._openings


# -- a turn that is already running
# --------------------------------------------------------------------------------------


async def test_a_turn_in_progress_in_a_resume_response_blocks_new_turns_until_it_has_ended():
    async with scripted() as (codex, server):
        server.give("thread/resume", snapshot("turn-a"))
        thread = await codex.thread_resume("thread-1")
        with pytest.raises(errors.TurnActive) as caught:
            await thread.run("hi")
        assert caught.value.turn_id == "turn-a"
        await server.end_turn("turn-a")
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(thread.run, "hi")
            await server.accept_turn()
            await server.end_turn()


async def test_a_start_answered_with_another_clients_turn_raises_and_does_not_end_that_turn():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        # A turn that is about to start appears like this.
        server.give("thread/resume", snapshot("turn-a", "interrupted"))
        thread = await codex.thread_resume("thread-1")

        @nursery.start_soon
        async def _():
            with pytest.raises(errors.TurnActive, match="turn-a"):
                await thread.run("hi")
            with pytest.raises(errors.TurnActive, match="turn-a"):
                await thread.run("again")

        await server.accept_turn("turn-a")
        await trio.testing.wait_all_tasks_blocked()
        assert server.unexpected() == []


async def test_a_turn_that_ended_while_unsubscribed_ends_when_the_thread_is_resumed():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        @nursery.start_soon
        async def _():
            assert (await thread.run("hi")).status is TurnStatus.completed

        await server.accept_turn()
        await trio.testing.wait_all_tasks_blocked()
        await thread.unsubscribe()
        server.give("thread/resume", snapshot(status="completed"))
        await codex.thread_resume("thread-1")


async def test_without_the_experimental_api_the_whole_history_is_requested_but_not_kept():
    history = [{"id": "turn-a", "status": "inProgress", "items": []}]
    async with (
        scripted(CodexConfig(experimental_api=False)) as (codex, server),
        trio.open_nursery() as nursery,
    ):
        server.take_over("thread/resume")
        threads = []

        @nursery.start_soon
        async def _():
            threads.append(await codex.thread_resume("thread-1"))

        resume = await server.expect("thread/resume")
        assert resume.params == {"threadId": "thread-1", "excludeTurns": False}
        await resume.answer({**OPENED, "thread": {**OPENED["thread"], "turns": history}})
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(errors.TurnActive):
            await threads[0].run("hi")
        assert not threads[0].info.turns


# -- several handles, several clients ------------------------------------------------------------------------------


async def test_leaving_an_idle_handle_does_not_end_work_of_another_handle():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/backgroundTerminals/clean", "thread/unsubscribe")
        first = await codex.thread_start()
        second = await codex.thread_resume(first.id)

        @nursery.start_soon
        async def _():
            assert (await second.run("hi")).status is TurnStatus.completed

        await server.accept_turn()
        async with first:
            pass
        assert server.unexpected() == []
        await server.end_turn()


async def test_a_pending_resume_keeps_the_thread_subscribed_when_its_only_handle_closes():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        server.take_over("thread/resume", "thread/backgroundTerminals/clean", "thread/unsubscribe")
        nursery.start_soon(codex.thread_resume, thread.id)
        resume = await server.expect("thread/resume")
        async with thread:
            pass
        assert server.unexpected() == []
        await resume.answer(OPENED)


@pytest.mark.parametrize("end", ["refused", "cancelled before it was sent"])
async def test_a_resume_that_fails_closes_the_thread_if_its_only_handle_was_closed_meanwhile(end):
    refused = end == "refused"
    config = CodexConfig(request_window=64 if refused else 1)
    async with scripted(config) as (codex, server), trio.open_nursery() as nursery:
        thread, scope = await codex.thread_start(), trio.CancelScope()
        server.take_over("thread/resume", "thread/backgroundTerminals/clean", "thread/unsubscribe")

        async def resume():
            with scope, pytest.raises(errors.InvalidRequestError):
                await codex.thread_resume(thread.id)

        if not refused:
            nursery.start_soon(codex.models)
            models = await server.expect("model/list")
        nursery.start_soon(resume)
        await trio.testing.wait_all_tasks_blocked()
        async with thread:
            pass
        if refused:
            await (await server.expect("thread/resume")).refuse("no")
        else:
            scope.cancel()
        await (await server.expect("thread/backgroundTerminals/clean")).answer({})
        await (await server.expect("thread/unsubscribe")).answer({"status": "unsubscribed"})
        if not refused:
            await models.answer({"data": [], "nextCursor": None})


async def test_of_two_resumes_that_are_undone_the_last_one_unsubscribes():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/resume", "thread/unsubscribe")
        one, other = trio.CancelScope(), trio.CancelScope()

        async def resume(scope):
            with scope:
                await codex.thread_resume("thread-1")

        nursery.start_soon(resume, one)
        first = await server.expect("thread/resume")
        nursery.start_soon(resume, other)
        second = await server.expect("thread/resume")
        one.cancel()
        await first.answer(OPENED)
        await trio.testing.wait_all_tasks_blocked()
        assert server.unexpected() == []
        other.cancel()
        await second.refuse("no")
        await (await server.expect("thread/unsubscribe")).answer({"status": "unsubscribed"})


async def test_a_resume_waits_for_the_response_to_an_earlier_unsubscribe():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        server.take_over("thread/resume", "thread/unsubscribe")

        @nursery.start_soon
        async def _():
            async with thread:
                pass

        unsubscribe = await server.expect("thread/unsubscribe")
        nursery.start_soon(codex.thread_resume, thread.id)
        await trio.testing.wait_all_tasks_blocked()
        assert server.unexpected() == []
        await unsubscribe.answer({"status": "unsubscribed"})
        await (await server.expect("thread/resume")).answer(OPENED)


async def test_a_thread_unsubscribed_during_a_pending_resume_starts_no_turn():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        server.take_over("thread/resume")
        nursery.start_soon(codex.thread_resume, thread.id)
        resume = await server.expect("thread/resume")
        await thread.unsubscribe()
        await resume.answer(OPENED)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(errors.ThreadClosed):
            await thread.run("hi")


async def test_on_a_shared_server_requests_from_another_clients_turn_are_left_to_that_client():
    asked = []
    async with scripted(policy=deciding(asked, "client")) as (codex, server):
        server.give("thread/resume", snapshot("turn-a"))
        await codex.thread_resume("thread-1")
        await server.ask(7, COMMAND, command(turn_id="turn-a"))
        await server.ask(8, "item/tool/call", {**question(turn_id="turn-a"), "callId": "d", "tool": "theirs"})
        await server.ask(9, "item/unheardOf", question(turn_id="turn-a"))
        await trio.testing.wait_all_tasks_blocked()
        assert (asked, server.answers) == ([], {})
        left = [(record.decided_by, record.outcome) for record in codex.decisions]
        assert left == [(DecidedBy.others, "left")] * 3
        # A thread policy is asked, even for a request that is repeated under the same id.
        await codex.thread_resume("thread-1", policy=deciding(asked, "thread"))
        await server.ask(7, COMMAND, command(turn_id="turn-a"))
        assert await server.answer_to(7) == {"decision": "accept"}
    assert [name for name, _ in asked] == ["thread"]


@pytest.mark.parametrize("decides", [True, False], ids=["with a policy", "without a policy"])
async def test_on_a_shared_server_requests_outside_the_clients_turns_are_left_to_others(decides):
    asked = []
    with trio.fail_after(5):
        async with (
            fake_websocket() as (url, server),
            attach_codex(url, policy=deciding(asked, "client") if decides else None) as codex,
        ):
            thread = await codex.thread_start()
            await server.ask(1, COMMAND, command(thread_id="of-others", turn_id="turn-a"))
            await server.ask(2, COMMAND, command(thread_id=thread.id, turn_id="turn-a"))
            await server.ask(3, "item/unheardOf", {"threadId": "of-others"})
            await server.ask(4, "account/chatgptAuthTokens/refresh", {"reason": "unauthorized"})
            await server.ask(5, COMMAND, {"threadId": 5})
            await server.ask(6, COMMAND, [None])
            await codex.request("thread/loaded/list", {})
            left = [(record.decided_by, record.outcome) for record in codex.decisions]
            assert left == [(DecidedBy.others, "left")] * 6
            assert (asked, server.answers) == ([], {})


async def test_on_a_shared_server_the_client_policy_decides_on_requests_without_a_thread():
    async def decide(_):
        return policies.AuthTokens(access_token="a-token", account_id="an-account")

    with trio.fail_after(5):
        async with (
            fake_websocket() as (url, server),
            attach_codex(url, policy=Policy(auth_refresh=decide)),
        ):
            await server.ask(4, "account/chatgptAuthTokens/refresh", {"reason": "unauthorized"})
            assert (await server.answer_to(4))["accessToken"] == "a-token"


async def test_on_its_own_server_a_client_answers_requests_from_unknown_turns():
    asked = []
    async with scripted(policy=deciding(asked, "client")) as (codex, server):
        codex._session.approvals.is_shared = False
        server.give("thread/resume", snapshot("turn-a"))
        await codex.thread_resume("thread-1")
        await server.ask(7, COMMAND, command(turn_id="turn-a"))
        assert await server.answer_to(7) == {"decision": "accept"}


async def test_on_a_shared_server_leaving_a_thread_does_not_end_another_clients_turn():
    async with scripted() as (codex, server):
        server.take_over("turn/interrupt", "thread/backgroundTerminals/clean")
        server.give("thread/resume", snapshot("turn-a"))
        async with await codex.thread_resume("thread-1"):
            pass
        assert server.unexpected() == []
        assert codex._session.threads.find("thread-1") is None


# -- cleanup -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "undo"),
    [
        ("thread/start", "thread/delete"),
        ("thread/fork", "thread/delete"),
        ("thread/resume", "thread/unsubscribe"),
    ],
)
async def test_an_opening_with_an_invalid_response_is_undone(method, undo):
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over(method, undo)

        @nursery.start_soon
        async def _():
            with pytest.raises(errors.DecodeError):
                match method:
                    case "thread/start":
                        await codex.thread_start()
                    case "thread/fork":
                        await codex.thread_fork("thread-1")
                    case _:
                        await codex.thread_resume("thread-1")

        asked = await server.expect(method)
        await server.send({"id": asked.id, "result": {"thread": {"id": "thread-1"}}})
        asked = await server.expect(undo)
        assert asked.params == {"threadId": "thread-1"}
        await asked.answer({"status": "unsubscribed"} if method == "thread/resume" else {})
    assert codex._session.threads.find("thread-1") is None


async def test_turns_of_unopened_threads_use_bounded_memory():
    async with scripted() as (codex, server):
        threads = codex._session.threads
        for number in range(2 * UNKNOWN_BYTES // 2400):
            await server.start_turn("turn-1", f"stranger-{number}")
        await trio.testing.wait_all_tasks_blocked()
        assert threads.find("stranger-0") is None
        assert len(list(threads)) <= UNKNOWN_BYTES // 2400
        # The latest thread is still known, because an item of its parent may name it as an agent.
        latest = threads.find(f"stranger-{number}")
        assert latest.turn.id == "turn-1"
        huge = {"type": "agentMessage", "id": "m", "text": "x" * UNKNOWN_BYTES}
        await server.item("completed", huge, "turn-1", latest.id)
        await trio.testing.wait_all_tasks_blocked()
        assert len(list(threads)) == 0


async def test_agents_of_turns_of_unopened_threads_use_bounded_memory():
    spawn = {
        "type": "collabAgentToolCall",
        "id": "c",
        "tool": "spawnAgent",
        "status": "completed",
        "prompt": "x",
    }
    async with scripted() as (codex, server):
        threads = codex._session.threads
        for number in range(UNKNOWN_BYTES // 2400):
            agents = [f"agent-{number}-{each}" for each in range(5)]
            spawned = {
                "senderThreadId": f"stranger-{number}",
                "receiverThreadIds": agents,
                "agentsStates": {},
            }
            await server.start_turn("turn-1", f"stranger-{number}")
            await server.item("completed", {**spawn, **spawned}, "turn-1", f"stranger-{number}")
            if number % 2:
                await server.start_turn("turn-2", agents[0])
        await trio.testing.wait_all_tasks_blocked()
        assert threads.find("stranger-0") is None
        assert len(list(threads)) <= UNKNOWN_BYTES // 2400
        assert threads.find(agents[-1]).parent is threads.find(f"stranger-{number}").turn
        assert 0 <= threads.unknown._bytes <= UNKNOWN_BYTES


@pytest.mark.parametrize("root", [{"rootTurnId": "review-1"}, {}], ids=["since 0.162", "before"])
@pytest.mark.parametrize("status", ["completed", "interrupted", "failed"])
async def test_a_thread_is_free_after_a_review_although_the_server_lists_it_as_running(root, status):
    runs = {"id": "turn-2", "status": "inProgress", "items": [], **root}
    ended = {
        "id": "review-1",
        "status": status,
        "items": [{"type": "exitedReviewMode", "id": "r", "review": ""}],
    }
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.give(
            "thread/resume", {**OPENED, "initialTurnsPage": {"data": [runs, ended], "nextCursor": None}}
        )
        thread = await codex.thread_resume("thread-1")
        with pytest.raises(errors.NoTurnRuns):
            async with thread.rejoin():
                pass
        nursery.start_soon(thread.run, "hi")
        await server.accept_turn("turn-3")
        await server.end_turn("turn-3")


async def test_a_turn_that_follows_another_is_not_taken_for_a_review_that_has_ended():
    for root in ({"rootTurnId": "turn-2"}, {}):
        runs = {"id": "turn-2", "status": "inProgress", "items": [], **root}
        ended = {"id": "turn-1", "status": "completed", "items": []}
        async with scripted() as (codex, server):
            page = {"data": [runs, ended], "nextCursor": None}
            server.give("thread/resume", {**OPENED, "initialTurnsPage": page})
            thread = await codex.thread_resume("thread-1")
            with pytest.raises(errors.TurnActive):
                await thread.run("hi")


async def test_usage_repeated_on_a_resume_does_not_reopen_an_interrupted_turn():
    async with scripted() as (codex, server):
        server.give("thread/resume", snapshot(status="interrupted"))
        thread = await codex.thread_resume("thread-1")
        total = {"totalTokens": 3, "inputTokens": 2, "outputTokens": 1, "cachedInputTokens": 0}
        usage = {
            "total": {**total, "reasoningOutputTokens": 0},
            "last": {**total, "reasoningOutputTokens": 0},
        }
        await server.notify(
            "thread/tokenUsage/updated",
            {"threadId": "thread-1", "turnId": "turn-1", "tokenUsage": {**usage, "modelContextWindow": None}},
        )
        await codex.request("thread/loaded/list", {})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(thread.run, "go on")
            await server.accept_turn("turn-2")
            await server.end_turn("turn-2")
