"""Transient failures, and the delay before the next attempt."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Final

import attrs
import trio

from trio_codex import errors, is_transient_error, wire

if TYPE_CHECKING:
    from trio_codex.batch._values import Retry

_KINDS: Final[dict[object, str]] = {
    "flexUnavailable": "overload",
    "other": "connection",  # the response was truncated
    "rateLimitExceeded": "rate limit",
    "serverOverloaded": "overload",
    429: "rate limit",
    503: "overload",
    529: "overload",
    None: "connection",
}
"""Kinds of transient failures, by ``codexErrorInfo`` or HTTP status. All others are errors of the provider's server."""


def kind_of(error: Exception) -> str | None:
    """Return the kind of a transient failure, or ``None`` if the exception is not transient."""
    if isinstance(error, errors.ServerBusyError):
        return "overload"
    if not isinstance(error, errors.TurnFailed) or error.result.error is None:
        return None
    info = error.result.error.codex_error_info
    if isinstance(info, wire.ResponseStreamDisconnectedCodexErrorInfo):
        return "connection"
    if not is_transient_error(error):
        return None
    key = info if isinstance(info, str) else getattr(info, "http_status_code", None)
    return _KINDS.get(key, "server error")


def is_usage_limit(error: Exception) -> bool:
    """Return whether the account's usage limit is reached, so that no task can continue."""
    if not isinstance(error, errors.TurnFailed) or error.result.error is None:
        return False
    info: object = error.result.error.codex_error_info
    return info == wire.CodexErrorInfoValue.usage_limit_exceeded


@attrs.define
class _Brake:
    since: float = 0.0
    cap: float = 0.0
    level: int = 0


class Brakes:
    """One backoff for each kind of failure, shared by all tasks.

    Args:
        retry: The delays.
    """

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._brakes: dict[str, _Brake] = {}

    def pull(self, kind: str) -> None:
        """Delay all attempts, because one has failed. Failures during the delay count as the same incident."""
        brake, now = self._brakes.setdefault(kind, _Brake()), trio.current_time()
        if not brake.level or now >= brake.since + brake.cap:
            # Bound the exponent, because a large one overflows a float.
            brake.cap = min(self._retry.maximum, self._retry.first * 2.0 ** min(brake.level, 64))
            brake.since, brake.level = now, brake.level + 1

    def release(self) -> None:
        """Reset the backoff after a success."""
        self._brakes.clear()

    def until(self) -> float:
        """Return when the next attempt may begin, in Trio time, after a random part of the longest delay."""
        waits = [brake.since + random.random() * brake.cap for brake in self._brakes.values()]
        return max(waits, default=-math.inf)
