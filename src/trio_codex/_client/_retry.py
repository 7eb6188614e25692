"""When a request may be sent again: owns the only thing that retries, and what tells that it must not.

Whoever starts a turn notes it here, so that an attempt that may have set the server to work is never repeated. Whoever asks for
anything notes that, so that the instruments of the client that was refused are told of the retry.
"""

from __future__ import annotations

import random
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, TypeVar

import attrs
import trio

from trio_codex.errors import RpcError, ServerBusyError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from trio_codex._runtime._instruments import Instruments

T = TypeVar("T")

STARTING: Final = frozenset(
    {
        "review/start", "thread/compact/start", "thread/goal/set", "thread/queue/add", "thread/queue/start",
        "thread/shellCommand", "turn/start",
    }
)  # fmt: skip
"""The requests of which a turn may begin."""


@attrs.define
class _Attempt:
    """What an attempt has asked for; what an attempt within it has is its own, too.

    Attributes:
        within: The attempt that it is part of.
        started: Turns that it has started, or may have.
        asked: By method, who is told what the client does that it was asked of.
    """

    within: _Attempt | None
    started: int = 0
    asked: dict[str, Instruments] = attrs.field(factory=dict[str, "Instruments"])

    def tell(self, error: Exception, number: int, delay: float) -> None:
        """Tell the instruments of who refused that it is about to be asked again."""
        method = error.method if isinstance(error, ServerBusyError) else None
        if method is not None and method in self.asked:
            self.asked[method].call("request_retried", method, number, delay)


_attempt: ContextVar[_Attempt | None] = ContextVar("trio_codex_attempt", default=None)


def note_asked(method: str, instruments: Instruments) -> None:
    """Note that a request is asked for, of a client with these instruments."""
    attempt = _attempt.get()
    while attempt is not None:
        attempt.asked[method] = instruments
        attempt = attempt.within


def noting(method: str, instruments: Instruments) -> AbstractContextManager[None]:
    """Note a request that is sent and answered within, and whether a turn may run of it."""
    note_asked(method, instruments)
    return _noting_start() if method in STARTING else _NOTHING


@contextmanager
def _noting_start() -> Generator[None]:
    note_started()
    try:
        yield
    except RpcError:
        note_refused()
        raise


_NOTHING: Final[AbstractContextManager[None]] = nullcontext()


def note_started() -> None:
    """Note that a turn was asked for: from now on the server may work on it."""
    _count(1)


def note_refused() -> None:
    """Note that the server refused it, so that it does nothing."""
    _count(-1)


def _count(started: int) -> None:
    attempt = _attempt.get()
    while attempt is not None:
        attempt.started += started
        attempt = attempt.within


def is_retryable_error(exc: BaseException) -> bool:
    """Say whether the server rejected a request because of its load, did nothing, and may take it later.

    It goes by the code of the error, because the server sends no more than that. A turn that *failed* because the model
    was overloaded is something else: it ran.
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
    """Call something again while the server says that it is overloaded.

    ::

        page = await retry_on_overload(lambda: codex.thread_list(limit=50))

    The delay doubles from one attempt to the next. Nothing is repeated after a turn was started within ``fn``, or a goal or a
    shell command, that the server may be working on, whatever failed afterwards. Cancellable at any time; put it under a
    deadline of your own. The instruments of the client that was refused are told
    (:meth:`~trio_codex.instruments.Instrument.request_retried`).

    Args:
        fn: Makes the request; called anew for each attempt.
        attempts: How often to call it at most.
        initial_delay: Seconds before the second attempt.
        max_delay: Bound of the delay in seconds, before the jitter.
        jitter: How much of each delay is left to chance: 0.2 is 20 % in either direction.

    Returns:
        What ``fn`` returns.

    Raises:
        ServerBusyError: The server was still overloaded at the last attempt, or a turn may be running.
        ValueError: ``attempts`` is less than 1, or a delay is negative.
        Exception: Whatever else ``fn`` raises, at once and unchanged.
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
            attempt.tell(exc, number, pause)
        finally:
            _attempt.reset(token)
        await trio.sleep(pause)
        delay *= 2
    raise AssertionError("the last attempt returns or raises")
