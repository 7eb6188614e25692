"""Tools of a client, its threads and turns, against a scripted server."""

import contextvars
import functools
from contextlib import asynccontextmanager

import pytest
import trio

from tools.tool_calls import weather
from trio_codex import CodexConfig, Policy, connect_codex, open_codex, policies, tool
from trio_codex.testing import fake_codex
from trio_codex.testing._fake import DEFAULTS
from trio_codex.tools import ToolResult


def asked(name, arguments=None, thread_id="thread-1", **more):
    return {
        "threadId": thread_id,
        "turnId": "turn-1",
        "callId": "c1",
        "tool": name,
        "namespace": None,
        "arguments": arguments or {},
        **more,
    }


@asynccontextmanager
async def started_turn(server, thread):
    accepted = trio.Event()

    async def accept():
        await server.accept_turn()
        accepted.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        async with thread.turn("go") as turn:
            await accepted.wait()
            yield turn


def say(text, name="say"):
    async def function() -> str:
        await trio.lowlevel.checkpoint()
        return text

    return tool(function, name=name)


async def test_tools_of_a_thread_take_precedence_over_those_of_the_client_and_over_policies():
    async def policy(request: policies.ToolCallRequest) -> ToolResult:
        await trio.lowlevel.checkpoint()
        return ToolResult.of_text("policy")

    tools = [say("client"), say("client", "more")]
    with trio.fail_after(5):
        async with fake_codex(policy=Policy(tool_call=policy), tools=tools) as (codex, server):
            own = say("thread")
            await codex.thread_start(tools=[own])
            for number, (name, text) in enumerate(
                [("say", "thread"), ("more", "client"), ("other", "policy")]
            ):
                await server.ask(number, "item/tool/call", asked(name))
                answer = await server.answer_to(number)
                assert answer == {"contentItems": [{"type": "inputText", "text": text}], "success": True}
            assert [str(record.decided_by) for record in codex.decisions] == ["tool", "tool", "client"]


async def test_every_thread_is_started_with_the_clients_tools_and_its_own():
    with trio.fail_after(5):
        async with fake_codex(tools=[say("client"), say("client", "more")]) as (codex, server):
            server.take_over("thread/start")
            for own, names in (
                ([say("thread"), say("thread", "third")], ["say", "more", "third"]),
                ([], ["say", "more"]),
            ):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(functools.partial(codex.thread_start, tools=own))
                    start = await server.expect("thread/start")
                    assert [spec["name"] for spec in start.params["dynamicTools"]] == names
                    await start.answer(DEFAULTS["thread/start"])


async def test_without_tools_the_request_does_not_mention_them():
    with trio.fail_after(5):
        async with fake_codex(CodexConfig(experimental_api=False)) as (codex, server):
            server.take_over("thread/start")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(codex.thread_start)
                start = await server.expect("thread/start")
                assert "dynamicTools" not in start.params
                await start.answer(DEFAULTS["thread/start"])


@pytest.mark.parametrize("opening", ["thread_resume", "thread_fork"])
async def test_tools_of_a_resumed_or_forked_thread_are_not_declared_to_the_server(opening):
    with trio.fail_after(5):
        async with fake_codex() as (codex, server):
            thread = await getattr(codex, opening)("thread-1", tools=[say("again")])
            await server.ask(0, "item/tool/call", asked("say", thread_id=thread.id))
            assert (await server.answer_to(0))["success"] is True


async def test_tools_without_the_experimental_api_are_rejected_before_anything_is_sent():
    plain = CodexConfig(experimental_api=False, codex_bin="/nowhere")
    with pytest.raises(ValueError, match="experimental_api"):
        async with open_codex(plain, tools=[weather]):
            pytest.fail("it opened")
    with pytest.raises(ValueError, match="two tools"):
        async with open_codex(CodexConfig(codex_bin="/nowhere"), tools=[weather, weather]):
            pytest.fail("it opened")
    with trio.fail_after(5):
        async with fake_codex(plain) as (codex, server):
            server.take_over("thread/start", "thread/resume")
            with pytest.raises(ValueError, match="experimental_api"):
                await codex.thread_start(tools=[weather])
            with pytest.raises(ValueError, match="experimental_api"):
                await codex.thread_resume("thread-1", tools=[weather])
            with pytest.raises(ValueError, match="two tools"):
                await codex.thread_fork("thread-1", tools=[weather, weather])
            assert server.unexpected() == []


async def test_connecting_with_invalid_tools_leaves_the_nursery_empty():
    ours, _ = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        with pytest.raises(ValueError, match="two tools"):
            await connect_codex(nursery, ours, tools=[weather, weather])
        assert not nursery.child_tasks


async def test_the_end_of_a_turn_cancels_its_pending_calls_without_a_response():
    started, ended = trio.Event(), trio.Event()

    @tool
    async def park() -> None:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    with trio.fail_after(5):
        async with fake_codex(tools=[park]) as (codex, server):
            thread = await codex.thread_start()
            async with started_turn(server, thread):
                await server.ask(7, "item/tool/call", asked("park"))
                await started.wait()
                await server.end_turn()
                await ended.wait()
            server.give("ping", {})
            await codex.request("ping")  # everything written before has arrived
            assert 7 not in server.answers


async def test_a_tool_runs_in_the_context_of_its_turn():
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")

    @tool
    async def look() -> str:
        await trio.lowlevel.checkpoint()
        return variable.get()

    with trio.fail_after(5):
        async with fake_codex(tools=[look]) as (codex, server):
            thread = await codex.thread_start()
            variable.set("inside")
            async with started_turn(server, thread):
                await server.ask(0, "item/tool/call", asked("look"))
                assert (await server.answer_to(0))["contentItems"][0]["text"] == "inside"
                await server.end_turn()
