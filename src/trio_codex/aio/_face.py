"""Waiting for Trio in asyncio tasks."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext, suppress
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Final

from trio_codex._face.callbacks import LoopBridge
from trio_codex._face.face import Face, Scope, members_of
from trio_codex._face.operations import Operation
from trio_codex.errors import ConnectionClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from trio_codex._face.proxies import Proxy
    from trio_codex._face.scope import HeldScope

# Nothing here runs in Trio, so its checkpoint rules do not apply.
# flake8: noqa: ASYNC910, ASYNC103


class _Operation(Operation):
    """An operation whose callers wait for futures of their event loop."""

    def __init__(self) -> None:
        super().__init__()
        self._futures: list[asyncio.Future[None]] = []

    def wake(self) -> None:
        for future in self._futures:
            call_soon(future.get_loop(), _set, future)

    async def wait(self, cancel: Callable[[], object] | None = None) -> BaseException | None:
        first: asyncio.CancelledError | None = None
        loop = asyncio.get_running_loop()
        while not self.done:
            # Create a new future each time, because a cancellation ends it. Add it to the list before reading done again:
            # wake() sets done, and then reads the list.
            self._futures.append(future := loop.create_future())
            if self.done:
                break
            try:
                await future
            except asyncio.CancelledError as exc:
                if first is None and cancel is not None:
                    cancel()
                first = first or exc
        return first


def call_soon(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: object) -> None:
    """Call a function in the thread of a loop. If the loop was closed early, nothing is waiting, so ignore it."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *args)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class AsyncioScope(Scope):
    """A scope of the Trio API for ``async with``. Leaving it waits until everything it started has ended.

    If the scope is cancelled from within, because a policy failed or a budget was exceeded, so is the task of its body.
    """

    _task: asyncio.Task[Any] | None = None
    _cancelling = 0
    _has_cancelled = False

    async def __aenter__(self) -> Any:
        return await self.enter()

    async def __aexit__(self, *exc: Any) -> bool:  # noqa: PYI036  # the coroutine that it calls has the types
        return await self.exit(*exc)

    async def start(self) -> Any:
        """Enter the scope without ``async with``, until :meth:`aclose`."""
        return await self.enter(body=False)

    async def aclose(self) -> None:
        """Leave the scope, if it was entered."""
        await self.exit(None, None, None)

    def enter_body(self, held: HeldScope) -> None:
        self._task = task = asyncio.current_task()
        if task is not None:
            self._cancelling = task.cancelling()
            held.on_ended_early = partial(call_soon, task.get_loop(), self._cancel_body)
            if held.ended_early:
                self._cancel_body()

    def _cancel_body(self) -> None:
        if self._task is not None and not self._has_exited and not self._has_cancelled:
            self._has_cancelled = True
            self._task.cancel("the scope was cancelled from within")

    def leave_body(self, exc: BaseException | None) -> BaseException | None:
        if not self._has_cancelled or self._task is None:
            return exc
        ours = self._task.uncancel() <= self._cancelling and isinstance(exc, asyncio.CancelledError)
        if ours and self._held is not None and self._held.exited.error is None:
            return ConnectionClosed()
        return None if ours else exc


class Asyncio(Face):
    """The face for asyncio: an awaitable is done when its operation has ended in Trio."""

    name = "trio_codex.aio"
    bridge = LoopBridge
    scope = AsyncioScope
    operation = _Operation

    def caller(self) -> object:
        return asyncio.current_task()

    def home(self) -> object:
        return asyncio.get_running_loop()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return coroutine

    def function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        async def call(*args: Any, **kwargs: Any) -> Any:
            scope = AsyncioScope(nullcontext, None)
            async with scope:
                assert scope.host is not None
                return await self.complete(scope.host, function, args, kwargs)

        return call


FACE: Final = Asyncio()
AsyncioScope.face = FACE


async def _next(self: Proxy) -> Any:
    if not self.face_unread and not await FACE.refill(self):
        raise StopAsyncIteration
    return self.face_unread.pop()


FACE.members = members_of(FACE, ("__aiter__", "__anext__", "__aenter__", "__aexit__"), _next)
