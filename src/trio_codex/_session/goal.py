"""A goal: a sequence of turns that the server starts, and how to end it.

While a goal is active, the server starts a turn as soon as the previous one completes. The reader feeds each like any
other turn. The turns share an event buffer, a policy and a scope.
"""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from trio_codex import wire
from trio_codex._core.json import object_of, parse_object, string_of
from trio_codex._core.log import logger
from trio_codex._link.dispatch import CallbackGroup
from trio_codex._session import retry
from trio_codex._session.budget import BudgetTracker, Meter
from trio_codex._session.owner import TurnOwner
from trio_codex._session.server import decode_result
from trio_codex._session.state import TurnSequence, TurnState
from trio_codex._session.turn_machine import TurnMachine
from trio_codex._values.sink import EventSink
from trio_codex._values.turn_result import TurnResult, TurnStatus
from trio_codex.errors import BudgetExceeded, CodexError, DecodeError, RpcError, TurnLost
from trio_codex.wire import _convert

if TYPE_CHECKING:
    from collections.abc import Callable

    import msgspec

    from trio_codex._link.call import Call
    from trio_codex._link.subscriptions import Subscription
    from trio_codex._session.scope_guard import ScopeGuard
    from trio_codex._session.session import Session
    from trio_codex._session.state import ThreadState
    from trio_codex._values.event import Event
    from trio_codex.policies import Policy

NEXT_TURN_SECONDS: Final = 1.0
"""How long to wait for another turn after pausing a goal between turns.

By then the server has started one if it was going to. Of 72 goals paused between turns, each got one more turn within
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
        status: The status of the goal; ``active`` if its last turn was interrupted and the goal has not been paused
            yet.
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


class GoalState(TurnSequence, EventSink):
    """The known state of a goal. The reader updates it and the goal's scope ends it."""

    def __init__(
        self,
        session: Session,
        thread: ThreadState,
        opener: object,
        body: ScopeGuard,
        policy: Policy | None,
    ) -> None:
        self.events: Subscription[Event] = session.subscription()
        self.turns: list[TurnState] = []
        self.over: trio.Event = trio.Event()
        """Set when the server will start no more turns on its own."""
        self.opener: object = opener
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
        session, thread = self._session, self._thread
        meter = Meter("turn")
        budget_tracker = None
        try:
            meters = (meter, *thread.meters, session.meter)
            budget_tracker = BudgetTracker(meters, session.timeouts, self._body.fail)
        except BudgetExceeded as exc:
            # The server has already started the turn. Ending the goal ends it.
            self._body.fail(exc)
        callbacks = CallbackGroup(self._body.fail, self._context)
        owner = TurnOwner(self.opener, _GoalTurnSink(self), callbacks, self._policy, meter, budget_tracker)
        turn = TurnState(thread, TurnMachine(turn_id), owner, session.instruments)
        self.turns.append(turn)
        begun, self._begun = self._begun, trio.Event()
        begun.set()
        return turn

    def put(self, event: Event) -> None:
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
        """Record that the goal was paused between turns and that no other turn started."""
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

        def loss() -> TurnLost:
            lost = TurnLost("the connection ended between two turns of the goal")
            lost.__cause__ = None if error is None else error()
            return lost

        self.lose(loss)

    # -- for its scope -----------------------------------------------------------------------------------------

    @property
    def _paused(self) -> dict[str, Any]:
        """The parameters of the request that pauses it."""
        return {"threadId": self._thread.id, "status": "paused"}

    @property
    def thread_id(self) -> str:
        return self._thread.id

    @property
    def active(self) -> bool:
        """Whether the server continues the goal on its own."""
        return self._goal.get("status") == wire.ThreadGoalStatus.active

    @property
    def status(self) -> str | None:
        return string_of(self._goal.get("status"))

    @property
    def loss(self) -> TurnLost | None:
        """A new exception if the end was not observed."""
        return None if self._loss is None else self._loss()

    @property
    def open_turn(self) -> TurnState | None:
        turn = self._thread.turn
        return turn if turn is not None and self.turns and turn is self.turns[-1] else None

    async def next_begun(self) -> None:
        """Wait until a turn is open, or until the server will start no more turns."""
        await trio.lowlevel.checkpoint()
        while self.open_turn is None and not self.over.is_set():
            await self._begun.wait()

    def result(self) -> GoalResult:
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
        await session.server.request("thread/goal/clear", {"threadId": self._thread.id})
        params = wire.ThreadGoalSetParams(
            thread_id=self._thread.id,
            objective=objective,
            origin=wire.ThreadGoalMutationOrigin.user,
            status=wire.ThreadGoalStatus.active,
            token_budget=token_budget,
        )
        self._start = await session.server.begin("thread/goal/set", params)
        retry.note_started()
        try:
            answer = await self._start.answer_within(session.config.request_timeout)
        except RpcError:
            retry.note_refused()
            raise
        self._take_answer(answer)

    def _take_answer(self, answer: msgspec.Raw) -> None:
        response: wire.ThreadGoalSetResponse = decode_result("thread/goal/set", answer)
        self._is_set = True
        self._goal = self._goal or _convert.encode(response.goal)

    async def pause(self) -> None:
        """Stop the server from starting more turns on its own, except one it has already decided on."""
        # This ends something, so it is sent even while the client is closing.
        await self._session.server.request("thread/goal/set", self._paused, request_class="control")

    @trio.lowlevel.enable_ki_protection
    async def finish(self) -> None:
        """End the goal on the server, and everything that its turns started."""
        await self._end_on_server()
        for turn in self.turns:
            # The callbacks were cancelled when their turn ended, but may still be running.
            if turn.callbacks and not turn.machine.was_left:
                await self._session.ender.end_turn(turn)

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
            # Between two turns, the server may already have decided to start the next one.
            look_out = self.active or self.open_turn is None
            if self.active:
                await self._try_to_pause()
        if scope.cancelled_caught:
            self._session.ender.give_up_server(
                f"the goal of thread {self._thread.id} could not be paused within interrupt_grace"
            )
            return
        # Each turn has its own timeout, after which it is abandoned.
        await self._end_turns(look_out=look_out)
        with self._session.timeouts.move_on_after(grace):
            await trio.lowlevel.checkpoint()
            seen: set[str] = set()
            for turn in self.turns:
                # A turn whose scope exited early has already ended its commands and agents.
                if not turn.machine.was_left:
                    await self._session.ender.end_offspring(turn, seen)

    async def _try_to_pause(self) -> None:
        await trio.lowlevel.checkpoint()
        try:
            await self._session.server.insist("thread/goal/set", self._paused)
        except CodexError as exc:
            logger.warning("the goal of thread %s could not be paused: %s", self._thread.id, exc)

    async def _was_set(self) -> bool:
        """Wait for the response that sets the goal if it is pending. Return whether there is a goal to end."""
        await trio.lowlevel.checkpoint()
        if self._is_set:
            return True
        call = self._start
        if call is None or call.take_back():
            return False
        try:
            self._take_answer(await call.answer())
        except CodexError:
            # The request was rejected, or its response is unreadable. In the latter case, an event has reported the goal.
            return bool(self._goal)
        return True

    async def _end_turns(self, *, look_out: bool) -> None:
        """End the open turn, and the one that may still start although the goal is paused."""
        await trio.lowlevel.checkpoint()
        while self._session.connection.close_reason is None:
            if (turn := self.open_turn) is not None:
                turn.machine.leave()
                await self._session.ender.end_turn(turn)
                if turn.lost:
                    return
            elif look_out and (not self.turns or self.turns[-1].result().status == TurnStatus.completed):
                look_out = False
                with self._session.timeouts.move_on_after(NEXT_TURN_SECONDS):
                    await self._begun.wait()
            else:
                return


class _GoalTurnSink(EventSink):
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
