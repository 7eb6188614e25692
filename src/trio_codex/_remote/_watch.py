"""File changes as a scope: owns one watch of the server, and its end."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Self

import trio

from trio_codex import wire
from trio_codex._core._log import logger
from trio_codex.errors import CodexError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from trio_codex._client._session import Session
    from trio_codex._runtime._subscriptions import Subscription
    from trio_codex._turns._event import Event

METHOD: Final = "fs/changed"


class Watch:
    """The changes below a path, inside ``async with codex.watch(…)``. An async iterator.

    Each iteration gives the paths that have changed since the last one, as a tuple of strings: made, written, or removed,
    which the server does not tell apart. It collects them for some 200 to 400 ms.

    Attributes:
        path: What is watched, as the server resolved it.
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
            SubscriptionOverflow: This consumer lagged beyond the bounds of ``event_buffer``.
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
    """Watch a path, and stop it on the server at the end. See :meth:`Codex.watch`."""
    session.connection.check_open()
    watch_id = f"watch-{session.next_number()}"

    async def stop(_: object = None) -> None:
        await session.request("fs/unwatch", {"watchId": watch_id})

    async def leave() -> None:
        with trio.move_on_after(session.config.interrupt_grace):
            try:
                await stop()
            except CodexError as exc:
                logger.warning("the watch %s was not stopped: %s", watch_id, exc)
            await trio.lowlevel.checkpoint()

    events = session.router.subscription()
    # Before the request: the first change may be the next line after its answer.
    session.router.lead(METHOD, watch_id, events)
    try:
        params = wire.FsWatchParams(path=path, watch_id=watch_id)
        response: wire.FsWatchResponse = await session.acquire("fs/watch", params, stop)
        try:
            yield Watch(response.path, events)
        finally:
            if session.connection.death is None:
                # Shielded and bounded inside.
                await session.services.finish(leave)  # noqa: ASYNC102
    finally:
        session.router.stop_leading(METHOD, watch_id)
        events.release()
