"""What a silent turn waits for, and how long it may: owns the answer to "why does nothing happen?"."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import trio

from trio_codex._runtime._timeouts import RESOLUTION
from trio_codex.errors import TurnStalled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_codex._client._router import Router
    from trio_codex._runtime._dispatch import CallbackGroup
    from trio_codex._runtime._timeouts import Timeouts
    from trio_codex._turns._turn_state import ThreadState, TurnState


class WaitingOn(enum.StrEnum):
    """What an open turn waits for. Its agents count as part of it."""

    model = "model"
    """The model, as far as can be told, because nothing else is under way."""
    tool = "tool"
    """A command, a tool or an agent is at work; a command in the background counts, too."""
    approval = "approval"
    """A question that is with a policy of this client."""
    unseen_approval = "unseen approval"
    """A question that the server waits for and never sent to this client, so that nobody here can answer it."""


def waiting_on(router: Router, turn: TurnState) -> WaitingOn | None:
    """Tell what a turn waits for; ``None`` if it has ended."""
    if turn.ended.is_set():
        return None
    threads = list(_threads(router, turn))
    if any(thread.held_requests for thread in threads):
        return WaitingOn.approval
    if any(thread.flags for thread in threads):
        return WaitingOn.unseen_approval
    if any(thread.turn is not None and thread.turn.reducer.running for thread in threads):
        return WaitingOn.tool
    return WaitingOn.model


def last_event_at(router: Router, turn: TurnState) -> float:
    """Tell when the last event of a turn or of one of its agents came, in Trio's time."""
    turns = (thread.turn for thread in _threads(router, turn))
    return max((one.last_event_at for one in turns if one is not None), default=turn.last_event_at)


def _threads(router: Router, turn: TurnState) -> Iterator[ThreadState]:
    """Give the threads that work for a turn: its own, and those of its agents whose turns are open."""
    unvisited, seen = [turn.thread], {turn.thread.id}
    while unvisited:
        thread = unvisited.pop()
        yield thread
        if thread.turn is None:
            continue
        for child_id in thread.turn.reducer.children:
            child = router.find(child_id)
            if child is not None and child.turn is not None and child_id not in seen:
                seen.add(child_id)
                unvisited.append(child)


def callbacks_of(router: Router, turn: TurnState) -> list[CallbackGroup]:
    """Give the callbacks of a turn and, while it is open, those of its agents, who may outlive it."""
    groups = [turn.callbacks]
    if not turn.ended.is_set():
        turns = (thread.turn for thread in _threads(router, turn))
        groups += [one.agent_callbacks for one in turns if one is not None]
    return [group for group in groups if group is not None]


async def wait_answered(groups: list[CallbackGroup]) -> None:
    """Wait until all these callbacks have ended."""
    await trio.lowlevel.checkpoint()
    for callbacks in groups:
        await callbacks.wait_empty()


async def watch_idle(
    router: Router, timeouts: Timeouts, turn: TurnState, limit: float, fail: Callable[[TurnStalled], object]
) -> None:
    """Wait until a turn is silent for too long without a reason, and say so; for ever if it never is.

    It is never for a question that is with a policy, however long that takes, nor for a tool: that is at work by the
    server's own account.
    """
    explained_until = turn.last_event_at
    while True:
        silent_since = max(explained_until, last_event_at(router, turn))
        await timeouts.sleep(max(0, limit - timeouts.listened_since(silent_since)))
        # Only now is it known what the pipe held, and whether we have listened for all of that time.
        rest = limit - timeouts.listened_since(silent_since)
        if last_event_at(router, turn) > silent_since or rest > RESOLUTION:
            continue
        match waiting_on(router, turn):
            case None:
                return
            case WaitingOn.approval:
                await wait_answered(callbacks_of(router, turn))
                explained_until = trio.current_time()
            case WaitingOn.tool:
                # Its end is an event, which starts the clock anew.
                await timeouts.sleep(limit)
            case unexplained:
                fail(TurnStalled(turn.thread.id, turn.id, str(unexplained), limit))
                return
