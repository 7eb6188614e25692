"""Bursts on the real server: no request is lost, and scopes left at the same moment all end."""

from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import pytest
import trio

from shared_server import shared_server
from trio_codex import CodexConfig, Sandbox, TurnStatus, attach_codex, errors
from trio_codex._link import flow as _flow
from trio_codex.instruments import Instrument
from trio_codex.testing import MockModel, Response, Text, mcp_server, offline_codex, offline_home

pytestmark = pytest.mark.real

FULL_ACCESS = Sandbox.full_access
FLOOD = CodexConfig(request_window=10_000)
COMMAND = {"command": ["/bin/true"], "sandboxPolicy": {"type": "dangerFullAccess"}}


def complaints(caplog):
    """Return log messages about the server, without those about a blocked event loop, which a busy machine causes."""
    return [record.message for record in caplog.records if "event loop" not in record.message]


async def at_once(count, async_fn):
    """Make this many concurrent calls, and count the outcomes by type of error."""
    outcomes = []

    async def one():
        try:
            await async_fn()
        except errors.CodexError as error:
            outcomes.append(type(error))
        else:
            outcomes.append(None)

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    return outcomes


@asynccontextmanager
async def offline(seconds=60, **options):
    with trio.fail_after(seconds):
        async with offline_codex(**options) as (codex, model, home):
            yield codex, model, home


@pytest.mark.parametrize("count", [300, pytest.param(2000, marks=pytest.mark.long)])
async def test_every_command_in_a_burst_is_answered(count):
    async with offline() as (codex, _, _):
        assert await at_once(count, partial(codex.request, "command/exec", COMMAND)) == [None] * count


async def test_without_flow_control_the_server_refuses_some_commands_in_a_burst(monkeypatch):
    refused = trio.Event()

    class Refusals(Instrument):
        def request_retried(self, method, number, delay):
            refused.set()

    monkeypatch.setattr(_flow, "LINES", 10**6)
    monkeypatch.setattr(_flow, "BARRIER_LINES", 10**6)
    async with offline(instruments=[Refusals()]) as (codex, _, _), trio.open_nursery() as nursery:
        # A server that happens to keep up with one burst does not keep up with several.
        while not refused.is_set():
            nursery.start_soon(at_once, 600, partial(codex.request, "command/exec", COMMAND))
            with trio.move_on_after(3):
                await refused.wait()
        # The server also loses some refusals; those requests would never be answered.
        nursery.cancel_scope.cancel()


@pytest.mark.long
async def test_every_tool_call_in_a_burst_is_answered():
    async with offline(120, mcp_servers={"held": mcp_server()}) as (codex, _, _):
        thread = await codex.thread_start()
        await thread.mcp.status("held")
        assert await at_once(600, lambda: thread.mcp.call("held", "safe", {"text": "x"})) == [None] * 600


async def leave_at_once(count, scope):
    """Enter this many scopes, leave them all at the same moment, and return what they yielded."""
    inside, leaving, left = [], trio.Event(), []

    async def one():
        async with scope() as handle:
            inside.append(handle)
            await leaving.wait()
        left.append(handle)

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
        while len(inside) < count:  # noqa: ASYNC110  # simpler than an event of the last task
            await trio.sleep(0.02)
        leaving.set()
    return left


@pytest.mark.long
async def test_three_hundred_turns_whose_scopes_exit_at_once_all_end(caplog):
    async with offline(120) as (codex, model, _):

        @asynccontextmanager
        async def turn():
            model.hang()
            thread = await codex.thread_start()
            async with thread.turn("x") as turn:
                yield turn

        turns = await leave_at_once(300, turn)
    assert [turn.result.status for turn in turns] == [TurnStatus.interrupted] * 300
    assert complaints(caplog) == []


@pytest.mark.long
async def test_three_hundred_commands_whose_scopes_exit_at_once_all_end(caplog):
    async with offline(120) as (codex, _, _):
        processes = await leave_at_once(300, lambda: codex.exec(["sleep", "1000"], sandbox=FULL_ACCESS))
    assert [process.returncode for process in processes] == [137] * 300
    assert complaints(caplog) == []


@pytest.mark.long
async def test_four_hundred_threads_and_watches_whose_scopes_exit_at_once_all_end(caplog, tmp_path):
    async with offline(120) as (codex, _, _):

        @asynccontextmanager
        async def both():
            async with await codex.thread_start() as thread, codex.watch(tmp_path):
                yield thread

        assert len(await leave_at_once(200, both)) == 200
    assert complaints(caplog) == []


@pytest.mark.long
async def test_a_hundred_turns_complete_after_five_thousand_cancelled_requests():
    async with offline(120) as (codex, model, _):
        model.default = Response(Text("done"))
        for _ in range(50):
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(codex.models)
                for _ in range(2):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        statuses = []

        async def turn():
            thread = await codex.thread_start()
            statuses.append((await thread.run("x")).status)

        assert await at_once(100, turn) == [None] * 100
    assert statuses == [TurnStatus.completed] * 100


@pytest.mark.long
async def test_a_client_loses_nothing_while_three_others_flood_the_server():
    with trio.fail_after(120):
        async with MockModel() as model:
            model.default = Response(Text("done"))
            with offline_home(model) as home:
                async with (
                    shared_server(home) as (url, _, _),
                    AsyncExitStack() as stack,
                ):
                    flooding = [
                        await stack.enter_async_context(attach_codex(url, config=FLOOD)) for _ in range(3)
                    ]
                    polite = await stack.enter_async_context(attach_codex(url))

                    async def flood(codex):
                        while True:
                            async with trio.open_nursery() as burst:
                                for _ in range(400):
                                    burst.start_soon(ask, codex)
                                # Send the next burst immediately, without waiting for the responses.
                                await trio.sleep(0.02)
                                burst.cancel_scope.cancel()

                    async def ask(codex):
                        with suppress(errors.CodexError):
                            await codex.models()

                    async with trio.open_nursery() as floods:
                        for codex in flooding:
                            floods.start_soon(flood, codex)

                        async def work():
                            thread = await polite.thread_start()
                            assert (await thread.run("x")).status == TurnStatus.completed

                        refused = await at_once(20, work)
                        refused += await at_once(200, polite.models)
                        floods.cancel_scope.cancel()
                    assert refused == [None] * 220
                    for codex in (*flooding, polite):
                        await codex.aclose()
