"""The interface of transports: sends and receives messages, and explains why a connection ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

import trio

from trio_codex._core.framing import LineBuffer
from trio_codex.errors import ConnectionBroken

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_codex._core.framing import Frame

CHUNK_BYTES: Final = 64 * 1024
"""How much is read at once. It fits into the processor's cache."""

LONG_LINE_CHUNK_BYTES: Final = 256 * 1024
"""How much is read at once in the middle of a long line. Larger buffers cost more to allocate than they save."""

SHARED_CHUNK_BYTES: Final = 1024 * 1024
"""How much is read at once if hundreds of consumers share it. It is the capacity of the pipe."""


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
    """

    max_message_bytes: int

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

    def send_nowait(self, data: bytes) -> int:
        """Send as much of a framed message as possible without blocking; return the number of bytes sent.

        Must not be called while a task is in :meth:`send_all`. Raises the same exceptions.
        """
        return 0

    @abstractmethod
    async def receive(self, *, shared: bool) -> Sequence[Frame] | None:
        """Wait for messages; return those that are complete, which may be none, or ``None`` at the end.

        Args:
            shared: Whether many consumers share the messages, so that more may be read at once.

        Raises:
            trio.BrokenResourceError: The transport failed.
            trio.ClosedResourceError: This side is closed.
        """

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
    """Newline-delimited messages over a pair of byte streams, such as pipes, a socket or memory.

    Args:
        send_stream: Where lines go.
        receive_stream: Where lines come from.
        max_message_bytes: See :class:`Channel`.
    """

    def __init__(
        self, send_stream: trio.abc.SendStream, receive_stream: trio.abc.ReceiveStream, max_message_bytes: int
    ) -> None:
        self.max_message_bytes = max_message_bytes
        self._send_stream = send_stream
        self._direct = send_stream if isinstance(send_stream, DirectSendStream) else None
        self._receive_stream = receive_stream
        self._lines = LineBuffer(max_message_bytes)

    def frame(self, message: bytes) -> bytes:
        """Return the line of a message."""
        return message + b"\n"

    async def send_all(self, data: bytes) -> None:
        """See :meth:`Channel.send_all`."""
        await self._send_stream.send_all(data)

    def send_nowait(self, data: bytes) -> int:
        """See :meth:`Channel.send_nowait`."""
        return 0 if self._direct is None else self._direct.send_nowait(data)

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
            return [rest]
        if not chunk:
            rest = self._lines.feed_eof()
            return None if rest is None else [rest]
        return self._lines.feed(chunk)
