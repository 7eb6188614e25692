"""A goal as a scope: the sequence of turns that the server starts for it, and their end.

While a goal is active, the server starts a turn as soon as the previous one completes. The reader feeds each like any
other turn. The turns share an event buffer, a policy and this scope.
"""

from __future__ import annotations

import contextvars
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from trio_codex import wire
from trio_codex._api.turn import ScopeGuard, TurnText
from trio_codex._core.json import object_of, parse_object, string_of
from trio_codex._core.log import logger
from trio_codex._link.dispatch import CallbackGroup
from trio_codex._session import retry as _retry
from trio_codex._session.budget import BudgetTracker
from trio_codex._session.ending import end_offspring, end_turn, give_up_server, interrupt, steer, steering
from trio_codex._session.session import decode_result
from trio_codex._session.turn_state import TurnState
from trio_codex._values.turn_result import TurnResult, TurnStatus
from trio_codex.errors import (
    BudgetExceeded,
    CodexError,
    DecodeError,
    RpcError,
    TurnActive,
    TurnLost,
)
from trio_codex.wire import _convert

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from trio_codex._api.thread import Thread
    from trio_codex._link.call import Call
    from trio_codex._link.subscriptions import Subscription
    from trio_codex._session.session import Session
    from trio_codex._session.turn_state import ThreadState
    from trio_codex._values.event import Event
    from trio_codex._values.inputs import TurnInput
    from trio_codex.policies import Policy

NEXT_TURN_SECONDS: Final = 1.0
"""How long to wait for another turn after pausing a goal between two turns.

By then the server has decided whether to start one: of 72 goals paused at that point, each got one more turn within
22 ms; on a busy machine, one got none (Q52).
"""


@attrs.frozen(kw_only=True)
class GoalResult:
    """The outcome of a goal.

    Attributes:
        thread_id: The id of its thread.
        goal: The goal as last reported by the server, with its status and the tokens and time used; ``None`` if it
            was cleared.
        turns: The results of its turns, in order.
        status: The status of the goal; ``active`` if its last turn was interrupted and the goal was not paused yet.
        final_response: The final response of the last turn.
    """

    thread_id: str
    goal: wire.ThreadGoal | None
    turns: tuple[TurnResult, ...] = attrs.field(repr=lambda turns: f"<{len(turns)} turns>")

    @property
    def status(self) -> wire.ThreadGoalStatus | str | None:
        """The status of the goal."""
        return None if self.goal is None else self.goal.status

    @property
    def final_response(self) -> str | None:
        """The final response of the last turn."""
        return self.turns[-1].final_response if self.turns else None


class GoalState:
    """The known state of a goal. The reader updates it and the goal's scope ends it.

    Attributes:
        events: The events of its turns.
        turns: Its turns so far.
        over: Set when the server will start no further turn by itself.
    """

    def __init__(
        self,
        session: Session,
        thread: ThreadState,
        body: ScopeGuard,
        policy: Policy | None,
    ) -> None:
        self.events: Subscription[Event] = session.router.subscription()
        self.turns: list[TurnState] = []
        self.over: trio.Event = trio.Event()
        self.opener: object = None
        self._session = session
        self._thread = thread
        self._body = body
        self._policy = policy
        self._context = contextvars.copy_context()
        self._goal: dict[str, Any] = {}
        self._start: Call | None = None
        self._is_set = False
        self._begun = trio.Event()
        self._loss: Callable[[], TurnLost] | None = None

    # -- for the reader ----------------------------------------------------------------------------------------

    def next_turn(self, turn_id: str) -> TurnState:
        """See :class:`~trio_codex._session.turn_state.TurnSequence`."""
        router, thread = self._session.router, self._thread
        turn = TurnState(
            thread,
            turn_id,
            events=_GoalTurnSink(self),
            callbacks=CallbackGroup(self._body.fail, self._context),
            policy=self._policy,
            instruments=router.instruments,
        )
        try:
            meters = (turn.meter, thread.meter, router.meter)
            turn.budget_tracker = BudgetTracker(meters, self._body.scope, self._body.fail)
        except BudgetExceeded as exc:
            # It runs regardless; ending the goal ends it.
            self._body.fail(exc)
        self.turns.append(turn)
        begun, self._begun = self._begun, trio.Event()
        begun.set()
        return turn

    def put(self, event: Event) -> None:
        """Handle an event of the thread."""
        if event.method == "thread/goal/updated":
            self._goal = object_of(parse_object(event.json).get("goal"))
        elif event.method == "thread/goal/cleared":
            self._goal = {}

    def end_turn(self, event: Event) -> None:
        """Handle the event that ends one of its turns."""
        turn = object_of(parse_object(event.json).get("turn"))
        if turn.get("status") == TurnStatus.completed and self.active:
            self.events.put(event)
        else:
            self.events.put_last(event)
            self.over.set()

    def conclude(self) -> None:
        """Record that the goal was paused between two turns and that no further turn started."""
        if self.open_turn is None and not self.active and not self.over.is_set():
            self.events.end()
            self._begun.set()
            self.over.set()

    def lose(self, loss: Callable[[], TurnLost]) -> None:
        """Record that the end of the goal will not be observed."""
        if self._loss is None and not self.over.is_set():
            self._loss = loss
            self.events.end(loss)
            self._begun.set()
            self.over.set()

    def end(self, error: Callable[[], Exception] | None = None) -> None:
        """Record that the connection has ended."""

        def loss() -> TurnLost:
            lost = TurnLost("the connection ended between two turns of the goal")
            lost.__cause__ = None if error is None else error()
            return lost

        self.lose(loss)

    # -- for its scope -----------------------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether the server continues the goal by itself."""
        return self._goal.get("status") == wire.ThreadGoalStatus.active

    @property
    def status(self) -> str | None:
        """The status as last reported."""
        return string_of(self._goal.get("status"))

    @property
    def loss(self) -> TurnLost | None:
        """A new exception if the end was not observed."""
        return None if self._loss is None else self._loss()

    @property
    def open_turn(self) -> TurnState | None:
        """The open turn of the goal."""
        turn = self._thread.turn
        return turn if turn is not None and self.turns and turn is self.turns[-1] else None

    async def next_begun(self) -> None:
        """Wait until a turn is open or none will be."""
        await trio.lowlevel.checkpoint()
        while self.open_turn is None and not self.over.is_set():
            await self._begun.wait()

    def result(self) -> GoalResult:
        """Return the result so far."""
        try:
            goal = _convert.decode(wire.ThreadGoal, self._goal) if self._goal else None
        except DecodeError:
            goal = None
        turns = tuple(turn.result() for turn in self.turns if turn.ended.is_set())
        return GoalResult(thread_id=self._thread.id, goal=goal, turns=turns)

    async def start(self, objective: str, token_budget: int | None) -> None:
        """Set the goal, replacing any goal the thread has."""
        session = self._session
        # Clear the old goal first. A goal set over a blocked one would keep the status ``blocked``.
        await session.request("thread/goal/clear", {"threadId": self._thread.id})
        params = wire.ThreadGoalSetParams(
            thread_id=self._thread.id,
            objective=objective,
            origin=wire.ThreadGoalMutationOrigin.user,
            status=wire.ThreadGoalStatus.active,
            token_budget=token_budget,
        )
        self._start = await session.begin("thread/goal/set", params)
        _retry.note_started()
        timeout = session.config.request_timeout
        with session.timeouts.move_on_after(timeout):
            try:
                await self._take_answer(self._start)
            except RpcError:
                _retry.note_refused()
                raise
            return
        raise session.connection.calls.overdue(self._start, timeout)

    async def _take_answer(self, call: Call) -> None:
        response: wire.ThreadGoalSetResponse = decode_result("thread/goal/set", await call.answer())
        self._is_set = True
        self._goal = self._goal or _convert.encode(response.goal)

    async def pause(self) -> None:
        """Stop the server from starting further turns by itself, except one it has already decided on."""
        params = {"threadId": self._thread.id, "status": "paused"}
        # This ends something, so it is sent even while the client is closing.
        await self._session.request("thread/goal/set", params, request_class="control")

    @trio.lowlevel.enable_ki_protection
    async def finish(self) -> None:
        """End it on the server, with what its turns started. See :class:`~trio_codex._session.turn_state.TurnSequence`."""
        await self._end_on_server()
        for turn in self.turns:
            # They were cancelled when their turn ended by itself, but may not have finished.
            if turn.callbacks and not turn.left_early:
                await end_turn(self._session, turn)

    async def _end_on_server(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._session.connection.close_reason is not None:
            return
        was_interrupted = bool(self.turns) and self.turns[-1].was_interrupted
        if self.over.is_set() and not self.active and self.open_turn is None and not was_interrupted:
            return
        grace = self._session.config.interrupt_grace
        look_out = False
        with self._session.timeouts.move_on_after(grace) as scope:
            if not await self._was_set():
                return
            # Between two turns the server has already decided, whatever happened to the goal since.
            look_out = self.active or self.open_turn is None
            if self.active:
                await self._try_to_pause()
        if scope.cancelled_caught:
            give_up_server(self._session, f"the goal of thread {self._thread.id} was not paused in time")
            return
        # Each turn has its own timeout, after which it is given up, not merely left.
        await self._end_turns(look_out=look_out)
        with self._session.timeouts.move_on_after(grace):
            await trio.lowlevel.checkpoint()
            seen: set[str] = set()
            for turn in self.turns:
                # Leaving the turn has ended what it started.
                if not turn.left_early:
                    await end_offspring(self._session, turn, seen)

    async def _try_to_pause(self) -> None:
        await trio.lowlevel.checkpoint()
        try:
            await self.pause()
        except CodexError as exc:
            logger.warning("the goal of thread %s was not paused: %s", self._thread.id, exc)

    async def _was_set(self) -> bool:
        """Wait for the response that sets the goal if it is pending. Return whether there is a goal to end."""
        await trio.lowlevel.checkpoint()
        if self._is_set:
            return True
        call = self._start
        if call is None or call.take_back():
            return False
        try:
            await self._take_answer(call)
        except CodexError:
            # Rejected; or unreadable, and then an event has reported the goal.
            return bool(self._goal)
        return True

    async def _end_turns(self, *, look_out: bool) -> None:
        """End the open turn, and the one that may still start although the goal is paused."""
        await trio.lowlevel.checkpoint()
        while self._session.connection.close_reason is None:
            if (turn := self.open_turn) is not None:
                turn.left_early = True
                await end_turn(self._session, turn)
                if turn.lost:
                    return
            elif look_out and (not self.turns or self.turns[-1].result().status == TurnStatus.completed):
                look_out = False
                with self._session.timeouts.move_on_after(NEXT_TURN_SECONDS):
                    await self._begun.wait()
            else:
                return


class _GoalTurnSink:
    """Receives the events of one turn of a goal."""

    def __init__(self, goal: GoalState) -> None:
        self._goal = goal

    def put(self, event: Event) -> None:
        self._goal.events.put(event)

    def put_last(self, event: Event) -> None:
        self._goal.end_turn(event)

    def end(self, error: Callable[[], Exception] | None = None) -> None:
        turn = self._goal.turns[-1]
        self._goal.lose(turn.loss)

    def release(self) -> None:
        """Do nothing: the buffer is shared, so the turn must not release it."""


class Goal:
    """A goal of a thread, inside ``async with thread.goal(…)``: one scope for several turns run by the server.

    Iterate over it for the events of all its turns, or over :meth:`text` for their text. Both end with the last turn
    and consume the same buffer, so only one task at a time may iterate. Breaking out of the iteration does not end
    the goal; leaving its scope does.
    """

    def __init__(self, session: Session, thread: Thread, state: GoalState) -> None:
        self._session = session
        self._thread = thread
        self._state = state

    def __repr__(self) -> str:
        return f"<Goal of thread {self._thread.id}, {self.status}, {len(self._state.turns)} turns>"

    @property
    def thread(self) -> Thread:
        """The thread of the goal."""
        return self._thread

    @property
    def status(self) -> str | None:
        """The status as last reported by the server, such as ``"active"``; ``None`` if the goal was cleared."""
        return self._state.status

    @property
    def turn_id(self) -> str | None:
        """The id of the running turn; ``None`` between two turns."""
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
            raise TurnActive(self._thread.id, self.turn_id, "goal")
        return self._state.result()

    def __aiter__(self) -> Subscription[Event]:
        return self._state.events

    def __anext__(self) -> Coroutine[Any, Any, Event]:
        """Return the next event. Checkpoints and exceptions are those of iterating over a :class:`Turn`."""
        return self._state.events.__anext__()

    def text(self) -> TurnText:
        """Iterate over the agent's text; see :meth:`Turn.text`."""
        return TurnText(self._state.events)

    async def steer(self, value: TurnInput) -> None:
        """Send more input to the running turn. Between two turns, wait for the next one and send it there.

        Raises:
            InvalidRequestError: The goal is over.
            CodexError: As for any request.
        """
        params = steering(self._session, self._thread.id, value)
        while True:
            await self._state.next_begun()
            turn = self._state.open_turn
            if turn is None:
                last = self._state.turns[-1].id if self._state.turns else None
                await self._session.request("turn/steer", params(last or ""))
                return
            if await steer(self._session, turn, params):
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
            await interrupt(self._session, state.open_turn)
        else:
            state.conclude()

    async def wait(self) -> GoalResult:
        """Wait until the goal is over.

        That is when it is complete, blocked, limited, paused or cleared, or when its turn failed or was interrupted.
        Buffered events are discarded.

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
    session: Session,
    thread: Thread,
    state: ThreadState,
    objective: str,
    token_budget: int | None,
    policy: Policy | None,
) -> AsyncGenerator[Goal]:
    """Set a goal, and end it on the server if its scope exits early. See :meth:`Thread.goal`."""
    session.connection.check_open()
    state.check_open(thread)
    state.check_free()
    body = ScopeGuard()
    session.router.meter.check_something_left()
    state.meter.check_something_left()
    goal = GoalState(session, state, body, policy)
    goal.opener = thread
    # Reserve the thread before the first await: another task may be about to start a turn.
    state.sequence = goal
    state.listeners.append(goal)
    with body.watched():
        await goal.start(objective, token_budget)
        yield Goal(session, thread, goal)
    goal.events.release()
    try:
        # The client may have closed meanwhile. Then there is nothing to end and no nursery to end it in.
        if session.connection.close_reason is None or any(turn.callbacks for turn in goal.turns):
            await body.finish(session, goal.finish)
    finally:
        state.sequence = None
        state.listeners.remove(goal)
        for turn in goal.turns:
            session.router.discard_children(turn)
        session.router.discard_if_unused(state)
    body.leave(goal.loss, lambda: goal.turns[-1].result() if goal.turns else None)
