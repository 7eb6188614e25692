"""A turn as a scope: owns its start, its end by whatever way, and what its body may do with it."""

from __future__ import annotations

import contextvars
import math
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVarTuple, Unpack

import trio

from trio_codex._client import _retry
from trio_codex._core._json import object_of, string_of
from trio_codex._core._log import logger
from trio_codex._runtime._dispatch import CallbackGroup
from trio_codex._runtime._nursery import holds_cancelled
from trio_codex._turns._budget import Meter, Spending
from trio_codex._turns._ending import end_turn, interrupt, steer, steering
from trio_codex._turns._turn_result import OutputT_co
from trio_codex._turns._turn_state import TurnState
from trio_codex._turns._waiting import last_event_at, waiting_on, watch_idle
from trio_codex.errors import BudgetExceeded, DecodeError, RpcError, TurnActive

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator

    from trio_codex import wire
    from trio_codex._client._session import Session
    from trio_codex._client._thread import Thread
    from trio_codex._runtime._subscriptions import Subscription
    from trio_codex._tools._output import OutputType
    from trio_codex._turns._budget import Budget
    from trio_codex._turns._event import Event
    from trio_codex._turns._inputs import TurnInput
    from trio_codex._turns._turn_result import TurnResult
    from trio_codex._turns._turn_state import ThreadState
    from trio_codex._turns._usage import TokenUsage
    from trio_codex._turns._waiting import WaitingOn
    from trio_codex.errors import CodexError
    from trio_codex.policies import Policy

Ts = TypeVarTuple("Ts")


class Turn(Generic[OutputT_co]):
    """One turn of a thread, inside ``async with thread.turn(…)``.

    Iterating over it, or over :meth:`text`, gives its events as they come and ends with the turn. Both take from one
    buffer, so only one task at a time may do so. Breaking off the iteration does not end the turn; leaving its scope does.
    """

    def __init__(
        self,
        session: Session,
        thread: Thread,
        state: TurnState,
        events: Subscription[Event],
        output: OutputType[Any] | None = None,
    ) -> None:
        self._session = session
        self._thread = thread
        self._state = state
        self._events = events
        self._output = output
        self._result: TurnResult[Any] | None = None

    def __repr__(self) -> str:
        return f"<Turn {self.id}, {self._state.result().status if self._state.ended.is_set() else 'open'}>"

    @property
    def id(self) -> str:
        """Its id on the server."""
        return self._state.id or ""

    @property
    def thread(self) -> Thread:
        """Its thread."""
        return self._thread

    @property
    def result(self) -> TurnResult[OutputT_co]:
        """How it ended.

        Raises:
            TurnActive: It has not.
        """
        if not self._state.ended.is_set():
            raise TurnActive(self._state.thread.id, self._state.id, "turn")
        if self._result is None:
            result = self._state.result()
            self._result = result if self._output is None else self._output.settle(result)
        return self._result

    @property
    def children(self) -> tuple[str, ...]:
        """Ids of the threads of the agents that were spawned in it. If it is interrupted, they end with its scope."""
        return tuple(self._state.reducer.children)

    @asynccontextmanager
    async def agent_events(self) -> AsyncGenerator[Subscription[Event]]:
        """Listen to everything of the agents that were spawned in it, and of those that they spawned.

        ``event.thread_id`` says whose an event is. The iteration ends with the turn; an agent that outlives it can be
        resumed as a thread by its id. Any number of listeners may do so at once.

        Raises:
            TurnLost: From the iteration: the connection ended, or the turn was abandoned.
            SubscriptionOverflow: From the iteration: this consumer lagged beyond ``event_buffer``.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        events = self._session.router.subscription()
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
        """The tokens that it has used so far, with those of the agents that it spawned; ``None`` if none were reported."""
        return self._state.meter.usage

    @property
    def last_event_at(self) -> float:
        """When its last event, or one of its agents, came, in Trio's time; its start counts as one."""
        return last_event_at(self._session.router, self._state)

    @property
    def waiting_on(self) -> WaitingOn | None:
        """What it waits for at the moment; ``None`` when it has ended. See :attr:`last_event_at` for how long."""
        return waiting_on(self._session.router, self._state)

    def __aiter__(self) -> Subscription[Event]:
        # Not itself: a loop then needs no call of ours for each event.
        return self._events

    def __anext__(self) -> Coroutine[Any, Any, Event]:
        """Give the next event.

        A cancellation point; a schedule point at least every 64 events or 1 ms.

        Raises:
            TurnLost: The connection ended, or the turn was abandoned.
            SubscriptionOverflow: This consumer lagged beyond the bounds of ``event_buffer``. The turn goes on.
            trio.BusyResourceError: Another task is iterating.
        """
        return self._events.__anext__()

    def text(self) -> TurnText:
        """Iterate over the agent's text: the deltas of its messages, and the whole of one that came without deltas.

        It raises what iterating over the turn raises.
        """
        return TurnText(self._events)

    async def steer(self, value: TurnInput) -> None:
        """Give the running turn more input. By default the server drops the message it is working on and starts anew.

        Returns when the server has taken it. If it raises, the agent has not got it, unless the connection ended or the
        answer took too long.

        Raises:
            InvalidRequestError: The turn has ended, if only while this was on its way, or is of a kind that cannot be steered.
            TypeError: ``value`` is not an input, or is an :class:`ExternalMessage`, which only starts a turn; nothing was sent.
            CodexError: As every request.
        """
        params = steering(self._session, self._state.thread.id, value)
        if not await steer(self._session, self._state, params):
            # The turn has ended, and the server says so best.
            await self._session.request("turn/steer", params(self.id))

    async def interrupt(self) -> None:
        """Ask the server to interrupt the turn; returns when it accepted, or when the turn has ended anyway.

        That it accepted proves nothing: :meth:`wait` tells when the turn has ended, and how. Agents and commands that it
        started are ended when its scope is left.

        Raises:
            CodexError: As every request.
        """
        await interrupt(self._session, self._state)

    async def wait(self) -> TurnResult[OutputT_co]:
        """Wait for the end of the turn. What is buffered of its events is dropped.

        Returns:
            How it ended; a failed turn does not raise here.

        Raises:
            TurnLost: The connection ended, or the turn was abandoned.
        """
        self._events.release()
        await self._state.ended.wait()
        if self._state.lost:
            raise self._state.loss()
        return self.result


class TurnText:
    """The agent's text of a turn, piece by piece. Made by :meth:`Turn.text`."""

    def __init__(self, events: Subscription[Event]) -> None:
        self._events = events
        self._streamed: set[str] = set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        """Give the next piece. Checkpoints and raises as iterating over the turn."""
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
    session: Session,
    thread: Thread,
    state: ThreadState,
    method: str,
    params: wire.Wire,
    policy: Policy | None = None,
    *,
    idle_limit: float | None = None,
    budget: Budget | None = None,
    output: OutputType[Any] | None = None,
    only_announced: bool = False,
) -> AsyncGenerator[Turn[Any]]:
    """Start a turn, and end it on the server if it is left early. See :meth:`Thread.turn`.

    Args:
        session: The client.
        thread: The handle that the turn names.
        state: Its state.
        method: The request that starts the turn.
        params: Its parameters.
        policy: Decides on what the turn asks.
        idle_limit: How long it may be silent without a reason.
        budget: What it may use.
        output: What its final response is a value of.
        only_announced: Whether the answer to the request tells no id of the turn, so that only its announcement does.
    """
    session.connection.check_open()
    # Again: the scope may be entered long after it was made.
    state.check_open(thread)
    state.check_free()
    body = Body()
    # Before there is a turn that anybody is told of: it may be that none may start.
    meter = Meter("turn", budget)
    spending = Spending((meter, state.meter, session.router.meter), body.scope, body.fail)
    events = session.router.subscription()
    turn = TurnState(
        state,
        events=events,
        callbacks=CallbackGroup(body.fail, contextvars.copy_context()),
        policy=policy,
        instruments=session.router.instruments,
        only_announced=only_announced,
    )
    turn.opener, turn.meter, turn.spending = thread, meter, spending
    # Claimed before the first await: another task may be about to start one, too.
    state.turn = turn
    watch: trio.CancelScope | None = None
    with body.watched():
        await _start(session, turn, method, params)
        # They may hold images, and a turn may take days.
        del params
        if idle_limit is not None:
            watch = session.services.start_service(
                watch_idle, session.router, session.timeouts, turn, idle_limit, body.fail
            )
        yield Turn(session, thread, turn, events, output)
    if watch is not None:
        watch.cancel()
    turn.check_time()
    if turn.start is not None and turn.start.take_back():
        turn.never_started()
    turn.left_early = not turn.ended.is_set()
    events.release()
    interrupted = turn.was_interrupted and session.connection.death is None
    if turn.left_early or interrupted or turn.callbacks:
        await body.finish(session, end_turn, session, turn)
    session.router.let_go_of_children(turn)
    body.leave(turn.loss() if turn.lost else None, turn.result)


class Body:
    """The body of a scope that a policy or a limit may cancel: keeps what it raised, and picks what leaves.

    Attributes:
        scope: Its cancel scope.
    """

    def __init__(self) -> None:
        self.scope: trio.CancelScope = trio.CancelScope()
        self._error: BaseException | None = None
        self._exit_request: KeyboardInterrupt | None = None
        self._failures: list[CodexError] = []

    def fail(self, error: CodexError) -> None:
        """Cancel the body because a policy failed, or a limit was crossed."""
        self._failures.append(error)
        # From now on its time is not what cancels it.
        self.scope.deadline = math.inf
        self.scope.cancel()

    @contextmanager
    def watched(self) -> Generator[None]:
        """Run the body, and keep what it raises for :meth:`leave`."""
        try:
            with self.scope:
                try:
                    yield
                except BaseException as exc:  # noqa: ASYNC103  # see below
                    if holds_cancelled(exc):
                        raise
                    # Kept from the scope, which would take a group apart and build another.
                    self._error = exc
        except BaseException as exc:  # noqa: ASYNC103  # raised by leave(), outside the handler
            self._error = exc

    async def finish(  # noqa: ASYNC910  # cleanup, which is no cancellation point
        self, session: Session, async_fn: Callable[[Unpack[Ts]], Awaitable[object]], *args: *Ts
    ) -> None:
        """Run the end of the scope, whatever happens meanwhile; it must be bounded. Keeps a Ctrl-C."""
        try:
            await session.services.finish(async_fn, *args)
        except KeyboardInterrupt as exc:
            self._exit_request = exc

    def leave(self, loss: BaseException | None, result: Callable[[], TurnResult | None]) -> None:
        """Raise what leaves: an exit request, else what the body raised, else why it was cancelled, else the loss."""
        failures = [
            failure.in_turn(result()) if isinstance(failure, BudgetExceeded) else failure
            for failure in self._failures
        ]
        chosen = self._exit_request or self._error or next(iter(failures), None)
        if chosen is None:
            if loss is not None:
                raise loss
            return
        for failure in failures:
            if failure is not chosen:
                chosen.add_note(f"Meanwhile also: {failure}")
                if isinstance(chosen, trio.Cancelled):
                    # Whoever cancelled it swallows the note, too.
                    logger.error("while its turn was being cancelled: %s", failure, exc_info=failure)
        raise chosen


async def _start(session: Session, turn: TurnState, method: str, params: wire.Wire) -> None:
    try:
        turn.start = await session.begin(method, params)
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
        if turn.only_announced:
            await turn.started.wait()
        elif turn.id is None:
            raise DecodeError(method, "$.turn.id", "the turn has no id")
        return
    raise session.connection.calls.overdue(call, timeout)
