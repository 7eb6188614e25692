"""The client: owns what can be asked of a server as a whole, and the threads that are opened on it."""

from __future__ import annotations

import os
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs
import trio

from trio_codex import wire
from trio_codex._thread import Sandbox, Thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from trio_codex._api_generated import Api
    from trio_codex._audit import DecisionRecord
    from trio_codex._event import Event
    from trio_codex._session import Session
    from trio_codex._subscriptions import Subscription
    from trio_codex.errors import CodexError
    from trio_codex.policies import Policy


@attrs.frozen(kw_only=True)
class ServerMetadata:
    """What a server said of itself.

    Attributes:
        user_agent: How it introduces itself to the model's provider.
        server_version: Its version, cut out of the user agent; ``None`` if that has another form.
        codex_home: Its ``CODEX_HOME``.
        platform_family: ``"unix"`` or ``"windows"``.
        platform_os: ``"linux"``, ``"macos"``, …
    """

    user_agent: str
    server_version: str | None
    codex_home: str | None
    platform_family: str | None
    platform_os: str | None

    @classmethod
    def of(cls, response: wire.InitializeResponse) -> ServerMetadata:
        """Take it from the answer to ``initialize``, which names no version by itself."""
        version = re.search(r"/(\d+\.\d+\.\d+[0-9A-Za-z.+-]*)", response.user_agent)
        return cls(
            user_agent=response.user_agent,
            server_version=version[1] if version else None,
            codex_home=response.codex_home,
            platform_family=response.platform_family,
            platform_os=response.platform_os,
        )


class Codex:
    """A client of one server. Made by :func:`open_codex` and :func:`connect_codex`.

    Any number of tasks may use it at once.

    Attributes:
        metadata: What the server said of itself.
        pid: Its process id; ``None`` if the process is not ours.
    """

    def __init__(self, session: Session, metadata: ServerMetadata, pid: int | None) -> None:
        self._session = session
        self._api: Api | None = None
        self.metadata = metadata
        self.pid = pid

    def __repr__(self) -> str:
        state = "" if self._session.connection.death is None else ", closed"
        return f"<Codex {self.metadata.server_version}, pid {self.pid}{state}>"

    # -- requests ----------------------------------------------------------------------------------------------

    @property
    def api(self) -> Api:
        """Every request of the protocol as a typed method, in groups, such as ``codex.api.thread.list(limit=25)``."""
        if self._api is None:
            from trio_codex._api_generated import Api

            self._api = Api(self._session.request)
        return self._api

    async def request(self, method: str, params: Mapping[str, Any] | wire.Wire | None = None) -> wire.JSON:
        """Send any request, also one that this version does not know.

        Args:
            method: Its method.
            params: Its parameters: a wire value, or plain JSON under the names of the wire.

        Returns:
            The result as plain JSON.

        Raises:
            RpcError: The server refused.
            RequestTimeout: It did not answer within ``request_timeout``; it may still act on the request.
            LocalProtocolError: The parameters are not JSON; nothing was sent.
            RemoteProtocolError: The answer cannot be read.
            ConnectionBroken: The connection ended first.
            ConnectionClosed: You closed it.
        """
        return await self._session.request_json(method, params)

    @asynccontextmanager
    async def events(self, *methods: str) -> AsyncGenerator[Subscription[Event]]:
        """Listen to notifications of the whole connection: the named ones, or all.

        What concerns no thread and came before anybody listened, such as warnings about the configuration, comes first.
        Lines of no use come as ``trio_codex/junk``, server requests of an unknown method as
        ``trio_codex/unknownServerRequest``.

        Raises:
            SubscriptionOverflow: From the iteration: this consumer lagged beyond ``event_buffer``.
            ConnectionBroken: From the iteration: the connection ended.
        """
        self._session.connection.check_open()
        await trio.lowlevel.checkpoint_if_cancelled()
        events = self._session.router.listen(*methods)
        try:
            yield events
        finally:
            self._session.router.unlisten(events)

    async def wait_closed(self) -> CodexError:
        """Wait until the connection has ended, and give the reason; the body of the client is not cancelled for it."""
        return (await self._session.connection.wait_dead()).exception()

    async def aclose(self) -> None:
        """Close now: end open turns, and the server if it is ours. Later calls raise ``ConnectionClosed``.

        Leaving the scope of the client does this. Bounded by ``interrupt_grace`` and ``stop_grace``; not a
        cancellation point.
        """
        await trio.lowlevel.cancel_shielded_checkpoint()
        if not self._session.closed.is_set():
            await self._session.services.finish(self._session.close)

    @property
    def decisions(self) -> tuple[DecisionRecord, ...]:
        """What was decided on the latest 1,000 requests of the server, oldest first, reviews of its own included."""
        return tuple(self._session.approvals.audit.records)

    # -- threads -----------------------------------------------------------------------------------------------

    async def thread_start(
        self,
        *,
        policy: Policy | None = None,
        approval_policy: wire.AskForApproval | None = None,
        approvals_reviewer: wire.ApprovalsReviewer | str | None = None,
        base_instructions: str | None = None,
        config: Mapping[str, wire.JSON] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        developer_instructions: str | None = None,
        ephemeral: bool | None = None,
        history_mode: wire.ThreadHistoryMode | str | None = None,
        model: str | None = None,
        model_provider: str | None = None,
        sandbox: Sandbox | wire.SandboxMode | str | None = None,
        service_name: str | None = None,
        service_tier: str | None = None,
    ) -> Thread:
        """Start a thread.

        If this is cancelled after the request was sent, the thread is deleted again before ``Cancelled`` goes on.

        Args:
            policy: Decides on what its turns ask, before the client's policy.
            approval_policy: When the server asks at all. With ``never`` no policy is asked.
            approvals_reviewer: Who reviews approvals; with another than ``user`` no policy is asked.
            base_instructions: In place of the model's own instructions.
            config: Overrides of the server's configuration, by dotted key.
            cwd: Working directory of its commands. The server does not check that it exists.
            developer_instructions: In addition to the instructions.
            ephemeral: Keep it in memory only.
            history_mode: How the server stores it.
            model: The model.
            model_provider: The provider of the model.
            sandbox: What its commands may touch.
            service_name: A name for metrics.
            service_tier: The service tier.

        Returns:
            The thread.

        Raises:
            CodexError: As :meth:`request`, and ``DecodeError``.
        """
        params = wire.ThreadStartParams(
            approval_policy=approval_policy,
            approvals_reviewer=approvals_reviewer,
            base_instructions=base_instructions,
            config=None if config is None else dict(config),
            cwd=None if cwd is None else os.fspath(cwd),
            developer_instructions=developer_instructions,
            ephemeral=ephemeral,
            history_mode=history_mode,
            model=model,
            model_provider=model_provider,
            sandbox=sandbox,
            service_name=service_name,
            service_tier=service_tier,
        )
        response: wire.ThreadStartResponse = await self._session.acquire("thread/start", params, self._delete)
        return self._opened(response, policy)

    async def thread_resume(
        self,
        thread_id: str,
        *,
        policy: Policy | None = None,
        approval_policy: wire.AskForApproval | None = None,
        cwd: str | os.PathLike[str] | None = None,
        include_turns: bool = False,
        model: str | None = None,
        sandbox: Sandbox | wire.SandboxMode | str | None = None,
    ) -> Thread:
        """Open a stored thread again, also one of another process.

        If this is cancelled after the request was sent, the thread is unsubscribed from before ``Cancelled`` goes on.

        Args:
            thread_id: Its id.
            policy: As in :meth:`thread_start`.
            approval_policy: As in :meth:`thread_start`; what is not given stays as stored.
            cwd: As in :meth:`thread_start`.
            include_turns: Load the whole history into ``info.turns``: one line, of any size.
            model: As in :meth:`thread_start`.
            sandbox: As in :meth:`thread_start`.

        Raises:
            InvalidRequestError: There is no such thread, or another server is writing to it.
            CodexError: As :meth:`request`, and ``DecodeError``.
        """
        params = wire.ThreadResumeParams(
            thread_id=thread_id,
            approval_policy=approval_policy,
            cwd=None if cwd is None else os.fspath(cwd),
            exclude_turns=not include_turns,
            model=model,
            sandbox=sandbox,
        )
        response: wire.ThreadResumeResponse = await self._session.acquire(
            "thread/resume", params, self._unsubscribe
        )
        return self._opened(response, policy)

    async def thread_fork(
        self,
        thread_id: str,
        *,
        policy: Policy | None = None,
        approval_policy: wire.AskForApproval | None = None,
        cwd: str | os.PathLike[str] | None = None,
        ephemeral: bool | None = None,
        include_turns: bool = False,
        last_turn_id: str | None = None,
        model: str | None = None,
        sandbox: Sandbox | wire.SandboxMode | str | None = None,
    ) -> Thread:
        """Start a thread with the history of another.

        If this is cancelled after the request was sent, the new thread is deleted again before ``Cancelled`` goes on.

        Args:
            thread_id: The thread to fork.
            policy: As in :meth:`thread_start`.
            approval_policy: As in :meth:`thread_start`; what is not given is taken over.
            cwd: As in :meth:`thread_start`.
            ephemeral: As in :meth:`thread_start`.
            include_turns: Load the whole history into ``info.turns``.
            last_turn_id: The last turn to take over.
            model: As in :meth:`thread_start`.
            sandbox: As in :meth:`thread_start`.

        Raises:
            CodexError: As :meth:`request`, and ``DecodeError``.
        """
        params = wire.ThreadForkParams(
            thread_id=thread_id,
            approval_policy=approval_policy,
            cwd=None if cwd is None else os.fspath(cwd),
            ephemeral=ephemeral,
            exclude_turns=not include_turns,
            last_turn_id=last_turn_id,
            model=model,
            sandbox=sandbox,
        )
        response: wire.ThreadForkResponse = await self._session.acquire("thread/fork", params, self._delete)
        return self._opened(response, policy)

    async def thread_list(
        self,
        *,
        archived: bool | None = None,
        cursor: str | None = None,
        cwd: str | None = None,
        limit: int | None = None,
        model_providers: list[str] | None = None,
        search_term: str | None = None,
    ) -> wire.ThreadListResponse:
        """List stored threads, newest first, a page at a time. Threads without a turn are not listed.

        ``api.thread.list`` has every filter.

        Raises:
            CodexError: As :meth:`request`, and ``DecodeError``.
        """
        return await self.api.thread.list(
            archived=archived,
            cursor=cursor,
            cwd=cwd,
            limit=limit,
            model_providers=model_providers,
            search_term=search_term,
        )

    async def thread_read(self, thread_id: str, *, include_turns: bool = False) -> wire.Thread:
        """Read a thread without opening it. With ``include_turns`` the whole history comes in one line.

        Raises:
            CodexError: As :meth:`request`, and ``DecodeError``.
        """
        return (await self.api.thread.read(thread_id=thread_id, include_turns=include_turns)).thread

    async def models(self, *, include_hidden: bool = False) -> wire.ModelListResponse:
        """List the models that the server offers.

        Raises:
            CodexError: As :meth:`request`, and ``DecodeError``.
        """
        return await self.api.model.list(include_hidden=include_hidden)

    def _opened(
        self,
        response: wire.ThreadStartResponse | wire.ThreadResumeResponse | wire.ThreadForkResponse,
        policy: Policy | None,
    ) -> Thread:
        self._session.approvals.warn_if_bypassed(response, policy)
        return Thread(self._session, response.thread, policy, response.cwd)

    async def _delete(self, response: wire.ThreadStartResponse | wire.ThreadForkResponse) -> None:
        await self._session.request("thread/delete", {"threadId": response.thread.id})

    async def _unsubscribe(self, response: wire.ThreadResumeResponse) -> None:
        await self._session.request("thread/unsubscribe", {"threadId": response.thread.id})
