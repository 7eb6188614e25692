"""Rejoining a turn that this client has not started, or that it has left running, and ending it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import trio

from trio_codex._core.log import logger
from trio_codex._session.goal import NEXT_TURN_SECONDS
from trio_codex._session.left_behind import LOOK_SECONDS, LOOKS, pause_active_goal
from trio_codex._values.event import Event
from trio_codex.errors import CodexError, NoTurnRuns, RpcError

if TYPE_CHECKING:
    from trio_codex._session.session import Session
    from trio_codex._session.state import ThreadState, TurnState

GAP_METHOD: Final = "trio_codex/gap"
"""The method of the first event of a turn that was rejoined: the events before it are missing."""


def gap(turn: TurnState) -> Event:
    """Return the event that reports that earlier events of a turn are missing."""
    json = msgspec.json.encode({"threadId": turn.thread.id, "turnId": turn.id})
    return Event(GAP_METHOD, json, len(json))


async def find_turn(session: Session, thread: ThreadState, handle: object) -> TurnState:
    """Return the turn that runs on a thread, or the latest one if it has ended since the thread was opened.

    Args:
        session: The client.
        thread: The thread.
        handle: Its handle, whose scope may exit meanwhile.

    Raises:
        NoTurnRuns: There is none.
        ThreadClosed: The scope of the handle has exited.
        CodexError: As for any request.
    """
    await trio.lowlevel.checkpoint()
    for _ in range(LOOKS):
        if thread.turn is not None or thread.starting_turn_id is None:
            break
        await session.connection.sleep(LOOK_SECONDS)
        # A refresh would open the thread again.
        thread.check_open(handle)
        await session.history.refresh(thread)
        thread.check_open(handle)
    turn = thread.turn or thread.ended_turn
    if turn is None:
        raise NoTurnRuns(thread.id)
    if turn.is_partial and turn.ended.is_set():
        await session.history.complete(turn)
        thread.check_open(handle)
    return turn


async def follow(session: Session, turn: TurnState, seen: set[str]) -> None:
    """Receive the parked requests of a turn, and from now on the events and requests of its agents.

    Args:
        session: The client.
        turn: The rejoined turn.
        seen: The threads that were visited.

    Raises:
        CodexError: As for any request.
    """
    await trio.lowlevel.checkpoint()
    seen.add(turn.thread.id)
    if turn.has_parked and not turn.ended.is_set():
        await session.history.refresh(turn.thread)
        turn.has_parked = False
    for agent_id in [each for each in turn.reducer.children if each not in seen]:
        agent = session.threads.thread(agent_id)
        session.threads.adopt(agent, turn)
        if agent.turn is None and turn.is_partial:
            try:
                await session.history.refresh(agent, was_unsubscribed=True)
            except RpcError as exc:
                # The agent was closed, or has had no turn yet.
                logger.debug("agent %s: %s", agent_id, exc)
        if agent.turn is not None:
            await follow(session, agent.turn, seen)


@trio.lowlevel.enable_ki_protection
async def end_rejoined(session: Session, turn: TurnState) -> None:
    """End a turn with its agents and commands. If it pursues a goal, pause the goal first."""
    thread = turn.thread
    was_paused = await _pause_goal(session, thread)
    await session.ender.end_turn(turn)
    if not was_paused or turn.lost or turn.was_interrupted:
        return
    # The turn ended on its own, and the server may already have decided to start the next one.
    with session.timeouts.move_on_after(NEXT_TURN_SECONDS):
        while turn.thread.turn is None:
            await session.timeouts.sleep(LOOK_SECONDS)
    if (late := thread.turn) is not None and not late.is_ours:
        await session.ender.end_turn(late)


async def _pause_goal(session: Session, thread: ThreadState) -> bool:
    """Pause the goal of a thread, if it is active, within ``interrupt_grace``. Return whether it was."""
    problem: object = "no response within interrupt_grace"
    await trio.lowlevel.checkpoint()
    with session.timeouts.move_on_after(session.config.interrupt_grace):
        try:
            return await pause_active_goal(session.server, thread.id)
        except CodexError as exc:
            problem = exc
    logger.warning("the goal of thread %s may still be active: %s", thread.id, problem)
    return False
