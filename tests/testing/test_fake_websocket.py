"""The scripted server at an address, and each way in which its WebSocket can misbehave."""

from contextlib import asynccontextmanager

import pytest
import trio

from trio_codex import ClientConfig, attach_codex, errors
from trio_codex.testing import assert_nothing_left, fake_websocket

CONFIG = ClientConfig(max_line_bytes=10_000, request_timeout=0.3, interrupt_grace=0.2)


@asynccontextmanager
async def scripted(*args, **options):
    """Open ``fake_websocket()`` with a timeout."""
    with trio.fail_after(10):
        async with fake_websocket(*args, **options) as (url, server):
            yield url, server


async def test_a_client_attaches_and_leaves_and_the_script_continues_with_the_next():
    async with assert_nothing_left(), scripted(version="0.171.0") as (url, server):
        async with attach_codex(url) as codex:
            assert (codex.owned, codex.metadata.server_version) == (False, "0.171.0")
            thread = await codex.thread_start()
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def _():
                    await server.accept_turn()
                    await server.delta("Hello.")
                    await server.end_turn()

                async with thread.turn("hi") as turn:
                    assert [piece async for piece in turn.text()] == ["Hello."]
        server.give("thread/start", {"thread": None})
        async with attach_codex(url) as codex:
            with pytest.raises(errors.DecodeError):
                await codex.thread_start()


@pytest.mark.parametrize(
    ("fault", "argument"),
    [
        ("fragments", None),
        ("fragments", 7),
        ("trickle", None),
        ("pings", 3000),
        ("junk", None),
        ("duplicate", None),
    ],
)
async def test_a_fault_that_the_client_tolerates_changes_nothing(fault, argument):
    async with scripted() as (url, server), attach_codex(url) as codex:
        server.fault(fault, argument)
        await codex.thread_start()
        assert (await codex.request("thread/loaded/list", {}))["data"] == []


@pytest.mark.parametrize(
    ("fault", "argument", "words"),
    [
        ("masked", None, "incorrect masking"),
        ("opcode", None, "invalid opcode"),
        ("opcode", 11, "invalid opcode"),
        ("close", None, "1011"),
        ("close", 1013, "1013"),
        ("cut", None, "closed the connection"),
        ("hang_up", None, "closed the connection"),
        ("oversize", None, "max_line_bytes"),
    ],
)
async def test_a_fault_that_ends_the_connection_fails_every_wait_with_its_cause(fault, argument, words):
    async with scripted(CONFIG) as (url, server):
        async with attach_codex(url, config=CONFIG) as codex:
            server.fault(fault, argument)
            with pytest.raises(errors.ConnectionBroken, match=words):
                await codex.thread_start()
        async with attach_codex(url, config=CONFIG) as codex:  # the fault does not affect the next client
            await codex.thread_start()


async def test_a_half_open_connection_neither_sends_nor_answers_a_ping():
    async with scripted() as (url, server):
        async with attach_codex(url, config=CONFIG) as codex:
            server.fault("half_open")
            with pytest.raises(errors.RequestTimeout):
                await codex.thread_start()
            codex._session.connection.calls.write_queue.put_control(codex._session.connection._channel.ping())
            reads = codex._session.connection.timeouts.reads
            await trio.sleep(0.1)
            assert codex._session.connection.timeouts.reads == reads
        async with attach_codex(url) as codex:
            await codex.thread_start()


async def test_without_a_fault_a_ping_is_answered():
    async with scripted() as (url, _), attach_codex(url) as codex:
        codex._session.connection.calls.write_queue.put_control(codex._session.connection._channel.ping())
        reads = codex._session.connection.timeouts.reads
        while codex._session.connection.timeouts.reads == reads:  # noqa: ASYNC110  # the reader has no event for this
            await trio.sleep(0.01)


async def test_a_connection_that_is_not_a_client_is_left_alone():
    async with scripted() as (url, _):
        for garbage in (b"", b"GET / HTTP/1.1\r\n\r\n", b"{}\n", b"\x16\x03\x01\x00\x00"):
            host, _, port = url.removeprefix("ws://").partition(":")
            async with await trio.open_tcp_stream(host, int(port)) as stream:
                await stream.send_all(garbage)
        async with attach_codex(url) as codex:
            await codex.thread_start()


async def test_an_unused_fault_and_a_protocol_violation_are_errors():
    with pytest.raises(AssertionError, match="close"):
        async with scripted() as (url, server), attach_codex(url):
            server.fault("close")
    with pytest.RaisesGroup(pytest.RaisesExc(AssertionError, match="thread/read")):
        async with scripted() as (url, _), attach_codex(url) as codex:
            await codex.request("thread/read", {})


async def test_an_unsupported_fault_is_a_value_error():
    async with scripted() as (_, server):
        for fault, argument in [
            ("close", "x"),
            ("pings", 0),
            ("masked", 1),
            ("fragments", "1"),
            ("teleport", None),
        ]:
            with pytest.raises(ValueError, match=fault):
                server.fault(fault, argument)
        with pytest.raises(ValueError, match="process"):
            server.fault("kill")
        with pytest.raises(ValueError, match="moment"):
            server.fault("close", moment="after")


async def test_a_websocket_fault_needs_a_websocket(fake_codex):
    _, server = fake_codex
    with pytest.raises(ValueError, match="fake_websocket"):
        server.fault("pings")
