"""An async context manager that a Trio task holds open for a caller in another thread."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any

import trio

from trio_codex._face.host import OpenScope
from trio_codex.errors import ConnectionClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from contextlib import AbstractAsyncContextManager

    from trio_codex._face.host import Host
    from trio_codex._face.operations import Around, Operation


class HeldScope(OpenScope):
    """The Trio side of a scope.

    The caller's operations run in its nursery. If the scope is cancelled from within, because a policy failed or a
    budget was exceeded, they are therefore cancelled like the body of a Trio scope.

    Attributes:
        entered: Done when the scope has been entered, or entering it has failed.
        variables: The context variables that the context manager has set for its body.
        swallowed: Whether the context manager suppressed the exception from the body.
        ended_early: Whether the scope had ended before its caller left it.
    """

    def __init__(
        self,
        host: Host,
        make: Callable[[], AbstractAsyncContextManager[Any]],
        new_operation: Callable[[], Operation],
    ) -> None:
        super().__init__()
        self._host = host
        self._make = make
        self._cancel_scope = trio.CancelScope()
        self._left = trio.Event()
        self._body_error: Exception | None = None
        self.entered, self.exited = new_operation(), new_operation()
        self.variables: dict[contextvars.ContextVar[Any], Any] = {}
        self.swallowed = self.ended_early = False

    def submit(self, caller: Hashable) -> None:
        """Begin to enter the scope, inside the caller's innermost one. Raises as :meth:`Host.submit` does."""
        try:
            self._host.expect(self.exited)
            self._host.submit(self.entered, self._begin, self._host.innermost(caller))
        except BaseException:
            # No task will finish them.
            self._finish(None)
            raise

    def _begin(self, context: contextvars.Context, _: Operation, around: Around) -> None:
        if around.nursery is None:
            self._finish(ConnectionClosed())
        else:
            context.run(around.nursery.start_soon, self._hold)

    async def _hold(self) -> None:  # noqa: ASYNC910  # runs as a separate task
        error: BaseException | None = None
        before = contextvars.copy_context()
        try:
            with self._cancel_scope:
                async with self._make() as value:
                    self.variables = {
                        variable: set_to
                        for variable, set_to in contextvars.copy_context().items()
                        if before.get(variable) is not set_to
                    }
                    async with self.open():
                        self.entered.finish(value)
                        await self._left.wait()
                    # Raise outside the nursery, which would put it into a group.
                    if self._body_error is not None:
                        raise self._body_error
                self.swallowed = self._body_error is not None
        except trio.Cancelled:
            self.was_cut_off = True
            raise
        except BaseException as exc:  # noqa: ASYNC103  # raised in the caller's thread
            error = exc  # noqa: ASYNC104
        finally:
            self._finish(error)

    def _finish(self, error: BaseException | None) -> None:
        self.ended_early = self.entered.done and not self._left.is_set()
        self.entered.finish(error=ConnectionClosed() if error is None else error)
        self.exited.finish(error=error)
        if self.ended_early and (on_ended_early := self.on_ended_early) is not None:
            on_ended_early()

    def leave(self, error: BaseException | None) -> None:
        """Begin to leave the scope with the exception of its body, or cancel it if that is an exit request."""
        if error is not None and not isinstance(error, Exception):
            self.cancel()
            return
        self._body_error = error
        if not self._host.post(self._left.set):
            self._finish(None)

    def cancel(self) -> None:
        """Cancel the scope, without waiting for its end."""
        # This order ensures that the task that holds the scope sees the cancellation.
        if not (self._host.post(self._cancel_scope.cancel) and self._host.post(self._left.set)):
            self._finish(None)
