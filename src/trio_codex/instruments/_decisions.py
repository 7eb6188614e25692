"""Records of decisions: who decided what and why."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from trio_codex._core.rpc import RequestId
    from trio_codex._link.dispatch import Outcome
    from trio_codex.policies import AnyDecision, Request


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
