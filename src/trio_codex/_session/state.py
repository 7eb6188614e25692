"""The client's view of threads and turns: synchronous state, changed only by the reader and by scopes.

A thread has at most one open turn, no matter which client started it: a second ``turn/start`` would silently steer the
first (PROTOCOL Q3). A turn may have two ids: an inline review is answered under one id and runs under another (Q4).
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

import trio

from trio_codex._core.json import Json, list_of, object_of, parse_object, string_of
from trio_codex._core.secrets import NO_SECRETS
from trio_codex._link.hooks import NO_INSTRUMENTS, Instruments
from trio_codex._session.budget import Meter, ThreadMeters
from trio_codex._session.turn_machine import Phase, TurnMachine
from trio_codex._values.turn_result import REDUCED, TurnReducer, TurnResult, TurnStatus
from trio_codex.errors import ThreadClosed, TurnActive, TurnLost
from trio_codex.instruments._base import TurnRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trio_codex._core.secrets import Secrets
    from trio_codex._link.call import Call, CloseReason
    from trio_codex._link.dispatch import CallbackGroup
    from trio_codex._link.subscriptions import Subscription
    from trio_codex._session.budget import BudgetTracker
    from trio_codex._session.owner import TurnOwner
    from trio_codex._session.pending import PendingHandle
    from trio_codex._tools.toolbox import Toolbox
    from trio_codex._values.event import Event
    from trio_codex._values.sink import EventSink
    from trio_codex._values.usage import TokenUsage
    from trio_codex.policies import Policy

PAST_TURNS_KEPT: Final = 16
"""Number of ended turns whose ids a thread remembers, so that a late event is not attributed to a starting turn."""

STORED_SIGNS: Final = frozenset({"item/completed", "thread/tokenUsage/updated"})
"""Events that prove that the server has stored the input of a turn. The start of its item is no proof: of 25
servers killed at that moment, one had not stored it."""


class TurnSequence(Protocol):
    """A sequence of turns that the server starts on its own, such as those of a goal."""

    opener: object
    """The handle that started it."""

    def next_turn(self, turn_id: str) -> TurnState:
        """Create the state of a turn that the server has just announced. Called by the reader."""
        ...

    async def finish(self) -> None:
        """End the sequence on the server, in bounded time."""


class TurnState:
    """One open turn.

    Attributes:
        thread: The thread it belongs to.
        is_ours: Whether this client started it.
        outlives_scope: Whether it continues when its scope exits, and when the client closes.
        is_partial: Whether its items are incomplete, because it was running before this client received its events.
        lists_no_root: Whether it is known only from a list without root ids, so that its events may have another id.
        has_parked: Whether the server may be waiting for an answer that this client has not given.
        opener: The handle whose scope it belongs to; ``None`` if it belongs to no scope of this client.
        machine: Its phase and its ids.
        reducer: The outcome so far.
        sinks: The buffers of its consumers.
        callbacks: Its callbacks; ``None`` if it belongs to no scope of this client.
        agent_callbacks: The callbacks of a turn that this client did not start, such as an agent's. They end with that
            turn, which may outlive the one that spawned it. ``None`` until its first request.
        policy: The policy given for this turn.
        started: Set when the server has announced it. Before that the server rejects an interrupt (Q1).
        is_stored: Whether it is known that the server has stored its input.
        ended: Set once it is no longer live.
        last_event_at: When its last event arrived, on Trio's clock.
        meter: Counts the resources used by it and by the agents it spawned.
        agents_usage: The tokens used by these agents.
        budget_tracker: Tracks it against the budgets while it is open; ``None`` if it belongs to no scope of this client.
        agent_listeners: Subscribers to the events of agents it spawned, directly or indirectly.
        start: The call that starts it, until its response is known.
    """

    def __init__(
        self,
        thread: ThreadState,
        machine: TurnMachine,
        owner: TurnOwner | None = None,
        instruments: Instruments = NO_INSTRUMENTS,
    ) -> None:
        self.thread = thread
        self.machine = machine
        # The id of another client's turn that was already known when this one was requested.
        self._other_id = thread.starting_turn_id
        self.is_ours: bool = owner is not None
        self.outlives_scope: bool = False
        self.is_partial: bool = False
        self.lists_no_root: bool = False
        self.has_parked: bool = False
        self.reducer: TurnReducer = TurnReducer()
        self.opener: object = None
        self.sinks: tuple[EventSink, ...] = ()
        self.callbacks: CallbackGroup | None = None
        self.policy: Policy | None = None
        self.meter: Meter = Meter("turn")
        self.budget_tracker: BudgetTracker | None = None
        if owner is not None:
            self.adopt(owner)
        self.agent_callbacks: CallbackGroup | None = None
        self.started: trio.Event = trio.Event()
        self.is_stored: bool = False
        self._stored: trio.Event | None = None
        self.ended: trio.Event = trio.Event()
        self.last_event_at: float = trio.current_time()
        self.agents_usage: TokenUsage | None = None
        self.agent_listeners: tuple[Subscription[Event], ...] = ()
        self.start: Call | None = None
        self._result: TurnResult | None = None
        self._instruments = instruments
        self._record: TurnRecord | None = None
        if instruments:
            self._record = TurnRecord(
                instruments.connection, thread.id, self.owned, self.last_event_at, machine.id
            )
            instruments.emit("turn_started", self._record)

    @property
    def id(self) -> str | None:
        """Its id; ``None`` until the server has reported it."""
        return self.machine.id

    @property
    def owned(self) -> bool:
        """Whether it belongs to a scope of this client."""
        return self.callbacks is not None

    @property
    def ends_with_scope(self) -> bool:
        """Whether leaving its scope, or closing the client, ends it."""
        return self.owned and not self.outlives_scope

    @property
    def was_interrupted(self) -> bool:
        """Whether an interrupt by any client ended it. Its agents and commands keep running then (Q24)."""
        return self.reducer.status == TurnStatus.interrupted

    def goes_by(self, turn_id: str) -> bool:
        """Return whether an event with this turn id belongs to it.

        While its id is unknown, a starting turn accepts any id except those of ended turns.
        """
        machine = self.machine
        if machine.id is None:
            known = machine.active_id is None or machine.goes_by(turn_id)
            return known and turn_id not in self.thread.past_turn_ids
        return machine.goes_by(turn_id)

    def adopt(self, owner: TurnOwner) -> None:
        """Give it to a scope of this client, which decides on its requests from now on."""
        self.opener, self.callbacks, self.sinks = owner.handle, owner.callbacks, (*self.sinks, owner.events)
        self.policy, self.meter, self.budget_tracker = owner.policy, owner.meter, owner.budget_tracker

    def release(self) -> None:
        """Let it continue without its scope."""
        if self.budget_tracker is not None:
            self.budget_tracker.close()
        self.opener = self.callbacks = self.policy = self.budget_tracker = None

    def drop(self, sink: EventSink) -> None:
        """Remove a consumer."""
        self.sinks = tuple(each for each in self.sinks if each is not sink)

    def park_requests(self) -> None:
        """Cancel its callbacks. What they have not answered stays parked on the server."""
        for callbacks in (self.callbacks, self.agent_callbacks):
            if callbacks is not None:
                self.has_parked = self.has_parked or bool(callbacks)
                callbacks.cancel()
        self.agent_callbacks = None

    def complete(self, record: Mapping[str, Any]) -> None:
        """Replace its items with those that the server has stored, because some of its events are missing."""
        items = list_of(record.get("items"))
        self.reducer.complete(items)
        if items:
            self.note_stored()
        self.is_partial = False
        self._result = None

    def announce(self, turn_id: str, root_id: str | None) -> None:
        """Record the id under which the server announced it. For an inline review it differs from the response's."""
        self.machine.announce(turn_id, root_id)
        self.started.set()

    def bind(self, response: Json) -> None:
        """Record the id from the response to the request that started it, or, without a response, from its events.

        Raises:
            TurnActive: The server passed the input to an open turn of another client instead of starting one (Q3).
        """
        self.start = None
        turn = object_of(parse_object(response).get("turn"))
        turn_id = string_of(turn.get("id"))
        if turn_id is not None and turn_id == self._other_id:
            self._yield_to(turn_id)
        self.machine.bind(turn_id)
        if self._record is not None:
            self._record.id = self.id

    def _yield_to(self, turn_id: str) -> NoReturn:
        """Discard this turn in favor of the other client's turn that received its input."""
        self.reducer = TurnReducer()
        self.never_started()
        if self.thread.turn is None and turn_id not in self.thread.past_turn_ids:
            self.thread.begin_turn(turn_id, self._instruments)
        error = TurnActive(self.thread.id, turn_id)
        error.add_note("The server passed the input to that turn, as turn.steer() would have.")
        raise error

    def note_stored(self) -> None:
        """Record that the server has stored its input."""
        self.is_stored = True
        if self._stored is not None:
            self._stored.set()

    @property
    def stored(self) -> trio.Event:
        """Set with ``is_stored``, or once it is no longer live. Created on first use, which few turns need."""
        if self._stored is None:
            self._stored = trio.Event()
            if self.is_stored or self.ended.is_set():
                self._stored.set()
        return self._stored

    def note_interrupt(self) -> None:
        if self._record is not None and self._record.interrupted_at is None:
            self._record.interrupted_at = trio.current_time()

    def never_started(self) -> None:
        """Record that the server rejected the request to start it."""
        self.start = None
        self.thread.turn = None if self.thread.turn is self else self.thread.turn
        if self.budget_tracker is not None:
            self.budget_tracker.never_started()
        self.machine.refuse()
        self._close("refused")

    def take(self, event: Event, now: float) -> None:
        """Process an event of this turn that arrived at the given Trio time."""
        self.last_event_at = now
        if event.method in REDUCED:
            self.reducer.feed(event.method, event.json)
            if not self.is_stored and event.method in STORED_SIGNS:
                self.note_stored()
        for sink in self.sinks:
            sink.put(event)

    def end(self, event: Event) -> None:
        """Process the terminal event, which must not be passed to :meth:`take`."""
        self.reducer.feed(event.method, event.json)
        self.reducer.end()
        self.machine.end()
        self._close(str(self.reducer.status))
        for sink in self.sinks:
            sink.put_last(event)
        for listener in self.agent_listeners:
            listener.end()

    def lose(self, reason: str, close_reason: CloseReason | None = None) -> None:
        """Record that its end will not be observed."""
        if not self.machine.lose(reason, close_reason):
            return
        self.reducer.end()
        self._close("lost")
        for sink in self.sinks:
            sink.end(self.loss)
        for listener in self.agent_listeners:
            listener.end(self.loss)

    def loss(self) -> TurnLost:
        """Return a new exception that says why it was lost."""
        assert self.machine.loss is not None
        reason, close_reason = self.machine.loss
        error = TurnLost(reason, self.result())
        error.__cause__ = None if close_reason is None else close_reason.exception()
        return error

    @property
    def lost(self) -> bool:
        """Whether its end was not observed and will not be."""
        return self.machine.phase is Phase.lost

    def result(self) -> TurnResult:
        """Return the result. Its items are structured on the first call after the end."""
        if self._result is None:
            thread = self.thread
            result = self.reducer.result(
                self.id or "", thread.id, self.meter.usage, self.agents_usage, thread.secrets
            )
            if not self.ended.is_set():
                return result
            self._result = result
        return self._result

    def _close(self, status: str) -> None:
        self.started.set()
        self.ended.set()
        if self._stored is not None:
            self._stored.set()
        budget_tracker, self.budget_tracker = self.budget_tracker, None
        if budget_tracker is not None:
            budget_tracker.close()
        if self._record is not None and self._record.status is None:
            self._record.id = self.machine.id or self.machine.active_id
            self._record.ended_at, self._record.status = trio.current_time(), status
            self._record.usage = self.meter.usage
            self._instruments.emit("turn_ended", self._record)
        for callbacks in (self.callbacks, self.agent_callbacks):
            if callbacks is not None:
                callbacks.cancel()


class ThreadState:
    """One thread of the server that this client has seen.

    Attributes:
        id: Its id.
        secrets: Redacted from the errors of its turns.
        turn: Its open turn, no matter which client started it.
        parent: The turn that spawned it, if it is a child agent's.
        listeners: Subscribers to all of its events.
        sequence: The sequence of turns that the server starts on its own; also set between turns.
        cwd: Its working directory, as last reported.
        flags: What the server is waiting for on this thread, such as ``waitingOnApproval``.
        held_requests: The number of its requests that a callback of this client is handling.
        meters: Count the resources used by its turns and by the agents they spawn.
        handles: The handles of this client for it.
        pending: The handles whose requests to resume it are in flight.
        is_mute: Whether the client asked to be unsubscribed from it.
        is_left_open: Whether the client is still subscribed for a handle that was closed, or a resume that was undone,
            because another handle was being opened.
        is_uncleaned: Whether background commands have not been ended for the same reason.
        is_unloaded: Whether the server has reported that it is no longer in memory, as after archiving it.
        unsubscribed: Set when a request to unsubscribe has completed; ``None`` while none is in flight.
        starting_turn_id: The id of a turn that may have been about to run when the thread was opened.
        ended_turn: The latest turn, if it has ended since the thread was opened and no scope of this client ends it.
        past_turn_ids: Ids of its latest ended turns.
        past_turns: The ended turns of a child agent, whose commands may still be running; empty for other threads.
    """

    def __init__(self, thread_id: str, secrets: Secrets = NO_SECRETS) -> None:
        self.id = thread_id
        self.secrets = secrets
        self.turn: TurnState | None = None
        self.parent: TurnState | None = None
        self.listeners: list[EventSink] = []
        self.sequence: TurnSequence | None = None
        self._policy: Policy | None = None
        self._tools: Toolbox | None = None
        self.starting_turn_id: str | None = None
        self.ended_turn: TurnState | None = None
        self.cwd: str | None = None
        self.flags: tuple[str, ...] = ()
        self.held_requests = 0
        self.meters: ThreadMeters = ThreadMeters()
        self.handles: tuple[object, ...] = ()
        self.pending: tuple[PendingHandle, ...] = ()
        self.is_mute: bool = False
        self.is_left_open: bool = False
        self.is_uncleaned: bool = False
        self.is_unloaded: bool = False
        self.unsubscribed: trio.Event | None = None
        self.past_turn_ids: tuple[str, ...] = ()
        self.past_turns: tuple[TurnState, ...] = ()

    @cached_property
    def shell_lock(self) -> trio.Lock:
        """Held until the item of a shell command is known."""
        return trio.Lock()

    @property
    def policy(self) -> Policy | None:
        """The policy given for this thread. A policy passed to a pending resume already counts."""
        given = (pending.policy for pending in reversed(self.pending))
        return next((policy for policy in given if policy is not None), self._policy)

    @property
    def tools(self) -> Toolbox | None:
        """The tools given for this thread. Tools passed to a pending resume already count."""
        given = (pending.tools for pending in reversed(self.pending))
        return next((tools for tools in given if tools is not None), self._tools)

    def parents(self) -> Iterator[TurnState]:
        """Iterate over the turns that it works for, starting with the one that spawned it."""
        seen, parent = {self.id}, self.parent
        while parent is not None and parent.thread.id not in seen:
            yield parent
            seen.add(parent.thread.id)
            parent = parent.thread.parent

    @property
    def is_followed(self) -> bool:
        """Whether a handle, an open turn or the cleanup of a scope needs its events."""
        if self.handles or self.pending:
            return True
        if self.turn is not None and (self.turn.owned or self.parent is not None):
            return True
        return self.is_still_to_end

    @property
    def is_still_to_end(self) -> bool:
        """Whether a turn that it works for is running, or has a scope that has yet to end this thread's work."""
        # The scope of a turn exits after the turn has ended, and ends its agents then.
        return any(
            not parent.ended.is_set() or (parent.owned and not parent.machine.is_cleaned_up)
            for parent in self.parents()
        )

    def expect(self, pending: PendingHandle) -> None:
        """Register a handle whose request to resume it is about to be written."""
        # If the client is already subscribed, it knows which turn is open, so messages need not be held.
        subscribed = bool(self.handles) or self.is_still_to_end or (self.turn is not None and self.turn.owned)
        pending.holds = self.is_mute or not subscribed
        self.pending += (pending,)

    def admit(self, pending: PendingHandle, handle: object, cwd: str | None) -> None:
        """Register a handle for it, now that the server has opened it.

        A policy or tools given for another handle stay in effect unless this one replaces them.
        """
        self.dismiss(pending)
        if pending.policy is not None or not self.handles:
            self._policy = pending.policy
        if pending.tools is not None or not self.handles:
            self._tools = pending.tools
        if pending.budget is not None:
            tracker = None if self.turn is None else self.turn.budget_tracker
            self.meters.limit(handle, pending.budget, tracker)
        self.cwd = cwd
        self.is_unloaded = self.is_left_open = self.is_uncleaned = False
        if not pending.is_overtaken:
            self.is_mute = False
        self.ended_turn = None
        self.handles += (handle,)

    def remove(self, handle: object) -> None:
        """Remove a handle whose scope exits. Its budget no longer applies."""
        self.handles = tuple(each for each in self.handles if each is not handle)
        self.meters.release(handle, None if self.turn is None else self.turn.budget_tracker)

    def dismiss(self, pending: PendingHandle) -> None:
        """Undo :meth:`expect`."""
        self.pending = tuple(each for each in self.pending if each is not pending)

    def check_open(self, handle: object) -> None:
        """Raise ``ThreadClosed`` if the scope of a handle has exited."""
        if handle not in self.handles:
            raise ThreadClosed(self.id)

    def check_free(self) -> None:
        """Check that a turn may start.

        Raises:
            TurnActive: A turn is open, or the next one of a sequence is about to start.
            ThreadClosed: The client is unsubscribed from the thread, so it would not observe the turn's end.
        """
        if self.is_mute:
            raise ThreadClosed(self.id)
        if self.turn is not None or self.sequence is not None:
            raise TurnActive(self.id, None if self.turn is None else self.turn.id)

    def begin_turn(self, turn_id: str, instruments: Instruments) -> TurnState:
        """Create the state of a turn that the server started on its own."""
        self.starting_turn_id = None
        if self.sequence is None:
            self.turn = TurnState(self, TurnMachine(turn_id), instruments=instruments)
        else:
            self.turn = self.sequence.next_turn(turn_id)
        return self.turn

    def note_ended(self, turn_id: str) -> None:
        """Remember an ended turn that the response to a pending resume may report as open."""
        if turn_id not in self.past_turn_ids:
            self.past_turn_ids = (*self.past_turn_ids, turn_id)[-PAST_TURNS_KEPT:]

    def close_turn(self, turn: TurnState) -> None:
        """Remove a turn that has ended."""
        if self.parent is not None and (turn.reducer.terminals or turn.reducer.children):
            self.past_turns += (turn,)
        if self.turn is turn:
            self.turn = None
            self.ended_turn = turn if self.handles and not (turn.ends_with_scope or turn.lost) else None
        self.past_turn_ids = (*self.past_turn_ids, *turn.machine.ids())[-PAST_TURNS_KEPT:]
