"""Ctrl-C: a signal handler that defers the interrupt while this package is on the stack of the main thread.

A ``KeyboardInterrupt`` between statements of this package could leave a scope open that its caller believes to be
closed. Trio protects its own code with the same technique.
"""

from __future__ import annotations

import importlib
import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import trio

from trio_codex._face.host import HOSTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

PROTECTED: Final = ("trio_codex.blocking", "trio_codex._face")
"""The modules whose frames defer an interrupt."""

USER_CODE: Final = "trio_codex._face.callbacks"
"""The module that calls user functions in this thread."""

RETRY_SECONDS: Final = 0.001
"""Seconds after which a deferred interrupt is sent again. Sent at once, it would often arrive before the handler has
returned, which would nest handlers without a limit."""

_current_handler: Final[Callable[[int], Any]] = importlib.import_module("_signal").getsignal
"""Skip the conversion to an enum, which takes 10 µs per call."""


class Interrupts:
    """Deferred interrupts of the main thread.

    Attributes:
        pending: Whether an interrupt has to be raised.
        waiting: What the main thread waits for.
    """

    def __init__(self) -> None:
        self.pending = False
        self.waiting: threading.Lock | None = None
        self._was_sent_again = False

    def install(self) -> bool:
        """Replace Python's own handler, if this is the main thread. Return whether this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return False
        if _current_handler(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handle)
        return True

    def watch(self, lock: threading.Lock) -> bool:
        """Until :meth:`take`, release the lock on an interrupt. Return ``False`` if this is not the main thread."""
        # Install the handler each time, because a notebook resets the default handler before each cell.
        if not self.install():
            return False
        self.waiting = lock
        return True

    def take(self, outer: threading.Lock | None = None) -> bool:
        """Stop watching, and return whether there was an interrupt.

        Args:
            outer: What the main thread continues to wait for, if this was called in a signal handler.
        """
        self.waiting = outer
        self._uninstall()
        taken, self.pending = self.pending, False
        return taken

    def _uninstall(self) -> None:
        if not HOSTS and _current_handler(signal.SIGINT) == self._handle:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._was_sent_again:
            self._was_sent_again = False
            if not self.pending:
                return
        # Without a host there is nothing to protect, and no thread that could send the interrupt again.
        while HOSTS and frame is not None:
            module: Any = frame.f_globals.get("__name__")
            if isinstance(module, str) and module.startswith(PROTECTED):
                if module == USER_CODE:
                    break
                self._put_off()
                return
            frame = frame.f_back
        self.pending = False
        self._uninstall()
        signal.default_int_handler(signum, None)

    def _put_off(self) -> None:
        self.pending = True
        if self.waiting is not None:
            with suppress(RuntimeError):  # it was already released
                self.waiting.release()
        # The main thread might not wait again: a call may be about to return to the program.
        any(host.post(trio.lowlevel.spawn_system_task, self._send_again) for host in tuple(HOSTS))

    async def _send_again(self) -> None:
        """From the Trio thread, interrupt the main thread again, unless the interrupt has been raised."""
        try:
            await trio.sleep(RETRY_SECONDS)
        finally:  # even if the thread is ending
            if self.pending and self.waiting is None:
                self._was_sent_again = True
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


interrupts: Final = Interrupts()
