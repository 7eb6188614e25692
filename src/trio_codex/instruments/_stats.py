"""What happens as numbers: owns the counters of a status page, in bounded memory."""

from __future__ import annotations

from collections import Counter, deque
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import attrs

from trio_codex._turns._usage import TokenUsage

from ._base import Instrument, decision_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_codex._requests._audit import DecisionRecord
    from trio_codex._runtime._instruments import RequestRecord, ServerRequestRecord
    from trio_codex._turns._event import Event
    from trio_codex.errors import CodexError, SubscriptionOverflow

    from ._base import TurnRecord

DURATIONS_KEPT: Final = 512
"""The latest durations that quantiles are taken of: enough for a p99, and a snapshot sorts them in some 30 µs."""


@attrs.frozen
class Latency:
    """How long something took, in seconds.

    Attributes:
        count: How often it happened.
        total: The sum of all durations.
        p50: The median of the latest 512; ``None`` if there were none.
        p95: Likewise, what 95 of 100 stay below.
        longest: The longest of all.
    """

    count: int
    total: float
    p50: float | None
    p95: float | None
    longest: float


@attrs.frozen(kw_only=True)
class Stats:
    """What a :class:`StatsInstrument` has counted so far, over all of its connections.

    Attributes:
        connections_open: Connections that are up.
        connections_ended: Connections that have ended.
        requests: Ended requests by outcome.
        requests_waiting: Requests that the writer does not have yet: they wait for the window, or for the writer.
        requests_in_flight: Requests that were sent and wait for their answer.
        request_latency: From a request's being asked for to its answer; those without an answer do not count.
        retries: Requests that were tried again.
        events: Notifications of the server.
        deltas_merged: Text deltas that were merged into others, because a consumer lagged.
        overflows: Consumers that lagged beyond the bounds.
        lines_discarded: Lines of the server that were too long, or of no use.
        server_requests: Ended requests of the server by outcome.
        server_requests_open: Those that wait for an answer, such as approvals that nobody has decided on.
        decisions: Decisions by kind: ``accept``, ``decline``, …, or how a request ended that nobody decided on.
        decision_latency: From a request of the server to its answer.
        turns: Ended turns by status.
        turns_open: Turns that run.
        turn_latency: From a turn's start to its end.
        interrupt_latency: From the interrupt of a turn to its end, where it was ended by that.
        tokens: What ended turns have used.
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
    """Counts, cheaply enough to be always on. :meth:`snapshot` gives the numbers."""

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

    def snapshot(self) -> Stats:
        """Give what was counted so far. The value does not change any more."""
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
        )

    def connection_opened(self, connection: int) -> None:
        """See :class:`Instrument`."""
        self._connections["opened"] += 1

    def connection_ended(self, connection: int, error: CodexError) -> None:
        """See :class:`Instrument`."""
        self._connections["ended"] += 1

    def line_discarded(self, connection: int, reason: str, size: int) -> None:
        """See :class:`Instrument`."""
        self._discarded += 1

    def request_queued(self, request: RequestRecord) -> None:
        """See :class:`Instrument`."""
        self._waiting += 1

    def request_sent(self, request: RequestRecord) -> None:
        """See :class:`Instrument`."""
        self._waiting -= 1
        self._in_flight += 1

    def request_ended(self, request: RequestRecord) -> None:
        """See :class:`Instrument`."""
        if request.sent_at is None:
            self._waiting -= 1
        else:
            self._in_flight -= 1
        self._requests[request.outcome or ""] += 1
        if request.outcome in ("answered", "refused"):
            self._request_durations.add(request.duration)

    def request_retried(self, method: str, attempt: int, delay: float) -> None:
        """See :class:`Instrument`."""
        self._retries += 1

    def server_request_received(self, request: ServerRequestRecord) -> None:
        """See :class:`Instrument`."""
        self._asking += 1

    def server_request_ended(self, request: ServerRequestRecord) -> None:
        """See :class:`Instrument`."""
        self._asking -= 1
        self._server_requests[request.outcome or ""] += 1
        if request.outcome in ("answered", "refused"):
            self._decision_durations.add(request.duration)

    def decision_made(self, record: DecisionRecord) -> None:
        """See :class:`Instrument`."""
        self._decisions[decision_name(record)] += 1

    def event_received(self, connection: int, event: Event) -> None:
        """See :class:`Instrument`."""
        self._events += 1

    def turn_started(self, turn: TurnRecord) -> None:
        """See :class:`Instrument`."""
        self._turns_open += 1

    def turn_ended(self, turn: TurnRecord) -> None:
        """See :class:`Instrument`."""
        self._turns_open -= 1
        self._turns[turn.status or ""] += 1
        self._turn_durations.add(turn.duration)
        self._interrupt_durations.add(turn.interrupt_latency)
        if turn.usage is not None:
            self._tokens += turn.usage

    def buffer_overflowed(self, connection: int, error: SubscriptionOverflow) -> None:
        """See :class:`Instrument`."""
        self._overflows += 1

    def deltas_merged(self, connection: int, method: str, count: int) -> None:
        """See :class:`Instrument`."""
        self._merged += count - 1
