"""``waiting_on`` of silent turns, and the idle limit, which applies only to unexplained silence."""

from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_codex import Policy, TurnStatus, WaitingOn, errors, policies
from trio_codex.testing import fake_codex

COMMAND = {"type": "commandExecution", "id": "c1", "command": "sleep 9", "cwd": "/", "status": "inProgress"}
MESSAGE = {"type": "agentMessage", "id": "m1", "text": ""}
ASKED = {"threadId": "thread-1", "turnId": "turn-1", "itemId": "c1", "startedAtMs": 0, "command": "rm"}
WAITING = {"type": "active", "activeFlags": ["waitingOnApproval"]}
ACTIVE = {"type": "active", "activeFlags": []}
LIMIT = 60
AGES = 10_000


class Bench:
    """An open turn and its server."""

    def __init__(self, server, nursery):
        self.server = server
        self.nursery = nursery
        self.turn = None
        self.error = None
        self.ended = trio.Event()

    async def open(self, thread, **options):
        opened = trio.Event()

        async def body():
            try:
                async with thread.turn("hi", **options) as self.turn:
                    opened.set()
                    await self.turn.wait()
            except errors.CodexError as exc:
                self.error = exc
            self.ended.set()

        self.nursery.start_soon(body)
        await self.server.accept_turn()
        await opened.wait()
        await wait_all_tasks_blocked()

    async def status(self, status, thread_id="thread-1"):
        await self.server.notify("thread/status/changed", {"threadId": thread_id, "status": status})
        await wait_all_tasks_blocked()

    async def item(self, phase, item, **where):
        await self.server.item(phase, item, **where)
        await wait_all_tasks_blocked()

    async def finish(self):
        await self.server.end_turn()
        await self.ended.wait()

    async def be_interrupted(self):
        await (await self.server.expect("turn/interrupt")).answer({})
        await self.server.end_turn(status="interrupted")
        await self.ended.wait()


@asynccontextmanager
async def bench(*, policy=None, **options):
    with trio.fail_after(AGES):
        async with fake_codex(policy=policy) as (codex, server), trio.open_nursery() as nursery:
            one = Bench(server, nursery)
            await one.open(await codex.thread_start(), **options)
            yield one


class Parked:
    """A policy that waits for a gate, and counts its requests."""

    def __init__(self):
        self.gate = trio.Event()
        self.policy = Policy(command=self.wait)

    async def wait(self, _):
        await self.gate.wait()
        return policies.accept()


async def test_a_turn_waits_for_the_model_unless_something_else_is_pending(autojump_clock):
    async with bench() as one:
        assert one.turn.waiting_on is WaitingOn.model
        await one.item("started", MESSAGE)
        assert one.turn.waiting_on is WaitingOn.model
        await one.item("started", COMMAND)
        assert one.turn.waiting_on is WaitingOn.tool
        await one.item("completed", {**COMMAND, "status": "completed"})
        assert one.turn.waiting_on is WaitingOn.model
        await one.finish()
        assert one.turn.waiting_on is None


async def test_a_pending_approval_takes_precedence_over_its_tool(autojump_clock):
    parked = Parked()
    async with bench(policy=parked.policy) as one:
        await one.item("started", COMMAND)
        await one.status(WAITING)
        await one.server.ask(0, "item/commandExecution/requestApproval", ASKED)
        await wait_all_tasks_blocked()
        assert one.turn.waiting_on is WaitingOn.approval
        parked.gate.set()
        await one.server.answer_to(0)
        await one.status(ACTIVE)
        assert one.turn.waiting_on is WaitingOn.tool
        await one.finish()


async def test_an_approval_that_the_server_never_requested_is_distinguished(autojump_clock):
    async with bench() as one:
        await one.item("started", COMMAND)
        await one.status(WAITING)
        assert one.turn.waiting_on is WaitingOn.unseen_approval
        await one.status(ACTIVE)
        assert one.turn.waiting_on is WaitingOn.tool
        await one.finish()


@pytest.mark.parametrize(
    "status", [None, "active", {"activeFlags": "waitingOnApproval"}, {"activeFlags": [7]}]
)
async def test_an_invalid_status_is_ignored(autojump_clock, status):
    async with bench() as one:
        await one.status(status)
        assert one.turn.waiting_on is WaitingOn.model
        await one.finish()


async def test_an_agents_waits_and_events_count_for_its_root_turn(autojump_clock):
    spawn = {
        "type": "collabAgentToolCall", "id": "a1", "tool": "spawnAgent", "status": "completed",
        "senderThreadId": "thread-1", "receiverThreadIds": ["child"], "agentsStates": {},
    }  # fmt: skip
    async with bench() as one:
        await one.item("started", spawn)
        await one.item("completed", spawn)
        await one.server.start_turn("child-turn", "child")
        await trio.sleep(7)
        await one.item("started", COMMAND, turn_id="child-turn", thread_id="child")
        assert one.turn.waiting_on is WaitingOn.tool
        assert one.turn.last_event_at == trio.current_time()
        await one.status(WAITING, "child")
        assert one.turn.waiting_on is WaitingOn.unseen_approval
        await one.server.end_turn("child-turn", "child")
        await one.finish()


# -- the idle limit ------------------------------------------------------------------------------------------------


async def test_a_silent_model_exceeds_the_idle_limit_and_the_turn_is_interrupted(autojump_clock):
    async with bench(idle_limit=LIMIT) as one:
        silent_since = trio.current_time()
        await one.be_interrupted()
        assert trio.current_time() == pytest.approx(silent_since + LIMIT, abs=1)
        assert one.error.waiting_on == "model"
        assert (one.error.thread_id, one.error.turn_id, one.error.seconds) == ("thread-1", "turn-1", LIMIT)
        assert one.turn.result.status is TurnStatus.interrupted


async def test_a_request_that_nobody_can_answer_exceeds_the_idle_limit(autojump_clock):
    async with bench(idle_limit=LIMIT) as one:
        await one.item("started", COMMAND)
        await one.status(WAITING)
        await one.be_interrupted()
        assert one.error.waiting_on == "unseen approval"


async def test_every_event_restarts_the_idle_limit(autojump_clock):
    async with bench(idle_limit=LIMIT) as one:
        for _ in range(5):
            await trio.sleep(LIMIT - 1)
            await one.server.delta("still here")
        await one.finish()
        assert one.error is None


async def test_a_running_tool_does_not_count_as_idle(autojump_clock):
    async with bench(idle_limit=LIMIT) as one:
        await one.item("started", COMMAND)
        await trio.sleep(50.5 * LIMIT)
        await one.item("completed", {**COMMAND, "status": "completed"})
        await trio.sleep(LIMIT - 1)
        assert one.error is None, "the idle time starts at the end of the tool"
        await one.be_interrupted()
        assert one.error.waiting_on == "model"


async def test_an_agents_pending_request_does_not_count_as_idle(autojump_clock):
    parked = Parked()
    spawn = {
        "type": "collabAgentToolCall", "id": "a1", "tool": "spawnAgent", "status": "completed",
        "senderThreadId": "thread-1", "receiverThreadIds": ["child"], "agentsStates": {},
    }  # fmt: skip
    async with bench(policy=parked.policy, idle_limit=LIMIT) as one:
        await one.item("completed", spawn)
        await one.server.start_turn("child-turn", "child")
        asked = {**ASKED, "threadId": "child", "turnId": "child-turn"}
        await one.server.ask(0, "item/commandExecution/requestApproval", asked)
        await trio.sleep(50.5 * LIMIT)
        parked.gate.set()
        await one.server.answer_to(0)
        answered_at = trio.current_time()
        await (await one.server.expect("turn/interrupt")).answer({})
        await one.server.end_turn(status="interrupted")
        await (await one.server.expect("turn/interrupt")).answer({})
        await one.server.end_turn("child-turn", "child", status="interrupted")
        await one.ended.wait()
        assert trio.current_time() == pytest.approx(answered_at + LIMIT, abs=1)


async def test_a_pending_request_does_not_count_as_idle(autojump_clock):
    parked = Parked()
    async with bench(policy=parked.policy, idle_limit=LIMIT) as one:
        await one.status(WAITING)
        await one.server.ask(0, "item/commandExecution/requestApproval", ASKED)
        await trio.sleep(50.5 * LIMIT)
        parked.gate.set()
        await one.server.answer_to(0)
        answered_at = trio.current_time()
        await one.be_interrupted()
        assert trio.current_time() == pytest.approx(answered_at + LIMIT, abs=1), (
            "the idle time starts at the answer"
        )


@pytest.mark.parametrize("limit", [0, -1, float("nan")])
async def test_an_idle_limit_is_positive(limit):
    async with fake_codex() as (codex, server):
        thread = await codex.thread_start()
        with pytest.raises(ValueError, match="idle_limit"):
            thread.turn("hi", idle_limit=limit)
        assert server.unexpected() == []


async def test_without_a_limit_silence_lasts_forever(autojump_clock):
    async with bench() as one:
        await trio.sleep(AGES / 2)
        assert one.error is None
        await one.finish()


async def test_an_exception_in_the_body_takes_precedence_over_the_idle_limit(autojump_clock):
    with trio.fail_after(AGES):
        async with fake_codex() as (codex, server), trio.open_nursery() as nursery:
            thread = await codex.thread_start()

            async def body():
                with pytest.raises(KeyError, match="mine") as caught:
                    async with thread.turn("hi", idle_limit=LIMIT):
                        try:
                            await trio.sleep_forever()
                        except trio.Cancelled:
                            raise KeyError("mine") from None
                assert "silent for 60 s" in caught.value.__notes__[0]

            nursery.start_soon(body)
            await server.accept_turn()
            await (await server.expect("turn/interrupt")).answer({})
            await server.end_turn(status="interrupted")
