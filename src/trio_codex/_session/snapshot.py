"""Applying the response that opens a thread: the snapshot of its newest turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from trio_codex._core.json import list_of, object_of, string_of
from trio_codex._values.event import Event
from trio_codex._values.turn_result import TurnStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_codex._link.hooks import Instruments
    from trio_codex._session.state import ThreadState, TurnState

NEWEST_TURNS: Final = 2
"""How many turns to request when a thread is opened, to learn whether one is running."""

IN_PROGRESS: Final = "inProgress"
"""The status of a turn or an item that has not ended."""


def newest_turn(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the newest turn in the response that opened a thread; an empty object if there is none.

    An inline review has two records: one with the id under which it runs, and one with its own, which follows once it has
    ended. The server never ends the former, so the latter counts.
    """
    page = list_of(object_of(answer.get("initialTurnsPage")).get("data"))
    turns = page or list_of(object_of(answer.get("thread")).get("turns"))[::-1]
    newest, before = map(object_of, (*turns[:2], None, None)[:2])
    return before if _is_ended_review(newest, before) else newest


def _is_ended_review(newest: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    if newest.get("status") != IN_PROGRESS or before.get("status") in (IN_PROGRESS, None):
        return False
    root_id = string_of(newest.get("rootTurnId"))
    if root_id is None:  # before 0.162
        return any(object_of(item).get("type") == "exitedReviewMode" for item in list_of(before.get("items")))
    return root_id == string_of(before.get("id"))


def take_snapshot(
    thread: ThreadState, newest: dict[str, Any], instruments: Instruments, *, was_unsubscribed: bool
) -> None:
    """Apply the newest turn of a thread: end a turn whose end was missed, and record one that is running.

    The thread's ``status`` is not reliable here: it may be idle while a turn is about to run.

    ``was_unsubscribed`` says whether the client may have missed events, because it was not subscribed until now.
    """
    turn_id = string_of(newest.get("id"))
    if turn_id is None or thread.sequence is not None:
        return
    if was_unsubscribed and thread.turn is not None:
        _end_if_missed(thread, thread.turn, turn_id, newest)
    runs = newest.get("status") == IN_PROGRESS
    if thread.turn is None and turn_id not in thread.past_turn_ids:
        thread.starting_turn_id = turn_id if may_be_starting(newest) else None
        if runs:
            # An inline review has two ids: it is listed under the one that runs it, and its events have the other.
            thread.begin_turn(turn_id, instruments).announce(turn_id, string_of(newest.get("rootTurnId")))
            was_unsubscribed = True
    turn = thread.turn
    if runs and was_unsubscribed and turn is not None and turn.id == turn_id and not turn.owned:
        turn.is_partial = True
        turn.lists_no_root = "rootTurnId" not in newest
        for item in list_of(newest.get("items")):
            json = msgspec.json.encode({"item": item})
            under_way = object_of(item).get("status") in (IN_PROGRESS, None)
            turn.reducer.feed("item/started" if under_way else "item/completed", json)
            turn.note_stored()


def _end_if_missed(thread: ThreadState, turn: TurnState, newest_id: str, newest: dict[str, Any]) -> None:
    if turn.id is None:
        return
    if not turn.machine.goes_by(newest_id):
        turn.lose("it ended while this client was not subscribed to its thread")
        thread.close_turn(turn)
        return
    if newest.get("status") != IN_PROGRESS and not may_be_starting(newest):
        json = msgspec.json.encode({"threadId": thread.id, "turn": newest})
        turn.end(Event("turn/completed", json, len(json)))
        if newest.get("itemsView") == "full":
            turn.complete(newest)
        thread.close_turn(turn)


def may_be_starting(newest: Mapping[str, Any]) -> bool:
    """Return whether a turn may be about to run. The server reports such a turn as interrupted and without items."""
    return newest.get("status") == TurnStatus.interrupted and not newest.get("items")
