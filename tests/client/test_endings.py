"""Cleanup requests are repeated until the server accepts them, and a refusal does not skip later steps."""

from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_codex import CodexConfig, Policy, errors, policies
from trio_codex._link.flow import CONTROL_LINES, LINES
from trio_codex.testing import fake_codex, item
from trio_codex.testing._fake import DEFAULTS

BUSY = "Server overloaded; retry later."
GOAL = {
    "threadId": "thread-1", "objective": "x", "status": "active", "createdAt": 0, "updatedAt": 0, "tokensUsed": 0,
    "timeUsedSeconds": 0,
}  # fmt: skip
ENDINGS = {
    "thread_start": ["thread/delete"],
    "thread_resume": ["thread/unsubscribe"],
    "thread": ["thread/backgroundTerminals/clean", "thread/unsubscribe"],
    "watch": ["fs/unwatch"],
    "exec": ["command/exec/terminate"],
    "login": ["account/login/cancel"],
    "turn": ["turn/interrupt"],
    "terminal": ["thread/backgroundTerminals/terminate"],
    "goal": ["thread/goal/set"],
}


@asynccontextmanager
async def scripted(config=None, **options):
    with trio.fail_after(1000):
        async with fake_codex(config, strict=False, validate=False, **options) as both:
            yield both


async def enter(name, codex, scope, entered):
    """Perform the action ``name`` until ``scope`` is cancelled."""
    with scope:
        match name:
            case "thread_start":
                await codex.thread_start()
            case "thread_resume":
                await codex.thread_resume("thread-1")
            case "thread":
                async with await codex.thread_start():
                    entered.set()
                    await trio.sleep_forever()
            case "watch":
                async with codex.watch("/x"):
                    entered.set()
                    await trio.sleep_forever()
            case "exec":
                async with codex.exec(["x"]):
                    entered.set()
                    await trio.sleep_forever()
            case "login":
                async with await codex.login_chatgpt():
                    entered.set()
                    await trio.sleep_forever()
            case "turn" | "terminal":
                thread = await codex.thread_start()
                async with thread.turn("x"):
                    entered.set()
                    await trio.sleep_forever()
            case "goal":
                thread = await codex.thread_start()
                async with thread.goal("x"):
                    entered.set()
                    await trio.sleep_forever()


async def let_in(name, server, scope, entered):
    """Act as the server until the action ``name`` has started, then cancel it."""
    match name:
        case "thread_start" | "thread_resume":
            asked = await server.expect(name.replace("_", "/"))
            scope.cancel()
            await wait_all_tasks_blocked()
            await asked.answer(DEFAULTS["thread/start"])
            return
        case "watch":
            await (await server.expect("fs/watch")).answer({"path": "/x", "watchId": "w"})
        case "exec":
            await server.expect("command/exec")
            await (await server.expect("command/exec/write")).answer({})
        case "login":
            answer = {"type": "chatgpt", "loginId": "l", "authUrl": "u"}
            await (await server.expect("account/login/start")).answer(answer)
        case "turn" | "terminal":
            await server.accept_turn()
        case "goal":
            await (await server.expect("thread/goal/clear")).answer({"cleared": False})
            await (await server.expect("thread/goal/set")).answer({"goal": GOAL})
            await server.start_turn()
    await entered.wait()
    if name == "terminal":
        await server.item("started", item("commandExecution", process_id="77", status="inProgress"))
        await wait_all_tasks_blocked()
    scope.cancel()
    if name == "terminal":
        await (await server.expect("turn/interrupt")).answer({})
        await server.end_turn(status="interrupted")


@pytest.mark.parametrize("name", ENDINGS)
async def test_cleanup_requests_are_repeated_until_a_busy_server_accepts_them(name, autojump_clock, caplog):
    scope, entered, left = trio.CancelScope(), trio.Event(), trio.Event()
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over(*(method for methods in ENDINGS.values() for method in methods))
        if name == "thread_start":
            server.take_over("thread/start")
        if name == "thread_resume":
            server.take_over("thread/resume")

        @nursery.start_soon
        async def act():
            await enter(name, codex, scope, entered)
            left.set()

        await let_in(name, server, scope, entered)
        for method in ENDINGS[name]:
            for _ in range(5):
                asked = await server.expect_any()
                assert asked.method == method
                await asked.refuse(BUSY, -32001)
            await (await server.expect(method)).answer({})
            if name == "thread" and method == ENDINGS["thread"][0]:
                assert not left.is_set()
        assert caplog.records == []
        nursery.cancel_scope.cancel()


async def test_a_cleanup_request_that_is_never_accepted_is_reported_and_the_next_step_follows(
    autojump_clock, caplog
):
    config = CodexConfig(interrupt_grace=5)
    async with scripted(config) as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/backgroundTerminals/clean", "thread/unsubscribe")
        refused = 0

        @nursery.start_soon
        async def refuse():
            nonlocal refused
            while (asked := await server.expect_any()).method == "thread/backgroundTerminals/clean":
                refused += 1
                await asked.refuse(BUSY, -32001)
            assert asked.method == "thread/unsubscribe"
            await asked.answer({})

        began = trio.current_time()
        async with await codex.thread_start():
            pass
        assert trio.current_time() - began == pytest.approx(5, abs=0.1)
        assert refused > 5
    assert [record.message for record in caplog.records] == [
        "thread/backgroundTerminals/clean {'threadId': 'thread-1'} was not answered within interrupt_grace and may have had no effect"
    ]


async def test_a_request_timeout_shorter_than_the_grace_does_not_end_the_retries(autojump_clock):
    config = CodexConfig(interrupt_grace=50, request_timeout=1, on_stuck_turn="abandon")
    async with scripted(config) as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        @nursery.start_soon
        async def body():
            async with thread.turn("x"):
                pass

        await server.accept_turn()
        until = trio.current_time() + 20
        while trio.current_time() < until:
            await (await server.expect("turn/interrupt")).refuse(BUSY, -32001)
        await (await server.expect("turn/interrupt")).answer({})
        await server.end_turn(status="interrupted")


@asynccontextmanager
async def cancelled_by_policy(**config):
    """Open a client whose policy has just cancelled its turn; yields the server."""

    async def cancel(_):
        return policies.cancel()

    async with (
        scripted(CodexConfig(**config), policy=Policy(permissions=cancel)) as (codex, server),
        trio.open_nursery() as nursery,
    ):
        thread = await codex.thread_start()
        nursery.start_soon(thread.run, "x")
        await server.accept_turn()
        await server.ask(0, "item/permissions/requestApproval")
        yield server


async def test_a_policys_cancel_interrupts_however_long_the_server_is_busy(autojump_clock, caplog):
    async with cancelled_by_policy(interrupt_grace=50, request_timeout=1) as server:
        until = trio.current_time() + 20
        while trio.current_time() < until:
            await (await server.expect("turn/interrupt")).refuse(BUSY, -32001)
        await (await server.expect("turn/interrupt")).answer({})
        await server.end_turn(status="interrupted")
    assert caplog.records == []


async def test_a_policys_cancel_that_a_busy_server_never_accepts_is_reported(autojump_clock, caplog):
    async with cancelled_by_policy(interrupt_grace=5) as server:
        until = trio.current_time() + 10
        while trio.current_time() < until:
            with trio.move_on_after(1):
                await (await server.expect("turn/interrupt")).refuse(BUSY, -32001)
        await server.end_turn()
    assert [record.message for record in caplog.records] == [
        "turn turn-1 could not be interrupted within interrupt_grace"
    ]


async def test_a_server_that_reads_nothing_for_longer_than_the_request_timeout_still_gets_cleanup_requests(
    autojump_clock, caplog
):
    config = CodexConfig(interrupt_grace=50, request_timeout=1)
    async with scripted(config) as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/loaded/list")
        scope, entered = trio.CancelScope(), trio.Event()
        nursery.start_soon(enter, "watch", codex, scope, entered)
        await (await server.expect("fs/watch")).answer({"path": "/x", "watchId": "w"})
        await entered.wait()

        async def ask(method):
            with pytest.raises(errors.RequestTimeout):
                await codex.request(method, {})

        # These lines use up all credits, so the next one has to wait until the server has read some of them.
        for _ in range(LINES):
            nursery.start_soon(ask, "config/read")
        await wait_all_tasks_blocked()
        for _ in range(CONTROL_LINES):
            nursery.start_soon(ask, "turn/interrupt")
        await wait_all_tasks_blocked()
        scope.cancel()
        await trio.sleep(20)
        barrier = None
        while (asked := await server.expect_any()).method != "fs/unwatch":
            if asked.method == "thread/loaded/list" and barrier is None:
                barrier = asked
                await barrier.answer({"data": [], "nextCursor": None})
        await asked.answer({})
    assert caplog.records == []


@pytest.mark.parametrize("method", ["thread/goal/set", "thread/goal/get"])
async def test_a_goal_is_paused_although_the_server_is_busy_for_longer_than_the_request_timeout(
    method, autojump_clock
):
    config = CodexConfig(interrupt_grace=50, request_timeout=1, on_stuck_turn="abandon")
    async with scripted(config) as (codex, server), trio.open_nursery() as nursery:
        entered, left, statuses = trio.Event(), trio.Event(), []
        stored = {"id": "turn-1", "status": "interrupted", "items": []}
        server.give("thread/turns/list", {"data": [stored], "nextCursor": None})

        async def pursue():
            async with (await codex.thread_start()).goal("x"):
                entered.set()
            left.set()

        async def rejoin():
            running = {"data": [{"id": "turn-1", "status": "inProgress", "items": []}], "nextCursor": None}
            server.give("thread/resume", {**DEFAULTS["thread/resume"], "initialTurnsPage": running})
            async with (await codex.thread_resume("thread-1")).rejoin(end=True):
                entered.set()
            left.set()

        nursery.start_soon(pursue if method == "thread/goal/set" else rejoin)
        if method == "thread/goal/set":
            await (await server.expect("thread/goal/clear")).answer({"cleared": False})
            await (await server.expect("thread/goal/set")).answer({"goal": GOAL})
            await server.start_turn()
        await entered.wait()
        until = trio.current_time() + 20
        while (asked := await server.expect_any()).method != "turn/interrupt":
            if trio.current_time() < until:
                assert asked.method == method
                await asked.refuse(BUSY, -32001)
                continue
            if asked.method == "thread/goal/set":
                statuses.append(asked.params["status"])
            await asked.answer({"goal": {**GOAL, "status": asked.params.get("status", "active")}})
        assert statuses == ["paused"]
        await asked.answer({})
        await server.end_turn(status="interrupted")
        await left.wait()
