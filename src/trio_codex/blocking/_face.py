"""How threads wait for Trio."""

from __future__ import annotations

import threading
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from trio_codex._face.callbacks import ThreadBridge, run_here
from trio_codex._face.face import Face, Scope, members_of
from trio_codex._face.host import Operation
from trio_codex.blocking._interrupts import interrupts

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from trio_codex._face.proxies import Proxy

# Nothing here runs in Trio, so its rules for checkpoints do not apply.
# flake8: noqa: ASYNC910


class _Operation(Operation):
    """An operation whose caller waits for a lock."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._lock.acquire()

    def wake(self) -> None:
        with suppress(RuntimeError):  # an interrupt released it
            self._lock.release()

    async def wait(self, cancel: Callable[[], object] | None = None) -> BaseException | None:
        if not interrupts.watch(self._lock):
            if not self.done:
                self._lock.acquire()
            return None
        try:
            while not self.done:
                if interrupts.pending and cancel is not None:
                    cancel()
                    cancel = None
                self._lock.acquire()
        finally:
            interrupted = interrupts.take()
        return KeyboardInterrupt() if interrupted else None


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

    def caller(self) -> int:
        return threading.get_ident()

    def home(self) -> None:
        return None

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
