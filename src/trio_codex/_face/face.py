"""The operations of both faces: call, enter, leave and iterate. Written once, as coroutines that wait for operations.

Under asyncio they are awaited. In a thread, waiting blocks, so they never suspend and complete in one step.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, cast

from trio_codex._face.host import Host
from trio_codex._face.operations import Operation
from trio_codex._face.proxies import Presenter, Proxy, is_handle, take_some, wrap
from trio_codex._face.scope import HeldScope
from trio_codex.errors import ConnectionClosed, FaceError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable, Mapping
    from contextlib import AbstractAsyncContextManager
    from contextvars import Context, Token
    from types import TracebackType

    from trio_codex._face.callbacks import ThreadBridge

# Nothing here runs in Trio, so its checkpoint rules do not apply.
# flake8: noqa: ASYNC910, ASYNC911, ASYNC102, ASYNC103


class Face(Presenter):
    """How one kind of caller uses a client. Subclasses define how it waits.

    Attributes:
        bridge: Runs user functions.
        operation: Its class of operations, which defines how the caller waits.
    """

    bridge: type[ThreadBridge]
    operation: type[Operation]
    scope: type[Scope]

    def caller(self) -> Hashable:
        """Return the identity of the caller: its thread or its task."""
        raise NotImplementedError

    def home(self) -> object:
        """Return the event loop to which a client opened here belongs, if any."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Prepare for a client, before anything starts that an interrupt could leave running."""

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine of this module."""
        raise NotImplementedError

    def check(self, host: Host) -> None:
        """Raise unless the caller may use a client.

        Raises:
            FaceError: The client belongs to another event loop or process.
        """
        host.check()
        if self.home() is not host.home:
            raise FaceError("the client belongs to another event loop: open one in each")

    def call(self, host: Host, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return self.run(self._call(host, function, args, kwargs))

    async def _call(self, host: Host, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return wrap(self, host, await self.complete(host, function, args, kwargs))

    async def complete(
        self,
        host: Host,
        function: Callable[..., Any],
        args: Any = (),
        kwargs: Any = MappingProxyType({}),
        keep: Callable[[Any], object] | None = None,
    ) -> Any:
        """Run an async function in Trio. If it returns after the caller was interrupted, pass the value to ``keep``."""
        self.check(host)
        operation, caller = self.operation(), self.caller()
        host.call(operation, caller, function, args, kwargs)
        interruption = await operation.wait(lambda: host.post(operation.cancel))
        if interruption is not None:
            if keep is not None and operation.value is not None:
                keep(operation.value)
            elif (leave := getattr(operation.value, "__aexit__", None)) is not None:
                # The caller does not receive this handle, so close it here.
                left = self.operation()
                with suppress(ConnectionClosed):
                    host.call(left, caller, leave, (None, None, None), {})
                    await left.wait()
            raise interruption
        if operation.error is not None:
            raise operation.error
        if operation.was_cut_off:
            await host.raise_cut_off(caller)
        return operation.value

    def sync(self, host: Host, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        host.check()
        operation = _Blocking()
        try:
            host.submit(operation, operation.call, function, args, kwargs)
        except ConnectionClosed:
            # Trio has ended.
            return wrap(self, host, function(*args, **kwargs))
        operation.lock.acquire()
        if operation.error is not None:
            raise operation.error
        return wrap(self, host, operation.value)

    async def refill(self, proxy: Proxy) -> bool:
        """Fetch the next elements of an iteration over a handle. Return whether there are any."""
        await proxy.face_bound()
        host, unread = proxy.face_host, proxy.face_unread

        def keep(taken: list[Any]) -> None:
            is_wrapped = taken and is_handle(cast("Any", type(taken[0])))
            unread.extend([wrap(self, host, each) for each in taken] if is_wrapped else taken)

        keep(await self.complete(host, take_some, (proxy.face_target,), keep=keep))
        return bool(unread)


def members_of(
    face: Face, names: tuple[str, str, str, str], next_: Callable[[Proxy], Any]
) -> Mapping[str, Mapping[str, Any]]:
    """Return the special members of proxies.

    Args:
        face: The face.
        names: The face's names for ``__aiter__``, ``__anext__``, ``__aenter__`` and ``__aexit__``.
        next_: The implementation of ``__anext__``.
    """

    def iterate(self: Proxy) -> Proxy:
        return self

    def enter(self: Proxy) -> Any:
        return face.run(_enter(self))

    def exit_(self: Proxy, *exc: Any) -> Any:
        scope: Scope = self.face_scopes.pop()
        return face.run(scope.exit(*exc))

    async def _enter(self: Proxy) -> Proxy:
        scope = face.scope(lambda: self.face_target, self.face_host)
        await scope.enter()
        self.face_scopes.append(scope)
        return self

    return {
        "__aiter__": dict(zip(names[:2], (iterate, next_), strict=True)),
        "__aenter__": dict(zip(names[2:], (enter, exit_), strict=True)),
    }


class _Blocking(Operation):
    """An operation that ends immediately, so its caller blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.lock.acquire()

    def wake(self) -> None:
        with suppress(RuntimeError):  # it was already released
            self.lock.release()

    def call(
        self, context: Context, _: Operation, function: Callable[..., Any], args: Any, kwargs: Any
    ) -> None:
        """Call the function, in the Trio thread."""
        try:
            self.finish(context.run(function, *args, **kwargs))
        except BaseException as exc:  # reraised in the caller's thread
            self.finish(error=exc)


class Scope:
    """A scope of the Trio API. However it exits, it waits until everything it started has ended."""

    face: ClassVar[Face]

    def __init__(self, make: Callable[[], AbstractAsyncContextManager[Any]], host: Host | None) -> None:
        self._make = make
        self._is_root = host is None
        self.host = host
        self._held: HeldScope | None = None
        self._caller: Hashable = None
        self._tokens: list[Token[Any]] = []
        self._has_exited = False

    async def enter(self, *, body: bool = True) -> Any:
        """Enter the scope. With ``body``, record that the caller is inside it."""
        face = self.face
        if self._held is not None:
            raise RuntimeError("this scope was entered before: create another one")
        if self.host is None:
            face.prepare()
            self.host = Host(face.bridge, face.home())
            self.host.present = partial(wrap, face, self.host)
            self.host.start()
        host = self.host
        face.check(host)
        held = self._held = HeldScope(host, self._make, face.operation)
        try:
            held.submit(face.caller())
            if (interruption := await held.entered.wait(held.cancel)) is not None:
                raise interruption
            if held.entered.error is not None:
                raise held.entered.error
        except BaseException as exc:
            interruption = await self._leave(KeyboardInterrupt())
            if interruption is not None and not isinstance(exc, type(interruption)):
                raise interruption from exc
            raise
        if self._is_root:
            host.root, host.value, host.close = held, held.entered.value, self.close
        if body:
            self._caller = face.caller()
            host.push(self._caller, held)
            # The operations of the body run in the context of their caller, so the caller must be inside this one.
            self._tokens = [variable.set(value) for variable, value in held.variables.items()]
            self.enter_body(held)
        return wrap(face, host, held.entered.value)

    def enter_body(self, held: HeldScope) -> None:
        """Prepare for a scope that ends before its body."""

    def leave_body(self, exc: BaseException | None) -> BaseException | None:
        """Return the exception from the body, or ``None`` if the scope itself caused it."""
        return exc

    def close(self) -> Any:
        """Leave the scope, if it was entered."""
        return self.face.run(self._close())

    async def _close(self) -> None:
        await self.exit(None, None, None)

    async def exit(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """Leave the scope, and wait until it has ended in Trio."""
        host, held = self.host, self._held
        if host is None or held is None or self._has_exited:
            return False
        if exc is not None and host.was_forked:
            return False  # the scope belongs to the parent
        if exc is not None and host.is_current:
            # The garbage collector ends a generator here. Nothing can wait, but what it had started must end.
            self._leave_soon(host, held)
            return False
        if self._is_root and host.is_inside_callback():
            raise FaceError(
                "a callback cannot close its own client, which waits for it: end its turn instead"
            )
        self.face.check(host)
        host.pop(self._caller, held)
        for token in self._tokens:
            # A scope may be exited in another context than the one that entered it, which then keeps the value.
            with suppress(ValueError):
                token.var.reset(token)
        interruption = await self._leave(exc)
        exc = self.leave_body(exc)
        if interruption is not None and not isinstance(exc, type(interruption)):
            raise interruption
        if exc is not None:
            exc.__traceback__ = traceback
        error = held.exited.error
        if error is None or error is exc or (exc is not None and held.ended_early):
            return held.swallowed
        raise error

    def _leave_soon(self, host: Host, held: HeldScope) -> None:
        self._has_exited = True
        host.pop(self._caller, held)
        held.cancel()
        if self._is_root:
            host.stop(self.face.operation())

    async def _leave(self, exc: BaseException | None) -> BaseException | None:
        self._has_exited = True
        host, held = self.host, self._held
        assert host is not None
        assert held is not None
        interruption: BaseException | None = None
        try:
            held.leave(exc)
            interruption = await held.exited.wait(held.cancel)
        finally:
            if self._is_root:
                stopped = self.face.operation()
                host.stop(stopped)
                interruption = await stopped.wait() or interruption
                host.join()
        return interruption
