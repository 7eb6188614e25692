"""The requests of one connection: owns their turn to be sent, their repetition, and their outcome.

Knows no streams: lines go into a queue, and answers come from the reader. Whether a line may be sent is up to the
:class:`~trio_codex._link.flow.FlowControl`, and when a request has taken too long, to the
:class:`~trio_codex._link.timeouts.Timeouts`.
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
from trio_codex._link.write_queue import QueuedLine
from trio_codex.errors import CodexError, ConnectionClosed, RequestTimeout, ServerBusyError

if TYPE_CHECKING:
    import msgspec

    from trio_codex._core.rpc import LateReply, RpcState
    from trio_codex._link.call import CloseReason, RequestClass
    from trio_codex._link.timeouts import Timeouts
    from trio_codex._link.write_queue import WriteQueue

BARRIER_METHOD: Final = "thread/loaded/list"
BARRIER_PARAMS: Final = {"limit": 1}
"""The cheapest request that every server knows, before ``initialized`` and without experimental API as well."""

FIRST_RETRY_SECONDS: Final = 0.02
LAST_RETRY_SECONDS: Final = 0.5
"""How long to wait after a refusal for overload, doubled each time. The queue of a busy server empties in milliseconds."""


class Calls:
    """The requests of one connection that have no outcome yet.

    Args:
        rpc: Registers them, and makes their lines.
        write_queue: Where lines go.
        window: How many requests that are answered at once may be in progress.
        request_timeout: Seconds for a request that the server answers at once, and for the wait of any to be sent.
        timeouts: Everything that judges the server by its time.
        instruments: Who is told what happens.

    Attributes:
        death: Why the connection ended; ``None`` while it lives.
        watch: Tells the instruments of requests.
        timeouts: See above.
    """

    def __init__(
        self,
        rpc: RpcState[Call],
        write_queue: WriteQueue,
        window: int,
        request_timeout: float,
        timeouts: Timeouts,
        instruments: Instruments,
    ) -> None:
        self._rpc = rpc
        self._write_queue = write_queue
        self._flow = FlowControl(window)
        self._request_timeout = request_timeout
        self._instruments = instruments
        self._barrier: Call | None = None
        self._barrier_sent_at = 0.0
        self._refusing = False
        self.close_reason: CloseReason | None = None
        self.watch: RequestWatch = RequestWatch(instruments)
        self.timeouts: Timeouts = timeouts

    @property
    def in_flight(self) -> int:
        """How many requests wait for an answer, barriers left out."""
        return self._rpc.pending - (self._barrier is not None)

    @trio.lowlevel.enable_ki_protection
    async def request(
        self, method: str, params: object, request_class: RequestClass = "window"
    ) -> msgspec.Raw:
        """Send a request and wait for its answer.

        If the caller is cancelled, the line was either never handed to the writer or is written whole; its answer, if
        one comes, is discarded. A request that the server refuses for its load is sent again.

        Raises:
            RequestTimeout: No answer in time, the wait for its turn included. The server may still act on the request.
            ServerBusyError: The server was overloaded for all that time, and has not taken it.
            LocalProtocolError: ``params`` are not JSON; nothing was sent.
            RpcError, RemoteProtocolError, ConnectionBroken, ConnectionClosed: As :meth:`Call.answer`.
        """
        call = await self.begin(method, params, request_class)
        seconds = self._request_timeout if request_class != "deferred" else math.inf
        timeout = self.timeouts.start(seconds, partial(self._expire, call, seconds))
        try:
            return await call.answer()
        finally:
            self.timeouts.end(timeout)
            call.give_up()

    @trio.lowlevel.enable_ki_protection  # a line may be written on the way, and must not be torn
    async def begin(self, method: str, params: object, request_class: RequestClass = "window") -> Call:
        """Send a request, now or when its turn comes; return the call.

        Raises:
            LocalProtocolError, ConnectionBroken, ConnectionClosed: As :meth:`request`; nothing was sent.
        """
        # What cancels the caller may be what closes the client, too, and is then what the caller is to be told.
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.close_reason is not None:
            raise self.close_reason.exception()
        if self._refusing and request_class != "control":
            raise ConnectionClosed
        record = self.watch.queued(method, params, request_class)
        call = Call(self, method, request_class, record)
        try:
            trace = None if record is None else self._instruments.trace(record)
            call.request_id, line = self._rpc.request(method, params, call, trace)
        except BaseException as exc:
            self.watch.ended(record, "unsent", exc if isinstance(exc, CodexError) else None)
            raise
        if record is not None:
            record.id = call.request_id
        call.queued_line = QueuedLine(line, record)
        self._queue(call)
        return call  # noqa: ASYNC910  # the answer has to be waited for anyway

    def take_back(self, call: Call, error: CodexError | None = None) -> bool:
        """See :meth:`Call.take_back`; who still waits for it gets ``error``."""
        queued_line = call.queued_line
        if call.answered or queued_line is None or queued_line.taken:
            return False
        if not self._flow.remove(call):
            if self._write_queue.take_back(queued_line):
                self._flow.taken_back()
            elif call.timer is None:
                return False
        self._rpc.forget(call.request_id)
        call.settle(None, error or ConnectionClosed(f"{call.method} was taken back"), "unsent")
        return True

    def give_up(self, call: Call, error: CodexError | None = None) -> None:
        """See :meth:`Call.give_up`; who still waits for it gets ``error``."""
        if not call.answered and not self.take_back(call, error):
            self._rpc.abandon(call.request_id)
            call.settle(None, error or ConnectionClosed(f"{call.method} was given up"), "given up")

    def settled(self, call: Call) -> None:
        """Let others have what a call has occupied: its outcome is known. For calls."""
        if call.timer is not None:
            self.timeouts.end(call.timer)
            call.timer = None
        if call.has_place:
            self._flow.leave_window(call)
        if call.queued_line is not None:
            # It will not be sent again, and may hold images.
            call.queued_line.line = b""
        if call is self._barrier:
            self._barrier = None
            if self._flow.needs_barrier:
                self._send_barrier()
        if self._flow.waits:
            self._send_admitted()

    def overdue(self, call: Call, seconds: float) -> CodexError:
        """Return the error of a call that was not answered in time. One that the server still refuses is taken back."""
        if call.refusal is not None and call.waits:
            # Otherwise the server has taken it since, and may act on it.
            self.take_back(call, call.refusal)
            return call.refusal
        problem = None
        if call.waits and self._barrier is not None:
            silent = self.timeouts.listened_since(self._barrier_sent_at)
            problem = f"it was not sent, because the server has taken nothing for {silent:.1f} s"
        return RequestTimeout(call.method, seconds, problem)

    def _expire(self, call: Call, seconds: float) -> None:
        self.give_up(call, self.overdue(call, seconds))

    def _queue(self, call: Call) -> None:
        if self._flow.enter(call):
            self._send(call)
            return
        self._send_admitted()
        if call.request_class == "deferred" and self._flow.holds(call):
            # Nothing else bounds this wait, which is for what is ahead of it and not for its answer.
            seconds = self._request_timeout
            call.timer = self.timeouts.start(seconds, partial(self._expire, call, seconds))

    def _send_admitted(self) -> None:
        """Send the requests whose turn it is."""
        if self._flow.waits and self.close_reason is None:
            for call in self._flow.admit():
                self._send(call)

    def _send_barrier(self) -> None:
        """Send a barrier, unless one is out."""
        if self._barrier is None and self.close_reason is None:
            self._barrier = call = Call(self, BARRIER_METHOD, "control")
            self._barrier_sent_at = trio.current_time()
            call.request_id, line = self._rpc.request(BARRIER_METHOD, BARRIER_PARAMS, call)
            call.queued_line = QueuedLine(line)
            self._send(call)

    def _send(self, call: Call) -> None:
        assert call.queued_line is not None
        if call.timer is not None:
            self.timeouts.end(call.timer)
            call.timer = None
        self.put(call.queued_line, urgent=call.request_class == "control")

    def put(self, queued_line: QueuedLine, *, urgent: bool = False) -> None:
        """Send a line of whatever kind; each counts."""
        self._flow.queued()
        self._write_queue.put(queued_line, urgent=urgent)

    def note_sent(self, queued_line: QueuedLine) -> None:
        """Note that a line is being written. For the queue that it was in."""
        if queued_line.record is not None:
            self.watch.sent(queued_line.record)
        if self._flow.sent(queued_line):
            self._send_barrier()

    def take_reply(self, call: Call, result: msgspec.Raw | None, error: CodexError | None) -> None:
        """Take the answer to a request, or its refusal. On the reader."""
        if type(error) is ServerBusyError:
            self._flow.refused(call.queued_line)
            self._repeat_later(call, error)
            self._send_admitted()
        else:
            self._flow.acknowledge(call.queued_line)
            call.settle(result, error)

    def take_late_reply(self, late: LateReply[Call]) -> None:
        """Take the answer to a request that was given up: it says that the server has taken its line."""
        if type(late.error) is ServerBusyError:
            self._flow.refused(late.token.queued_line)
        else:
            self._flow.acknowledge(late.token.queued_line)
        self._send_admitted()

    def _repeat_later(self, call: Call, refusal: ServerBusyError) -> None:
        """Send a request again in a while: the server was full, and has not taken it."""
        if call.refusal is None:
            call.refused_at = trio.current_time()
        call.refusal = refusal
        call.refusals += 1
        waited = self.timeouts.listened_since(call.refused_at)
        if waited >= self._request_timeout and call is not self._barrier:
            call.settle(None, refusal)
            return
        assert call.queued_line is not None
        call.queued_line.taken = False
        self._rpc.reopen(call.request_id, call.method, call)
        delay = min(FIRST_RETRY_SECONDS * 2 ** min(call.refusals - 1, 10), LAST_RETRY_SECONDS)
        delay *= random.uniform(0.5, 1)
        call.timer = self.timeouts.start(delay, partial(self._repeat, call))
        self._instruments.emit("request_retried", call.method, call.refusals, delay)

    def _repeat(self, call: Call) -> None:
        call.timer = None
        if call is self._barrier:
            # It gives back the credits that all others wait for, so it takes none.
            self._send(call)
        else:
            self._queue(call)

    def refuse_new(self) -> None:
        """Refuse every further request but those that end something, and what was not sent of the others."""
        self._refusing = True
        for call in self._flow.waiting():
            self.take_back(call, ConnectionClosed())

    def end(self, death: CloseReason) -> None:
        """Fail every request: the connection has ended."""
        self.close_reason = death
        for call in self._rpc.close():
            call.settle(None, death.exception())
