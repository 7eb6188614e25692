"""Notifications: the event type, the thread and turn an event belongs to, and merging of deltas.

``params`` is parsed on first access, because most events of a busy connection are never read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from trio_codex import wire  # noqa: TC001  # inspecting a struct's signature evaluates its annotations
from trio_codex._core.json import UNREADABLE, Json, parse_object, string_of
from trio_codex._link.hooks import NO_INSTRUMENTS, Instruments
from trio_codex.wire import _convert
from trio_codex.wire._registry import TEXT_DELTAS

if TYPE_CHECKING:
    from collections.abc import Hashable


# A struct, because one is created for every line: it costs a third of a plain Python class.
class Event(msgspec.Struct, eq=False, gc=False):
    """One notification from the server.

    Attributes:
        method: The method, such as ``"item/agentMessage/delta"``.
        json: The parameters as raw JSON.
        size: Size of ``json`` in bytes.
        emitted_at: When the server sent it, in milliseconds since the epoch, if known.
        merged: Number of deltas combined in this event. Above 1 only for text deltas buffered for a slow consumer.
    """

    method: str
    json: Json
    size: int
    emitted_at: float | None = None
    merged: int = 1
    _params: Any = None

    @property
    def params(self) -> wire.Wire:
        """The typed parameters; ``wire.UnknownNotification`` if the method is unknown or the schema does not match."""
        if self._params is None:
            self._params = _convert.decode_notification_json(self.method, self.json)
        params: wire.Wire = self._params
        return params

    @property
    def thread_id(self) -> str | None:
        """The id of the thread the event belongs to, if any."""
        return route(self.json).thread_id

    @property
    def turn_id(self) -> str | None:
        """The id of the turn the event belongs to, if any."""
        return route(self.json).turn_id

    @property
    def raw(self) -> Any:
        """The parameters as plain JSON, including members that this version does not know."""
        try:
            return msgspec.json.decode(self.json) if self.size else None
        except UNREADABLE:
            return bytes(self.json).decode(errors="replace")

    def __repr__(self) -> str:
        return (
            f"<Event {self.method}, {self.size} bytes{f', {self.merged} merged' if self.merged > 1 else ''}>"
        )


class _Id(msgspec.Struct, gc=False):
    id: str | None = None
    rootTurnId: str | None = None


class Route(msgspec.Struct, gc=False):
    """The thread and turn that a message belongs to, read from its parameters."""

    threadId: str | None = None
    turnId: str | None = None
    turn: _Id | None = None
    thread: _Id | None = None
    conversationId: str | None = None

    @property
    def thread_id(self) -> str | None:
        if self.threadId is None and self.thread is not None:
            return self.thread.id
        return self.threadId

    @property
    def turn_id(self) -> str | None:
        if self.turnId is None and self.turn is not None:
            return self.turn.id
        return self.turnId

    @property
    def root_turn_id(self) -> str | None:
        """The id of the turn for which a child agent's turn works, directly or indirectly."""
        return None if self.turn is None else self.turn.rootTurnId


_decode_route = msgspec.json.Decoder(Route).decode
_NOWHERE = Route()


def route(json: Json) -> Route:
    """Parse the thread and turn ids from parameters. Never raises."""
    try:
        return _decode_route(json)
    except UNREADABLE:
        return _lenient_route(json)


def _lenient_route(json: Json) -> Route:
    """Parse the ids one by one if parameters deviate from the schema, so that one bad member does not affect others."""
    try:
        members = msgspec.json.decode(json, type=dict[str, msgspec.Raw])
    except UNREADABLE:
        return _NOWHERE
    found: dict[str, Any] = {}
    for name, type_ in (
        ("threadId", str),
        ("turnId", str),
        ("turn", _Id),
        ("thread", _Id),
        ("conversationId", str),
    ):
        try:
            found[name] = msgspec.json.decode(members[name], type=type_)
        except (KeyError, *UNREADABLE):
            continue
    return Route(**found)


_HEAD_ID: Final = re.compile(rb'"(threadId|id)"\s*:\s*"([^"\\]*)"')


def ids_of_ended(head: bytes) -> tuple[str, str]:
    """Parse the thread id and turn id from the beginning of a long ``turn/completed``; empty if not found.

    The first ``id`` in it is the turn's.
    """
    ids: dict[bytes, str] = {}
    for match in _HEAD_ID.finditer(head):
        ids.setdefault(match[1], match[2].decode(errors="replace"))
    return ids.get(b"threadId", ""), ids.get(b"id", "")


class DeltaMerger:
    """Merges text deltas with the same (method, item, index). Never merges Base64, because its padding ends a chunk."""

    def __init__(self, instruments: Instruments = NO_INSTRUMENTS) -> None:
        self._instruments = instruments

    def delta(self, event: Event) -> tuple[Hashable, str] | None:
        delta = TEXT_DELTAS.get(event.method)
        if delta is None:
            return None
        params = parse_object(event.json)
        text = string_of(params.get(delta.text))
        return (
            None if text is None else ((event.method, *[str(params.get(name)) for name in delta.key]), text)
        )

    def merged(self, first: Event, text: str, count: int) -> Event:
        if count > 1 and "deltas_merged" in self._instruments:
            self._instruments.emit("deltas_merged", self._instruments.connection, first.method, count)
        raw = {**first.raw, TEXT_DELTAS[first.method].text: text}
        json = msgspec.json.encode(raw)
        return Event(first.method, json, len(json), first.emitted_at, first.merged + count - 1)
