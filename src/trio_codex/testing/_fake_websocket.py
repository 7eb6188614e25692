"""The WebSocket of a scripted server: the handshake, lines as messages, and frames that no server should send.

It handles frames, and is independent of the protocol of Codex. Outgoing frames are encoded here, because a library would
not send invalid ones.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

import trio

if TYPE_CHECKING:
    from websockets.frames import Frame
    from websockets.http11 import Request
    from websockets.protocol import Protocol

WebSocketFault: TypeAlias = Literal["fragments", "trickle", "masked", "opcode", "pings", "close", "half_open"]
"""Faults of a WebSocket; see :meth:`FakeServer.fault`."""

WEBSOCKET_FAULTS: Final = frozenset(get_args(WebSocketFault))

ARGUMENTS: Final = {"fragments": 1, "opcode": 3, "pings": 1000, "close": 1011}
"""The faults that take a number, and its default."""

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
CLOSE: Final = 0x8
PING: Final = 0x9


def encode_frame(
    data: bytes = b"",
    opcode: int = TEXT,
    *,
    fin: bool = True,
    masked: bool = False,
    reserved: int = 0,
    size: int | None = None,
) -> bytes:
    """Encode a frame as a server does, whether it is allowed or not.

    Args:
        data: The payload.
        opcode: Any number of four bits.
        fin: Whether it ends its message.
        masked: Whether it is masked, as only clients may.
        reserved: The three reserved bits.
        size: The length in the header, if it differs from that of the payload.
    """
    size = len(data) if size is None else size
    head, mask = bytes([fin << 7 | reserved << 4 | opcode]), masked << 7
    if size < 126:
        head += bytes([mask | size])
    elif size < 2**16:
        head += bytes([mask | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([mask | 127]) + size.to_bytes(8, "big")
    return head + (bytes(4) if masked else b"") + data


def argument_of(fault: str, argument: object) -> int:
    """Return the number that a fault uses; 0 if it takes none.

    Raises:
        ValueError: The fault does not take this argument.
    """
    if argument is None:
        return ARGUMENTS.get(fault, 0)
    if not isinstance(argument, int) or argument < 1 or fault not in ARGUMENTS:
        raise ValueError(f"the fault {fault!r} does not take {argument!r}")
    return argument


class WebSocketStream(trio.abc.Stream):
    """Lines over a WebSocket: each line is a text message, and an incomplete line is a fragment.

    Args:
        stream: The underlying stream; ``None`` until a client has been accepted.
        protocol: Decodes the client's frames.

    Attributes:
        stream: The underlying stream, for bytes that are not lines.
        frames: All frames from the client.
    """

    def __init__(self, stream: trio.abc.Stream | None = None, protocol: Protocol | None = None) -> None:
        self.stream = stream
        self.frames: list[Frame] = []
        self._protocol = protocol
        self._sending = trio.StrictFIFOLock()
        self._in_message = False
        self._answers_pings = False
        self._is_half_open = False

    async def accept(self, stream: trio.abc.Stream) -> Request:
        """Perform the handshake with a client, and return its request.

        Raises:
            trio.BrokenResourceError: The client disconnected, or did not send a valid handshake.
        """
        from websockets.http11 import Request
        from websockets.server import ServerProtocol

        protocol = ServerProtocol(max_size=None)
        while not protocol.events:
            chunk = await stream.receive_some()
            if not chunk or protocol.handshake_exc is not None:
                raise trio.BrokenResourceError("the client sent no request")
            protocol.receive_data(chunk)
        [request] = protocol.events_received()
        assert isinstance(request, Request)
        protocol.send_response(protocol.accept(request))
        await stream.send_all(b"".join(protocol.data_to_send()))
        self.stream, self._protocol, self.frames = stream, protocol, []
        self._answers_pings, self._in_message, self._is_half_open = True, False, False
        return request

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send lines. See :class:`trio.abc.SendStream`."""
        *lines, rest = bytes(data).split(b"\n")
        frames: list[bytes] = []
        for line in lines:
            frames.append(encode_frame(line, CONTINUATION if self._in_message else TEXT))
            self._in_message = False
        if rest:
            frames.append(encode_frame(rest, CONTINUATION if self._in_message else TEXT, fin=False))
            self._in_message = True
        await self.send(b"".join(frames))

    async def send(self, data: bytes) -> None:
        """Send any bytes."""
        async with self._sending:
            if self.stream is None:
                raise trio.BrokenResourceError("no client has attached")
            if not self._is_half_open:
                await self.stream.send_all(data)

    async def send_wrong(self, line: bytes, fault: str, number: int) -> None:
        """Send a line with a fault of :data:`WEBSOCKET_FAULTS`."""
        match fault:
            case "fragments":
                pieces = [line[start : start + number] for start in range(0, len(line) or 1, number)]
                last = len(pieces) - 1
                data = [
                    encode_frame(piece, CONTINUATION if index else TEXT, fin=index == last)
                    for index, piece in enumerate(pieces)
                ]
            case "trickle":
                data = [bytes([byte]) for byte in encode_frame(line)]
            case "masked":
                data = [encode_frame(line, masked=True)]
            case "opcode":
                data = [encode_frame(line, number)]
            case "pings":
                pings = b"".join(encode_frame(b"%d" % each, PING) for each in range(number))
                data = [pings + encode_frame(line)]
            case "close":
                data = [encode_frame(number.to_bytes(2, "big"), CLOSE)]
            case _:
                self._is_half_open = True
                data = []
        await trio.lowlevel.checkpoint()
        for each in data:
            await self.send(each)

    async def wait_send_all_might_not_block(self) -> None:
        """See :class:`trio.abc.SendStream`."""
        await trio.lowlevel.checkpoint()

    async def receive_frames(self) -> list[Frame]:
        """Return the frames of the next chunk; none at the end of the stream."""
        from websockets.frames import Frame
        from websockets.protocol import OPEN, SERVER, Protocol

        if self._protocol is None:
            self._protocol = Protocol(SERVER, state=OPEN, max_size=None)
        assert self.stream is not None
        while chunk := await self.stream.receive_some():
            self._protocol.receive_data(chunk)
            if self._protocol.parser_exc is not None:
                raise AssertionError("the client broke the protocol") from self._protocol.parser_exc
            frames = [event for event in self._protocol.events_received() if isinstance(event, Frame)]
            self.frames += frames
            if frames:
                return frames
        return []

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return received messages as lines; empty once the client has closed. See :class:`trio.abc.ReceiveStream`."""
        from websockets.frames import Opcode

        await trio.lowlevel.checkpoint()
        lines: list[bytes] = []
        while not lines:
            frames = await self.receive_frames()
            if self._answers_pings and self._protocol is not None:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self.send(b"".join(self._protocol.data_to_send()))
            if not frames or frames[-1].opcode is Opcode.CLOSE:
                break
            if not self._is_half_open:
                lines = [
                    bytes(each.data) + b"\n" * each.fin
                    for each in frames
                    if each.opcode in (Opcode.TEXT, Opcode.CONT)
                ]
        return b"".join(lines)

    async def aclose(self) -> None:
        """Close the connection, without a close frame."""
        if self.stream is not None:
            await self.stream.aclose()
        await trio.lowlevel.checkpoint()
