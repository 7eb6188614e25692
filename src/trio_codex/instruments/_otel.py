"""An instrument that reports OpenTelemetry spans and metrics, and sends the trace context to the server.

``opentelemetry-api`` (extra ``otel``) is imported only when the instrument is created. Attributes never hold content,
only ids, methods, outcomes, codes and tool names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs
import msgspec

from trio_codex._core.json import UNREADABLE, object_of, string_of
from trio_codex._values.event import route
from trio_codex.errors import ConnectionClosed, RpcError

from ._base import Instrument, decision_name

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    from trio_codex._link.hooks import RequestRecord, ServerRequestRecord
    from trio_codex._values.event import Event
    from trio_codex._values.metadata import ServerMetadata
    from trio_codex.errors import CodexError, SubscriptionOverflow

    from ._base import DecisionRecord, GenerationRecord, ProcessRecord, TurnRecord

SCOPE: Final = "trio_codex"

TOOL_ITEMS: Final = frozenset({"commandExecution", "mcpToolCall", "webSearch", "collabAgentToolCall"})
"""Items that are calls to the server's own tools. A dynamic tool call is a server request, and that request has
the span."""


@attrs.define(eq=False)
class _Turn:
    span: Span
    surroundings: Span
    items: dict[str, Span] = attrs.field(factory=dict[str, "Span"])


class OpenTelemetryInstrument(Instrument):
    """Creates spans for generations, sessions, turns, requests, approvals and tool calls, and records metrics.

    Each request sends its trace context (``traceparent``), so that the spans of a server with an ``[otel]`` exporter in
    its configuration join the trace. A span's parent is the caller's current span, else the turn, else the session.

    Args:
        tracer_provider: Creates the spans; by default the global one.
        meter_provider: Creates the metrics; by default the global one.

    Raises:
        ImportError: ``opentelemetry-api`` is not installed (``trio-codex[otel]``).
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        from opentelemetry import metrics, trace

        from trio_codex._values.config import VERSION

        self._trace = trace
        self._tracer = trace.get_tracer(SCOPE, VERSION, tracer_provider)
        self._sessions: dict[int, Span] = {}
        self._generations: dict[GenerationRecord, Span] = {}
        self._requests: dict[RequestRecord, Span] = {}
        self._server_requests: dict[ServerRequestRecord, Span] = {}
        self._turns: dict[TurnRecord, _Turn] = {}
        self._turn_of_thread: dict[tuple[int, str], TurnRecord] = {}
        meter = metrics.get_meter(SCOPE, VERSION, meter_provider)
        self._request_duration = meter.create_histogram("codex.request.duration", "s")
        self._turn_duration = meter.create_histogram("codex.turn.duration", "s")
        self._interrupt_duration = meter.create_histogram("codex.turn.interrupt.duration", "s")
        self._tokens = meter.create_counter("codex.tokens", "{token}")
        self._decision_duration = meter.create_histogram("codex.server_request.duration", "s")
        self._waiting = meter.create_up_down_counter("codex.requests.waiting")
        self._in_flight = meter.create_up_down_counter("codex.requests.in_flight")
        self._decisions = meter.create_counter("codex.decisions")
        self._retries = meter.create_counter("codex.request.retries")
        self._discarded = meter.create_counter("codex.lines.discarded")
        self._merged = meter.create_counter("codex.deltas.merged")
        self._overflows = meter.create_counter("codex.buffer.overflows")

    # -- sessions ----------------------------------------------------------------------------------------------

    def connection_opened(self, connection: int) -> None:
        self._sessions[connection] = self._tracer.start_span(
            "codex.session", attributes={"codex.connection": connection}
        )

    def process_spawned(self, process: ProcessRecord) -> None:
        self._trace.get_current_span().add_event("codex.process.spawned", {"process.pid": process.pid})

    def handshake_completed(self, connection: int, metadata: ServerMetadata) -> None:
        if (span := self._sessions.get(connection)) is not None:
            span.set_attribute("codex.server.version", metadata.server_version or "unknown")

    def connection_ended(self, connection: int, error: CodexError) -> None:
        if (span := self._sessions.pop(connection, None)) is not None:
            self._end(span, None if isinstance(error, ConnectionClosed) else type(error).__name__)

    def generation_started(self, generation: GenerationRecord) -> None:
        self._generations[generation] = self._tracer.start_span(
            "codex.generation", attributes={"codex.generation": generation.number}
        )

    def generation_ended(self, generation: GenerationRecord) -> None:
        if (span := self._generations.pop(generation, None)) is not None:
            cause = generation.cause
            self._end(span, type(cause).__name__ if isinstance(cause, Exception) else None)

    # -- requests ----------------------------------------------------------------------------------------------

    def request_queued(self, request: RequestRecord) -> None:
        thread_id = string_of(object_of(request.params).get("threadId"))
        self._requests[request] = self._tracer.start_span(
            request.method,
            self._parent(request.connection, thread_id, starts_turn=request.method == "turn/start"),
            self._trace.SpanKind.CLIENT,
            {"rpc.system": "jsonrpc", "rpc.method": request.method, "codex.connection": request.connection},
        )
        self._waiting.add(1)

    def request_trace(self, request: RequestRecord) -> dict[str, str] | None:
        if (span := self._requests.get(request)) is None:
            return None
        context = span.get_span_context()
        if not context.is_valid:
            return None
        # Formatted by hand: the server accepts only the "sampled" flag, and starts its own trace on any other, such as
        # the "random" flag that recent versions of the SDK set.
        sampled = context.trace_flags & self._trace.TraceFlags.SAMPLED
        trace = {"traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{sampled:02x}"}
        if context.trace_state:
            trace["tracestate"] = context.trace_state.to_header()
        return trace

    def request_sent(self, request: RequestRecord) -> None:
        self._waiting.add(-1)
        self._in_flight.add(1)
        if (span := self._requests.get(request)) is not None:
            span.add_event("sent")

    def request_ended(self, request: RequestRecord) -> None:
        (self._waiting if request.sent_at is None else self._in_flight).add(-1)
        told = {"rpc.method": request.method, "codex.outcome": request.outcome or ""}
        self._request_duration.record(request.duration or 0.0, told)
        if (span := self._requests.pop(request, None)) is None:
            return
        span.set_attributes(
            {"codex.outcome": request.outcome or "", "rpc.jsonrpc.request_id": str(request.id)}
        )
        if isinstance(request.error, RpcError):
            span.set_attribute("rpc.jsonrpc.error_code", request.error.code)
        failed = request.outcome in ("refused", "failed") and request.error is not None
        self._end(span, type(request.error).__name__ if failed else None)

    def request_retried(self, method: str, attempt: int, delay: float) -> None:
        self._retries.add(1, {"rpc.method": method})

    # -- approvals and tool calls ------------------------------------------------------------------------------

    def server_request_received(self, request: ServerRequestRecord) -> None:
        where = route(request.params or b"null")
        thread_id = where.thread_id or where.conversationId
        attributes: dict[str, str | int] = {
            "rpc.method": request.method,
            "codex.connection": request.connection,
        }
        if thread_id is not None:
            attributes["codex.thread.id"] = thread_id
        name = "codex.server_request"
        if request.method.lower().endswith("approval"):
            name = "codex.approval"
        elif request.method == "item/tool/call":
            name = "codex.tool_call"
            attributes["codex.tool"] = _tool_of(request.params)
        self._server_requests[request] = self._tracer.start_span(
            name, self._of_turn(request.connection, thread_id), self._trace.SpanKind.SERVER, attributes
        )

    def server_request_ended(self, request: ServerRequestRecord) -> None:
        told = {"rpc.method": request.method, "codex.outcome": request.outcome or ""}
        self._decision_duration.record(request.duration or 0.0, told)
        if (span := self._server_requests.pop(request, None)) is not None:
            span.set_attribute("codex.outcome", request.outcome or "")
            self._end(span)

    def decision_made(self, record: DecisionRecord) -> None:
        told = {"codex.decision": decision_name(record), "codex.decided_by": str(record.decided_by)}
        self._decisions.add(1, {"rpc.method": record.method, **told})
        # The record does not name the connection, but a thread is open on only one.
        states = (state for turn, state in self._turns.items() if turn.thread_id == record.thread_id)
        if (state := next(states, None)) is not None:
            state.span.add_event("codex.decision", {"rpc.method": record.method, **told})

    def event_received(self, connection: int, event: Event) -> None:
        if event.method == "item/started":
            self._item_started(connection, event)
        elif event.method == "item/completed":
            self._item_completed(connection, event)

    def _item_started(self, connection: int, event: Event) -> None:
        turn, item = self._item_of(connection, event)
        kind, item_id = string_of(item.get("type")), string_of(item.get("id"))
        if turn is None or kind not in TOOL_ITEMS or item_id is None:
            return
        attributes = {"codex.item.id": item_id, "codex.item.type": kind}
        for name in ("server", "tool"):
            if value := string_of(item.get(name)):
                attributes[f"codex.{name}"] = value
        parent = self._trace.set_span_in_context(turn.span)
        turn.items[item_id] = self._tracer.start_span("codex.tool_call", parent, attributes=attributes)

    def _item_completed(self, connection: int, event: Event) -> None:
        turn, item = self._item_of(connection, event)
        span = None if turn is None else turn.items.pop(str(item.get("id")), None)
        if span is not None:
            status = string_of(item.get("status")) or ""
            span.set_attribute("codex.outcome", status)
            self._end(span, status if status == "failed" else None)

    def _item_of(self, connection: int, event: Event) -> tuple[_Turn | None, dict[str, Any]]:
        params = object_of(event.raw)
        thread_id = string_of(params.get("threadId"))
        return self._open_turn(connection, thread_id), object_of(params.get("item"))

    # -- turns -------------------------------------------------------------------------------------------------

    def turn_started(self, turn: TurnRecord) -> None:
        span = self._tracer.start_span(
            "codex.turn",
            self._parent(turn.connection, None),
            attributes={"codex.connection": turn.connection, "codex.thread.id": turn.thread_id},
        )
        self._turns[turn] = _Turn(span, self._trace.get_current_span())
        self._turn_of_thread[turn.connection, turn.thread_id] = turn

    def turn_ended(self, turn: TurnRecord) -> None:
        status = turn.status or ""
        self._turn_duration.record(turn.duration or 0.0, {"codex.turn.status": status})
        if turn.interrupt_latency is not None:
            self._interrupt_duration.record(turn.interrupt_latency)
        used = _tokens_of(turn)
        for kind, count in used.items():
            self._tokens.add(count, {"codex.token.type": kind})
        if self._turn_of_thread.get((turn.connection, turn.thread_id)) is turn:
            del self._turn_of_thread[turn.connection, turn.thread_id]
        if (state := self._turns.pop(turn, None)) is None:
            return
        for span in state.items.values():
            self._end(span)
        state.span.set_attributes({"codex.turn.id": turn.id or "", "codex.turn.status": status})
        state.span.set_attributes({f"codex.tokens.{kind}": count for kind, count in used.items()})
        self._end(state.span, status if status in ("failed", "lost", "refused") else None)

    # -- losses ------------------------------------------------------------------------------------------------

    def line_discarded(self, connection: int, reason: str, size: int) -> None:
        self._discarded.add(1, {"codex.reason": reason})

    def buffer_overflowed(self, connection: int, error: SubscriptionOverflow) -> None:
        self._overflows.add(1)

    def deltas_merged(self, connection: int, method: str, count: int) -> None:
        self._merged.add(count - 1, {"rpc.method": method})

    # -- parents -----------------------------------------------------------------------------------------------

    def _parent(self, connection: int, thread_id: str | None, *, starts_turn: bool = False) -> Any:
        """Return the context of the caller's span, or of the turn if the caller's span encloses the turn."""
        current = self._trace.get_current_span()
        turn = self._open_turn(connection, thread_id)
        if turn is not None and (starts_turn or current is turn.surroundings):
            return self._trace.set_span_in_context(turn.span)
        if current.get_span_context().is_valid:
            return None
        return self._of_turn(connection, thread_id)

    def _of_turn(self, connection: int, thread_id: str | None) -> Any:
        turn = self._open_turn(connection, thread_id)
        span = self._sessions.get(connection) if turn is None else turn.span
        return None if span is None else self._trace.set_span_in_context(span)

    def _open_turn(self, connection: int, thread_id: str | None) -> _Turn | None:
        record = None if thread_id is None else self._turn_of_thread.get((connection, thread_id))
        return None if record is None else self._turns.get(record)

    def _end(self, span: Span, error: str | None = None) -> None:
        if error is not None:
            span.set_attribute("error.type", error)
            span.set_status(self._trace.StatusCode.ERROR)
        span.end()


def _tokens_of(turn: TurnRecord) -> dict[str, int]:
    """Return the token usage of a turn by kinds that do not overlap."""
    if turn.usage is None:
        return {}
    counts = {"input": turn.usage.input_tokens, "output": turn.usage.output_tokens}
    return {kind: count for kind, count in counts.items() if count is not None}


class _ToolName(msgspec.Struct):
    tool: str = ""


def _tool_of(params: msgspec.Raw | None) -> str:
    try:
        return msgspec.json.decode(params or b"{}", type=_ToolName).tool
    except UNREADABLE:
        return ""
