"""Retry on overload, but never once a turn may have started.

Turn starts are recorded here, so that an attempt that may have started one is never repeated. Requests are recorded, too,
so that a retry is reported to the instruments of the client whose request was rejected.
"""

from __future__ import annotations

import random
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import trio

from trio_codex.errors import ServerBusyError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_codex._link.hooks import Instruments

T = TypeVar("T")

STARTING: Final = frozenset(
    {
        "review/start", "thread/compact/start", "thread/goal/set", "thread/queue/add", "thread/queue/start",
        "thread/shellCommand", "turn/start",
    }
)  # fmt: skip
"""Requests that may start a turn."""


class _Attempt(msgspec.Struct, eq=False):
    """Records the requests of one attempt. Those of a nested attempt count for the outer one too.

    Attributes:
        within: The attempt that contains it.
        started: The number of turns that may have started.
        asked: The instruments to notify, by method.
    """

    within: _Attempt | None
    started: int = 0
    asked: dict[str, Instruments] = msgspec.field(default_factory=dict[str, "Instruments"])

    def report_retry(self, error: Exception, number: int, delay: float) -> None:
        """Report an upcoming retry to the instruments of the client whose request was rejected."""
        method = error.method if isinstance(error, ServerBusyError) else None
        if method is not None and method in self.asked:
            self.asked[method].emit("request_retried", method, number, delay)


_attempt: ContextVar[_Attempt | None] = ContextVar("trio_codex_attempt", default=None)


def note_asked(method: str, instruments: Instruments) -> None:
    """Record a request, and the instruments of its client."""
    attempt = _attempt.get()
    while attempt is not None:
        attempt.asked[method] = instruments
        attempt = attempt.within


def note_started() -> None:
    """Record that a turn was requested. From now on it may be running."""
    _count(1)


def note_refused() -> None:
    """Record that the server rejected the turn, so that it does not count as started."""
    _count(-1)


def _count(started: int) -> None:
    attempt = _attempt.get()
    while attempt is not None:
        attempt.started += started
        attempt = attempt.within


def is_retryable_error(exc: BaseException) -> bool:
    """Return whether the server rejected a request because of load, did nothing, and may accept it later.

    The check uses only the error code, because the server sends nothing more. A turn that *failed* because the model
    was overloaded is different: it did run.
    """
    return isinstance(exc, ServerBusyError)


async def retry_on_overload(
    fn: Callable[[], Awaitable[T]],
    *,
    attempts: int = 3,
    initial_delay: float = 0.25,
    max_delay: float = 2.0,
    jitter: float = 0.2,
) -> T:
    """Call a function again while the server reports that it is overloaded.

    ::

        page = await retry_on_overload(lambda: codex.thread_list(limit=50))

    The delay doubles after every attempt. There is no retry once ``fn`` may have started a turn, goal or shell command,
    even if a later request fails. To limit the total time, use a cancel scope. Each retry is reported to the
    instruments of the client (:meth:`~trio_codex.instruments.Instrument.request_retried`).

    Args:
        fn: Makes the request; called for each attempt.
        attempts: Maximum number of calls.
        initial_delay: Seconds before the second attempt.
        max_delay: Maximum delay in seconds, before the jitter.
        jitter: Random fraction of each delay: 0.2 is 20 % in either direction.

    Returns:
        The return value of ``fn``.

    Raises:
        ServerBusyError: The server was still overloaded at the last attempt, or a turn may be running.
        ValueError: ``attempts`` is less than 1, or a delay is negative.
        Exception: Any other exception from ``fn``, immediately and unchanged.
    """
    if attempts < 1:
        raise ValueError(f"attempts must be at least 1, not {attempts}")
    if initial_delay < 0 or max_delay < 0 or not 0 <= jitter <= 1:
        raise ValueError("delays must not be negative, and jitter must be between 0 and 1")
    delay = initial_delay
    for number in range(1, attempts + 1):
        attempt = _Attempt(_attempt.get())
        token = _attempt.set(attempt)
        try:
            return await fn()
        except Exception as exc:
            if number == attempts or attempt.started or not is_retryable_error(exc):
                raise
            delay = min(delay, max_delay)
            pause = delay * random.uniform(1 - jitter, 1 + jitter)
            attempt.report_retry(exc, number, pause)
        finally:
            _attempt.reset(token)
        await trio.sleep(pause)
        delay *= 2
    raise AssertionError("the last attempt returns or raises")
