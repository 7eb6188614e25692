"""Threads: start turns in a thread, fork it, and close it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, cast, overload

import trio

from trio_codex import wire
from trio_codex._api import thread_requests
from trio_codex._api.goal import GoalHandle, open_goal
from trio_codex._api.options import check_given, turn_params
from trio_codex._api.shell import run_shell_command
from trio_codex._api.stored_thread import StoredThread
from trio_codex._api.turn import TurnHandle, open_turn
from trio_codex._values.turn_result import OutputT_co, TurnStatus
from trio_codex._values.versions import check_turn
from trio_codex.errors import OutputError, ThreadClosed, TurnFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType, UnionType

    from trio_codex._api.options import ThreadForkOptions, TurnOptions
    from trio_codex._api.thread_requests import Opened
    from trio_codex._session.session import Session
    from trio_codex._session.state import TurnState
    from trio_codex._values.inputs import TurnInput
    from trio_codex._values.turn_result import TurnResult
    from trio_codex.policies import Policy

T = TypeVar("T")


class Turn(TurnHandle[OutputT_co]):
    """One turn of a thread, inside ``async with thread.turn(…)`` or ``async with thread.rejoin()``.

    Iterate over it for its events, or over :meth:`text` for its text. Both end with the turn and consume the same
    buffer, so only one task at a time may iterate. Breaking out of the iteration does not end the turn; leaving the
    scope of :meth:`Thread.turn` does, unless ``leave_running`` is set.
    """

    @property
    def thread(self) -> Thread:
        """The thread of the turn."""
        return cast("Thread", self._opener)


class Goal(GoalHandle):
    """A goal of a thread, inside ``async with thread.goal(…)``: one scope for several turns run by the server.

    Iterate over it for the events of all its turns, or over :meth:`text` for their text. Both end with the last turn
    and consume the same buffer, so only one task at a time may iterate. Breaking out of the iteration does not end
    the goal; leaving its scope does.
    """

    @property
    def thread(self) -> Thread:
        """The thread of the goal."""
        return cast("Thread", self._opener)


class Thread(StoredThread):
    """One conversation with an agent, stored by the server.

    Created by :meth:`Codex.thread_start`, :meth:`Codex.thread_resume` and :meth:`Codex.thread_fork`. Using it as an
    async context manager is optional; leaving that scope ends the turn this handle started, unless it was started with
    ``leave_running``. When the last handle of a thread in this client exits, the thread's background terminals are also
    ended and the client unsubscribes from it.

    Attributes:
        info: The server's description of the thread when it was opened.
    """

    def __repr__(self) -> str:
        return f"<Thread {self.id}{'' if self._is_open else ', closed'}>"

    # -- turns -------------------------------------------------------------------------------------------------

    @overload
    async def run(
        self, value: TurnInput, *, output_type: None = None, **options: Unpack[TurnOptions]
    ) -> TurnResult[None]: ...
    @overload
    async def run(
        self, value: TurnInput, *, output_type: type[T], **options: Unpack[TurnOptions]
    ) -> TurnResult[T]: ...
    @overload
    async def run(
        self, value: TurnInput, *, output_type: UnionType, **options: Unpack[TurnOptions]
    ) -> TurnResult[Any]: ...
    async def run(
        self,
        value: TurnInput,
        *,
        output_type: type[object] | UnionType | None = None,
        **options: Unpack[TurnOptions],
    ) -> TurnResult[Any]:
        """Run a turn to its end.

        If this times out, the partial result is lost; use :meth:`turn` to keep it.

        Args:
            value: The input.
            output_type: The type of the final response: an attrs class, a dataclass, a ``TypedDict``, or a
                combination of those. The agent receives its JSON Schema, and ``output`` of the result is the parsed
                value.
            **options: See :class:`TurnOptions`.

        Returns:
            The result of a turn that was completed or interrupted.

        Raises:
            TurnFailed: The turn failed.
            OutputError: The final response does not match ``output_type``, or the turn was interrupted before there
                was one.
            TurnLost: The connection ended first.
            TurnActive: The thread has an open turn.
            TurnStalled: The turn was silent for longer than ``idle_limit``.
            ThreadClosed: The thread's scope has exited.
            PolicyError: A policy callback raised, or returned something that is not a decision.
            BudgetExceeded: The turn exceeded a budget, or a budget was already used up.
            ValueError: Options conflict; nothing was sent.
            TypeError: An argument has the wrong type, or a model cannot be constrained to ``output_type``; nothing
                was sent.
            CodexError: As for any request.
        """
        result = await _to_end(self._turn(value, output_type, options))
        if output_type is not None and result.output is None and result.status != TurnStatus.completed:
            raise OutputError(result.final_response, f"the turn was {result.status}", result)
        return result

    @overload
    def turn(
        self,
        value: TurnInput,
        *,
        output_type: None = None,
        leave_running: bool = False,
        **options: Unpack[TurnOptions],
    ) -> AbstractAsyncContextManager[Turn[None]]: ...
    @overload
    def turn(
        self,
        value: TurnInput,
        *,
        output_type: type[T],
        leave_running: bool = False,
        **options: Unpack[TurnOptions],
    ) -> AbstractAsyncContextManager[Turn[T | None]]: ...
    @overload
    def turn(
        self,
        value: TurnInput,
        *,
        output_type: UnionType,
        leave_running: bool = False,
        **options: Unpack[TurnOptions],
    ) -> AbstractAsyncContextManager[Turn[Any]]: ...
    def turn(
        self,
        value: TurnInput,
        *,
        output_type: type[object] | UnionType | None = None,
        leave_running: bool = False,
        **options: Unpack[TurnOptions],
    ) -> AbstractAsyncContextManager[Turn[Any]]:
        """Run a turn as a scope.

        If the scope exits before the turn ends, the turn is interrupted on the server, along with the agents and
        commands it started. The scope waits for confirmation that they have ended, within ``interrupt_grace``.

        Args:
            value: The input.
            output_type: The type of the final response: an attrs class, a dataclass, a ``TypedDict``, or a
                combination of those. The agent receives its JSON Schema, and ``output`` of the result is the parsed
                value.
            leave_running: Leave the turn running when the scope exits early, for :meth:`rejoin`. Callbacks in progress
                are cancelled without an answer. Later requests from the turn wait for a client that rejoins it,
                unless the thread has a policy of its own. On a server that this client started, the turn lasts
                until the client closes. A turn that exceeds a limit ends nevertheless.
            **options: See :class:`TurnOptions`.

        Returns:
            An async context manager that yields the :class:`Turn`.

        Raises:
            TurnActive: The thread has an open turn, started by this client or by the server.
            ThreadClosed: The thread's scope has exited.
            TurnLost: The end of the turn was not observed, and the body returned normally.
            TurnStalled: The turn was silent for longer than ``idle_limit``; the body was cancelled.
            PolicyError: A policy callback raised, or returned something that is not a decision; the body was
                cancelled.
            BudgetExceeded: The turn exceeded a budget and was interrupted, or a budget was already used up and
                nothing was sent.
            LocalProtocolError: The input cannot be sent; nothing was sent.
            ServerTooOld: The server would ignore an option; nothing was sent.
            ValueError: Options conflict, or ``leave_running`` is set for an ephemeral thread of a server that this client
                did not start, which nobody could rejoin; nothing was sent.
            TypeError: An argument has the wrong type, or a model cannot be constrained to ``output_type``; nothing
                was sent.
            CodexError: As for any request.
        """
        return self._turn(value, output_type, options, leave_running=leave_running)

    def _turn(
        self,
        value: TurnInput,
        output_type: type[object] | UnionType | None,
        options: TurnOptions,
        *,
        leave_running: bool = False,
    ) -> AbstractAsyncContextManager[Turn[Any]]:
        self._check_open()
        if leave_running and self.info.ephemeral and not self._session.connection.owned:
            raise ValueError(
                "leave_running needs a thread that is stored: nobody could rejoin an ephemeral one"
            )
        output = None
        if output_type is not None:
            from trio_codex._tools.output import OutputType

            if options.get("output_schema") is not None:
                raise ValueError("output_type and output_schema are mutually exclusive")
            output = OutputType(output_type)
            options = {**options, "output_schema": output.schema}
        params = turn_params(self.id, value, options, self._session.server.absolute)
        check_turn(params, self._session.server.metadata.server_version)
        budget = options.get("budget")
        if budget is not None and budget.turns is not None:
            raise ValueError("a budget for a single turn cannot limit the number of turns")
        return open_turn(
            Turn,
            self._session,
            self,
            self._state,
            "turn/start",
            params,
            options.get("policy"),
            idle_limit=options.get("idle_limit"),
            budget=budget,
            output=output,
            outlives_scope=leave_running,
        )

    def rejoin(self, *, end: bool = False, policy: Policy | None = None) -> AbstractAsyncContextManager[Turn]:
        """Rejoin the turn that runs on this thread, as a scope: another client's, or one that was left running.

        Leaving the scope leaves the turn running. A turn that has ended since the thread was opened can be rejoined, too,
        for its result.

        While the scope is open, the policies of the turn, the thread and the client handle the turn's requests, and those
        that the server has parked. If the turn belongs to another scope of this client, that scope keeps its policy, tools and budget.

        The status, the final response and the items of the result are complete. The events are not: the first one,
        ``trio_codex/gap``, stands for those that are missing. Deltas, ``turn_usage``, ``diff`` and the budgets of the
        thread and the client cover only what follows it.

        Args:
            end: End the turn if the scope exits early, as :meth:`turn` does. If it pursues a goal, the goal is paused.
            policy: As in :meth:`turn`.

        Returns:
            An async context manager that yields the :class:`Turn`.

        Raises:
            NoTurnRuns: No turn runs on the thread, and none has ended since it was opened.
            ThreadClosed: The thread's scope has exited, or the client is unsubscribed from the thread.
            TurnLost: The end of the turn was not observed, or its items could not be read.
            PolicyError: A policy callback raised, or returned something that is not a decision; the body was
                cancelled.
            BudgetExceeded: A budget was exceeded or already used up; the body was cancelled.
            CodexError: As for any request.
        """
        from trio_codex._api.rejoin import rejoin_turn

        self._check_open()
        return rejoin_turn(Turn, self._session, self, self._state, policy, end=end)

    def review(
        self, target: wire.ReviewTarget | str | None = None, *, policy: Policy | None = None
    ) -> AbstractAsyncContextManager[Turn]:
        """Review code in this thread, as a scope like that of :meth:`turn`. The final response is the review.

        The server runs a review under a second turn id and does not allow steering it: :meth:`Turn.steer` raises
        ``InvalidRequestError``. To keep the review out of this thread, start another thread and review there.

        Args:
            target: What to review: a protocol target, such as ``wire.BaseBranchReviewTarget``, or instructions as a
                string. The default is all uncommitted changes.
            policy: As in :meth:`turn`.

        Returns:
            An async context manager that yields the :class:`Turn`.

        Raises:
            TurnActive: The thread has an open turn. Without this check, the server would interrupt it.
            TypeError: ``policy`` is not a policy; nothing was sent.
            CodexError: As in :meth:`turn`.
        """
        self._check_open()
        check_given({"policy": policy})
        if isinstance(target, str):
            target = wire.CustomReviewTarget(instructions=target)
        params = wire.ReviewStartParams(
            thread_id=self.id, target=wire.UncommittedChangesReviewTarget() if target is None else target
        )
        return open_turn(Turn, self._session, self, self._state, "review/start", params, policy)

    def goal(
        self, objective: str, *, token_budget: int | None = None, policy: Policy | None = None
    ) -> AbstractAsyncContextManager[Goal]:
        """Pursue a goal as a scope: the server runs turn after turn until the agent reports the goal as reached.

        Leaving the scope before that pauses the goal. It also ends the running turn, and the agents and commands that
        the turns of this goal started. The goal remains stored with the thread. It replaces any goal the thread has.

        Args:
            objective: The objective, at most 4,000 characters.
            token_budget: Number of tokens after which the server stops the goal, at the end of a response.
            policy: Handles requests from its turns, ahead of the policies of the thread and the client.

        Returns:
            An async context manager that yields the :class:`Goal`.

        Raises:
            TurnActive: The thread has an open turn, started by this client or by the server.
            InvalidRequestError: This thread cannot have goals: it is ephemeral, or goals are disabled.
            BudgetExceeded: The turns exceeded the budget of the thread or the client, or one was already used up.
            ThreadClosed: The thread's scope has exited.
            TurnLost: The end of the goal was not observed, and the body returned normally.
            PolicyError: A policy callback raised, or returned something that is not a decision; the body was
                cancelled.
            TypeError: ``policy`` is not a policy; nothing was sent.
            CodexError: As for any request.
        """
        self._check_open()
        check_given({"policy": policy})
        return open_goal(Goal, self._session, self, self._state, objective, token_budget, policy)

    async def compact(self) -> TurnResult:
        """Replace the thread's history with a summary written by the server, and wait until that is done.

        If this is cancelled, the compaction is interrupted and has ended before ``Cancelled`` propagates.

        Raises:
            TurnFailed: The compaction failed.
            TurnLost: The connection ended first.
            TurnActive: The thread has an open turn. Without this check, the server would interrupt it.
            ThreadClosed: The thread's scope has exited.
            CodexError: As for any request.
        """
        self._check_open()
        params = wire.ThreadCompactStartParams(thread_id=self.id)
        return await _to_end(
            open_turn(
                Turn,
                self._session,
                self,
                self._state,
                "thread/compact/start",
                params,
                named_by_announcement=True,
            )
        )

    async def shell_command(self, command: str) -> wire.CommandExecutionThreadItem:
        """Run a command in the thread's shell, **without a sandbox**, even if the thread has one.

        The command has all the rights of the server, so it can do what a read-only thread cannot. The model sees the
        command and its output in its next turn. To run a command in a sandbox, use :meth:`Codex.exec`.

        On an idle thread the command is its own turn. If this is cancelled, that turn is interrupted and has ended
        before ``Cancelled`` propagates. During an open turn the command is an item of that turn and cannot be stopped
        separately. If this is cancelled, the command keeps running until it or the turn ends.

        Args:
            command: A shell command line; pipes and redirections work.

        Returns:
            The command as an item, with its ``exit_code`` and its ``aggregated_output``.

        Raises:
            TurnFailed: The turn ended without running the command.
            TurnLost: The connection ended first.
            ThreadClosed: The thread's scope has exited.
            CodexError: As for any request, and ``DecodeError``.
        """
        self._check_open()
        return await run_shell_command(self._session, self, self._state, command)

    # -- the thread itself -------------------------------------------------------------------------------------

    async def fork(self, **options: Unpack[ThreadForkOptions]) -> Thread:
        """Start a thread with the history of this one. The server rejects this before the first turn.

        If this is cancelled after the request was sent, the new thread is deleted before ``Cancelled`` propagates.

        Args:
            **options: See :class:`ThreadForkOptions`. Options not given are inherited, except the sandbox, which
                follows the server's configuration.

        Raises:
            ValueError: Options conflict; nothing was sent.
            CodexError: As for any request.
        """
        self._check_open()
        return await open_thread(self._session, thread_requests.fork(self._session, self.id, options))

    @property
    def _is_open(self) -> bool:
        return self in self._state.handles

    # -- as a scope --------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        # Not a cancellation point, because the thread is already open and only a scope that was entered closes it.
        await trio.lowlevel.cancel_shielded_checkpoint()
        self._check_open()
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()
        if not self._is_open:
            return
        self._state.remove(self)
        try:
            if self._session.connection.close_reason is None:
                # Shielded and bounded internally.
                await self._session.services.finish(self._close)  # noqa: ASYNC102
        finally:
            for events in self._listeners:
                events.end(partial(ThreadClosed, self.id))
            self._session.threads.discard_if_unused(self._state)

    async def _close(self) -> None:  # noqa: ASYNC910  # runs as a separate task
        session, state = self._session, self._state
        if state.sequence is not None:
            if state.sequence.opener is self:
                await state.sequence.finish()
        elif state.turn is not None and self._has_to_end(state.turn):
            state.turn.machine.leave()
            await session.ender.end_turn(state.turn)
        # If the thread was unloaded, for example to archive it, its terminals and all subscriptions have ended.
        if state.handles or state.is_unloaded:
            await trio.lowlevel.checkpoint()
            return
        state.is_left_open = state.is_uncleaned = True
        await thread_requests.close_if_unfollowed(session, state)

    def _has_to_end(self, turn: TurnState) -> bool:
        """Return whether leaving this handle must end a turn.

        It must if it opened the turn. The last handle must also end a turn that the server started on its own.
        """
        if turn.owned or turn.outlives_scope:
            return turn.ends_with_scope and turn.opener is self
        # On a server that this client did not start, the turn belongs to another client.
        is_last = not (self._state.handles or self._state.pending or self._state.is_still_to_end)
        return is_last and self._session.connection.owned


@trio.lowlevel.enable_ki_protection
async def open_thread(session: Session, opening: Awaitable[Opened]) -> Thread:
    """Create the handle of a thread once the server has opened it."""
    opened = await opening
    thread = Thread(session, opened)
    session.approvals.warn_if_bypassed(opened.response, opened.pending.policy)
    return thread


async def _to_end(scope: AbstractAsyncContextManager[Turn[Any]]) -> TurnResult[Any]:
    async with scope as turn:
        result = await turn.wait()
    if result.status == TurnStatus.failed:
        raise TurnFailed(result)
    return result
