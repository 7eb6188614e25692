"""Requests of the server and the callbacks that answer them: owns one task, one cancel scope, one answer for each.

What a request asks, and who decides, is told by a :class:`Handler`; which turn the callback belongs to, by the
:class:`CallbackGroup` it names. Denying is the answer whenever there is no other.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import attrs
import trio

from trio_codex.errors import LocalProtocolError, PolicyError

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Awaitable, Callable

    from trio_codex._connection import Connection
    from trio_codex._nursery import Services
    from trio_codex._rpc import RequestId, ServerRequest

logger = logging.getLogger("trio_codex")


class CallbackGroup:
    """The callbacks that belong to one scope, such as a turn.

    Args:
        on_failure: Called when one of them fails; without it the failure is only logged.
        context: The ``contextvars`` they run in.
    """

    def __init__(
        self,
        on_failure: Callable[[PolicyError], object] | None = None,
        context: contextvars.Context | None = None,
    ) -> None:
        self._on_failure = on_failure
        self.context = context
        self._scopes: set[trio.CancelScope] = set()
        self._cancelled = False
        self._empty = trio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._scopes)

    def enter(self) -> trio.CancelScope:
        """Give the scope in which a callback runs; it is cancelled already if the group is."""
        scope = trio.CancelScope()
        if self._cancelled:
            scope.cancel()
        if not self._scopes:
            self._empty = trio.Event()
        self._scopes.add(scope)
        return scope

    def leave(self, scope: trio.CancelScope) -> None:
        """Note that a callback has ended."""
        self._scopes.remove(scope)
        if not self._scopes:
            self._empty.set()

    def cancel(self) -> None:
        """Cancel all of them, and those to come."""
        self._cancelled = True
        for scope in self._scopes:
            scope.cancel()

    async def wait_empty(self) -> None:
        """Wait until all of them have ended."""
        await self._empty.wait()

    def fail(self, error: PolicyError) -> None:
        """Report that one of them failed."""
        if self._on_failure is None:
            logger.error("%s", error, exc_info=error)
        else:
            self._on_failure(error)


@attrs.frozen
class Denial:
    """The answer that refuses a request in the right shape for its method: a result, or a JSON-RPC error."""

    result: object = None
    error: tuple[int, str] | None = None


@attrs.frozen
class Handler:
    """How one request is to be answered.

    Attributes:
        group: Whose callback it is.
        denial: The answer if there is no decision.
        decide: Asks the policy and gives the result as JSON; ``None`` to deny without asking.
    """

    group: CallbackGroup
    denial: Denial
    decide: Callable[[], Awaitable[object]] | None


class Dispatcher:
    """Answers the requests of the server, each at its own pace.

    Args:
        services: Where callbacks run.
        connection: Where answers go.
        resolve: Tells how a request is to be answered. Called on the reader.
    """

    def __init__(
        self, services: Services, connection: Connection, resolve: Callable[[ServerRequest], Handler]
    ) -> None:
        self._services = services
        self._connection = connection
        self._resolve = resolve
        self._open: dict[RequestId, trio.CancelScope] = {}

    def dispatch(self, request: ServerRequest) -> None:
        """Start answering a request. Called on the reader: the callback runs elsewhere."""
        handler = self._resolve(request)
        if handler.decide is None:
            self._deny(request.id, handler.denial)
            return
        # Registered before its task runs: the withdrawal may be the next line.
        scope = self._open[request.id] = handler.group.enter()
        self._services.start_callback(handler.group.context, self._answer, request, handler, scope)

    def withdraw(self, request_id: RequestId) -> None:
        """The server wants no answer any more: cancel the callback, send nothing."""
        self._connection.withdraw(request_id)
        if scope := self._open.pop(request_id, None):
            scope.cancel()

    def cancel(self) -> None:
        """Cancel all callbacks: the connection has ended."""
        for scope in self._open.values():
            scope.cancel()

    # Protected, so that Ctrl-C goes to the main task: in here it would pass by the scope of the turn that asks.
    @trio.lowlevel.enable_ki_protection
    async def _answer(  # noqa: ASYNC910  # a task of its own; its only wait is the callback
        self, request: ServerRequest, handler: Handler, scope: trio.CancelScope
    ) -> None:
        assert handler.decide is not None
        try:
            with scope:
                result = await handler.decide()
                if not scope.cancel_called:
                    self._connection.respond(request.id, result)
        except Exception as exc:
            self._fail(request, handler, scope, exc)
        except BaseExceptionGroup as group:
            # A callback with a nursery of its own that failed while it was cancelled from outside.
            cancelled, failed = group.split(trio.Cancelled)
            if cancelled is None or not (failed is None or isinstance(failed, Exception)):
                raise
            if failed is not None:
                self._fail(request, handler, scope, failed)
            raise cancelled from None
        finally:
            # The server may have withdrawn the request and used its id again: then it is not ours any more.
            if self._open.get(request.id) is scope:
                del self._open[request.id]
                self._connection.withdraw(request.id)
            handler.group.leave(scope)

    def _fail(
        self, request: ServerRequest, handler: Handler, scope: trio.CancelScope, exc: Exception
    ) -> None:
        """Deny for what is no decision, and fail the turn that it belongs to."""
        if not scope.cancel_called:
            self._deny(request.id, handler.denial)
        handler.group.fail(_policy_error(request.method, exc))

    def _deny(self, request_id: RequestId, denial: Denial) -> None:
        if denial.error is None:
            self._connection.respond(request_id, denial.result)
        else:
            self._connection.refuse(request_id, *denial.error)


def _policy_error(method: str, exc: Exception) -> PolicyError:
    if isinstance(exc, PolicyError):
        return exc
    what = "its decision cannot be sent: " if isinstance(exc, LocalProtocolError) else ""
    error = PolicyError(method, f"{what}{type(exc).__name__}: {exc}")
    error.__cause__ = exc
    return error
