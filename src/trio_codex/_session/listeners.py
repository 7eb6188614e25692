"""Consumers of events that belong to no turn: subscribers to the whole connection or to one process or watch."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from trio_codex._core.json import UNREADABLE
from trio_codex._core.log import logger
from trio_codex._link.subscriptions import Subscription, Wakeups
from trio_codex._values.event import DeltaMerger, Event

if TYPE_CHECKING:
    from trio_codex._link.call import CloseReason
    from trio_codex._link.connection import Connection
    from trio_codex._link.hooks import Instruments
    from trio_codex._values.config import EventBuffer
    from trio_codex._values.sink import EventSink

JUNK_METHOD: Final = "trio_codex/junk"
"""The method of the event that reports an unreadable line. The server has no method of this name."""

UNKNOWN_REQUEST_METHOD: Final = "trio_codex/unknownServerRequest"
"""The method of the event that reports a server request with an unknown method."""


UNHEARD_KEPT: Final = 64
"""Number of notifications without a thread kept for the first subscriber: some are sent before anyone can subscribe."""

UNHEARD_BYTES: Final = 64 * 1024
"""Maximum size of each of these notifications. They are warnings, not content, and there may never be a subscriber."""

KEYED_NOTIFICATIONS: Final = {"command/exec/outputDelta": "processId", "fs/changed": "watchId"}
"""Notifications routed by a name that the client chose, such as a process id, with the member that contains the name."""


class Listeners:
    """The subscribers of one client, and the buffers of all its consumers."""

    def __init__(self, connection: Connection, bounds: EventBuffer) -> None:
        self._connection = connection
        self._bounds = bounds
        self.instruments: Instruments = connection.instruments
        self._merger = DeltaMerger(connection.instruments)
        self._wakeups = Wakeups()
        self._by_method: dict[str, list[EventSink]] = {}
        self._to_all: list[EventSink] = []
        self._by_key: dict[tuple[str, str], EventSink] = {}
        self._unheard: deque[Event] = deque(maxlen=UNHEARD_KEPT)

    def subscription(self) -> Subscription[Event]:
        """Create a buffer for a consumer."""
        subscription = Subscription(self._bounds.events, self._bounds.size, self._merger, self._wakeups)
        if "buffer_overflowed" in self.instruments:
            subscription.on_overflow = partial(
                self.instruments.emit, "buffer_overflowed", self.instruments.connection
            )
        if (close_reason := self._connection.close_reason) is not None:
            subscription.end(close_reason.exception)
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

    def attach(self, listener: EventSink, *methods: str) -> None:
        """Register a listener for all later events, or for those with the given methods."""
        if not methods:
            self._to_all.append(listener)
        for method in methods:
            self._by_method.setdefault(method, []).append(listener)

    def unlisten(self, subscription: Subscription[Event]) -> None:
        """Undo :meth:`listen` and :meth:`attach`."""
        subscription.release()
        if subscription in self._to_all:
            self._to_all.remove(subscription)
        for method, subscriptions in list(self._by_method.items()):
            if subscription in subscriptions:
                subscriptions.remove(subscription)
                if not subscriptions:
                    del self._by_method[method]

    def route_key(self, method: str, name: str, listener: EventSink) -> None:
        """Route notifications of a method in :data:`KEYED_NOTIFICATIONS` with this name to a listener."""
        self._by_key[method, name] = listener

    def unroute_key(self, method: str, name: str) -> None:
        """Undo :meth:`route_key`."""
        del self._by_key[method, name]

    # -- for the reader ----------------------------------------------------------------------------------------

    @property
    def hear_all(self) -> bool:
        return bool(self._to_all)

    def hear(self, method: str) -> bool:
        """Return whether there is a subscriber to this method or to all events."""
        return method in self._by_method or bool(self._to_all)

    def keep(self, event: Event) -> None:
        """Keep an event that has no subscriber, for the first one that subscribes."""
        if event.size <= UNHEARD_BYTES:
            self._unheard.append(event)

    def flush(self) -> int:
        """Wake the consumers that have something to read; return the size of the fullest buffer."""
        return self._wakeups.flush()

    def end(self, close_reason: CloseReason) -> None:
        """End every subscription, because the connection has ended."""
        for listeners in (self._by_key.values(), self._to_all, *self._by_method.values()):
            for listener in listeners:
                listener.end(close_reason.exception)

    def report(self, method: str, params: object) -> None:
        """Publish an event of the client itself to the listeners of the connection."""
        json = msgspec.json.encode(params)
        self.publish(Event(method, json, len(json)))
        self.flush()

    def publish(self, event: Event) -> bool:
        """Send an event to the listeners of the connection. Return whether there was one."""
        listeners = [*self._by_method.get(event.method, ()), *self._to_all]
        for listener in listeners:
            listener.put(event)
        return bool(listeners)

    def put_by_key(self, event: Event) -> None:
        """Send an event to the listener registered for the name that it carries."""
        try:
            name = getattr(msgspec.json.decode(event.json, type=_Name), KEYED_NOTIFICATIONS[event.method])
        except UNREADABLE:
            return
        if (listener := self._by_key.get((event.method, name))) is not None:
            listener.put(event)

    def report_junk(self, reason: str, size: int) -> None:
        """Log an unreadable line, and publish an event for it."""
        logger.info("discarded a line from the server: %s (%d bytes)", reason, size)
        json = msgspec.json.encode({"reason": reason, "size": size})
        self.publish(Event(JUNK_METHOD, json, len(json)))


class _Name(msgspec.Struct):
    """The client's name for the process or watch that an event belongs to. See :data:`KEYED_NOTIFICATIONS`."""

    processId: str | None = None
    watchId: str | None = None
