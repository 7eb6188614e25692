"""Determine what a silent turn is waiting for, and enforce its ``idle_limit``."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import trio

from trio_codex._link.timeouts import RESOLUTION
from trio_codex.errors import TurnStalled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_codex._link.dispatch import CallbackGroup
    from trio_codex._link.timeouts import Timeouts
    from trio_codex._session.state import ThreadState, TurnState
    from trio_codex._session.threads import Threads


class WaitingOn(enum.StrEnum):
    """What an open turn is waiting for. Its agents count as part of it."""

    model = "model"
    """Presumably the model, because nothing else is in progress."""
    tool = "tool"
    """A running command, tool or agent. Background commands count, too."""
    approval = "approval"
    """A request being handled by a policy of this client."""
    unseen_approval = "unseen approval"
    """A request that the server is waiting on but never sent to this client, so that the client cannot answer it."""


def waiting_on(threads: Threads, turn: TurnState) -> WaitingOn | None:
    """Return what a turn is waiting for; ``None`` if it has ended."""
    if turn.ended.is_set():
        return None
    working = list(_threads(threads, turn))
    if any(thread.held_requests for thread in working):
        return WaitingOn.approval
    if any(thread.flags for thread in working):
        return WaitingOn.unseen_approval
    if any(thread.turn is not None and thread.turn.reducer.running for thread in working):
        return WaitingOn.tool
    return WaitingOn.model


def last_event_at(threads: Threads, turn: TurnState) -> float:
    """Return when the last event of a turn or of one of its agents arrived, on Trio's clock."""
    turns = (thread.turn for thread in _threads(threads, turn))
    return max((one.last_event_at for one in turns if one is not None), default=turn.last_event_at)


def _threads(threads: Threads, turn: TurnState) -> Iterator[ThreadState]:
    """Return the threads that work for a turn: its own, and those of its agents with open turns."""
    unvisited, seen = [turn.thread], {turn.thread.id}
    while unvisited:
        thread = unvisited.pop()
        yield thread
        if thread.turn is None:
            continue
        for child_id in thread.turn.reducer.children:
            child = threads.find(child_id)
            if child is not None and child.turn is not None and child_id not in seen:
                seen.add(child_id)
                unvisited.append(child)


def callbacks_of(threads: Threads, turn: TurnState) -> list[CallbackGroup]:
    """Return the callbacks of a turn and, while it is open, those of its agents, which may outlive it."""
    groups = [turn.callbacks]
    if not turn.ended.is_set():
        groups += [one.agent_callbacks for one in working_turns(threads, turn)]
    return [group for group in groups if group is not None]


def working_turns(threads: Threads, turn: TurnState) -> list[TurnState]:
    """Return a turn and the open turns of its agents."""
    turns = (thread.turn for thread in _threads(threads, turn))
    return [one for one in turns if one is not None]


async def wait_answered(groups: list[CallbackGroup]) -> None:
    """Wait until all these callbacks have finished."""
    await trio.lowlevel.checkpoint()
    for callbacks in groups:
        await callbacks.wait_empty()


async def watch_idle(
    threads: Threads, timeouts: Timeouts, turn: TurnState, limit: float, fail: Callable[[TurnStalled], object]
) -> None:
    """Call ``fail`` once a turn has been silent for longer than ``limit`` for no known reason.

    Returns without calling it if the turn has ended. Time spent on a request that a policy is handling does not
    count, however long it takes. Neither does time spent on a tool, since the server itself reports it as running.
    """
    explained_until = turn.last_event_at
    while True:
        silent_since = max(explained_until, last_event_at(threads, turn))
        await timeouts.sleep(max(0, limit - timeouts.listened_since(silent_since)))
        # Check again: the sleep also processed pending input, and stalls do not count as silence.
        rest = limit - timeouts.listened_since(silent_since)
        if last_event_at(threads, turn) > silent_since or rest > RESOLUTION:
            continue
        match waiting_on(threads, turn):
            case None:
                return
            case WaitingOn.approval:
                await wait_answered(callbacks_of(threads, turn))
                explained_until = trio.current_time()
            case WaitingOn.tool:
                # The tool ends with an event, which restarts the timer.
                await timeouts.sleep(limit)
            case unexplained:
                fail(TurnStalled(turn.thread.id, turn.id, str(unexplained), limit))
                return
