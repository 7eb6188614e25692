"""A fuzz target of all that reads what the server writes, guided by the coverage of those modules (atheris).

Run as a program: ``readers.py [OPTION OF LIBFUZZER…] DIRECTORY…``. The first byte of an input names the reader. An
exception is a finding; each reader documents those that it allows.
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
    """The first byte is the bound, the second how the rest is cut. Accepts no exception."""
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
    """Lines of a server to a client that has three requests open, one of them given up. Accepts no exception."""
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
    """The first byte names the method, the rest is its parameters. Accepts no exception."""
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
    """As :func:`notification`. Accepts ``DecodeError``, which is what the caller denies the request for."""
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
    """Encode a value that was read. Reading it again must give the same value."""
    return msgspec.json.encode(_convert.encode(value))


READERS = (framing, rpc, notification, server_request)


def read(data):
    """Pass an input to its reader."""
    if data:
        READERS[data[0] % len(READERS)](data[1:])


if __name__ == "__main__":
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()
