"""A body with one concurrent task, which outlives it. Exceptions from both propagate unchanged."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def with_task(
    work: Callable[[], Awaitable[object]], leave: Callable[[BaseException | None], object] | None = None
) -> AsyncGenerator[None]:
    """Run a task concurrently with the body, and cancel it only after the body has ended.

    If the task raises, the body is cancelled, and the exception leaves the scope unless the body raised another one.

    Args:
        work: The task. It runs shielded, so that the body can clean up with its help. Its own cleanup must be bounded.
        leave: Called when the body has ended: with the body's exception, with the task's if that cancelled the body,
            or with ``None``. It may raise, for example because a journal cannot be written.
    """
    shield = trio.CancelScope(shield=True)
    body = trio.CancelScope()
    body_error: BaseException | None = None
    others: list[BaseException] = []

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_run, work, shield, body, others)
            try:
                with body:
                    try:
                        yield
                    except BaseException as exc:  # noqa: ASYNC103  # raised below
                        if _holds_cancelled(exc):
                            raise
                        # Hide the exception from the scope, which would replace a group with a new one.
                        body_error = exc
            except BaseException as exc:  # noqa: ASYNC103  # raised below
                body_error = exc
            try:
                # A failed task cancels the body, and leave() then receives the task's exception.
                if leave is not None:
                    # An exception may be falsy if its class defines ``__len__``.
                    leave(next(iter(others), None) if body_error is None else body_error)
            finally:
                shield.cancel()
    except BaseException as exc:  # noqa: ASYNC103  # split, and raised below
        others += leaves_of(exc)
    error = choose(body_error, others)
    if error is not None:
        # Raise outside the handlers, so that no discarded group becomes its context.
        raise error


@trio.lowlevel.enable_ki_protection
async def _run(  # noqa: ASYNC910  # runs as a separate task
    work: Callable[[], Awaitable[object]],
    shield: trio.CancelScope,
    body: trio.CancelScope,
    others: list[BaseException],
) -> None:
    """Run the task of :func:`with_task`. Not a closure, which every scope would have to protect again."""
    try:
        with shield:
            await work()
    except BaseException as exc:  # noqa: ASYNC103  # raised by the scope
        others.append(exc)
        body.cancel()


def leaves_of(error: BaseException) -> list[BaseException]:
    """Return the exceptions in a group, at any depth; for any other exception, just that one."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    group = cast("BaseExceptionGroup[BaseException]", error)
    return [leaf for each in group.exceptions for leaf in leaves_of(each)]


def _holds_cancelled(error: BaseException) -> bool:
    return any(isinstance(leaf, trio.Cancelled) for leaf in leaves_of(error))


def choose(body_error: BaseException | None, others: list[BaseException]) -> BaseException | None:
    """Choose the exception to raise, in this order: an exit request, the body's error, the task's, ``Cancelled``."""
    errors = [exc for exc in (body_error, *others) if exc is not None]
    failures = [exc for exc in errors if not _holds_cancelled(exc)]
    exits = [exc for exc in failures if not isinstance(exc, Exception)]
    return next(iter([*exits, *failures, *errors]), None)
