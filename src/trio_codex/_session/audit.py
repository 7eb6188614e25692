"""The record of decisions on server requests, and of the reviews that the server makes itself."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import trio

from trio_codex._core.json import object_of, string_of
from trio_codex._link.hooks import NO_INSTRUMENTS, Instruments
from trio_codex.instruments._base import DecidedBy, DecisionRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_codex._core.rpc import RequestId
    from trio_codex._link.dispatch import Outcome
    from trio_codex._values.event import Event
    from trio_codex.policies import Request

DECISIONS_KEPT: Final = 1000
"""How many records a client keeps. Instruments receive all of them."""

DECISIONS_BYTES: Final = 16 * 1024 * 1024
"""The maximum total size of the kept records, as JSON. The latest record is always kept."""

REVIEWS_KEPT: Final = 256
"""How many pending reviews of the server are tracked. Beyond that, the oldest counts as never completed."""

REVIEWS_BYTES: Final = 16 * 1024 * 1024
"""The maximum total size of the pending reviews, as JSON."""

REVIEW: Final = "item/autoApprovalReview"
REVIEW_STARTED: Final = f"{REVIEW}/started"
REVIEW_COMPLETED: Final = f"{REVIEW}/completed"


class Entry(msgspec.Struct, eq=False, kw_only=True):
    """The unfinished record of a pending request."""

    audit: Audit
    id: RequestId
    method: str
    thread_id: str | None = None
    turn_id: str | None = None
    item_id: str | None = None
    request: Any = None
    decided_by: DecidedBy = DecidedBy.default
    policy: str | None = None
    decision: Any = None
    reason: str | None = None
    asked_at: float = msgspec.field(default_factory=trio.current_time)
    size: int = 0

    def ask(self, request: Request) -> None:
        """Record the question."""
        self.request = request
        # The diffs arrived with an event, so the size of the request does not include them.
        self.size += sum(len(change.diff) for change in getattr(request, "changes", ()))
        self.turn_id = getattr(request, "turn_id", None)
        self.item_id = getattr(request, "item_id", None) or getattr(request, "call_id", None)

    def decide(self, decision: object, answer: object) -> None:
        """Record the decision and the answer derived from it."""
        self.decision = decision
        self.size += _size_of(answer)

    def settle(self, outcome: Outcome, reason: str | None = None) -> None:
        """Record the outcome."""
        decision = self.decision if outcome == "answered" else None
        reason = reason or getattr(decision, "reason", None) or self.reason
        self.audit.add(
            DecisionRecord(
                id=self.id,
                method=self.method,
                thread_id=self.thread_id,
                turn_id=self.turn_id,
                item_id=self.item_id,
                request=self.request,
                decided_by=self.decided_by,
                policy=self.policy,
                decision=decision,
                rule=getattr(decision, "rule", None),
                reason=reason,
                outcome=outcome,
                asked_at=self.asked_at,
                seconds=trio.current_time() - self.asked_at,
            ),
            self.size + len(reason or ""),
        )


def _size_of(value: object) -> int:
    """Return the approximate size of a value as JSON; stop counting beyond the total limit."""
    size = 0
    values = [value]
    # A policy may return a value that contains itself. Encoding that value raises later.
    while values and size <= DECISIONS_BYTES:
        value = values.pop()
        size += len(value) if isinstance(value, str) else 8
        if isinstance(value, dict):
            members = cast("dict[object, object]", value)
            values += [*members.keys(), *members.values()]
        elif isinstance(value, list | tuple):
            values += cast("Sequence[object]", value)
    return size


class Audit:
    """The records of one client."""

    def __init__(self, instruments: Instruments = NO_INSTRUMENTS) -> None:
        self._instruments = instruments
        self._kept: deque[tuple[DecisionRecord, int]] = deque()
        self._kept_bytes = 0
        self._reviews: dict[str, Entry] = {}

    @property
    def records(self) -> list[DecisionRecord]:
        """The latest records, oldest first."""
        return [record for record, _ in self._kept]

    def begin(self, request_id: RequestId, method: str, thread_id: str | None, size: int = 0) -> Entry:
        """Start the record of a request, given its size in bytes."""
        return Entry(audit=self, id=request_id, method=method, thread_id=thread_id, size=size)

    def add(self, record: DecisionRecord, size: int) -> None:
        """Keep a record of this size, drop the oldest records beyond the limits, and notify the instruments."""
        self._kept.append((record, size))
        self._kept_bytes += size
        while len(self._kept) > DECISIONS_KEPT or (
            self._kept_bytes > DECISIONS_BYTES and len(self._kept) > 1
        ):
            _, dropped = self._kept.popleft()
            self._kept_bytes -= dropped
        if "decision_made" in self._instruments:
            self._instruments.emit("decision_made", record)

    def on_review(self, event: Event) -> None:
        """Handle a notification about one of the server's own reviews. Called by the reader; never raises."""
        params = object_of(event.raw)
        review_id = string_of(params.get("reviewId"))
        if review_id is None:
            return
        entry = self._reviews.pop(review_id, None)
        if entry is None:
            entry = self.begin(review_id, REVIEW, string_of(params.get("threadId")))
            entry.decided_by = DecidedBy.server
            entry.turn_id = string_of(params.get("turnId"))
            entry.item_id = string_of(params.get("targetItemId"))
        entry.request, entry.size = params.get("action"), event.size
        if event.method == REVIEW_COMPLETED:
            review = object_of(params.get("review"))
            entry.decision = string_of(review.get("status"))
            entry.reason = string_of(review.get("rationale"))
            entry.settle("answered")
            return
        self._reviews[review_id] = entry
        while len(self._reviews) > REVIEWS_KEPT or (
            len(self._reviews) > 1 and sum(each.size for each in self._reviews.values()) > REVIEWS_BYTES
        ):
            self._reviews.pop(next(iter(self._reviews))).settle("withdrawn", "it never completed")

    def close(self) -> None:
        """Settle all unfinished records, because the connection has ended."""
        reviews, self._reviews = self._reviews, {}
        for entry in reviews.values():
            entry.settle("withdrawn", "the connection ended")
