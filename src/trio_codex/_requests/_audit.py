"""What was decided, by whom and why: owns the records, one for each request of the server, and for each of its own reviews."""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

import attrs
import trio

from trio_codex._core._json import object_of, string_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_codex._core._rpc import RequestId
    from trio_codex._runtime._dispatch import Outcome
    from trio_codex._turns._event import Event
    from trio_codex.policies import AnyDecision, Request

DECISIONS_KEPT: Final = 1000
"""Records that a client keeps. An instrument gets all of them."""

DECISIONS_BYTES: Final = 16 * 1024 * 1024
"""What the kept records come to at most, as JSON. The latest record is kept whatever its size."""

REVIEWS_KEPT: Final = 256
"""Reviews of the server that are waited for at once. The oldest beyond it counts as never completed."""

REVIEWS_BYTES: Final = 16 * 1024 * 1024
"""What these come to at most, as JSON."""

REVIEW: Final = "item/autoApprovalReview"
REVIEW_STARTED: Final = f"{REVIEW}/started"
REVIEW_COMPLETED: Final = f"{REVIEW}/completed"


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
    """Nobody. It was denied, as no policy decides on it, or it could not be read."""
    server = "server"
    """The server's own reviewer; nobody here was asked."""
    others = "others"
    """Another client of the same server, whose turn it is of; nothing was answered."""


@attrs.frozen(kw_only=True)
class DecisionRecord:
    """One decision.

    Attributes:
        id: The request's id on the connection; the review's for a review of the server.
        method: The request's method; ``item/autoApprovalReview`` for a review of the server.
        thread_id: The thread that asked.
        turn_id: The turn that asked.
        item_id: The item it is about.
        request: What was asked: the question as the policy got it, or the action that the server reviewed, as plain
            JSON; ``None`` if it could not be read.
        decided_by: Who decided.
        policy: The name of the policy or tool, or of its callback.
        decision: What was decided; the status of the review for one of the server; ``"answered"`` for an unknown request that a
            policy answered; ``None`` if nobody decided.
        rule: What in the policy led to it, where it said so.
        reason: Why: of a refusal its reason, of a failure what failed, of a withdrawal who withdrew.
        outcome: How it ended: ``"answered"``, a denial included; ``"withdrawn"``, so that nothing was answered;
            ``"failed"``, so that it was denied, as the callback failed; or ``"left"`` to another client.
        asked_at: When it came, in Trio's time.
        seconds: How long it took to its end.
    """

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


@attrs.define(eq=False, kw_only=True)
class Entry:
    """A record that is being made: what is known of a request that has not ended yet."""

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
    asked_at: float = attrs.field(factory=trio.current_time)
    size: int = 0

    def ask(self, request: Request) -> None:
        """Note what was asked."""
        self.request = request
        # They came with an event, and not with the request.
        self.size += sum(len(change.diff) for change in getattr(request, "changes", ()))
        self.turn_id = getattr(request, "turn_id", None)
        self.item_id = getattr(request, "item_id", None) or getattr(request, "call_id", None)

    def decide(self, decision: object, answer: object) -> None:
        """Note the decision, and the answer that was made of it."""
        self.decision = decision
        self.size += _size_of(answer)

    def settle(self, outcome: Outcome, reason: str | None = None) -> None:
        """Note how it ended."""
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
    """Return about how many bytes a value takes as JSON, or more than is kept of all."""
    size = 0
    values = [value]
    # A value of a policy may contain itself, which is an error only when it is sent.
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
    """Keeps the records of a client.

    Attributes:
        tell: Called with each record; ``None`` if nobody listens.
    """

    def __init__(self) -> None:
        self.tell: Callable[[DecisionRecord], object] | None = None
        self._kept: deque[tuple[DecisionRecord, int]] = deque()
        self._kept_bytes = 0
        self._reviews: dict[str, Entry] = {}

    @property
    def records(self) -> list[DecisionRecord]:
        """The latest records, oldest first."""
        return [record for record, _ in self._kept]

    def begin(self, request_id: RequestId, method: str, thread_id: str | None, size: int = 0) -> Entry:
        """Begin the record of a request that came in this many bytes."""
        return Entry(audit=self, id=request_id, method=method, thread_id=thread_id, size=size)

    def add(self, record: DecisionRecord, size: int) -> None:
        """Keep a record that takes this many bytes, drop the oldest beyond the bounds, and tell it."""
        self._kept.append((record, size))
        self._kept_bytes += size
        while len(self._kept) > DECISIONS_KEPT or (
            self._kept_bytes > DECISIONS_BYTES and len(self._kept) > 1
        ):
            _, dropped = self._kept.popleft()
            self._kept_bytes -= dropped
        if self.tell is not None:
            self.tell(record)

    def on_review(self, event: Event) -> None:
        """Take a notification about a review that the server does by itself. Called on the reader; raises nothing."""
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
        """Settle what is under way: the connection has ended."""
        reviews, self._reviews = self._reviews, {}
        for entry in reviews.values():
            entry.settle("withdrawn", "the connection ended")
