"""Timeouts for the server's responses, which exclude time in which this program was blocked.

A program that is blocked (by a synchronous call, a debugger, a SIGSTOP) reads nothing, and Trio expires deadlines before it
runs any task. A cancel scope with a deadline would therefore time out although the response is already in the pipe.
Instead, one task expires all timeouts. If it wakes up late on both Trio's clock and the system's, the delay is a *stall*,
which extends every pending timeout. Nothing expires before the reader has processed all available input.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import trio

from trio_codex._core.log import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

TICK_SECONDS: Final = 0.25
"""Maximum sleep while a timeout is pending, and maximum wait for the reader to run out of input before one expires."""

STALL_SECONDS: Final = 0.05
"""Delays up to this are normal on a busy machine; longer ones are stalls."""

LONG_STALL_SECONDS: Final = 1.0
"""Stalls from this length are logged as warnings: something blocked the event loop."""

RESOLUTION: Final = 1e-6
"""Durations up to this count as zero: adding less to a clock reading may round to the same value."""

QUIET_CHECKPOINTS: Final = 10
"""Number of checkpoints without input after which the pipe is considered empty. Trio polls for input at each of them. The
tasks that a response woke have run by then, too."""

STALLS_KEPT: Final = 256
"""How many stalls :meth:`Timeouts.listened_since` takes into account."""


class Timeout:
    """One pending timeout, returned by :meth:`Timeouts.start`."""

    __slots__ = ("due", "expire", "seconds")

    def __init__(self, seconds: float, due: float, expire: Callable[[], object]) -> None:
        self.seconds: float = seconds
        self.due: float = due
        self.expire: Callable[[], object] = expire


class Timeouts:
    """All timeouts of one connection, and the clock that they use.

    Attributes:
        reads: The number of chunks that the reader has received. Set by the reader.
        reader_is_busy: Whether the reader is processing a chunk. Set by the reader.
    """

    def __init__(self) -> None:
        # Keyed by length: timeouts of the same length expire in the order in which they were started.
        self._pending: dict[float, dict[Timeout, None]] = {}
        self._stalls: deque[tuple[float, float]] = deque(maxlen=STALLS_KEPT)
        self._stalled = 0.0
        self._earlier = trio.Event()
        # When the service should run next, by Trio's clock and by the system's monotonic clock.
        self._awaited = (math.inf, math.inf)
        self.reads: int = 0
        self.reader_is_busy: bool = False

    def start(self, seconds: float, expire: Callable[[], object]) -> Timeout:
        """Start a timeout, which may be infinite; return a handle for :meth:`end`.

        :meth:`watch` calls ``expire``, which must not raise, when the timeout expires.
        """
        now = trio.current_time()
        if now > self._awaited[0] + STALL_SECONDS:
            # This stall happened before the timeout started, so it must not extend it.
            self._note_lateness()
        timeout = Timeout(seconds, now - self._stalled + seconds, expire)
        if seconds < math.inf:
            if (pending := self._pending.get(seconds)) is None:
                pending = self._pending[seconds] = {}
            pending[timeout] = None
            if now + seconds < self._awaited[0]:
                self._awaited = now, time.monotonic()
                self._earlier.set()
        return timeout

    def end(self, timeout: Timeout) -> None:
        """Cancel a timeout before it expires. Idempotent."""
        if (pending := self._pending.get(timeout.seconds)) is not None:
            pending.pop(timeout, None)

    @contextmanager
    def move_on_after(self, seconds: float) -> Generator[trio.CancelScope]:
        """Cancel the body after a timeout, like :func:`trio.move_on_after`."""
        with trio.CancelScope() as scope:
            timeout = self.start(seconds, scope.cancel)
            try:
                yield scope
            finally:
                self.end(timeout)

    async def sleep(self, seconds: float) -> None:
        """Sleep for a number of seconds, not counting stalls."""
        over = trio.Event()
        timeout = self.start(seconds, over.set)
        try:
            await over.wait()
        finally:
            self.end(timeout)

    def listened_since(self, moment: float) -> float:
        """Return the seconds since a moment of Trio's clock, not counting stalls."""
        stalled = 0.0
        for end, length in reversed(self._stalls):
            if end <= moment:
                break
            stalled += min(length, end - moment)
        return trio.current_time() - moment - stalled

    # -- the service -------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Expire due timeouts forever. Runs as a service."""
        while True:  # noqa: ASYNC913  # it sleeps once no timeout is due
            rest = self._rest()
            if rest > RESOLUTION:
                await self._sleep(min(rest, TICK_SECONDS) if rest < math.inf else rest)
                continue
            await self._wait_for_reader()
            for timeout in self._due():
                # The callback of an earlier timeout may have ended this one.
                if timeout in self._pending.get(timeout.seconds, ()):
                    self.end(timeout)
                    timeout.expire()

    def _rest(self) -> float:
        """Return the seconds until the next timeout is due."""
        for seconds, pending in list(self._pending.items()):
            if not pending:
                del self._pending[seconds]
        first = min((next(iter(pending)).due for pending in self._pending.values()), default=math.inf)
        return first - (trio.current_time() - self._stalled)

    def _due(self) -> list[Timeout]:
        now = trio.current_time() - self._stalled + RESOLUTION
        due: list[Timeout] = []
        for pending in self._pending.values():
            for timeout in pending:
                if timeout.due > now:
                    break
                due.append(timeout)
        return sorted(due, key=lambda timeout: timeout.due)

    async def _sleep(self, seconds: float) -> None:
        """Sleep until the time has passed or an earlier timeout is started, and record how late the wakeup was."""
        self._awaited = trio.current_time() + seconds, time.monotonic() + seconds
        with trio.move_on_after(seconds):
            await self._earlier.wait()
        if self._earlier.is_set():
            self._earlier = trio.Event()
        self._note_lateness()

    def _note_lateness(self) -> None:
        """Record a stall if the service runs much later than it should."""
        awaited, now = self._awaited, (trio.current_time(), time.monotonic())
        self._awaited = now
        # Only lateness on both clocks is a stall: a mock clock may jump, or stand still while a test runs slowly.
        late = min(now[0] - awaited[0], now[1] - awaited[1])
        if late > STALL_SECONDS:
            self._stalled += late
            self._stalls.append((now[0], late))
            logger.log(
                logging.WARNING if late >= LONG_STALL_SECONDS else logging.DEBUG,
                "the event loop was blocked for %.1f s; every pending timeout is extended by that time",
                late,
            )

    async def _wait_for_reader(self) -> None:  # noqa: ASYNC910  # the watch sleeps next
        """Wait until the reader has processed all available input, for at most one tick."""
        quiet, reads, began = 0, self.reads, time.monotonic()
        while quiet < QUIET_CHECKPOINTS and time.monotonic() < began + TICK_SECONDS:  # noqa: ASYNC110  # polls for input
            self._note_lateness()
            await trio.lowlevel.checkpoint()
            self._note_lateness()
            if self.reader_is_busy or self.reads != reads:
                quiet, reads = 0, self.reads
            else:
                quiet += 1
