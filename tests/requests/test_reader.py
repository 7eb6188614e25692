"""User code that runs in the reader, such as a log handler, cannot end a session."""

import logging
from contextlib import asynccontextmanager

import pytest
import trio

from trio_codex import Policy, TurnStatus, instruments, tool
from trio_codex.policies import abstain, logged
from trio_codex.testing import fake_codex

COMMAND = "item/commandExecution/requestApproval"


class Raising(logging.Handler):
    """A log handler that always fails."""

    def __init__(self):
        super().__init__()
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())
        raise RuntimeError("called outside its event loop")


@pytest.fixture
def handler(monkeypatch):
    """Install a handler that raises for every log record of the client."""
    handler, logger = Raising(), logging.getLogger("trio_codex")
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    logger.manager._clear_cache()
    yield handler
    logger.manager._clear_cache()


@tool
async def fail(a: int) -> int:
    """Fail."""
    raise ValueError(a)


class Broken(instruments.Instrument):
    def event_received(self, connection, event):
        raise ValueError("this instrument does not work")


@tool
async def fail_without_text() -> int:
    """Fail with an exception that has no text."""

    class Silent(Exception):
        def __str__(self):
            raise AttributeError("set by a constructor that was not called")

    raise Silent


async def ask_nobody(server):
    await server.ask(1, COMMAND, command="x")
    assert await server.answer_to(1) == {"decision": "decline"}


async def ask_the_unknown(server):
    await server.ask(1, "item/newThing", {})
    assert (await server.answer_to(1))["code"] == -32601


async def ask_the_unreadable(server):
    await server.ask(1, COMMAND, {"threadId": 5})
    assert await server.answer_to(1) == {"decision": "decline"}


async def call_a_tool(server):
    await server.ask(1, "item/tool/call", tool="fail", arguments={"a": 1})
    assert not (await server.answer_to(1))["success"]


async def send_junk(server):
    await server.send_line(b"this is no JSON\n")
    await server.send_line(b'{"id": 999, "result": {}}\n')


async def tell_an_instrument(server):
    await server.notify("warning", message="x")


async def play_turn(server, turn_id):
    await server.accept_turn(turn_id)
    await server.end_turn(turn_id)


@asynccontextmanager
async def scripted(**options):
    with trio.fail_after(5):
        async with fake_codex(strict=False, **options) as both:
            yield both


@pytest.mark.parametrize(
    "happen",
    [ask_nobody, ask_the_unknown, ask_the_unreadable, call_a_tool, send_junk, tell_an_instrument],
)
async def test_a_log_handler_that_raises_does_not_end_the_session(handler, happen, capsys):
    async with scripted(tools=[fail], instruments=[Broken()]) as (codex, server):
        await codex.thread_start()
        handler.messages.clear()
        await happen(server)
        await codex.thread_start()
        assert handler.messages
    assert "called outside its event loop" in capsys.readouterr().err


async def test_a_tool_exception_without_a_text_does_not_end_the_session():
    async with scripted(tools=[fail_without_text]) as (codex, server):
        await codex.thread_start()
        await server.ask(1, "item/tool/call", tool="fail_without_text", arguments={})
        assert "Silent" in (await server.answer_to(1))["contentItems"][0]["text"]
        await codex.thread_start()


async def test_a_policy_exception_without_a_text_fails_only_its_request():
    async def decide(_):
        await trio.lowlevel.checkpoint()
        await fail_without_text.function()

    async with scripted(policy=Policy(command=decide)) as (codex, server):
        await codex.thread_start()
        await server.ask(1, COMMAND, command="x")
        assert await server.answer_to(1) == {"decision": "decline"}
        await codex.thread_start()


async def test_a_log_handler_that_raises_does_not_change_a_logged_decision(handler):
    async def allow(_):
        await trio.lowlevel.checkpoint()
        return abstain()

    policy = logged(Policy(command=allow))
    async with scripted(policy=policy) as (codex, server):
        await codex.thread_start()
        await server.ask(1, COMMAND, command="x")
        assert await server.answer_to(1) == {"decision": "decline"}
        assert codex.decisions[-1].reason == "every policy abstained"
    assert any(message.startswith("command: abstain") for message in handler.messages)


async def test_a_log_instrument_continues_after_its_handler_has_raised(handler):
    async with scripted(instruments=[instruments.LogInstrument()]) as (codex, server):
        thread = await codex.thread_start()
        for number in (1, 2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(play_turn, server, f"turn-{number}")
                assert (await thread.run("x")).status is TurnStatus.completed
    assert sum(message.endswith("turn started") for message in handler.messages) == 2
