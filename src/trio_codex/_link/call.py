"""One pending request, and the reason why a connection closed. Both outlive the tasks that wait for them.

A call uses its sender only when the call is taken back or given up. It is independent of streams.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import msgspec
import trio

from trio_codex.errors import CodexError, ConnectionBroken, RpcError

if TYPE_CHECKING:
    from trio_codex._core.rpc import RequestId
    from trio_codex._link.hooks import RequestOutcome, RequestRecord, RequestWatch
    from trio_codex._link.timeouts import Timeout, Timeouts
    from trio_codex._link.write_queue import QueuedLine
    from trio_codex.errors import ServerBusyError


RequestClass: TypeAlias = Literal["window", "deferred", "control"]
"""How flow control treats a request.

* ``window``: the server answers immediately, so the request counts against the window.
* ``deferred``: the server answers once some work finishes.
* ``control``: ends or steers something, and is sent even if ordinary requests have to wait.
"""


class Caller(Protocol):
    """The sender of calls, which is notified of their outcomes.

    Attributes:
        watch: Reports requests to the instruments.
        timeouts: The timeouts for the server's responses.
    """

    watch: RequestWatch
    timeouts: Timeouts

    def take_back(self, call: Call) -> bool:
        """See :meth:`Call.take_back`."""
        ...

    def give_up(self, call: Call) -> None:
        """See :meth:`Call.give_up`."""

    def settled(self, call: Call) -> None:
        """Release what a finished call occupied."""

    def overdue(self, call: Call, seconds: float) -> CodexError:
        """Return the error for a call that timed out."""
        ...


class CloseReason:
    """Why a connection ended. Set once, and shared by everything that fails because of it."""

    def __init__(self, error: CodexError) -> None:
        self._error = error

    def exception(self) -> CodexError:
        """Return a new exception with this reason. Raising one exception object in several tasks would mix tracebacks."""
        fresh = type(self._error)(*self._error.args)
        fresh.__cause__ = self._error.__cause__
        return fresh

    def __str__(self) -> str:
        return str(self._error)

    @property
    def reason(self) -> str:
        """The reason in one sentence."""
        return self._error.reason if isinstance(self._error, ConnectionBroken) else str(self._error)


# A struct, because every request creates one, and it costs a quarter of a plain Python class.
class Call(msgspec.Struct, eq=False):
    """One request. It stays pending until it is answered or given up, even if the task that waits is cancelled.

    Attributes:
        method: The method.
        request_class: How flow control treats the request.
        request_id: The JSON-RPC id.
        queued_line: The encoded line.
        has_place: Whether it occupies a place in the request window.
        answered: Whether the outcome is known.
        refusal: The last overload error from the server; the server did not accept the request.
        refusals: The number of overload errors.
        refused_at: Trio time of the first overload error.
        unwanted: Whether the caller tried to take it back. If the server rejects it, it is not retried.
        timer: The timer that retries the request, or expires it while it waits to be sent.
    """

    _caller: Caller
    method: str
    request_class: RequestClass
    _record: RequestRecord | None = None
    request_id: RequestId = 0
    queued_line: QueuedLine | None = None
    has_place: bool = False
    answered: bool = False
    refusal: ServerBusyError | None = None
    refusals: int = 0
    refused_at: float = 0.0
    unwanted: bool = False
    timer: Timeout | None = None
    _result: msgspec.Raw | None = None
    _error: CodexError | None = None
    _done: trio.Event | None = None

    @property
    def _outcome_known(self) -> trio.Event:
        """Set with ``answered``. The first task that waits creates it, when the server already has the request."""
        if self._done is None:
            self._done = trio.Event()
            if self.answered:
                self._done.set()
        return self._done

    @property
    def waits(self) -> bool:
        """Whether the line is still queued, so that the server has not seen it."""
        return self.queued_line is not None and not self.queued_line.taken

    @property
    def sent(self) -> bool:
        """Whether the line was handed to the writer. From then on the server may act on it."""
        return self.queued_line is not None and self.queued_line.taken

    async def answer(self) -> msgspec.Raw:
        """Wait for the response. Cancellation leaves the call pending.

        Raises:
            RpcError: The server responded with an error.
            RemoteProtocolError: The response is malformed.
            ConnectionBroken: The connection broke first.
            ConnectionClosed: The connection was closed on this side first.
        """
        await self._outcome_known.wait()
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    async def answer_within(self, seconds: float) -> msgspec.Raw:
        """Wait for the response with a timeout. If the timeout expires, the call stays pending.

        Raises:
            RequestTimeout: The timeout expired.
            ServerBusyError: The timeout expired, and the server rejected the request as overloaded until then.
            CodexError: As :meth:`answer`.
        """
        with self._caller.timeouts.move_on_after(seconds):
            return await self.answer()
        raise self._caller.overdue(self, seconds)

    async def settled(self) -> None:
        """Wait for the outcome without raising it."""
        await self._outcome_known.wait()

    def take_back(self) -> bool:
        """Cancel the call if its line has not been handed to the writer; return whether that succeeded.

        Otherwise the server may act on it, but if it rejects the call as overloaded, the call is not retried.
        """
        return self._caller.take_back(self)

    def give_up(self) -> None:
        """Abandon the call. A late response is discarded."""
        self._caller.give_up(self)

    def settle(
        self, result: msgspec.Raw | None, error: CodexError | None, outcome: RequestOutcome | None = None
    ) -> None:
        """Set the outcome. Called by the connection.

        Args:
            result: The result, if there is one.
            error: The error, if the call failed.
            outcome: What to report to the instruments; derived from ``error`` by default.
        """
        if not self.answered:
            self._result, self._error, self.answered = result, error, True
            if self._done is not None:
                self._done.set()
            self._caller.settled(self)
            if self._record is not None:
                if outcome is None:
                    outcome = _outcome_of(error)
                self._caller.watch.ended(self._record, outcome, error)


def _outcome_of(error: CodexError | None) -> RequestOutcome:
    return "answered" if error is None else "refused" if isinstance(error, RpcError) else "failed"
