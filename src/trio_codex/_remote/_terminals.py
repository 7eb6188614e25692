"""The background terminals of a thread: commands of the agent that outlived the model's wait for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from trio_codex._client._paging import Pager

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_codex import wire


class ThreadRequest(Protocol):
    """Sends a request about one thread, whose id it adds, and gives its typed result."""

    async def __call__(self, method: str, **params: Any) -> Any:
        """Send the request and wait for its result."""
        ...


class Terminals:
    """The background terminals of a thread. Made by :attr:`Thread.terminals`.

    A command that the model no longer waits for runs on as a background terminal: after its turn, and until its thread is
    left as a scope or is unloaded. A turn that is left early ends those that it started. Experimental.
    """

    def __init__(self, request: ThreadRequest) -> None:
        self._request = request

    async def list(self) -> tuple[wire.ThreadBackgroundTerminal, ...]:
        """List those that run.

        Raises:
            CodexError: As every request, and ``DecodeError``.
        """

        async def fetch(cursor: str | None) -> tuple[Sequence[wire.ThreadBackgroundTerminal], str | None]:
            page: wire.ThreadBackgroundTerminalsListResponse = await self._request(
                "thread/backgroundTerminals/list", cursor=cursor
            )
            return page.data, page.next_cursor

        return tuple([terminal async for terminal in Pager("thread/backgroundTerminals/list", fetch)])

    async def terminate(self, process_id: str) -> bool:
        """End one.

        Args:
            process_id: Its ``process_id`` in the list, which is also that of the item which started it.

        Returns:
            Whether it was there to be ended.

        Raises:
            CodexError: As every request, and ``DecodeError``.
        """
        response: wire.ThreadBackgroundTerminalsTerminateResponse = await self._request(
            "thread/backgroundTerminals/terminate", processId=process_id
        )
        return response.terminated

    async def clean(self) -> None:
        """End all of them, whichever turn started them.

        Raises:
            CodexError: As every request.
        """
        await self._request("thread/backgroundTerminals/clean")
