"""When a line may be written: owns the request window and the lines that the server has not taken yet.

The server takes the lines of all its connections from one queue of 128. A request that finds it full is refused, and the
refusal may be lost. Two limits keep our lines out of that state. The *window* bounds requests in progress, for the server's
sake. *Credits* bound the lines in its queue: a request is written only while fewer than :data:`LINES` lines of any kind
are unacknowledged.

The server takes lines in order, so the answer to a request acknowledges it and every line sent before it. A refusal for
overload is written ahead of the queue and acknowledges only itself. Nothing else gives a credit back: the line of a
request that was cancelled, or that timed out, sits in the queue all the same. While too little is acknowledged by itself,
a *barrier* (a cheap request) is sent.

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
"""Unacknowledged lines up to which an ordinary request is written: half of the server's queue, which others share."""

CONTROL_LINES: Final = 32
"""How many more a control request may use."""

BARRIER_LINES: Final = 32
"""Unacknowledged lines at which a barrier is sent. Half of :data:`LINES`: a stream of requests never has to wait for it."""


class FlowControl:
    """The window, the credits, and the calls that wait for either.

    Args:
        window: How many requests of the request_class ``window`` may be in progress.
    """

    def __init__(self, window: int) -> None:
        self._window_places = window
        self._for_window: OrderedDict[Call, None] = OrderedDict()
        self._ordinary: OrderedDict[Call, None] = OrderedDict()
        self._control: OrderedDict[Call, None] = OrderedDict()
        self._queued = 0
        """Lines in the write queue."""
        self._unacknowledged: dict[QueuedLine, None] = {}
        self.waits: bool = False
        """Whether calls wait. Asked for each answer, so it is kept."""

    @property
    def lines(self) -> int:
        """How many lines the server may not have taken yet, those in the write queue included."""
        return self._queued + len(self._unacknowledged)

    @property
    def needs_barrier(self) -> bool:
        """Whether a barrier has to be sent for lines to be acknowledged."""
        return len(self._unacknowledged) >= BARRIER_LINES

    # -- calls -------------------------------------------------------------------------------------------------

    def enter(self, call: Call) -> bool:
        """Let a call be sent at once, or make it wait for its turn; return whether it may be sent."""
        # Most may, and this is a part of every round trip.
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
        """Remove the calls whose turn it is, one by one. Each is to be put in the write queue at once."""
        while self._control and self.lines < LINES + CONTROL_LINES:
            yield self._control.popitem(last=False)[0]
        while self._ordinary and self.lines < LINES:
            yield self._ordinary.popitem(last=False)[0]
        self.waits = bool(self._control or self._ordinary or self._for_window)

    def holds(self, call: Call) -> bool:
        """Return whether a call waits."""
        return call in self._control or call in self._ordinary or call in self._for_window

    def remove(self, call: Call) -> bool:
        """Remove a call that waits; return whether it did."""
        for waiting in (self._for_window, self._ordinary, self._control):
            if call in waiting:
                del waiting[call]
                return True
        return False

    def leave_window(self, call: Call) -> None:
        """Free the place of a call in the window: its outcome is known, or nobody waits for it any more."""
        call.has_place = False
        if self._for_window:
            following, _ = self._for_window.popitem(last=False)
            following.has_place = True
            self._ordinary[following] = None
        else:
            self._window_places += 1

    def waiting(self) -> list[Call]:
        """Return the calls that wait and end nothing."""
        return [*self._for_window, *self._ordinary]

    # -- lines -------------------------------------------------------------------------------------------------

    def queued(self) -> None:
        """Count a line that was put in the write queue."""
        self._queued += 1

    def taken_back(self) -> None:
        """Discount a line that was removed from the write queue."""
        self._queued -= 1

    def sent(self, line: QueuedLine) -> bool:
        """Count a line that is being written; return whether a barrier is needed for it to be acknowledged soon."""
        self._queued -= 1
        self._unacknowledged[line] = None
        return len(self._unacknowledged) >= BARRIER_LINES

    def acknowledge(self, line: QueuedLine | None) -> None:
        """Discount a line whose answer came, and those that were sent before it."""
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
        """Discount a line that the server refused to queue. This says nothing about the others."""
        if line is not None:
            self._unacknowledged.pop(line, None)
