"""Retry on overload, but never while a turn may be running; and retry turns that failed for a transient reason.

Turn starts are recorded here, so that an attempt that may have left one running is never repeated. Requests are also
recorded, so that a retry is reported to the instruments of the client whose request was rejected.
"""

from __future__ import annotations

import random
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, TypeVar, cast

import msgspec
import trio

from trio_codex import wire
from trio_codex._core.arguments import described
from trio_codex.errors import ServerBusyError, TurnFailed

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

PASSING: Final = frozenset(
    {"rateLimitExceeded", "flexUnavailable", "serverOverloaded", "internalServerError"}
)
"""Values of ``codexErrorInfo`` that mean that the model's provider may answer later."""

PASSING_STATUSES: Final = frozenset({408, 409, 425, 429})
"""HTTP statuses below 500 that mean the same. The official clients of the model's API retry these, and all from 500 on."""

CUT_OFF: Final = "stream disconnected"
"""The beginning of the error message of a turn whose stream was cut off. Its ``codexErrorInfo`` is only ``other``, as for
an invalid request, so the text has to distinguish the two."""


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
        method = error.method if isinstance(error, ServerBusyError) else "turn/start"
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
    was overloaded is different: it did run. :func:`is_transient_error` is true for both.
    """
    return isinstance(exc, ServerBusyError)


def is_transient_error(exc: BaseException) -> bool:
    """Return whether the same work may succeed if it is tried again a little later, with the same client.

    This is true for a request that was rejected because of load. It is also true for
    :class:`~trio_codex.errors.TurnFailed` if the model's provider was overloaded, limited the rate, failed internally,
    could not be reached, cut off its response, or answered with HTTP status 408, 409, 425, 429, or 500 and above.

    It is false for everything else, such as a usage limit, a context window that is too small, an invalid request, a
    policy, or a budget. It is also false for a lost connection to the server, which requires a new client.
    """
    if isinstance(exc, ServerBusyError):
        return True
    if not isinstance(exc, TurnFailed) or exc.result.error is None:
        return False
    match exc.result.error.codex_error_info:
        case (
            wire.HttpConnectionFailedCodexErrorInfo(http_status_code=status)
            | wire.ResponseStreamConnectionFailedCodexErrorInfo(http_status_code=status)
            | wire.ResponseStreamDisconnectedCodexErrorInfo(http_status_code=status)
            | wire.ResponseTooManyFailedAttemptsCodexErrorInfo(http_status_code=status)
        ):
            return status is None or status >= 500 or status in PASSING_STATUSES
        case "other":
            return str(exc.result.error.message).startswith(CUT_OFF)
        case str(info):
            return info in PASSING
        case _:
            return False


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

    It does not repeat a turn that failed, whatever the reason: that is what :func:`retry_transient` does.

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
        TypeError: ``fn`` cannot be called.
        Exception: Any other exception from ``fn``, immediately and unchanged.
    """
    try:
        return await _retry(fn, _was_refused, attempts, initial_delay, max_delay, jitter)
    except TurnFailed as exc:
        if is_transient_error(exc):
            exc.add_note("retry_on_overload() does not repeat a turn that failed; retry_transient() does.")
        raise


async def retry_transient(
    fn: Callable[[], Awaitable[T]],
    *,
    attempts: int = 5,
    initial_delay: float = 1.0,
    max_delay: float = 60.0,
    jitter: float = 0.5,
) -> T:
    """Call a function that runs turns, and retry while it fails for a transient reason: see :func:`is_transient_error`.

    ::

        async def review(path: str) -> str | None:
            async with await codex.thread_start(ephemeral=True) as thread:
                return (await thread.run(f"Review {path}.")).final_response

        text = await retry_transient(lambda: review("parser.py"))

    Let ``fn`` start a new thread, or fork one. A failed turn stays in the history of its thread, so the same prompt
    would appear there twice. A supervised prompt with ``on_failed="continue"`` sends a follow-up instead. Changes that a
    failed turn has made to files are not undone.

    The delay doubles after every attempt. To limit the total time, use a cancel scope. Each retry is reported to the
    instruments of the client (:meth:`~trio_codex.instruments.Instrument.request_retried`).

    Args:
        fn: Does the work; called for each attempt.
        attempts: Maximum number of calls.
        initial_delay: Seconds before the second attempt.
        max_delay: Maximum delay in seconds, before the jitter.
        jitter: Random fraction of each delay: 0.5 is 50 % in either direction, so that tasks which failed together do
            not retry together.

    Returns:
        The return value of ``fn``.

    Raises:
        TurnFailed: The last attempt failed as well, or an attempt failed for a reason that is not transient.
        ServerBusyError: The server was still overloaded at the last attempt, or a turn may be running.
        ValueError: ``attempts`` is less than 1, or a delay is negative.
        TypeError: ``fn`` cannot be called.
        Exception: Any other exception from ``fn``, immediately and unchanged.
    """
    return await _retry(fn, _has_failed_transiently, attempts, initial_delay, max_delay, jitter)


def _was_refused(exc: Exception, started: int) -> bool:
    return not started and is_retryable_error(exc)


def _has_failed_transiently(exc: Exception, started: int) -> bool:
    # A failed turn has ended. After a refused request, a turn that the attempt started earlier may still be running.
    return is_transient_error(exc) and (not started or isinstance(exc, TurnFailed))


async def _retry(
    fn: Callable[[], Awaitable[T]],
    is_worth_it: Callable[[Exception, int], bool],
    attempts: int,
    initial_delay: float,
    max_delay: float,
    jitter: float,
) -> T:
    if not callable(fn):
        close = getattr(fn, "close", None)  # an unawaited coroutine would also cause a warning
        if close is not None:
            close()
        raise TypeError(
            f"fn expects a function, got {described(fn)}: write lambda: thread.run(…), or pass async def"
        )
    if attempts < 1:
        raise ValueError(f"attempts must be at least 1, not {attempts}")
    if initial_delay < 0 or max_delay < 0 or not 0 <= jitter <= 1:
        raise ValueError("delays must not be negative, and jitter must be between 0 and 1")
    from trio_codex._core.user_code import call_user

    delay = initial_delay
    for number in range(1, attempts + 1):
        attempt = _Attempt(_attempt.get())
        token = _attempt.set(attempt)
        try:
            return cast("T", await call_user(fn))
        except Exception as exc:
            if number == attempts or not is_worth_it(exc, attempt.started):
                raise
            delay = min(delay, max_delay)
            pause = delay * random.uniform(1 - jitter, 1 + jitter)
            attempt.report_retry(exc, number, pause)
        finally:
            _attempt.reset(token)
        await trio.sleep(pause)
        delay *= 2
    raise AssertionError("the last attempt returns or raises")
