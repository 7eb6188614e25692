"""Routing of inbound messages to turns, listeners and policies.

Everything here runs in the reader task, so it never blocks, and no message from the server makes it raise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import trio

from trio_codex._core.json import UNREADABLE, list_of, object_of, parse_object, string_of
from trio_codex._session.audit import REVIEW_COMPLETED, REVIEW_STARTED
from trio_codex._session.held import Openings
from trio_codex._session.lineage import charge
from trio_codex._session.listeners import KEYED_NOTIFICATIONS
from trio_codex._values.event import Event, Route, ids_of_ended, route
from trio_codex._values.turn_result import REDUCED
from trio_codex._values.usage import USAGE_METHOD, UsageCounters, reported_turn_id
from trio_codex.wire._registry import TEXT_DELTAS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trio_codex._core.rpc import Junk, Notification, OversizeNotification, ServerRequest
    from trio_codex._link.call import CloseReason
    from trio_codex._link.dispatch import Dispatcher
    from trio_codex._session.approvals import Approvals
    from trio_codex._session.budget import Meter
    from trio_codex._session.ending import TurnEnder
    from trio_codex._session.held import Message
    from trio_codex._session.history import History
    from trio_codex._session.listeners import Listeners
    from trio_codex._session.pending import PendingHandle
    from trio_codex._session.state import ThreadState, TurnState
    from trio_codex._session.threads import Threads


class Router:
    """The :class:`~trio_codex._link.connection.Receiver` of a session.

    Args:
        threads: The threads of the client.
        listeners: Its subscribers, and the instruments.
        dispatcher: Runs the callbacks for server requests.
        approvals: Decides on server requests.
        ender: Ends turns that no scope ends.
        history: Reads the items of turns that the client has not seen from their start.
        meter: Counts the tokens of all turns of the client.
    """

    def __init__(
        self,
        threads: Threads,
        listeners: Listeners,
        dispatcher: Dispatcher,
        approvals: Approvals,
        ender: TurnEnder,
        history: History,
        meter: Meter,
    ) -> None:
        self._threads = threads
        self._listeners = listeners
        self._dispatcher = dispatcher
        self._approvals = approvals
        self._ender = ender
        self._history = history
        self._meter = meter
        self._instruments = listeners.instruments
        self._openings = Openings(threads, self._instruments)
        self._counters = UsageCounters()
        self._handlers: dict[str, Callable[[Event, Route], None]] = {
            "turn/started": self._on_turn_started,
            USAGE_METHOD: self._on_usage,
            "serverRequest/resolved": self._on_resolved,
            "thread/status/changed": self._on_status,
            "thread/settings/updated": self._on_settings,
            REVIEW_STARTED: self._on_review,
            REVIEW_COMPLETED: self._on_review,
        }

    # -- for handles that are being opened ---------------------------------------------------------------------

    def expect(self, pending: PendingHandle) -> None:
        """Register a handle whose request is about to be written, and hold messages about its thread."""
        self._openings.expect(pending)

    def admit(
        self, pending: PendingHandle, handle: object, thread_id: str, cwd: str | None, newest: dict[str, Any]
    ) -> ThreadState:
        """Register a handle that the server has opened, and deliver the messages held for it.

        Args:
            pending: The pending handle that it replaces.
            handle: The handle to register.
            thread_id: The id of its thread.
            cwd: The working directory of the thread.
            newest: The newest turn of the thread, as plain JSON; empty if there is none.
        """
        state = self._openings.admit(pending, handle, thread_id, cwd, newest)
        self.dismiss(pending, thread_id)
        return state

    def dismiss(self, pending: PendingHandle, opened: str | None = None) -> None:
        """Undo :meth:`expect`, and deliver messages that no longer need to be held. Idempotent.

        Args:
            pending: The handle.
            opened: The id of its thread, if the server has opened it.
        """
        for message in self._openings.dismiss(pending, opened):
            self._deliver(message)
        self._listeners.flush()
        if pending.thread_id is not None and (state := self._threads.find(pending.thread_id)) is not None:
            self._threads.discard_if_unused(state)

    # -- for the reader ----------------------------------------------------------------------------------------

    def on_notifications(self, notifications: Iterable[Notification]) -> None:
        """Route notifications to their consumers."""
        now = trio.current_time()  # once per batch: it costs as much as parsing a line
        find, listeners = self._threads.find, self._listeners
        needs_routing = "event_received" in self._instruments or listeners.hear_all or self._openings
        for notification in notifications:
            method, params = notification.method, notification.params
            where = route(params)
            event = Event(method, params, len(params), notification.emitted_at)
            # Fast path: nearly all are text of an open turn and concern only the reader of that turn.
            if (
                method in TEXT_DELTAS
                and (state := find(where.threadId or "")) is not None
                and (turn := state.turn) is not None
                and where.turnId is not None
                and turn.machine.id == where.turnId
                and not (needs_routing or listeners.hear(method))
                and not (state.listeners or state.parent or turn.reducer.children)
            ):
                turn.take(event, now)
            else:
                self._route(event, where, now)

    def _route(self, event: Event, where: Route, now: float) -> None:
        """Route any event to its consumers."""
        method = event.method
        if "event_received" in self._instruments:
            self._instruments.emit("event_received", self._instruments.connection, event)
        heard = self._listeners.publish(event)
        # The properties of a route are expensive, and most events have both ids as plain fields.
        thread_id = where.threadId or where.thread_id
        if self._openings and thread_id is not None and self._is_held(thread_id, event, where):
            return
        if (handle := self._handlers.get(method)) is not None:
            handle(event, where)
        if thread_id is not None:
            self._route_to_thread(thread_id, event, where, now)
        elif method in KEYED_NOTIFICATIONS:
            self._listeners.put_by_key(event)
        elif not heard:
            self._listeners.keep(event)

    def _is_held(self, thread_id: str, message: Message, where: Route | None = None) -> bool:
        """Hold a message if its thread is being opened; return whether it is held."""
        too_old = self._openings.hold(thread_id, message, where)
        for each in too_old or ():
            self._deliver(each)
        return too_old is not None

    def _deliver(self, message: Message) -> None:
        """Process a message that was held."""
        if not isinstance(message, Event):
            self._dispatch(message)
            return
        where = route(message.json)
        if (handle := self._handlers.get(message.method)) is not None:
            handle(message, where)
        if (thread_id := where.thread_id) is not None:
            self._route_to_thread(thread_id, message, where, trio.current_time())

    def _route_to_thread(self, thread_id: str, event: Event, where: Route, now: float) -> None:
        """Route an event to the listeners and the turn of its thread."""
        state = self._threads.find(thread_id)
        if state is None:
            return
        if state.parent is not None:
            self._publish_agent_event(state, event)
        for listener in state.listeners:
            listener.put(event)
        turn, turn_id = state.turn, where.turnId or where.turn_id
        is_usage = event.method == USAGE_METHOD
        if turn is None and turn_id is not None and turn_id == state.starting_turn_id and not is_usage:
            # It was announced before the client was subscribed. A resume repeats the usage of a turn that has ended.
            turn = state.begin_turn(turn_id, self._instruments)
            turn.announce(turn_id, None)
            turn.is_partial = True
        is_end = event.method == "turn/completed"
        is_of_turn = is_end or event.method.startswith("item/")
        if turn is not None and turn_id is not None and turn.lists_no_root and is_of_turn:
            # The server is older than 0.162. Only one turn runs on a thread, so with another id it is a review.
            turn.lists_no_root = False
            turn.announce(turn.id or turn_id, turn_id)
        if turn is None or turn_id is None or not (turn_id == turn.id or turn.goes_by(turn_id)):
            if is_end and turn_id is not None and state.pending:
                state.note_ended(turn_id)
            return
        if is_end:
            if turn.is_partial and turn.sinks:
                # From now on, its id is that of this event, under which the server has stored it.
                turn.machine.bind(turn_id)
                self._history.end_soon(turn, event)
            else:
                turn.end(event)
            if turn.ends_with_scope and turn.was_interrupted:
                self._threads.note_left(turn)
            self._forget_turn(state, turn)
            return
        turn.take(event, now)
        if event.method in REDUCED:
            if turn.reducer.children:
                self._threads.adopt_children(turn)
            self._threads.unknown.grow(thread_id, event.size)

    def on_oversize(self, notification: OversizeNotification) -> None:
        """Report a notification that was too long. If it ends a turn, end the turn."""
        self._listeners.report_junk("longer than max_line_bytes", notification.size)
        if notification.method != "turn/completed":
            return
        thread_id, turn_id = ids_of_ended(notification.head)
        state = self._threads.find(thread_id)
        if state is not None and state.turn is not None and state.turn.goes_by(turn_id):
            state.turn.lose("its final event was longer than max_line_bytes, so its outcome is unknown")
            self._forget_turn(state, state.turn)
        elif state is not None and state.pending:
            state.note_ended(turn_id)

    def on_server_request(self, request: ServerRequest) -> None:
        """Pass a server request to the dispatcher, once its thread is open."""
        if self._openings and request.params is not None:
            where = route(request.params)
            thread_id = where.thread_id or where.conversationId
            if thread_id is not None and self._is_held(thread_id, request):
                return
        self._dispatch(request)

    def on_junk(self, junk: Junk) -> None:
        """Report an unreadable line."""
        self._listeners.report_junk(junk.kind.value, junk.size)

    def on_lines_end(self) -> int:
        """Wake the consumers that have something to read. Return the size of the fullest buffer."""
        return self._listeners.flush()

    def on_close(self, reason: CloseReason) -> None:
        """End every turn as lost and every subscription with the cause."""
        self._openings.clear()
        self._dispatcher.cancel()
        self._approvals.audit.close()
        self._threads.lose(reason)
        self._listeners.end(reason)
        self._listeners.flush()

    def _dispatch(self, request: ServerRequest) -> None:
        # Imported on first use, because it takes longer to import than the rest of the session.
        from trio_codex._session.asking import resolve

        self._dispatcher.dispatch(request, resolve(self._approvals, request))

    def _on_resolved(self, event: Event, _: Route) -> None:
        try:
            resolved = msgspec.json.decode(event.json, type=_Resolved)
        except UNREADABLE:
            return
        self._dispatcher.withdraw(resolved.requestId)

    def _on_status(self, event: Event, _: Route) -> None:
        params = object_of(event.raw)
        state = self._threads.find(str(params.get("threadId")))
        if state is not None:
            status = object_of(params.get("status"))
            state.flags = tuple(flag for flag in list_of(status.get("activeFlags")) if isinstance(flag, str))
            state.is_unloaded = status.get("type") == "notLoaded"

    def _on_settings(self, event: Event, where: Route) -> None:
        # Policies resolve relative paths against it, so take it from the server's report, not from a request.
        state = None if where.thread_id is None else self._threads.find(where.thread_id)
        cwd = string_of(object_of(parse_object(event.json).get("threadSettings")).get("cwd"))
        if state is not None and cwd is not None:
            state.cwd = cwd

    def _on_review(self, event: Event, _: Route) -> None:
        self._approvals.audit.on_review(event)

    def _on_turn_started(self, _: Event, where: Route) -> None:
        if where.thread_id is None:
            return
        turn_id = where.turn_id
        if turn_id is None:
            return
        state = self._threads.find(where.thread_id)
        if state is None:
            state = self._threads.thread(where.thread_id)
            self._threads.unknown.add(state.id, turn_id)
        if turn_id in state.past_turn_ids:
            return
        turn = state.turn or state.begin_turn(turn_id, self._instruments)
        root_id = where.root_turn_id
        # Even if the id differs: an inline review runs under a second id, which interrupts must use.
        turn.announce(turn_id, root_id)
        if turn.machine.is_orphan:
            self._ender.end_orphan(turn)
        if root_id is not None and root_id != turn_id and not turn.owned:
            self._on_child_started(state, turn, root_id)

    def _on_child_started(self, state: ThreadState, turn: TurnState, root_id: str) -> None:
        """Link a child's turn to its root. After an interrupt, the item that names the child may never arrive."""
        if self._threads.was_left(root_id):
            self._ender.end_orphan(turn)
        elif state.parent is None:
            state.parent = self._threads.open_root(root_id)
            if state.parent is not None:
                self._threads.unknown.discard(state.id)
                state.parent.reducer.children[state.id] = None

    def _on_usage(self, event: Event, where: Route) -> None:
        thread_id = where.thread_id
        if thread_id is None:
            return
        state = self._threads.find(thread_id)
        params = parse_object(event.json)
        turn_id = reported_turn_id(params)
        turn = None if state is None else state.turn
        if turn is not None and (turn_id is None or turn_id not in turn.machine.ids()):
            turn = None
        if state is None or (turn is None and turn_id not in state.past_turn_ids):
            self._counters.replay(thread_id, params)
            return
        used = self._counters.take(thread_id, params)
        if used is None:
            return
        charge(state, turn, used)
        self._meter.add(used)

    def _publish_agent_event(self, state: ThreadState, event: Event) -> None:
        """Send an agent's event to the turns that it works for, if they subscribe to agent events."""
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
            # The turn has no scope that would do this later.
            self._threads.discard_children(turn)
        self._threads.discard_if_unused(state)


class _Resolved(msgspec.Struct):
    requestId: int | str
