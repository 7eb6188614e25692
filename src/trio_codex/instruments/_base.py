"""The hooks that an instrument may override, and the records of processes and turns that they are given.

The records of requests are made by the connection, and defined below it (:mod:`trio_codex._runtime._instruments`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_codex._client._client import ServerMetadata
    from trio_codex._requests._audit import DecisionRecord
    from trio_codex._runtime._instruments import RequestRecord, ServerRequestRecord
    from trio_codex._turns._event import Event
    from trio_codex._turns._usage import TokenUsage
    from trio_codex.errors import CodexError, SubscriptionOverflow


@attrs.define(eq=False)
class ProcessRecord:
    """A server process: the same object in both of its hooks.

    Attributes:
        connection: The number of the connection to it.
        pid: Its process id.
        path: The binary, if one was looked for.
        version: The version of the binary, where that is known without asking it.
        returncode: Its exit status, negative for a signal; ``None`` while it runs, or if nobody can know.
    """

    connection: int
    pid: int
    path: str | None = None
    version: str | None = None
    returncode: int | None = None


@attrs.define(eq=False)
class TurnRecord:
    """A turn, whoever started it: the same object in both of its hooks.

    Attributes:
        connection: The number of its connection.
        thread_id: Its thread.
        owned: Whether a scope of this client stands for it. Turns of child agents, of goals, compactions and the like
            are started by the server.
        started_at: Trio time at which it was asked for, or announced.
        id: Its id; ``None`` until the server has told it.
        ended_at: Trio time of its end.
        status: How it ended: a value of :class:`~trio_codex.TurnStatus`, or ``"refused"`` if it never started.
        interrupted_at: Trio time at which the server was first asked to interrupt it; ``None`` if it never was.
        usage: The tokens that it used, known at its end; those of agents it spawned are in the records of their turns.
    """

    connection: int
    thread_id: str
    owned: bool
    started_at: float
    id: str | None = None
    ended_at: float | None = None
    status: str | None = None
    interrupted_at: float | None = None
    usage: TokenUsage | None = None

    @property
    def duration(self) -> float | None:
        """Seconds from start to end."""
        return None if self.ended_at is None else self.ended_at - self.started_at

    @property
    def interrupt_latency(self) -> float | None:
        """Seconds from the interrupt's being asked for to the end; ``None`` if it was not interrupted, or not in time."""
        if self.ended_at is None or self.interrupted_at is None or self.status != "interrupted":
            return None
        return self.ended_at - self.interrupted_at


def decision_name(record: DecisionRecord) -> str:
    """Name a decision without its content.

    ``"accept"``, ``"decline"``, …; the status of a review; ``"done"`` or ``"failed"`` of a tool; else the outcome.
    """
    if record.decision is None:
        return record.outcome
    if isinstance(record.decision, str):
        return record.decision
    success = getattr(record.decision, "success", None)
    if success is not None:
        return "done" if success else "failed"
    return type(record.decision).__name__.lower()


class Instrument:
    """The hooks, none of which does anything.

    They are plain functions and are called at once, on whatever task does the thing: for most hooks that is the reader,
    so one that takes long holds everything up. An instrument that raises is removed, with one logged error; the client
    never notices. One instrument may be given to several clients: connections are numbered, uniquely in a process.

    ``line``, ``params`` and events hold prompts, output and secrets: take care where you put them.
    """

    # -- the connection ----------------------------------------------------------------------------------------

    def connection_opened(self, connection: int) -> None:
        """The reader and the writer start. The handshake comes next."""

    def handshake_completed(self, connection: int, metadata: ServerMetadata) -> None:
        """The server has said what it is."""

    def connection_ended(self, connection: int, error: CodexError) -> None:
        """Everything that waits has failed with this error: ``ConnectionClosed`` where the client closed it."""

    def process_spawned(self, process: ProcessRecord) -> None:
        """The server runs."""

    def process_exited(self, process: ProcessRecord) -> None:
        """The server has ended."""

    # -- lines -------------------------------------------------------------------------------------------------

    def frame_sent(self, connection: int, line: bytes) -> None:
        """The writer took this line. It is about to go out, whole."""

    def frame_received(self, connection: int, line: bytes) -> None:
        """This line came, without its newline. What it says is acted on afterwards."""

    def line_discarded(self, connection: int, reason: str, size: int) -> None:
        """A line of the server was too long, or of no use."""

    # -- requests of the client --------------------------------------------------------------------------------

    def request_queued(self, request: RequestRecord) -> None:
        """A request is asked for. It may have to wait for a place in the window. Called on the task that asks."""

    def request_trace(self, request: RequestRecord) -> Mapping[str, str] | None:
        """Give the W3C trace context (``traceparent``, ``tracestate``) that is sent along with a request.

        Called on the task that asks, after :meth:`request_queued`, once there is a place in the window. The first
        instrument that gives one decides.
        """

    def request_sent(self, request: RequestRecord) -> None:
        """The writer took its line: from here on the server may act on it."""

    def request_ended(self, request: RequestRecord) -> None:
        """Its outcome is known. Called once for each :meth:`request_queued`."""

    def request_retried(self, method: str, attempt: int, delay: float) -> None:
        """A request is about to be tried again.

        Args:
            method: Its method.
            attempt: The number of the attempt that failed, from 1.
            delay: Seconds until the next.
        """

    # -- requests of the server --------------------------------------------------------------------------------

    def server_request_received(self, request: ServerRequestRecord) -> None:
        """The server asks something: an approval, an answer of the user, a tool call, …."""

    def server_request_ended(self, request: ServerRequestRecord) -> None:
        """It was answered, or needs no answer any more. Called once for each :meth:`server_request_received`."""

    def decision_made(self, record: DecisionRecord) -> None:
        """It is known who decided on a request of the server, and what; or what a review of the server's own came to.

        Called once for each request of the server, and for each review.
        """

    # -- events and turns --------------------------------------------------------------------------------------

    def event_received(self, connection: int, event: Event) -> None:
        """A notification came. Its ``params`` are parsed when they are first read."""

    def turn_started(self, turn: TurnRecord) -> None:
        """A turn is about to be asked for, on the task that enters its scope; or one of the server's was announced."""

    def turn_ended(self, turn: TurnRecord) -> None:
        """A turn has ended, or was lost. Called once for each :meth:`turn_started`."""

    def buffer_overflowed(self, connection: int, error: SubscriptionOverflow) -> None:
        """A consumer lagged beyond the bounds of its buffer, and will get this error."""

    def deltas_merged(self, connection: int, method: str, count: int) -> None:
        """A consumer that lags was given one event for so many text deltas."""
