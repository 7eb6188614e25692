"""WebSocket frames as a channel: one JSON-RPC message for each text message.

The protocol is that of ``websockets``, without I/O. The reader never writes: it leaves pongs and the answer to a close
frame to the writer, and of several pongs, only the newest is sent.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio
from websockets.exceptions import PayloadTooBig
from websockets.frames import Frame as WebSocketFrame
from websockets.frames import Opcode

from trio_codex._core.framing import LONG_LINE_BYTES
from trio_codex._link.channel import CHUNK_BYTES, LONG_LINE_CHUNK_BYTES, SHARED_CHUNK_BYTES, Channel
from trio_codex.errors import ConnectionBroken, escaped_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from websockets.client import ClientProtocol

    from trio_codex._core.framing import Frame
    from trio_codex._core.secrets import Secrets

FRAGMENT_BYTES: Final = 8 * 1024 * 1024
"""Longer messages are sent in fragments: the server refuses frames of more than 16 MiB."""

CLOSE_SECONDS: Final = 1.0
"""Timeout for sending the close frame to a server that does not read."""


class WebSocketChannel(Channel):
    """Messages over a WebSocket whose handshake is complete.

    Args:
        stream: The underlying byte stream.
        protocol: The state of the protocol.
        max_message_bytes: See :class:`~trio_codex._link.channel.Channel`.
        address: Where the server is, for messages.
        secrets: Redacted from the reason with which the server closes.
    """

    has_peers: bool = True

    def __init__(
        self,
        stream: trio.abc.Stream,
        protocol: ClientProtocol,
        max_message_bytes: int,
        address: str,
        secrets: Secrets,
    ) -> None:
        self.max_message_bytes = max_message_bytes
        self._stream = stream
        self._protocol = protocol
        self._address = address
        self._secrets = secrets
        self._unfinished: bytearray | None = None
        """The fragments of a text message so far. One buffer, because a server may send any number of empty ones."""

    # -- sending -----------------------------------------------------------------------------------------------

    def frame(self, message: bytes) -> bytes:
        """Return the frames of a message."""
        opcode = Opcode.TEXT
        frames: list[bytes] = []
        for start in range(0, len(message) or 1, FRAGMENT_BYTES):
            piece = message[start : start + FRAGMENT_BYTES]
            end = start + FRAGMENT_BYTES >= len(message)
            frames.append(WebSocketFrame(opcode, piece, fin=end).serialize(mask=True))
            opcode = Opcode.CONT
        return frames[0] if len(frames) == 1 else b"".join(frames)

    async def send_all(self, data: bytes) -> None:
        """See :meth:`~trio_codex._link.channel.Channel.send_all`."""
        await self._stream.send_all(data)

    def ping(self) -> bytes:
        """See :meth:`~trio_codex._link.channel.Channel.ping`."""
        return WebSocketFrame(Opcode.PING, b"").serialize(mask=True)

    # -- receiving ---------------------------------------------------------------------------------------------

    async def receive(self, *, shared: bool) -> Sequence[Frame] | None:
        """See :meth:`~trio_codex._link.channel.Channel.receive`.

        Raises:
            trio.BrokenResourceError: The transport failed, or the server violated the protocol.
        """
        protocol = self._protocol
        # The handshake may have read the first messages.
        messages = self._take_received()
        if messages:
            await trio.lowlevel.checkpoint()
            return messages
        if protocol.close_rcvd is not None:
            await trio.lowlevel.checkpoint()
            return None
        if protocol.parser_exc is not None:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError from protocol.parser_exc
        if shared:
            size = SHARED_CHUNK_BYTES
        else:
            is_long = self._unfinished is not None and len(self._unfinished) >= CHUNK_BYTES
            size = LONG_LINE_CHUNK_BYTES if is_long else CHUNK_BYTES
        chunk = await self._stream.receive_some(size)
        if not chunk:
            return None
        protocol.receive_data(chunk)
        return self._take_received()

    def _take_received(self) -> list[Frame]:
        """Return the received messages, and keep the protocol's answer to other frames in ``control``."""
        for data in self._protocol.data_to_send():
            if data:
                # Keep only the last: nothing follows a close frame, and the newest pong answers all pings.
                self.control = data
        messages: list[Frame] = []
        for frame in self._protocol.events_received():
            assert isinstance(frame, WebSocketFrame)  # the handshake is over
            opcode = frame.opcode
            if opcode is Opcode.TEXT and frame.fin:
                messages.append(bytes(frame.data))
            elif opcode is Opcode.TEXT:
                self._unfinished = bytearray(frame.data)
            elif opcode is Opcode.CONT and self._unfinished is not None:
                self._unfinished += frame.data
                if frame.fin:
                    whole, self._unfinished = self._unfinished, None
                    messages.append(whole if len(whole) >= LONG_LINE_BYTES else bytes(whole))
        return messages

    # -- the other side ----------------------------------------------------------------------------------------

    def explain(self, reason: str, phase: str) -> ConnectionBroken:
        """Return the error, with the code and the reason with which the server closed."""
        protocol = self._protocol
        if protocol.close_rcvd is not None:
            told = escaped_line(self._secrets.hide_if_cut(str(protocol.close_rcvd)))
            reason = f"the server closed the connection: {told}"
        elif isinstance(protocol.parser_exc, PayloadTooBig):
            limit = self.max_message_bytes
            reason = f"a message from the server is longer than max_line_bytes allows ({limit} bytes)"
        elif protocol.parser_exc is not None:
            reason = f"the server broke the protocol: {protocol.parser_exc}"
        return ConnectionBroken(f"{reason} ({self._address})", phase)

    async def close(self) -> None:
        """Send a close frame, unless the server does not read, and close the stream."""
        await trio.lowlevel.checkpoint()
        if self._protocol.close_sent is None and self._protocol.close_rcvd is None:
            with trio.move_on_after(CLOSE_SECONDS):  # noqa: ASYNC912  # send_all is a checkpoint unless it fails
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
                    await self._stream.send_all(
                        WebSocketFrame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True)
                    )
        await trio.aclose_forcefully(self._stream)
