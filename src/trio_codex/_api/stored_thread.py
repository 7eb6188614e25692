"""The operations on a stored thread that start no turns: its name, settings, history, events and deletion."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Unpack

import trio

from trio_codex._api import thread_requests
from trio_codex._api.history import items_of, turns_of
from trio_codex._api.mcp import ThreadMcpServers
from trio_codex._api.options import settings_params
from trio_codex._api.terminals import Terminals
from trio_codex._values.sink import SelectedEvents
from trio_codex.errors import RpcError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from trio_codex import wire
    from trio_codex._api.history import ItemsView, TurnsView
    from trio_codex._api.options import ThreadSettings
    from trio_codex._api.paging import Pager
    from trio_codex._api.thread_requests import Opened
    from trio_codex._link.subscriptions import Subscription
    from trio_codex._session.session import Session
    from trio_codex._values.event import Event
    from trio_codex._values.usage import TokenUsage


class StoredThread:
    """The part of :class:`~trio_codex.Thread` that starts no turns."""

    def __init__(self, session: Session, opened: Opened) -> None:
        response = opened.response
        self._session = session
        self._listeners: tuple[Subscription[Event], ...] = ()
        self.info: wire.Thread = response.thread
        self._state = session.router.admit(
            opened.pending, self, self.info.id, response.cwd, opened.newest_turn
        )

    @property
    def id(self) -> str:
        """The thread's id, which can be used to resume it."""
        return self._state.id

    @property
    def terminals(self) -> Terminals:
        """The thread's background terminals."""
        return Terminals(self._request)

    @property
    def mcp(self) -> ThreadMcpServers:
        """The MCP servers started by this thread."""
        return ThreadMcpServers(self._request)

    @asynccontextmanager
    async def events(self, *methods: str) -> AsyncGenerator[Subscription[Event]]:
        """Subscribe to the events of this thread, including those after the end of a turn: the given methods, or all.

        Any number of subscribers may be active at once; each has its own bounded buffer.

        Raises:
            ThreadClosed: The thread's scope has exited. Also raised while iterating.
            SubscriptionOverflow: While iterating: this consumer fell behind by more than ``event_buffer`` allows.
            ConnectionBroken: While iterating: the connection ended.
        """
        self._check_open()
        await trio.lowlevel.checkpoint_if_cancelled()
        events = self._session.subscription()
        listener = SelectedEvents(events, methods) if methods else events
        self._state.listeners.append(listener)
        self._listeners += (events,)
        try:
            yield events
        finally:
            events.release()
            self._state.listeners.remove(listener)
            self._listeners = tuple(each for each in self._listeners if each is not events)
            self._session.threads.discard_if_unused(self._state)

    async def read(self, *, include_turns: bool = False) -> wire.Thread:
        """Read the thread from the server. With ``include_turns`` the whole history arrives as a single line.

        Raises:
            CodexError: As for any request.
        """
        response: wire.ThreadReadResponse = await self._request("thread/read", includeTurns=include_turns)
        return response.thread

    async def set_name(self, name: str) -> None:
        """Set the thread's name. The server rejects this before the first turn.

        Raises:
            CodexError: As for any request.
        """
        await self._request("thread/name/set", name=name)

    async def update_settings(self, **settings: Unpack[ThreadSettings]) -> None:
        """Change the settings of later turns without starting one (experimental).

        Settings not given stay unchanged. The options of :meth:`turn` change the same settings.

        Args:
            **settings: See :class:`ThreadSettings`.

        Raises:
            ValueError: Settings conflict; nothing was sent.
            CodexError: As for any request.
        """
        self._check_open()
        await self._session.server.request("thread/settings/update", settings_params(self.id, settings))

    async def revert(self, before_turn_id: str) -> wire.Thread:
        """Remove a turn and everything after it from the history. Files are not changed.

        Args:
            before_turn_id: The first turn to remove.

        Raises:
            CodexError: As for any request.
        """
        response: wire.ThreadRevertResponse = await self._request(
            "thread/revert", beforeTurnId=before_turn_id
        )
        return response.thread

    async def inject_items(self, items: Sequence[wire.JSON]) -> None:
        """Append raw Responses API items to the model's context, without starting a turn.

        Raises:
            CodexError: As for any request.
        """
        await self._request("thread/inject_items", items=list(items))

    def turns(self, **view: Unpack[TurnsView]) -> Pager[wire.Turn]:
        """Iterate over the thread's turns, by default newest first, holding one page at a time.

        Args:
            **view: See :class:`TurnsView`.
        """
        self._check_open()
        return turns_of(self._session, self.id, view)

    def items(self, **view: Unpack[ItemsView]) -> Pager[wire.ThreadItemEntry]:
        """Iterate over the items of the thread's turns, by default oldest first, holding one page at a time.

        Args:
            **view: See :class:`ItemsView`.
        """
        self._check_open()
        return items_of(self._session, self.id, view)

    @property
    def usage(self) -> TokenUsage | None:
        """Tokens used by its turns and their agents since this client opened it; ``None`` if none were reported."""
        return self._state.meters.usage

    async def archive(self) -> None:
        """Archive the thread: the server ends its open turn, unloads it, and hides it from ordinary listings.

        Raises:
            CodexError: As for any request.
        """
        await self._request("thread/archive")

    async def delete(self) -> None:
        """Delete the thread permanently. The server ends its open turn.

        Raises:
            CodexError: As for any request.
        """
        await self._request("thread/delete")

    async def unsubscribe(self) -> None:
        """Stop receiving events of the thread.

        A running turn continues, but its end is not observed: its scope treats the turn as stuck. Starting a turn
        raises ``ThreadClosed`` until the thread is resumed.

        Raises:
            CodexError: As for any request.
        """
        self._check_open()
        for pending in self._state.pending:
            pending.is_overtaken = True
        # Set this before the request, which may take effect even if this task is cancelled.
        self._state.is_mute = True
        try:
            await thread_requests.unsubscribe(self._session, self._state)
        except RpcError:
            self._state.is_mute = False
            raise

    async def _request(self, method: str, **params: Any) -> Any:
        self._check_open()
        return await self._session.server.request(method, {"threadId": self.id, **params})

    def _check_open(self) -> None:
        self._session.connection.check_open()
        self._state.check_open(self)
