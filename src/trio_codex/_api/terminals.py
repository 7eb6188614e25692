"""The background terminals of a thread: the agent's commands that the model no longer waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from trio_codex._api.paging import Pager

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_codex import wire


class ThreadRequest(Protocol):
    """A function that sends a request about one thread, adding its id, and returns the typed result."""

    async def __call__(self, method: str, **params: Any) -> Any:
        """Send the request and return its result."""
        ...


class Terminals:
    """The background terminals of a thread. Accessed as :attr:`Thread.terminals`.

    A command that the model no longer waits for continues as a background terminal. It outlives its turn, and ends
    when the scope of its thread exits or the thread is unloaded. Leaving a turn early ends the terminals it started.
    Experimental.
    """

    def __init__(self, request: ThreadRequest) -> None:
        self._request = request

    async def list(self) -> tuple[wire.ThreadBackgroundTerminal, ...]:
        """Return the running background terminals.

        Raises:
            CodexError: As for any request, and ``DecodeError``.
        """

        async def fetch(cursor: str | None) -> tuple[Sequence[wire.ThreadBackgroundTerminal], str | None]:
            page: wire.ThreadBackgroundTerminalsListResponse = await self._request(
                "thread/backgroundTerminals/list", cursor=cursor
            )
            return page.data, page.next_cursor

        return tuple([terminal async for terminal in Pager("thread/backgroundTerminals/list", fetch)])

    async def terminate(self, process_id: str) -> bool:
        """Terminate one background terminal.

        Args:
            process_id: The ``process_id`` from the list or from the item that started it.

        Returns:
            Whether the terminal was still running.

        Raises:
            CodexError: As for any request, and ``DecodeError``.
        """
        response: wire.ThreadBackgroundTerminalsTerminateResponse = await self._request(
            "thread/backgroundTerminals/terminate", processId=process_id
        )
        return response.terminated

    async def clean(self) -> None:
        """Terminate all background terminals, no matter which turn started them.

        Raises:
            CodexError: As for any request.
        """
        await self._request("thread/backgroundTerminals/clean")
