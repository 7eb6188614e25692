"""Deadlines for threads. They expire only while a call waits for Trio, because a thread cannot be stopped elsewhere."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class Expired(BaseException):
    """Cancels the body of a deadline, as :class:`trio.Cancelled` does in Trio."""

    def __init__(self, deadline: Deadline) -> None:
        super().__init__("a deadline has expired")
        self.deadline = deadline


class Deadline:
    """The scope of :func:`move_on_after` or :func:`fail_after`, for one thread.

    Attributes:
        cancelled_caught: Whether the deadline expired and ended the body early.
    """

    def __init__(self, seconds: float, *, fails: bool) -> None:
        if math.isnan(seconds):
            raise ValueError("a deadline must not be NaN")
        self._seconds = seconds
        self._fails = fails
        self._at = 0.0
        self.cancelled_caught: bool = False

    def __enter__(self) -> Self:
        self._at = time.monotonic() + self._seconds
        _current.deadlines = (*current(), self)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        _current.deadlines = tuple(each for each in current() if each is not self)
        self.cancelled_caught = isinstance(exc, Expired) and exc.deadline is self
        if self.cancelled_caught and self._fails:
            raise TimeoutError(f"not done after {self._seconds} seconds") from None
        return self.cancelled_caught

    def seconds_left(self) -> float:
        """Return the seconds until it expires, or 0."""
        return max(self._at - time.monotonic(), 0)


_current: Final = threading.local()


def current() -> tuple[Deadline, ...]:
    """Return the deadlines around the calling thread, outermost first."""
    deadlines: tuple[Deadline, ...] = getattr(_current, "deadlines", ())
    return deadlines


def move_on_after(seconds: float) -> Deadline:
    """Return a scope, for ``with``, that ends its body early if it takes longer.

    When it expires, the call that the body waits for is cancelled. Everything it started has ended before the program
    continues.

    Args:
        seconds: The time; ``math.inf`` for no deadline.

    Raises:
        ValueError: ``seconds`` is NaN.
    """
    return Deadline(seconds, fails=False)


def fail_after(seconds: float) -> Deadline:
    """Return a scope like that of :func:`move_on_after`, which raises if it expires.

    Raises:
        TimeoutError: The body took longer; raised when the block exits.
        ValueError: ``seconds`` is NaN.
    """
    return Deadline(seconds, fails=True)
