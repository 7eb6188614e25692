"""The thread that runs Trio for one client, and the operations that other threads have done there."""

from __future__ import annotations

import atexit
import contextvars
import os
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from trio_codex._core.user_code import BRIDGE, Bridge
from trio_codex.errors import ConnectionClosed, FaceError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Hashable

HOSTS: Final[set[Host]] = set()
"""The hosts whose thread runs."""


class Operation:
    """Something done in the Trio thread for a caller who waits elsewhere. Faces define how.

    Attributes:
        done: Whether it has ended in Trio.
        value: What it returned.
        error: What it raised.
        was_cut_off: Whether Trio cancelled it together with a scope around it.
    """

    def __init__(self) -> None:
        self.cancel_scope = trio.CancelScope()
        self.done = self.was_cut_off = False
        self.value: Any = None
        self.error: BaseException | None = None

    def wake(self) -> None:
        """Wake the caller. Called in the Trio thread."""
        raise NotImplementedError

    async def wait(self, cancel: Callable[[], object] | None = None) -> BaseException | None:
        """Wait until it is done. If the caller is interrupted, call ``cancel``, wait on, and return the interruption."""
        raise NotImplementedError

    def finish(self, value: Any = None, error: BaseException | None = None) -> None:
        """Set the outcome and wake the caller. Only the first call has an effect."""
        if not self.done:
            self.value, self.error, self.done = value, error, True
            self.wake()

    async def run(self, function: Callable[..., Any], args: Any, kwargs: Any) -> None:  # noqa: ASYNC910  # the function's
        """Call an async function, and finish with its outcome."""
        try:
            with self.cancel_scope:
                self.finish(await function(*args, **kwargs))
        except trio.Cancelled:
            self.was_cut_off = True
            raise
        except BaseException as exc:  # noqa: ASYNC103  # raised in the caller's thread
            subgroup: Any = getattr(exc, "subgroup", None)
            if subgroup is not None and subgroup(trio.Cancelled) is not None:
                self.was_cut_off = True
                raise
            self.finish(error=exc)  # noqa: ASYNC104
        finally:
            self.finish()


class Around(Protocol):
    """What operations run inside of: a scope, or the host itself. Without a nursery, it has ended."""

    nursery: trio.Nursery | None


@asynccontextmanager
async def open_around(around: Around) -> AsyncGenerator[None]:
    """Let operations run inside of something until the body ends, and then cancel them."""
    try:
        async with trio.open_nursery() as nursery:
            around.nursery = nursery
            try:
                yield
            finally:
                # From here on, nothing may be started: the nursery would be closed before that runs.
                around.nursery = None
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # Operations raise nothing but Cancelled, and what is around them expects that as itself.
        error: BaseException = group
        while exceptions := getattr(error, "exceptions", ()):
            error = exceptions[0]
        raise error from None  # noqa: ASYNC123  # a Cancelled has no cause of its own


class Callback(Around, Protocol):
    """A function of the user that a host waits for. What it calls ends with it."""

    host: Host


class OpenScope(Around, Protocol):
    """A scope. See :class:`~trio_codex._face.scope.HeldScope`."""

    exited: Operation
    was_cut_off: bool


inside_callback: Final[contextvars.ContextVar[Callback | None]] = contextvars.ContextVar(
    "trio_codex_inside_callback", default=None
)


class Host:
    """A daemon thread that runs Trio for one client.

    Args:
        bridge: Makes what runs functions of the user.
        home: Where the client belongs: the event loop of asyncio.

    Attributes:
        scopes: The scopes that each caller is inside of, innermost last.
        root: The scope of the client, which contains all others.
        value: What that scope yielded: the client.
        close: Closes that scope, in the way of the face.
    """

    def __init__(self, bridge: Callable[[Host], Bridge], home: Any = None) -> None:
        self._bridge = bridge(self)
        self._pid = os.getpid()
        self._started = threading.Semaphore(0)
        self._stopped: Operation | None = None
        self._watched: set[Operation] = set()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name="trio-codex", daemon=True)
        self.home = home
        self.nursery: trio.Nursery | None = None
        self.has_ended = False
        self.scopes: dict[Hashable, list[OpenScope]] = {}
        self.root: OpenScope | None = None
        self.value: object = None
        self.close: Callable[[], Any] | None = None

    def start(self) -> None:
        """Start the thread, and wait until Trio runs."""
        HOSTS.add(self)
        try:
            self._thread.start()
        except BaseException:
            HOSTS.discard(self)
            raise
        self._started.acquire()
        if self._failure is not None:
            raise self._failure

    def _main(self) -> None:
        try:
            trio.run(self._run)
        except BaseException as exc:  # noqa: ASYNC103  # raised in the caller's thread
            self._failure = exc
        self.has_ended = True
        HOSTS.discard(self)
        self._started.release()
        for operation in (*self._watched, *filter(None, [self._stopped])):
            operation.finish(error=self._failure or ConnectionClosed())

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._leave = trio.Event()
        async with open_around(self):
            self._started.release()
            await self._leave.wait()

    def post(self, function: Callable[..., object], *args: Any) -> bool:
        """Call a function in the Trio thread soon. Return whether that still runs."""
        try:
            self._token.run_sync_soon(function, *args)
        except trio.RunFinishedError:
            return False
        return True

    def watch(self, operation: Operation) -> None:
        """Finish an operation if the thread ends without having done so, because of a bug."""
        self._watched = {each for each in self._watched if not each.done}
        self._watched.add(operation)

    def submit(self, operation: Operation, function: Callable[..., object], *args: Any) -> None:
        """Call a function that starts an operation, in the Trio thread and in a copy of the caller's context.

        Raises:
            ConnectionClosed: The client is closed.
            FaceError: This is a forked process, or the thread of the client itself.
        """
        if self._pid != os.getpid():
            raise FaceError("the client belongs to the parent process: open another one after a fork")
        if threading.get_ident() == self._thread.ident:
            raise FaceError("this is the client's own thread, which must not wait for itself")
        self.watch(operation)
        context = contextvars.copy_context()
        context.run(BRIDGE.set, self._bridge)
        if not self.post(context.run, function, *args):
            raise ConnectionClosed

    def call(
        self, operation: Operation, caller: Hashable, function: Callable[..., Any], args: Any, kwargs: Any
    ) -> None:
        """Run an async function inside the caller's innermost scope. Raises as :meth:`submit` does."""
        self.submit(operation, self._begin, operation, self.innermost(caller), function, args, kwargs)

    def _begin(
        self, operation: Operation, around: Around, function: Callable[..., Any], args: Any, kwargs: Any
    ) -> None:
        if around.nursery is None:
            operation.was_cut_off = True
            operation.finish()
        else:
            around.nursery.start_soon(operation.run, function, args, kwargs)

    def call_sync(self, operation: Operation, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
        """Call a function that does not wait. Raises as :meth:`submit` does."""

        def call() -> None:
            try:
                operation.finish(function(*args, **kwargs))
            except BaseException as exc:  # noqa: ASYNC103  # raised in the caller's thread
                operation.finish(error=exc)

        self.submit(operation, call)

    def innermost(self, caller: Hashable) -> Around:
        """Return what an operation of this caller runs inside of."""
        if scopes := self.scopes.get(caller):
            return scopes[-1]
        callback = inside_callback.get()
        return callback if callback is not None and callback.host is self else self.root or self

    async def raise_cut_off(self, caller: Hashable) -> None:  # noqa: ASYNC910, ASYNC911  # runs outside Trio
        """Raise the reason why an operation was cancelled by a scope around it."""
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
        """Return whether the caller is a function of the user that this host waits for."""
        callback = inside_callback.get()
        return callback is not None and callback.host is self

    def stop(self, operation: Operation) -> None:
        """End the thread. The operation is done when Trio has ended."""
        self._stopped = operation
        if not self.post(self._leave.set):
            operation.finish(error=self._failure)

    def close_at_exit(self) -> None:
        """Close the client in the main thread. Needs no new thread, which could not start any more."""
        if self._pid == os.getpid() and self.post(self._leave.set):
            self.join()

    def join(self) -> None:
        """Wait for the thread, which is about to end."""
        self._thread.join()


@atexit.register
def _close_all() -> None:
    for host in tuple(HOSTS):
        host.close_at_exit()
