"""Routing of inbound messages: the table of threads, and the dispatch of each message to its turns and listeners.

Everything here runs in the reader task. It neither blocks nor raises, whatever the server sends.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
import trio

from trio_codex._core.json import UNREADABLE, list_of, object_of, parse_object, string_of
from trio_codex._core.log import logger
from trio_codex._link.hooks import NO_INSTRUMENTS, Instruments
from trio_codex._link.subscriptions import Subscription, Wakeups
from trio_codex._session.audit import REVIEW_COMPLETED, REVIEW_STARTED
from trio_codex._session.budget import Meter
from trio_codex._session.held import Message, Openings, UnknownThreads
from trio_codex._session.turn_state import ThreadListener, ThreadState, TurnSequence, TurnState
from trio_codex._values.event import DeltaMerger, Event, Route, ids_of_ended, route
from trio_codex._values.turn_result import REDUCED
from trio_codex._values.usage import USAGE_METHOD, UsageCounters, reported_turn_id
from trio_codex.wire._registry import TEXT_DELTAS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trio_codex._core.rpc import Junk, Notification, OversizeNotification, ServerRequest
    from trio_codex._link.call import CloseReason
    from trio_codex._link.dispatch import Dispatcher
    from trio_codex._session.audit import Audit
    from trio_codex._session.budget import Budget
    from trio_codex._values.config import EventBuffer

JUNK_METHOD: Final = "trio_codex/junk"
"""The method of the event that reports an unreadable line. The server has no method of this name."""

UNKNOWN_REQUEST_METHOD: Final = "trio_codex/unknownServerRequest"
"""The method of the event that reports a server request with an unknown method."""


UNHEARD_KEPT: Final = 64
"""Number of notifications without a thread kept for the first subscriber: some are sent before anyone can subscribe."""

UNHEARD_BYTES: Final = 64 * 1024
"""Maximum size of each of these notifications. They are warnings, not content, and there may never be a subscriber."""


class Listener(Protocol):
    """A subscriber to events, called by the reader. Its methods must not block or raise."""

    def put(self, event: Event) -> None:
        """Handle an event."""
        ...

    def end(self, error: Callable[[], Exception] | None = None) -> None:
        """Handle the end of the connection, with its reason."""
        ...

    def release(self) -> None:
        """Discard what is buffered: it will never be read."""
        ...


LEFT_TURNS_KEPT: Final = 64
"""Number of turns left early or interrupted that are remembered. A spawned agent is announced within about 50 ms."""


KEYED_NOTIFICATIONS: Final = {"command/exec/outputDelta": "processId", "fs/changed": "watchId"}
"""Notifications routed by a name that the client chose, such as a process id, and the member that holds that name."""


class Router:
    """The :class:`~trio_codex._link.connection.Receiver` of a client.

    Args:
        buffer: Bounds of each consumer's buffer.
        budget: The joint budget of all turns of the client.
        instruments: The client's instruments.

    Attributes:
        meter: What these turns use.
        openings: The handles whose threads are being opened.
        dispatcher: Answers server requests; set before the reader starts.
        audit: Records what the server decides by itself; set before the reader starts.
        end_orphan: Ends a turn that was announced after its scope exited; set before the reader starts.
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
        self.openings: Openings = Openings(self, self._deliver)
        self._listeners: dict[str, list[Listener]] = {}
        self._listeners_to_all: list[Listener] = []
        self._named: dict[tuple[str, str], ThreadListener] = {}
        self._unheard: deque[Event] = deque(maxlen=UNHEARD_KEPT)
        self._left_turn_ids: deque[str] = deque(maxlen=LEFT_TURNS_KEPT)
        self._close_reason: CloseReason | None = None
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
        """Return the state of a thread, creating it if necessary."""
        self._unknown.discard(thread_id)
        if (state := self._threads.get(thread_id)) is None:
            state = self._threads[thread_id] = ThreadState(thread_id)
        return state

    def find(self, thread_id: str) -> ThreadState | None:
        """Return the state of a thread, if there is any."""
        return self._threads.get(thread_id)

    def open_turns(self) -> list[TurnState]:
        """Return the open turns that belong to scopes of this client, except those in a sequence."""
        idle = (state.turn for state in self._threads.values() if state.sequence is None)
        return [turn for turn in idle if turn is not None and turn.owned]

    def open_sequences(self) -> list[TurnSequence]:
        """Return the open sequences of turns."""
        return [state.sequence for state in self._threads.values() if state.sequence is not None]

    def note_left(self, turn: TurnState) -> None:
        """Remember that a turn was left early or interrupted: an agent that it is just spawning must end too."""
        self._left_turn_ids.extend(turn_id for turn_id in {turn.id, turn.active_id} if turn_id is not None)

    def subscription(self) -> Subscription[Event]:
        """Create a buffer for a consumer."""
        subscription = Subscription(self._buffer.events, self._buffer.size, self._merger, self._wakeups)
        if "buffer_overflowed" in self.instruments:
            subscription.on_overflow = partial(
                self.instruments.emit, "buffer_overflowed", self.instruments.connection
            )
        if self._close_reason is not None:
            subscription.end(self._close_reason.exception)
        return subscription

    def listen(self, *methods: str) -> Subscription[Event]:
        """Subscribe to notifications of the whole connection: those with the given methods, or all.

        Notifications without a thread that arrived before any subscriber, such as configuration warnings, are
        delivered first.
        """
        subscription = self.subscription()
        for event in [event for event in self._unheard if not methods or event.method in methods]:
            self._unheard.remove(event)
            subscription.put(event)
        self.attach(subscription, *methods)
        return subscription

    def attach(self, listener: Listener, *methods: str) -> None:
        """Register a listener for all later events, or for those with the given methods."""
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

    def route_key(self, method: str, name: str, listener: ThreadListener) -> None:
        """Route notifications of a method in :data:`KEYED_NOTIFICATIONS` with this name to a listener."""
        self._named[method, name] = listener

    def unroute_key(self, method: str, name: str) -> None:
        """Undo :meth:`route_key`."""
        del self._named[method, name]

    def discard_if_unused(self, state: ThreadState) -> None:
        """Discard a thread that is no longer referenced here."""
        if state.is_followed or state.sequence or state.listeners or state.unsubscribed is not None:
            return
        self._unknown.discard(state.id)
        if self._threads.pop(state.id, None) is not None:
            for past in state.past_turns:
                self.discard_children(past)

    def discard_children(self, turn: TurnState) -> None:
        """Discard the agents of a turn whose scope has exited, except those still running."""
        turn.is_over = True
        for child_id in turn.reducer.children:
            child = self._threads.get(child_id)
            if child is not None and child.parent is turn:
                past_turns, child.past_turns = child.past_turns, ()
                for past in past_turns:
                    self.discard_children(past)
                self.discard_if_unused(child)

    # -- for the reader ----------------------------------------------------------------------------------------

    def on_notifications(self, notifications: Iterable[Notification]) -> None:
        """Route notifications to their consumers."""
        now = trio.current_time()  # once per batch: it costs as much as parsing a line
        threads = self._threads
        told_to_all = "event_received" in self.instruments or self._listeners_to_all or self.openings
        for notification in notifications:
            method, params = notification.method, notification.params
            where = route(params)
            event = Event(method, params, len(params), notification.emitted_at)
            # Fast path: nearly all are text of an open turn and concern only the reader of that turn.
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
                self._route(event, where, now)

    def _route(self, event: Event, where: Route, now: float) -> None:
        """Route any event to its consumers."""
        method = event.method
        if "event_received" in self.instruments:
            self.instruments.emit("event_received", self.instruments.connection, event)
        heard = False
        if method in self._listeners or self._listeners_to_all:
            heard = self._publish(event)
        # The properties of a route are expensive, and most events have both ids as plain fields.
        thread_id = where.threadId or where.thread_id
        if self.openings and thread_id is not None and self.openings.hold(thread_id, event, where):
            return
        if (handle := self._handlers.get(method)) is not None:
            handle(event, where)
        if thread_id is not None:
            self._route_to_thread(thread_id, event, where, now)
        elif method in KEYED_NOTIFICATIONS:
            self._route_by_key(event)
        elif not heard and event.size <= UNHEARD_BYTES:
            self._unheard.append(event)

    def _deliver(self, message: Message) -> None:
        """Process a message that was held."""
        if not isinstance(message, Event):
            self.dispatcher.dispatch(message)
            return
        where = route(message.json)
        if (handle := self._handlers.get(message.method)) is not None:
            handle(message, where)
        if (thread_id := where.thread_id) is not None:
            self._route_to_thread(thread_id, message, where, trio.current_time())

    def _route_to_thread(self, thread_id: str, event: Event, where: Route, now: float) -> None:
        """Route an event to the listeners and the turn of its thread."""
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
        """Report a notification that was too long. If it ends a turn, end the turn."""
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
        """Pass a server request to the dispatcher, once its thread is open."""
        if self.openings and request.params is not None:
            where = route(request.params)
            thread_id = where.thread_id or where.conversationId
            if thread_id is not None and self.openings.hold(thread_id, request):
                return
        self.dispatcher.dispatch(request)

    def on_junk(self, junk: Junk) -> None:
        """Report an unreadable line."""
        self._report_junk(junk.kind.value, junk.head, junk.size)

    def on_lines_end(self) -> int:
        """Wake the consumers that have something to read. Return the size of the fullest buffer."""
        return max(self._wakeups.flush(), default=0)

    def on_close(self, death: CloseReason) -> None:
        """End every turn as lost and every subscription with the cause."""
        self._close_reason = death
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
        """Send an event to the listeners of the connection. Return whether there was one."""
        listeners = [*self._listeners.get(event.method, ()), *self._listeners_to_all]
        for listener in listeners:
            listener.put(event)
        return bool(listeners)

    def _route_by_key(self, event: Event) -> None:
        """Send an event to the listener registered for the name in it."""
        try:
            name = getattr(msgspec.json.decode(event.json, type=_Name), KEYED_NOTIFICATIONS[event.method])
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
        # Policies resolve relative paths against it, so use what the server applies, not what a request asks for.
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
        # Also for a turn with another id: an inline review runs under a second one, which interrupts must name.
        turn.announce(turn_id, root_id)
        if turn.is_over and not turn.lost:
            # The response to its start could not be read, so its scope could not know of it.
            self.end_orphan(turn)
        if root_id is not None and root_id != turn_id and not turn.owned:
            self._on_child_started(state, turn, root_id)

    def _on_child_started(self, state: ThreadState, turn: TurnState, root_id: str) -> None:
        """Link a child's turn to its root even if the item that names it never arrives, as after an interrupt."""
        if root_id in self._left_turn_ids:
            self.end_orphan(turn)
        elif state.parent is None:
            state.parent = self._open_root(root_id)
            if state.parent is not None:
                self._unknown.discard(state.id)
                state.parent.reducer.children[state.id] = None

    def _open_root(self, root_id: str) -> TurnState | None:
        """Return the open turn of this client with this id, if there is one."""
        roots = (root.turn for root in self._threads.values() if root.turn is not None and root.turn.owned)
        return next((root for root in roots if root_id in (root.id, root.active_id)), None)

    def knows_root(self, root_id: str) -> bool:
        """Return whether this id is or was that of a turn of this client, including turns that were left."""
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
        """Send an event of an agent to the subscribers of agent events of the turn it works for."""
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
            # No scope does this later.
            self.discard_children(turn)
        self.discard_if_unused(state)

    def _adopt_children(self, turn: TurnState) -> None:
        for child_id in turn.reducer.children:
            child = self.thread(child_id)
            if child.parent is None and child is not turn.thread:
                child.parent = turn


class _Resolved(msgspec.Struct):
    requestId: int | str


class _Name(msgspec.Struct):
    """The name by which a client identifies what an event belongs to. See :data:`KEYED_NOTIFICATIONS`."""

    processId: str | None = None
    watchId: str | None = None
