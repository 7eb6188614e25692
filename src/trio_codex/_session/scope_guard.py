"""The body of a scope that a policy failure or an exceeded limit may cancel."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVarTuple, Unpack

import trio

from trio_codex._core.log import logger
from trio_codex._link.services import holds_cancelled
from trio_codex.errors import BudgetExceeded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from trio_codex._link.services import Services
    from trio_codex._values.turn_result import TurnResult
    from trio_codex.errors import CodexError

Ts = TypeVarTuple("Ts")


class ScopeGuard:
    """Runs the body of a scope that may be cancelled from outside, and chooses the exception to raise."""

    def __init__(self) -> None:
        self.scope: trio.CancelScope = trio.CancelScope()
        self._error: BaseException | None = None
        self._exit_request: KeyboardInterrupt | None = None
        self._failures: list[CodexError] = []

    def fail(self, error: CodexError) -> None:
        """Cancel the body because a policy failed or a limit was exceeded."""
        self._failures.append(error)
        self.scope.cancel()

    @property
    def has_failed(self) -> bool:
        """Whether the body was cancelled by :meth:`fail`."""
        return bool(self._failures)

    @contextmanager
    def watched(self) -> Generator[None]:
        """Run the body, and keep its exception for :meth:`leave`."""
        try:
            with self.scope:
                try:
                    yield
                except BaseException as exc:  # noqa: ASYNC103  # see below
                    if holds_cancelled(exc):
                        raise
                    # Hide it from the cancel scope, which would replace a group with a new one.
                    self._error = exc
        except BaseException as exc:  # noqa: ASYNC103  # raised by leave(), outside the handler
            self._error = exc

    async def finish(  # noqa: ASYNC910  # cleanup, not a cancellation point
        self, services: Services, async_fn: Callable[[Unpack[Ts]], Awaitable[object]], *args: *Ts
    ) -> None:
        """Run bounded cleanup even if the scope is cancelled. A KeyboardInterrupt is kept for :meth:`leave`."""
        try:
            await services.finish(async_fn, *args)
        except KeyboardInterrupt as exc:
            self._exit_request = exc

    def leave(self, loss: BaseException | None, result: Callable[[], TurnResult | None]) -> None:
        """Raise the first of: an exit request, the body's exception, the reason for its cancellation, the loss."""
        failures = [
            failure.in_turn(result()) if isinstance(failure, BudgetExceeded) else failure
            for failure in self._failures
        ]
        # An exception may be falsy if its class defines ``__len__``.
        raised = [exc for exc in (self._exit_request, self._error, *failures) if exc is not None]
        chosen = next(iter(raised), None)
        if chosen is None:
            if loss is not None:
                raise loss
            return
        for failure in failures:
            if failure is not chosen:
                chosen.add_note(f"Meanwhile also: {failure}")
                if isinstance(chosen, trio.Cancelled):
                    # A cancel scope that catches the cancellation would discard the note, too.
                    logger.error("while a turn was being cancelled: %s", failure, exc_info=failure)
        raise chosen
