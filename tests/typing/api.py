"""What type checkers make of the main API. Never run: mypy and pyright read it."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import assert_type

import trio

import trio_codex
from trio_codex import (
    Codex,
    CodexConfig,
    Event,
    ExternalMessage,
    ImageInput,
    Policy,
    Sandbox,
    ServerMetadata,
    Subscription,
    TextInput,
    Thread,
    Turn,
    TurnResult,
    TurnStatus,
    connect_codex,
    errors,
    open_codex,
    policies,
    wire,
)


async def opening() -> None:
    assert_type(trio_codex.__version__, str)
    async with open_codex() as client:
        assert_type(client, Codex)
    config = CodexConfig(codex_bin=Path("codex"), env={"A": "b", "C": None}, inherit_env=["PATH"], cwd="x")
    async with open_codex(config, policy=policies.decline_all) as codex:
        assert_type(codex.metadata, ServerMetadata)
        assert_type(codex.metadata.server_version, str | None)
        assert_type(codex.pid, int | None)
        assert_type(await codex.wait_closed(), errors.CodexError)


async def connecting(nursery: trio.Nursery, stream: trio.SocketStream) -> None:
    codex = await connect_codex(nursery, stream, policy=policies.accept_all)
    assert_type(codex, Codex)
    await codex.aclose()


async def asking(codex: Codex) -> None:
    thread = await codex.thread_start(cwd=Path(), sandbox=Sandbox.read_only, approval_policy="on-request")
    assert_type(thread, Thread)
    assert_type(thread.id, str)
    assert_type(thread.info, wire.Thread)
    assert_type(await codex.thread_resume("id"), Thread)
    assert_type(await codex.thread_fork("id"), Thread)
    assert_type(await codex.thread_list(limit=1), wire.ThreadListResponse)
    assert_type(await codex.thread_read("id"), wire.Thread)
    assert_type(await codex.models(), wire.ModelListResponse)
    listed = await codex.api.thread.list(limit=25)
    assert_type(listed, wire.ThreadListResponse)
    for each in listed.data:
        assert_type(each, wire.Thread)
    async with codex.events("thread/started") as events:
        assert_type(events, Subscription[Event])
        async for event in events:
            assert_type(event, Event)


async def running(thread: Thread) -> None:
    result = await thread.run("hello", sandbox=Sandbox.workspace_write)
    assert_type(result, TurnResult)
    assert_type(result.final_response, str | None)
    assert_type(result.items, tuple[wire.ThreadItem, ...])
    assert_type(result.usage, wire.ThreadTokenUsage | None)
    assert_type(result.error, wire.TurnError | None)
    assert_type(result.status, TurnStatus | str)
    await thread.run(["look at", ImageInput("data:image/png;base64,")])
    await thread.run(TextInput("hello"))
    await thread.run(ExternalMessage("tool", "it says so"))


async def streaming(thread: Thread) -> None:
    assert_type(thread.turn("hello"), AbstractAsyncContextManager[Turn, bool | None])
    async with thread as same, same.turn("hello", policy=Policy()) as turn:
        assert_type(same, Thread)
        assert_type(turn, Turn)
        assert_type(turn.id, str)
        assert_type(turn.thread, Thread)
        async for event in turn:
            assert_type(event, Event)
            assert_type(event.method, str)
            assert_type(event.params, wire.Wire)
            match event.params:
                case wire.AgentMessageDeltaNotification(delta=text):
                    assert_type(text, str)
                case wire.ItemCompletedNotification(item=wire.CommandExecutionThreadItem() as item):
                    assert_type(item.exit_code, int | None)
                case wire.UnknownNotification(method=method):
                    assert_type(method, str)
                case _:
                    pass
        async for piece in turn.text():
            assert_type(piece, str)
        assert_type(await turn.wait(), TurnResult)
        assert_type(turn.result, TurnResult)
        assert_type(turn.children, tuple[str, ...])
        await turn.steer("rather this")
        await turn.interrupt()


async def on_command(request: policies.CommandRequest) -> policies.Decision:
    await trio.lowlevel.checkpoint()
    assert_type(request.command, str | None)
    return policies.accept("session") if request.reason else policies.decline("no")


async def on_file_change(request: policies.FileChangeRequest) -> policies.Decline:
    await trio.lowlevel.checkpoint()
    assert_type(request.changes, tuple[wire.FileUpdateChange, ...])
    return policies.decline()


policy = Policy(command=on_command, file_change=on_file_change)


def failing(error: errors.CodexError) -> None:
    match error:
        case errors.TurnFailed(result=result):
            assert_type(result, TurnResult)
        case errors.ServerExited(returncode=returncode, pid=pid):
            assert_type(returncode, int | None)
            assert_type(pid, int | None)
        case errors.RpcError(code=code, method=method):
            assert_type(code, int)
            assert_type(method, str | None)
        case _:
            pass
    raise errors.TurnActive(thread_id="t", turn_id=None)
