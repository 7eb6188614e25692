"""The client: owns what can be asked of a server as a whole, and the threads that are opened on it."""

from __future__ import annotations

import os
import re
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Unpack

import attrs
import trio

from trio_codex import wire
from trio_codex._client import _opening
from trio_codex._client._history import items_of, turns_of
from trio_codex._client._login import start_login
from trio_codex._client._mcp import McpServers
from trio_codex._client._options import list_params, resume_params, sandbox_policy
from trio_codex._client._paging import Pager
from trio_codex._client._skills import Skills
from trio_codex._client._thread import Thread, open_thread
from trio_codex._core._several import several

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from trio_codex._api._generated import Api
    from trio_codex._client._history import ItemsView, TurnsView
    from trio_codex._client._login import LoginHandle
    from trio_codex._client._options import (
        Sandbox,
        ThreadFilters,
        ThreadForkOptions,
        ThreadResumeOptions,
        ThreadStartOptions,
    )
    from trio_codex._client._session import Session
    from trio_codex._remote._exec import RemoteProcess
    from trio_codex._remote._watch import Watch
    from trio_codex._requests._audit import DecisionRecord
    from trio_codex._runtime._subscriptions import Subscription
    from trio_codex._turns._event import Event
    from trio_codex._turns._usage import TokenUsage
    from trio_codex.errors import CodexError


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
            from trio_codex._api._generated import Api

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

        What concerns no thread and came before anybody listened, such as warnings about the configuration, comes first: the
        latest 64, as far as they are no larger than 64 KiB.
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
        """What was decided on the latest requests of the server, oldest first, reviews of its own included.

        Holds 1,000 records, or fewer if what they hold, such as results of tools, comes to more than 16 MiB.
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
        """Run a command on the server as a scope, without thread and model; gives a :class:`RemoteProcess` once it runs.

        Nobody is asked for approval: it is yours, not the agent's. It has no time limit. Leaving the scope while it runs,
        or while it starts, kills its process group, and waits for the proof, within ``interrupt_grace``; past that
        ``on_stuck_turn`` decides. A child in a session of its own (``setsid``) escapes, unless the sandbox holds it; on
        Linux it ends with the server.

        Args:
            argv: The command and its arguments. It is not run by a shell.
            cwd: Its working directory; by default that of the server, which also resolves relative ones and ``~``.
            env: Laid over the environment that the server gives it; ``None`` as a value removes a name.
            stdin: Whether it gets input; without, it reads the end of file at once.
            tty: Run it in a terminal of its own.
            size: Columns and rows of the terminal.
            sandbox: What it may touch; by default as the server is configured.
            permission_profile: Instead of ``sandbox``: a permission profile of the configuration (experimental).

        Raises:
            ValueError: It has a size, and no terminal.
            TypeError: ``argv`` is one text, and no list.
            InternalRpcError: There is no such program. (In a sandbox that is an exit status other than 0 instead.)
            ConnectionBroken: The connection ended first, and the body returned normally.
            RequestTimeout: It was abandoned, and the body returned normally.
            CodexError: As :meth:`request`.
        """
        from trio_codex._remote._exec import open_exec

        if size is not None and not tty:
            raise ValueError("only a terminal has a size")
        params = wire.CommandExecParams(
            command=[os.fspath(part) for part in several(argv)],
            process_id=f"process-{self._session.next_number()}",
            cwd=None if cwd is None else os.fspath(cwd),
            disable_output_cap=True,
            disable_timeout=True,
            env=env,
            permission_profile=permission_profile,
            sandbox_policy=sandbox_policy(sandbox),
            size=None if size is None else wire.CommandExecTerminalSize(cols=size[0], rows=size[1]),
            stream_stdin=True,
            stream_stdout_stderr=True,
            tty=tty,
        )
        return open_exec(self._session, params, stdin=stdin)

    def watch(self, path: str | os.PathLike[str]) -> AbstractAsyncContextManager[Watch]:
        """Watch a file, or the entries of a directory, as a scope that gives a :class:`Watch`. Several may run at once.

        What is below a subdirectory is not watched. The path need not exist. Leaving the scope stops the watch on the
        server, also if this is cancelled while it starts.

        Args:
            path: What to watch. A relative one is below the working directory that the server was started in, also after a
                later ``os.chdir``; ``~`` is the server's home directory. With :func:`connect_codex`, that is what a server
                started here at the time of the call would have.

        Raises:
            ValueError: What the path is relative to is unknown.
            CodexError: As :meth:`request`, and ``DecodeError``.
        """
        from trio_codex._remote._watch import open_watch

        return open_watch(self._session, self._session.absolute(path))

    # -- threads -----------------------------------------------------------------------------------------------

    async def thread_start(self, **options: Unpack[ThreadStartOptions]) -> Thread:
        """Start a thread.

        If this is cancelled after the request was sent, the thread is deleted again before ``Cancelled`` goes on.

        Args:
            **options: See :class:`ThreadStartOptions`. What is not given is as the server is configured.

        Returns:
            The thread.

        Raises:
            ValueError: Options contradict each other, two tools have the same name, or ``experimental_api`` is off for them;
                nothing was sent.
            TypeError: An option has another type, or a tool cannot be described to an agent; nothing was sent.
            CodexError: As :meth:`request`, and ``DecodeError``.
        """
        return await open_thread(self._session, _opening.start(self._session, options))

    async def thread_resume(self, thread_id: str, **options: Unpack[ThreadResumeOptions]) -> Thread:
        """Open a stored thread again, also one of another process.

        If a turn of it runs, :meth:`Thread.turn` raises ``TurnActive`` until that has ended. The policy and the tools that
        are given decide on its questions, also on those that were parked before.

        If this is cancelled after the request was sent, the thread is unsubscribed from before ``Cancelled`` goes on.

        Args:
            thread_id: Its id.
            **options: See :class:`ThreadResumeOptions`. What is not given stays as stored.

        Raises:
            ThreadInUse: Another server has it open.
            InvalidRequestError: There is no such thread.
            ValueError: As :meth:`thread_start`.
            CodexError: As :meth:`request`, and ``DecodeError``.
        """
        return await open_thread(self._session, _opening.resume(self._session, thread_id, options))

    async def thread_fork(self, thread_id: str, **options: Unpack[ThreadForkOptions]) -> Thread:
        """Start a thread with the history of another.

        If this is cancelled after the request was sent, the new thread is deleted again before ``Cancelled`` goes on.

        Args:
            thread_id: The thread to fork.
            **options: See :class:`ThreadForkOptions`. What is not given is taken over, but for the sandbox, which is as
                the server is configured (PROTOCOL Q39).

        Raises:
            InvalidRequestError: There is no such thread, or it has no turn yet.
            ValueError: As :meth:`thread_start`.
            CodexError: As :meth:`request`, and ``DecodeError``.
        """
        return await open_thread(self._session, _opening.fork(self._session, thread_id, options))

    def threads(
        self, *, page_size: int | None = None, **filters: Unpack[ThreadFilters]
    ) -> Pager[wire.Thread]:
        """Iterate over stored threads, each once. Threads without a turn are not among them.

        The one that was changed last comes first unless sorted otherwise. Sorted by ``created_at``, which is the default
        of :meth:`thread_list`, the server leaves out threads of one second between two pages (PROTOCOL Q37).

        Args:
            page_size: How many to ask for at a time; by default what the server takes for reasonable.
            **filters: See :class:`ThreadFilters`.
        """
        if filters.get("sort_key") is None:
            filters["sort_key"] = wire.ThreadSortKey.updated_at
        seen: set[str] = set()

        async def fetch(cursor: str | None) -> tuple[Sequence[wire.Thread], str | None]:
            page = await self.thread_list(cursor=cursor, limit=page_size, **filters)
            # One that was reverted and then archived is there once for each of its files (PROTOCOL Q40), and one that
            # was changed meanwhile may come again.
            fresh: list[wire.Thread] = []
            for thread in page.data:
                if thread.id not in seen:
                    seen.add(thread.id)
                    fresh.append(thread)
            return fresh, page.next_cursor

        return Pager("thread/list", fetch)

    async def thread_list(
        self, *, cursor: str | None = None, limit: int | None = None, **filters: Unpack[ThreadFilters]
    ) -> wire.ThreadListResponse:
        """Give one page of the stored threads; :meth:`threads` iterates over all of them.

        Args:
            cursor: Where the page begins: ``next_cursor`` of the one before.
            limit: How many at most.
            **filters: See :class:`ThreadFilters`.

        Raises:
            CodexError: As :meth:`request`, and ``DecodeError``.
        """
        response: wire.ThreadListResponse = await self._session.request(
            "thread/list", list_params(cursor, limit, filters)
        )
        return response

    async def thread_read(self, thread_id: str, *, include_turns: bool = False) -> wire.Thread:
        """Read a thread without opening it. With ``include_turns`` the whole history comes in one line.

        Raises:
            CodexError: As :meth:`request`, and ``DecodeError``.
        """
        return (await self.api.thread.read(thread_id=thread_id, include_turns=include_turns)).thread

    def thread_turns(self, thread_id: str, **view: Unpack[TurnsView]) -> Pager[wire.Turn]:
        """Iterate over the turns of a stored thread without opening it. See :meth:`Thread.turns`."""
        return turns_of(self._session, thread_id, view)

    def thread_items(self, thread_id: str, **view: Unpack[ItemsView]) -> Pager[wire.ThreadItemEntry]:
        """Iterate over the items of a stored thread without opening it. See :meth:`Thread.items`."""
        return items_of(self._session, thread_id, view)

    async def thread_archive(self, thread_id: str) -> None:
        """Archive a thread: the server ends its open turn, unloads it, and hides it from ordinary lists.

        Raises:
            CodexError: As :meth:`request`.
        """
        await self._session.request("thread/archive", {"threadId": thread_id})

    async def thread_unarchive(self, thread_id: str, **options: Unpack[ThreadResumeOptions]) -> Thread:
        """Bring an archived thread back, and open it.

        If this is cancelled between the two, the thread stays back in the ordinary lists, unopened.

        Args:
            thread_id: Its id.
            **options: As in :meth:`thread_resume`.

        Raises:
            InvalidRequestError: It is not archived.
            ValueError: As :meth:`thread_start`.
            CodexError: As :meth:`request`, and ``DecodeError``.
        """
        # Whatever is wrong with them is so before the first request.
        resume_params(thread_id, options, self._session.absolute)
        _opening.own_tools(self._session, options)
        await self._session.request("thread/unarchive", {"threadId": thread_id})
        # The server has it on disk only, and would refuse a turn (PROTOCOL Q16).
        return await self.thread_resume(thread_id, **options)

    async def thread_delete(self, thread_id: str) -> None:
        """Delete a thread for good; the server ends its open turn.

        Raises:
            CodexError: As :meth:`request`.
        """
        await self._session.request("thread/delete", {"threadId": thread_id})

    @property
    def usage(self) -> TokenUsage | None:
        """The tokens that all turns of this client used, those of agents included; ``None`` if none were reported."""
        return self._session.router.meter.usage

    # -- models and account ------------------------------------------------------------------------------------

    async def models(self, *, include_hidden: bool = False) -> wire.ModelListResponse:
        """List the models that the server offers.

        Raises:
            CodexError: As :meth:`request`, and ``DecodeError``.
        """
        return await self.api.model.list(include_hidden=include_hidden)

    async def account(self, *, refresh_token: bool = False) -> wire.GetAccountResponse:
        """Tell who is logged in, and whether the model's provider wants anybody to be.

        Args:
            refresh_token: Have the server renew its token first.

        Raises:
            CodexError: As :meth:`request`, and ``DecodeError``.
        """
        return await self.api.account.read(refresh_token=refresh_token)

    async def login_api_key(self, api_key: str) -> None:
        """Log in with an API key. The server stores it in its ``CODEX_HOME``.

        Raises:
            CodexError: As :meth:`request`, and ``DecodeError``.
        """
        await self.api.account.login_start(wire.ApiKeyLoginAccountParams(api_key=api_key))

    async def login_chatgpt(self) -> LoginHandle:
        """Begin a login that a person finishes in a browser on the machine of the server.

        The server waits for one such login at a time; a new one ends the pending one, also one of another client. If this
        is cancelled after the request was sent, the login is cancelled, too.

        Raises:
            CodexError: As :meth:`request`, and ``DecodeError``.
        """
        return await start_login(self._session, wire.ChatgptLoginAccountParams())

    async def login_chatgpt_device_code(self) -> LoginHandle:
        """Begin a login that a person finishes in a browser on any machine, with a code.

        If this is cancelled after the request was sent, the login is cancelled, too.

        Raises:
            CodexError: As :meth:`request`, and ``DecodeError``.
        """
        return await start_login(self._session, wire.ChatgptDeviceCodeLoginAccountParams())

    async def logout(self) -> None:
        """Log out: the server forgets the credentials in its ``CODEX_HOME``.

        Raises:
            CodexError: As :meth:`request`.
        """
        await self.api.account.logout()

    async def rate_limits(self) -> wire.GetAccountRateLimitsResponse:
        """Tell how much of the account's rate limits is used. It needs a ChatGPT login.

        Listen to ``account/rateLimits/updated`` to be told of changes.

        Raises:
            InvalidRequestError: Nobody is logged in with ChatGPT.
            CodexError: As :meth:`request`, and ``DecodeError``.
        """
        return await self.api.account.rate_limits_read()

    async def account_usage(self) -> wire.GetAccountTokenUsageResponse:
        """Tell what the account has used, over all clients and days. It needs a ChatGPT login.

        Raises:
            InvalidRequestError: Nobody is logged in with ChatGPT.
            CodexError: As :meth:`request`, and ``DecodeError``.
        """
        return await self.api.account.usage_read()

    # -- what agents can use -----------------------------------------------------------------------------------

    @property
    def mcp(self) -> McpServers:
        """The MCP servers of the configuration; :attr:`Thread.mcp` are those that a thread has started."""
        return McpServers(self._session)

    @property
    def skills(self) -> Skills:
        """The skills that agents find."""
        return Skills(self._session)
