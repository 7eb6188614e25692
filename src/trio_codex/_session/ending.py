"""End a turn early: interrupt it, confirm that it ended, and end the agents and commands that it started.

An accepted interrupt does not prove that the turn ended. A rejected one may have come too early, and a second interrupt
for the same turn is never answered (PROTOCOL Q1, Q2). So only the terminal event proves that the turn has ended. An
interrupt stops neither the agents that the turn spawned (Q24) nor its background commands, so the client ends these
separately.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import trio

from trio_codex._core.log import logger
from trio_codex._link.services import wait_any
from trio_codex._session.waiting import callbacks_of, wait_answered, working_turns
from trio_codex.errors import CodexError, InvalidRequestError, RpcError, ServerBusyError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_codex._link.call import Call
    from trio_codex._link.dispatch import CallbackGroup
    from trio_codex._session.server import Server
    from trio_codex._session.state import ThreadState, TurnState
    from trio_codex._session.threads import Threads

FIRST_RETRY_SECONDS: Final = 0.003
LAST_RETRY_SECONDS: Final = 0.1
"""The server rejects interrupts and steers until it has announced the turn, for the first 15 to 40 ms (Q1)."""

CALLBACK_SHARE: Final = 0.25
"""Fraction of ``interrupt_grace`` for which cancelled callbacks may delay the interrupt."""

_OTHER_TURN_ID: Final = re.compile(r"but found `?([0-9A-Za-z-]+)`?")


class TurnEnder:
    """Ends turns of one client, and what they started."""

    def __init__(self, server: Server, threads: Threads) -> None:
        self._server = server
        self._threads = threads

    # During close this runs in separate tasks, which have no other protection.
    @trio.lowlevel.enable_ki_protection
    async def end_turn(self, turn: TurnState) -> None:
        """End a turn on the server, with its callbacks, agents and commands, within ``interrupt_grace``.

        If that does not succeed, kill the server or abandon the turn as lost, depending on ``on_stuck_turn``.
        """
        grace = self._server.config.interrupt_grace
        ended_there = False
        groups = callbacks_of(self._threads, turn)
        with self._server.timeouts.move_on_after(grace) as scope:
            for callbacks in groups:
                callbacks.cancel()
            with self._server.timeouts.move_on_after(grace * CALLBACK_SHARE):
                await wait_answered(groups)
            if await self._was_started(turn):
                await self._end_on_server(turn)
            ended_there = True
            await wait_answered(groups)
        if not scope.cancelled_caught or self._server.connection.close_reason is not None:
            return
        if ended_there:
            # Killing the server would not help: the callback is user code, and the client's nursery waits for it.
            logger.error("turn %s has ended, but one of its callbacks is still running", turn.id)
        else:
            self.give_up(turn)

    async def _end_on_server(self, turn: TurnState) -> None:
        if turn.machine.was_left:
            self._threads.note_left(turn)
        early = not turn.ended.is_set()
        if early:
            await self._interrupt_until_ended(turn)
        if early or turn.machine.was_left or turn.was_interrupted:
            await self.end_offspring(turn, set())
        await trio.lowlevel.checkpoint()

    async def _interrupt_until_ended(self, turn: TurnState) -> None:
        """Interrupt a turn and wait until it ends, even if the server rejects it. The caller sets the timeout."""
        await self._insist_on_interrupt(turn)
        # If the connection ended, so has the turn. If the server rejected the interrupt, wait for the terminal event.
        await turn.ended.wait()

    async def _insist_on_interrupt(self, turn: TurnState) -> None:
        """Interrupt a turn, however long the server is overloaded. A rejection is logged. The caller sets the timeout."""
        await trio.lowlevel.checkpoint()
        while not turn.ended.is_set():
            try:
                await self.interrupt(turn)
            except ServerBusyError:
                # The request was retried until ``request_timeout``, which may be shorter than our timeout.
                continue
            except CodexError as exc:
                logger.warning("turn %s could not be interrupted: %s", turn.machine.active_id, exc)
            return

    def release(self, turn: TurnState) -> list[CallbackGroup]:
        """Cancel the callbacks of a turn and let it continue without its scope; return the callbacks."""
        groups = callbacks_of(self._threads, turn)
        for one in (turn, *working_turns(self._threads, turn)):
            one.park_requests()
        turn.release()
        return groups

    async def wait_cancelled(self, turn: TurnState, groups: list[CallbackGroup]) -> None:
        """Wait until the cancelled callbacks of a turn have ended, within ``interrupt_grace``."""
        with self._server.timeouts.move_on_after(self._server.config.interrupt_grace) as scope:
            await wait_answered(groups)
        if scope.cancelled_caught:
            logger.error("the scope of turn %s exited, but one of its callbacks is still running", turn.id)

    def give_up(self, turn: TurnState) -> None:
        """Stop waiting for a turn, or for its agents and commands, to end on an unresponsive server."""
        name = turn.id or turn.machine.active_id or "(starting)"
        what = f"turn {name} of thread {turn.thread.id}"
        if turn.ended.is_set():
            what = f"the work that {what} started"
        problem = f"{what} did not end within interrupt_grace"
        if self._server.config.on_stuck_turn == "abandon":
            reason = f"{problem}; it was abandoned and may still be running"
            logger.error("%s", reason)
            turn.lose(reason)
            return
        self._server.connection.give_up(f"the server was abandoned: {problem}")

    def give_up_server(self, what: str) -> None:
        """Stop waiting for work other than a turn to end, as ``on_stuck_turn`` specifies.

        Args:
            what: What did not end, as a clause for the error.
        """
        if self._server.config.on_stuck_turn == "abandon":
            logger.error("%s; it was abandoned and may still be running", what)
        else:
            self._server.connection.give_up(f"the server was abandoned: {what}")

    async def interrupt(self, turn: TurnState) -> None:
        """Send interrupts until the server accepts one or the turn has ended."""
        params = {"threadId": turn.thread.id}
        turn.note_interrupt()

        async def settled(call: Call) -> None:
            # If the turn ends first, the response may never arrive (Q2).
            await wait_any(call.settled, turn.ended.wait)

        await self._retry_until_accepted(
            turn, "turn/interrupt", lambda turn_id: {**params, "turnId": turn_id}, settled
        )

    def interrupt_soon(self, turn: TurnState) -> None:
        """Interrupt a turn in a separate task, within ``interrupt_grace``. Its scope ends what the turn started."""
        self._server.services.start_service(self._interrupt_in_time, turn)

    async def _interrupt_in_time(self, turn: TurnState) -> None:
        with self._server.timeouts.move_on_after(self._server.config.interrupt_grace) as scope:
            await self._insist_on_interrupt(turn)
        if scope.cancelled_caught:
            logger.warning("turn %s could not be interrupted within interrupt_grace", turn.id)

    async def steer(self, turn: TurnState, params: Callable[[str], dict[str, object]]) -> bool:
        """Send more input to a turn. Return whether it was accepted; it is not if the turn ended first.

        Raises:
            RpcError: The server rejected it for another reason.
            RequestTimeout: The server did not answer in time.
        """

        async def answered(call: Call) -> None:
            # Do not stop at the end of the turn: it may directly follow the acceptance.
            await call.answer_within(self._server.config.request_timeout)

        return await self._retry_until_accepted(turn, "turn/steer", params, answered)

    async def _retry_until_accepted(
        self,
        turn: TurnState,
        method: str,
        params: Callable[[str], dict[str, object]],
        settled: Callable[[Call], Awaitable[object]],
    ) -> bool:
        """Retry a request about the running turn until it is accepted or the turn ends. Return whether it was accepted.

        ``params`` builds the parameters for a turn id. ``settled`` waits for the response while one can arrive.

        Raises:
            RpcError: It was rejected for a reason other than being too early or using the wrong turn id.
        """
        await trio.lowlevel.checkpoint()
        delay = FIRST_RETRY_SECONDS
        while not turn.ended.is_set():
            turn_id = turn.machine.active_id or turn.id
            if turn_id is not None:
                call = await self._server.begin(method, params(turn_id))
                try:
                    await settled(call)
                    if not call.answered:
                        return False
                    await call.answer()
                except InvalidRequestError as exc:
                    if turn.ended.is_set():
                        return False
                    if other := _OTHER_TURN_ID.search(exc.message):
                        turn.machine.rename(other[1])
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

    async def _was_started(self, turn: TurnState) -> bool:
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
            # The response is unreadable or the connection ended. The turn may be running, and its events have the id.
            return turn.machine.active_id is not None or turn.ended.is_set()
        return turn.machine.can_be_ended

    async def end_offspring(self, turn: TurnState, seen: set[str]) -> None:
        """End the commands that a turn left running and, recursively, the agents it spawned."""
        await trio.lowlevel.checkpoint()
        for process_id in turn.reducer.terminals.values():
            await self._terminate(turn.thread.id, process_id)
        for child_id in turn.reducer.children:
            child = self._threads.find(child_id)
            if child is not None and child_id not in seen:
                seen.add(child_id)
                await self._end_child(child, seen)

    def end_orphan(self, turn: TurnState) -> None:
        """End a turn that was announced after its scope exited, in a separate task.

        This happens if an agent was being spawned, or if the response to ``turn/start`` was unreadable.
        """
        self._server.services.start_service(self._end_orphan, turn)

    async def _end_orphan(self, turn: TurnState) -> None:
        with self._server.timeouts.move_on_after(self._server.config.interrupt_grace):
            seen = {turn.thread.id}
            await self._end_child(turn.thread, seen)
            # No turn of this client spawned it any more, so its thread has not kept it.
            await self.end_offspring(turn, seen)

    async def _end_child(self, child: ThreadState, seen: set[str]) -> None:
        await trio.lowlevel.checkpoint()
        turn = child.turn
        if turn is not None and (turn.machine.is_cleaned_up or not turn.is_ours):
            await self._interrupt_until_ended(turn)
        for past in child.past_turns:
            await self.end_offspring(past, seen)

    async def _terminate(self, thread_id: str, process_id: str) -> None:
        await trio.lowlevel.checkpoint()
        if self._server.config.experimental_api:
            # A rejection means that the command ended on its own or with the turn.
            params = {"threadId": thread_id, "processId": process_id}
            await self._server.end("thread/backgroundTerminals/terminate", params)
