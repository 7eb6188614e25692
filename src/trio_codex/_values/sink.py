"""What receives events, one at a time, from the reader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

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
        """Note that no more events will arrive; ``error`` creates the exception that says why, if it was not planned."""
        return

    def release(self) -> None:
        """Discard buffered events and ignore later ones: they will not be read."""
        return
