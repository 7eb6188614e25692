"""The interface of event consumers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from trio_codex._values.event import Event


class EventSink(Protocol):
    """A consumer of events. The reader calls it, so its methods must neither block nor raise."""

    def put(self, event: Event) -> None:
        """Handle an event."""
        ...

    def put_last(self, event: Event) -> None:
        """Handle the last event."""
        self.put(event)
        self.end()

    def end(self, error: Callable[[], Exception] | None = None) -> None:
        """Handle the end of the stream. After an abnormal end, ``error`` creates the exception to raise."""
        return


class SelectedEvents(EventSink):
    """Passes the events with some methods on to a consumer.

    Args:
        sink: The consumer.
        methods: The methods.
    """

    def __init__(self, sink: EventSink, methods: Collection[str]) -> None:
        self._sink = sink
        self._methods = frozenset(methods)

    def put(self, event: Event) -> None:
        """Pass the event on, or drop it."""
        if event.method in self._methods:
            self._sink.put(event)

    def end(self, error: Callable[[], Exception] | None = None) -> None:
        """End the consumer's stream."""
        self._sink.end(error)
