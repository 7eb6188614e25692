"""A turn as a scope, and the operations available in its body."""

from __future__ import annotations

import contextvars
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, Self

import trio

from trio_codex._core.json import object_of, string_of
from trio_codex._link.dispatch import CallbackGroup
from trio_codex._session import retry as _retry
from trio_codex._session.budget import BudgetTracker, Meter
from trio_codex._session.owner import TurnOwner
from trio_codex._session.scope_guard import ScopeGuard
from trio_codex._session.state import TurnState
from trio_codex._session.turn_machine import TurnMachine
from trio_codex._session.waiting import last_event_at, waiting_on, watch_idle
from trio_codex._values.inputs import steer_params
from trio_codex._values.turn_result import OutputT_co
from trio_codex.errors import DecodeError, RpcError, TurnActive

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Coroutine

    from trio_codex import wire
    from trio_codex._link.subscriptions import Subscription
    from trio_codex._session.budget import Budget
    from trio_codex._session.session import Session
    from trio_codex._session.state import ThreadState
    from trio_codex._session.waiting import WaitingOn
    from trio_codex._tools.output import OutputType
    from trio_codex._values.event import Event
    from trio_codex._values.inputs import TurnInput
    from trio_codex._values.turn_result import TurnResult
    from trio_codex._values.usage import TokenUsage
    from trio_codex.policies import Policy


class TurnHandle(Generic[OutputT_co]):
    """The part of :class:`~trio_codex.Turn` that does not use the handle of its thread."""

    def __init__(
        self,
        session: Session,
        thread: object,
        state: TurnState,
        events: Subscription[Event],
        output: OutputType[Any] | None = None,
    ) -> None:
        self._session = session
        self._opener = thread
        self._state = state
        self._events = events
        self._output = output
        self._result: TurnResult[Any] | None = None

    def __repr__(self) -> str:
        return f"<Turn {self.id}, {self._state.result().status if self._state.ended.is_set() else 'open'}>"

    @property
    def id(self) -> str:
        """The turn's id on the server."""
        return self._state.id or ""

    @property
    def result(self) -> TurnResult[OutputT_co]:
        """The result of the turn.

        Raises:
            TurnActive: The turn has not ended.
        """
        if not self._state.ended.is_set():
            raise TurnActive(self._state.thread.id, self._state.id, "turn")
        if self._result is None:
            result = self._state.result()
            self._result = result if self._output is None else self._output.settle(result)
        return self._result

    @property
    def children(self) -> tuple[str, ...]:
        """Thread ids of the agents spawned in this turn. If the turn is interrupted, its scope ends them."""
        return tuple(self._state.reducer.children)

    @asynccontextmanager
    async def agent_events(self) -> AsyncGenerator[Subscription[Event]]:
        """Subscribe to all events of the agents spawned in this turn, directly or indirectly.

        ``event.thread_id`` identifies the agent. The iteration ends with the turn; an agent that outlives it can be
        resumed as a thread by its id. Any number of subscribers may be active at once.

        Raises:
            TurnLost: While iterating: the connection ended, or the turn was abandoned.
            SubscriptionOverflow: While iterating: this consumer fell behind by more than ``event_buffer`` allows.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        events = self._session.subscription()
        if self._state.ended.is_set():
            events.end(self._state.loss if self._state.lost else None)
        self._state.agent_listeners += (events,)
        try:
            yield events
        finally:
            events.release()
            others = (each for each in self._state.agent_listeners if each is not events)
            self._state.agent_listeners = tuple(others)

    @property
    def usage(self) -> TokenUsage | None:
        """Tokens used so far, including those of agents it spawned; ``None`` if none were reported."""
        return self._state.meter.usage

    @property
    def last_event_at(self) -> float:
        """When the last event of the turn or its agents arrived, on Trio's clock. The start counts as an event."""
        return last_event_at(self._session.threads, self._state)

    @property
    def waiting_on(self) -> WaitingOn | None:
        """What the turn is waiting for; ``None`` once it has ended. See :attr:`last_event_at` for how long."""
        return waiting_on(self._session.threads, self._state)

    def __aiter__(self) -> Subscription[Event]:
        # Return the buffer rather than self, which saves a call per event.
        return self._events

    def __anext__(self) -> Coroutine[Any, Any, Event]:
        """Return the next event.

        A cancellation point, and a schedule point at least every 64 events or 1 ms.

        Raises:
            TurnLost: The connection ended, or the turn was abandoned.
            SubscriptionOverflow: This consumer fell behind by more than ``event_buffer`` allows. The turn continues.
            trio.BusyResourceError: Another task is iterating.
        """
        return self._events.__anext__()

    def text(self) -> TurnText:
        """Iterate over the agent's text: message deltas, or the whole message if it arrived without deltas.

        Raises the same exceptions as iterating over the turn.
        """
        return TurnText(self._events)

    async def steer(self, value: TurnInput) -> None:
        """Send more input to the running turn. By default the server discards the message in progress and starts over.

        Returns once the server has accepted the input. If this raises, the agent did not receive it, unless the
        connection ended or the request timed out.

        Raises:
            InvalidRequestError: The turn has ended, possibly while the request was in flight, or cannot be steered.
            TypeError: ``value`` is not an input, or is an :class:`ExternalMessage`, which can only start a turn;
                nothing was sent.
            CodexError: As for any request.
        """
        params = steer_params(self._state.thread.id, value, self._session.server.absolute)
        if not await self._session.ender.steer(self._state, params):
            # The turn has ended. Send the request anyway, so that the server's error is raised.
            await self._session.server.request("turn/steer", params(self.id))

    async def interrupt(self) -> None:
        """Ask the server to interrupt the turn. Return once it has accepted, or once the turn has ended anyway.

        Acceptance does not mean that the turn has ended; use :meth:`wait` for that, and for the result. Leaving the
        scope of the turn ends the agents and commands it started.

        Raises:
            CodexError: As for any request.
        """
        await self._session.ender.interrupt(self._state)

    async def wait(self) -> TurnResult[OutputT_co]:
        """Wait for the turn to end. Buffered events are discarded.

        Returns:
            The result. A failed turn does not raise here.

        Raises:
            TurnLost: The connection ended, or the turn was abandoned.
        """
        self._events.release()
        await self.wait_ended()
        return self.result

    async def wait_stored(self) -> bool:
        """Wait until the server has stored the input, so that the history contains it even if the server is killed.

        The first completed item of the turn, or its first report of usage, proves that.

        Returns:
            ``False`` if the turn ended or was lost without such a proof.
        """
        await self._state.stored.wait()
        return self._state.is_stored

    async def wait_ended(self) -> None:
        """Wait for the turn to end, as :meth:`wait` does, but keep its buffered events.

        Raises:
            TurnLost: The connection ended, or the turn was abandoned.
        """
        await self._state.ended.wait()
        if self._state.lost:
            raise self._state.loss()


class TurnText:
    """The agent's text in a turn, piece by piece. Created by :meth:`Turn.text`."""

    def __init__(self, events: AsyncIterator[Event]) -> None:
        self._events = events
        self._streamed: set[str] = set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        """Return the next piece, with the checkpoints and exceptions of iterating over the turn."""
        while True:
            event = await self._events.__anext__()
            if event.method == "item/agentMessage/delta":
                params = object_of(event.raw)
                delta = string_of(params.get("delta"))
                if delta is not None:
                    self._streamed.add(str(params.get("itemId")))
                    return delta
            elif event.method == "item/completed":
                item = object_of(object_of(event.raw).get("item"))
                text = string_of(item.get("text"))
                if text and item.get("type") == "agentMessage" and str(item.get("id")) not in self._streamed:
                    return text


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def open_turn(
    make: type[TurnHandle[Any]],
    session: Session,
    thread: object,
    state: ThreadState,
    method: str,
    params: wire.Wire,
    policy: Policy | None = None,
    *,
    idle_limit: float | None = None,
    budget: Budget | None = None,
    output: OutputType[Any] | None = None,
    named_by_announcement: bool = False,
    outlives_scope: bool = False,
) -> AsyncGenerator[Any]:
    """Start a turn, and end it on the server if its scope exits early. See :meth:`Thread.turn`.

    Args:
        make: The class of the handle.
        session: The client.
        thread: The handle of the thread.
        state: The state of the thread.
        method: The method of the request that starts the turn.
        params: The parameters of that request.
        policy: Handles requests from the turn.
        idle_limit: How long the turn may be silent without a known reason, in seconds.
        budget: The budget of the turn.
        output: The type of the final response.
        named_by_announcement: Whether only the announcement contains the turn id, and not the response.
        outlives_scope: Whether the turn continues when its scope exits early. Even then, it ends if its start is
            cancelled or a limit is exceeded.
    """
    session.connection.check_open()
    # Check again: the scope may be entered long after it was created.
    state.check_open(thread)
    state.check_free()
    body = ScopeGuard()
    # Check the budgets before the turn is reported to instruments, because it may not be allowed to start.
    meter = Meter("turn", budget)
    budget_tracker = BudgetTracker((meter, *state.meters, session.meter), session.timeouts, body.fail)
    events = session.subscription()
    callbacks = CallbackGroup(body.fail, contextvars.copy_context())
    turn = TurnState(
        state,
        TurnMachine(named_by_announcement=named_by_announcement),
        TurnOwner(thread, events, callbacks, policy, meter, budget_tracker),
        session.instruments,
    )
    # Reserve the thread before the first await, because another task may be about to start a turn, too.
    state.turn = turn
    watch: trio.CancelScope | None = None
    with body.watched():
        await _start(session, turn, method, params)
        # Release the parameters, which may contain images, because a turn may take days.
        del params
        if idle_limit is not None:
            watch = session.services.start_service(
                watch_idle, session.threads, session.timeouts, turn, idle_limit, body.fail
            )
        turn.outlives_scope = outlives_scope
        yield make(session, thread, turn, events, output)
    if watch is not None:
        watch.cancel()
    if turn.start is not None and turn.start.take_back():
        turn.never_started()
    events.release()
    turn.outlives_scope = turn.outlives_scope and turn.machine.is_live and not body.has_failed
    if turn.outlives_scope:
        turn.drop(events)
        await leave_running(session, body, turn)
        body.leave(None, turn.result)
        return
    turn.machine.leave()
    interrupted = turn.was_interrupted and session.connection.close_reason is None
    if turn.machine.was_left or interrupted or turn.callbacks:
        await body.finish(session.services, session.ender.end_turn, turn)
    session.threads.discard_children(turn)
    body.leave(turn.loss() if turn.lost else None, turn.result)


async def leave_running(session: Session, body: ScopeGuard, turn: TurnState) -> None:  # noqa: ASYNC910  # cleanup
    """Release a turn that keeps running after its scope exits. Requests that no callback has answered stay parked."""
    callbacks = session.ender.release(turn)
    if any(callbacks):
        await body.finish(session.services, session.ender.wait_cancelled, turn, callbacks)


async def _start(session: Session, turn: TurnState, method: str, params: wire.Wire) -> None:
    try:
        turn.start = await session.server.begin(method, params)
    except BaseException:
        turn.never_started()
        raise
    _retry.note_started()
    call, timeout = turn.start, session.config.request_timeout
    with session.timeouts.move_on_after(timeout):
        try:
            answer = await call.answer()
        except RpcError:
            _retry.note_refused()
            turn.never_started()
            raise
        turn.bind(answer)
        if turn.machine.id is None and turn.machine.can_be_ended:
            await turn.started.wait()
        elif turn.id is None:
            raise DecodeError(method, "$.turn.id", "the turn has no id")
        return
    raise session.connection.calls.overdue(call, timeout)
