"""A thread: owns the handle through which turns are started and the thread itself is kept, forked and put away."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, overload

import trio

from trio_codex import wire
from trio_codex._client import _opening
from trio_codex._client._history import items_of, turns_of
from trio_codex._client._mcp import ThreadMcpServers
from trio_codex._client._options import check_given, settings_params, turn_params
from trio_codex._launch._versions import check_turn
from trio_codex._remote._shell import run_shell_command
from trio_codex._remote._terminals import Terminals
from trio_codex._turns._ending import end_turn
from trio_codex._turns._turn import Turn, open_turn
from trio_codex._turns._turn_result import TurnStatus
from trio_codex.errors import OutputError, RpcError, ThreadClosed, TurnFailed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Sequence
    from types import TracebackType, UnionType

    from trio_codex._client._history import ItemsView, TurnsView
    from trio_codex._client._opening import Opened
    from trio_codex._client._options import ThreadForkOptions, ThreadSettings, TurnOptions
    from trio_codex._client._paging import Pager
    from trio_codex._client._session import Session
    from trio_codex._runtime._subscriptions import Subscription
    from trio_codex._turns._event import Event
    from trio_codex._turns._goal import Goal
    from trio_codex._turns._inputs import TurnInput
    from trio_codex._turns._turn_result import TurnResult
    from trio_codex._turns._turn_state import TurnState
    from trio_codex._turns._usage import TokenUsage
    from trio_codex.policies import Policy

T = TypeVar("T")


class Thread:
    """One conversation with an agent, kept by the server.

    Made by ``thread_start``, ``thread_resume`` and ``thread_fork`` of the client. It can be used as it is, or as an async
    context manager: leaving it ends the turn that it started. Leaving the last handle of a thread in this client also ends the
    background terminals of the thread and unsubscribes from it.

    Attributes:
        info: What the server said when it was opened.
    """

    def __init__(self, session: Session, opened: Opened) -> None:
        response = opened.response
        self._session = session
        self._listeners: tuple[Subscription[Event], ...] = ()
        self.info = response.thread
        self._state = session.router.openings.admit(
            opened.pending, self, self.info.id, response.cwd, opened.newest_turn
        )

    @property
    def id(self) -> str:
        """Its id, by which it can be resumed."""
        return self._state.id

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

        Under a deadline the partial result is lost; use :meth:`turn` to keep it.

        Args:
            value: What to say.
            output_type: The type that the final response is to have: an attrs class, a dataclass, a ``TypedDict``, or what is
                made of those. The agent gets its JSON Schema, and ``output`` of the result is the value.
            **options: See :class:`TurnOptions`.

        Returns:
            How it ended, as completed or as interrupted.

        Raises:
            TurnFailed: It failed.
            OutputError: The final response does not fit ``output_type``, or the turn was interrupted before there was one.
            TurnLost: The connection ended first.
            TurnActive: The thread has an open turn.
            TurnStalled: It was silent for longer than ``idle_limit``.
            ThreadClosed: Its scope has ended.
            PolicyError: A policy callback raised, or returned what is no decision.
            BudgetExceeded: It used more than its budget, or nothing is left of one.
            ValueError: Options contradict each other; nothing was sent.
            TypeError: An argument has another type, or a model cannot be held to ``output_type``; nothing was sent.
            CodexError: As every request.
        """
        result = await _to_end(self._turn(value, output_type, options))
        if output_type is not None and result.output is None and result.status != TurnStatus.completed:
            raise OutputError(result.final_response, f"the turn is {result.status}", result)
        return result

    @overload
    def turn(
        self, value: TurnInput, *, output_type: None = None, **options: Unpack[TurnOptions]
    ) -> AbstractAsyncContextManager[Turn[None]]: ...
    @overload
    def turn(
        self, value: TurnInput, *, output_type: type[T], **options: Unpack[TurnOptions]
    ) -> AbstractAsyncContextManager[Turn[T | None]]: ...
    @overload
    def turn(
        self, value: TurnInput, *, output_type: UnionType, **options: Unpack[TurnOptions]
    ) -> AbstractAsyncContextManager[Turn[Any]]: ...
    def turn(
        self,
        value: TurnInput,
        *,
        output_type: type[object] | UnionType | None = None,
        **options: Unpack[TurnOptions],
    ) -> AbstractAsyncContextManager[Turn[Any]]:
        """Run a turn as a scope.

        Leaving the scope before the turn's end interrupts it on the server, and the agents and commands it started, and
        waits for the proof, within ``interrupt_grace``.

        Args:
            value: What to say.
            output_type: The type that the final response is to have: an attrs class, a dataclass, a ``TypedDict``, or what is
                made of those. The agent gets its JSON Schema, and ``output`` of the result is the value.
            **options: See :class:`TurnOptions`.

        Returns:
            An async context manager that gives the :class:`Turn`.

        Raises:
            TurnActive: The thread has an open turn, ours or one that the server started.
            ThreadClosed: Its scope has ended.
            TurnLost: The end was not seen, and the body returned normally.
            TurnStalled: It was silent for longer than ``idle_limit``; the body was cancelled.
            PolicyError: A policy callback raised, or returned what is no decision; the body was cancelled.
            BudgetExceeded: It used more than its budget and was interrupted, or nothing is left of one and nothing was sent.
            LocalProtocolError: The input cannot be sent; nothing was.
            ServerTooOld: The server would ignore an option; nothing was sent.
            ValueError: Options contradict each other; nothing was sent.
            TypeError: An argument has another type, or a model cannot be held to ``output_type``; nothing was sent.
            CodexError: As every request.
        """
        return self._turn(value, output_type, options)

    def _turn(
        self, value: TurnInput, output_type: type[object] | UnionType | None, options: TurnOptions
    ) -> AbstractAsyncContextManager[Turn[Any]]:
        self._check_open()
        output = None
        if output_type is not None:
            from trio_codex._tools._output import OutputType

            if options.get("output_schema") is not None:
                raise ValueError("output_type and output_schema exclude each other")
            output = OutputType(output_type)
            options = {**options, "output_schema": output.schema}
        params = turn_params(self.id, value, options, self._session.absolute)
        check_turn(params, self._session.server_version)
        budget = options.get("budget")
        if budget is not None and budget.turns is not None:
            raise ValueError("the budget of a turn has no limit of turns")
        return open_turn(
            self._session,
            self,
            self._state,
            "turn/start",
            params,
            options.get("policy"),
            idle_limit=options.get("idle_limit"),
            budget=budget,
            output=output,
        )

    def review(
        self, target: wire.ReviewTarget | str | None = None, *, policy: Policy | None = None
    ) -> AbstractAsyncContextManager[Turn]:
        """Review code in this thread, as a scope like that of :meth:`turn`. The final response is the review.

        The server runs it under a second id and refuses to steer it: :meth:`Turn.steer` raises ``InvalidRequestError``.
        For a review with a thread of its own, start one, and review there.

        Args:
            target: What to review: a target of the protocol, such as ``wire.BaseBranchReviewTarget``; instructions in
                words; by default all changes that are not committed.
            policy: As in :meth:`turn`.

        Returns:
            An async context manager that gives the :class:`Turn`.

        Raises:
            TurnActive: The thread has an open turn. (The bare server would interrupt that one.)
            TypeError: ``policy`` is not a policy; nothing was sent.
            CodexError: As :meth:`turn`.
        """
        self._check_open()
        check_given({"policy": policy})
        if isinstance(target, str):
            target = wire.CustomReviewTarget(instructions=target)
        params = wire.ReviewStartParams(
            thread_id=self.id, target=wire.UncommittedChangesReviewTarget() if target is None else target
        )
        return open_turn(self._session, self, self._state, "review/start", params, policy)

    def goal(
        self, objective: str, *, token_budget: int | None = None, policy: Policy | None = None
    ) -> AbstractAsyncContextManager[Goal]:
        """Pursue a goal as a scope: the server starts turn after turn, until the agent says that it has reached the goal.

        Leaving the scope before that pauses the goal, and ends the turn that runs, with what the turns of this goal have
        started, as leaving a turn does. The goal stays with the thread. One that the thread has already is replaced.

        Args:
            objective: What to reach, in at most 4,000 characters.
            token_budget: Tokens after which the server stops it, at the end of a response.
            policy: Decides on what its turns ask, before the thread's and the client's policies.

        Returns:
            An async context manager that gives the :class:`Goal`.

        Raises:
            TurnActive: The thread has an open turn, ours or one that the server started.
            InvalidRequestError: This thread cannot have goals: it is ephemeral, or they are switched off.
            BudgetExceeded: Its turns used more than the budget of the thread or the client, or nothing is left of one.
            ThreadClosed: Its scope has ended.
            TurnLost: The end was not seen, and the body returned normally.
            PolicyError: A policy callback raised, or returned what is no decision; the body was cancelled.
            TypeError: ``policy`` is not a policy; nothing was sent.
            CodexError: As every request.
        """
        from trio_codex._turns._goal import open_goal

        self._check_open()
        check_given({"policy": policy})
        return open_goal(self._session, self, self._state, objective, token_budget, policy)

    async def compact(self) -> TurnResult:
        """Let the server replace the thread's history by a summary, and wait until it has.

        If this is cancelled, the compaction is interrupted, and has ended, before ``Cancelled`` goes on.

        Raises:
            TurnFailed: It failed.
            TurnLost: The connection ended first.
            TurnActive: The thread has an open turn. (The bare server would interrupt that one.)
            ThreadClosed: Its scope has ended.
            CodexError: As every request.
        """
        self._check_open()
        params = wire.ThreadCompactStartParams(thread_id=self.id)
        return await _to_end(
            open_turn(self._session, self, self._state, "thread/compact/start", params, only_announced=True)
        )

    async def shell_command(self, command: str) -> wire.CommandExecutionThreadItem:
        """Run a command of yours in the thread's shell, **without any sandbox**, whatever that of the thread is.

        It runs with all the rights of the server: what a read-only thread may not do, this may. The model sees the command
        and its output in its next turn. For a command in a sandbox, use :meth:`Codex.exec`.

        On an idle thread the command is a turn of its own: if this is cancelled, it is interrupted, and has ended, before
        ``Cancelled`` goes on. In an open turn it is an item of that turn and cannot be stopped alone: cancelled, it runs on
        until it or the turn ends.

        Args:
            command: A command line, with pipes, redirections and all.

        Returns:
            The command as an item, with its ``exit_code`` and its ``aggregated_output``.

        Raises:
            TurnFailed: The turn ended without having run it.
            TurnLost: The connection ended first.
            ThreadClosed: Its scope has ended.
            CodexError: As every request, and ``DecodeError``.
        """
        self._check_open()
        return await run_shell_command(self._session, self, self._state, command)

    @property
    def terminals(self) -> Terminals:
        """Its background terminals."""
        return Terminals(self._request)

    @property
    def mcp(self) -> ThreadMcpServers:
        """The MCP servers that it has started."""
        return ThreadMcpServers(self._request)

    @asynccontextmanager
    async def events(self) -> AsyncGenerator[Subscription[Event]]:
        """Listen to everything of this thread, also to what comes after a turn's end.

        Any number of listeners may do so at once; each has a bounded buffer of its own.

        Raises:
            ThreadClosed: From the iteration, too: its scope has ended.
            SubscriptionOverflow: From the iteration: this consumer lagged beyond ``event_buffer``.
            ConnectionBroken: From the iteration: the connection ended.
        """
        self._check_open()
        await trio.lowlevel.checkpoint_if_cancelled()
        events = self._session.router.subscription()
        self._state.listeners.append(events)
        self._listeners += (events,)
        try:
            yield events
        finally:
            events.release()
            self._state.listeners.remove(events)
            self._listeners = tuple(each for each in self._listeners if each is not events)
            self._session.router.let_go(self._state)

    # -- the thread itself -------------------------------------------------------------------------------------

    async def read(self, *, include_turns: bool = False) -> wire.Thread:
        """Read it from the server. With ``include_turns`` the whole history comes in one line."""
        response: wire.ThreadReadResponse = await self._request("thread/read", includeTurns=include_turns)
        return response.thread

    async def set_name(self, name: str) -> None:
        """Name it. The server refuses to before its first turn."""
        await self._request("thread/name/set", name=name)

    async def update_settings(self, **settings: Unpack[ThreadSettings]) -> None:
        """Change what holds for its later turns, without starting one (experimental).

        What is not given stays as it is. The options of :meth:`turn` change the same settings.

        Args:
            **settings: See :class:`ThreadSettings`.

        Raises:
            ValueError: Settings contradict each other; nothing was sent.
            CodexError: As every request.
        """
        self._check_open()
        await self._session.request("thread/settings/update", settings_params(self.id, settings))

    async def fork(self, **options: Unpack[ThreadForkOptions]) -> Thread:
        """Start a thread with the history of this one. The server refuses to before its first turn.

        If this is cancelled after the request was sent, the new thread is deleted again before ``Cancelled`` goes on.

        Args:
            **options: See :class:`ThreadForkOptions`. What is not given is taken over, but for the sandbox, which is as
                the server is configured (PROTOCOL Q39).

        Raises:
            ValueError: Options contradict each other; nothing was sent.
            CodexError: As every request.
        """
        self._check_open()
        return await open_thread(self._session, _opening.fork(self._session, self.id, options))

    async def revert(self, before_turn_id: str) -> wire.Thread:
        """Take back a turn and all that came after it, in the history; files stay as they are.

        Args:
            before_turn_id: The first turn to take back.

        Raises:
            CodexError: As every request.
        """
        response: wire.ThreadRevertResponse = await self._request(
            "thread/revert", beforeTurnId=before_turn_id
        )
        return response.thread

    async def inject_items(self, items: Sequence[wire.JSON]) -> None:
        """Append raw items of the Responses API to what the model sees, without starting a turn.

        Raises:
            CodexError: As every request.
        """
        await self._request("thread/inject_items", items=list(items))

    def turns(self, **view: Unpack[TurnsView]) -> Pager[wire.Turn]:
        """Iterate over its turns, newest first unless asked otherwise, holding one page at a time.

        Args:
            **view: See :class:`TurnsView`.
        """
        self._check_open()
        return turns_of(self._session, self.id, view)

    def items(self, **view: Unpack[ItemsView]) -> Pager[wire.ThreadItemEntry]:
        """Iterate over the items of its turns, oldest first unless asked otherwise, holding one page at a time.

        Args:
            **view: See :class:`ItemsView`.
        """
        self._check_open()
        return items_of(self._session, self.id, view)

    @property
    def usage(self) -> TokenUsage | None:
        """The tokens that its turns used since this client opened it, those of agents included; ``None`` if unreported."""
        return self._state.meter.usage

    async def archive(self) -> None:
        """Archive it: the server ends its open turn, unloads it, and hides it from ordinary lists."""
        await self._request("thread/archive")

    async def delete(self) -> None:
        """Delete it for good; the server ends its open turn."""
        await self._request("thread/delete")

    async def unsubscribe(self) -> None:
        """Stop getting its events.

        A turn that runs goes on, and its end will not be seen: its scope takes it for stuck. Further turns raise
        ``ThreadClosed`` until the thread is resumed.

        Raises:
            CodexError: As every request.
        """
        self._check_open()
        for pending in self._state.pending:
            pending.is_overtaken = True
        # Cancelled, it may have had its effect.
        self._state.is_mute = True
        try:
            await _opening.unsubscribe(self._session, self._state)
        except RpcError:
            self._state.is_mute = False
            raise

    async def _request(self, method: str, **params: Any) -> Any:
        self._check_open()
        return await self._session.request(method, {"threadId": self.id, **params})

    def _check_open(self) -> None:
        self._session.connection.check_open()
        self._state.check_open(self)

    @property
    def _is_open(self) -> bool:
        return self in self._state.handles

    # -- as a scope --------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        # Not a cancellation point: the thread is open already, and only a scope that was entered closes it.
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
        self._state.handles = tuple(handle for handle in self._state.handles if handle is not self)
        try:
            if self._session.connection.death is None:
                # Shielded and bounded inside.
                await self._session.services.finish(self._close)  # noqa: ASYNC102
        finally:
            for events in self._listeners:
                events.end(partial(ThreadClosed, self.id))
            self._session.router.let_go(self._state)

    async def _close(self) -> None:  # noqa: ASYNC910  # a service: cleanup that needs no checkpoint
        session, state = self._session, self._state
        if state.series is not None:
            if state.series.opener is self:
                await state.series.finish()
        elif state.turn is not None and self._has_to_end(state.turn):
            state.turn.left_early = True
            await end_turn(session, state.turn)
        if state.handles or state.pending:
            await trio.lowlevel.checkpoint()
            return
        # If it is archived, deleted or unloaded already, or the connection has ended, nothing of it is left to end.
        # The commands of a turn that goes on are another client's.
        if session.config.experimental_api and (state.turn is None or state.turn.owned):
            await session.end("thread/backgroundTerminals/clean", {"threadId": self.id})
        await _opening.unsubscribe_unless_followed(session, state)

    def _has_to_end(self, turn: TurnState) -> bool:
        """Return whether leaving this handle ends a turn: one of its own, or one of nobody, if no handle is left."""
        if turn.owned:
            return turn.opener is self
        # On a server that is not ours, it is another client's.
        is_last = not (self._state.handles or self._state.pending or self._state.is_still_to_end)
        return is_last and self._session.kill is not None


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
