"""One connection: owns its reader, its writer, the pending requests, and how it ends.

It delivers messages without interpreting them; that is the task of the :class:`Receiver`. The reader calls the receiver
synchronously, so the receiver must neither block nor raise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import msgspec
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
from trio_codex._link.write_queue import QueuedLine
from trio_codex.errors import CodexError, ConnectionBroken, RpcError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trio_codex._core.secrets import Secrets
    from trio_codex._link.channel import Channel
    from trio_codex._link.hooks import ServerRequestOutcome
    from trio_codex._link.services import Services
    from trio_codex._link.timeouts import Timeouts

QUEUED_REPLY_BYTES: Final = 64 * 1024 * 1024
"""Size limit of queued replies, excluding the latest. A server that reads consumes each within milliseconds."""

SILENCE_SECONDS: Final = 20.0
"""How long a transport that can ping may be silent before it is pinged."""

SAMPLES: Final = 4
"""Number of checks in :data:`SILENCE_SECONDS`, so that a ping is late by at most a quarter of that time."""

PONG_SECONDS: Final = 10.0
"""How long the answer to a ping may take."""

DIAGNOSIS_SECONDS: Final = 0.5
"""How long to wait for the exit status after a stream ends. Pending waits must fail within a second (G5)."""


class Receiver(Protocol):
    """Handler of inbound messages. Called by the reader, so no method may block or raise."""

    def on_notifications(self, notifications: Sequence[Notification]) -> None:
        """Handle consecutive notifications."""

    def on_oversize(self, notification: OversizeNotification) -> None:
        """Handle the remains of an oversize notification."""

    def on_server_request(self, request: ServerRequest) -> None:
        """Handle a request from the server."""

    def on_junk(self, junk: Junk) -> None:
        """Count a discarded line."""

    def on_lines_end(self) -> int:
        """Wake consumers, which run before the next batch.

        Returns:
            The backlog of the busiest consumer.
        """
        ...

    def on_close(self, reason: CloseReason) -> None:
        """Fail everything that waits for messages."""


class Limits(msgspec.Struct, frozen=True):
    """The limits of requests.

    Attributes:
        window: How many requests that the server answers immediately may be in progress.
        request_timeout: Seconds for such a request, and the longest that any request may wait to be sent.
    """

    window: int
    request_timeout: float


class Connection:
    """Requests, replies and notifications over one channel.

    Args:
        services: Runs the tasks of the connection.
        channel: The transport.
        limits: The limits of requests.
        timeouts: The timeouts for the server's responses. The caller runs their service.
        secrets: Redacted from errors.
        instruments: Notified of what happens.

    Attributes:
        close_reason: Why it ended; ``None`` while it is open.
        calls: The client's requests.
        instruments: Notified of what happens.
        secrets: Redacted from errors.
        timeouts: The timeouts for the server's responses.
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
        self.secrets: Secrets = secrets
        self.instruments: Instruments = instruments
        self.timeouts: Timeouts = timeouts
        self._receiver: Receiver | None = None
        self._phase = "start"
        self._pace = Pace()
        self._rpc: RpcState[Call] = RpcState(channel.max_message_bytes)
        self.calls: Calls = Calls(
            self._rpc, channel, limits.window, limits.request_timeout, timeouts, instruments
        )
        self._ending = False
        self._ended = trio.Event()
        self._drained = trio.Event()
        self._flushed = trio.Event()
        self.close_reason: CloseReason | None = None

    @property
    def death(self) -> CloseReason | None:
        """The former name of ``close_reason``, kept for scripts that still use it."""
        return self.close_reason

    @property
    def owned(self) -> bool:
        """Whether this client started the server."""
        return self._channel.owned

    @property
    def has_peers(self) -> bool:
        """Whether the server has other connections, and may send them the same requests."""
        return self._channel.has_peers

    @property
    def is_established(self) -> bool:
        """Whether the handshake is complete and closing has not begun."""
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

    # -- requests to the server --------------------------------------------------------------------------------

    def established(self) -> None:
        """Complete the handshake: send ``initialized``."""
        self._phase = "running"
        self.notify("initialized")

    def notify(self, method: str) -> None:
        """Send a notification without parameters."""
        self.calls.put(QueuedLine(self._rpc.notification(method)))

    @property
    def junk_lines(self) -> int:
        """The number of lines from the server that were discarded."""
        return self._rpc.junk.total()

    # -- requests from the server ------------------------------------------------------------------------------

    def respond(self, request_id: RequestId, result: object) -> bool:
        """Queue the response to a server request; return whether the request was still open.

        Raises:
            LocalProtocolError: ``result`` cannot be encoded as JSON; the request stays open.
        """
        return self._reply(request_id, self._rpc.respond(request_id, result), "answered")

    def refuse(self, request_id: RequestId, code: int, message: str) -> bool:
        """Queue an error response to a server request; return whether the request was still open."""
        return self._reply(request_id, self._rpc.refuse(request_id, code, message), "refused")

    def withdraw(self, request_id: RequestId) -> bool:
        """Drop a request that the server has withdrawn; return whether it was still open."""
        was_open = self._rpc.withdraw(request_id)
        if was_open:
            self.calls.watch.settled(request_id, "withdrawn")
        return was_open

    def _reply(self, request_id: RequestId, line: bytes | None, outcome: ServerRequestOutcome) -> bool:
        if line is None:
            return False
        if self.calls.write_queue.reply_bytes > QUEUED_REPLY_BYTES:
            # Drop the reply. The connection is about to end, and replies that the server has not read are lost anyway.
            self._lose_to_unread_replies()
            return True
        self.calls.put(QueuedLine(line, is_reply=True), urgent=True)
        self.calls.watch.settled(request_id, outcome)
        return True

    def _lose_to_unread_replies(self) -> None:
        """End the connection to a server that sends requests but does not read the replies."""
        if not self._ending:
            size = self.calls.write_queue.reply_bytes // 2**20
            self._services.start_service(
                self.lose, f"the server does not read its input: {size} MiB of replies are queued"
            )

    # -- the end -----------------------------------------------------------------------------------------------

    def check_open(self) -> None:
        """Raise the error of a connection that has ended."""
        if self.close_reason is not None:
            raise self.close_reason.exception()

    def refuse_new(self) -> None:
        """Reject all new requests except control requests. The first step of closing."""
        if self._phase == "running":
            self._phase = "close"
        self.calls.refuse_new()

    def end(self, error: CodexError) -> None:
        """End the connection and fail every present and future wait. Only the first error counts."""
        if self.close_reason is not None:
            return
        self.close_reason = CloseReason(error)
        self._ending = True
        self.calls.end(self.close_reason)
        self.calls.watch.lost()
        self.calls.write_queue.close()
        if self._receiver is not None:
            self._receiver.on_close(self.close_reason)
        self.instruments.emit("connection_ended", self.instruments.connection, error)
        self._ended.set()

    async def lose(self, reason: str) -> None:
        """End a broken connection once the cause is known."""
        if self._ending:
            await trio.lowlevel.checkpoint()
            return
        self._ending = True
        error: ConnectionBroken | None = None
        with self.timeouts.move_on_after(2 * DIAGNOSIS_SECONDS):
            # Let the task that waits for the handshake's response run first.
            await trio.lowlevel.checkpoint()
            error = await self._channel.diagnose(reason, self._phase)
        self.end(error or self._channel.explain(reason, self._phase))

    def give_up(self, reason: str) -> None:
        """End the connection to an unresponsive server, and kill the server if this client started it."""
        self.end(self._channel.explain(reason, self._phase))
        self._channel.kill()

    async def wait_ended(self) -> CloseReason:
        """Wait until the connection has ended, and return why."""
        await self._ended.wait()
        assert self.close_reason is not None
        return self.close_reason

    async def sleep(self, seconds: float) -> None:
        """Sleep for a number of seconds, not counting stalls. Raise the connection's error as soon as it ends."""
        with self.timeouts.move_on_after(seconds):
            await self._ended.wait()
        self.check_open()

    async def flush(self) -> None:
        """Accept no more lines, and wait until all queued ones are written."""
        self.calls.write_queue.finish()
        await self._flushed.wait()

    async def wait_drained(self) -> None:
        """Wait until the reader has seen the end of the stream."""
        await self._drained.wait()

    # -- the two services --------------------------------------------------------------------------------------

    async def _write(self) -> None:
        try:
            while (batch := await self.calls.write_queue.take_batch()) is not None:
                await self._channel.send_all(batch)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # The end of the other stream or of the process is more informative, and usually follows immediately.
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
                    self.calls.write_queue.put_control(control)
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
        silent = 0
        while self.close_reason is None:
            reads = timeouts.reads
            await timeouts.sleep(SILENCE_SECONDS / SAMPLES)
            silent = silent + 1 if timeouts.reads == reads else 0
            if silent < SAMPLES:
                continue
            silent = 0
            self.calls.write_queue.put_control(self._channel.ping())
            await timeouts.sleep(PONG_SECONDS)
            if timeouts.reads == reads:
                seconds = SILENCE_SECONDS + PONG_SECONDS
                await self.lose(
                    f"nothing came from the server for {seconds:g} s, not even an answer to a ping"
                )

    async def _take_lines(self, receiver: Receiver, frames: Sequence[Frame]) -> None:  # noqa: ASYNC910  # the reader reads on
        """Process the lines of a chunk in batches, with a checkpoint in between."""
        done = 0
        while done < len(frames) and self.close_reason is None:
            portion = frames[done : done + self._pace.lines]
            done += len(portion)
            self._take_portion(receiver, portion)
            if done < len(frames):
                await trio.lowlevel.checkpoint()

    def _take_portion(self, receiver: Receiver, frames: Sequence[Frame]) -> None:
        """Deliver the messages of a batch of lines, and wake their consumers."""
        if self.instruments:
            self._emit_frames(frames)
        for message in self._rpc.receive(frames):
            if isinstance(message, list):
                receiver.on_notifications(message)
            else:
                self._take_other(receiver, message)
        self._pace.note(len(frames), receiver.on_lines_end())

    def _emit_frames(self, frames: Iterable[Frame]) -> None:
        instruments = self.instruments
        is_received = "frame_received" in instruments
        for frame in frames:
            if isinstance(frame, Line):
                if is_received:
                    instruments.emit("frame_received", instruments.connection, bytes(frame))
            elif isinstance(frame, OversizeLine):
                instruments.emit(
                    "line_discarded", instruments.connection, JunkKind.TOO_LONG.value, frame.size
                )

    def _take_other(self, receiver: Receiver, message: Inbound[Call]) -> None:
        if isinstance(message, Reply):
            error = message.error
            if isinstance(error, RpcError):
                error = self.secrets.hide_in_error(error)
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
        logger.debug("discarded a line of %d bytes: %s", junk.size, junk.kind.value)
        if self.instruments and junk.kind is not JunkKind.TOO_LONG:
            self.instruments.emit("line_discarded", self.instruments.connection, junk.kind.value, junk.size)
        receiver.on_junk(junk)
