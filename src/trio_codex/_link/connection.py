"""One connection: its reader, its writer, the requests on their way, and its one end.

It knows messages and calls, not what they mean: the :class:`Receiver` decides that. The receiver is called on the
reader, so it must neither block nor raise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import attrs
import trio

from trio_codex._core.framing import Frame, Line, OversizeLine
from trio_codex._core.log import logger
from trio_codex._core.rpc import (
    Inbound,
    Junk,
    JunkKind,
    LateReply,
    Notification,
    OversizeNotification,
    Reply,
    RequestId,
    RpcState,
    ServerRequest,
)
from trio_codex._link.call import Call, CloseReason
from trio_codex._link.calls import Calls
from trio_codex._link.hooks import NO_INSTRUMENTS, Instruments
from trio_codex._link.pace import LINES_AT_ONCE, Pace
from trio_codex._link.write_queue import QueuedLine, WriteQueue
from trio_codex.errors import CodexError, ConnectionBroken, RpcError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trio_codex._core.secrets import Secrets
    from trio_codex._link.channel import Channel
    from trio_codex._link.hooks import ServerRequestOutcome
    from trio_codex._link.services import Services
    from trio_codex._link.timeouts import Timeouts

QUEUED_REPLY_BYTES: Final = 64 * 1024 * 1024
"""Replies that may wait for the server to read, beside the latest. A server that reads takes each in milliseconds."""

SILENCE_SECONDS: Final = 20.0
"""How long a transport that can ping may be silent before it is pinged."""

PONG_SECONDS: Final = 10.0
"""How long the answer to a ping may take."""

DIAGNOSIS_SECONDS: Final = 0.5
"""How long the end of a stream waits for the exit status that explains it. Waiters fail within 1 s (G5)."""


class Receiver(Protocol):
    """What a connection hands inbound messages to. Called on the reader: must not wait, must not raise."""

    def on_notifications(self, notifications: Sequence[Notification]) -> None:
        """Take notifications that came one behind the other."""

    def on_oversize(self, notification: OversizeNotification) -> None:
        """Take what is left of a notification that was too long."""

    def on_server_request(self, request: ServerRequest) -> None:
        """Take a request of the server."""

    def on_junk(self, junk: Junk) -> None:
        """Take note of a line that was of no use."""

    def on_lines_end(self) -> int:
        """Wake consumers: they run before more is handed on.

        Returns:
            How much the busiest of them has to take.
        """
        ...

    def on_close(self, reason: CloseReason) -> None:
        """Fail what waits: nothing more will come."""


@attrs.frozen
class Limits:
    """The limits of requests.

    Attributes:
        window: How many requests that the server answers immediately may be in progress.
        request_timeout: Seconds for one of these, and for the wait of any request to be sent.
    """

    window: int
    request_timeout: float


class Connection:
    """Requests, replies and notifications over one channel.

    Args:
        services: Runs its tasks.
        channel: Carries the messages.
        limits: The limits of requests.
        timeouts: All timeouts that measure how responsive the server is. Their service runs elsewhere.
        secrets: What errors must not show.
        instruments: Notified of what happens.

    Attributes:
        close_reason: Why it ended; ``None`` while it is open.
        calls: The client's requests.
        instruments: Notified of what happens.
        timeouts: All timeouts that measure how responsive the server is.
    """

    def __init__(
        self,
        services: Services,
        channel: Channel,
        limits: Limits,
        timeouts: Timeouts,
        secrets: Secrets,
        instruments: Instruments = NO_INSTRUMENTS,
    ) -> None:
        self._services = services
        self._channel = channel
        self._secrets = secrets
        self.instruments: Instruments = instruments
        self.timeouts: Timeouts = timeouts
        self._receiver: Receiver | None = None
        self._phase = "start"
        self._pace = Pace()
        self._rpc: RpcState[Call] = RpcState(channel.max_message_bytes)
        self._write_queue = WriteQueue(channel, self._note_sent)
        self.calls: Calls = Calls(
            self._rpc, self._write_queue, limits.window, limits.request_timeout, timeouts, instruments
        )
        self._queued_reply_bytes = 0
        self._ending = False
        self._ended = trio.Event()
        self._drained = trio.Event()
        self._flushed = trio.Event()
        self.close_reason: CloseReason | None = None

    @property
    def death(self) -> CloseReason | None:
        """The former name of ``close_reason``."""
        return self.close_reason

    @property
    def owned(self) -> bool:
        """Whether this client started the server."""
        return self._channel.owned

    @property
    def is_established(self) -> bool:
        """Whether the handshake is done and closing has not begun."""
        return self._phase == "running"

    def start(self, receiver: Receiver) -> None:
        """Start the reader and the writer.

        Args:
            receiver: Handles inbound messages.
        """
        self._receiver = receiver
        self.instruments.emit("connection_opened", self.instruments.connection)
        self._services.start_service(self._read, receiver)
        self._services.start_service(self._write)
        if self._channel.ping():
            self._services.start_service(self._keep_alive)

    # -- requests of ours --------------------------------------------------------------------------------------

    def established(self) -> None:
        """Complete the handshake: send ``initialized``."""
        self._phase = "running"
        self.notify("initialized")

    def notify(self, method: str) -> None:
        """Send a notification without parameters."""
        self.calls.put(QueuedLine(self._rpc.notification(method)))

    @property
    def junk_lines(self) -> int:
        """How many lines of the server were of no use."""
        return self._rpc.junk.total()

    # -- requests of the server --------------------------------------------------------------------------------

    def respond(self, request_id: RequestId, result: object) -> bool:
        """Queue the answer to a server request; say whether it was still open.

        Raises:
            LocalProtocolError: ``result`` is not JSON; the request is still open.
        """
        return self._reply(request_id, self._rpc.respond(request_id, result), "answered")

    def refuse(self, request_id: RequestId, code: int, message: str) -> bool:
        """Queue the refusal of a server request; say whether it was still open."""
        return self._reply(request_id, self._rpc.refuse(request_id, code, message), "refused")

    def withdraw(self, request_id: RequestId) -> bool:
        """Note that the server wants no answer any more; say whether the request was open."""
        was_open = self._rpc.withdraw(request_id)
        if was_open:
            self.calls.watch.settled(request_id, "withdrawn")
        return was_open

    def _reply(self, request_id: RequestId, line: bytes | None, outcome: ServerRequestOutcome) -> bool:
        if line is None:
            return False
        if self._queued_reply_bytes > QUEUED_REPLY_BYTES:
            # Dropped: the connection is about to end, and what the server has not read is lost with it.
            self._lose_to_unread_replies()
            return True
        self._queued_reply_bytes += len(line)
        self.calls.put(QueuedLine(line, is_reply=True), urgent=True)
        self.calls.watch.settled(request_id, outcome)
        return True

    def _lose_to_unread_replies(self) -> None:
        """End the connection to a server that asks and does not read the answers."""
        if not self._ending:
            size = self._queued_reply_bytes // 2**20
            self._services.start_service(
                self.lose, f"the server does not read: {size} MiB of answers to its requests wait"
            )

    # -- the end -----------------------------------------------------------------------------------------------

    def check_open(self) -> None:
        """Raise what every use raises once the connection has ended."""
        if self.close_reason is not None:
            raise self.close_reason.exception()

    def refuse_new(self) -> None:
        """Refuse all further requests except those that end something. The first step of closing."""
        if self._phase == "running":
            self._phase = "close"
        self.calls.refuse_new()

    def end(self, error: CodexError) -> None:
        """End the connection: every present wait fails now, every later one at once. Only the first cause counts."""
        if self.close_reason is not None:
            return
        self.close_reason = CloseReason(error)
        self._ending = True
        self.calls.end(self.close_reason)
        self.calls.watch.lost()
        self._write_queue.close()
        if self._receiver is not None:
            self._receiver.on_close(self.close_reason)
        self.instruments.emit("connection_ended", self.instruments.connection, error)
        self._ended.set()

    async def lose(self, reason: str) -> None:
        """End the connection because it broke, as soon as it is known why."""
        if self._ending:
            await trio.lowlevel.checkpoint()
            return
        self._ending = True
        error: ConnectionBroken | None = None
        with self.timeouts.move_on_after(2 * DIAGNOSIS_SECONDS):
            error = await self._channel.diagnose(reason, self._phase)
        self.end(error or self._channel.explain(reason, self._phase))

    def give_up(self, reason: str) -> None:
        """End the connection to an unresponsive server, and kill the server if this client started it."""
        self.end(self._channel.explain(reason, self._phase))
        self._channel.kill()

    async def wait_ended(self) -> CloseReason:
        """Wait until the connection has ended, by whatever way."""
        await self._ended.wait()
        assert self.close_reason is not None
        return self.close_reason

    async def flush(self) -> None:
        """Wait until every queued line has been written. Take no further one."""
        self._write_queue.finish()
        await self._flushed.wait()

    async def wait_drained(self) -> None:
        """Wait until the reader has seen the end of the stream."""
        await self._drained.wait()

    # -- the two services --------------------------------------------------------------------------------------

    def _note_sent(self, queued_line: QueuedLine) -> None:
        if "frame_sent" in self.instruments:
            self.instruments.emit("frame_sent", self.instruments.connection, queued_line.line)
        if queued_line.is_reply:
            # It counts until it is acknowledged, but is never sent again.
            self._queued_reply_bytes -= len(queued_line.line)
            queued_line.line = b""
        self.calls.note_sent(queued_line)

    async def _write(self) -> None:
        try:
            while (batch := await self._write_queue.take_batch()) is not None:
                await self._channel.send_all(batch)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # The end of the other stream, or of the process, tells more; it follows at once unless only this one broke.
            with self.timeouts.move_on_after(DIAGNOSIS_SECONDS):
                await self._drained.wait()
            await self.lose("the server stopped reading")
        finally:
            self._flushed.set()

    async def _read(self, receiver: Receiver) -> None:
        reason = "the server closed the connection"
        channel, timeouts, pace = self._channel, self.timeouts, self._pace
        try:
            while (frames := await channel.receive(shared=pace.lines > LINES_AT_ONCE)) is not None:
                timeouts.reads += 1
                timeouts.reader_is_busy = True
                if channel.control:
                    control, channel.control = channel.control, b""
                    self._write_queue.put_control(control)
                if 0 < len(frames) <= pace.lines and self.close_reason is None:
                    self._take_portion(receiver, frames)
                else:
                    await self._take_lines(receiver, frames)
                timeouts.reader_is_busy = False
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            reason = f"the connection broke: {exc.__cause__ or exc}"
        self._drained.set()
        await self.lose(reason)

    async def _keep_alive(self) -> None:
        """Ping a silent server, and end the connection if it does not answer."""
        timeouts = self.timeouts
        await trio.lowlevel.checkpoint()
        while self.close_reason is None:
            reads = timeouts.reads
            await timeouts.sleep(SILENCE_SECONDS)
            if timeouts.reads != reads:
                continue
            self._write_queue.put_control(self._channel.ping())
            await timeouts.sleep(PONG_SECONDS)
            if timeouts.reads == reads:
                seconds = SILENCE_SECONDS + PONG_SECONDS
                await self.lose(
                    f"nothing came from the server for {seconds:g} s, not even an answer to a ping"
                )

    async def _take_lines(self, receiver: Receiver, frames: Sequence[Frame]) -> None:  # noqa: ASYNC910  # the reader reads on
        """Take the lines of a chunk, a portion at a time."""
        done = 0
        while done < len(frames) and self.close_reason is None:
            portion = frames[done : done + self._pace.lines]
            done += len(portion)
            self._take_portion(receiver, portion)
            if done < len(frames):
                await trio.lowlevel.checkpoint()

    def _take_portion(self, receiver: Receiver, frames: Sequence[Frame]) -> None:
        """Take what some lines say, and wake whom they concern."""
        if self.instruments:
            self._tell(frames)
        for message in self._rpc.receive(frames):
            if isinstance(message, list):
                receiver.on_notifications(message)
            else:
                self._take_other(receiver, message)
        self._pace.note(len(frames), receiver.on_lines_end())

    def _tell(self, frames: Iterable[Frame]) -> None:
        instruments = self.instruments
        for frame in frames:
            if isinstance(frame, Line):
                instruments.emit("frame_received", instruments.connection, bytes(frame))
            elif isinstance(frame, OversizeLine):
                instruments.emit(
                    "line_discarded", instruments.connection, JunkKind.TOO_LONG.value, frame.size
                )

    def _take_other(self, receiver: Receiver, message: Inbound[Call]) -> None:
        if isinstance(message, Reply):
            error = message.error
            if isinstance(error, RpcError):
                error = self._secrets.hide_in_error(error)
            self.calls.take_reply(message.token, message.result, error)
        elif isinstance(message, LateReply):
            self.calls.take_late_reply(message)
            self._take_junk(receiver, message.junk)
        elif isinstance(message, ServerRequest):
            self.calls.watch.asked(message)
            receiver.on_server_request(message)
        elif isinstance(message, OversizeNotification):
            receiver.on_oversize(message)
        else:
            self._take_junk(receiver, message)

    def _take_junk(self, receiver: Receiver, junk: Junk) -> None:
        logger.debug("%s: a line of %d bytes", junk.kind.value, junk.size)
        if self.instruments and junk.kind is not JunkKind.TOO_LONG:
            self.instruments.emit("line_discarded", self.instruments.connection, junk.kind.value, junk.size)
        receiver.on_junk(junk)
