"""What the client knows of the server's threads and turns: synchronous state, changed only by the reader and by scopes.

A thread has at most one open turn, whoever started it: a second ``turn/start`` would silently steer the first
(PROTOCOL Q3). A turn may go by two ids: an inline review answers under one and runs under another (Q4).
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final, NoReturn, Protocol

import trio

from trio_codex._core._json import Json, object_of, parse_object, string_of
from trio_codex._runtime._instruments import NO_INSTRUMENTS, Instruments
from trio_codex._turns._budget import Meter
from trio_codex._turns._turn_result import REDUCED, TurnReducer, TurnResult, TurnStatus
from trio_codex._turns._usage import plus
from trio_codex.errors import ThreadClosed, TurnActive, TurnLost
from trio_codex.instruments._base import TurnRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_codex._runtime._call import Call, Death
    from trio_codex._runtime._dispatch import CallbackGroup
    from trio_codex._runtime._subscriptions import Subscription
    from trio_codex._tools._toolbox import Toolbox
    from trio_codex._turns._budget import Spending
    from trio_codex._turns._event import Event
    from trio_codex._turns._opened import PendingHandle
    from trio_codex._turns._usage import TokenUsage
    from trio_codex.policies import Policy

PAST_TURNS_KEPT: Final = 16
"""Ids of ended turns that a thread remembers, so that a late event of one is not taken for the turn that is starting."""


class TurnEvents(Protocol):
    """Where the events of a turn go: the buffer of whoever listens to it."""

    def put(self, event: Event) -> None:
        """Take an event."""

    def put_last(self, event: Event) -> None:
        """Take the event that ends the turn."""

    def end(self, error: Callable[[], Exception] | None = None) -> None:
        """Take note that no more events will come."""

    def release(self) -> None:
        """Drop what is there and take nothing more."""


class Series(Protocol):
    """What stands for several turns that the server starts one after another, such as a goal."""

    opener: object
    """The handle that has started it."""

    def next_turn(self, turn_id: str) -> TurnState:
        """Make the state of the turn that the server has just announced. Called on the reader."""
        ...

    async def finish(self) -> None:
        """End it on the server. Bounded."""


class TurnState:
    """One open turn.

    Attributes:
        thread: Its thread.
        opener: The handle that has started it; ``None`` for a turn that nobody here started.
        id: Its id; ``None`` until the server has told it.
        active_id: The id under which it can be interrupted and steered, once it is.
        root_id: The turn it works for, if that is another: the one of its agent's parent, or the review that it is.
        reducer: What is known of its outcome.
        events: The buffer of whoever listens to it; ``None`` for a turn that nobody here started.
        callbacks: The callbacks that belong to it; ``None`` likewise.
        agent_callbacks: Those of a turn that nobody here started, such as an agent's: they end with it, and not with
            the turn that spawned it, which it may outlive. ``None`` while it has asked nothing.
        policy: The policy given for this turn.
        started: Set when the server has announced it; before that it refuses an interrupt (Q1).
        ended: Set at its terminal event, or when it is lost.
        last_event_at: Trio time of the last event.
        meter: What it uses, with the agents that it spawned.
        agents_usage: Of that, what the agents use.
        spending: What counts it as a turn while it is open; ``None`` for one that nobody here started.
        agent_listeners: Who gets the events of the agents that it spawned, and of theirs.
        start: The call that starts it, while its answer is not known.
        only_announced: Whether the answer to that call tells no id, so that only its announcement does (Q5).
        left_early: Whether its scope was left before its end.
        is_over: Whether its scope was left, and has ended what it had to: nobody asks for its agents any more.
    """

    def __init__(
        self,
        thread: ThreadState,
        turn_id: str | None = None,
        *,
        events: TurnEvents | None = None,
        callbacks: CallbackGroup | None = None,
        policy: Policy | None = None,
        instruments: Instruments = NO_INSTRUMENTS,
        only_announced: bool = False,
    ) -> None:
        self.thread = thread
        self.opener: object = None
        # Of another client, and known before this one was asked for.
        self._other_id = thread.starting_turn_id
        self.id = turn_id
        self.active_id = turn_id
        self.root_id: str | None = None
        self.only_announced = only_announced
        self.reducer: TurnReducer = TurnReducer()
        self.events = events
        self.callbacks = callbacks
        self.agent_callbacks: CallbackGroup | None = None
        self.policy = policy
        self.started: trio.Event = trio.Event()
        self.ended: trio.Event = trio.Event()
        self.last_event_at: float = trio.current_time()
        self.meter: Meter = Meter("turn")
        self.agents_usage: TokenUsage | None = None
        self.spending: Spending | None = None
        self.agent_listeners: tuple[Subscription[Event], ...] = ()
        self.start: Call | None = None
        self.left_early = False
        self.is_over = False
        self._lost: tuple[str, Death | None] | None = None
        self._result: TurnResult | None = None
        self._instruments = instruments
        self._record: TurnRecord | None = None
        if instruments:
            self._record = TurnRecord(
                instruments.connection, thread.id, self.owned, self.last_event_at, turn_id
            )
            instruments.call("turn_started", self._record)

    @property
    def owned(self) -> bool:
        """Whether a scope of this client stands for it."""
        return self.callbacks is not None

    @property
    def was_interrupted(self) -> bool:
        """Whether it ended by an interrupt, whoever asked for that: what it started goes on by itself (Q24)."""
        return self.reducer.status == TurnStatus.interrupted

    def goes_by(self, turn_id: str) -> bool:
        """Say whether an event under this id is of this turn. One that is starting takes what comes on its thread."""
        if self.id is None:
            return self.active_id in (None, turn_id) and turn_id not in self.thread.past_turn_ids
        return turn_id in (self.id, self.active_id, self.root_id)

    def announce(self, turn_id: str, root_id: str | None) -> None:
        """Take the id under which the server has announced it: an inline review has another than it answered with."""
        self.active_id = turn_id
        self.root_id = root_id
        if self.only_announced:
            self.id = turn_id
        self.started.set()

    def bind(self, response: Json) -> None:
        """Take the id from the answer to the request that started it, or what its events told if there is none.

        Raises:
            TurnActive: The server has started none: it gave the input to a turn of another client (Q3).
        """
        self.start = None
        turn = object_of(parse_object(response).get("turn"))
        turn_id = string_of(turn.get("id"))
        if turn_id is not None and turn_id == self._other_id:
            self._yield_to(turn_id)
        self.id = turn_id or self.active_id
        self.active_id = self.active_id or self.id
        if self._record is not None:
            self._record.id = self.id

    def _yield_to(self, turn_id: str) -> NoReturn:
        """Leave the thread to the turn that runs on it, with what it has started."""
        self.reducer = TurnReducer()
        self.never_started()
        if self.thread.turn is None and turn_id not in self.thread.past_turn_ids:
            self.thread.begin_turn(turn_id, self._instruments)
        error = TurnActive(self.thread.id, turn_id)
        error.add_note("The server gave the input to that turn, as if it had been steered.")
        raise error

    def note_interrupt(self) -> None:
        """Note that the server is asked to interrupt it."""
        if self._record is not None and self._record.interrupted_at is None:
            self._record.interrupted_at = trio.current_time()

    def never_started(self) -> None:
        """Note that the server refused to start it."""
        self.start = None
        self.thread.turn = None if self.thread.turn is self else self.thread.turn
        if self.spending is not None:
            self.spending.never_started()
        self._close("refused")

    def check_time(self) -> None:
        """See :meth:`~trio_codex._turns._budget.Spending.check_time`."""
        if self.spending is not None:
            self.spending.check_time()

    def take(self, event: Event, now: float) -> None:
        """Take an event of this turn, at a Trio time."""
        self.last_event_at = now
        if event.method in REDUCED:
            self.reducer.feed(event.method, event.json)
        if self.events is not None:
            self.events.put(event)

    def end(self, event: Event) -> None:
        """Note the terminal event, which :meth:`take` has not been given."""
        self.reducer.feed(event.method, event.json)
        self.reducer.end()
        self._close(str(self.reducer.status))
        if self.events is not None:
            self.events.put_last(event)
        for listener in self.agent_listeners:
            listener.end()

    def lose(self, reason: str, death: Death | None = None) -> None:
        """Note that its end will not be seen."""
        if self.ended.is_set():
            return
        self._lost = (reason, death)
        self.reducer.end()
        self._close("lost")
        if self.events is not None:
            self.events.end(self.loss)
        for listener in self.agent_listeners:
            listener.end(self.loss)

    def loss(self) -> TurnLost:
        """Give a fresh exception that says why it was lost."""
        assert self._lost is not None
        reason, death = self._lost
        error = TurnLost(reason, self.result())
        error.__cause__ = None if death is None else death.exception()
        return error

    @property
    def lost(self) -> bool:
        """Whether its end was not seen, and will not be."""
        return self._lost is not None

    def result(self) -> TurnResult:
        """Give the result. Its items are structured at the first call after the end."""
        if self._result is None:
            result = self.reducer.result(self.id or "", self.thread.id, self.meter.usage, self.agents_usage)
            if not self.ended.is_set():
                return result
            self._result = result
        return self._result

    def _close(self, status: str) -> None:
        self.started.set()
        self.ended.set()
        spending, self.spending = self.spending, None
        if spending is not None:
            spending.close()
        if self._record is not None and self._record.status is None:
            self._record.id = self.id or self.active_id
            self._record.ended_at, self._record.status = trio.current_time(), status
            self._record.usage = self.meter.usage
            self._instruments.call("turn_ended", self._record)
        for callbacks in (self.callbacks, self.agent_callbacks):
            if callbacks is not None:
                callbacks.cancel()


class ThreadListener(Protocol):
    """Who gets every event of a thread. Called on the reader."""

    def put(self, event: Event) -> None:
        """Take an event."""

    def end(self, error: Callable[[], Exception] | None = None) -> None:
        """Take note that no more events will come."""


class ThreadState:
    """One thread of the server that this client has seen.

    Attributes:
        id: Its id.
        turn: Its open turn, whoever started it.
        parent: The turn that spawned it, if it is a child agent's.
        listeners: Who gets every event of it.
        series: What stands for the turns that the server starts by itself, also between two of them.
        cwd: Its working directory, as last told.
        flags: What the server says it waits for on this thread, as ``waitingOnApproval``.
        held_requests: How many questions of this thread are with a callback of ours.
        meter: What its turns use, with the agents that they spawn.
        handles: The handles of this client that stand for it.
        pending: The handles whose request to resume it is in flight.
        is_mute: Whether the server was asked to tell no more of it.
        unsubscribed: Set when a request to unsubscribe has been settled; ``None`` while none is in flight.
        starting_turn_id: A turn that was perhaps about to run when the thread was opened.
        past_turn_ids: Ids of its latest ended turns.
        past_turns: A child agent's ended turns, for the commands they may have left; empty for other threads.
    """

    def __init__(self, thread_id: str) -> None:
        self.id = thread_id
        self.turn: TurnState | None = None
        self.parent: TurnState | None = None
        self.listeners: list[ThreadListener] = []
        self.series: Series | None = None
        self._policy: Policy | None = None
        self._tools: Toolbox | None = None
        self.starting_turn_id: str | None = None
        self.cwd: str | None = None
        self.flags: tuple[str, ...] = ()
        self.held_requests = 0
        self.meter: Meter = Meter("thread")
        self.handles: tuple[object, ...] = ()
        self.pending: tuple[PendingHandle, ...] = ()
        self.is_mute: bool = False
        self.unsubscribed: trio.Event | None = None
        self.past_turn_ids: tuple[str, ...] = ()
        self.past_turns: tuple[TurnState, ...] = ()

    @cached_property
    def shell_lock(self) -> trio.Lock:
        """Held while the item of a shell command is not known yet."""
        return trio.Lock()

    @property
    def policy(self) -> Policy | None:
        """The policy given for this thread. One that is being resumed with counts already."""
        given = (pending.policy for pending in reversed(self.pending))
        return next((policy for policy in given if policy is not None), self._policy)

    @property
    def tools(self) -> Toolbox | None:
        """The tools given for this thread, likewise."""
        given = (pending.tools for pending in reversed(self.pending))
        return next((tools for tools in given if tools is not None), self._tools)

    @property
    def owner(self) -> TurnState | None:
        """The open turn of this client that this thread works for: its own, or that of the turn that spawned it."""
        seen: set[str] = set()
        state: ThreadState | None = self
        while state is not None and state.id not in seen:
            seen.add(state.id)
            if state.turn is not None and state.turn.owned:
                return state.turn
            parent = state.parent
            if parent is not None and parent.owned:
                return parent
            state = parent.thread if parent is not None else None
        return None

    def ancestors(self) -> list[str]:
        """Ids of the threads above it, the one that spawned it first; none for a thread that nobody spawned."""
        above: list[str] = []
        parent = self.parent
        while parent is not None and parent.thread.id not in above:
            above.append(parent.thread.id)
            parent = parent.thread.parent
        return above

    @property
    def is_followed(self) -> bool:
        """Whether somebody here needs to hear of it: a handle, its own turn or an agent's, a scope that may have to end it."""
        if self.handles or self.pending:
            return True
        if self.turn is not None and (self.turn.owned or self.parent is not None):
            return True
        return self.is_still_to_end

    @property
    def is_still_to_end(self) -> bool:
        """Whether a turn above it runs, or has a scope that may have to end what was started here."""
        seen: set[str] = set()
        parent = self.parent
        while parent is not None and parent.thread.id not in seen:
            # The scope of a turn is left after its end, and goes through its agents then.
            if not parent.ended.is_set() or (parent.owned and not parent.is_over):
                return True
            seen.add(parent.thread.id)
            parent = parent.thread.parent
        return False

    def charge(self, turn: TurnState | None, used: TokenUsage) -> None:
        """Add what a turn of it used, also to the turns above that it works for, and to their threads."""
        seen: set[str] = set()
        state: ThreadState | None = self
        while state is not None and state.id not in seen:
            seen.add(state.id)
            if turn is not None:
                turn.meter.add(used)
                if len(seen) > 1:
                    turn.agents_usage = plus(turn.agents_usage, used)
            state.meter.add(used)
            turn = state.parent
            state = None if turn is None else turn.thread

    def expect(self, pending: PendingHandle) -> None:
        """Register a handle whose request to resume it is about to be written."""
        # Where the server tells of it already, what runs on it is known, and nobody is to wait for the answer.
        told = bool(self.handles) or self.is_still_to_end or (self.turn is not None and self.turn.owned)
        pending.holds = self.is_mute or not told
        self.pending += (pending,)

    def admit(self, pending: PendingHandle, handle: object, cwd: str | None) -> None:
        """Let a handle stand for it, since the server has opened it for that.

        What was given for another handle goes on to hold unless it is given anew: without it, others would decide.
        """
        self.dismiss(pending)
        if pending.policy is not None or not self.handles:
            self._policy = pending.policy
        if pending.tools is not None or not self.handles:
            self._tools = pending.tools
        if pending.budget is not None:
            self.meter = Meter("thread", pending.budget)
        self.cwd = cwd
        if not pending.is_overtaken:
            self.is_mute = False
        self.handles += (handle,)

    def dismiss(self, pending: PendingHandle) -> None:
        """Undo :meth:`expect`."""
        self.pending = tuple(each for each in self.pending if each is not pending)

    def check_open(self, handle: object) -> None:
        """Check that a handle still stands for it.

        Raises:
            ThreadClosed: Its scope was left.
        """
        if handle not in self.handles:
            raise ThreadClosed(self.id)

    def check_free(self) -> None:
        """Check that a turn may start.

        Raises:
            TurnActive: One is open, or the next one of a series is to come.
            ThreadClosed: Its end would not be heard of.
        """
        if self.is_mute:
            raise ThreadClosed(self.id)
        if self.turn is not None or self.series is not None:
            raise TurnActive(self.id, None if self.turn is None else self.turn.id)

    def begin_turn(self, turn_id: str, instruments: Instruments) -> TurnState:
        """Make the state of a turn that the server has started by itself."""
        if self.series is None:
            self.turn = TurnState(self, turn_id, instruments=instruments)
        else:
            self.turn = self.series.next_turn(turn_id)
        return self.turn

    def note_ended(self, turn_id: str) -> None:
        """Remember that a turn has ended which the answer to a resume in flight may call open."""
        if turn_id not in self.past_turn_ids:
            self.past_turn_ids = (*self.past_turn_ids, turn_id)[-PAST_TURNS_KEPT:]

    def close_turn(self, turn: TurnState) -> None:
        """Forget a turn that has ended."""
        if self.parent is not None and (turn.reducer.terminals or turn.reducer.children):
            self.past_turns += (turn,)
        if self.turn is turn:
            self.turn = None
        ids = {turn_id for turn_id in (turn.id, turn.active_id) if turn_id is not None}
        self.past_turn_ids = (*self.past_turn_ids, *ids)[-PAST_TURNS_KEPT:]
