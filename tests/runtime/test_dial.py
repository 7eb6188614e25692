"""Any response to a handshake, in any chunks, opens a channel or raises an error with a hint."""

import base64
import hashlib
import itertools
import re
from contextlib import suppress

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st
from trio.testing import memory_stream_pair

from runtime.connection_peer import fail_soon
from trio_codex import errors
from trio_codex._link.dial import SHOWN_CHARACTERS, Dialer, parse_address
from trio_codex._link.websocket import WebSocketChannel
from websocket_peer import close_frame, frame

TOKEN = "open-sesame-0123456789"
KEY = b"(the key)"
"""Placeholder for the header that proves that the server has read the request."""

UPGRADE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    + KEY
    + b"\r\n"
)

pieces = st.binary(max_size=20) | st.sampled_from(
    [
        UPGRADE + b"\r\n",
        UPGRADE,
        UPGRADE + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
        UPGRADE + b"Sec-WebSocket-Protocol: chat\r\n\r\n",
        UPGRADE.replace(b"websocket", b"h2c") + b"\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 401 Unauthorized\r\n",
        b"HTTP/1.0 101 Switching Protocols\r\n",
        b"HTTP/1.1 999 \xff\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"ffffffffff\r\n",
        b"0\r\n\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"x" * 9000,
        b"{}\n",
        TOKEN.encode(),
        frame(b"{}"),
        close_frame(1013, b"later"),
    ]
)


async def dialed(answer, points):
    """Return the channel or error that results from a response split at these points."""
    client_end, server_end = memory_stream_pair()

    async def open_stream():
        await trio.lowlevel.checkpoint()
        return client_end

    dialer = Dialer(parse_address("ws://127.0.0.1:1", codex_home=None, insecure=False), TOKEN, 1000, None)
    dialer._open_stream = open_stream

    async def serve():
        request = await server_end.receive_some()
        assert b"Bearer " + TOKEN.encode() in request
        key = re.search(rb"Sec-WebSocket-Key: (\S+)", request)[1]
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        data = answer.replace(KEY, accept)
        cuts = sorted({0, len(data), *(each % (len(data) + 1) for each in points)})
        with suppress(trio.BrokenResourceError):  # the client has seen enough
            for start, end in itertools.pairwise(cuts):
                await server_end.send_all(data[start:end])
            await server_end.send_eof()

    with fail_soon():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            try:
                channel = await dialer.dial()
            except errors.StartError as exc:
                return exc
            # Bytes after the response are received, or end the connection.
            try:
                while await channel.receive(shared=False) is not None:
                    pass
            except trio.BrokenResourceError:
                pass
            assert channel.explain("it ended", "running").reason
            return channel


@given(st.lists(pieces, max_size=6), st.lists(st.integers(0, 20_000), max_size=20))
@example([UPGRADE + b"\r\n", frame(b"{}")], [3, 100, 130])
@example([UPGRADE, b"Content-Length: 5\r\n", b"\r\n"], [])
@example([b"HTTP/1.1 401 Unauthorized\r\n", b"Content-Length: 99999999999999999999\r\n", b"\r\n"], [])
@example([b"HTTP/1.1 200 OK\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n", b"ffffffffff\r\n"], [])
def test_any_response_opens_a_channel_or_raises_an_error_with_a_hint(answer, points):
    outcome = trio.run(dialed, b"".join(answer), points)
    if isinstance(outcome, WebSocketChannel):
        assert b"".join(answer).startswith(b"HTTP/1.1 101")
        return
    assert type(outcome) is errors.AttachError
    assert outcome.hint
    assert outcome.phase == "connect"
    assert len(outcome.problem) < 4 * SHOWN_CHARACTERS
    assert outcome.problem.isprintable()
    assert TOKEN not in str(outcome)


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_valid_response_in_any_chunks_opens_a_channel(size):
    answer = UPGRADE + b"\r\n" + frame(b"{}")
    outcome = trio.run(dialed, answer, range(0, 1000, size))
    assert isinstance(outcome, WebSocketChannel)
