"""The main API as type checkers see it. Never run: mypy and pyright read it."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, assert_type

import trio

import trio_codex
from trio_codex import (
    ApprovalMode,
    Budget,
    Codex,
    CodexConfig,
    Event,
    ExternalMessage,
    Goal,
    GoalResult,
    ImageInput,
    LoginHandle,
    McpServers,
    Pager,
    Policy,
    RemoteProcess,
    Sandbox,
    ServerMetadata,
    Skills,
    Subscription,
    Terminals,
    TextInput,
    Thread,
    ThreadMcpServers,
    TokenUsage,
    Turn,
    TurnResult,
    TurnStatus,
    Watch,
    connect_codex,
    errors,
    open_codex,
    policies,
    retry_on_overload,
    wire,
)
from trio_codex.recording import Recorder, Redaction, read_recording
from trio_codex.testing import FakeServer, fake_codex, fake_process, replay


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


async def keeping(codex: Codex, thread: Thread) -> None:
    assert_type(codex.threads(archived=True, cwd=[Path()], page_size=5), Pager[wire.Thread])
    async for stored in codex.threads():
        assert_type(stored, wire.Thread)
    async for turn in thread.turns(items_view="full"):
        assert_type(turn, wire.Turn)
    async for entry in thread.items(turn_id="t"):
        assert_type(entry, wire.ThreadItemEntry)
    assert_type(codex.thread_items("id"), Pager[wire.ThreadItemEntry])
    assert_type(await thread.fork(last_turn_id="t", approval_mode=ApprovalMode.ask), Thread)
    assert_type(await thread.revert("t"), wire.Thread)
    await thread.update_settings(service_tier=wire.NULL, sandbox=wire.ReadOnlySandboxPolicy())
    assert_type(await codex.thread_unarchive("id", budget=Budget(turns=3)), Thread)
    assert_type(await retry_on_overload(lambda: codex.thread_list(limit=1)), wire.ThreadListResponse)
    assert_type(codex.usage, TokenUsage | None)
    assert_type(thread.usage, TokenUsage | None)


async def logging_in(codex: Codex) -> None:
    async with await codex.login_chatgpt() as login:
        assert_type(login, LoginHandle)
        assert_type(login.auth_url, str | None)
        assert_type(await login.wait(), wire.AccountLoginCompletedNotification)
    assert_type(await (await codex.mcp.login("docs")).wait(), wire.McpServerOauthLoginCompletedNotification)
    assert_type(await codex.account(), wire.GetAccountResponse)
    assert_type(await codex.rate_limits(), wire.GetAccountRateLimitsResponse)


async def running(thread: Thread) -> None:
    result = await thread.run("hello", sandbox=Sandbox.workspace_write)
    assert_type(result, TurnResult[None])
    assert_type(result.final_response, str | None)
    assert_type(result.items, tuple[wire.ThreadItem, ...])
    assert_type(result.usage, wire.ThreadTokenUsage | None)
    assert_type(result.turn_usage, TokenUsage | None)
    assert_type(result.error, wire.TurnError | None)
    assert_type(result.status, TurnStatus | str)
    await thread.run(["look at", ImageInput("data:image/png;base64,")])
    await thread.run(TextInput("hello"))
    await thread.run(ExternalMessage("tool", "it says so"))


async def streaming(thread: Thread) -> None:
    assert_type(thread.turn("hello"), AbstractAsyncContextManager[Turn[None], bool | None])
    async with thread as same, same.turn("hello", policy=Policy()) as turn:
        assert_type(same, Thread)
        assert_type(turn, Turn[None])
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
        assert_type(await turn.wait(), TurnResult[None])
        assert_type(turn.result, TurnResult[None])
        assert_type(turn.children, tuple[str, ...])
        async with turn.agent_events() as agents:
            assert_type(agents, Subscription[Event])
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
            assert_type(result, Any)
        case errors.ServerExited(returncode=returncode, pid=pid):
            assert_type(returncode, int | None)
            assert_type(pid, int | None)
        case errors.BudgetExceeded(used=used, usage=usage):
            assert_type(used, float)
            assert_type(usage, Any)
        case errors.RpcError(code=code, method=method):
            assert_type(code, int)
            assert_type(method, str | None)
        case _:
            pass
    raise errors.TurnActive(thread_id="t", turn_id=None)


async def remote(codex: Codex) -> None:
    async with codex.exec(
        ["ls", Path("x")], cwd=Path(), env={"A": None}, tty=True, size=(80, 24), sandbox=Sandbox.full_access
    ) as process:
        assert_type(process, RemoteProcess)
        assert_type(process.stdin, trio.abc.SendStream)
        assert_type(process.stdout, trio.abc.ReceiveStream)
        assert_type(process.stderr, trio.abc.ReceiveStream | None)
        assert_type(process.returncode, int | None)
        assert_type(await process.wait(), int)
        await process.resize(80, 24)
        await process.terminate()
        await process.kill()
    async with codex.watch(Path("x")) as watch:
        assert_type(watch, Watch)
        async for paths in watch:
            assert_type(paths, tuple[str, ...])


async def besides_turns(thread: Thread) -> None:
    async with thread.goal("reach it", token_budget=1, policy=policies.decline_all) as goal:
        assert_type(goal, Goal)
        async for event in goal:
            assert_type(event, Event)
        async for text in goal.text():
            assert_type(text, str)
        await goal.steer("this way")
        assert_type(await goal.wait(), GoalResult)
        assert_type(goal.result.turns, tuple[TurnResult, ...])
    async with thread.review(wire.CommitReviewTarget(sha="abc")) as turn:
        assert_type(turn, Turn)
    assert_type(await thread.compact(), TurnResult)
    assert_type(await thread.shell_command("ls"), wire.CommandExecutionThreadItem)
    assert_type(thread.terminals, Terminals)
    assert_type(await thread.terminals.list(), tuple[wire.ThreadBackgroundTerminal, ...])
    assert_type(await thread.terminals.terminate("1"), bool)


async def using_mcp_servers_and_skills(codex: Codex, thread: Thread) -> None:
    assert_type(codex.mcp, McpServers)
    assert_type(thread.mcp, ThreadMcpServers)
    assert_type(await codex.mcp.list(), tuple[wire.McpServerStatus, ...])
    assert_type(await thread.mcp.list(), tuple[wire.McpServerStatus, ...])
    assert_type((await thread.mcp.status("docs")).tools_error, str | None)
    assert_type(await thread.mcp.call("docs", "search", {"q": "x"}), wire.McpServerToolCallResponse)
    assert_type(await thread.mcp.read_resource("docs", "doc://1"), Sequence[wire.ResourceContent])
    assert_type(codex.skills, Skills)
    assert_type((await codex.skills.list(Path("."), rescan=True)).skills, Sequence[wire.SkillMetadata])
    await codex.skills.disable(path=Path("SKILL.md"))


async def with_the_kit(recording: Path) -> None:
    recorder = Recorder(recording, redaction=Redaction(paths=True, keep={"command"}))
    assert_type(read_recording(recording).redaction, Redaction | None)
    async with replay(recording, strict=False) as codex:
        assert_type(codex, Codex)
    async with fake_codex(instruments=[recorder], process=True) as (codex, server):
        assert_type(server, FakeServer)
        server.fault("exit", 3, moment="after")
    async with fake_process() as (config, server):
        assert_type(config, CodexConfig)
        await server.strike("kill", "SEGV", at_eof=True)
