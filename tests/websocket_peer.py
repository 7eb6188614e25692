"""A WebSocket server that does what a test wants to each connection, from the handshake on; and messages in fragments."""

from contextlib import asynccontextmanager

import trio

from trio_codex.testing._fake import FakeServer
from trio_codex.testing._fake_websocket import CLOSE, CONTINUATION, PING, TEXT, WebSocketStream
from trio_codex.testing._fake_websocket import encode_frame as frame

__all__ = ["BINARY", "CLOSE", "CONTINUATION", "PING", "PONG", "TEXT", "WebSocketStream", "frame"]

BINARY = 0x2
PONG = 0xA


def message(data, *sizes, opcode=TEXT):
    """Return the frames of a message whose first fragments have these sizes."""
    frames = []
    for size in sizes:
        frames.append(frame(data[:size], opcode, fin=False))
        data, opcode = data[size:], CONTINUATION
    return [*frames, frame(data, opcode)]


def close_frame(code=None, reason=b""):
    return frame(b"" if code is None else code.to_bytes(2) + reason, CLOSE)


async def accept(stream):
    """Perform the handshake; return the lines of the client, and its request."""
    peer = WebSocketStream()
    return peer, await peer.accept(stream)


async def serve_codex(stream):
    """Be a server that answers what :class:`FakeServer` answers by itself, until the client leaves."""
    peer, _ = await accept(stream)
    await FakeServer(peer).serve()


@asynccontextmanager
async def listening(serve, *, ssl_context=None):
    """Serve each connection to a port of loopback with ``serve(stream)``; yield ``HOST:PORT``.

    A client may leave at any time: that the stream broke is then no error.
    """

    async def handle(stream):
        try:
            await serve(stream)
        except* trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        if ssl_context is not None:
            listener = trio.SSLListener(listener, ssl_context, https_compatible=True)
        await nursery.start(trio.serve_listeners, handle, [listener])
        yield f"127.0.0.1:{port}"
        nursery.cancel_scope.cancel()
