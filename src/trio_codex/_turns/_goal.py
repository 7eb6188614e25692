"""A goal as a scope: owns the turns that the server starts for it one after another, and their end.

While a goal is active, the server starts a turn as soon as one has completed. Each is fed by the reader like any other
turn; what they share is a buffer of events, a policy, and this scope.
"""

from __future__ import annotations

import contextvars
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from trio_codex import wire
from trio_codex._client import _retry
from trio_codex._client._session import decode_result
from trio_codex._core._json import object_of, parse_object, string_of
from trio_codex._core._log import logger
from trio_codex._runtime._dispatch import CallbackGroup
from trio_codex._turns._budget import Spending
from trio_codex._turns._ending import end_offspring, end_turn, give_up_server, interrupt, steer, steering
from trio_codex._turns._turn import Body, TurnText
from trio_codex._turns._turn_result import TurnResult, TurnStatus
from trio_codex._turns._turn_state import TurnState
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

    from trio_codex._client._session import Session
    from trio_codex._client._thread import Thread
    from trio_codex._runtime._call import Call
    from trio_codex._runtime._subscriptions import Subscription
    from trio_codex._turns._event import Event
    from trio_codex._turns._inputs import TurnInput
    from trio_codex._turns._turn_state import ThreadState
    from trio_codex.policies import Policy

NEXT_TURN_SECONDS: Final = 1.0
"""How long to look out for the next turn of a goal that was paused between two. The server has made up its mind by then:
of 72 goals that were paused there, each got one more turn, at most 22 ms later; on a busy machine one got none (Q52)."""


@attrs.frozen(kw_only=True)
class GoalResult:
    """What became of a goal.

    Attributes:
        thread_id: Its thread.
        goal: The goal as the server last told it, with its status, and the tokens and the time it took; ``None`` if it was
            cleared.
        turns: The results of its turns, in their order.
        status: The status of the goal; ``active`` if its last turn was interrupted, and it was not paused yet.
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
    """What is known of a goal: fed by the reader, and ended by its scope.

    Attributes:
        events: The events of its turns.
        turns: Its turns so far.
        over: Set when the server starts no further turn by itself.
    """

    def __init__(
        self,
        session: Session,
        thread: ThreadState,
        body: Body,
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
        """See :class:`~trio_codex._turns._turn_state.Series`."""
        router, thread = self._session.router, self._thread
        turn = TurnState(
            thread,
            turn_id,
            events=_Leg(self),
            callbacks=CallbackGroup(self._body.fail, self._context),
            policy=self._policy,
            instruments=router.instruments,
        )
        try:
            meters = (turn.meter, thread.meter, router.meter)
            turn.spending = Spending(meters, self._body.scope, self._body.fail)
        except BudgetExceeded as exc:
            # It runs all the same: ending the goal ends it.
            self._body.fail(exc)
        self.turns.append(turn)
        begun, self._begun = self._begun, trio.Event()
        begun.set()
        return turn

    def put(self, event: Event) -> None:
        """Take any event of the thread."""
        if event.method == "thread/goal/updated":
            self._goal = object_of(parse_object(event.json).get("goal"))
        elif event.method == "thread/goal/cleared":
            self._goal = {}

    def end_turn(self, event: Event) -> None:
        """Take the event that ends one of its turns."""
        turn = object_of(parse_object(event.json).get("turn"))
        if turn.get("status") == TurnStatus.completed and self.active:
            self.events.put(event)
        else:
            self.events.put_last(event)
            self.over.set()

    def conclude(self) -> None:
        """Note that it was paused between two turns, and that the second has not come."""
        if self.open_turn is None and not self.active and not self.over.is_set():
            self.events.end()
            self._begun.set()
            self.over.set()

    def lose(self, loss: Callable[[], TurnLost]) -> None:
        """Note that its end will not be seen."""
        if self._loss is None and not self.over.is_set():
            self._loss = loss
            self.events.end(loss)
            self._begun.set()
            self.over.set()

    def end(self, error: Callable[[], Exception] | None = None) -> None:
        """Take note that the connection has ended."""

        def loss() -> TurnLost:
            lost = TurnLost("the connection ended between two turns of the goal")
            lost.__cause__ = None if error is None else error()
            return lost

        self.lose(loss)

    # -- for its scope -----------------------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether the server goes on with it by itself."""
        return self._goal.get("status") == wire.ThreadGoalStatus.active

    @property
    def status(self) -> str | None:
        """Its status as last told."""
        return string_of(self._goal.get("status"))

    @property
    def loss(self) -> TurnLost | None:
        """A fresh exception, if its end was not seen."""
        return None if self._loss is None else self._loss()

    @property
    def open_turn(self) -> TurnState | None:
        """Its turn that is open."""
        turn = self._thread.turn
        return turn if turn is not None and self.turns and turn is self.turns[-1] else None

    async def next_begun(self) -> None:
        """Wait until a turn is open, or none will be."""
        await trio.lowlevel.checkpoint()
        while self.open_turn is None and not self.over.is_set():
            await self._begun.wait()

    def result(self) -> GoalResult:
        """Give the result so far."""
        try:
            goal = _convert.decode(wire.ThreadGoal, self._goal) if self._goal else None
        except DecodeError:
            goal = None
        turns = tuple(turn.result() for turn in self.turns if turn.ended.is_set())
        return GoalResult(thread_id=self._thread.id, goal=goal, turns=turns)

    async def start(self, objective: str, token_budget: int | None) -> None:
        """Set the goal, in place of any that the thread has."""
        session = self._session
        # Otherwise it would go on with the status of the old one: set anew, a blocked goal stays blocked.
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
        """Let the server start no further turn by itself, but for one that it has in mind already."""
        params = {"threadId": self._thread.id, "status": "paused"}
        # It ends something, so it gets through when the client is closing.
        await self._session.request("thread/goal/set", params, lane="control")

    @trio.lowlevel.enable_ki_protection
    async def finish(self) -> None:
        """End it on the server, with what its turns have started; see :class:`~trio_codex._turns._turn_state.Series`."""
        await self._end_on_server()
        for turn in self.turns:
            # Cancelled when their turn ended by itself, but perhaps not through yet.
            if turn.callbacks and not turn.left_early:
                await end_turn(self._session, turn)

    async def _end_on_server(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._session.connection.death is not None:
            return
        was_interrupted = bool(self.turns) and self.turns[-1].was_interrupted
        if self.over.is_set() and not self.active and self.open_turn is None and not was_interrupted:
            return
        grace = self._session.config.interrupt_grace
        look_out = False
        with self._session.timeouts.move_on_after(grace) as scope:
            if not await self._was_set():
                return
            # Between two turns the server has made up its mind, whatever has become of the goal since.
            look_out = self.active or self.open_turn is None
            if self.active:
                await self._try_to_pause()
        if scope.cancelled_caught:
            give_up_server(self._session, f"the goal of thread {self._thread.id} was not paused in time")
            return
        # Each turn is bounded by itself: past its time it is given up, not just left.
        await self._end_turns(look_out=look_out)
        with self._session.timeouts.move_on_after(grace):
            await trio.lowlevel.checkpoint()
            seen: set[str] = set()
            for turn in self.turns:
                # Leaving it has ended what it started.
                if not turn.left_early:
                    await end_offspring(self._session, turn, seen)

    async def _try_to_pause(self) -> None:
        await trio.lowlevel.checkpoint()
        try:
            await self.pause()
        except CodexError as exc:
            logger.warning("the goal of thread %s was not paused: %s", self._thread.id, exc)

    async def _was_set(self) -> bool:
        """Wait for the answer to its start if that is still out; say whether there is a goal to end."""
        await trio.lowlevel.checkpoint()
        if self._is_set:
            return True
        call = self._start
        if call is None or call.take_back():
            return False
        try:
            await self._take_answer(call)
        except CodexError:
            # Refused; or it cannot be read, and then an event has told of the goal.
            return bool(self._goal)
        return True

    async def _end_turns(self, *, look_out: bool) -> None:
        """End its open turn, and the one that may come although it is paused."""
        await trio.lowlevel.checkpoint()
        while self._session.connection.death is None:
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


class _Leg:
    """Takes the events of one turn of a goal."""

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
        """The buffer is shared, and not the turn's to release."""


class Goal:
    """A goal of a thread, inside ``async with thread.goal(…)``: several turns of the server as one.

    Iterating over it, or over :meth:`text`, gives the events of all its turns as they come, and ends with the last one.
    Both take from one buffer, so only one task at a time may do so. Breaking off the iteration does not end the goal;
    leaving its scope does.
    """

    def __init__(self, session: Session, thread: Thread, state: GoalState) -> None:
        self._session = session
        self._thread = thread
        self._state = state

    def __repr__(self) -> str:
        return f"<Goal of thread {self._thread.id}, {self.status}, {len(self._state.turns)} turns>"

    @property
    def thread(self) -> Thread:
        """Its thread."""
        return self._thread

    @property
    def status(self) -> str | None:
        """Its status as the server last told it, such as ``"active"``; ``None`` if it was cleared."""
        return self._state.status

    @property
    def turn_id(self) -> str | None:
        """The id of the turn that runs; ``None`` between two."""
        turn = self._state.open_turn
        return None if turn is None else turn.id

    @property
    def turns(self) -> tuple[TurnResult, ...]:
        """The results of the turns that have ended."""
        return self._state.result().turns

    @property
    def result(self) -> GoalResult:
        """What became of it.

        Raises:
            TurnActive: It goes on.
        """
        if not self._state.over.is_set():
            raise TurnActive(self._thread.id, self.turn_id, "goal")
        return self._state.result()

    def __aiter__(self) -> Subscription[Event]:
        return self._state.events

    def __anext__(self) -> Coroutine[Any, Any, Event]:
        """Give the next event. Checkpoints and raises as iterating over a :class:`Turn`."""
        return self._state.events.__anext__()

    def text(self) -> TurnText:
        """Iterate over the agent's text; see :meth:`Turn.text`."""
        return TurnText(self._state.events)

    async def steer(self, value: TurnInput) -> None:
        """Give the running turn more input, or the next one, if that has to begin first.

        Raises:
            InvalidRequestError: The goal is over.
            CodexError: As every request.
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
        """Ask the server to pause the goal, and to interrupt the turn that runs; returns when it accepted both.

        That it accepted proves nothing: :meth:`wait` tells when the goal is over.

        Raises:
            CodexError: As every request.
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
        """Wait until the goal is over: complete, blocked, limited, paused or cleared, or its turn failed or interrupted.

        What is buffered of its events is dropped.

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
    """Set a goal, and end it on the server if it is left early. See :meth:`Thread.goal`."""
    session.connection.check_open()
    state.check_open(thread)
    state.check_free()
    body = Body()
    session.router.meter.check_something_left()
    state.meter.check_something_left()
    goal = GoalState(session, state, body, policy)
    goal.opener = thread
    # Claimed before the first await: another task may be about to start a turn.
    state.series = goal
    state.listeners.append(goal)
    with body.watched():
        await goal.start(objective, token_budget)
        yield Goal(session, thread, goal)
    goal.events.release()
    try:
        # The client may be gone by now, and then there is nothing to end, and nothing to end it in.
        if session.connection.death is None or any(turn.callbacks for turn in goal.turns):
            await body.finish(session, goal.finish)
    finally:
        state.series = None
        state.listeners.remove(goal)
        for turn in goal.turns:
            session.router.let_go_of_children(turn)
        session.router.let_go(state)
    body.leave(goal.loss, lambda: goal.turns[-1].result() if goal.turns else None)
