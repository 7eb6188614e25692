"""A WebSocket server whose connections a test controls from the handshake on, and a function that fragments messages."""

from contextlib import asynccontextmanager

import trio

from trio_codex.testing._fake import FakeServer
from trio_codex.testing._fake_websocket import CLOSE, CONTINUATION, PING, TEXT, WebSocketStream
from trio_codex.testing._fake_websocket import encode_frame as frame

__all__ = ["BINARY", "CLOSE", "CONTINUATION", "PING", "PONG", "TEXT", "WebSocketStream", "frame"]

BINARY = 0x2
PONG = 0xA


def message(data, *sizes, opcode=TEXT):
    """Return the frames of a message; its first fragments have these sizes."""
    frames = []
    for size in sizes:
        frames.append(frame(data[:size], opcode, fin=False))
        data, opcode = data[size:], CONTINUATION
    return [*frames, frame(data, opcode)]


def close_frame(code=None, reason=b""):
    return frame(b"" if code is None else code.to_bytes(2) + reason, CLOSE)


async def accept(stream):
    """Perform the handshake, and return the client's lines and its request."""
    peer = WebSocketStream()
    return peer, await peer.accept(stream)


async def serve_codex(stream):
    """Serve with the default responses of :class:`FakeServer` until the client disconnects."""
    peer, _ = await accept(stream)
    await FakeServer(peer).serve()


@asynccontextmanager
async def listening(serve, *, ssl_context=None):
    """Serve each connection to a loopback port with ``serve(stream)``, and yield ``HOST:PORT``.

    A client may disconnect at any time, so a broken stream is not an error.
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
