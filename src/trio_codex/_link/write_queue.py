"""The queue of outgoing lines: their order, and which ones can still be taken back.

A line is either queued, so that its sender can take it back as if it had never been sent, or taken, and then it is
written whole. There is no third state, so a cancelled sender never leaves a partial line.

If nothing is queued, the sender writes the line directly. This saves a trip through the scheduler, and the server can
start on it sooner. If the stream could not take the whole line, the writer sends the rest, and then everything queued
behind it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_codex._link.channel import Channel
    from trio_codex._link.hooks import RequestRecord

BATCH_BYTES: Final = 256 * 1024
"""Lines are batched up to this size, which saves system calls and limits what an urgent line waits for."""


class QueuedLine(msgspec.Struct, eq=False):
    """One outgoing line.

    Attributes:
        line: The line; empty once it will certainly not be written again.
        record: The record of the request for instruments; ``None`` if it is not a request or no instrument needs it.
        is_reply: Whether it answers a server request.
        taken: Whether it was handed over for writing; from then on it counts as sent.
    """

    line: bytes
    record: RequestRecord | None = None
    is_reply: bool = False
    taken: bool = False


class WriteQueue:
    """The queue in front of the writer task, with a fast path that bypasses it.

    It needs no length limit of its own: flow control limits requests, and the connection limits replies.

    A sender writes to the channel only while the writer waits in :meth:`take_batch`.

    Attributes:
        reply_bytes: The size of the replies that are queued.
    """

    def __init__(
        self,
        channel: Channel,
        on_taken: Callable[[QueuedLine], object],
    ) -> None:
        self._frame = channel.frame
        self._send_nowait = channel.nonblocking_send()
        self._on_taken = on_taken
        self._urgent: deque[QueuedLine] = deque()
        self._ordinary: deque[QueuedLine] = deque()
        self._control = b""
        """A frame of the transport itself, such as a pong."""
        self.reply_bytes: int = 0
        self._rest = b""
        """The rest of a line that was partly written directly. It is sent before everything else."""
        self._idle = False
        """Whether the writer is waiting and has no reason to wake up."""
        self._filled = trio.Event()
        self._closed = False

    def put(self, queued_line: QueuedLine, *, urgent: bool = False) -> None:
        """Send a line directly, or queue it; urgent lines (replies, interrupts) are sent before ordinary ones.

        Order is kept within each kind.
        """
        if queued_line.is_reply:
            self.reply_bytes += len(queued_line.line)
        if not self._closed and not self._send_now(queued_line):
            (self._urgent if urgent else self._ordinary).append(queued_line)
            self._wake()

    def _send_now(self, queued_line: QueuedLine) -> bool:
        """Write a line without the writer if the queue is empty; return whether it was taken."""
        if not self._idle or self._send_nowait is None:
            return False
        data = self._frame(queued_line.line)
        try:
            sent = self._send_nowait(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False  # the writer gets the same error and handles it
        if sent == 0:
            return False
        if sent < len(data):
            self._rest = data[sent:]
            self._wake()
        self._take(queued_line)
        return True

    def put_control(self, data: bytes) -> None:
        """Send a frame of the transport itself before the next line. It replaces an earlier, unsent frame."""
        if not self._closed:
            self._control = data
            self._wake()

    def _wake(self) -> None:
        self._idle = False
        self._filled.set()

    def _take(self, queued_line: QueuedLine) -> None:
        queued_line.taken = True
        self._on_taken(queued_line)
        if queued_line.is_reply:
            # Flow control counts it until it is acknowledged, but its content is no longer needed.
            self.reply_bytes -= len(queued_line.line)
            queued_line.line = b""

    def take_back(self, queued_line: QueuedLine) -> bool:
        """Remove a line that has not been taken yet; return whether that succeeded."""
        if queued_line.taken:
            return False
        for queue in (self._ordinary, self._urgent):
            try:
                queue.remove(queued_line)
            except ValueError:
                continue
            return True
        return False

    def close(self) -> None:
        """Drop the queue and end the writer's :meth:`take_batch`."""
        self._closed = True
        self._urgent.clear()
        self._ordinary.clear()
        self._rest = self._control = b""
        self._wake()

    def finish(self) -> None:
        """End the writer's :meth:`take_batch` once the queue is empty."""
        self._closed = True
        self._wake()

    async def take_batch(self) -> bytes | None:
        """Wait for lines and return the next batch, joined; ``None`` once closed and empty. Called by the writer."""
        while not (self._rest or self._control or self._urgent or self._ordinary):
            if self._closed:
                return None  # noqa: ASYNC910  # the writer returns next
            self._filled = trio.Event()
            self._idle = True
            try:
                await self._filled.wait()
            finally:
                self._idle = False
        batch = [self._rest, self._control]
        size = len(self._rest) + len(self._control)
        self._rest = self._control = b""
        while queue := self._urgent or self._ordinary:
            if size and size + len(queue[0].line) > BATCH_BYTES:
                break
            queued_line = queue.popleft()
            batch.append(self._frame(queued_line.line))
            size += len(queued_line.line)
            self._take(queued_line)
        return b"".join(batch)  # noqa: ASYNC910  # the writer checkpoints when it sends it
