"""A thread: owns the handle through which turns are started and the thread itself is kept, forked and put away."""

from __future__ import annotations

import enum
import os
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

import trio

from trio_codex import wire
from trio_codex._ending import end_turn
from trio_codex._inputs import TurnInput, wire_input
from trio_codex._turn import Turn, open_turn
from trio_codex._turn_result import TurnStatus
from trio_codex.errors import CodexError, ThreadClosed, TurnFailed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from types import TracebackType

    from trio_codex._event import Event
    from trio_codex._session import Session
    from trio_codex._subscriptions import Subscription
    from trio_codex._turn_result import TurnResult
    from trio_codex.policies import Policy


class Sandbox(enum.StrEnum):
    """What commands of the agent may touch, as the server enforces it."""

    read_only = "read-only"
    workspace_write = "workspace-write"
    """The working directory, and all of ``/tmp`` unless the configuration excludes it (PROTOCOL Q35)."""
    full_access = "danger-full-access"


class TurnOptions(TypedDict, total=False):
    """What can be chosen for a turn. The server keeps most of it for the thread's later turns, too.

    Attributes:
        policy: Decides on what this turn asks, before the thread's and the client's policies; for this turn only.
        idle_limit: Seconds without an event after which the turn is given up with ``TurnStalled``; for this turn only. A
            question that is with a policy, and a tool at work, may take as long as they like. By default there is none.
        approval_policy: When the server asks at all. With ``never`` no policy is asked.
        approvals_reviewer: Who reviews approvals; with another than ``user`` no policy is asked.
        cwd: Working directory.
        effort: Reasoning effort.
        model: Model.
        output_schema: JSON Schema of the final response; the server keeps it for this turn only.
        sandbox: What commands may touch.
        service_tier: Service tier.
        summary: How reasoning is summarised.
        collaboration_mode: Collaboration mode (experimental).
    """

    policy: Policy | None
    idle_limit: float | None
    approval_policy: wire.AskForApproval | None
    approvals_reviewer: wire.ApprovalsReviewer | str | None
    cwd: str | os.PathLike[str] | None
    effort: wire.ReasoningEffort | str | None
    model: str | None
    output_schema: wire.JSON
    sandbox: Sandbox | wire.SandboxPolicy | None
    service_tier: str | None
    summary: wire.ReasoningSummary | str | None
    collaboration_mode: wire.CollaborationMode | None


class Thread:
    """One conversation with an agent, kept by the server.

    Made by ``thread_start``, ``thread_resume`` and ``thread_fork`` of the client. It can be used as it is, or as an async
    context manager: leaving it ends its open turn and its background terminals, and unsubscribes from it.

    Attributes:
        info: What the server said when it was opened.
    """

    def __init__(self, session: Session, info: wire.Thread, policy: Policy | None, cwd: str | None) -> None:
        self._session = session
        self._state = session.router.thread(info.id)
        self._state.held += 1
        self._state.policy = policy
        self._state.cwd = cwd
        self._closed = False
        self.info = info

    @property
    def id(self) -> str:
        """Its id, by which it can be resumed."""
        return self._state.id

    def __repr__(self) -> str:
        return f"<Thread {self.id}{', closed' if self._closed else ''}>"

    # -- turns -------------------------------------------------------------------------------------------------

    async def run(self, value: TurnInput, **options: Unpack[TurnOptions]) -> TurnResult:
        """Run a turn to its end.

        Under a deadline the partial result is lost; use :meth:`turn` to keep it.

        Args:
            value: What to say.
            **options: See :class:`TurnOptions`.

        Returns:
            How it ended, as completed or as interrupted.

        Raises:
            TurnFailed: It failed.
            TurnLost: The connection ended first.
            TurnActive: The thread has an open turn.
            TurnStalled: It was silent for longer than ``idle_limit``.
            ThreadClosed: Its scope has ended.
            PolicyError: A policy callback raised, or returned what is no decision.
            CodexError: As every request.
        """
        async with self.turn(value, **options) as turn:
            result = await turn.wait()
        if result.status == TurnStatus.failed:
            raise TurnFailed(result)
        return result

    def turn(self, value: TurnInput, **options: Unpack[TurnOptions]) -> AbstractAsyncContextManager[Turn]:
        """Run a turn as a scope.

        Leaving the scope before the turn's end interrupts it on the server, and the agents and commands it started, and
        waits for the proof, within ``interrupt_grace``.

        Args:
            value: What to say.
            **options: See :class:`TurnOptions`.

        Returns:
            An async context manager that gives the :class:`Turn`.

        Raises:
            TurnActive: The thread has an open turn, ours or one that the server started.
            ThreadClosed: Its scope has ended.
            TurnLost: The end was not seen, and the body returned normally.
            TurnStalled: It was silent for longer than ``idle_limit``; the body was cancelled.
            PolicyError: A policy callback raised, or returned what is no decision; the body was cancelled.
            LocalProtocolError: The input cannot be sent; nothing was.
            CodexError: As every request.
        """
        self._check_open()
        items, tool_output = wire_input(value)
        cwd = options.get("cwd")
        params = wire.TurnStartParams(
            thread_id=self.id,
            input=items,
            tool_output=tool_output,
            approval_policy=options.get("approval_policy"),
            approvals_reviewer=options.get("approvals_reviewer"),
            cwd=None if cwd is None else os.fspath(cwd),
            effort=options.get("effort"),
            model=options.get("model"),
            output_schema=options.get("output_schema"),
            sandbox_policy=_sandbox_policy(options.get("sandbox")),
            service_tier=options.get("service_tier"),
            summary=options.get("summary"),
            collaboration_mode=options.get("collaboration_mode"),
        )
        unknown = options.keys() - TurnOptions.__annotations__.keys()
        if unknown:
            raise TypeError(f"a turn has no option {min(unknown)!r}")
        if params.cwd is not None:
            self._state.cwd = params.cwd
        return open_turn(
            self._session, self, self._state, params, options.get("policy"), options.get("idle_limit")
        )

    @asynccontextmanager
    async def events(self) -> AsyncGenerator[Subscription[Event]]:
        """Listen to everything of this thread, also to what comes after a turn's end.

        Any number of listeners may do so at once; each has a bounded buffer of its own.
        """
        self._check_open()
        await trio.lowlevel.checkpoint_if_cancelled()
        events = self._session.router.subscription()
        self._state.listeners.append(events)
        try:
            yield events
        finally:
            events.release()
            self._state.listeners.remove(events)
            self._session.router.let_go(self._state)

    # -- the thread itself -------------------------------------------------------------------------------------

    async def read(self, *, include_turns: bool = False) -> wire.Thread:
        """Read it from the server. With ``include_turns`` the whole history comes in one line."""
        response: wire.ThreadReadResponse = await self._request("thread/read", includeTurns=include_turns)
        return response.thread

    async def set_name(self, name: str) -> None:
        """Name it. The server refuses to before its first turn."""
        await self._request("thread/name/set", name=name)

    async def archive(self) -> None:
        """Archive it: the server ends its open turn, unloads it, and hides it from ordinary lists."""
        await self._request("thread/archive")

    async def delete(self) -> None:
        """Delete it for good; the server ends its open turn."""
        await self._request("thread/delete")

    async def unsubscribe(self) -> None:
        """Stop getting its events. A turn that runs goes on, and its end will not be seen."""
        await self._request("thread/unsubscribe")

    async def _request(self, method: str, **params: Any) -> Any:
        self._check_open()
        return await self._session.request(method, {"threadId": self.id, **params})

    def _check_open(self) -> None:
        self._session.connection.check_open()
        if self._closed:
            raise ThreadClosed(self.id)

    # -- as a scope --------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await trio.lowlevel.checkpoint()
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
        if self._closed:
            return
        self._closed = True
        self._state.held -= 1
        if self._session.connection.death is None:
            # Shielded and bounded inside.
            await self._session.services.finish(self._close)  # noqa: ASYNC102
        self._session.router.let_go(self._state)

    async def _close(self) -> None:  # noqa: ASYNC910  # a service: cleanup that needs no checkpoint
        if self._state.turn is not None:
            self._state.turn.left_early = True
            await end_turn(self._session, self._state.turn)
        with trio.move_on_after(self._session.config.interrupt_grace), suppress(CodexError):
            # If it is archived, deleted or unloaded already, or the connection has ended, nothing of it is left to end.
            if self._session.config.experimental_api:
                await self._session.request("thread/backgroundTerminals/clean", {"threadId": self.id})
            await self._session.request("thread/unsubscribe", {"threadId": self.id})


def _sandbox_policy(sandbox: Sandbox | wire.SandboxPolicy | None) -> wire.SandboxPolicy | None:
    match sandbox:
        case Sandbox.read_only:
            return wire.ReadOnlySandboxPolicy()
        case Sandbox.workspace_write:
            return wire.WorkspaceWriteSandboxPolicy()
        case Sandbox.full_access:
            return wire.DangerFullAccessSandboxPolicy()
        case _:
            return sandbox
