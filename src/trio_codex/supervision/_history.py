"""The history of a thread: find the turn of a message, roll back a doubtful tail, and create results."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from trio_codex import TurnResult, TurnStatus, errors, wire
from trio_codex.supervision._spending import total_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trio_codex import Pager, Thread

PAGE: Final = 20
"""Turns per page."""

IN_PROGRESS: Final = wire.TurnStatus.in_progress

TAIL_PAGE: Final = 4
"""Turns per page when only the newest ones matter."""


class History:
    """The turns of an open thread, read once, newest first, and only as far as needed.

    Args:
        thread: The thread.
    """

    def __init__(self, thread: Thread) -> None:
        self._thread = thread
        self._pager: Pager[wire.Turn] = thread.turns(items_view="full", page_size=PAGE)
        self._seen: list[Found] = []
        # Several tasks may call SupervisedThread.fate() concurrently.
        self._reading = trio.Lock()

    async def find(self, message: str, turn_id: str | None, anchor: str | None = None) -> Found | None:
        """Return the turn that a message started; ``None`` if there is none.

        Args:
            message: The id of the message.
            turn_id: The id of the turn, if known; with it, the turn is found even if it does not contain the message.
            anchor: The newest turn that is known to be older, if any.
        """
        async with self._reading:
            for number in itertools.count():
                if number == len(self._seen):
                    turn = await self._next()
                    if turn is None:
                        break
                    self._seen.append(Found.of(turn))
                found = self._seen[number]
                if message in found.messages or found.turn.id == turn_id:
                    return found
                if found.turn.id == anchor:
                    break
            return None

    async def newer_than(self, anchor: str | None) -> list[Found]:
        """Return the turns that are newer than a given one."""
        await self.find("", None, anchor)
        ids = [found.turn.id for found in self._seen]
        return self._seen[: ids.index(anchor) if anchor in ids else None]

    async def _next(self) -> wire.Turn | None:
        try:
            return await anext(self._pager, None)
        except errors.InvalidRequestError as exc:
            # A thread that has not been stored yet has no turns.
            if "not materialized" not in exc.message:
                raise
        await trio.lowlevel.checkpoint()
        return None


@attrs.frozen
class Found:
    """A turn of the history.

    Attributes:
        turn: The turn, without its items.
        messages: The ids of the user's messages in it.
        is_empty: Whether it has no items.
    """

    turn: wire.Turn
    messages: tuple[str, ...]
    is_empty: bool

    @classmethod
    def of(cls, turn: wire.Turn) -> Found:
        """Describe a turn."""
        return cls(attrs.evolve(turn, items=()), messages_of(turn), not turn.items)


def messages_of(turn: wire.Turn) -> tuple[str, ...]:
    """Return the ids of the user's messages in a turn."""
    items = (item for item in turn.items if isinstance(item, wire.UserMessageThreadItem))
    return tuple(item.client_id for item in items if item.client_id is not None)


async def take_back_tail(thread: Thread, anchor: str | None) -> str | None:
    """Roll back turns at the end of the history that a death left without items. Return the newest remaining turn.

    The message of such a turn may be in the context of the model, although the history does not show it. The model
    was not called for it.

    Args:
        thread: The thread, resumed.
        anchor: The newest turn before the latest message was sent. It is kept.
    """
    doubtful = None
    newest = None
    async for turn in thread.turns(items_view="full", page_size=TAIL_PAGE):
        # On an attached server, the turn may still be about to start.
        if turn.id == anchor or turn.items or turn.status not in (TurnStatus.interrupted, IN_PROGRESS):
            newest = turn.id
            break
        doubtful = turn.id
    if doubtful is not None:
        await thread.revert(doubtful)
    return newest


def result_of(thread_id: str, turn: wire.Turn, items: Iterable[wire.ThreadItem]) -> TurnResult[None]:
    """Create the result of a turn from the history."""
    items = tuple(items)
    messages = [item for item in items if isinstance(item, wire.AgentMessageThreadItem)]
    final = [item for item in messages if item.phase == "final_answer"]
    plain = [item for item in messages if item.phase is None]
    last = next(iter([*reversed(final), *reversed(plain)]), None)
    return TurnResult(
        id=turn.id,
        thread_id=thread_id,
        status=TurnStatus(turn.status) if turn.status in set(TurnStatus) else turn.status,
        error=turn.error,
        final_response=None if last is None else last.text,
        items=items,
        started_at=turn.started_at,
        completed_at=turn.completed_at,
        duration_ms=turn.duration_ms,
    )


def checked(result: TurnResult[Any], output_type: object) -> TurnResult[Any]:
    """Return the result of a prompt that neither failed nor was interrupted before its output was complete.

    Raises:
        TurnFailed: Its turn has failed.
        OutputError: It was interrupted, and has no value of the type.
    """
    if result.status == TurnStatus.failed:
        raise errors.TurnFailed(result)
    if output_type is not None and result.output is None and result.status != TurnStatus.completed:
        raise errors.OutputError(result.final_response, f"the turn was {result.status}", result)
    return result


def combined(parts: Sequence[TurnResult[Any]]) -> TurnResult[Any]:
    """Return the combined result of the turns of a prompt."""
    last = parts[-1]
    if len(parts) == 1:
        return last
    responses = [part.final_response for part in parts if part.final_response is not None]
    return attrs.evolve(
        last,
        final_response=responses[-1] if responses else None,
        items=tuple(item for part in parts for item in part.items),
        turn_usage=total_of(*(part.turn_usage for part in parts)),
        agents_usage=total_of(*(part.agents_usage for part in parts)),
        parts=tuple(parts),
    )
