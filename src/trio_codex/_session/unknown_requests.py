"""Server requests whose method is not in the table of request kinds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from trio_codex._link.dispatch import Answer
from trio_codex._session.request_kinds import NO_REASON, Kind, RequestContext
from trio_codex.policies import Cancel, Decline, UnknownRequest

if TYPE_CHECKING:
    from trio_codex import wire

METHOD_NOT_FOUND: Final = -32601


def _answer_unknown(_: UnknownRequest, decision: object) -> Answer | None:
    match decision:
        case Mapping():
            return Answer(cast("Mapping[str, wire.JSON]", decision))
        case Decline(reason=reason):
            return Answer(error=(METHOD_NOT_FOUND, reason or NO_REASON))
        case Cancel():
            return Answer(error=(METHOD_NOT_FOUND, NO_REASON))
        case _:
            return None


def unknown_kind(method: str) -> Kind:
    """Return the kind of a request that is not in the table."""

    def ask(params: Any, context: RequestContext) -> UnknownRequest:
        thread_id, turn_id = context.named
        return UnknownRequest(method=method, thread_id=thread_id, turn_id=turn_id, params=params)

    denial = Answer(error=(METHOD_NOT_FOUND, f"this client does not handle {method}"))
    return Kind("unknown", denial, ask, _answer_unknown)
