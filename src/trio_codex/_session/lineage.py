"""The turns that a thread works for: its own, and those that spawned it, directly or indirectly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_codex._values.usage import plus

if TYPE_CHECKING:
    from trio_codex._session.state import ThreadState, TurnState
    from trio_codex._values.usage import TokenUsage


def owner_of(thread: ThreadState | None) -> TurnState | None:
    """Return the open turn of this client that a thread works for: its own turn, or one that spawned it."""
    if thread is None:
        return None
    if thread.turn is not None and thread.turn.owned:
        return thread.turn
    for parent in thread.parents():
        for turn in (parent, parent.thread.turn):
            if turn is not None and turn.owned:
                return turn
    return None


def is_left_running(thread: ThreadState) -> bool:
    """Return whether a thread works for a turn, its own or one that spawned it, that continues without its scope."""
    turns, parent = [thread.turn], thread.parent
    while parent is not None and parent not in turns:
        turns.append(parent)
        parent = parent.thread.parent
    return any(turn is not None and turn.outlives_scope and not turn.owned for turn in turns)


def ancestors_of(thread: ThreadState) -> tuple[str, ...]:
    """Return the ids of the threads above one, starting with the one that spawned it; empty if it was not spawned."""
    return tuple(parent.thread.id for parent in thread.parents())


def charge(thread: ThreadState, turn: TurnState | None, used: TokenUsage) -> None:
    """Add tokens to the meters of a turn, its thread, and every turn and thread that the thread works for."""
    if turn is not None:
        turn.meter.add(used)
    thread.meters.add(used)
    for parent in thread.parents():
        parent.meter.add(used)
        parent.agents_usage = plus(parent.agents_usage, used)
        parent.thread.meters.add(used)
