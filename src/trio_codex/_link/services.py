"""The hidden nursery of a client: runs its tasks and keeps exceptions transparent.

It runs three kinds of tasks. *Services* (reader, writer, …) are shielded and outlive the body, because cleanup needs them;
only the close sequence cancels them. *Callbacks* are the user's code, and are cancelled with the scope around the client.
*Cleanup* runs to completion even if Ctrl-C interrupts the task that needs it: Trio raises KeyboardInterrupt at any
checkpoint of the main task, shielded or not.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple, Unpack

import trio

from trio_codex._core.exceptions import leaves_of
from trio_codex.errors import InternalError

if TYPE_CHECKING:
    import contextvars
    from collections.abc import AsyncGenerator, Awaitable, Callable

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Services:
    """The tasks of one client.

    When one fails, its exception is added to ``failures`` and ``body_scope`` is cancelled. Without a scope, the nursery,
    which the caller provided, crashes.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        body_scope: trio.CancelScope | None = None,
        failures: list[Exception] | None = None,
    ) -> None:
        self._nursery = nursery
        self._body_scope = body_scope
        self._scopes: set[trio.CancelScope] = set()
        self.failures: list[Exception] = [] if failures is None else failures

    def start_service(
        self, async_fn: Callable[[Unpack[Ts]], Awaitable[object]], *args: *Ts
    ) -> trio.CancelScope:
        """Run a service until it returns or :meth:`stop` is called; return its cancel scope."""
        scope = trio.CancelScope(shield=True)
        self._scopes.add(scope)
        self._nursery.start_soon(self._run_service, scope, async_fn, args, name=async_fn)
        return scope

    def start_callback(
        self,
        context: contextvars.Context | None,
        async_fn: Callable[[Unpack[Ts]], Awaitable[object]],
        *args: *Ts,
    ) -> None:
        """Run code that calls the user's callbacks, in a copy of ``context``."""
        if context is None:
            self._nursery.start_soon(async_fn, *args)
        else:
            context.copy().run(partial(self._nursery.start_soon, async_fn, *args))

    async def finish(self, async_fn: Callable[[Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        """Run cleanup to completion and return its result, even if the caller is cancelled.

        Not a cancellation point. A Ctrl-C during cleanup is raised afterwards. ``async_fn`` must finish in bounded
        time.
        """
        done = trio.Event()
        results: list[T] = []
        errors: list[Exception] = []

        async def run() -> None:  # noqa: ASYNC910  # runs as a separate task
            try:
                results.append(await async_fn(*args))
            except Exception as exc:
                errors.append(exc)
            finally:
                done.set()

        # stop() does not cancel this: it is bounded, and a cleanup that has started must complete.
        self._nursery.start_soon(self._run_service, trio.CancelScope(shield=True), run, ())
        interrupt = await wait_through_interrupts(done)
        if interrupt is not None:
            raise interrupt
        if errors:
            raise errors[0]
        return results[0]

    def stop(self) -> None:
        """Cancel every service. The last step of the close sequence."""
        for scope in self._scopes:
            scope.cancel()

    @trio.lowlevel.enable_ki_protection
    async def _run_service(  # noqa: ASYNC910  # runs as a separate task
        self,
        scope: trio.CancelScope,
        async_fn: Callable[[Unpack[Ts]], Awaitable[object]],
        args: tuple[*Ts],
    ) -> None:
        try:
            with scope:
                await async_fn(*args)
        except Exception as exc:
            if self._body_scope is None:
                raise InternalError(f"{async_fn.__qualname__} failed: {exc!r}") from exc
            self.failures.append(exc)
            self._body_scope.cancel()
        finally:
            self._scopes.discard(scope)


@trio.lowlevel.enable_ki_protection
async def wait_through_interrupts(done: trio.Event) -> KeyboardInterrupt | None:
    """Wait, shielded, until ``done`` is set; return a Ctrl-C that arrived meanwhile instead of raising it."""
    interrupt = None
    # Deliberately not a cancellation point; a finished cleanup needs no wait at all.
    with trio.CancelScope(shield=True):  # noqa: ASYNC912
        while not done.is_set():
            try:
                await done.wait()
            except KeyboardInterrupt as exc:
                interrupt = exc
    return interrupt  # noqa: ASYNC910


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def open_services(close: Callable[[Services], Awaitable[None]]) -> AsyncGenerator[Services]:
    """Open the nursery of a client; exceptions from the body propagate unchanged.

    Args:
        close: The close sequence. It runs as a service once the body has ended, however it ended, and must finish in
            bounded time. Afterwards the services are stopped.

    Raises:
        InternalError: A service failed, which cancelled the body.
    """
    body_error: BaseException | None = None
    other_errors: list[BaseException] = []
    failures: list[Exception] = []
    try:
        async with trio.open_nursery() as nursery:
            body_scope = trio.CancelScope()
            services = Services(nursery, body_scope, failures)
            try:
                # Only a failing service cancels this scope; outer cancellation reaches the body directly.
                with body_scope:
                    try:
                        yield services
                    except BaseException as exc:  # noqa: ASYNC103  # see below
                        if holds_cancelled(exc):
                            raise
                        # Hide it from the scope, which would replace a group with a new one.
                        body_error = exc
            except BaseException as exc:  # noqa: ASYNC103  # raised below, outside the handlers
                body_error = exc
            services.start_service(_close, services, close)
    except BaseException as exc:  # noqa: ASYNC103  # split, and raised below
        other_errors = leaves_of(exc)
    error = _choose(body_error, [*other_errors, *failures])
    if error is not None:
        # Raised here, outside the handlers, so that no discarded group becomes its context.
        raise error


async def _close(services: Services, close: Callable[[Services], Awaitable[None]]) -> None:
    try:
        await close(services)
    finally:
        services.stop()


def holds_cancelled(error: BaseException) -> bool:
    """Return whether an exception is ``Cancelled`` or a group that contains it."""
    return any(isinstance(leaf, trio.Cancelled) for leaf in leaves_of(error))


def cancelled_and_failed(
    group: BaseExceptionGroup[BaseException],
) -> tuple[BaseExceptionGroup[trio.Cancelled], Exception | None]:
    """Split the group that a callback with its own nursery raises if it fails while being cancelled.

    Return the cancellation, which must propagate, and the other failures. Raise the group itself if it contains no
    cancellation or contains an exit request.
    """
    cancelled, failed = group.split(trio.Cancelled)
    if cancelled is None or not (failed is None or isinstance(failed, Exception)):
        raise group
    return cancelled, failed


def without_group(error: BaseException) -> BaseException | None:
    """Choose what to raise from a nursery whose tasks never raise: an exit request, or else ``Cancelled``."""
    return _choose(None, leaves_of(error))


async def wait_any(*waits: Callable[[], Awaitable[object]]) -> None:  # noqa: ASYNC910  # leaving the nursery is the checkpoint
    """Wait until the first of several waits finishes. None of them may raise."""
    error = None
    try:
        async with trio.open_nursery() as nursery:
            for one in waits:
                nursery.start_soon(_wait_first, one, nursery.cancel_scope)
    except BaseException as exc:  # noqa: ASYNC103  # raised below, outside the handler
        error = without_group(exc)
    if error is not None:
        raise error


# Protected explicitly: a task does not inherit protection from the code that spawned it.
@trio.lowlevel.enable_ki_protection
async def _wait_first(wait: Callable[[], Awaitable[object]], scope: trio.CancelScope) -> None:
    await wait()
    scope.cancel()


def _choose(body_error: BaseException | None, others: list[BaseException]) -> BaseException | None:
    """Choose what to raise, in this order: an exit request, the body's error, an internal bug, ``Cancelled``."""
    errors = [exc for exc in others if not isinstance(exc, trio.Cancelled)]
    exits = [exc for exc in errors if not isinstance(exc, Exception)]
    chosen: BaseException
    if body_error is not None and not isinstance(body_error, Exception | trio.Cancelled):
        chosen = body_error
    elif exits:
        chosen = exits[0]
    elif isinstance(body_error, Exception):
        chosen = body_error
    elif errors:
        chosen = InternalError(f"a task of the client failed: {errors[0]!r}")
        chosen.__cause__ = errors.pop(0)
    else:
        return body_error or next(iter(others), None)
    if isinstance(body_error, Exception):
        errors.insert(0, body_error)
    for exc in errors:
        if exc is not chosen:
            chosen.add_note(f"Meanwhile also: {exc!r}")
    return chosen
