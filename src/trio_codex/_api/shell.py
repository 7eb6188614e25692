"""Run one of the user's shell commands in a thread: identify its item, and end it.

The server responds immediately and without an id (PROTOCOL Q5). On an idle thread the command is its own turn. During an
open turn it is an item of that turn, which cannot be stopped separately (Q27).
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import trio

from trio_codex import wire
from trio_codex._api.turn import TurnHandle, open_turn
from trio_codex._core.json import object_of, parse_object, string_of
from trio_codex._values.sink import EventSink
from trio_codex.errors import TurnFailed
from trio_codex.wire import _convert

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from trio_codex._session.session import Session
    from trio_codex._session.state import ThreadState
    from trio_codex._values.event import Event

METHOD: Final = "thread/shellCommand"

TIME_LIMIT_MS: Final = 10 * 365 * 24 * 3600 * 1000
"""Ten years. By default the server applies a limit of one hour, and it has no value for "no limit"."""


class _ShellItem(EventSink):
    """Watches a thread's events for one command's item.

    Attributes:
        turn_id: The id of the turn that the item belongs to.
        completed: The item, once it has completed.
        known: Set when the item has started or can no longer start.
        over: Set when the item has completed or can no longer complete.
    """

    def __init__(self) -> None:
        self.turn_id: str | None = None
        self.completed: dict[str, Any] | None = None
        self.known = trio.Event()
        self.over = trio.Event()
        self._item_id: str | None = None
        self._error: Callable[[], Exception] | None = None

    def put(self, event: Event) -> None:
        if event.method == "turn/completed":
            self.known.set()
        elif event.method in ("item/started", "item/completed"):
            params = parse_object(event.json)
            item = object_of(params.get("item"))
            if self._item_id is None and item.get("source") == "userShell":
                self._item_id, self.turn_id = str(item.get("id")), string_of(params.get("turnId"))
                self.known.set()
            if event.method == "item/completed" and self._item_id == str(item.get("id")):
                self.completed = item
                self.over.set()

    def end(self, error: Callable[[], Exception] | None = None) -> None:
        self._error = error
        self.known.set()
        self.over.set()

    async def wait(self) -> None:
        await self.over.wait()
        if self.completed is None and self._error is not None:
            raise self._error()


async def run_shell_command(
    session: Session, thread: object, state: ThreadState, command: str
) -> wire.CommandExecutionThreadItem:
    """Run a command to its end. See :meth:`Thread.shell_command`."""
    params = wire.ThreadShellCommandParams(thread_id=state.id, command=command, timeout_ms=TIME_LIMIT_MS)
    found = _ShellItem()
    async with AsyncExitStack() as stack:
        # Hold the lock until the item is known, because the items of two commands differ only in their order.
        async with state.shell_lock:
            state.listeners.append(found)
            stack.callback(_stop_listening, session, state, found)
            turn = None
            if state.turn is None and state.sequence is None:
                scope = open_turn(
                    TurnHandle, session, thread, state, METHOD, params, named_by_announcement=True
                )
                turn = await stack.enter_async_context(scope)
            else:
                await stack.enter_async_context(_join_turn(session, state, params, found))
            await found.known.wait()
        if turn is None:
            await found.wait()
        elif (result := await turn.wait()) and found.completed is None:
            raise TurnFailed(result)
    item: wire.CommandExecutionThreadItem = _convert.decode(wire.CommandExecutionThreadItem, found.completed)
    return item


@asynccontextmanager
async def _join_turn(
    session: Session, state: ThreadState, params: wire.Wire, found: _ShellItem
) -> AsyncGenerator[None]:
    """Run a command in the turn that is open."""
    joined = state.turn
    await session.server.request(METHOD, params)
    try:
        yield
    except BaseException:
        # If the turn ended before the server received the request, the command has its own turn.
        turn = state.turn
        if turn is not None and turn is not joined and not turn.owned and turn.id == found.turn_id:
            await session.services.finish(session.ender.end_turn, turn)  # noqa: ASYNC102  # shielded and bounded inside
        raise


def _stop_listening(session: Session, state: ThreadState, found: _ShellItem) -> None:
    state.listeners.remove(found)
    session.threads.discard_if_unused(state)
