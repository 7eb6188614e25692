"""Watch files on the server, as a scope."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Self

import trio

from trio_codex import wire
from trio_codex._session.server import decode_result
from trio_codex.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from trio_codex._link.subscriptions import Subscription
    from trio_codex._session.session import Session
    from trio_codex._values.event import Event

METHOD: Final = "fs/changed"


class Watch:
    """The changes below a path, inside ``async with codex.watch(…)``. An async iterator.

    Each iteration returns the paths that have changed since the previous one, as a tuple of strings. A path may have
    been created, written or removed; the server does not report which. It batches changes over about 200 to 400 ms.

    Attributes:
        path: The watched path, as resolved by the server.
    """

    def __init__(self, path: str, events: Subscription[Event]) -> None:
        self._events = events
        self.path = path

    def __repr__(self) -> str:
        return f"<Watch {self.path}>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[str, ...]:
        """Wait for the next changes.

        Raises:
            SubscriptionOverflow: This consumer fell behind by more than ``event_buffer`` allows.
            ConnectionBroken: The connection ended.
            trio.BusyResourceError: Another task is iterating.
        """
        while True:
            event = await self._events.__anext__()
            if isinstance(event.params, wire.FsChangedNotification):
                return tuple(event.params.changed_paths)


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def open_watch(session: Session, path: str) -> AsyncGenerator[Watch]:
    """Watch a path, and stop watching it on the server when the scope exits. See :meth:`Codex.watch`."""
    session.connection.check_open()
    watch_id = f"watch-{session.server.next_number()}"

    async def stop(_: object = None) -> None:
        await session.server.end("fs/unwatch", {"watchId": watch_id})

    events = session.subscription()
    # Subscribe before sending the request: the first change may arrive directly after its response.
    session.listeners.route_key(METHOD, watch_id, events)
    try:
        params = wire.FsWatchParams(path=path, watch_id=watch_id)
        try:
            raw = await session.server.acquire("fs/watch", params, stop)
            response: wire.FsWatchResponse = decode_result("fs/watch", raw)
        except RemoteProtocolError:
            # Not a cancellation point, and bounded internally.
            await session.services.finish(stop)  # noqa: ASYNC102, ASYNC120
            raise
        try:
            yield Watch(response.path, events)
        finally:
            if session.connection.close_reason is None:
                # Shielded and bounded internally.
                await session.services.finish(stop)  # noqa: ASYNC102
    finally:
        session.listeners.unroute_key(METHOD, watch_id)
        events.release()
