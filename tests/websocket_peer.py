"""A WebSocket server under the control of a test, over any stream: single frames, the handshake, or a scripted server.

It encodes its frames by itself, so that it can also send those that no library would.
"""

from contextlib import asynccontextmanager

import trio
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN, SERVER, Protocol
from websockets.server import ServerProtocol

from trio_codex.testing._fake import FakeServer

CLOSE = 0x8
PING = 0x9
PONG = 0xA
TEXT = 0x1
BINARY = 0x2
CONTINUATION = 0x0


def frame(data=b"", opcode=TEXT, *, fin=True, masked=False, reserved=0, size=None):
    """Encode a frame as a server does, whether it is allowed or not.

    Args:
        data: The payload.
        opcode: Any number of four bits.
        fin: Whether it ends its message.
        masked: Whether it is masked, as only clients may.
        reserved: The three reserved bits.
        size: The length that the header has, if not that of the payload.
    """
    size = len(data) if size is None else size
    head, mask = bytes([fin << 7 | reserved << 4 | opcode]), masked << 7
    if size < 126:
        head += bytes([mask | size])
    elif size < 2**16:
        head += bytes([mask | 126]) + size.to_bytes(2)
    else:
        head += bytes([mask | 127]) + size.to_bytes(8)
    return head + (bytes(4) if masked else b"") + data


def message(data, *sizes, opcode=TEXT):
    """Return the frames of a message whose first fragments have these sizes."""
    frames = []
    for size in sizes:
        frames.append(frame(data[:size], opcode, fin=False))
        data, opcode = data[size:], CONTINUATION
    return [*frames, frame(data, opcode)]


def close_frame(code=None, reason=b""):
    return frame(b"" if code is None else code.to_bytes(2) + reason, CLOSE)


class PeerStream(trio.abc.Stream):
    """Lines over a WebSocket, for :class:`FakeServer`.

    Args:
        stream: The stream below.
        protocol: The protocol after the handshake; a new one by default.

    Attributes:
        stream: The stream below, for frames that are no lines.
        frames: All frames of the client.
    """

    def __init__(self, stream, protocol=None):
        self.stream = stream
        self.frames = []
        self._protocol = Protocol(SERVER, state=OPEN, max_size=None) if protocol is None else protocol

    async def send_all(self, data):
        await self.stream.send_all(b"".join(frame(line) for line in data.splitlines()))

    async def wait_send_all_might_not_block(self):
        await self.stream.wait_send_all_might_not_block()

    async def receive_frames(self):
        """Return the frames of the next chunk; none at the end of the stream."""
        while chunk := await self.stream.receive_some():
            self._protocol.receive_data(chunk)
            assert self._protocol.parser_exc is None, "the client broke the protocol"
            frames = [event for event in self._protocol.events_received() if isinstance(event, Frame)]
            self.frames += frames
            if frames:
                return frames
        return []

    async def receive_some(self, max_bytes=None):
        """Return the messages that came, as lines; empty once the client has closed."""
        lines = []
        while not lines:
            frames = await self.receive_frames()
            if not frames or frames[-1].opcode is Opcode.CLOSE:
                break
            lines = [
                bytes(each.data) + b"\n" * each.fin
                for each in frames
                if each.opcode in (Opcode.TEXT, Opcode.CONT)
            ]
        return b"".join(lines)

    async def aclose(self):
        await self.stream.aclose()


async def accept(stream):
    """Perform the handshake; return the lines of the client, and its request."""
    protocol = ServerProtocol(max_size=None)
    while not protocol.events:
        chunk = await stream.receive_some()
        if not chunk:
            raise trio.BrokenResourceError("the client left before it had sent a request")
        protocol.receive_data(chunk)
    [request] = protocol.events_received()
    assert isinstance(request, Request)
    protocol.send_response(protocol.accept(request))
    await stream.send_all(b"".join(protocol.data_to_send()))
    return PeerStream(stream, protocol), request


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
