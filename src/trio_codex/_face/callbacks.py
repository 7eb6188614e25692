"""Run user functions outside Trio: plain functions in threads, coroutines in the caller's event loop."""

from __future__ import annotations

import contextvars
import functools
import inspect
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import trio

from trio_codex._core.user_code import call_user, is_async_callable
from trio_codex._face.host import Callback, inside_callback
from trio_codex.errors import FaceError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from trio_codex._face.host import Host

GRACE_SECONDS: Final = 1.0
"""Seconds to wait for a withdrawn callback in the caller's event loop, which may be stopped."""


class _Crossing(Callback):
    """A function that the host waits for. Operations that it starts in the host end with it."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self.host = host
        self.ended = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._outcome: tuple[Any, BaseException | None] = (None, None)

    def finish(self, value: Any = None, error: BaseException | None = None) -> None:
        """Set the outcome, in any thread."""
        self._outcome = (value, error)
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self.ended.set)

    async def wait(self, withdraw: Callable[[], object], grace: float) -> Any:
        """Wait for the outcome. If this is cancelled, withdraw the call and wait for a grace period."""
        try:
            async with self.open():
                await self.ended.wait()
        except trio.Cancelled:
            withdraw()
            with trio.move_on_after(grace, shield=True):
                await self.ended.wait()
            raise
        value, error = self._outcome
        if error is None:
            return value
        if isinstance(error, Exception):
            raise error
        # SystemExit, or the callback's own CancelledError, would end the client.
        raise FaceError(f"a callback ended with {type(error).__name__}") from error


class ThreadBridge:
    """Runs each plain function in its own thread. Coroutines run in Trio."""

    def __init__(self, host: Host) -> None:
        self.host = host

    async def run(self, function: Callable[..., Any], args: Any, kwargs: Any, *, is_async: bool) -> Any:
        """Run a function. If this is cancelled, the thread continues, and its result is discarded."""
        if is_async:
            return await function(*args, **kwargs)
        return await self.in_thread(functools.partial(function, *map(self.host.present, args), **kwargs))

    async def in_thread(self, function: Callable[[], Any]) -> Any:
        """Run a plain function in a daemon thread, in a copy of this context."""
        # trio.to_thread would not do: its threads outlive the call, and an abandoned one would count toward its
        # limit.
        crossing = _Crossing(self.host)

        def work() -> None:
            inside_callback.set(crossing)
            try:
                crossing.finish(function())
            except BaseException as exc:  # noqa: ASYNC103  # raised in the task that waits
                crossing.finish(error=exc)

        run = contextvars.copy_context().run
        threading.Thread(target=run, args=(work,), name="trio-codex callback", daemon=True).start()
        return await crossing.wait(lambda: None, 0)


class LoopBridge(ThreadBridge):
    """Runs coroutines in the event loop of the client, and plain functions in threads."""

    async def run(self, function: Callable[..., Any], args: Any, kwargs: Any, *, is_async: bool) -> Any:
        """Run a function. If this is cancelled, so is its task."""
        call = functools.partial(function, *map(self.host.present, args), **kwargs)
        if is_async:
            return await self._in_loop(call)
        value = await self.in_thread(call)
        return await self._in_loop(lambda: value) if inspect.isawaitable(value) else value

    async def _in_loop(self, call: Callable[[], Any]) -> Any:
        loop: asyncio.AbstractEventLoop = self.host.home
        crossing = _Crossing(self.host)
        tasks: list[asyncio.Task[None]] = []

        async def work() -> None:  # noqa: ASYNC910  # runs under asyncio
            inside_callback.set(crossing)
            try:
                crossing.finish(await call())
            except BaseException as exc:  # noqa: ASYNC103  # raised in the task that waits
                crossing.finish(error=exc)

        def begin() -> None:
            tasks.append(loop.create_task(work(), context=context))

        def withdraw() -> None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])

        context = contextvars.copy_context()
        try:
            loop.call_soon_threadsafe(begin)
        except RuntimeError:
            raise FaceError("the event loop of the client is closed") from None
        return await crossing.wait(withdraw, GRACE_SECONDS)


def as_async(function: Any) -> Any:
    """Wrap a plain function in a coroutine function that calls it through the bridge. Return others unchanged."""
    if not callable(function) or isinstance(function, type) or is_async_callable(function):
        return function

    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        return await call_user(function, *args, **kwargs)

    return call


def run_here(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a plain function that calls an async one in a new Trio run, and accepts plain functions as arguments."""

    def called(value: Any) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ASYNC124  # stands for an async function
            return value(*args, **kwargs)  # noqa: ASYNC910

        return call if callable(value) else value

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        return trio.run(functools.partial(function, *map(called, args), **kwargs))

    return run
