"""The hooks that an instrument may override, and the records of processes, turns and decisions passed to them.

The connection creates the records of requests; :mod:`trio_codex._link.hooks` defines them.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

import attrs

from trio_codex._core.log import logger

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_codex._core.rpc import RequestId
    from trio_codex._link.dispatch import Outcome
    from trio_codex._link.hooks import RequestRecord, ServerRequestRecord
    from trio_codex._values.event import Event
    from trio_codex._values.metadata import ServerMetadata
    from trio_codex._values.usage import TokenUsage
    from trio_codex.errors import CodexError, SubscriptionOverflow
    from trio_codex.policies import AnyDecision, Request


@attrs.define(eq=False)
class ProcessRecord:
    """A server process. Both of its hooks receive the same object.

    Attributes:
        connection: The number of the connection to it.
        pid: The process id.
        path: The binary, if one was looked up.
        version: The version of the binary, if known without running it.
        returncode: The exit status, negative for a signal; ``None`` while the process runs, or if it is unknown.
    """

    connection: int
    pid: int
    path: str | None = None
    version: str | None = None
    returncode: int | None = None


@attrs.define(eq=False)
class TurnRecord:
    """A turn, started by this client or by the server. Both of its hooks receive the same object.

    Attributes:
        connection: The number of the connection.
        thread_id: The id of the thread.
        owned: Whether the turn belongs to a scope of this client. The server itself starts the turns of child agents,
            goals, compactions and the like.
        started_at: Trio time at which the turn was requested or announced.
        id: The turn's id; ``None`` until the server has reported it.
        ended_at: Trio time at which the turn ended.
        status: The final status: a value of :class:`~trio_codex.TurnStatus`, or ``"refused"`` if it never started.
        interrupted_at: Trio time of the first request to interrupt it; ``None`` if there was none.
        usage: The tokens that the turn used, known when it ends. Child agents are counted in the records of their own
            turns.
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
        """Seconds from the interrupt request to the end; ``None`` if there was no interrupt, or it came too late."""
        if self.ended_at is None or self.interrupted_at is None or self.status != "interrupted":
            return None
        return self.ended_at - self.interrupted_at


class DecidedBy(enum.StrEnum):
    """Who decided."""

    turn = "turn"
    """The policy of the turn."""
    thread = "thread"
    """The policy of the thread."""
    client = "client"
    """The policy of the client."""
    tool = "tool"
    """A tool of the thread or the client."""
    default = "default"
    """Nobody, because no policy decides on the request or it could not be parsed. It was denied."""
    server = "server"
    """The server's own reviewer; this client was not asked."""
    others = "others"
    """Another client of the same server, which owns the turn; this client sent no answer."""


@attrs.frozen(kw_only=True)
class DecisionRecord:
    """One decision.

    Attributes:
        id: The request's id on the connection, or the id of the server's review.
        method: The request's method; ``item/autoApprovalReview`` for a review of the server.
        thread_id: The thread that asked.
        turn_id: The turn that asked.
        item_id: The item in question.
        request: The question as the policy received it, or the action that the server reviewed as plain JSON; ``None``
            if it could not be parsed.
        decided_by: Who decided.
        policy: The name of the policy or tool, or of its callback.
        decision: The decision; the status, for a review of the server; ``"answered"`` for an unknown request that a
            policy answered; ``None`` if nobody decided.
        rule: The rule of the policy that matched, if the policy names one.
        reason: The reason for a refusal, the error of a failure, or who withdrew the request.
        outcome: How the request ended: ``"answered"``, including denials; ``"withdrawn"``, without an answer;
            ``"failed"``, a denial because the callback failed; or ``"left"`` to another client.
        asked_at: Trio time at which the request arrived.
        seconds: Seconds from the request to its outcome.
    """

    __module__ = "trio_codex"  # the public location, which the documentation links to

    id: RequestId
    method: str
    thread_id: str | None
    turn_id: str | None
    item_id: str | None
    request: Request | Any = attrs.field(repr=False)
    decided_by: DecidedBy
    policy: str | None
    decision: AnyDecision | str | None
    rule: str | None
    reason: str | None = attrs.field(repr=False)
    outcome: Outcome
    asked_at: float
    seconds: float


@attrs.define(eq=False)
class GenerationRecord:
    """One generation of a supervisor. All of its hooks receive the same object.

    Attributes:
        number: Its number, starting at 1.
        pid: The process id of the server; ``None`` if the supervisor did not start it.
        started_at: Trio time at which it was ready.
        ended_at: Trio time at which it ended; ``None`` before that.
        cause: Why it ended: an exception, or the reason of a planned end.
    """

    number: int
    pid: int | None
    started_at: float
    ended_at: float | None = None
    cause: Exception | str | None = None

    @property
    def duration(self) -> float | None:
        """Seconds from start to end."""
        return None if self.ended_at is None else self.ended_at - self.started_at


def decision_name(record: DecisionRecord) -> str:
    """Return the name of a decision, without its content.

    This is ``"accept"``, ``"decline"`` and so on; the status of a review; ``"done"`` or ``"failed"`` for a tool; and
    the outcome for everything else.
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
    """Base class of instruments, whose hooks do nothing by default.

    Hooks are synchronous and run immediately, in the task that they report on. For most hooks that is the reader
    task, so a slow hook delays the whole connection. An instrument that raises is removed and one error is logged; the
    client is not affected. One instrument may be passed to several clients: connection numbers are unique within a
    process.

    ``line``, ``params`` and events contain prompts, output and secrets: be careful where you store them.
    """

    # -- the connection ----------------------------------------------------------------------------------------

    def connection_opened(self, connection: int) -> None:
        """Called when the reader and the writer start, before the handshake."""

    def handshake_completed(self, connection: int, metadata: ServerMetadata) -> None:
        """Called when the server has identified itself."""

    def connection_ended(self, connection: int, error: CodexError) -> None:
        """Called when all pending operations have failed with ``error``: ``ConnectionClosed`` if the client closed it."""

    def process_spawned(self, process: ProcessRecord) -> None:
        """Called when the server process has started."""

    def process_exited(self, process: ProcessRecord) -> None:
        """Called when the server process has exited."""

    # -- lines -------------------------------------------------------------------------------------------------

    def frame_sent(self, connection: int, line: bytes) -> None:
        """Called when the writer has taken this line and is about to send it whole."""

    def frame_received(self, connection: int, line: bytes) -> None:
        """Called when a line has arrived, before it is processed; ``line`` has no newline."""

    def line_discarded(self, connection: int, reason: str, size: int) -> None:
        """Called when a line from the server is discarded because it is too long or not usable."""

    # -- client requests ---------------------------------------------------------------------------------------

    def request_queued(self, request: RequestRecord) -> None:
        """Called in the requesting task when a request is made; it may then have to wait for a slot in the window."""

    def request_trace(self, request: RequestRecord) -> Mapping[str, str] | None:
        """Return the W3C trace context (``traceparent``, ``tracestate``) to send with a request.

        Called in the requesting task, after :meth:`request_queued`. The first instrument that returns one wins.
        """

    def request_sent(self, request: RequestRecord) -> None:
        """Called when the writer has taken the request's line; from now on the server may act on it."""

    def request_ended(self, request: RequestRecord) -> None:
        """Called when the outcome of a request is known: once for each :meth:`request_queued`."""

    def request_retried(self, method: str, attempt: int, delay: float) -> None:
        """Called when a request has failed and is about to be retried.

        Args:
            method: The method.
            attempt: The number of the failed attempt, starting at 1.
            delay: Seconds until the next attempt.
        """

    # -- server requests ---------------------------------------------------------------------------------------

    def server_request_received(self, request: ServerRequestRecord) -> None:
        """Called when the server sends a request, such as for an approval, a user's answer or a tool call."""

    def server_request_ended(self, request: ServerRequestRecord) -> None:
        """Called when a server request no longer needs an answer: once for each :meth:`server_request_received`."""

    def decision_made(self, record: DecisionRecord) -> None:
        """Called when a server request is decided, or one of the server's own reviews has a result.

        There is one call for each server request and for each review.
        """

    # -- events and turns --------------------------------------------------------------------------------------

    def event_received(self, connection: int, event: Event) -> None:
        """Called when a notification has arrived. Its ``params`` are parsed on first access."""

    def turn_started(self, turn: TurnRecord) -> None:
        """Called before a turn is requested, in the task that enters its scope, or when the server announces a turn."""

    def turn_ended(self, turn: TurnRecord) -> None:
        """Called when a turn has ended or was lost: once for each :meth:`turn_started`."""

    def buffer_overflowed(self, connection: int, error: SubscriptionOverflow) -> None:
        """Called when a consumer has fallen behind beyond the limits of its buffer, and will receive this error."""

    def deltas_merged(self, connection: int, method: str, count: int) -> None:
        """Called when text deltas for a slow consumer are merged into one event."""

    # -- supervisors -------------------------------------------------------------------------------------------

    def generation_started(self, generation: GenerationRecord) -> None:
        """Called when a supervisor has a generation that is ready."""

    def generation_alive(self, generation: GenerationRecord) -> None:
        """Called every second while the generation is ready, and so only while the event loop runs."""

    def generation_ended(self, generation: GenerationRecord) -> None:
        """Called when a generation has ended: once for each :meth:`generation_started`."""

    def thread_awaited(self, thread_id: str, seconds: float) -> None:
        """Called when a supervisor has to wait for a thread, because another server has it open.

        Args:
            thread_id: The id of the thread.
            seconds: How long it waits before it raises ``ThreadInUse``.
        """


def notify(instruments: list[Instrument], hook: str, /, *args: object) -> None:
    """Call a hook of each instrument, for a library that builds on this one.

    An instrument that raises is removed from the list, and one error is logged.

    Args:
        instruments: The instruments.
        hook: The name of the hook.
        *args: Its arguments.
    """
    for instrument in tuple(instruments):
        try:
            getattr(instrument, hook)(*args)
        except Exception as exc:
            instruments[:] = [each for each in instruments if each is not instrument]
            name = type(instrument).__qualname__
            logger.error("an instrument was removed: %s of %s raised", hook, name, exc_info=exc)
