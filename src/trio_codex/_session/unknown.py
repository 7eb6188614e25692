"""Threads whose turns the server reports although this client has not opened them. Their total size is bounded."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from trio_codex._session.state import ThreadState

UNKNOWN_BYTES: Final = 1024 * 1024
"""Maximum size of state kept for threads not opened here: about 400 open turns."""

THREAD_BYTES: Final = 2400
"""Size of the state of a thread with an open turn, in addition to its ids and items."""


class UnknownThreads:
    """Threads with open turns that were not opened here. The oldest are discarded above the limit.

    Args:
        threads: The table of threads.
    """

    def __init__(self, threads: dict[str, ThreadState]) -> None:
        self._threads = threads
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._bytes = 0

    def add(self, thread_id: str, turn_id: str) -> None:
        """Record that a turn of such a thread has started."""
        self._sizes[thread_id] = 0
        self.grow(thread_id, THREAD_BYTES + len(thread_id) + len(turn_id))

    def grow(self, thread_id: str, size: int) -> None:
        """Record that the state of a thread has grown, if it is unknown."""
        if thread_id not in self._sizes:
            return
        self._sizes[thread_id] += size
        self._bytes += size
        while self._bytes > UNKNOWN_BYTES:
            self._forget(next(iter(self._sizes)))

    def discard(self, thread_id: str) -> None:
        """Record that a thread is now open or that its turn has ended."""
        self._bytes -= self._sizes.pop(thread_id, 0)

    def _forget(self, thread_id: str) -> None:
        self.discard(thread_id)
        state = self._threads.get(thread_id)
        # Keep a thread while a callback is handling one of its requests.
        if state is not None and not state.held_requests:
            del self._threads[thread_id]
            if state.turn is not None:
                state.turn.lose("this client has not opened its thread")
