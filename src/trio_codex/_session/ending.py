"""Ending a turn early: interrupt it, confirm that it ended, and end what it started elsewhere.

An accepted interrupt does not prove that the turn ended. A rejected one may only have come too early, and a second
interrupt for the same turn is never answered (PROTOCOL Q1, Q2). Interrupting a turn stops neither the agents it
spawned (Q24) nor commands already in the background. So the terminal event is the only proof, and everything else is
ended individually.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import trio

from trio_codex._core.log import logger
from trio_codex._link.services import without_group
from trio_codex._session.waiting import callbacks_of, wait_answered
from trio_codex._values.inputs import wire_input
from trio_codex.errors import CodexError, InvalidRequestError, RpcError, ServerBusyError
from trio_codex.wire import _convert

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_codex._link.call import Call
    from trio_codex._session.session import Session
    from trio_codex._session.turn_state import ThreadState, TurnState
    from trio_codex._values.inputs import TurnInput

FIRST_RETRY_SECONDS: Final = 0.003
LAST_RETRY_SECONDS: Final = 0.1
"""The server rejects interrupts and steers until it has announced the turn, for the first 15 to 40 ms (Q1)."""

CALLBACK_SHARE: Final = 0.25
"""Fraction of ``interrupt_grace`` for which cancelled callbacks may delay the interrupt."""

_OTHER_TURN_ID: Final = re.compile(r"but found `?([0-9A-Za-z-]+)`?")


# During close this runs in separate tasks, which have no other protection.
@trio.lowlevel.enable_ki_protection
async def end_turn(session: Session, turn: TurnState) -> None:
    """End a turn on the server, with its callbacks, agents and commands, within ``interrupt_grace``.

    After that the configuration decides: the server is killed, or the turn is abandoned as lost.
    """
    grace = session.config.interrupt_grace
    ended_there = False
    groups = callbacks_of(session.router, turn)
    with session.timeouts.move_on_after(grace) as scope:
        for callbacks in groups:
            callbacks.cancel()
        with session.timeouts.move_on_after(grace * CALLBACK_SHARE):
            await wait_answered(groups)
        if await _was_started(turn):
            await _end_on_server(session, turn)
        ended_there = True
        await wait_answered(groups)
    if not scope.cancelled_caught or session.connection.close_reason is not None:
        return
    if ended_there:
        # There is nothing to kill: the callback is user code, and the client's nursery keeps waiting for it.
        logger.error("turn %s was left while a callback of it does not end", turn.id)
    else:
        give_up(session, turn)


async def _end_on_server(session: Session, turn: TurnState) -> None:
    if turn.left_early:
        session.router.note_left(turn)
    early = not turn.ended.is_set()
    if early:
        await _interrupt_until_ended(session, turn)
    if early or turn.left_early or turn.was_interrupted:
        await end_offspring(session, turn, set())
    await trio.lowlevel.checkpoint()


async def _interrupt_until_ended(session: Session, turn: TurnState) -> None:
    """Interrupt a turn and wait until it ends, whatever the server answers. The caller sets the timeout."""
    await trio.lowlevel.checkpoint()
    while not turn.ended.is_set():
        try:
            await interrupt(session, turn)
        except ServerBusyError:
            # The request was retried until ``request_timeout``, which may be shorter than our timeout.
            continue
        except CodexError as exc:
            # If the connection ended, so has the turn. If the server rejected this, only the terminal event is proof.
            logger.warning("turn %s could not be interrupted: %s", turn.id or turn.active_id, exc)
        await turn.ended.wait()


def give_up(session: Session, turn: TurnState) -> None:
    """Stop waiting for a turn, or for what it started, to end on an unresponsive server."""
    name = turn.id or turn.active_id or "that was starting"
    what = "what it started" if turn.ended.is_set() else "it"
    if session.config.on_stuck_turn == "abandon":
        reason = (
            f"turn {name} was abandoned: {what} did not end within interrupt_grace and may still be running"
        )
        logger.error("%s", reason)
        turn.lose(reason)
        return
    reason = f"the server was given up: of turn {name} of thread {turn.thread.id}, {what} did not end within interrupt_grace"
    kill_server(session, reason)


def give_up_server(session: Session, what: str) -> None:
    """Stop waiting for something other than a turn to end, following ``on_stuck_turn``.

    Args:
        session: The client.
        what: What did not end, in one sentence.
    """
    if session.config.on_stuck_turn == "abandon":
        logger.error("%s, was abandoned, and may still be running", what)
    else:
        kill_server(session, f"the server was given up: {what}")


def kill_server(session: Session, reason: str) -> None:
    """End the connection, and kill the server if this client started it."""
    session.connection.end(session.broken(reason))
    if session.kill is not None:
        session.kill()


async def interrupt(session: Session, turn: TurnState) -> None:
    """Send interrupts until the server accepts one or the turn has ended."""
    params = {"threadId": turn.thread.id}
    turn.note_interrupt()

    async def settled(call: Call) -> None:
        # If the turn ends first, the response may never arrive (Q2).
        await wait_any(call.settled, turn.ended.wait)

    await _retry_until_accepted(
        session, turn, "turn/interrupt", lambda turn_id: {**params, "turnId": turn_id}, settled
    )


async def interrupt_soon(session: Session, turn: TurnState) -> None:
    """Interrupt a turn in a separate task, within ``interrupt_grace``. Its scope ends what the turn started."""
    with session.timeouts.move_on_after(session.config.interrupt_grace):
        await trio.lowlevel.checkpoint()
        try:
            await interrupt(session, turn)
        except CodexError as exc:
            logger.warning("turn %s could not be interrupted: %s", turn.id, exc)


def steering(session: Session, thread_id: str, value: TurnInput) -> Callable[[str], dict[str, object]]:
    """Return a function that builds the parameters of a steer for a given turn id."""
    items, tool_output = wire_input(value, session.absolute)
    if tool_output is not None:
        raise TypeError(
            "an ExternalMessage cannot steer a turn, only start one: wait for the end of this turn and pass it to "
            "thread.run(), or steer with its text as your own words"
        )
    encoded = [_convert.encode(item) for item in items]
    return lambda turn_id: {"threadId": thread_id, "expectedTurnId": turn_id, "input": encoded}


async def steer(session: Session, turn: TurnState, params: Callable[[str], dict[str, object]]) -> bool:
    """Send more input to a turn. Return whether it was accepted; it is not if the turn ended first.

    Args:
        session: The client.
        turn: The turn.
        params: See :func:`steering`.

    Raises:
        RpcError: The server rejected it for another reason.
        RequestTimeout: The server did not answer in time.
    """

    async def answered(call: Call) -> None:
        # Do not stop at the end of the turn: it may directly follow the acceptance.
        with session.timeouts.move_on_after(session.config.request_timeout):
            await call.settled()
            return
        raise session.connection.calls.overdue(call, session.config.request_timeout)

    return await _retry_until_accepted(session, turn, "turn/steer", params, answered)


async def _retry_until_accepted(
    session: Session,
    turn: TurnState,
    method: str,
    params: Callable[[str], dict[str, object]],
    settled: Callable[[Call], Awaitable[object]],
) -> bool:
    """Retry a request about the running turn until it is accepted or the turn ends. Return whether it was accepted.

    Args:
        session: The client.
        turn: The turn.
        method: The method of the request.
        params: Builds its parameters for a turn id.
        settled: Waits for the response for as long as one is expected.

    Raises:
        RpcError: It was rejected, but not for being early or for naming the wrong one of two turn ids.
    """
    await trio.lowlevel.checkpoint()
    delay = FIRST_RETRY_SECONDS
    while not turn.ended.is_set():
        turn_id = turn.active_id or turn.id
        if turn_id is not None:
            call = await session.begin(method, params(turn_id))
            try:
                await settled(call)
                if not call.answered:
                    return False
                await call.answer()
            except InvalidRequestError as exc:
                if turn.ended.is_set():
                    return False
                if other := _OTHER_TURN_ID.search(exc.message):
                    turn.active_id = other[1]
                elif "no active turn" not in exc.message:
                    raise
            else:
                return True
            finally:
                call.give_up()
        with trio.move_on_after(delay):
            await (turn.ended if turn.started.is_set() else turn.started).wait()
        delay = min(2 * delay, LAST_RETRY_SECONDS)
    return False


async def wait_any(*waits: Callable[[], Awaitable[object]]) -> None:  # noqa: ASYNC910  # leaving the nursery is the checkpoint
    """Wait until the first of several waits finishes. None of them may raise."""
    error = None
    try:
        async with trio.open_nursery() as nursery:
            for one in waits:
                nursery.start_soon(_wait_first, one, nursery.cancel_scope)
    except BaseException as exc:  # noqa: ASYNC103  # raised below, outside the handler
        error = without_group(exc)
    if error is not None:
        raise error


# Protected explicitly: a task does not inherit protection from the code that spawned it.
@trio.lowlevel.enable_ki_protection
async def _wait_first(wait: Callable[[], Awaitable[object]], scope: trio.CancelScope) -> None:
    await wait()
    scope.cancel()


async def _was_started(turn: TurnState) -> bool:
    """Wait for the response to ``turn/start`` if it is pending. Return whether there is a turn to end."""
    await trio.lowlevel.checkpoint()
    call = turn.start
    if call is None:
        return True
    await wait_any(call.settled, turn.ended.wait)
    if not call.answered:
        return True
    try:
        turn.bind(await call.answer())
    except RpcError:
        turn.never_started()
        return False
    except CodexError:
        # The response is unreadable or the connection ended: the turn may be running under the id in its events.
        return turn.active_id is not None or turn.ended.is_set()
    return turn.only_announced or turn.active_id is not None


async def end_offspring(session: Session, turn: TurnState, seen: set[str]) -> None:
    """End the commands that a turn left running and, recursively, the agents it spawned."""
    await trio.lowlevel.checkpoint()
    for process_id in turn.reducer.terminals.values():
        await _terminate(session, turn.thread.id, process_id)
    for child_id in turn.reducer.children:
        child = session.router.find(child_id)
        if child is not None and child_id not in seen:
            seen.add(child_id)
            await _end_child(session, child, seen)


async def end_orphan(session: Session, turn: TurnState) -> None:
    """End a turn announced after its scope exited: one of an agent that was being spawned, or one of ours."""
    with session.timeouts.move_on_after(session.config.interrupt_grace):
        await _end_child(session, turn.thread, {turn.thread.id})


async def _end_child(session: Session, child: ThreadState, seen: set[str]) -> None:
    await trio.lowlevel.checkpoint()
    turn = child.turn
    if turn is not None and (turn.is_over or not turn.owned):
        await _interrupt_until_ended(session, turn)
    for past in child.past_turns:
        await end_offspring(session, past, seen)


async def _terminate(session: Session, thread_id: str, process_id: str) -> None:
    await trio.lowlevel.checkpoint()
    if session.config.experimental_api:
        # A rejection means that it ended by itself or with the turn.
        params = {"threadId": thread_id, "processId": process_id}
        await session.end("thread/backgroundTerminals/terminate", params)
