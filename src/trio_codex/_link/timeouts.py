"""How long the server may take: owns every timeout that judges it, and counts only time in which we listened to it.

A program that is blocked (by a synchronous call, a debugger, a SIGSTOP) reads nothing, and Trio expires deadlines before it
runs any task. A cancel scope with a deadline would then blame the server for answers that wait in the pipe. So one task
expires all of these timeouts. What it wakes up late, on Trio's clock and on the system's, is a *stall*: time in which
nobody listened. And before anything expires, the reader has run out of bytes.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from trio_codex._core.log import logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

TICK_SECONDS: Final = 0.25
"""The longest sleep while a timeout is pending. A stall is noticed that much later at most, and so is the end of a
timeout that is blamed on a pipe that never runs empty."""

STALL_SECONDS: Final = 0.05
"""What a sleep may be late by: a busy machine, and not a program that is blocked."""

LONG_STALL_SECONDS: Final = 1.0
"""A stall that is worth a warning: the program cannot have meant it."""

RESOLUTION: Final = 1e-6
"""Seconds that count as none: adding less to a clock may leave it as it is."""

QUIET_CHECKPOINTS: Final = 10
"""Checkpoints without a byte after which the pipe is empty, and whoever an answer woke has gone on. Trio looks for input at
each of them."""

STALLS_KEPT: Final = 256
"""Stalls that :meth:`Timeouts.listened_since` remembers."""


class Timeout:
    """One pending timeout; made by :meth:`Timeouts.start`."""

    __slots__ = ("due", "expire", "seconds")

    def __init__(self, seconds: float, due: float, expire: Callable[[], object]) -> None:
        self.seconds: float = seconds
        self.due: float = due
        self.expire: Callable[[], object] = expire


class TimeoutScope:
    """A cancel scope under a timeout; made by :meth:`Timeouts.move_on_after`."""

    __slots__ = ("_scope", "_seconds", "_timeout", "_timeouts")

    def __init__(self, timeouts: Timeouts, seconds: float) -> None:
        self._timeouts = timeouts
        self._seconds = seconds
        self._scope = trio.CancelScope()

    def __enter__(self) -> trio.CancelScope:
        self._timeout = self._timeouts.start(self._seconds, self._scope.cancel)
        return self._scope.__enter__()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._timeouts.end(self._timeout)
        return self._scope.__exit__(exc_type, exc, traceback)


class Timeouts:
    """All timeouts of one connection, and the clock that they go by.

    Attributes:
        reads: How often the reader has got bytes. For the reader.
        reader_is_busy: Whether it is at work on some. For the reader.
    """

    def __init__(self) -> None:
        # By their length: those of one length expire in the order in which they were started.
        self._pending: dict[float, dict[Timeout, None]] = {}
        self._stalls: deque[tuple[float, float]] = deque(maxlen=STALLS_KEPT)
        self._stalled = 0.0
        self._earlier = trio.Event()
        # When the watch is to run again, on both clocks.
        self._awaited = (math.inf, math.inf)
        self.reads: int = 0
        self.reader_is_busy: bool = False

    def start(self, seconds: float, expire: Callable[[], object]) -> Timeout:
        """Start a timeout.

        Args:
            seconds: How long it is; may be infinite.
            expire: Called by :meth:`watch` when it is over. Must not raise.

        Returns:
            What :meth:`end` takes.
        """
        now = trio.current_time()
        if now > self._awaited[0] + STALL_SECONDS:
            # Before the timeout, and so none of its time.
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
        """End a timeout before it expires. Idempotent."""
        if (pending := self._pending.get(timeout.seconds)) is not None:
            pending.pop(timeout, None)

    def move_on_after(self, seconds: float) -> TimeoutScope:
        """Return a context manager that cancels its body after a timeout, like :func:`trio.move_on_after`."""
        return TimeoutScope(self, seconds)

    async def sleep(self, seconds: float) -> None:
        """Sleep until we have listened for so long."""
        over = trio.Event()
        timeout = self.start(seconds, over.set)
        try:
            await over.wait()
        finally:
            self.end(timeout)

    def listened_since(self, moment: float) -> float:
        """Return for how many seconds we have listened since a moment of Trio's clock."""
        stalled = 0.0
        for end, length in reversed(self._stalls):
            if end <= moment:
                break
            stalled += min(length, end - moment)
        return trio.current_time() - moment - stalled

    # -- the service -------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Expire what is due, for ever. A service."""
        while True:  # noqa: ASYNC913  # what is due is finite, and then it waits
            rest = self._rest()
            if rest > RESOLUTION:
                await self._sleep(min(rest, TICK_SECONDS) if rest < math.inf else rest)
                continue
            await self._wait_for_reader()
            for timeout in self._due():
                # Not one that the expiry of another has ended.
                if timeout in self._pending.get(timeout.seconds, ()):
                    self.end(timeout)
                    timeout.expire()

    def _rest(self) -> float:
        """Return the seconds until something is due."""
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
        """Sleep, less if an earlier timeout is started meanwhile, and note how late we wake up."""
        self._awaited = trio.current_time() + seconds, time.monotonic() + seconds
        with trio.move_on_after(seconds):
            await self._earlier.wait()
        if self._earlier.is_set():
            self._earlier = trio.Event()
        self._note_lateness()

    def _note_lateness(self) -> None:
        """Take the time since the watch was to run for a stall, if it is long."""
        awaited, now = self._awaited, (trio.current_time(), time.monotonic())
        self._awaited = now
        # On both clocks: a mock clock jumps by itself, and a test that runs under one may take its time.
        late = min(now[0] - awaited[0], now[1] - awaited[1])
        if late > STALL_SECONDS:
            self._stalled += late
            self._stalls.append((now[0], late))
            logger.log(
                logging.WARNING if late >= LONG_STALL_SECONDS else logging.DEBUG,
                "the event loop was blocked for %.1f s; every pending timeout is extended by that",
                late,
            )

    async def _wait_for_reader(self) -> None:  # noqa: ASYNC910  # the watch sleeps next
        """Wait until the reader has run out of bytes, or a tick has passed."""
        quiet, reads, began = 0, self.reads, time.monotonic()
        while quiet < QUIET_CHECKPOINTS and time.monotonic() < began + TICK_SECONDS:  # noqa: ASYNC110  # polls for input
            self._note_lateness()
            await trio.lowlevel.checkpoint()
            self._note_lateness()
            if self.reader_is_busy or self.reads != reads:
                quiet, reads = 0, self.reads
            else:
                quiet += 1
