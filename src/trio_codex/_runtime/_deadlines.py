"""When something has taken too long: one task for all that has the same time, because a cancel scope for each costs more.

A scope for each request was a twentieth of a round trip, and was entered and left in the time that somebody waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

K = TypeVar("K")


class Deadlines(Generic[K]):
    """What is to be done within so many seconds, in the order in which it was begun.

    Args:
        seconds: How long each may take; may be infinite.
        expire: Called with what took longer. Must not raise.
    """

    def __init__(self, seconds: float, expire: Callable[[K], object]) -> None:
        self.seconds = seconds
        self._expire = expire
        self._due: dict[K, float] = {}
        self._begun = trio.Event()

    def begin(self, key: K) -> None:
        """Note that the time of something runs from now on."""
        self._due[key] = trio.current_time() + self.seconds
        self._begun.set()

    def end(self, key: K) -> None:
        """Note that something is done."""
        self._due.pop(key, None)

    async def watch(self) -> None:
        """Expire what is due, for ever. A service; it runs when something is due, or was to be, and hardly at all."""
        while True:  # noqa: ASYNC913  # what is due is finite, and then it waits
            if not self._due:
                self._begun = trio.Event()
                await self._begun.wait()
                continue
            key, deadline = next(iter(self._due.items()))
            if deadline > trio.current_time():
                await trio.sleep_until(deadline)
            else:
                del self._due[key]
                self._expire(key)
