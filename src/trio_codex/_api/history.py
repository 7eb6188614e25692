"""Page through the history of a thread. A whole history would arrive as a single line of any size (PROTOCOL Q18)."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import attrs

from trio_codex import wire
from trio_codex._api.options import check_thread_id
from trio_codex._api.paging import Pager
from trio_codex._values.turn_result import without_secrets

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from trio_codex._session.session import Session


class TurnsView(TypedDict, total=False):
    """Options for iterating over the turns of a thread.

    Attributes:
        items_view: How much of each turn's items to return: none, a summary (the default) or all.
        page_size: How many turns to request at a time.
        sort_direction: Newest first (``desc``, the default) or ``asc``.
    """

    items_view: wire.TurnItemsView | str | None
    page_size: int | None
    sort_direction: wire.SortDirection | str | None


class ItemsView(TypedDict, total=False):
    """Options for iterating over the items of a thread.

    Attributes:
        page_size: How many items to request at a time.
        sort_direction: Oldest first (``asc``, the default) or ``desc``.
        turn_id: Only the items of this turn.
    """

    page_size: int | None
    sort_direction: wire.SortDirection | str | None
    turn_id: str | None


def threads_of(
    list_page: Callable[[str | None], Awaitable[wire.ThreadListResponse]],
) -> Pager[wire.Thread]:
    """Iterate over stored threads, each one once.

    The server lists a thread more than once if it was reverted and then archived (once for each of its files), or if it
    changes during the iteration.
    """
    seen: set[str] = set()

    async def fetch(cursor: str | None) -> tuple[Sequence[wire.Thread], str | None]:
        page = await list_page(cursor)
        fresh: list[wire.Thread] = []
        for thread in page.data:
            if thread.id not in seen:
                seen.add(thread.id)
                fresh.append(thread)
        return fresh, page.next_cursor

    return Pager("thread/list", fetch)


def turns_of(session: Session, thread_id: str, view: TurnsView) -> Pager[wire.Turn]:
    """Iterate over the turns of a thread."""
    check_thread_id(thread_id)

    async def fetch(cursor: str | None) -> tuple[Sequence[wire.Turn], str | None]:
        params = wire.ThreadTurnsListParams(
            thread_id=thread_id,
            cursor=cursor,
            items_view=view.get("items_view"),
            limit=view.get("page_size"),
            sort_direction=view.get("sort_direction"),
        )
        page: wire.ThreadTurnsListResponse = await session.server.request("thread/turns/list", params)
        secrets = session.connection.secrets
        turns = [
            turn if turn.error is None else attrs.evolve(turn, error=without_secrets(turn.error, secrets))
            for turn in page.data
        ]
        return turns, page.next_cursor

    return Pager("thread/turns/list", fetch)


def items_of(session: Session, thread_id: str, view: ItemsView) -> Pager[wire.ThreadItemEntry]:
    """Iterate over the items of a thread."""
    check_thread_id(thread_id)

    async def fetch(cursor: str | None) -> tuple[Sequence[wire.ThreadItemEntry], str | None]:
        params = wire.ThreadItemsListParams(
            thread_id=thread_id,
            cursor=cursor,
            limit=view.get("page_size"),
            sort_direction=view.get("sort_direction"),
            turn_id=view.get("turn_id"),
        )
        page: wire.ThreadItemsListResponse = await session.server.request("thread/items/list", params)
        return page.data, page.next_cursor

    return Pager("thread/items/list", fetch)
