"""Call functions in the Trio thread from other threads, in half the time of ``TrioToken.run_sync_soon()``."""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable


class Mailbox:
    """A queue of functions to call in the Trio run that created it. Uses an eventfd, or Trio's own queue without one.

    It may be used in signal handlers.
    """

    def __init__(self) -> None:
        self._jobs: deque[Callable[[], object]] = deque()
        # A signal handler may interrupt put() in its own thread.
        self._lock = threading.RLock()
        self._is_closed = False
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) if hasattr(os, "eventfd") else None
        self._token = trio.lowlevel.current_trio_token()

    def put(self, job: Callable[[], object]) -> bool:
        """Call a function soon, in order. Return whether it was accepted."""
        with self._lock:
            if self._is_closed:
                return False
            self._jobs.append(job)
            if self._fd is None:
                self._token.run_sync_soon(self._run_some, idempotent=True)
            else:
                os.eventfd_write(self._fd, 1)
        return True

    async def serve(self) -> None:
        """Call the functions. Runs until it is cancelled."""
        while self._fd is not None:
            await trio.lowlevel.wait_readable(self._fd)
            os.eventfd_read(self._fd)
            self._run_some()
        await trio.sleep_forever()

    def _run_some(self) -> None:
        for _ in range(len(self._jobs)):
            self._jobs.popleft()()

    def close(self) -> None:
        """Accept no more functions, and call those that were accepted."""
        with self._lock:
            self._is_closed = True
            if self._fd is not None:
                os.close(self._fd)
        self._run_some()
