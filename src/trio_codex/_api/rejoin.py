"""The scope of a turn that was rejoined."""

from __future__ import annotations

import contextvars
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from trio_codex._api.turn import leave_running
from trio_codex._link.dispatch import CallbackGroup
from trio_codex._session.budget import BudgetTracker
from trio_codex._session.owner import TurnOwner
from trio_codex._session.rejoining import end_rejoined, find_turn, follow, gap
from trio_codex._session.scope_guard import ScopeGuard
from trio_codex.errors import ThreadClosed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from trio_codex._api.turn import TurnHandle
    from trio_codex._session.session import Session
    from trio_codex._session.state import ThreadState
    from trio_codex.policies import Policy


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def rejoin_turn(
    make: type[TurnHandle[Any]],
    session: Session,
    thread: object,
    state: ThreadState,
    policy: Policy | None,
    *,
    end: bool,
) -> AsyncGenerator[Any]:
    """Rejoin the turn that runs on a thread. See :meth:`Thread.rejoin`.

    Args:
        make: The class of the handle.
        session: The client.
        thread: The handle of the thread.
        state: The state of the thread.
        policy: Handles requests from the turn.
        end: Whether the scope ends the turn.
    """
    session.connection.check_open()
    state.check_open(thread)
    if state.is_mute:
        raise ThreadClosed(state.id)
    turn = await find_turn(session, state, thread)
    body = ScopeGuard()
    events = session.subscription()
    events.put(gap(turn))
    # A turn that belongs to another scope of this client is only watched.
    adopted = not turn.owned and not turn.ended.is_set()
    outlived_scope = turn.outlives_scope
    if turn.ended.is_set():
        events.end()
    elif adopted:
        meters = (turn.meter, *state.meters, session.meter)
        tracker = BudgetTracker(meters, session.timeouts, body.fail, is_new=False)
        callbacks = CallbackGroup(body.fail, contextvars.copy_context())
        turn.adopt(TurnOwner(thread, events, callbacks, policy, turn.meter, tracker))
        turn.outlives_scope = True
    else:
        turn.sinks += (events,)
    ends = False
    with body.watched():
        if adopted:
            await follow(session, turn, set())
        # A cancelled entry leaves the turn as it was.
        ends = end
        if adopted:
            turn.outlives_scope = not end
        yield make(session, thread, turn, events)
    events.release()
    turn.drop(events)
    was_live = turn.machine.is_live
    if ends and (was_live or (turn.was_interrupted and session.connection.close_reason is None)):
        if adopted:
            turn.machine.leave()
        await body.finish(session.services, end_rejoined, session, turn)
    elif adopted and was_live:
        # Do this first, because another scope may rejoin the turn while its callbacks end.
        turn.outlives_scope = outlived_scope
        await leave_running(session, body, turn)
    elif adopted and turn.callbacks:
        await body.finish(session.services, session.ender.wait_cancelled, turn, [turn.callbacks])
    if adopted and not turn.machine.is_live:
        session.threads.discard_children(turn)
    body.leave(turn.loss() if turn.lost else None, turn.result)
