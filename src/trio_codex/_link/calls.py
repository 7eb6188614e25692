"""The client's requests on one connection: owns their queueing, their retries, and their outcomes.

Independent of streams: lines go into a queue, and responses come from the reader.
:class:`~trio_codex._link.flow.FlowControl` decides when a line may be sent, and
:class:`~trio_codex._link.timeouts.Timeouts` expires requests that take too long.
"""

from __future__ import annotations

import math
import random
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from trio_codex._link.call import Call
from trio_codex._link.flow import FlowControl
from trio_codex._link.hooks import Instruments, RequestWatch
from trio_codex._link.write_queue import QueuedLine, WriteQueue
from trio_codex.errors import CodexError, ConnectionClosed, RequestTimeout, ServerBusyError

if TYPE_CHECKING:
    import msgspec

    from trio_codex._core.rpc import LateReply, RpcState
    from trio_codex._link.call import CloseReason, RequestClass
    from trio_codex._link.channel import Channel
    from trio_codex._link.timeouts import Timeouts

BARRIER_METHOD: Final = "thread/loaded/list"
BARRIER_PARAMS: Final = {"limit": 1}
"""The cheapest request that every server accepts, even before ``initialized`` and without the experimental API."""

BARRIER_SECONDS: Final = 2.0
"""How long to wait for the response to a barrier before another one is sent; it doubles each time. A server that cannot
write the refusal of a request drops it."""

FIRST_RETRY_SECONDS: Final = 0.02
LAST_RETRY_SECONDS: Final = 0.5
"""Maximum backoff after overload errors; it doubles each time. The queue of a busy server empties in milliseconds."""


class Calls:
    """The pending requests of one connection.

    Args:
        rpc: Allocates request ids and encodes requests.
        channel: Where lines go.
        window: How many requests that the server answers immediately may be in progress.
        request_timeout: Seconds for such a request, and the longest that any request may wait to be sent.
        timeouts: The timeouts for the server's responses.
        instruments: Notified of what happens.

    Attributes:
        close_reason: Why the connection ended; ``None`` while it is open.
        write_queue: The queue of outgoing lines.
        watch: Reports requests to the instruments.
        timeouts: The timeouts for the server's responses.
    """

    def __init__(
        self,
        rpc: RpcState[Call],
        channel: Channel,
        window: int,
        request_timeout: float,
        timeouts: Timeouts,
        instruments: Instruments,
    ) -> None:
        self._rpc = rpc
        self._flow = FlowControl(window)
        self._request_timeout = request_timeout
        self._instruments = instruments
        self._barrier: Call | None = None
        self._barrier_sent_at = 0.0
        self._barrier_patience = BARRIER_SECONDS
        self._refusing = False
        self.close_reason: CloseReason | None = None
        self.write_queue: WriteQueue = WriteQueue(channel, self._note_sent)
        self.watch: RequestWatch = RequestWatch(instruments)
        self.timeouts: Timeouts = timeouts

    @property
    def in_flight(self) -> int:
        """The number of pending requests, except barriers."""
        return self._rpc.pending - (self._barrier is not None)

    @trio.lowlevel.enable_ki_protection
    async def request(
        self,
        method: str,
        params: object,
        request_class: RequestClass = "window",
        *,
        has_timeout: bool = True,
    ) -> msgspec.Raw:
        """Send a request and wait for its response.

        If the caller is cancelled, the line is either not sent at all or written whole, and a late response is
        discarded. Requests that an overloaded server rejects are retried.

        Args:
            method: The method.
            params: The parameters.
            request_class: How flow control treats it.
            has_timeout: Whether ``request_timeout`` applies to the response. It never does to a deferred request.

        Raises:
            RequestTimeout: No response within the timeout, which includes time in the queue. The server may still act
                on the request.
            ServerBusyError: The server rejected the request as overloaded until the timeout.
            LocalProtocolError: ``params`` cannot be encoded as JSON; nothing was sent.
            RpcError, RemoteProtocolError, ConnectionBroken, ConnectionClosed: As :meth:`Call.answer`.
        """
        call = await self.begin(method, params, request_class)
        seconds = self._request_timeout if has_timeout and request_class != "deferred" else math.inf
        timeout = self.timeouts.start(seconds, partial(self._expire, call, seconds))
        try:
            return await call.answer()
        except BaseException:
            self.give_up(call)
            raise
        finally:
            self.timeouts.end(timeout)

    @trio.lowlevel.enable_ki_protection  # this may write a line directly, which must not be interrupted
    async def begin(self, method: str, params: object, request_class: RequestClass = "window") -> Call:
        """Send a request, or queue it until flow control admits it; return the call.

        Raises:
            LocalProtocolError, ConnectionBroken, ConnectionClosed: As :meth:`request`; nothing was sent.
        """
        # The same cancellation may have closed the client. If so, raise Cancelled rather than ConnectionClosed.
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.close_reason is not None:
            raise self.close_reason.exception()
        if self._refusing and request_class != "control":
            raise ConnectionClosed
        record = self.watch.queued(method, params, request_class) if self._instruments else None
        call = Call(self, method, request_class, record)
        try:
            trace = None if record is None else self._instruments.trace(record)
            call.request_id, line = self._rpc.request(method, params, call, trace)
        except BaseException as exc:
            self.watch.ended(record, "unsent", exc if isinstance(exc, CodexError) else None)
            raise
        if record is not None:
            record.id = call.request_id
        call.queued_line = queued_line = QueuedLine(line, record)
        self._queue(call, queued_line)
        return call  # noqa: ASYNC910  # the caller then awaits the response

    def take_back(self, call: Call, error: CodexError | None = None) -> bool:
        """See :meth:`Call.take_back`; tasks that wait for the call get ``error``."""
        queued_line = call.queued_line
        if call.answered or queued_line is None or queued_line.taken:
            call.unwanted = True
            return False
        if not self._flow.remove(call):
            if self.write_queue.take_back(queued_line):
                self._flow.taken_back()
            elif call.timer is None:
                return False
        self._rpc.forget(call.request_id)
        call.settle(None, error or ConnectionClosed(f"{call.method} was taken back"), "unsent")
        return True

    def give_up(self, call: Call, error: CodexError | None = None) -> None:
        """See :meth:`Call.give_up`; tasks that wait for the call get ``error``."""
        if not call.answered and not self.take_back(call, error):
            self._rpc.abandon(call.request_id)
            call.settle(None, error or ConnectionClosed(f"{call.method} was given up"), "given up")

    def settled(self, call: Call) -> None:
        """Release what a finished call occupied, and send the requests that this admits. Called by the call."""
        if call.timer is not None:
            self.timeouts.end(call.timer)
            call.timer = None
        if call.has_place:
            self._flow.leave_window(call)
        if call.queued_line is not None:
            # Free the memory: it will not be sent again, and may contain images.
            call.queued_line.line = b""
        if call is self._barrier:
            self._barrier = None
            if self._flow.needs_barrier:
                self._send_barrier()
        if self._flow.waits:
            self._send_admitted()

    def overdue(self, call: Call, seconds: float) -> CodexError:
        """Return the error for a call that timed out. If the server rejected it as overloaded, take the call back."""
        if call.refusal is not None and call.waits:
            # A retry that was already sent may have been accepted.
            self.take_back(call, call.refusal)
            return call.refusal
        problem = None
        if call.waits and self._barrier is not None:
            silent = self.timeouts.listened_since(self._barrier_sent_at)
            problem = f"it was not sent, because the server has read nothing for {silent:.1f} s"
        return RequestTimeout(call.method, seconds, problem)

    def _expire(self, call: Call, seconds: float) -> None:
        self.give_up(call, self.overdue(call, seconds))

    def _expire_unsent(self, call: Call, seconds: float) -> None:
        call.timer = None
        if call.waits:
            self._expire(call, seconds)

    def _queue(self, call: Call, queued_line: QueuedLine) -> None:
        if self._flow.enter(call):
            self.put(queued_line, urgent=call.request_class == "control")
        else:
            self._send_admitted()
        if call.request_class == "deferred" and call.waits:
            # A deferred request has no timeout for its response, but it has one for its time in the queues.
            seconds = self._request_timeout
            call.timer = self.timeouts.start(seconds, partial(self._expire_unsent, call, seconds))

    def _send_admitted(self) -> None:
        """Send the queued requests that flow control now admits."""
        if self._flow.waits and self.close_reason is None:
            for call in self._flow.admit():
                self._send(call)

    def _send_barrier(self) -> None:
        """Send a barrier unless one is pending."""
        if self._barrier is None and self.close_reason is None:
            self._barrier_sent_at = trio.current_time()
            self._send_next_barrier(BARRIER_SECONDS)

    def _send_next_barrier(self, seconds: float) -> None:
        """Send a barrier, and another one if there is no response within ``seconds``: its refusal may have been lost."""
        lost = self._barrier
        self._barrier = call = Call(self, BARRIER_METHOD, "control")
        if lost is not None:
            self.give_up(lost)
        call.request_id, line = self._rpc.request(BARRIER_METHOD, BARRIER_PARAMS, call)
        call.queued_line = QueuedLine(line)
        self._barrier_patience = seconds
        self._send(call)

    def _send(self, call: Call) -> None:
        assert call.queued_line is not None
        if call is self._barrier:
            seconds = self._barrier_patience
            call.timer = self.timeouts.start(seconds, partial(self._send_next_barrier, 2 * seconds))
        self.put(call.queued_line, urgent=call.request_class == "control")
        if call.request_class == "deferred" and call.timer is not None and call.sent:
            self.timeouts.end(call.timer)
            call.timer = None

    def put(self, queued_line: QueuedLine, *, urgent: bool = False) -> None:
        """Send a line of any kind, and count it in flow control."""
        self._flow.queued()
        self.write_queue.put(queued_line, urgent=urgent)

    def _note_sent(self, queued_line: QueuedLine) -> None:
        """Record that a line is being written."""
        if "frame_sent" in self._instruments:
            self._instruments.emit("frame_sent", self._instruments.connection, queued_line.line)
        if queued_line.record is not None:
            self.watch.sent(queued_line.record)
        if self._flow.sent(queued_line):
            self._send_barrier()

    def take_reply(self, call: Call, result: msgspec.Raw | None, error: CodexError | None) -> None:
        """Settle a call with its response, or schedule a retry after an overload error. Called by the reader."""
        if type(error) is ServerBusyError:
            self._flow.refused(call.queued_line)
            self._retry_later(call, error)
            self._send_admitted()
        else:
            self._flow.acknowledge(call.queued_line)
            call.settle(result, error)

    def take_late_reply(self, late: LateReply[Call]) -> None:
        """Handle the response to an abandoned request. It still acknowledges the line."""
        if type(late.error) is ServerBusyError:
            self._flow.refused(late.token.queued_line)
        else:
            self._flow.acknowledge(late.token.queued_line)
        self._send_admitted()

    def _retry_later(self, call: Call, refusal: ServerBusyError) -> None:
        """Schedule a retry of a request that the server rejected as overloaded."""
        if call.refusal is None:
            call.refused_at = trio.current_time()
        call.refusal = refusal
        call.refusals += 1
        waited = self.timeouts.listened_since(call.refused_at)
        if call.unwanted or (waited >= self._request_timeout and call is not self._barrier):
            call.settle(None, refusal)
            return
        assert call.queued_line is not None
        if call.timer is not None:
            self.timeouts.end(call.timer)
        call.queued_line.taken = False
        self._rpc.reopen(call.request_id, call.method, call)
        delay = min(FIRST_RETRY_SECONDS * 2 ** min(call.refusals - 1, 10), LAST_RETRY_SECONDS)
        delay *= random.uniform(0.5, 1)
        call.timer = self.timeouts.start(delay, partial(self._retry, call))
        self._instruments.emit("request_retried", call.method, call.refusals, delay)

    def _retry(self, call: Call) -> None:
        call.timer = None
        if call is self._barrier:
            # Other requests wait for credits that only the barrier returns, so send it without a credit.
            self._send(call)
        else:
            assert call.queued_line is not None
            self._queue(call, call.queued_line)

    def refuse_new(self) -> None:
        """Reject new requests, and cancel those not yet sent. Control requests are exempt."""
        self._refusing = True
        for call in self._flow.waiting():
            self.take_back(call, ConnectionClosed())

    def end(self, close_reason: CloseReason) -> None:
        """Fail every pending request because the connection has ended."""
        self.close_reason = close_reason
        for call in self._rpc.close():
            call.settle(None, close_reason.exception())
