"""Waiting for Trio in threads."""

from __future__ import annotations

import threading
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from trio_codex._face.callbacks import ThreadBridge, run_here
from trio_codex._face.face import Face, Scope, members_of
from trio_codex._face.operations import Operation
from trio_codex.blocking._deadlines import Expired
from trio_codex.blocking._deadlines import current as deadlines_here
from trio_codex.blocking._interrupts import interrupts

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from trio_codex._face.proxies import Proxy

# Nothing here runs in Trio, so its checkpoint rules do not apply.
# flake8: noqa: ASYNC910


LONGEST_WAIT: Final = threading.TIMEOUT_MAX
"""The longest timeout that a lock accepts."""

_here: Final = threading.local()


class _Operation(Operation):
    """An operation whose callers wait for locks."""

    def __init__(self) -> None:
        super().__init__()
        self._locks: list[threading.Lock] = []

    def wake(self) -> None:
        for lock in self._locks:
            with suppress(RuntimeError):  # an interrupt released it
                lock.release()

    async def wait(self, cancel: Callable[[], object] | None = None) -> BaseException | None:
        interruption: BaseException | None = None
        # Each caller has its own lock. Add it to the list before reading done: wake() sets done, and then reads the
        # list.
        lock = threading.Lock()
        lock.acquire()
        self._locks.append(lock)
        outer = interrupts.waiting
        is_watched = interrupts.watch(lock)
        deadlines = deadlines_here() if cancel is not None else ()
        try:
            while not self.done:
                try:
                    expired = next((each for each in deadlines if not each.seconds_left()), None)
                    if cancel is not None and (expired or (is_watched and interrupts.pending)):
                        if expired is not None:
                            interruption = Expired(expired)
                        cancel()
                        cancel, deadlines = None, ()
                    seconds = min((each.seconds_left() for each in deadlines), default=-1)
                    lock.acquire(timeout=min(seconds, LONGEST_WAIT))
                except BaseException as exc:
                    # One of the program's signal handlers has raised, such as one that exits on SIGTERM.
                    interruption = exc if interruption is None else interruption
                    if cancel is not None:
                        cancel()
                        cancel, deadlines = None, ()
        finally:
            interrupted = is_watched and interrupts.take(outer)
        return KeyboardInterrupt() if interrupted else interruption


class BlockingScope(Scope):
    """A scope of the Trio API for ``with``. Leaving it waits until everything it started has ended."""

    def __enter__(self) -> Any:
        return FACE.run(self.enter())

    def __exit__(self, *exc: Any) -> bool:  # noqa: PYI036  # the coroutine that it runs has the types
        return bool(FACE.run(self.exit(*exc)))

    def start(self) -> Any:
        """Enter the scope without ``with``, until :meth:`close`. For notebooks."""
        return FACE.run(self.enter(body=False))


class Blocking(Face):
    """The face for threads: a call returns when it has ended in Trio."""

    name = "trio_codex.blocking"
    bridge = ThreadBridge
    scope = BlockingScope
    operation = _Operation
    aliases = MappingProxyType({"aclose": ("close",)})

    def caller(self) -> object:
        # Not the id of the thread, which a later thread may reuse.
        if (caller := getattr(_here, "caller", None)) is None:
            caller = _here.caller = object()
        return caller

    def home(self) -> None:
        return None

    def prepare(self) -> None:
        interrupts.install()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("waiting blocks, so nothing suspends")

    def function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return run_here(function)


FACE: Final = Blocking()
BlockingScope.face = FACE


def _next(self: Proxy) -> Any:
    while True:
        try:
            return self.face_unread.pop()
        except IndexError:
            pass
        if not FACE.run(FACE.refill(self)):
            raise StopIteration


FACE.members = members_of(FACE, ("__iter__", "__next__", "__enter__", "__exit__"), _next)
