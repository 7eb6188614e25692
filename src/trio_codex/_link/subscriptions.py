"""Bounded buffers between the reader and its consumers, with delta merging, overflow and wakeups.

The reader never blocks: it adds events and continues. If a consumer falls behind, its text deltas are first merged
without loss; beyond the limits of its buffer it receives an error instead of further events. Other consumers are not
affected. Only the :class:`Merger` looks inside events.
"""

from __future__ import annotations

from collections import deque
from io import StringIO
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, Protocol, Self, TypeVar, cast

import msgspec
import trio
from trio.lowlevel import checkpoint_if_cancelled

from trio_codex.errors import SubscriptionOverflow

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence


class Buffered(Protocol):
    """Anything that can be buffered: an object with a size in bytes."""

    @property
    def size(self) -> int:
        """Its size in bytes, for the buffer's limit."""
        ...


E = TypeVar("E", bound=Buffered)

LAG_EVENTS: Final = 1024
"""Number of buffered events above which deltas are merged. Below it, a consumer receives each delta as sent."""

SCHEDULE_EVERY_EVENTS: Final = 64
SCHEDULE_EVERY_SECONDS: Final = 0.001
"""A consumer of a full buffer yields at least this often (a checkpoint costs twice as much as an event)."""


class Merger(Protocol[E]):
    """Merges deltas of one item."""

    def delta(self, event: E) -> tuple[Hashable, str] | None:
        """Return a key that two deltas must share to be merged, and the text; ``None`` for any other event."""
        ...

    def merged(self, first: E, text: str, count: int) -> E:
        """Return one event that replaces ``count`` deltas."""
        ...


class Wakeups:
    """Consumers to wake when the reader next yields."""

    def __init__(self) -> None:
        self._due: list[Subscription[Any]] = []

    def add(self, subscription: Subscription[Any]) -> None:
        self._due.append(subscription)

    def flush(self) -> int:
        """Wake the waiting consumers; return the number of entries of the fullest buffer."""
        if not self._due:
            return 0
        due, self._due = self._due, []
        return max([subscription.wake() for subscription in due])


class _Placeholder(msgspec.Struct, eq=False):
    """An internal buffer entry, converted to an event when the consumer reads it."""


class _Growing(_Placeholder, Generic[E], eq=False):
    """Deltas of one item, merged while they are buffered."""

    key: Hashable
    first: E
    text: StringIO
    size: int
    count: int = 1


class _Overflow(_Placeholder, eq=False):
    error: SubscriptionOverflow
    size: int = 0


class Subscription(Generic[E]):
    """An async iterator over events, fed by the reader.

    Iteration is cheap: every event is a cancellation point, but there is a schedule point only every 64 events or 1 ms.

    Args:
        max_events: Limit of the buffer in events.
        max_bytes: Limit of the buffer in bytes.
        merger: Merges deltas.
        wakeups: Registers the consumer when it has something to read.

    Attributes:
        on_overflow: Called when the consumer falls behind beyond the limits.
    """

    on_overflow: Callable[[SubscriptionOverflow], object] | None = None

    def __init__(self, max_events: int, max_bytes: int, merger: Merger[E], wakeups: Wakeups) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._merger = merger
        self._wakeups = wakeups
        self._buffer: deque[E | _Growing[E] | _Overflow] = deque()
        self._bytes = 0
        self._growing: dict[Hashable, _Growing[E]] = {}
        self._lag = min(LAG_EVENTS, max_events // 2)
        self._accepting = True
        self._ended = False
        self._released = False
        self._error: Callable[[], Exception] | None = None
        self._reading = False
        self._consumer: trio.lowlevel.Task | None = None
        self._wakeup_due = False
        self._credit = SCHEDULE_EVERY_EVENTS
        self._slice_end = 0.0

    # -- the reader's side -------------------------------------------------------------------------------------

    def put(self, event: E) -> None:
        """Add an event. Never blocks or raises."""
        if not self._accepting:
            return
        if len(self._buffer) >= self._lag:
            self._put_lagging(event)
        else:
            if self._growing:
                # The consumer has caught up. Forget the merge targets: a later merge must not overtake unmerged events.
                self._growing.clear()
            self._buffer.append(event)
            self._bytes += event.size
            if self._bytes > self._max_bytes:
                self._overflow()
        if not self._wakeup_due:
            self._wakeup_due = True
            self._wakeups.add(self)

    def put_last(self, event: E) -> None:
        """Add a final event regardless of the limits, and end the stream."""
        if not self._ended and not self._released:
            self._buffer.append(event)
            self._bytes += event.size
        self.end()

    def end(self, error: Callable[[], Exception] | None = None) -> None:
        """End the stream after the buffered events. With ``error``, each later read raises what it returns."""
        if not self._ended:
            self._ended = True
            self._accepting = False
            self._error = error
            self._growing.clear()
        # Wake immediately: the caller may not be the reader, and then no later chunk may arrive to trigger a flush.
        self.wake()

    def release(self) -> None:
        """Drop buffered events and refuse new ones: the consumer will not read them."""
        self._released = True
        self._accepting = False
        self._buffer.clear()
        self._growing.clear()
        self._bytes = 0
        self.wake()

    def wake(self) -> int:
        """Wake the consumer if it is waiting; return the number of buffered entries."""
        self._wakeup_due = False
        if self._consumer is not None:
            task, self._consumer = self._consumer, None
            trio.lowlevel.reschedule(task)
        return len(self._buffer)

    def _put_lagging(self, event: E) -> None:
        delta = self._merger.delta(event)
        if delta is None:
            # Merging past an event that is not a delta could put an item's text after its completion.
            self._growing.clear()
            self._buffer.append(event)
            self._bytes += event.size
        else:
            self._put_delta(event, *delta)
        if len(self._buffer) > self._max_events or self._bytes > self._max_bytes:
            self._overflow()

    def _put_delta(self, event: E, key: Hashable, text: str) -> None:
        growing = self._growing.get(key)
        if growing is None:
            growing = self._growing[key] = _Growing(key, event, StringIO(), event.size)
            self._buffer.append(growing)
            self._bytes += event.size
        else:
            size = len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
            growing.count += 1
            growing.size += size
            self._bytes += size
        growing.text.write(text)

    def _overflow(self) -> None:
        self._accepting = False
        self._growing.clear()
        error = SubscriptionOverflow(len(self._buffer), self._bytes)
        self._buffer.append(_Overflow(error))
        if self.on_overflow is not None:
            self.on_overflow(error)

    # -- the consumer's side -----------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> E:
        """Return the next event.

        Raises:
            SubscriptionOverflow: This consumer fell behind beyond the limits; it has received everything buffered
                before that.
            trio.BusyResourceError: Another task is iterating.
        """
        buffer = self._buffer
        self._credit -= 1
        if buffer and self._credit > 0 and perf_counter() < self._slice_end:
            # Unless this raises, no other task runs, so the buffer cannot change.
            await checkpoint_if_cancelled()
        else:
            await self._let_others_run()
            if not buffer:
                self._raise_end()
        entry = buffer.popleft()
        self._bytes -= entry.size
        if isinstance(entry, _Placeholder):
            return self._redeemed(entry)
        return entry

    def take_buffered(self, limit: int) -> list[E]:
        """Return events that are already buffered, at most ``limit`` of them, without waiting.

        An error in the buffer is left for the next :meth:`__anext__`.
        """
        buffer = self._buffer
        taken: list[E] = []
        for _ in range(min(limit, len(buffer))):
            entry = buffer.popleft()
            if isinstance(entry, _Overflow):
                buffer.appendleft(entry)
                break
            self._bytes -= entry.size
            taken.append(self._redeemed(entry) if isinstance(entry, _Placeholder) else entry)
        return taken

    def put_back(self, events: Sequence[E]) -> None:
        """Return events from :meth:`take_buffered` that were not handled to the front of the buffer."""
        if not self._released:
            self._buffer.extendleft(reversed(events))
            self._bytes += sum(event.size for event in events)

    async def _let_others_run(self) -> None:  # noqa: ASYNC910  # a schedule point or a wait
        """Execute a schedule point, and wait until the buffer has an entry or the stream has ended."""
        if self._reading:
            raise trio.BusyResourceError("another task is iterating over these events")
        self._reading = True
        # A task that starts iterating meanwhile must take this slow path, where it raises.
        self._credit = 0
        try:
            if self._buffer or self._ended or self._released:
                await trio.lowlevel.checkpoint()
            # A wakeup does not imply an entry: it may be left over from an earlier wait that was cancelled.
            while not (self._buffer or self._ended or self._released):
                self._consumer = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort_wait)
        finally:
            self._reading = False
        self._credit = SCHEDULE_EVERY_EVENTS
        self._slice_end = perf_counter() + SCHEDULE_EVERY_SECONDS

    def _abort_wait(self, _: object) -> trio.lowlevel.Abort:
        self._consumer = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _redeemed(self, entry: _Placeholder) -> E:
        """Return the event that an internal entry stands for."""
        if isinstance(entry, _Overflow):
            raise entry.error
        growing = cast("_Growing[E]", entry)
        self._growing.pop(growing.key, None)
        return self._merger.merged(growing.first, growing.text.getvalue(), growing.count)

    def _raise_end(self) -> NoReturn:
        if self._error is not None:
            raise self._error()
        raise StopAsyncIteration
