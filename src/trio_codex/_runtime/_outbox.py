"""Lines that wait to be written: owns their order, and who may still take theirs back.

A line is either still in the box, and its sender can take it back as if it had never been, or it was handed to the one
writer, which writes it whole. There is no third state, so a cancelled sender never tears a line.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH_BYTES: Final = 256 * 1024
"""Lines are written together up to this size: fewer system calls, and an urgent line never waits behind more."""


class Letter:
    """One line on its way to the writer.

    Attributes:
        taken: Whether the writer has it; from then on it counts as sent.
        on_taken: Called when it takes it.
    """

    __slots__ = ("line", "on_taken", "taken")

    def __init__(self, line: bytes) -> None:
        self.line: bytes = line
        self.taken: bool = False
        self.on_taken: Callable[[], object] | None = None


class Outbox:
    """The queue in front of the writer task.

    Its length needs no bound of its own: each letter has a sender that waits for its effect, and replies are bounded by
    the requests that the server has open.
    """

    def __init__(self) -> None:
        self._urgent: deque[Letter] = deque()
        self._ordinary: deque[Letter] = deque()
        self._filled = trio.Event()
        self._closed = False

    def put(self, line: bytes, *, urgent: bool = False) -> Letter:
        """Queue a line. Urgent ones (replies, interrupts) go first; order holds within each kind."""
        letter = Letter(line)
        if not self._closed:
            (self._urgent if urgent else self._ordinary).append(letter)
            self._filled.set()
        return letter

    def take_back(self, letter: Letter) -> bool:
        """Remove a letter that the writer does not have yet; say whether that succeeded."""
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
        self._filled.set()

    def finish(self) -> None:
        """End the writer's :meth:`take_batch` once what is queued has been taken."""
        self._closed = True
        self._filled.set()

    async def take_batch(self) -> bytes | None:
        """Wait for lines and take the next few, joined; ``None`` once the box is closed and empty. For the writer."""
        while not (self._urgent or self._ordinary):
            if self._closed:
                return None  # noqa: ASYNC910  # the writer ends
            self._filled = trio.Event()
            await self._filled.wait()
        batch: list[bytes] = []
        size = 0
        while queue := self._urgent or self._ordinary:
            if batch and size + len(queue[0].line) > BATCH_BYTES:
                break
            letter = queue.popleft()
            letter.taken = True
            if letter.on_taken is not None:
                letter.on_taken()
            batch.append(letter.line)
            size += len(letter.line)
        return b"".join(batch)  # noqa: ASYNC910  # the writer checkpoints when it sends it
