"""Restart limits: the restart intensity of OTP, with backoff. Pure arithmetic on times."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_codex.supervision._values import Restart


class RestartLimit:
    """The restarts of one supervisor.

    Args:
        restart: The settings.
        counted: Whether to limit the number of restarts instead of the time without a connection.
    """

    def __init__(self, restart: Restart, *, counted: bool) -> None:
        self._restart = restart
        self._counted = counted
        self._times: deque[float] = deque()
        self._down_since: float | None = None

    def up(self) -> None:
        """Record that a generation is ready."""
        self._down_since = None

    def excuse(self, seconds: float) -> None:
        """Do not count time in which this program was blocked as time without a connection."""
        if self._down_since is not None:
            self._down_since += seconds

    def delay(self, now: float) -> float | None:
        """Record that a restart is needed, and return the delay before it, or ``None`` if there are too many."""
        restart = self._restart
        self._times.append(now)
        # A restart exactly one period ago still counts, as in OTP.
        while now - self._times[0] > restart.period:
            self._times.popleft()
        if self._down_since is None:
            self._down_since = now
        delay = restart.backoff.delay(len(self._times))
        limit = restart.max_restarts if self._counted else math.inf
        patience = math.inf if self._counted else restart.reconnect_for
        is_too_much = len(self._times) > limit or now - self._down_since >= patience
        if self._counted:
            return None if is_too_much else delay
        # The last attempt is made at the end of the time, not after it.
        return None if is_too_much else min(delay, self._down_since + patience - now)

    @property
    def problem(self) -> str:
        """Describe the exceeded limit in one sentence."""
        restart = self._restart
        if self._counted:
            return f"more than {restart.max_restarts} restarts within {restart.period:g} s"
        return f"the server could not be reached for {restart.reconnect_for:g} s"
