"""A connection over a memory stream with a scripted peer."""

import json
from contextlib import asynccontextmanager

import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from trio_codex import errors
from trio_codex._core.secrets import Secrets
from trio_codex._link.channel import LineChannel
from trio_codex._link.connection import Connection, Limits
from trio_codex._link.services import open_services
from trio_codex._link.timeouts import Timeouts
from trio_codex.errors import ConnectionBroken, ConnectionClosed


class StubReceiver:
    """Records what it receives, in order."""

    def __init__(self):
        self.got = []
        self.deaths = []
        self.portions = []
        self.consumers = 1

    def on_notifications(self, notifications):
        self.got.extend(notifications)

    def on_oversize(self, message):
        self.got.append(message)

    on_server_request = on_junk = on_oversize

    def on_lines_end(self):
        lines = len(self.got) - sum(self.portions)
        self.portions.append(lines)
        return -(-lines // self.consumers)

    def on_close(self, death):
        self.deaths.append(death)


class Peer:
    """The peer of the connection."""

    def __init__(self, stream):
        self.stream = stream
        self.rest = b""
        self.lines = []

    async def send(self, *messages):
        await self.stream.send_all(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    async def requests(self, count):
        """Return the next ``count`` lines, decoded."""
        with fail_soon():
            while len(self.lines) < count:
                chunk = await self.stream.receive_some()
                assert chunk, "the client closed the stream"
                *lines, self.rest = (self.rest + chunk).split(b"\n")
                self.lines += map(json.loads, lines)
        taken, self.lines = self.lines[:count], self.lines[count:]
        return taken

    async def request(self):
        [request] = await self.requests(1)
        return request

    async def assert_silent(self):
        """Check that the client sends nothing more."""
        got = []
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def listen():
                got.append(await self.stream.receive_some())

            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert [*self.lines, *got] == []

    async def answer(self, *requests, result=None):
        await self.send(*({"id": request["id"], "result": result} for request in requests))


def fail_soon():
    """Timeout of every wait. It exceeds the request timeout of 120 s, because a mock clock jumps that far."""
    return trio.fail_after(5 if trio.lowlevel.current_clock().__class__ is not MockClock else 10_000)


class Bench:
    def __init__(self, connection, peer, receiver, services):
        self.connection = connection
        self.peer = peer
        self.receiver = receiver
        self.services = services
        self.outcomes = {}

    async def call(self, name, request_class="window", params=None):
        """Send the request ``name``, and record its outcome."""
        try:
            self.outcomes[name] = json.loads(
                bytes(await self.connection.calls.request(name, params, request_class))
            )
        except errors.CodexError as exc:
            self.outcomes[name] = exc


async def explain(reason):
    return ConnectionBroken(reason, "running", 77, None, "tail")


class Channel(LineChannel):
    """A channel whose diagnosis is set by the test."""

    def __init__(self, stream, max_message_bytes, diagnose):
        super().__init__(stream, stream, max_message_bytes)
        self._diagnose = diagnose

    async def diagnose(self, reason, phase):
        return await self._diagnose(reason)


@asynccontextmanager
async def connected(
    *,
    streams=None,
    window=64,
    request_timeout=120,
    max_line_bytes=10_000,
    diagnose=explain,
    receiver=None,
):
    client_end, server_end = streams or memory_stream_pair()
    receiver = receiver or StubReceiver()
    timeouts = Timeouts()

    async def close(services):
        connection.end(ConnectionClosed("closed by the test"))
        services.stop()

    async with open_services(close) as services:
        channel = Channel(client_end, max_line_bytes, diagnose)
        connection = Connection(services, channel, Limits(window, request_timeout), timeouts, Secrets({}))
        services.start_service(timeouts.watch)
        connection.start(receiver)
        with fail_soon():
            yield Bench(connection, Peer(server_end), receiver, services)


class SlowStream(trio.abc.Stream):
    """Writes a few bytes at a time, and only when the test allows it."""

    def __init__(self, stream):
        self.stream = stream
        self.gate = trio.Event()
        self.writing = False
        self.calls = 0

    async def send_all(self, data):
        assert not self.writing, "two writers"
        self.writing = True
        self.calls += 1
        try:
            await self.stream.send_all(data[:3])
            await self.gate.wait()
            await self.stream.send_all(data[3:])
        finally:
            self.writing = False

    async def wait_send_all_might_not_block(self):
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes=None):
        return await self.stream.receive_some(max_bytes)

    async def aclose(self):
        await self.stream.aclose()


def slow_pair():
    client_end, server_end = memory_stream_pair()
    return SlowStream(client_end), server_end
