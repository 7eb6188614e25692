"""Run the callbacks that answer server requests: one task, one cancel scope and one answer for each.

A :class:`Handler` determines how to decide a request, and its :class:`CallbackGroup` the turn that the callback belongs
to. Without any other answer, the request is denied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec
import trio

from trio_codex._core.exceptions import describe_error
from trio_codex._core.log import logger
from trio_codex._link.services import cancelled_and_failed
from trio_codex.errors import LocalProtocolError, PolicyError

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Awaitable, Callable

    from trio_codex._core.rpc import RequestId, ServerRequest
    from trio_codex._link.connection import Connection
    from trio_codex._link.services import Services


class CallbackGroup:
    """The callbacks that belong to one scope, such as a turn. They run in ``context``.

    ``on_failure`` is called when one of them fails; by default the failure is only logged.
    """

    def __init__(
        self,
        on_failure: Callable[[PolicyError], object] | None = None,
        context: contextvars.Context | None = None,
    ) -> None:
        self._on_failure = on_failure
        self.context = context
        # Most turns have no requests, and an empty dictionary is a quarter of the size of an empty set.
        self._scopes: dict[trio.CancelScope, None] = {}
        self._cancelled = False
        self._empty: trio.Event | None = None

    def __len__(self) -> int:
        return len(self._scopes)

    def enter(self) -> trio.CancelScope:
        """Return the scope for a callback to run in; it is already cancelled if the group is."""
        scope = trio.CancelScope()
        if self._cancelled:
            scope.cancel()
        if not self._scopes:
            self._empty = trio.Event()
        self._scopes[scope] = None
        return scope

    def leave(self, scope: trio.CancelScope) -> None:
        del self._scopes[scope]
        if not self._scopes and self._empty is not None:
            self._empty.set()

    def cancel(self) -> None:
        """Cancel all callbacks, including future ones."""
        self._cancelled = True
        for scope in self._scopes:
            scope.cancel()

    async def wait_empty(self) -> None:
        if self._empty is None:
            await trio.lowlevel.checkpoint()
        else:
            await self._empty.wait()

    def fail(self, error: PolicyError) -> None:
        """Report that a callback failed."""
        if self._on_failure is None:
            logger.error("%s", error, exc_info=error)
        else:
            self._on_failure(error)


class Answer(msgspec.Struct, frozen=True):
    """The response to a server request: a result, or the code and message of a JSON-RPC error."""

    result: object = None
    error: tuple[int, str] | None = None
    then: Callable[[], object] | None = None
    """Called once the response is queued for sending."""


Outcome: TypeAlias = Literal["answered", "withdrawn", "failed", "left"]
"""The outcome of a request: answered; withdrawn, so that no answer was sent; denied because a callback failed; or left
for another client to answer."""


class Handler(msgspec.Struct, frozen=True, eq=False):
    """How to answer one request.

    Attributes:
        group: The group that the callback belongs to.
        denial: The answer if there is no decision.
        decide: Asks the policy and returns the answer; ``None`` denies without asking.
        settled: Called exactly once with the outcome, and the reason if it was not answered.
    """

    group: CallbackGroup
    denial: Answer
    decide: Callable[[], Awaitable[Answer]] | None
    settled: Callable[[Outcome, str | None], object]


class _Open(msgspec.Struct, eq=False):
    """A request whose callback is running."""

    scope: trio.CancelScope
    why_withdrawn: str = "its turn ended"


class Dispatcher:
    """Answers server requests concurrently."""

    def __init__(self, services: Services, connection: Connection) -> None:
        self._services = services
        self._connection = connection
        self._open: dict[RequestId, _Open] = {}

    def dispatch(self, request: ServerRequest, handler: Handler | None) -> None:
        """Start answering a request in its own task, or leave it to another client. Called by the reader."""
        if handler is None:
            # The server may never report that another client answered, and may reuse the id.
            self._connection.withdraw(request.id)
            return
        if handler.decide is None:
            self._send(request.id, handler.denial)
            handler.settled("answered", None)
            return
        # Register before the task runs: the withdrawal may be in the next line.
        entry = self._open[request.id] = _Open(handler.group.enter())
        self._services.start_callback(handler.group.context, self._answer, request, handler, entry)

    def withdraw(self, request_id: RequestId) -> None:
        """Cancel the callback of a request that the server has withdrawn, and send nothing."""
        self._connection.withdraw(request_id)
        if entry := self._open.pop(request_id, None):
            entry.why_withdrawn = "the server withdrew it"
            entry.scope.cancel()

    def cancel(self) -> None:
        """Cancel all callbacks, because the connection has ended."""
        for entry in self._open.values():
            entry.why_withdrawn = "the connection ended"
            entry.scope.cancel()

    # Protected, so that Ctrl-C goes to the main task: raised here, it would bypass the scope of the turn that asks.
    @trio.lowlevel.enable_ki_protection
    async def _answer(  # noqa: ASYNC910  # runs as a separate task; it waits only for the callback
        self, request: ServerRequest, handler: Handler, entry: _Open
    ) -> None:
        assert handler.decide is not None
        scope = entry.scope
        outcome: Outcome = "withdrawn"
        error: PolicyError | None = None
        try:
            with scope:
                answer = await handler.decide()
                if not scope.cancel_called:
                    self._send(request.id, answer)
                    outcome = "answered"
        except Exception as exc:
            error = _policy_error(request.method, exc)
        except BaseExceptionGroup as group:
            cancelled, failed = cancelled_and_failed(group)
            error = None if failed is None else _policy_error(request.method, failed)
            raise cancelled from None
        finally:
            if error is not None and not scope.cancel_called:
                self._send(request.id, handler.denial)
                outcome = "failed"
            # The server may have withdrawn the request and reused its id, so this may be another request.
            if self._open.get(request.id) is entry:
                del self._open[request.id]
                self._connection.withdraw(request.id)
            # A cancellation that this scope did not cause comes from a scope around the client.
            why = entry.why_withdrawn if scope.cancel_called else "the client was cancelled"
            reason = why if outcome == "withdrawn" else None
            handler.settled(outcome, reason if error is None else error.problem)
            handler.group.leave(scope)
            if error is not None:
                handler.group.fail(error)

    def _send(self, request_id: RequestId, answer: Answer) -> None:
        if answer.error is None:
            self._connection.respond(request_id, answer.result)
        else:
            self._connection.refuse(request_id, *answer.error)
        if answer.then is not None:
            answer.then()


def _policy_error(method: str, exc: Exception) -> PolicyError:
    if isinstance(exc, PolicyError):
        return exc
    what = "its decision cannot be sent: " if isinstance(exc, LocalProtocolError) else ""
    error = PolicyError(method, f"{what}{describe_error(exc)}")
    error.__cause__ = exc
    return error
