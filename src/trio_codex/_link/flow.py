"""Flow control: owns the request window and the count of lines that the server has not processed yet.

The server queues the lines of all its connections in one queue of 128. If the queue is full, it rejects a request with an
overload error, and that error may be lost. Two limits prevent this. The *window* limits how many requests are in progress.
*Credits* limit our lines in the queue: a request is written only while fewer than :data:`LINES` lines are unacknowledged.

The server processes lines in order, so a response acknowledges its request and every line sent before it. An overload
error bypasses the queue, so it acknowledges only its own request. Nothing else returns a credit: the line of a request
that was cancelled or timed out still occupies the queue. If too few responses arrive, a *barrier* (a cheap request) is
sent, and its response acknowledges all earlier lines.

Synchronous and without I/O.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_codex._link.call import Call
    from trio_codex._link.write_queue import QueuedLine

LINES: Final = 64
"""Maximum number of unacknowledged lines for ordinary requests. Half of the server's queue, which its clients share."""

CONTROL_LINES: Final = 32
"""Additional lines for control requests."""

BARRIER_LINES: Final = 32
"""Unacknowledged lines that trigger a barrier. With half of :data:`LINES`, a steady stream of requests never stalls."""


class FlowControl:
    """The request window with its number of places, the credits, and the calls that wait for them."""

    def __init__(self, window: int) -> None:
        self._window_places = window
        self._for_window: OrderedDict[Call, None] = OrderedDict()
        self._ordinary: OrderedDict[Call, None] = OrderedDict()
        self._control: OrderedDict[Call, None] = OrderedDict()
        self._queued = 0
        """Lines in the write queue."""
        self._unacknowledged: dict[QueuedLine, None] = {}
        self.waits: bool = False
        """Whether any call waits. Cached, because it is read for each response."""

    @property
    def lines(self) -> int:
        """The number of lines that are queued or unacknowledged."""
        return self._queued + len(self._unacknowledged)

    @property
    def needs_barrier(self) -> bool:
        """Whether enough lines are unacknowledged to send a barrier."""
        return len(self._unacknowledged) >= BARRIER_LINES

    # -- calls -------------------------------------------------------------------------------------------------

    def enter(self, call: Call) -> bool:
        """Return whether a call may be sent immediately; otherwise, queue it."""
        # The fast path of every round trip.
        if not self.waits and self._queued + len(self._unacknowledged) < LINES:
            if call.request_class != "window" or call.has_place:
                return True
            if self._window_places > 0:
                self._window_places -= 1
                call.has_place = True
                return True
        self._add(call)
        return False

    def _add(self, call: Call) -> None:
        self.waits = True
        if call.request_class == "control":
            self._control[call] = None
        elif call.request_class == "deferred" or call.has_place:
            self._ordinary[call] = None
        elif self._window_places > 0:
            self._window_places -= 1
            call.has_place = True
            self._ordinary[call] = None
        else:
            self._for_window[call] = None

    def admit(self) -> Iterator[Call]:
        """Iterate over the calls that may be sent, and remove them. The caller must write each before it continues."""
        while self._control and self.lines < LINES + CONTROL_LINES:
            yield self._control.popitem(last=False)[0]
        while self._ordinary and self.lines < LINES:
            yield self._ordinary.popitem(last=False)[0]
        self.waits = bool(self._control or self._ordinary or self._for_window)

    def remove(self, call: Call) -> bool:
        """Remove a waiting call; return whether it was waiting."""
        for waiting in (self._for_window, self._ordinary, self._control):
            if call in waiting:
                del waiting[call]
                return True
        return False

    def leave_window(self, call: Call) -> None:
        """Pass the place of a finished call in the window to the next call that waits."""
        call.has_place = False
        if self._for_window:
            following, _ = self._for_window.popitem(last=False)
            following.has_place = True
            self._ordinary[following] = None
        else:
            self._window_places += 1

    def waiting(self) -> list[Call]:
        """Return the waiting calls, except control requests."""
        return [*self._for_window, *self._ordinary]

    # -- lines -------------------------------------------------------------------------------------------------

    def queued(self) -> None:
        """Count a line that entered the write queue."""
        self._queued += 1

    def taken_back(self) -> None:
        """Discount a line that was removed from the write queue."""
        self._queued -= 1

    def sent(self, line: QueuedLine) -> bool:
        """Move a line from queued to unacknowledged; return whether a barrier is needed."""
        self._queued -= 1
        self._unacknowledged[line] = None
        return len(self._unacknowledged) >= BARRIER_LINES

    def acknowledge(self, line: QueuedLine | None) -> None:
        """Discount an answered line and all lines sent before it."""
        if line is None or line not in self._unacknowledged:
            return
        if next(iter(self._unacknowledged)) is line:
            del self._unacknowledged[line]
            return
        taken: list[QueuedLine] = []
        for earlier in self._unacknowledged:
            taken.append(earlier)
            if earlier is line:
                break
        for earlier in taken:
            del self._unacknowledged[earlier]

    def refused(self, line: QueuedLine | None) -> None:
        """Stop counting a line that the server rejected because it was overloaded. Other lines stay unacknowledged."""
        if line is not None:
            self._unacknowledged.pop(line, None)
