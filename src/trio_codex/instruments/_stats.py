"""An instrument that counts what a client does, for a status page, in bounded memory."""

from __future__ import annotations

from collections import Counter, deque
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import attrs

from trio_codex._values.usage import TokenUsage

from ._base import Instrument, decision_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_codex._link.hooks import RequestRecord, ServerRequestRecord
    from trio_codex._values.event import Event
    from trio_codex.errors import CodexError, SubscriptionOverflow

    from ._base import DecisionRecord, GenerationRecord, TurnRecord

DURATIONS_KEPT: Final = 512
"""How many recent durations the quantiles cover: enough for a p99, and a snapshot sorts them in about 30 µs."""


@attrs.frozen
class Latency:
    """A summary of durations, in seconds.

    Attributes:
        count: The number of durations.
        total: The sum of all durations.
        p50: The median of the latest 512; ``None`` if there were none.
        p95: The 95th percentile of the latest 512; ``None`` if there were none.
        longest: The longest duration.
    """

    count: int
    total: float
    p50: float | None
    p95: float | None
    longest: float


@attrs.frozen(kw_only=True)
class Stats:
    """A snapshot of the counters of a :class:`StatsInstrument`, over all of its connections.

    Attributes:
        connections_open: Open connections.
        connections_ended: Ended connections.
        requests: Ended requests, by outcome.
        requests_waiting: Requests that are waiting for the window or the writer.
        requests_in_flight: Requests that were sent and are waiting for a response.
        request_latency: From a request to its response; requests without a response do not count.
        retries: Retried requests.
        events: Notifications from the server.
        deltas_merged: Text deltas that were merged into others because a consumer fell behind.
        overflows: Consumers that fell behind beyond the limits of their buffer.
        lines_discarded: Lines from the server that were too long or not usable.
        server_requests: Ended server requests, by outcome.
        server_requests_open: Server requests that are waiting for a response, such as pending approvals.
        decisions: Decisions by kind: ``accept``, ``decline`` and so on, or the outcome if no decision was made.
        decision_latency: From a server request to its response.
        turns: Ended turns, by status.
        turns_open: Running turns.
        turn_latency: From the start of a turn to its end.
        interrupt_latency: From the interrupt of a turn to its end, if the interrupt ended it.
        tokens: Tokens used by ended turns.
        generations: Generations of supervisors.
        generations_lost: Generations that ended on their own.
    """

    connections_open: int
    connections_ended: int
    requests: Mapping[str, int]
    requests_waiting: int
    requests_in_flight: int
    request_latency: Latency
    retries: int
    events: int
    deltas_merged: int
    overflows: int
    lines_discarded: int
    server_requests: Mapping[str, int]
    server_requests_open: int
    decisions: Mapping[str, int]
    decision_latency: Latency
    turns: Mapping[str, int]
    turns_open: int
    turn_latency: Latency
    interrupt_latency: Latency
    tokens: TokenUsage
    generations: int
    generations_lost: int


class _Durations:
    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=DURATIONS_KEPT)
        self._count = 0
        self._total = 0.0
        self._longest = 0.0

    def add(self, seconds: float | None) -> None:
        if seconds is not None:
            self._latest.append(seconds)
            self._count += 1
            self._total += seconds
            self._longest = max(self._longest, seconds)

    def snapshot(self) -> Latency:
        ordered = sorted(self._latest)
        p50, p95 = (ordered[int(share * len(ordered))] if ordered else None for share in (0.50, 0.95))
        return Latency(self._count, self._total, p50, p95, self._longest)


class StatsInstrument(Instrument):
    """Counts what a client does, cheaply enough to be always on; :meth:`snapshot` returns the numbers."""

    def __init__(self) -> None:
        self._connections = Counter[str]()
        self._requests = Counter[str]()
        self._waiting = self._in_flight = 0
        self._request_durations = _Durations()
        self._retries = self._events = self._merged = self._overflows = self._discarded = 0
        self._server_requests = Counter[str]()
        self._asking = 0
        self._decision_durations = _Durations()
        self._decisions = Counter[str]()
        self._turns = Counter[str]()
        self._turns_open = 0
        self._turn_durations = _Durations()
        self._interrupt_durations = _Durations()
        self._tokens = TokenUsage()
        self._generations = Counter[str]()

    def snapshot(self) -> Stats:
        """Return the current counts as an immutable value."""
        return Stats(
            connections_open=self._connections["opened"] - self._connections["ended"],
            connections_ended=self._connections["ended"],
            requests=MappingProxyType(dict(self._requests)),
            requests_waiting=self._waiting,
            requests_in_flight=self._in_flight,
            request_latency=self._request_durations.snapshot(),
            retries=self._retries,
            events=self._events,
            deltas_merged=self._merged,
            overflows=self._overflows,
            lines_discarded=self._discarded,
            server_requests=MappingProxyType(dict(self._server_requests)),
            server_requests_open=self._asking,
            decisions=MappingProxyType(dict(self._decisions)),
            decision_latency=self._decision_durations.snapshot(),
            turns=MappingProxyType(dict(self._turns)),
            turns_open=self._turns_open,
            turn_latency=self._turn_durations.snapshot(),
            interrupt_latency=self._interrupt_durations.snapshot(),
            tokens=self._tokens,
            generations=self._generations["started"],
            generations_lost=self._generations["lost"],
        )

    def connection_opened(self, connection: int) -> None:
        self._connections["opened"] += 1

    def connection_ended(self, connection: int, error: CodexError) -> None:
        self._connections["ended"] += 1

    def line_discarded(self, connection: int, reason: str, size: int) -> None:
        self._discarded += 1

    def request_queued(self, request: RequestRecord) -> None:
        self._waiting += 1

    def request_sent(self, request: RequestRecord) -> None:
        self._waiting -= 1
        self._in_flight += 1

    def request_ended(self, request: RequestRecord) -> None:
        if request.sent_at is None:
            self._waiting -= 1
        else:
            self._in_flight -= 1
        self._requests[request.outcome or ""] += 1
        if request.outcome in ("answered", "refused"):
            self._request_durations.add(request.duration)

    def request_retried(self, method: str, attempt: int, delay: float) -> None:
        self._retries += 1

    def server_request_received(self, request: ServerRequestRecord) -> None:
        self._asking += 1

    def server_request_ended(self, request: ServerRequestRecord) -> None:
        self._asking -= 1
        self._server_requests[request.outcome or ""] += 1
        if request.outcome in ("answered", "refused"):
            self._decision_durations.add(request.duration)

    def decision_made(self, record: DecisionRecord) -> None:
        self._decisions[decision_name(record)] += 1

    def event_received(self, connection: int, event: Event) -> None:
        self._events += 1

    def turn_started(self, turn: TurnRecord) -> None:
        self._turns_open += 1

    def turn_ended(self, turn: TurnRecord) -> None:
        self._turns_open -= 1
        self._turns[turn.status or ""] += 1
        self._turn_durations.add(turn.duration)
        self._interrupt_durations.add(turn.interrupt_latency)
        if turn.usage is not None:
            self._tokens += turn.usage

    def buffer_overflowed(self, connection: int, error: SubscriptionOverflow) -> None:
        self._overflows += 1

    def deltas_merged(self, connection: int, method: str, count: int) -> None:
        self._merged += count - 1

    def generation_started(self, generation: GenerationRecord) -> None:
        self._generations["started"] += 1

    def generation_ended(self, generation: GenerationRecord) -> None:
        self._generations["lost"] += isinstance(generation.cause, Exception)
