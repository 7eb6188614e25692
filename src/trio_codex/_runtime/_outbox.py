"""Lines on their way out: owns their order, and who may still take theirs back.

A line is either still in the box, and its sender can take it back as if it had never been, or it was taken, and is written
whole. There is no third state, so a cancelled sender never tears a line.

While nothing waits, a line is written at once, by whoever puts it there: a turn of the scheduler is saved, and the server can
begin with it. What the stream does not take goes to the writer, and everything after it, too, until nothing waits again.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_codex._runtime._instruments import RequestRecord

BATCH_BYTES: Final = 256 * 1024
"""Lines are written together up to this size: fewer system calls, and an urgent line never waits behind more."""


class Letter:
    """One line on its way out.

    Attributes:
        line: The line; empty once it is certain that it will not be written again.
        taken: Whether it was handed over to be written; from then on it counts as sent.
        record: What instruments are told of the request that it is; ``None`` if it is none, or nobody listens.
        is_reply: Whether it answers a request of the server.
    """

    __slots__ = ("is_reply", "line", "record", "taken")

    def __init__(self, line: bytes, record: RequestRecord | None = None, *, is_reply: bool = False) -> None:
        self.line: bytes = line
        self.is_reply: bool = is_reply
        self.taken: bool = False
        self.record: RequestRecord | None = record


class Outbox:
    """The queue in front of the writer task, and the way around it.

    Its length needs no bound of its own: each letter has a sender that waits for its effect, and the connection bounds
    what replies come to.

    Args:
        send_nowait: Writes the beginning of a line, as much as goes at once, and gives how much that was; ``None`` if the
            stream can do no such thing. It is only called while the writer waits in :meth:`take_batch`.
        on_taken: Called with each letter that is handed over.
    """

    def __init__(
        self,
        send_nowait: Callable[[bytes], int] | None = None,
        on_taken: Callable[[Letter], object] | None = None,
    ) -> None:
        self._send_nowait = send_nowait
        self._on_taken = on_taken
        self._urgent: deque[Letter] = deque()
        self._ordinary: deque[Letter] = deque()
        self._rest = b""
        """What is left of a line whose beginning was written at once. It goes before everything else."""
        self._idle = False
        """Whether the writer waits, and has nothing to wake up for."""
        self._filled = trio.Event()
        self._closed = False

    def put(self, letter: Letter, *, urgent: bool = False) -> None:
        """Send a line, at once or after those that wait: urgent ones (replies, interrupts) go first there.

        Order holds within each kind.

        Args:
            letter: The line.
            urgent: Whether it goes before ordinary ones.
        """
        if not self._closed and not self._send_now(letter):
            (self._urgent if urgent else self._ordinary).append(letter)
            self._wake()

    def _send_now(self, letter: Letter) -> bool:
        """Write a line without the writer, if nothing is before it; say whether it was taken."""
        if not self._idle or self._send_nowait is None:
            return False
        try:
            sent = self._send_nowait(letter.line)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False  # the writer meets the same, and sees to it
        if sent == 0:
            return False
        if sent < len(letter.line):
            self._rest = letter.line[sent:]
            self._wake()
        self._take(letter)
        return True

    def _wake(self) -> None:
        self._idle = False
        self._filled.set()

    def _take(self, letter: Letter) -> None:
        letter.taken = True
        if self._on_taken is not None:
            self._on_taken(letter)

    def take_back(self, letter: Letter) -> bool:
        """Remove a letter that was not taken yet; say whether that succeeded."""
        if letter.taken:
            return False
        for queue in (self._ordinary, self._urgent):
            try:
                queue.remove(letter)
            except ValueError:
                continue
            return True
        return False

    def close(self) -> None:
        """Drop what is queued and end the writer's :meth:`take_batch`."""
        self._closed = True
        self._urgent.clear()
        self._ordinary.clear()
        self._rest = b""
        self._wake()

    def finish(self) -> None:
        """End the writer's :meth:`take_batch` once what is queued has been taken."""
        self._closed = True
        self._wake()

    async def take_batch(self) -> bytes | None:
        """Wait for lines and take the next few, joined; ``None`` once the box is closed and empty. For the writer."""
        while not (self._rest or self._urgent or self._ordinary):
            if self._closed:
                return None  # noqa: ASYNC910  # the writer ends
            self._filled = trio.Event()
            self._idle = True
            try:
                await self._filled.wait()
            finally:
                self._idle = False
        batch = [self._rest]
        size = len(self._rest)
        self._rest = b""
        while queue := self._urgent or self._ordinary:
            if size and size + len(queue[0].line) > BATCH_BYTES:
                break
            letter = queue.popleft()
            batch.append(letter.line)
            size += len(letter.line)
            self._take(letter)
        return b"".join(batch)  # noqa: ASYNC910  # the writer checkpoints when it sends it
