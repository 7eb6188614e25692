"""A goal as a scope: a sequence of turns that the server runs."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from trio_codex._api.turn import TurnText
from trio_codex._session.goal import NEXT_TURN_SECONDS, GoalState
from trio_codex._session.scope_guard import ScopeGuard
from trio_codex._values.inputs import steer_params
from trio_codex.errors import TurnActive

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine

    from trio_codex._link.subscriptions import Subscription
    from trio_codex._session.goal import GoalResult
    from trio_codex._session.session import Session
    from trio_codex._session.state import ThreadState
    from trio_codex._values.event import Event
    from trio_codex._values.inputs import TurnInput
    from trio_codex._values.turn_result import TurnResult
    from trio_codex.policies import Policy


class GoalHandle:
    """The part of :class:`~trio_codex.Goal` that does not use the handle of its thread."""

    def __init__(self, session: Session, thread: object, state: GoalState) -> None:
        self._session = session
        self._opener = thread
        self._state = state

    def __repr__(self) -> str:
        return f"<Goal of thread {self._state.thread_id}, {self.status}, {len(self._state.turns)} turns>"

    @property
    def status(self) -> str | None:
        """The status as last reported by the server, such as ``"active"``; ``None`` if the goal was cleared."""
        return self._state.status

    @property
    def turn_id(self) -> str | None:
        """The id of the running turn; ``None`` between turns."""
        turn = self._state.open_turn
        return None if turn is None else turn.id

    @property
    def turns(self) -> tuple[TurnResult, ...]:
        """The results of the turns that have ended."""
        return self._state.result().turns

    @property
    def result(self) -> GoalResult:
        """The outcome of the goal.

        Raises:
            TurnActive: The goal has not ended.
        """
        if not self._state.over.is_set():
            raise TurnActive(self._state.thread_id, self.turn_id, "goal")
        return self._state.result()

    def __aiter__(self) -> Subscription[Event]:
        return self._state.events

    def __anext__(self) -> Coroutine[Any, Any, Event]:
        """Return the next event, with the checkpoints and exceptions of iterating over a :class:`Turn`."""
        return self._state.events.__anext__()

    def text(self) -> TurnText:
        """Iterate over the agent's text; see :meth:`Turn.text`."""
        return TurnText(self._state.events)

    async def steer(self, value: TurnInput) -> None:
        """Send more input to the running turn. Between turns, wait for the next one first.

        Raises:
            InvalidRequestError: The goal is over.
            CodexError: As for any request.
        """
        params = steer_params(self._state.thread_id, value, self._session.server.absolute)
        while True:
            await self._state.next_begun()
            turn = self._state.open_turn
            if turn is None:
                last = self._state.turns[-1].id if self._state.turns else None
                await self._session.server.request("turn/steer", params(last or ""))
                return
            if await self._session.ender.steer(turn, params):
                return

    async def interrupt(self) -> None:
        """Ask the server to pause the goal and interrupt the running turn. Return once it has accepted both.

        Acceptance does not mean that the goal is over; use :meth:`wait` for that.

        Raises:
            CodexError: As for any request.
        """
        state = self._state
        if not state.over.is_set() and state.active:
            await state.pause()
        with self._session.timeouts.move_on_after(NEXT_TURN_SECONDS):
            await state.next_begun()
        if state.open_turn is not None:
            await self._session.ender.interrupt(state.open_turn)
        else:
            state.conclude()

    async def wait(self) -> GoalResult:
        """Wait until the goal is over.

        A goal is over when it is complete, blocked, limited, paused or cleared, or when its turn failed or was
        interrupted. Buffered events are discarded.

        Raises:
            TurnLost: The connection ended, or a turn was abandoned.
        """
        self._state.events.release()
        await self._state.over.wait()
        if (loss := self._state.loss) is not None:
            raise loss
        return self._state.result()


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def open_goal(
    make: type[GoalHandle],
    session: Session,
    thread: object,
    state: ThreadState,
    objective: str,
    token_budget: int | None,
    policy: Policy | None,
) -> AsyncGenerator[Any]:
    """Set a goal, and end it on the server if its scope exits early. See :meth:`Thread.goal`."""
    session.connection.check_open()
    state.check_open(thread)
    state.check_free()
    body = ScopeGuard()
    session.meter.check_something_left()
    state.meters.check_something_left()
    goal = GoalState(session, state, thread, body, policy)
    # Reserve the thread before the first await: another task may be about to start a turn.
    state.sequence = goal
    state.listeners.append(goal)
    with body.watched():
        await goal.start(objective, token_budget)
        yield make(session, thread, goal)
    goal.events.release()
    try:
        # If the client has closed in the meantime, there is nothing to end, and its nursery is gone.
        if session.connection.close_reason is None or any(turn.callbacks for turn in goal.turns):
            await body.finish(session.services, goal.finish)
    finally:
        state.sequence = None
        state.listeners.remove(goal)
        for turn in goal.turns:
            session.threads.discard_children(turn)
        session.threads.discard_if_unused(state)
    body.leave(goal.loss, lambda: goal.turns[-1].result() if goal.turns else None)
