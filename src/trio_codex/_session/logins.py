"""Collect the outcomes of logins.

The server may report the outcome of a login before the client has processed the response that started it. So collecting
starts before the request is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio

from trio_codex import wire
from trio_codex._values.sink import EventSink

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_codex._values.event import Event

COMPLETED: Final = "account/login/completed"
MCP_COMPLETED: Final = "mcpServer/oauthLogin/completed"

ENDED_KEPT: Final = 64
"""Number of ended logins that are remembered. A client has one or two pending at a time."""

ENDED_BYTES: Final = 1024 * 1024
"""Maximum size of their outcomes, as JSON. The latest is always kept."""


class LoginNews(EventSink):
    """The outcomes of logins, collected for the lifetime of the client."""

    METHODS: Final = (COMPLETED, MCP_COMPLETED)

    def __init__(self) -> None:
        self._ended: dict[str, wire.Wire] = {}
        self._sizes: dict[str, int] = {}
        self._changed: trio.Event = trio.Event()
        self._error: Callable[[], Exception] | None = None

    def put(self, event: Event) -> None:
        params = event.params
        key = _key_of(params)
        if key is not None:
            self.forget(key)  # the latest outcome is the last entry
            self._ended[key] = params
            self._sizes[key] = event.size
            while len(self._ended) > ENDED_KEPT or (
                len(self._ended) > 1 and sum(self._sizes.values()) > ENDED_BYTES
            ):
                self.forget(next(iter(self._ended)))
            self._wake()

    def end(self, error: Callable[[], Exception] | None = None) -> None:
        self._error = error
        self._wake()

    def forget(self, key: str) -> None:
        """Forget the outcome of an earlier login with this key."""
        self._ended.pop(key, None)
        self._sizes.pop(key, None)

    def ended(self, key: str) -> Any:
        """Return the outcome of a login; ``None`` if it has not ended."""
        return self._ended.get(key)

    async def wait(self, key: str) -> Any:
        """Wait for a login to end, and return its outcome."""
        await trio.lowlevel.checkpoint()
        while (ended := self._ended.get(key)) is None:
            if self._error is not None:
                raise self._error()
            await self._changed.wait()
        return ended

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _key_of(params: wire.Wire) -> str | None:
    match params:
        case wire.AccountLoginCompletedNotification(login_id=login_id):
            return login_id
        case wire.McpServerOauthLoginCompletedNotification(login_id=login_id, name=name):
            return login_id or mcp_key(name)
        case _:
            return None


def mcp_key(name: str) -> str:
    """Return a substitute for the id of a login to an MCP server, which older servers do not provide."""
    return f"mcpServer {name}"
