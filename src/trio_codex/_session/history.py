"""Read turns from the server's history, for turns that this client has not observed from their start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from trio_codex._core.json import list_of, object_of, string_of
from trio_codex._session.snapshot import NEWEST_TURNS, newest_turn, take_snapshot
from trio_codex.errors import CodexError, DecodeError

if TYPE_CHECKING:
    from trio_codex._link.hooks import Instruments
    from trio_codex._session.server import Server
    from trio_codex._session.state import ThreadState, TurnState
    from trio_codex._values.event import Event


async def read_newest_turn(server: Server, thread_id: str) -> dict[str, Any]:
    """Resume a thread, and return its newest turn; an empty object if there is none.

    The server resends the requests parked on the thread to every client that is subscribed to it.

    Raises:
        CodexError: As for any request.
    """
    params: dict[str, object] = {"threadId": thread_id, "excludeTurns": server.config.experimental_api}
    if server.config.experimental_api:
        params["initialTurnsPage"] = {"limit": NEWEST_TURNS, "itemsView": "full"}
    return newest_turn(object_of(await server.request_json("thread/resume", params)))


class History:
    """The stored turns of the threads of one client.

    Args:
        server: Sends the requests.
        instruments: Notified of turns that are found open.
    """

    def __init__(self, server: Server, instruments: Instruments) -> None:
        self._server = server
        self._instruments = instruments

    async def refresh(self, thread: ThreadState, *, was_unsubscribed: bool = False) -> None:
        """Resume a thread again, to learn what runs on it and to receive its parked requests.

        Args:
            thread: The thread.
            was_unsubscribed: Whether the client was not subscribed until now, and so may have missed events.

        Raises:
            CodexError: As for any request.
        """
        newest = await read_newest_turn(self._server, thread.id)
        take_snapshot(thread, newest, self._instruments, was_unsubscribed=was_unsubscribed)

    async def complete(self, turn: TurnState) -> None:
        """Read the items of a turn that has ended.

        Raises:
            CodexError: As for any request, and ``DecodeError`` if the server has not stored the turn.
        """
        cursor: str | None = None
        while True:
            params = {"threadId": turn.thread.id, "itemsView": "full", "limit": 1, "cursor": cursor}
            page = object_of(await self._server.request_json("thread/turns/list", params))
            for record in map(object_of, list_of(page.get("data"))):
                # Another turn may have started in the meantime.
                if turn.machine.goes_by(string_of(record.get("id"))):
                    turn.complete(record)
                    return
            last, cursor = cursor, string_of(page.get("nextCursor"))
            if cursor in (None, last):
                raise DecodeError("thread/turns/list", "$.data", f"turn {turn.id} is not stored")

    def end_soon(self, turn: TurnState, event: Event) -> None:
        """End a turn once its items have been read, in a separate task. Called by the reader."""
        self._server.services.start_service(self._end, turn, event)

    async def _end(self, turn: TurnState, event: Event) -> None:
        await trio.lowlevel.checkpoint()
        try:
            await self.complete(turn)
            turn.end(event)
        except CodexError as exc:
            turn.lose(
                f"it ended, but its items could not be read: {exc}", self._server.connection.close_reason
            )
        finally:
            turn.lose("it ended while the client was closing")
