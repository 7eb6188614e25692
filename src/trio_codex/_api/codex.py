"""The client: requests that concern the server as a whole, and the threads opened on it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Unpack

import trio

from trio_codex import wire
from trio_codex._api import thread_requests
from trio_codex._api.history import items_of, threads_of, turns_of
from trio_codex._api.liveness import wait_unresponsive
from trio_codex._api.login import start_login
from trio_codex._api.mcp import McpServers
from trio_codex._api.options import check_thread_id, list_params, resume_params
from trio_codex._api.skills import Skills
from trio_codex._api.thread import Thread, open_thread
from trio_codex._core.arguments import check_type

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from trio_codex._api.exec import RemoteProcess
    from trio_codex._api.generated import Api
    from trio_codex._api.history import ItemsView, TurnsView
    from trio_codex._api.lifecycle import ClientLifecycle
    from trio_codex._api.login import LoginHandle
    from trio_codex._api.options import (
        Sandbox,
        ThreadFilters,
        ThreadForkOptions,
        ThreadResumeOptions,
        ThreadStartOptions,
    )
    from trio_codex._api.paging import Pager
    from trio_codex._api.watch import Watch
    from trio_codex._link.subscriptions import Subscription
    from trio_codex._session.session import Session
    from trio_codex._values.event import Event
    from trio_codex._values.metadata import ServerMetadata
    from trio_codex._values.usage import TokenUsage
    from trio_codex.errors import CodexError
    from trio_codex.instruments._base import DecisionRecord


class Codex:
    """A client of one server, created by :func:`open_codex`, :func:`attach_codex` or :func:`connect_codex`.

    Any number of tasks may use it concurrently.

    Attributes:
        metadata: The metadata that the server reported about itself.
        pid: The process id of the server; ``None`` if this client did not start it.
    """

    def __init__(self, session: Session, lifecycle: ClientLifecycle) -> None:
        self._session = session
        self._lifecycle = lifecycle
        self._api: Api | None = None
        self.metadata: ServerMetadata = session.server.metadata
        self.pid: int | None = lifecycle.pid

    @property
    def owned(self) -> bool:
        """Whether this client started the server, and so stops it."""
        return self._session.connection.owned

    @property
    def is_open(self) -> bool:
        """Whether the connection is open, that is, neither closed nor lost."""
        return self._session.connection.close_reason is None

    def __repr__(self) -> str:
        state = "" if self.is_open else ", closed"
        return f"<Codex {self.metadata.server_version}, pid {self.pid}{state}>"

    # -- requests ----------------------------------------------------------------------------------------------

    @property
    def api(self) -> Api:
        """All requests of the protocol as typed methods, in groups, such as ``codex.api.thread.list(limit=25)``."""
        if self._api is None:
            from trio_codex._api.generated import Api

            self._api = Api(self._session.server.request)
        return self._api

    async def request(self, method: str, params: Mapping[str, Any] | wire.Wire | None = None) -> wire.JSON:
        """Send any request, including one that this version of trio-codex does not know.

        Args:
            method: The method, such as ``"thread/list"``.
            params: The parameters: a wire value, or plain JSON with the names used on the wire.

        Returns:
            The result as plain JSON.

        Raises:
            RpcError: The server rejected the request.
            RequestTimeout: The server did not answer within ``request_timeout``. It may still act on the request.
            LocalProtocolError: The parameters cannot be encoded as JSON; nothing was sent.
            RemoteProtocolError: The response is invalid.
            ConnectionBroken: The connection ended first.
            ConnectionClosed: You closed the connection.
            TypeError: ``method`` is not a string.
        """
        check_type("method", method, str, 'write a method such as "thread/list"')
        return await self._session.server.request_json(method, params)

    @asynccontextmanager
    async def events(self, *methods: str) -> AsyncGenerator[Subscription[Event]]:
        """Subscribe to notifications of the whole connection: the given methods, or all.

        Notifications that belong to no thread and arrived before there was a subscriber, such as configuration
        warnings, are delivered first: the latest 64, excluding any larger than 64 KiB.
        An unreadable line is reported as ``trio_codex/junk``, and a server request with an unknown method as
        ``trio_codex/unknownServerRequest``.

        Raises:
            SubscriptionOverflow: While iterating: this consumer fell behind by more than ``event_buffer`` allows.
            ConnectionBroken: While iterating: the connection ended.
        """
        self._session.connection.check_open()
        await trio.lowlevel.checkpoint_if_cancelled()
        events = self._session.listeners.listen(*methods)
        try:
            yield events
        finally:
            self._session.listeners.unlisten(events)

    async def wait_closed(self) -> CodexError:
        """Wait until the connection ends, and return the reason.

        The end of the connection does not cancel the body of the client's scope.
        """
        return (await self._session.connection.wait_ended()).exception()

    async def wait_unresponsive(self, *, silence: float = 30, within: float = 10, failures: int = 3) -> None:
        """Wait until the server is stuck: it runs, but sends nothing and does not answer a cheap request.

        Time during which this program was blocked does not count. The connection stays open; see :meth:`give_up`.

        Args:
            silence: How long the server may be silent before it is sent a request, in seconds.
            within: The timeout of a request, in seconds.
            failures: The number of consecutive requests without an answer after which it counts as stuck.

        Raises:
            ConnectionBroken: The connection ended first.
            ConnectionClosed: You closed the connection.
        """
        await wait_unresponsive(self._session, silence, within, failures)

    def give_up(self, reason: str) -> None:
        """End the connection as if the server had died, and kill the server if this client started it.

        Every pending operation raises ``ConnectionBroken``. Open turns are not interrupted first.

        Args:
            reason: What is wrong with the server; shown in the error.
        """
        if self.is_open:
            self._session.connection.give_up(reason)

    async def aclose(self) -> None:
        """Close the client: end its open turns, and the server if this client started it.

        Later calls raise ``ConnectionClosed``. Leaving the client's scope does the same. Its duration is
        bounded by ``interrupt_grace`` and ``stop_grace``. It is not a cancellation point.
        """
        await trio.lowlevel.cancel_shielded_checkpoint()
        if not self._lifecycle.is_closed:
            await self._session.services.finish(self._lifecycle.close)

    @property
    def decisions(self) -> tuple[DecisionRecord, ...]:
        """Decisions on the server's most recent requests, oldest first, including reviews made by the server itself.

        Keeps 1,000 records, or fewer if their content, such as tool results, exceeds 16 MiB.
        """
        return tuple(self._session.approvals.audit.records)

    # -- commands and files ------------------------------------------------------------------------------------

    def exec(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str | None] | None = None,
        stdin: bool = True,
        tty: bool = False,
        size: tuple[int, int] | None = None,
        sandbox: Sandbox | wire.SandboxPolicy | str | None = None,
        permission_profile: str | None = None,
    ) -> AbstractAsyncContextManager[RemoteProcess]:
        """Run a command on the server as a scope, without a thread or a model.

        The scope yields a :class:`RemoteProcess` once the command runs.

        No approval is requested, because the command comes from you and not from the agent. The command has no timeout.
        If the scope exits before the command has, its process group is killed and the exit is confirmed, within
        ``interrupt_grace``; after that, ``on_stuck_turn`` applies. A child in its own session (``setsid``) escapes
        unless the sandbox contains it; on Linux it ends with the server.

        Args:
            argv: The command and its arguments. No shell is involved.
            cwd: The working directory; by default the server's. The server resolves relative paths and ``~``.
            env: Overrides for the environment the server provides; ``None`` as a value removes a variable.
            stdin: Whether the command has an input stream. Without one it reads end of file immediately.
            tty: Run the command in a pseudo-terminal.
            size: Columns and rows of the terminal.
            sandbox: What the command may access. The default is the server's configuration.
            permission_profile: A permission profile from the configuration, instead of ``sandbox`` (experimental).

        Raises:
            ValueError: ``size`` was given without ``tty``.
            TypeError: ``argv`` is a string instead of a list.
            InternalRpcError: The program does not exist. (In a sandbox, it is a nonzero exit status instead.)
            ConnectionBroken: The connection ended first, and the body returned normally.
            RequestTimeout: The command was abandoned, and the body returned normally.
            CodexError: As in :meth:`request`.
        """
        from trio_codex._api.exec import exec_params, open_exec

        params = exec_params(self._session, argv, cwd, env, permission_profile, sandbox, size, tty=tty)
        return open_exec(self._session, params, stdin=stdin)

    def watch(self, path: str | os.PathLike[str]) -> AbstractAsyncContextManager[Watch]:
        """Watch a file, or the entries of a directory, as a scope that yields a :class:`Watch`.

        Subdirectories are not watched recursively. The path need not exist. Several watches may run at once. Leaving
        the scope stops the watch on the server, even if the scope is cancelled while the watch is starting.

        Args:
            path: The path to watch. A relative path is resolved against the working directory in which the server was
                started, regardless of any later ``os.chdir``; ``~`` is the server's home directory. If this client did
                not start the server, both come from its :class:`CodexConfig`, or else from this process at the time the
                client was opened.

        Raises:
            ValueError: The directory that the path is relative to is unknown.
            CodexError: As in :meth:`request`, and ``DecodeError``.
        """
        from trio_codex._api.watch import open_watch

        return open_watch(self._session, self._session.server.absolute(path))

    # -- threads -----------------------------------------------------------------------------------------------

    async def thread_start(self, **options: Unpack[ThreadStartOptions]) -> Thread:
        """Start a thread.

        If this is cancelled after the request was sent, the thread is deleted, or unsubscribed from if it is ephemeral.

        Args:
            **options: See :class:`ThreadStartOptions`. Options not given default to the server's configuration.

        Returns:
            The thread.

        Raises:
            ValueError: Options conflict, two tools have the same name, or tools were given with ``experimental_api``
                off; nothing was sent.
            TypeError: An option has the wrong type, or a tool has no valid schema; nothing was sent.
            CodexError: As in :meth:`request`, and ``DecodeError``.
        """
        return await open_thread(self._session, thread_requests.start(self._session, options))

    async def thread_resume(self, thread_id: str, **options: Unpack[ThreadResumeOptions]) -> Thread:
        """Reopen a stored thread, including one created by another process.

        If one of its turns is running, :meth:`Thread.turn` raises ``TurnActive`` until that turn ends. The given
        policy and tools handle the thread's requests, including requests that were parked earlier.

        If this is cancelled after the request was sent, the client unsubscribes from the thread before ``Cancelled``
        propagates.

        Args:
            thread_id: The id of the thread.
            **options: See :class:`ThreadResumeOptions`. Options not given keep their stored values.

        Raises:
            ThreadInUse: Another server has the thread open.
            InvalidRequestError: There is no such thread.
            ValueError: As in :meth:`thread_start`.
            TypeError: As in :meth:`thread_start`.
            CodexError: As in :meth:`request`, and ``DecodeError``.
        """
        return await open_thread(self._session, thread_requests.resume(self._session, thread_id, options))

    async def thread_fork(self, thread_id: str, **options: Unpack[ThreadForkOptions]) -> Thread:
        """Start a thread with the history of another one.

        If this is cancelled after the request was sent, the new thread is deleted, or unsubscribed from if ephemeral.

        Args:
            thread_id: The id of the thread to fork.
            **options: See :class:`ThreadForkOptions`. Options not given are inherited, except the sandbox, which
                follows the server's configuration.

        Raises:
            InvalidRequestError: There is no such thread, or it has no turn yet.
            ValueError: As in :meth:`thread_start`.
            TypeError: As in :meth:`thread_start`.
            CodexError: As in :meth:`request`, and ``DecodeError``.
        """
        return await open_thread(self._session, thread_requests.fork(self._session, thread_id, options))

    def threads(
        self, *, page_size: int | None = None, **filters: Unpack[ThreadFilters]
    ) -> Pager[wire.Thread]:
        """Iterate over stored threads, each one once. Threads without a turn are not listed.

        The most recently changed thread comes first by default. If sorted by ``created_at``, the default of
        :meth:`thread_list`, the server skips threads created in the same second at a page boundary.

        Args:
            page_size: How many threads to request at a time. The default is up to the server.
            **filters: See :class:`ThreadFilters`.
        """
        if filters.get("sort_key") is None:
            filters["sort_key"] = wire.ThreadSortKey.updated_at
        return threads_of(lambda cursor: self.thread_list(cursor=cursor, limit=page_size, **filters))

    async def thread_list(
        self, *, cursor: str | None = None, limit: int | None = None, **filters: Unpack[ThreadFilters]
    ) -> wire.ThreadListResponse:
        """Return one page of the stored threads. To iterate over all of them, use :meth:`threads`.

        Args:
            cursor: Start of the page: ``next_cursor`` of the previous page.
            limit: Maximum number of threads.
            **filters: See :class:`ThreadFilters`.

        Raises:
            CodexError: As in :meth:`request`, and ``DecodeError``.
        """
        response: wire.ThreadListResponse = await self._session.server.request(
            "thread/list", list_params(cursor, limit, filters)
        )
        return response

    async def thread_read(self, thread_id: str, *, include_turns: bool = False) -> wire.Thread:
        """Read a thread without opening it. With ``include_turns`` the whole history arrives as a single line.

        Raises:
            TypeError: ``thread_id`` is not a string.
            CodexError: As in :meth:`request`, and ``DecodeError``.
        """
        check_thread_id(thread_id)
        return (await self.api.thread.read(thread_id=thread_id, include_turns=include_turns)).thread

    def thread_turns(self, thread_id: str, **view: Unpack[TurnsView]) -> Pager[wire.Turn]:
        """Iterate over the turns of a stored thread without opening it. See :meth:`Thread.turns`."""
        return turns_of(self._session, thread_id, view)

    def thread_items(self, thread_id: str, **view: Unpack[ItemsView]) -> Pager[wire.ThreadItemEntry]:
        """Iterate over the items of a stored thread without opening it. See :meth:`Thread.items`."""
        return items_of(self._session, thread_id, view)

    async def thread_archive(self, thread_id: str) -> None:
        """Archive a thread: the server ends its open turn, unloads it, and hides it from ordinary listings.

        Raises:
            TypeError: ``thread_id`` is not a string.
            CodexError: As in :meth:`request`.
        """
        check_thread_id(thread_id)
        await self._session.server.request("thread/archive", {"threadId": thread_id})

    async def thread_unarchive(self, thread_id: str, **options: Unpack[ThreadResumeOptions]) -> Thread:
        """Restore an archived thread and open it.

        If this is cancelled between the two steps, the thread is listed again but not open.

        Args:
            thread_id: The id of the thread.
            **options: As in :meth:`thread_resume`.

        Raises:
            InvalidRequestError: The thread is not archived.
            ValueError: As in :meth:`thread_start`.
            TypeError: As in :meth:`thread_start`.
            CodexError: As in :meth:`request`, and ``DecodeError``.
        """
        # Report invalid options before sending the first request.
        resume_params(thread_id, options, self._session.server.absolute)
        thread_requests.own_tools(self._session, options)
        await self._session.server.request("thread/unarchive", {"threadId": thread_id})
        # An unarchived thread is only on disk, and the server would reject a turn until it is resumed (PROTOCOL Q16).
        return await self.thread_resume(thread_id, **options)

    async def thread_delete(self, thread_id: str) -> None:
        """Delete a thread permanently. The server ends its open turn.

        Raises:
            TypeError: ``thread_id`` is not a string.
            CodexError: As in :meth:`request`.
        """
        check_thread_id(thread_id)
        await self._session.server.request("thread/delete", {"threadId": thread_id})

    @property
    def usage(self) -> TokenUsage | None:
        """Tokens used by all turns of this client, including their agents; ``None`` if none were reported."""
        return self._session.meter.usage

    # -- models and account ------------------------------------------------------------------------------------

    async def models(self, *, include_hidden: bool = False) -> wire.ModelListResponse:
        """Return the models offered by the server.

        Raises:
            CodexError: As in :meth:`request`, and ``DecodeError``.
        """
        return await self.api.model.list(include_hidden=include_hidden)

    async def account(self, *, refresh_token: bool = False) -> wire.GetAccountResponse:
        """Return the account that is logged in, and whether the model provider requires a login.

        Args:
            refresh_token: Have the server refresh its token first.

        Raises:
            CodexError: As in :meth:`request`, and ``DecodeError``.
        """
        return await self.api.account.read(refresh_token=refresh_token)

    async def login_api_key(self, api_key: str) -> None:
        """Log in with an API key. The server stores the key in its ``CODEX_HOME``.

        Raises:
            CodexError: As in :meth:`request`, and ``DecodeError``.
        """
        await self.api.account.login_start(wire.ApiKeyLoginAccountParams(api_key=api_key))

    async def login_chatgpt(self) -> LoginHandle:
        """Start a login that the user completes in a browser on the server's machine.

        The server allows one such login at a time. A new one ends the pending one, even if another client started it.
        If this is cancelled after the request was sent, the login is cancelled too.

        Raises:
            CodexError: As in :meth:`request`, and ``DecodeError``.
        """
        return await start_login(self._session, wire.ChatgptLoginAccountParams())

    async def login_chatgpt_device_code(self) -> LoginHandle:
        """Start a login that the user completes in a browser on any machine by entering a code.

        If this is cancelled after the request was sent, the login is cancelled too.

        Raises:
            CodexError: As in :meth:`request`, and ``DecodeError``.
        """
        return await start_login(self._session, wire.ChatgptDeviceCodeLoginAccountParams())

    async def logout(self) -> None:
        """Log out: the server discards the credentials in its ``CODEX_HOME``.

        Raises:
            CodexError: As in :meth:`request`.
        """
        await self.api.account.logout()

    async def rate_limits(self) -> wire.GetAccountRateLimitsResponse:
        """Return how much of the account's rate limits is used. Requires a ChatGPT login.

        To be notified of changes, subscribe to ``account/rateLimits/updated``.

        Raises:
            InvalidRequestError: There is no ChatGPT login.
            CodexError: As in :meth:`request`, and ``DecodeError``.
        """
        return await self.api.account.rate_limits_read()

    async def account_usage(self) -> wire.GetAccountTokenUsageResponse:
        """Return the account's usage across all clients and days. Requires a ChatGPT login.

        Raises:
            InvalidRequestError: There is no ChatGPT login.
            CodexError: As in :meth:`request`, and ``DecodeError``.
        """
        return await self.api.account.usage_read()

    # -- MCP servers and skills --------------------------------------------------------------------------------

    @property
    def mcp(self) -> McpServers:
        """The MCP servers in the configuration. For those started by a thread, see :attr:`Thread.mcp`."""
        return McpServers(self._session)

    @property
    def skills(self) -> Skills:
        """The skills available to agents."""
        return Skills(self._session)
