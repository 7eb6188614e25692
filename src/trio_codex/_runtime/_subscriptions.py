"""Bounded buffers between the reader and its consumers: owns lag, merging, overflow and wake-ups.

The reader never waits: it puts events in and goes on. A consumer that lags first gets its text deltas merged, without
loss, and past the bounds an error in place of events; nobody else notices. Knows nothing of what an event says: the
:class:`Merger` does.
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
    from collections.abc import Callable, Hashable


class Buffered(Protocol):
    """What can be buffered: anything that knows its size in bytes."""

    @property
    def size(self) -> int:
        """Bytes that it counts for."""
        ...


E = TypeVar("E", bound=Buffered)

LAG_EVENTS: Final = 1024
"""Events in the buffer from which on deltas are merged. Below it a consumer sees each delta as it was sent."""

SCHEDULE_EVERY_EVENTS: Final = 64
SCHEDULE_EVERY_SECONDS: Final = 0.001
"""A consumer of a full buffer lets other tasks run at least this often (a checkpoint costs twice an event)."""


class Merger(Protocol[E]):
    """Tells how the deltas of one item become one."""

    def delta(self, event: E) -> tuple[Hashable, str] | None:
        """Give what two deltas must share to be merged, and the text; ``None`` for what is no text delta."""
        ...

    def merged(self, first: E, text: str, count: int) -> E:
        """Give one event that stands for ``count`` deltas."""
        ...


class Wakeups:
    """Consumers that have got something since the reader last let others run."""

    def __init__(self) -> None:
        self._due: list[Subscription[Any]] = []

    def add(self, subscription: Subscription[Any]) -> None:
        """Note that there is something for a consumer."""
        self._due.append(subscription)

    def flush(self) -> list[int]:
        """Wake those that wait; give how much there is for each."""
        due, self._due = self._due, []
        return [subscription.wake() for subscription in due]


class _Standing(msgspec.Struct, eq=False):
    """An entry of our own, which stands for what the consumer gets."""


class _Growing(_Standing, Generic[E], eq=False):
    """Deltas of one item that are merged while they wait."""

    key: Hashable
    first: E
    text: StringIO
    size: int
    count: int = 1


class _Overflow(_Standing, eq=False):
    error: SubscriptionOverflow
    size: int = 0


class Subscription(Generic[E]):
    """An async iterator over events, fed by the reader.

    Iterating is cheap: a cancellation point at every event, a schedule point at least every 64 events or 1 ms.

    Args:
        max_events: Bound of the buffer in events.
        max_bytes: Bound of the buffer in bytes.
        merger: How deltas are merged.
        wakeups: Where to announce that the consumer has something to read.

    Attributes:
        on_overflow: Called when the consumer lags beyond the bounds.
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
        """Add an event. Never waits, never raises."""
        if not self._accepting:
            return
        if len(self._buffer) >= self._lag:
            self._put_lagging(event)
        else:
            if self._growing:
                # It caught up: what follows unmerged must not be overtaken by what is merged after it.
                self._growing.clear()
            self._buffer.append(event)
            self._bytes += event.size
            if self._bytes > self._max_bytes:
                self._overflow()
        if not self._wakeup_due:
            self._wakeup_due = True
            self._wakeups.add(self)

    def put_last(self, event: E) -> None:
        """Add the event that ends the stream, whatever the bounds, and end it."""
        if not self._ended and not self._released:
            self._buffer.append(event)
            self._bytes += event.size
        self.end()

    def end(self, error: Callable[[], Exception] | None = None) -> None:
        """End the stream after what is buffered: plainly, or with an error made afresh for each attempt to read on."""
        if not self._ended:
            self._ended = True
            self._accepting = False
            self._error = error
            self._growing.clear()
        # At once: it need not be the reader that ends it, and then no chunk may ever follow.
        self.wake()

    def release(self) -> None:
        """Drop what is buffered and take nothing more: nobody is going to read it."""
        self._released = True
        self._accepting = False
        self._buffer.clear()
        self._growing.clear()
        self._bytes = 0
        self.wake()

    def wake(self) -> int:
        """Let the consumer run, if it waits; say how many entries there are for it."""
        self._wakeup_due = False
        if self._consumer is not None:
            task, self._consumer = self._consumer, None
            trio.lowlevel.reschedule(task)
        return len(self._buffer)

    def _put_lagging(self, event: E) -> None:
        delta = self._merger.delta(event)
        if delta is None:
            # Merging past an event that is no delta would put text of an item behind its completion.
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
        """Give the next event.

        Raises:
            SubscriptionOverflow: This consumer lagged beyond the bounds; what was buffered before has been given.
            trio.BusyResourceError: Another task is iterating.
        """
        buffer = self._buffer
        self._credit -= 1
        if buffer and self._credit > 0 and perf_counter() < self._slice_end:
            # Lets no other task run unless it raises, so that nobody can take what is in the buffer meanwhile.
            await checkpoint_if_cancelled()
        else:
            await self._let_others_run()
            if not buffer:
                self._raise_end()
        entry = buffer.popleft()
        self._bytes -= entry.size
        if isinstance(entry, _Standing):
            return self._redeemed(entry)
        return entry

    async def _let_others_run(self) -> None:  # noqa: ASYNC910  # a schedule point, or a wait
        """Be a schedule point, and wait until there is something in the buffer, or nothing will come."""
        if self._reading:
            raise trio.BusyResourceError("another task is iterating over these events")
        self._reading = True
        # Leads whoever else begins to read meanwhile to the line above.
        self._credit = 0
        try:
            if self._buffer or self._ended or self._released:
                await trio.lowlevel.checkpoint()
            # Woken does not mean that there is something: a wake-up may be due from before an earlier wait was cancelled.
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

    def _redeemed(self, entry: _Standing) -> E:
        """Give what an entry of our own stands for."""
        if isinstance(entry, _Overflow):
            raise entry.error
        growing = cast("_Growing[E]", entry)
        self._growing.pop(growing.key, None)
        return self._merger.merged(growing.first, growing.text.getvalue(), growing.count)

    def _raise_end(self) -> NoReturn:
        if self._error is not None:
            raise self._error()
        raise StopAsyncIteration
