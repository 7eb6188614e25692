"""Ending the turns that a lost connection has left running on a server that others use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from trio_codex._core.json import object_of
from trio_codex._core.log import logger
from trio_codex._session.history import read_newest_turn
from trio_codex._session.server import parse_result
from trio_codex._session.snapshot import IN_PROGRESS, may_be_starting
from trio_codex.errors import (
    CodexError,
    InternalRpcError,
    InvalidRequestError,
    MethodNotFoundError,
    RpcError,
    ServerBusyError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_codex._core.rpc import Junk, Notification, OversizeNotification, ServerRequest
    from trio_codex._link.call import CloseReason
    from trio_codex._session.server import Server
    from trio_codex._session.state import ThreadState

LOOK_SECONDS: Final = 0.05
"""Interval between queries. The server announces a turn within 40 ms of the request to start it."""

LOOKS: Final = 20
"""Number of queries for a turn that is neither running nor known to have ended."""


class LeftTurn(msgspec.Struct, frozen=True, eq=False):
    """A turn of this client, or a goal with its turns, whose connection was lost.

    Attributes:
        thread_id: The id of its thread.
        turn_ids: The ids under which it may be running; empty for a goal, or if the response to its start was also lost.
        earlier_ids: Ids of earlier turns of the thread, which had ended.
        is_goal: Whether the server starts turns on its own until the goal is paused.
        is_rejoined: Whether it is a turn of another client that this client was to end, and that may pursue a goal.
    """

    thread_id: str
    turn_ids: frozenset[str]
    earlier_ids: frozenset[str]
    is_goal: bool = False
    is_rejoined: bool = False

    @classmethod
    def on(cls, thread: ThreadState) -> LeftTurn | None:
        """Return what this client may have running on a thread; ``None`` if there is nothing."""
        turn, earlier_ids = thread.turn, frozenset(thread.past_turn_ids)
        if thread.sequence is not None:
            return cls(thread.id, frozenset(), earlier_ids, is_goal=True)
        if turn is None or not turn.ends_with_scope or (turn.start is not None and not turn.start.sent):
            return None
        return cls(thread.id, frozenset(turn.machine.ids()), earlier_ids, is_rejoined=not turn.is_ours)


class NullReceiver:
    """The receiver of a connection that only sends requests. It leaves the server's requests to other clients."""

    def on_notifications(self, notifications: Sequence[Notification]) -> None:
        """Ignore them."""

    def on_oversize(self, notification: OversizeNotification) -> None:
        """Ignore it."""

    def on_server_request(self, request: ServerRequest) -> None:
        """Leave the request to other clients."""

    def on_junk(self, junk: Junk) -> None:
        """Ignore it."""

    def on_lines_end(self) -> int:
        """Return 0: there are no consumers."""
        return 0

    def on_close(self, reason: CloseReason) -> None:
        """Do nothing: nothing waits."""


async def end_left_turns(server: Server, turns: list[LeftTurn]) -> None:
    """Interrupt these turns over another connection, and wait until they have ended. The caller sets the timeout.

    Args:
        server: The server.
        turns: The turns to interrupt. Those that have ended are removed.

    Raises:
        CodexError: As for any request.
    """
    errors: list[CodexError] = []

    async def end(turn: LeftTurn) -> None:
        try:
            await _end(server, turn)
        except CodexError as exc:
            await trio.lowlevel.checkpoint()
            errors.append(exc)
        else:
            turns.remove(turn)

    async with trio.open_nursery() as nursery:
        for turn in list(turns):
            nursery.start_soon(end, turn)
    if errors:
        raise errors[0]


async def _end(server: Server, turn: LeftTurn) -> None:
    await trio.lowlevel.checkpoint()
    if turn.is_goal:
        await _pause(server, turn.thread_id)
    elif turn.is_rejoined:
        await pause_active_goal(server, turn.thread_id)
    for look in range(LOOKS):
        newest = None
        try:
            newest = await _newest(server, turn)
        except InternalRpcError as exc:
            # The server has created the file of the thread, but has not written its first line yet.
            if look == LOOKS - 1:
                raise
            logger.debug("thread %s: %s", turn.thread_id, exc)
        if newest is not None and newest.get("status") == IN_PROGRESS:
            await _interrupt(server, turn.thread_id, str(newest.get("id")))
            if not turn.is_goal:
                return
            # A goal that is paused between turns may get one more turn.
        elif newest is not None and turn.turn_ids and not may_be_starting(newest):
            # If no id is known, the newest turn may be an earlier one that this client never saw.
            return
        await server.timeouts.sleep(LOOK_SECONDS)


async def _pause(server: Server, thread_id: str) -> None:
    try:
        await server.insist("thread/goal/set", {"threadId": thread_id, "status": "paused"})
    except InvalidRequestError as exc:
        # The goal has ended, or was never set.
        await trio.lowlevel.checkpoint()
        logger.debug("the goal of thread %s: %s", thread_id, exc)


async def pause_active_goal(server: Server, thread_id: str) -> bool:
    """Pause the goal of a thread if it is active. Return whether it was. The caller sets the timeout.

    Raises:
        CodexError: It may still be active.
    """
    await trio.lowlevel.checkpoint()
    try:
        answer = await server.insist("thread/goal/get", {"threadId": thread_id}, parse_result)
    except RpcError as exc:
        # The thread cannot have a goal.
        await trio.lowlevel.checkpoint()
        logger.debug("the goal of thread %s: %s", thread_id, exc)
        return False
    is_active = object_of(object_of(answer).get("goal")).get("status") == "active"
    if is_active:
        await _pause(server, thread_id)
    return is_active


async def _interrupt(server: Server, thread_id: str, turn_id: str) -> None:
    """Interrupt a turn, and wait until it has ended."""
    while True:
        try:
            await server.insist("turn/interrupt", {"threadId": thread_id, "turnId": turn_id})
        except InvalidRequestError as exc:
            # The turn has not been announced yet, or has ended.
            logger.debug("turn %s: %s", turn_id, exc)
        await server.timeouts.sleep(LOOK_SECONDS)
        newest = await _newest(server, LeftTurn(thread_id, frozenset({turn_id}), frozenset()))
        if newest is None or newest.get("status") != IN_PROGRESS:
            return


async def _newest(server: Server, turn: LeftTurn) -> dict[str, Any] | None:
    """Return the turn as the server stores it, or ``None`` if it is not the newest of its thread."""
    while True:
        await trio.lowlevel.checkpoint()
        try:
            newest = await read_newest_turn(server, turn.thread_id)
            break
        except (InvalidRequestError, MethodNotFoundError) as exc:
            # A thread without a turn is not stored, and a turn that was just requested cannot be listed.
            logger.debug("thread %s: %s", turn.thread_id, exc)
            return None
        except ServerBusyError as exc:
            logger.debug("thread %s: %s", turn.thread_id, exc)
    turn_id = newest.get("id")
    if not isinstance(turn_id, str):
        return None
    # A review that runs is listed under its second id, which the client may not have received.
    ids = {turn_id, newest.get("rootTurnId")}
    is_it = not ids.isdisjoint(turn.turn_ids) if turn.turn_ids else turn_id not in turn.earlier_ids
    return newest if is_it else None


def describe(turns: Sequence[LeftTurn]) -> str:
    """Return the names of these turns for a log record."""
    return ", ".join(
        "/".join(sorted(turn.turn_ids)) or f"the one requested on thread {turn.thread_id}" for turn in turns
    )
