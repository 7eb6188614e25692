"""Iterate over lists that the server returns in pages."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, Self, TypeVar

import trio

from trio_codex.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

T = TypeVar("T")


class Pager(Generic[T]):
    """An async iterator over a list on the server. Holds one page, and requests the next one when that is exhausted.

    Elements added or removed during the iteration may or may not be seen. If a request fails or is cancelled, the next
    iteration continues from there.

    Args:
        what: The method, for error messages.
        fetch: Returns the page at a cursor, and the cursor of the next one; ``None`` means before the first page and
            after the last one.
    """

    def __init__(
        self, what: str, fetch: Callable[[str | None], Awaitable[tuple[Sequence[T], str | None]]]
    ) -> None:
        self._what = what
        self._fetch = fetch
        self._page: deque[T] = deque()
        self._cursor: str | None = None
        self._exhausted = False
        self._iterating = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """Return the next element. A checkpoint.

        Raises:
            DecodeError: A page is unreadable, or its cursor refers to itself.
            CodexError: As for any request.
            trio.BusyResourceError: Another task is iterating.
        """
        if self._iterating:
            raise trio.BusyResourceError("another task is iterating over these pages")
        # Set this before the checkpoint. Otherwise, two tasks could request the same page.
        self._iterating = True
        try:
            await trio.lowlevel.checkpoint()
            # A page may be empty without being the last.
            while not self._page and not self._exhausted:
                await self._turn_page()
        finally:
            self._iterating = False
        if not self._page:
            raise StopAsyncIteration
        return self._page.popleft()

    def take_buffered(self, limit: int) -> list[T]:
        """Return elements of the current page, at most ``limit`` of them, without a request."""
        return [self._page.popleft() for _ in range(min(limit, len(self._page)))]

    async def _turn_page(self) -> None:
        page, cursor = await self._fetch(self._cursor)
        if cursor is not None and cursor == self._cursor:
            raise DecodeError(self._what, "$.nextCursor", "the cursor refers to the same page")
        self._page.extend(page)
        self._cursor, self._exhausted = cursor, cursor is None
