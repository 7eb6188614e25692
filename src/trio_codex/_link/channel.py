"""The interface of transports: sends and receives messages, and explains why a connection ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

import trio

from trio_codex._core.framing import LineBuffer
from trio_codex.errors import ConnectionBroken

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_codex._core.framing import Frame

CHUNK_BYTES: Final = 64 * 1024
"""How much is read at once. It fits into the processor's cache."""

LONG_LINE_CHUNK_BYTES: Final = 256 * 1024
"""How much is read at once in the middle of a long line. Allocating larger buffers costs more than they save."""

SHARED_CHUNK_BYTES: Final = 1024 * 1024
"""How much is read at once if hundreds of consumers share it: the capacity of the pipe."""


class DirectSendStream(trio.abc.SendStream):
    """A stream that also supports non-blocking writes from any task."""

    @abstractmethod
    def send_nowait(self, data: bytes | memoryview) -> int:
        """Write as much as possible without blocking; return the number of bytes written.

        Must not be called while a task is in :meth:`send_all`.

        Raises:
            trio.BrokenResourceError: The reading side is closed.
            trio.ClosedResourceError: This side is closed.
        """


class Channel(ABC):
    """A transport of whole messages in both directions. One task receives, and one task at a time sends.

    Attributes:
        max_message_bytes: The size limit of an inbound message.
        has_peers: Whether the server has other connections, and may send them the same requests.
        control: A frame that the transport itself has to send, such as a pong. The reader passes it to the writer.
    """

    max_message_bytes: int
    has_peers: bool = False
    control: bytes = b""

    @property
    def owned(self) -> bool:
        """Whether this client started the server, and so may kill it."""
        return False

    # -- messages ----------------------------------------------------------------------------------------------

    @abstractmethod
    def frame(self, message: bytes) -> bytes:
        """Return the bytes that are sent for a message."""

    @abstractmethod
    async def send_all(self, data: bytes) -> None:
        """Send framed messages.

        Raises:
            trio.BrokenResourceError: The other side no longer reads.
            trio.ClosedResourceError: This side is closed.
        """

    def nonblocking_send(self) -> Callable[[bytes], int] | None:
        """Return the function that sends as much as possible without blocking; ``None`` if only the writer may send.

        It returns the number of bytes sent, and raises what :meth:`send_all` raises. It must not be called while a task
        is in :meth:`send_all`. Returning the function saves a call in every round trip.
        """
        return None

    @abstractmethod
    async def receive(self, *, shared: bool) -> Sequence[Frame] | None:
        """Wait for messages; return those that are complete, which may be none, or ``None`` at the end.

        Args:
            shared: Whether many consumers share the messages, so that more may be read at once.

        Raises:
            trio.BrokenResourceError: The transport failed.
            trio.ClosedResourceError: This side is closed.
        """

    def ping(self) -> bytes:
        """Return a frame that the server has to answer; empty if the transport has none."""
        return b""

    async def close(self) -> None:
        """Close the transport. Bounded."""
        await trio.lowlevel.checkpoint()

    # -- the other side ----------------------------------------------------------------------------------------

    def explain(self, reason: str, phase: str) -> ConnectionBroken:
        """Return the error for a connection that ends for a known reason."""
        return ConnectionBroken(reason, phase)

    async def diagnose(self, reason: str, phase: str) -> ConnectionBroken:
        """Wait, for a bounded time, until the cause is known; return the error for a connection that broke."""
        await trio.lowlevel.checkpoint()
        return self.explain(reason, phase)

    def kill(self) -> None:
        """Kill the server if this client started it."""
        return


class LineChannel(Channel):
    """Newline-delimited messages over a pair of byte streams, such as pipes, a socket or memory."""

    def __init__(
        self, send_stream: trio.abc.SendStream, receive_stream: trio.abc.ReceiveStream, max_message_bytes: int
    ) -> None:
        self.max_message_bytes = max_message_bytes
        self._send_stream = send_stream
        self._receive_stream = receive_stream
        self._lines = LineBuffer(max_message_bytes)

    def frame(self, message: bytes) -> bytes:
        return message + b"\n"

    async def send_all(self, data: bytes) -> None:
        await self._send_stream.send_all(data)

    def nonblocking_send(self) -> Callable[[bytes], int] | None:
        stream = self._send_stream
        return stream.send_nowait if isinstance(stream, DirectSendStream) else None

    async def close(self) -> None:
        """Close both streams at once."""
        await trio.aclose_forcefully(self._send_stream)
        await trio.aclose_forcefully(self._receive_stream)

    async def receive(self, *, shared: bool) -> Sequence[Frame] | None:
        """See :meth:`Channel.receive`. The rest of a stream that ends within a line is the last message."""
        if shared:
            size = SHARED_CHUNK_BYTES
        else:
            size = LONG_LINE_CHUNK_BYTES if self._lines.unfinished_bytes >= CHUNK_BYTES else CHUNK_BYTES
        try:
            chunk = await self._receive_stream.receive_some(size)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            if (rest := self._lines.feed_eof()) is None:
                raise
            return [rest]  # noqa: ASYNC910  # the read that failed was a checkpoint
        if not chunk:
            rest = self._lines.feed_eof()
            return None if rest is None else [rest]
        return self._lines.feed(chunk)
