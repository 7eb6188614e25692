"""Where inbound messages go: owns the table of threads, and leads each message to the turns and listeners it is of.

Everything here runs on the reader and neither waits nor raises, whatever the server sends.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
import trio

from trio_codex._client._held import Message, Openings, UnknownThreads
from trio_codex._core._json import UNREADABLE, list_of, object_of, parse_object, string_of
from trio_codex._core._log import logger
from trio_codex._requests._audit import REVIEW_COMPLETED, REVIEW_STARTED
from trio_codex._runtime._instruments import NO_INSTRUMENTS, Instruments
from trio_codex._runtime._subscriptions import Subscription, Wakeups
from trio_codex._turns._budget import Meter
from trio_codex._turns._event import DeltaMerger, Event, Route, ids_of_ended, route
from trio_codex._turns._turn_result import REDUCED
from trio_codex._turns._turn_state import Series, ThreadListener, ThreadState, TurnState
from trio_codex._turns._usage import USAGE_METHOD, UsageCounters, reported_turn_id
from trio_codex.wire._registry import TEXT_DELTAS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trio_codex._core._rpc import Junk, Notification, OversizeNotification, ServerRequest
    from trio_codex._launch._config import EventBuffer
    from trio_codex._requests._audit import Audit
    from trio_codex._runtime._call import Death
    from trio_codex._runtime._dispatch import Dispatcher
    from trio_codex._turns._budget import Budget

JUNK_METHOD: Final = "trio_codex/junk"
"""The method of the event that reports a line of no use. The server has none of this name."""

UNKNOWN_REQUEST_METHOD: Final = "trio_codex/unknownServerRequest"
"""The method of the event that reports a server request that this version does not know."""


UNHEARD_KEPT: Final = 64
"""Notifications of no thread that are kept for the first who listens: some are sent before anybody can."""

UNHEARD_BYTES: Final = 64 * 1024
"""The most that one of them may come to: they are warnings, and not content, and perhaps nobody ever listens."""


class Listener(Protocol):
    """Who is told of events by the reader; none of it waits or raises."""

    def put(self, event: Event) -> None:
        """Take an event."""
        ...

    def end(self, error: Callable[[], Exception] | None = None) -> None:
        """Note that there will be no more, and why."""
        ...

    def release(self) -> None:
        """Drop what is kept: nobody is going to ask for it."""
        ...


LEFT_TURNS_KEPT: Final = 64
"""Ids of turns left early or interrupted that are remembered. An agent is announced within some 50 ms of being asked for."""


KEYS: Final = {"command/exec/outputDelta": "processId", "fs/changed": "watchId"}
"""Notifications that are of one thing which a client has started and named, by the member that holds the name."""


class Router:
    """The :class:`~trio_codex._runtime._connection.Receiver` of a client.

    Args:
        buffer: Bounds of each consumer's buffer.
        budget: What all turns of the client may use together.
        instruments: Who is told what happens.

    Attributes:
        meter: What they use.
        openings: The handles whose threads are being opened.
        dispatcher: Who answers server requests; set before the reader starts.
        audit: Who keeps the records of what the server decides by itself; set likewise.
        end_orphan: Ends a turn that was announced when nobody was left to end it; set likewise.
    """

    dispatcher: Dispatcher
    audit: Audit
    end_orphan: Callable[[TurnState], object]

    def __init__(
        self,
        buffer: EventBuffer,
        budget: Budget | None = None,
        instruments: Instruments = NO_INSTRUMENTS,
    ) -> None:
        self.meter: Meter = Meter("client", budget)
        self._counters = UsageCounters()
        self._buffer = buffer
        self.instruments = instruments
        self._merger = DeltaMerger(instruments)
        self._wakeups = Wakeups()
        self._threads: dict[str, ThreadState] = {}
        self._unknown = UnknownThreads(self._threads)
        self.openings = Openings(self, self._deliver)
        self._listeners: dict[str, list[Listener]] = {}
        self._listeners_to_all: list[Listener] = []
        self._named: dict[tuple[str, str], ThreadListener] = {}
        self._unheard: deque[Event] = deque(maxlen=UNHEARD_KEPT)
        self._left_turn_ids: deque[str] = deque(maxlen=LEFT_TURNS_KEPT)
        self._death: Death | None = None
        self._handlers: dict[str, Callable[[Event, Route], None]] = {
            "turn/started": self._on_turn_started,
            USAGE_METHOD: self._on_usage,
            "serverRequest/resolved": self._on_resolved,
            "thread/status/changed": self._on_status,
            "thread/settings/updated": self._on_settings,
            REVIEW_STARTED: self._on_review,
            REVIEW_COMPLETED: self._on_review,
        }

    # -- for scopes --------------------------------------------------------------------------------------------

    def thread(self, thread_id: str) -> ThreadState:
        """Give the state of a thread."""
        self._unknown.discard(thread_id)
        if (state := self._threads.get(thread_id)) is None:
            state = self._threads[thread_id] = ThreadState(thread_id)
        return state

    def find(self, thread_id: str) -> ThreadState | None:
        """Give the state of a thread, if there is any."""
        return self._threads.get(thread_id)

    def open_turns(self) -> list[TurnState]:
        """Give the open turns that scopes of this client stand for, but those of a series."""
        idle = (state.turn for state in self._threads.values() if state.series is None)
        return [turn for turn in idle if turn is not None and turn.owned]

    def open_series(self) -> list[Series]:
        """Give what stands for several turns each."""
        return [state.series for state in self._threads.values() if state.series is not None]

    def note_left(self, turn: TurnState) -> None:
        """Remember that a turn was left early or interrupted: an agent that it is just spawning has to end, too."""
        self._left_turn_ids.extend(turn_id for turn_id in {turn.id, turn.active_id} if turn_id is not None)

    def subscription(self) -> Subscription[Event]:
        """Make a buffer for a consumer."""
        subscription = Subscription(self._buffer.events, self._buffer.size, self._merger, self._wakeups)
        if "buffer_overflowed" in self.instruments:
            subscription.on_overflow = partial(
                self.instruments.call, "buffer_overflowed", self.instruments.connection
            )
        if self._death is not None:
            subscription.end(self._death.exception)
        return subscription

    def listen(self, *methods: str) -> Subscription[Event]:
        """Subscribe to notifications of the whole connection, by method or, without any, to all.

        Those of no thread that came before and that nobody heard, such as warnings about the configuration, come first.
        """
        subscription = self.subscription()
        for event in [event for event in self._unheard if not methods or event.method in methods]:
            self._unheard.remove(event)
            subscription.put(event)
        self.attach(subscription, *methods)
        return subscription

    def attach(self, listener: Listener, *methods: str) -> None:
        """Tell a listener of all that comes from now on, or of the named methods only."""
        if not methods:
            self._listeners_to_all.append(listener)
        for method in methods:
            self._listeners.setdefault(method, []).append(listener)

    def unlisten(self, subscription: Listener) -> None:
        """Undo :meth:`listen` and :meth:`attach`."""
        subscription.release()
        if subscription in self._listeners_to_all:
            self._listeners_to_all.remove(subscription)
        for method, subscriptions in list(self._listeners.items()):
            if subscription in subscriptions:
                subscriptions.remove(subscription)
                if not subscriptions:
                    del self._listeners[method]

    def lead(self, method: str, name: str, listener: ThreadListener) -> None:
        """Lead notifications of a method of :data:`KEYS` that carry this name to a listener."""
        self._named[method, name] = listener

    def stop_leading(self, method: str, name: str) -> None:
        """Undo :meth:`lead`."""
        del self._named[method, name]

    def let_go(self, state: ThreadState) -> None:
        """Forget a thread that nothing here refers to any more."""
        if state.is_followed or state.series or state.listeners or state.unsubscribed is not None:
            return
        self._unknown.discard(state.id)
        if self._threads.pop(state.id, None) is not None:
            for past in state.past_turns:
                self.let_go_of_children(past)

    def let_go_of_children(self, turn: TurnState) -> None:
        """Forget the agents of a turn whose scope has been left, but for those that run on."""
        turn.is_over = True
        for child_id in turn.reducer.children:
            child = self._threads.get(child_id)
            if child is not None and child.parent is turn:
                past_turns, child.past_turns = child.past_turns, ()
                for past in past_turns:
                    self.let_go_of_children(past)
                self.let_go(child)

    # -- for the reader ----------------------------------------------------------------------------------------

    def on_notifications(self, notifications: Iterable[Notification]) -> None:
        """Lead notifications to whom they concern."""
        now = trio.current_time()  # once for all: asking costs as much as parsing a line
        threads = self._threads
        told_to_all = "event_received" in self.instruments or self._listeners_to_all or self.openings
        for notification in notifications:
            method, params = notification.method, notification.params
            where = route(params)
            event = Event(method, params, len(params), notification.emitted_at)
            # Nearly all are text of an open turn, and concern nobody but who reads that turn.
            if (
                method in TEXT_DELTAS
                and (state := threads.get(where.threadId or "")) is not None
                and (turn := state.turn) is not None
                and where.turnId is not None
                and turn.id == where.turnId
                and not (told_to_all or method in self._listeners)
                and not (state.listeners or state.parent or turn.reducer.children)
            ):
                turn.take(event, now)
            else:
                self._lead(event, where, now)

    def _lead(self, event: Event, where: Route, now: float) -> None:
        """Lead an event to whom it concerns, whatever it is and whoever that may be."""
        method = event.method
        if "event_received" in self.instruments:
            self.instruments.call("event_received", self.instruments.connection, event)
        heard = False
        if method in self._listeners or self._listeners_to_all:
            heard = self._publish(event)
        # The properties of a route cost, and most events have both ids in plain sight.
        thread_id = where.threadId or where.thread_id
        if self.openings and thread_id is not None and self.openings.hold(thread_id, event, where):
            return
        if (handle := self._handlers.get(method)) is not None:
            handle(event, where)
        if thread_id is not None:
            self._lead_to_thread(thread_id, event, where, now)
        elif method in KEYS:
            self._lead_by_name(event)
        elif not heard and event.size <= UNHEARD_BYTES:
            self._unheard.append(event)

    def _deliver(self, message: Message) -> None:
        """Handle a message that was held."""
        if not isinstance(message, Event):
            self.dispatcher.dispatch(message)
            return
        where = route(message.json)
        if (handle := self._handlers.get(message.method)) is not None:
            handle(message, where)
        if (thread_id := where.thread_id) is not None:
            self._lead_to_thread(thread_id, message, where, trio.current_time())

    def _lead_to_thread(self, thread_id: str, event: Event, where: Route, now: float) -> None:
        """Lead an event to the listeners and the turn of its thread."""
        state = self._threads.get(thread_id)
        if state is None:
            return
        if state.parent is not None:
            self._tell_about_agent(state, event)
        for listener in state.listeners:
            listener.put(event)
        turn, turn_id = state.turn, where.turnId or where.turn_id
        is_end = event.method == "turn/completed"
        if turn is None or turn_id is None or not (turn_id == turn.id or turn.goes_by(turn_id)):
            if is_end and turn_id is not None and state.pending:
                state.note_ended(turn_id)
            return
        if is_end:
            turn.end(event)
            if turn.owned and turn.was_interrupted:
                self.note_left(turn)
            self._forget_turn(state, turn)
            return
        turn.take(event, now)
        if turn.reducer.children:
            self._adopt_children(turn)
        if event.method in REDUCED:
            self._unknown.grow(thread_id, event.size)

    def on_oversize(self, notification: OversizeNotification) -> None:
        """Report a notification that was too long; if it ends a turn, end it."""
        self._report_junk("longer than max_line_bytes", notification.head, notification.size)
        if notification.method != "turn/completed":
            return
        thread_id, turn_id = ids_of_ended(notification.head)
        state = self._threads.get(thread_id)
        if state is not None and state.turn is not None and state.turn.goes_by(turn_id):
            state.turn.lose(
                "the event that ended it was longer than max_line_bytes, so nobody knows how it ended"
            )
            self._forget_turn(state, state.turn)
        elif state is not None and state.pending:
            state.note_ended(turn_id)

    def on_server_request(self, request: ServerRequest) -> None:
        """Hand a server request to the dispatcher, once its thread is open."""
        if self.openings and request.params is not None:
            where = route(request.params)
            thread_id = where.thread_id or where.conversationId
            if thread_id is not None and self.openings.hold(thread_id, request):
                return
        self.dispatcher.dispatch(request)

    def on_junk(self, junk: Junk) -> None:
        """Report a line that was of no use."""
        self._report_junk(junk.kind.value, junk.head, junk.size)

    def on_lines_end(self) -> int:
        """Wake the consumers that have something to read; say how much the busiest of them has."""
        return max(self._wakeups.flush(), default=0)

    def on_death(self, death: Death) -> None:
        """End every turn as lost and every subscription with the cause."""
        self._death = death
        self.openings.clear()
        self.dispatcher.cancel()
        self.audit.close()
        for state in self._threads.values():
            if state.turn is not None:
                state.turn.lose(death.reason, death)
                state.close_turn(state.turn)
            for subscription in state.listeners:
                subscription.end(death.exception)
        for named in self._named.values():
            named.end(death.exception)
        for listeners in (self._listeners_to_all, *self._listeners.values()):
            for listener in listeners:
                listener.end(death.exception)
        self._wakeups.flush()

    def wake(self) -> None:
        """Wake the consumers that have something to read."""
        self._wakeups.flush()

    def report(self, method: str, params: object) -> None:
        """Publish an event of our own to the listeners of the connection."""
        json = msgspec.json.encode(params)
        self._publish(Event(method, json, len(json)))
        self.wake()

    def _publish(self, event: Event) -> bool:
        """Give an event to the listeners of the connection; say whether there was one."""
        listeners = [*self._listeners.get(event.method, ()), *self._listeners_to_all]
        for listener in listeners:
            listener.put(event)
        return bool(listeners)

    def _lead_by_name(self, event: Event) -> None:
        """Give an event to whoever started what it is of."""
        try:
            name = getattr(msgspec.json.decode(event.json, type=_Name), KEYS[event.method])
        except UNREADABLE:
            return
        if (listener := self._named.get((event.method, name))) is not None:
            listener.put(event)

    def _report_junk(self, reason: str, head: bytes, size: int) -> None:
        logger.info("a line of the server was of no use: %s (%d bytes)", reason, size)
        json = msgspec.json.encode({"reason": reason, "size": size})
        self._publish(Event(JUNK_METHOD, json, len(json)))

    def _on_resolved(self, event: Event, _: Route) -> None:
        try:
            resolved = msgspec.json.decode(event.json, type=_Resolved)
        except UNREADABLE:
            return
        self.dispatcher.withdraw(resolved.requestId)

    def _on_status(self, event: Event, _: Route) -> None:
        params = object_of(event.raw)
        state = self._threads.get(str(params.get("threadId")))
        if state is not None:
            flags = list_of(object_of(params.get("status")).get("activeFlags"))
            state.flags = tuple(flag for flag in flags if isinstance(flag, str))

    def _on_settings(self, event: Event, where: Route) -> None:
        # Policies judge relative paths by it, so it is what the server goes by, and not what a request asks for.
        state = None if where.thread_id is None else self._threads.get(where.thread_id)
        cwd = string_of(object_of(parse_object(event.json).get("threadSettings")).get("cwd"))
        if state is not None and cwd is not None:
            state.cwd = cwd

    def _on_review(self, event: Event, _: Route) -> None:
        self.audit.on_review(event)

    def _on_turn_started(self, _: Event, where: Route) -> None:
        if where.thread_id is None:
            return
        turn_id = where.turn_id
        if turn_id is None:
            return
        state = self._threads.get(where.thread_id)
        if state is None:
            state = self.thread(where.thread_id)
            self._unknown.add(state.id, turn_id)
        if turn_id in state.past_turn_ids:
            return
        turn = state.turn or state.begin_turn(turn_id, self.instruments)
        root_id = where.root_turn_id
        # Also for a turn with another id: an inline review runs under a second one, and wants that one in interrupts.
        turn.announce(turn_id, root_id)
        if turn.is_over and not turn.lost:
            # The answer to its start could not be read, so its scope could not know of it.
            self.end_orphan(turn)
        if root_id is not None and root_id != turn_id and not turn.owned:
            self._on_child_started(state, turn, root_id)

    def _on_child_started(self, state: ThreadState, turn: TurnState, root_id: str) -> None:
        """Link a child's turn to its root even if the item that would name it never comes, as after an interrupt."""
        if root_id in self._left_turn_ids:
            self.end_orphan(turn)
        elif state.parent is None:
            state.parent = self._open_root(root_id)
            if state.parent is not None:
                self._unknown.discard(state.id)
                state.parent.reducer.children[state.id] = None

    def _open_root(self, root_id: str) -> TurnState | None:
        """Return the open turn of this client that goes by this id, if there is one."""
        roots = (root.turn for root in self._threads.values() if root.turn is not None and root.turn.owned)
        return next((root for root in roots if root_id in (root.id, root.active_id)), None)

    def knows_root(self, root_id: str) -> bool:
        """Return whether a turn of this client goes by this id, or went by it and was left."""
        return root_id in self._left_turn_ids or self._open_root(root_id) is not None

    def _on_usage(self, event: Event, where: Route) -> None:
        thread_id = where.thread_id
        if thread_id is None:
            return
        state = self._threads.get(thread_id)
        params = parse_object(event.json)
        turn_id = reported_turn_id(params)
        turn = None if state is None else state.turn
        if turn is not None and (turn_id is None or turn_id not in (turn.id, turn.active_id)):
            turn = None
        if state is None or (turn is None and turn_id not in state.past_turn_ids):
            self._counters.replay(thread_id, params)
            return
        used = self._counters.take(thread_id, params)
        if used is None:
            return
        state.charge(turn, used)
        self.meter.add(used)

    def _tell_about_agent(self, state: ThreadState, event: Event) -> None:
        """Give an event of an agent to who listens to the agents of the turn that it works for."""
        seen = {state.id}
        turn = state.parent
        while turn is not None:
            for listener in turn.agent_listeners:
                listener.put(event)
            if turn.thread.id in seen:
                return
            seen.add(turn.thread.id)
            turn = turn.thread.parent

    def _forget_turn(self, state: ThreadState, turn: TurnState) -> None:
        state.close_turn(turn)
        if not turn.owned and state.parent is None:
            # No scope does it later.
            self.let_go_of_children(turn)
        self.let_go(state)

    def _adopt_children(self, turn: TurnState) -> None:
        for child_id in turn.reducer.children:
            child = self.thread(child_id)
            if child.parent is None and child is not turn.thread:
                child.parent = turn


class _Resolved(msgspec.Struct):
    requestId: int | str


class _Name(msgspec.Struct):
    """By which a client knows what an event is of. See :data:`KEYS`."""

    processId: str | None = None
    watchId: str | None = None
