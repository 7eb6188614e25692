"""From WebSocket frames to messages: the same messages in any chunks, and one kind of error for invalid input."""

import itertools
import json
import re
import tracemalloc
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked
from websockets.client import ClientProtocol
from websockets.frames import EXTERNAL_CLOSE_CODES, Opcode
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from runtime.connection_peer import SlowStream, StubReceiver, fail_soon
from trio_codex import errors
from trio_codex._core.secrets import Secrets
from trio_codex._link import timeouts as _timeouts
from trio_codex._link import websocket
from trio_codex._link.connection import PONG_SECONDS, SILENCE_SECONDS, Connection, Limits
from trio_codex._link.services import open_services
from trio_codex._link.timeouts import STALL_SECONDS, TICK_SECONDS, Timeouts
from trio_codex._link.websocket import WebSocketChannel
from websocket_peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    WebSocketStream,
    close_frame,
    frame,
    message,
)

URL = "ws://server.example/"
MESSAGE = b'{"method":"m","params":{}}'


def taken_control(channel):
    """Return the control frame that the reader passes to the writer."""
    control, channel.control = channel.control, b""
    return control


def opened(stream, max_message_bytes=10_000):
    """Return a channel after the handshake."""
    protocol = ClientProtocol(parse_uri(URL), state=OPEN, max_size=max_message_bytes)
    return WebSocketChannel(stream, protocol, max_message_bytes, URL, Secrets({}))


async def all_messages(chunks, max_message_bytes=10_000):
    """Return what a channel receives from a server that sends these chunks one at a time and closes the stream."""
    client_end, server_end = memory_stream_pair()
    channel, got = opened(client_end, max_message_bytes), []
    with fail_soon():
        for chunk in chunks:
            await server_end.send_all(chunk)
            if (messages := await channel.receive(shared=False)) is None:
                return got, channel
            got += messages
        await server_end.aclose()
        while (messages := await channel.receive(shared=False)) is not None:
            got += messages
    return got, channel


def received(chunks, max_message_bytes=10_000):
    return trio.run(all_messages, chunks, max_message_bytes)[0]


def cut(stream, points):
    points = sorted({0, len(stream), *(point % (len(stream) + 1) for point in points)})
    return [stream[start:end] for start, end in itertools.pairwise(points)]


# -- messages ------------------------------------------------------------------------------------------------------

cuts = st.lists(st.integers(0, 2**16), max_size=30)
texts = st.binary(max_size=20) | st.sampled_from([b"", b"x" * 125, b"x" * 126, b"x" * 300])
sizes = st.lists(st.integers(0, 150), max_size=5)
between = st.lists(
    st.sampled_from([frame(b"", PING), frame(b"p" * 125, PING), frame(b"", PONG), frame(b"unasked", PONG)]),
    max_size=2,
)


@st.composite
def fragmented(draw):
    """Generate a message, its opcode, and its frames with control frames in between."""
    data, opcode = draw(texts), draw(st.sampled_from([TEXT, TEXT, BINARY]))
    frames = message(data, *draw(sizes), opcode=opcode)
    return data, opcode, b"".join(part for each in frames for part in [*draw(between), each])


@given(st.lists(fragmented(), max_size=8), cuts)
@example([(b"no", BINARY, b"".join(message(b"no", 1, opcode=BINARY)))], [])
@example([(b"a", TEXT, frame(b"a"))] * 3, [1, 2, 3, 4, 5, 6, 7, 8])
def test_messages_in_any_fragments_and_chunks_arrive_whole_and_in_order(messages, points):
    stream = b"".join(frames for _, _, frames in messages)
    got = received(cut(stream, points))
    assert got == [data for data, opcode, _ in messages if opcode == TEXT]
    assert {type(each) for each in got} <= {bytes}


@given(st.lists(fragmented(), max_size=3))
def test_receiving_single_bytes_yields_the_same_messages(messages):
    stream = b"".join(frames for _, _, frames in messages)
    assert received([bytes([byte]) for byte in stream]) == [
        data for data, kind, _ in messages if kind == TEXT
    ]


pieces = st.binary(max_size=12) | st.builds(
    frame,
    st.binary(max_size=130),
    st.integers(0, 15),
    fin=st.booleans(),
    masked=st.sampled_from([False, False, False, True]),
    reserved=st.sampled_from([0, 0, 0, 1, 4]),
    size=st.none() | st.none() | st.sampled_from([0, 1, 125, 126, 2**16, 2**63, 2**64 - 1]),
)


@given(st.lists(pieces, max_size=8), cuts, st.integers(0, 200))
@example([b"\x88\x01\x00"], [], 100)
@example([close_frame(1000, b"\xff")], [1], 100)
@example([frame(b"a", fin=False), close_frame(1000)], [], 100)
def test_arbitrary_bytes_yield_messages_the_end_or_a_single_kind_of_error(frames, points, limit):
    try:
        got = received(cut(b"".join(frames), points), limit)
    except trio.BrokenResourceError:
        return
    assert all(len(each) <= limit for each in got)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 2**16 - 1, 2**16, 300_000])
def test_messages_with_every_size_of_length_header_arrive(size):
    data = b"x" * size
    assert received([frame(data), frame(b"next")], 300_000) == [data, b"next"]


def test_binary_messages_are_ignored_whether_fragmented_or_not():
    stream = [
        frame(b"no", BINARY),
        *message(b"neither", 1, 3, opcode=BINARY),
        *message(b"but this", 2),
        frame(b"and this"),
    ]
    assert received(stream) == [b"but this", b"and this"]


async def test_messages_sent_with_the_handshake_are_received_before_the_stream_is_read():
    client_end, server_end = memory_stream_pair()
    channel = opened(client_end)
    channel._protocol.receive_data(frame(b"early") + frame(b"ping", PING) + frame(b"bird"))
    with fail_soon():
        assert await channel.receive(shared=False) == [b"early", b"bird"]
    await channel.send_all(taken_control(channel))
    await client_end.aclose()
    assert await client_frames(server_end) == [(PONG, b"ping")]


def test_a_message_in_many_fragments_uses_no_more_memory_than_its_bytes():
    count = 20_000
    fragments = frame(b"", fin=False) + frame(b"", CONTINUATION, fin=False) * count

    async def main():
        client_end, server_end = memory_stream_pair()
        channel = opened(client_end)
        for chunk in cut(fragments, range(0, len(fragments), 2000)):
            await server_end.send_all(chunk)
            assert await channel.receive(shared=False) == []
        return channel

    tracemalloc.start()
    try:
        channel = trio.run(main)
        assert channel is not None
        assert (
            tracemalloc.get_traced_memory()[0] < 2 * count
        )  # a list of pointers would be eight times as large
    finally:
        tracemalloc.stop()


# -- protocol violations --------------------------------------------------------------------------------------

WRONG = {
    "masked": frame(b"x", masked=True),
    "masked and empty": frame(masked=True),
    "opcode 3": frame(b"x", 3),
    "opcode 7": frame(b"x", 7),
    "opcode 11": frame(b"x", 11),
    "opcode 15": frame(b"x", 15),
    "reserved bit": frame(b"x", reserved=4),
    "continuation without a start": frame(b"x", CONTINUATION),
    "continuation of a message that is complete": b"".join([*message(MESSAGE, 1), frame(b"x", CONTINUATION)]),
    "message within a message": frame(b"x", fin=False) + frame(b"y"),
    "ping in fragments": frame(b"x", PING, fin=False),
    "ping that is too long": frame(b"x" * 126, PING),
    "close of one byte": frame(b"x", CLOSE),
    "close with a reason that is not text": close_frame(1000, b"\xff"),
    "close within a message": frame(b"x", fin=False) + close_frame(1000),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
async def test_a_protocol_violation_ends_the_connection_with_a_close_frame_after_earlier_messages(wrong):
    async with connected() as bench:
        await bench.server_end.send_all(frame(MESSAGE) + wrong)
        error = await bench.ended()
        assert {each.method for each in bench.receiver.got} == {"m"}
        assert await bench.client_frames() in ([(CLOSE, 1002)], [(CLOSE, 1007)])
    assert type(error) is errors.ConnectionBroken
    assert re.search("broke the protocol|closed the connection: 1000", error.reason)
    assert URL in error.reason


@pytest.mark.parametrize("sizes", [(), (4,), (10, 0)])
async def test_a_message_at_the_size_limit_arrives_and_one_more_byte_ends_the_connection(sizes):
    got, _ = await all_messages(message(b"0123456789", *sizes), 10)
    assert got == [b"0123456789"]
    async with connected(max_message_bytes=10) as bench:
        await bench.server_end.send_all(b"".join(message(b"0123456789x", *sizes)))
        error = await bench.ended()
        assert await bench.client_frames() == [(CLOSE, 1009)]
    assert "max_line_bytes" in error.reason
    assert "10" in error.reason


async def test_an_oversized_frame_is_refused_at_its_header():
    async with connected(max_message_bytes=10) as bench:
        await bench.server_end.send_all(frame(b"", size=2**63))
        assert "max_line_bytes" in (await bench.ended()).reason


# -- the end -------------------------------------------------------------------------------------------------------

CODES = sorted({*EXTERNAL_CLOSE_CODES, 3000, 3999, 4000, 4999})


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("reason", ["", "too slow"])
async def test_a_close_code_is_echoed_and_reported_to_every_wait(code, reason):
    async with connected() as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.call)
        await wait_all_tasks_blocked()
        await bench.server_end.send_all(close_frame(code, reason.encode()))
        error = await bench.ended()
        assert await bench.client_frames() == [(TEXT, b'{"id":1,"method":"call","params":{}}'), (CLOSE, code)]
    assert type(error) is type(bench.outcome) is errors.ConnectionBroken
    assert error.reason == bench.outcome.reason
    assert f"the server closed the connection: {code} (" in error.reason
    assert reason in error.reason


@pytest.mark.parametrize(
    ("reason", "shown"),
    [("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"), ("no\r\nERROR:root: forged\u2028", "no ERROR:root: forged")],
    ids=["escape sequences", "lines"],
)  # fmt: skip
async def test_the_reason_of_a_close_cannot_control_a_terminal_or_forge_a_log_record(reason, shown):
    async with connected() as bench:
        await bench.server_end.send_all(close_frame(1008, reason.encode()))
        assert f": 1008 (policy violation) {shown} (" in (await bench.ended()).reason


async def test_a_close_without_a_code_is_answered_without_one():
    async with connected() as bench:
        await bench.server_end.send_all(close_frame())
        assert "the server closed the connection: 1005" in (await bench.ended()).reason
        assert await bench.client_frames() == [(CLOSE, None)]


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535])
async def test_an_invalid_close_code_is_a_protocol_violation(code):
    async with connected() as bench:
        await bench.server_end.send_all(close_frame(code))
        assert "broke the protocol" in (await bench.ended()).reason
        assert await bench.client_frames() == [(CLOSE, 1002)]


async def test_data_after_a_close_is_ignored():
    async with connected() as bench:
        await bench.server_end.send_all(close_frame(1001) + frame(MESSAGE) + b"\xff\xff\xff")
        assert "1001" in (await bench.ended()).reason
        assert bench.receiver.got == []


async def test_messages_before_a_close_in_the_same_chunk_are_received():
    async with connected() as bench:
        await bench.server_end.send_all(frame(MESSAGE) + close_frame(1001))
        assert "1001" in (await bench.ended()).reason
        assert [each.method for each in bench.receiver.got] == ["m"]


@pytest.mark.parametrize("before", [b"", frame(b"abc")[:1], frame(b"abc")[:3], frame(b"abc", fin=False)])
async def test_a_stream_that_ends_without_a_close_ends_the_connection_and_drops_partial_messages(before):
    async with connected() as bench:
        await bench.server_end.send_all(before)
        await bench.server_end.aclose()
        error = await bench.ended()
        assert bench.receiver.got == []
    assert error.reason == f"the server closed the connection ({URL})"


async def test_the_client_sends_a_close_frame_unless_the_server_has_closed():
    client_end, server_end = memory_stream_pair()
    await opened(client_end).close()
    assert await client_frames(server_end) == [(CLOSE, 1000)]
    client_end, server_end = memory_stream_pair()
    channel = opened(client_end)
    await server_end.send_all(close_frame(1001))
    assert await channel.receive(shared=False) == []
    await channel.close()
    assert await client_frames(server_end) == []


async def test_closing_does_not_wait_for_a_server_that_does_not_read(autojump_clock):
    client_end, server_end = memory_stream_pair()
    stream = SlowStream(client_end)
    began = trio.current_time()
    await opened(stream).close()
    assert trio.current_time() - began <= websocket.CLOSE_SECONDS
    with fail_soon():
        while await server_end.receive_some():  # read what was sent
            pass


async def test_closing_during_a_write_closes_the_stream_immediately(autojump_clock):
    client_end, _ = lockstep_stream_pair()
    channel, began = opened(client_end), trio.current_time()

    async def write():
        with pytest.raises(trio.ClosedResourceError):
            await channel.send_all(channel.frame(b"{}"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await wait_all_tasks_blocked()
        await channel.close()
    assert trio.current_time() == began


# -- pings ---------------------------------------------------------------------------------------------------------


async def test_in_a_flood_of_pings_only_the_newest_is_answered_and_not_by_the_reader():
    client_end, server_end = memory_stream_pair()
    channel = opened(client_end)
    await server_end.send_all(b"".join(frame(b"%d" % number, PING) for number in range(5000)))
    while True:
        assert await channel.receive(shared=False) == []
        assert len(channel.control) < 20
        if b"4999" in unmasked(channel.control):
            break
    await channel.send_all(taken_control(channel))
    assert channel.control == b""
    await client_end.aclose()
    assert await client_frames(server_end) == [(PONG, b"4999")]


async def test_while_the_writer_is_blocked_only_the_newest_pong_is_queued_and_sent_first():
    client_end, server_end = memory_stream_pair()
    stream = SlowStream(client_end)
    async with connected(stream=stream, server_end=server_end) as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.call)
        await wait_all_tasks_blocked()
        nursery.start_soon(bench.call)
        for number in range(100):
            await server_end.send_all(frame(b"%d" % number, PING))
            await wait_all_tasks_blocked()
        assert stream.calls == 1
        stream.gate.set()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        bench.connection.end(errors.ConnectionClosed())
        await client_end.aclose()
        sent = await client_frames(server_end)
        assert [opcode for opcode, _ in sent] == [TEXT, PONG, TEXT]
        assert sent[1] == (PONG, b"99")


async def test_pings_do_not_hide_the_message_or_close_around_them():
    async with connected() as bench:
        first, second = message(MESSAGE, 4)
        await bench.server_end.send_all(
            first + frame(b"1", PING) + second + frame(b"2", PING) + close_frame(1000)
        )
        assert "1000" in (await bench.ended()).reason
        assert [each.method for each in bench.receiver.got] == ["m"]
        assert (await bench.client_frames())[-1] == (CLOSE, 1000)


# -- silence -------------------------------------------------------------------------------------------------------


async def test_a_silent_server_is_pinged_after_20_s_and_its_connection_ends_10_s_later(autojump_clock):
    began = trio.current_time()
    async with connected() as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.call)
        peer = WebSocketStream(bench.server_end)
        assert [each.opcode for each in await peer.receive_frames()] == [Opcode.TEXT]
        assert [each.opcode for each in await peer.receive_frames()] == [Opcode.PING]
        assert trio.current_time() - began == pytest.approx(SILENCE_SECONDS, abs=2 * TICK_SECONDS)
        assert bench.connection.close_reason is None
        error = await bench.ended()
        assert trio.current_time() - began == pytest.approx(
            SILENCE_SECONDS + PONG_SECONDS, abs=2 * TICK_SECONDS
        )
    assert type(error) is type(bench.outcome) is errors.ConnectionBroken
    assert "nothing came from the server for 30 s" in error.reason
    assert URL in error.reason


async def test_a_server_that_falls_silent_at_any_time_is_pinged_soon_after_20_s(autojump_clock):
    async with connected() as bench:
        peer = WebSocketStream(bench.server_end)
        await trio.sleep(1)
        await bench.server_end.send_all(frame(MESSAGE))
        began = trio.current_time()
        assert [each.opcode for each in await peer.receive_frames()] == [Opcode.PING]
        silent = trio.current_time() - began
        assert SILENCE_SECONDS <= silent <= 1.25 * SILENCE_SECONDS + 2 * TICK_SECONDS
        bench.connection.end(errors.ConnectionClosed())


@pytest.mark.parametrize(
    "answers",
    [[frame(b"", PONG)], [frame(b"", PING)], [frame(MESSAGE)], [b"\x81", b"\x02h", b"i"]],
    ids=["a pong", "a ping", "a message", "bytes of a message"],
)
async def test_any_data_from_the_server_after_a_ping_keeps_the_connection_open(answers, autojump_clock):
    async with connected() as bench:
        peer = WebSocketStream(bench.server_end)
        for answer in 3 * answers:
            while (await peer.receive_frames())[0].opcode is not Opcode.PING:
                pass
            await trio.sleep(PONG_SECONDS - 1)
            await bench.server_end.send_all(answer)
        await wait_all_tasks_blocked()
        assert trio.current_time() > 3 * SILENCE_SECONDS
        assert bench.connection.close_reason is None


async def test_an_active_server_is_not_pinged(autojump_clock):
    async with connected() as bench:
        for _ in range(20):
            await trio.sleep(SILENCE_SECONDS / 4)
            await bench.server_end.send_all(frame(MESSAGE))
        await wait_all_tasks_blocked()
        bench.connection.end(errors.ConnectionClosed())
        await bench.client_end.aclose()
        assert await client_frames(bench.server_end) == []


def test_a_stalled_program_is_not_blamed_on_the_server(monkeypatch):
    class Program:
        """The system clock, and a program that a test can block."""

        clock = MockClock(autojump_threshold=0)
        system = 0.0

        def monotonic(self):
            return self.system

        def block(self, seconds):
            self.clock.jump(seconds)
            self.system += seconds

    async def main():
        async with connected() as bench:
            peer = WebSocketStream(bench.server_end)
            with fail_soon():
                await peer.receive_frames()  # the ping
                program.block(100)  # and the server answers in the meantime
                await bench.server_end.send_all(frame(b"", PONG))
                await trio.sleep(1)
                assert bench.connection.close_reason is None
                await peer.receive_frames()  # the next one
                program.block(100)
                await trio.sleep(PONG_SECONDS - 1)
                assert bench.connection.close_reason is None
                await bench.ended()

    program = Program()
    monkeypatch.setattr(_timeouts, "time", program)
    assert STALL_SECONDS < 100
    trio.run(main, clock=program.clock)


# -- sending -------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=40), max_size=5), st.integers(1, 15))
def test_a_message_of_any_size_is_sent_in_masked_fragments(messages, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(websocket, "FRAGMENT_BYTES", size)

        async def main():
            client_end, server_end = memory_stream_pair()
            channel = opened(client_end)
            for each in messages:
                await channel.send_all(channel.frame(each))
            await client_end.aclose()
            return await client_frames(server_end)

        frames = trio.run(main)
    assert all(len(data) <= size for _, data in frames)
    assert sum(opcode == TEXT for opcode, _ in frames) == len(messages)
    assert b"".join(data for _, data in frames) == b"".join(messages)


# -- a connection and its peer -------------------------------------------------------------------------------------


class Bench:
    def __init__(self, connection, client_end, server_end, receiver):
        self.connection = connection
        self.client_end = client_end
        self.server_end = server_end
        self.receiver = receiver
        self.outcome = None

    async def call(self):
        """Send a request, and record its outcome."""
        try:
            self.outcome = json.loads(bytes(await self.connection.calls.request("call", None, "window")))
        except errors.CodexError as exc:
            self.outcome = exc

    async def ended(self):
        """Wait for the end of the connection, and return why it ended."""
        with fail_soon():
            reason = await self.connection.wait_ended()
        await wait_all_tasks_blocked()
        return reason.exception()

    async def client_frames(self):
        await trio.aclose_forcefully(self.client_end)
        return await client_frames(self.server_end)


async def client_frames(server_end):
    """Return the frames that a client sent before it closed: opcodes with data or close codes."""
    peer = WebSocketStream(server_end)
    with fail_soon():
        while await peer.receive_some():
            pass
    frames = []
    for each in peer.frames:
        data = bytes(each.data)
        if each.opcode is Opcode.CLOSE:
            data = int.from_bytes(data[:2]) if data else None
        frames.append((int(each.opcode), data))
    return frames


def unmasked(data):
    """Return the payload of a client's short frame."""
    return bytes(byte ^ data[2 + index % 4] for index, byte in enumerate(data[6:]))


@asynccontextmanager
async def connected(*, stream=None, server_end=None, max_message_bytes=10_000):
    if stream is None:
        stream, server_end = memory_stream_pair()
    receiver, timeouts = StubReceiver(), Timeouts()

    async def close(services):
        connection.end(errors.ConnectionClosed("closed by the test"))
        services.stop()

    async with open_services(close) as services:
        connection = Connection(
            services, opened(stream, max_message_bytes), Limits(64, 120), timeouts, Secrets({})
        )
        services.start_service(timeouts.watch)
        connection.start(receiver)
        with fail_soon():
            yield Bench(connection, stream, server_end, receiver)
