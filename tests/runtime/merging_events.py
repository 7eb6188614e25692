"""Subscriptions with events that can be merged."""

import attrs

from trio_codex._link.subscriptions import Subscription, Wakeups


@attrs.frozen
class Event:
    """A text delta of an item; if ``item`` is ``None``, any other event."""

    text: str
    item: str | None = None
    merged: int = 1

    @property
    def size(self):
        return len(self.text.encode())


class Merging:
    def delta(self, event):
        return None if event.item is None else (event.item, event.text)

    def merged(self, first, text, count):
        return Event(text, first.item, count)


def subscribe(max_events=8, max_bytes=10_000):
    wakeups = Wakeups()
    return Subscription(max_events, max_bytes, Merging(), wakeups), wakeups
