"""The thread that runs Trio for one client."""

from __future__ import annotations

import atexit
import contextvars
import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from trio_codex._core.user_code import BRIDGE, Bridge
from trio_codex._face.mailbox import Mailbox
from trio_codex._face.operations import Around
from trio_codex.errors import ConnectionClosed, FaceError, StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from trio_codex._face.operations import Operation

LIMITS_HINT: Final = "Check the limits on descriptors and threads."

HOSTS: Final[set[Host]] = set()
"""The hosts whose thread is running."""

HOSTLESS: Final[set[Operation]] = set()
"""Operations whose host is not known yet. They fail when the last host ends."""


class OpenScope(Around):
    """A scope that is open in Trio.

    Attributes:
        exited: Done when the scope has ended, with its error.
        was_cut_off: Whether a scope around it was cancelled.
        on_ended_early: Called in the Trio thread if the scope ends before its caller has exited it.
    """

    exited: Operation
    was_cut_off = False
    on_ended_early: Callable[[], object] | None = None


class Callback(Around):
    """A user function that a host waits for. Operations that it starts end with it."""

    host: Host


inside_callback: Final[contextvars.ContextVar[Callback | None]] = contextvars.ContextVar(
    "trio_codex_inside_callback", default=None
)


class Host(Around):
    """A daemon thread that runs Trio for one client.

    Args:
        bridge: Creates the bridge that runs user functions.
        home: The asyncio event loop to which the client belongs, if any.

    Attributes:
        scopes: The scopes that each caller is inside, innermost last. Changed under a lock, because a scope may be
            exited by a caller other than the one that entered it, as in a generator that a pool of threads advances.
        root: The scope of the client, which contains all others.
        value: What that scope yielded: the client.
        close: Closes that scope through the face.
        present: Returns a value of the Trio API as the face presents it.
        has_ended: Whether Trio has ended.
        was_forked: Whether the thread belongs to the parent of this process.
    """

    def __init__(self, bridge: Callable[[Host], Bridge], home: Any = None) -> None:
        super().__init__()
        self._bridge = bridge(self)
        self._started = threading.Semaphore(0)
        self._mailbox: Mailbox | None = None
        self._stopped: Operation | None = None
        self._unfinished: set[Operation] = set()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name="trio-codex", daemon=True)
        self.home = home
        self.has_ended = self.was_forked = False
        self.scopes: dict[Hashable, tuple[OpenScope, ...]] = {}
        # A signal handler may interrupt a change in its own thread.
        self._lock = threading.RLock()
        self.root: OpenScope | None = None
        self.value: object = None
        self.close: Callable[[], Any] | None = None
        self.present: Callable[[Any], Any] = lambda value: value

    def start(self) -> None:
        """Start the thread, and wait until Trio is running.

        Raises:
            StartError: The system cannot provide the thread, or a file descriptor that Trio needs.
        """
        HOSTS.add(self)
        try:
            self._thread.start()
        except RuntimeError as exc:
            HOSTS.discard(self)
            raise StartError(f"the client's thread cannot be started: {exc}", hint=LIMITS_HINT) from exc
        except BaseException:
            HOSTS.discard(self)
            raise
        self._started.acquire()
        # A reference from the failure to itself would keep Trio's descriptors open.
        failure, self._failure = self._failure, None
        if isinstance(failure, OSError):
            problem = f"Trio cannot be started in the client's thread: {failure.strerror}"
            raise StartError(problem, hint=LIMITS_HINT) from failure.with_traceback(None)
        if failure is not None:
            raise failure

    def _main(self) -> None:
        try:
            trio.run(self._run)
        except BaseException as exc:  # noqa: ASYNC103  # raised in the caller's thread
            self._failure = exc
        self.has_ended = True
        HOSTS.discard(self)
        self._started.release()
        self._finish_all()
        for operation in () if HOSTS else tuple(HOSTLESS):
            operation.finish(error=ConnectionClosed())
        if self._stopped is not None:
            self._stopped.finish(error=self._failure)

    async def _run(self) -> None:
        self._leave = trio.Event()
        self._mailbox = mailbox = Mailbox()
        try:
            async with self.open():
                assert self.nursery is not None
                self.nursery.start_soon(mailbox.serve)
                self._started.release()
                await self._leave.wait()
        finally:
            mailbox.close()

    def post(self, function: Callable[..., object], *args: Any) -> bool:
        """Call a function in the Trio thread soon. Return whether Trio is running."""
        return self._mailbox is not None and self._mailbox.put(partial(function, *args))

    def check(self) -> None:
        """Raise unless the caller may wait for this thread.

        Raises:
            FaceError: This is a forked process, or the thread itself.
        """
        if self.was_forked:
            raise FaceError("the client belongs to the parent process: open another one after a fork")
        if self.is_current:
            raise FaceError("this is the client's own thread, which must not wait for itself")

    @property
    def is_current(self) -> bool:
        """Whether this is the host's own thread."""
        return threading.get_ident() == self._thread.ident

    def expect(self, operation: Operation) -> None:
        """Finish an operation when the thread ends, unless it has finished by then, so that its callers never hang."""
        operation.on_done = self._unfinished.discard
        self._unfinished.add(operation)

    def submit(self, operation: Operation, function: Callable[..., object], *args: Any) -> None:
        """Call a function in the Trio thread that starts an operation. Its first argument is a copy of this context.

        Raises:
            ConnectionClosed: The client is closed.
        """
        self.expect(operation)
        context = contextvars.copy_context()
        context.run(BRIDGE.set, self._bridge)
        if not self.post(function, context, operation, *args):
            self._unfinished.discard(operation)
            raise ConnectionClosed
        if self.has_ended:
            self._finish_all()

    def _finish_all(self) -> None:
        # Trio has ended without finishing these.
        for operation in tuple(self._unfinished):
            operation.finish(error=self._failure or ConnectionClosed())

    def call(self, operation: Operation, caller: Hashable, function: Callable[..., Any], *call: Any) -> None:
        """Run an async function inside the caller's innermost scope. Raises as :meth:`submit` does."""
        self.submit(operation, self.innermost(caller).begin, function, *call)

    def push(self, caller: Hashable, scope: OpenScope) -> None:
        """Record that a caller is inside a scope."""
        with self._lock:
            self.scopes[caller] = (*self.scopes.get(caller, ()), scope)

    def pop(self, caller: Hashable, scope: OpenScope) -> None:
        """Record that a caller has left a scope, and with it all scopes that it entered inside.

        A suspended generator may still hold some of those. They end with this scope, without interrupting the caller.
        """
        with self._lock:
            scopes = self.scopes.get(caller, ())
            if scope not in scopes:
                return
            index = scopes.index(scope)
            for inner in scopes[index + 1 :]:
                inner.on_ended_early = None
            if index:
                self.scopes[caller] = scopes[:index]
            else:
                del self.scopes[caller]

    def innermost(self, caller: Hashable) -> Around:
        """Return the scope, callback or client that an operation of this caller runs in."""
        if scopes := self.scopes.get(caller):
            return scopes[-1]
        callback = inside_callback.get()
        return callback if callback is not None and callback.host is self else self.root or self

    async def raise_cut_off(self, caller: Hashable) -> None:  # noqa: ASYNC910, ASYNC911  # runs outside Trio
        """Raise the error of the surrounding scope that cancelled an operation."""
        for scope in [*reversed(self.scopes.get(caller, ())), self.root]:
            if scope is None or (scope is self.root and self.is_inside_callback()):
                raise FaceError("the callback was withdrawn")
            if (interruption := await scope.exited.wait()) is not None:
                raise interruption
            if scope.exited.error is not None:
                raise scope.exited.error
            if not scope.was_cut_off:
                break
        raise ConnectionClosed

    def is_inside_callback(self) -> bool:
        """Return whether the caller is a user function that this host waits for."""
        callback = inside_callback.get()
        return callback is not None and callback.host is self

    def stop(self, operation: Operation) -> None:
        """End the thread. The operation is done when Trio has ended."""
        self._stopped = operation
        if not self.post(self._leave.set) or self.has_ended:
            operation.finish(error=self._failure)

    def close_at_exit(self) -> None:
        """Close the client in the main thread, without a new thread, which could no longer start."""
        if self.post(self._leave.set):
            self.join()

    def join(self) -> None:
        """Wait for the thread, which is about to end."""
        self._thread.join()


@atexit.register
def _close_all() -> None:
    for host in tuple(HOSTS):
        host.close_at_exit()


def _disown() -> None:
    for host in HOSTS:
        host.was_forked = True
    HOSTS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown)
