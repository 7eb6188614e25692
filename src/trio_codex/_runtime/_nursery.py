"""One nursery that nobody sees: owns the tasks of a client, and keeps its exceptions transparent.

Three kinds of tasks live in it. *Services* (reader, writer, …) are shielded and outlive the body, because what the body
started has to be ended over them; only the close sequence cancels them. *Callbacks* are the user's code and are cancelled
with whatever surrounds the client. *Cleanup* runs to its end even if the task that needs it is hit by Ctrl-C, which Trio
delivers at any checkpoint of the main task, shielded or not.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple, Unpack

import trio

from trio_codex._core._exceptions import leaves_of
from trio_codex.errors import InternalError

if TYPE_CHECKING:
    import contextvars
    from collections.abc import AsyncGenerator, Awaitable, Callable

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Services:
    """The tasks of one client.

    Args:
        nursery: Where they run.
        body_scope: What to cancel when one of them fails; ``None`` if the nursery is the caller's, which then crashes.
        failures: Where to note how they failed.
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
        """Run a service until it returns or :meth:`stop` is called; give its cancel scope."""
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
        """Run code that calls the user's, in a copy of ``context``."""
        if context is None:
            self._nursery.start_soon(async_fn, *args)
        else:
            context.copy().run(partial(self._nursery.start_soon, async_fn, *args))

    async def finish(self, async_fn: Callable[[Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        """Run cleanup to its end and give its result, whatever happens to the caller meanwhile.

        Not a cancellation point. A Ctrl-C that comes meanwhile is raised afterwards. ``async_fn`` must be bounded.
        """
        done = trio.Event()
        results: list[T] = []
        errors: list[Exception] = []

        async def run() -> None:  # noqa: ASYNC910  # a task of its own
            try:
                results.append(await async_fn(*args))
            except Exception as exc:
                errors.append(exc)
            finally:
                done.set()

        # Not one of those that stop() cancels: it is bounded, and what it started to undo has to be undone.
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
    async def _run_service(  # noqa: ASYNC910  # a task of its own
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
    """Wait, shielded, until ``done`` is set; give the Ctrl-C that came meanwhile instead of raising it."""
    interrupt = None
    # Not a cancellation point, on purpose; a done cleanup needs no wait at all.
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
    """Open the nursery of a client, and close it so that the body's exception leaves as itself.

    Args:
        close: The close sequence. It runs as a service once the body has ended, by whatever way, and must be bounded.
            After it the services are stopped.

    Raises:
        InternalError: A service failed; the body was cancelled for it.
    """
    body_error: BaseException | None = None
    other_errors: list[BaseException] = []
    failures: list[Exception] = []
    try:
        async with trio.open_nursery() as nursery:
            body_scope = trio.CancelScope()
            services = Services(nursery, body_scope, failures)
            try:
                # Cancelled by a failing service, and by nothing else: what surrounds us reaches the body by itself.
                with body_scope:
                    try:
                        yield services
                    except BaseException as exc:  # noqa: ASYNC103  # see below
                        if holds_cancelled(exc):
                            raise
                        # Kept from the scope, which would take a group apart and build another.
                        body_error = exc
            except BaseException as exc:  # noqa: ASYNC103  # raised below, outside the handlers
                body_error = exc
            services.start_service(_close, services, close)
    except BaseException as exc:  # noqa: ASYNC103  # taken apart, and raised below
        other_errors = leaves_of(exc)
    error = _choose(body_error, [*other_errors, *failures])
    if error is not None:
        # Raised here, outside the handlers: no dropped group becomes its context.
        raise error


async def _close(services: Services, close: Callable[[Services], Awaitable[None]]) -> None:
    try:
        await close(services)
    finally:
        services.stop()


def holds_cancelled(error: BaseException) -> bool:
    """Say whether a cancel scope has something to do with this exception."""
    return any(isinstance(leaf, trio.Cancelled) for leaf in leaves_of(error))


def cancelled_and_failed(
    group: BaseExceptionGroup[BaseException],
) -> tuple[BaseExceptionGroup[trio.Cancelled], Exception | None]:
    """Take apart what a callback with a nursery of its own raised when it failed while it was cancelled from outside.

    Returns:
        The cancellation, which has to go on, and what failed beside it.

    Raises:
        BaseExceptionGroup: The group itself, if nothing in it was cancelled, or somebody wants to exit.
    """
    cancelled, failed = group.split(trio.Cancelled)
    if cancelled is None or not (failed is None or isinstance(failed, Exception)):
        raise group
    return cancelled, failed


def without_group(error: BaseException) -> BaseException | None:
    """Pick what leaves a nursery whose tasks raise nothing by themselves: an exit request, else ``Cancelled``."""
    return _choose(None, leaves_of(error))


def _choose(body_error: BaseException | None, others: list[BaseException]) -> BaseException | None:
    """Pick what leaves: an exit request, else the body's own error, else a bug of ours, else ``Cancelled``."""
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
