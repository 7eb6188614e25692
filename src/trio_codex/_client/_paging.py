"""Lists that the server gives in pages: owns the iteration over all of them, a page at a time."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, Self, TypeVar

import trio

from trio_codex.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

T = TypeVar("T")


class Pager(Generic[T]):
    """An async iterator over a list of the server. It holds one page, and asks for the next one when that is used up.

    What is added or removed meanwhile may or may not be seen. If a request fails or is cancelled, iterating goes on from
    there the next time.

    Args:
        what: The method, for errors.
        fetch: Gives the page at a cursor, and the cursor of the next one; ``None`` is before the first and after the last.
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
        """Give the next element. A checkpoint.

        Raises:
            DecodeError: A page cannot be read, or points to itself as the next one.
            CodexError: As every request.
            trio.BusyResourceError: Another task is iterating.
        """
        if self._iterating:
            raise trio.BusyResourceError("another task is iterating over these pages")
        # Before the checkpoint, or two tasks would both get past it and ask for the same page.
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

    async def _turn_page(self) -> None:
        page, cursor = await self._fetch(self._cursor)
        if cursor is not None and cursor == self._cursor:
            raise DecodeError(self._what, "$.nextCursor", "the next page is this one again")
        self._page.extend(page)
        self._cursor, self._exhausted = cursor, cursor is None
