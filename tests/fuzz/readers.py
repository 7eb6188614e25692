"""A fuzz target for the code that reads the server's output, guided by coverage (atheris).

Run as a program: ``readers.py [OPTION OF LIBFUZZER…] DIRECTORY…``. The first byte of an input selects the reader. Any
exception is a finding, except those that the reader's docstring allows.
"""

import sys
from contextlib import suppress

import atheris
import msgspec

MODULES = [
    "_core.framing",
    "_core.rpc",
    "_core.json",
    "wire._convert",
    "wire._converter",
    "wire._flat",
    "wire._unions",
]

with atheris.instrument_imports(include=[f"trio_codex.{name}" for name in MODULES]):
    from trio_codex import wire
    from trio_codex._core.framing import OVERSIZE_HEAD_BYTES, LineBuffer, OversizeLine
    from trio_codex._core.rpc import (
        Junk,
        LateReply,
        Notification,
        OversizeNotification,
        Reply,
        RpcState,
        ServerRequest,
    )
    from trio_codex.errors import DecodeError, RemoteProtocolError, RpcError
    from trio_codex.wire import _convert

NOTIFICATIONS = sorted(wire.NOTIFICATIONS)
SERVER_REQUESTS = sorted(wire.SERVER_REQUESTS)


def framing(data):
    """Split a stream. The first byte is the bound, the second the chunk size. Allows no exception."""
    if len(data) < 2:
        return
    limit, step, stream = data[0] + 1, data[1] + 1, data[2:]
    lines = LineBuffer(limit)
    frames = []
    for start in range(0, len(stream), step):
        frames += lines.feed(stream[start : start + step])
        assert lines.held_bytes <= max(limit, OVERSIZE_HEAD_BYTES)
    *expected, rest = stream.split(b"\n")
    left = lines.feed_eof()
    assert frames == [
        line if len(line) <= limit else OversizeLine(line[:OVERSIZE_HEAD_BYTES], len(line))
        for line in expected
    ]
    assert (0 if left is None else left.size) == len(rest)


def rpc(data):
    """Receive lines in a state with two pending requests and an abandoned one. Allows no exception."""
    if not data:
        return
    lines, state = LineBuffer(4 * data[0] + 64), RpcState(4 * data[0] + 64)
    for token in "abc":
        state.request("thread/read", None, token)
    state.abandon(3)
    waiting, asked = {"a", "b"}, set()
    frames = lines.feed(data[1:])
    if (rest := lines.feed_eof()) is not None:
        frames.append(rest)
    for message in state.receive(frames):
        match message:
            case Reply(token=token, result=result, error=error):
                waiting.remove(token)
                assert (result is None) != (error is None)
                assert error is None or isinstance(error, RpcError | RemoteProtocolError)
            case LateReply(token=token):
                assert token == "c"
            case ServerRequest(id=request_id):
                assert request_id not in asked
                asked.add(request_id)
            case list():
                assert message
                assert all(isinstance(each, Notification) for each in message)
            case _:
                assert isinstance(message, Junk | OversizeNotification)
    assert state.pending == len(waiting)
    assert state.server_requests == asked
    assert all(state.respond(request_id, {}) for request_id in asked)


def notification(data):
    """Decode a notification. The first byte selects the method, and the rest is the parameters. Allows no exception."""
    if not data:
        return
    method = NOTIFICATIONS[data[0] % len(NOTIFICATIONS)]
    read = _convert.decode_notification_json(method, data[1:])
    if isinstance(read, wire.UnknownNotification):
        assert read.problem is not None
        assert read.raw is None or read.raw == msgspec.json.decode(data[1:])
    else:
        # The fast path skips unknown members without checking their encoding.
        with suppress(UnicodeDecodeError):
            assert _convert.decode_notification(method, msgspec.json.decode(data[1:])) == read
        assert _convert.decode_notification_json(method, written(read)) == read


def server_request(data):
    """Decode a server request, like :func:`notification`. Allows ``DecodeError``, for which the client denies the request."""
    if not data:
        return
    try:
        params = msgspec.json.decode(data[1:])
    except (ValueError, RecursionError):
        return
    method = SERVER_REQUESTS[data[0] % len(SERVER_REQUESTS)]
    try:
        read = _convert.decode_server_request(method, params)
    except DecodeError:
        return
    assert _convert.decode_server_request(method, msgspec.json.decode(written(read))) == read


def written(value):
    """Encode a decoded value. Decoding the result must return an equal value."""
    return msgspec.json.encode(_convert.encode(value))


READERS = (framing, rpc, notification, server_request)


def read(data):
    """Pass an input to the reader that its first byte selects."""
    if data:
        READERS[data[0] % len(READERS)](data[1:])


if __name__ == "__main__":
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()
