"""The clock of a batch, which stands still while this program is blocked, and the time limits that it enforces.

Trio expires deadlines before it runs any task. After a synchronous call or a SIGSTOP, a limit in the form of a deadline would
therefore end every attempt, including those whose turns had completed.
"""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Generator

TICK_SECONDS: Final = 0.25
"""Maximum sleep while a limit is pending, and by how much a limit may be exceeded."""

LATE_SECONDS: Final = 0.05
"""Delays up to this are normal on a busy machine; in longer ones, the program was blocked."""


class BatchClock:
    """The clock of a batch. :meth:`run` must run while it is used."""

    def __init__(self) -> None:
        self._blocked = 0.0
        self._limits: dict[trio.CancelScope, float] = {}
        self._used = trio.Event()
        self._scope = trio.CancelScope(shield=True)

    def now(self) -> float:
        """Return the time in seconds, without the time in which this program was blocked."""
        return trio.current_time() - self._blocked

    @contextmanager
    def limit(self, deadline: float) -> Generator[trio.CancelScope]:
        """Cancel the body at a time of this clock, which may be infinite."""
        with trio.CancelScope() as scope:
            if deadline < math.inf:
                self._limits[scope] = deadline
                self._used.set()
            try:
                yield scope
            finally:
                self._limits.pop(scope, None)

    async def run(self) -> None:  # noqa: ASYNC910  # runs as a separate task
        """Enforce the limits until :meth:`stop` is called, even if cancelled: attempts may still be ending."""
        with self._scope:
            while True:
                if not self._limits:
                    self._used = trio.Event()
                    await self._used.wait()
                rest = min(self._limits.values(), default=math.inf) - self.now()
                await self._sleep(max(0.0, min(rest, TICK_SECONDS)))
                for scope in [scope for scope, deadline in self._limits.items() if deadline <= self.now()]:
                    del self._limits[scope]
                    scope.cancel()

    def stop(self) -> None:
        """End :meth:`run`."""
        self._scope.cancel()

    async def _sleep(self, seconds: float) -> None:
        awaited, system = trio.current_time() + seconds, time.monotonic() + seconds
        await trio.sleep(seconds)
        # Only lateness on both clocks counts: a mock clock may jump, or stand still while a test runs slowly.
        late = min(trio.current_time() - awaited, time.monotonic() - system)
        if late > LATE_SECONDS:
            self._blocked += late
