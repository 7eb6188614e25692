"""MCP servers: owns what can be asked of those in the server's configuration, and of those that a thread has started.

How a login to one ends is ``_login``'s to know; what they ask their user goes to the policies, as in a turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_codex import wire
from trio_codex._client._login import start_mcp_login
from trio_codex._client._paging import Pager

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trio_codex._client._login import McpLogin
    from trio_codex._client._session import Session
    from trio_codex._remote._terminals import ThreadRequest


class McpServers:
    """The MCP servers of the server's configuration. Made by :attr:`Codex.mcp`.

    Each thread starts its own set of them: see :attr:`Thread.mcp`.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    async def list(self) -> tuple[wire.McpServerStatus, ...]:
        """Tell what each has to offer, and whether one has to log in to it.

        For that the server starts all that are enabled, waits for the slowest, and ends them again.

        Raises:
            CodexError: As :meth:`Codex.request`, and ``DecodeError``.
        """
        return await _list(self._request)

    async def reload(self) -> None:
        """Have the server read its configuration anew: open threads start, restart or end MCP servers accordingly.

        Does not wait until they have started; :meth:`ThreadMcpServers.status` does.

        Raises:
            CodexError: As :meth:`Codex.request`.
        """
        await self._session.request("config/mcpServer/reload")

    async def login(
        self,
        name: str,
        *,
        client_registration: wire.McpServerOauthClientRegistration | str | None = None,
        scopes: Sequence[str] | None = None,
        thread_id: str | None = None,
        timeout_secs: int | None = None,
    ) -> McpLogin:
        """Begin an OAuth login to one, which a person finishes in a browser.

        Args:
            name: Its name in the configuration.
            client_registration: How to register as an OAuth client, for this login only.
            scopes: Scopes to ask for, in place of those configured.
            thread_id: The thread by whose configuration to go.
            timeout_secs: When the server gives it up.

        Raises:
            InvalidRequestError: There is no such MCP server, or it knows no OAuth.
            CodexError: As :meth:`Codex.request`, and ``DecodeError``.
        """
        params = wire.McpServerOauthLoginParams(
            name=name,
            client_registration=client_registration,
            scopes=scopes,
            thread_id=thread_id,
            timeout_secs=timeout_secs,
        )
        return await start_mcp_login(self._session, params)

    async def _request(self, method: str, **params: Any) -> Any:
        return await self._session.request(method, params)


class ThreadMcpServers:
    """The MCP servers that a thread has started. Made by :attr:`Thread.mcp`.

    They start with the thread, and end when it is unloaded. To be told how that goes, listen to
    ``mcpServer/startupStatus/updated`` with :meth:`Thread.events`.
    """

    def __init__(self, request: ThreadRequest) -> None:
        self._request = request

    async def list(self) -> tuple[wire.McpServerStatus, ...]:
        """Tell of each how it is, and what it has to offer. Waits until all have started, or failed to.

        Raises:
            CodexError: As :meth:`Codex.request`, and ``DecodeError``.
        """
        return await _list(self._request)

    async def status(self, name: str) -> wire.McpServerStatus:
        """Tell how one is, and what it has to offer. Waits until it has started, or failed to.

        Args:
            name: Its name in the configuration.

        Returns:
            Its status; ``runtime_status`` says whether it is connected, ``tools_error`` why not.

        Raises:
            LookupError: The thread has no such MCP server.
            CodexError: As :meth:`Codex.request`, and ``DecodeError``.
        """
        # By its name: an older server does not know the filter, waits for all, and tells of all.
        for status in await _list(self._request, serverName=name):
            if status.name == name:
                return status
        raise LookupError(f"the thread has no MCP server {name!r}")

    async def call(
        self, name: str, tool: str, arguments: Mapping[str, wire.JSON] | None = None
    ) -> wire.McpServerToolCallResponse:
        """Call a tool. Waits until the MCP server has started.

        Nobody is asked for approval: the call is yours, not the agent's. What the MCP server asks its user meanwhile goes
        to the thread's policy, then the client's; with the approval policy ``never`` the server declines it by itself
        (PROTOCOL Q58).

        If this is cancelled, the call goes on to its end, whose result is dropped: the protocol cannot cancel it (PROTOCOL
        Q28). It ends with the MCP server, when the thread is unloaded.

        Args:
            name: The MCP server.
            tool: Its tool.
            arguments: What to call it with.

        Returns:
            The result; ``is_error`` says whether the tool failed.

        Raises:
            InternalRpcError: There is no such MCP server or tool, the server did not start, or it refused.
            CodexError: As :meth:`Codex.request`, and ``DecodeError``.
        """
        response: wire.McpServerToolCallResponse = await self._request(
            "mcpServer/tool/call", server=name, tool=tool, arguments=dict(arguments or {})
        )
        return response

    async def read_resource(self, name: str, uri: str) -> Sequence[wire.ResourceContent]:
        """Read a resource. Waits until the MCP server has started.

        Args:
            name: The MCP server.
            uri: The resource, as in the ``resources`` of its status.

        Raises:
            InternalRpcError: There is no such MCP server or resource, or the server did not start.
            CodexError: As :meth:`Codex.request`, and ``DecodeError``.
        """
        response: wire.McpResourceReadResponse = await self._request(
            "mcpServer/resource/read", server=name, uri=uri
        )
        return response.contents


async def _list(request: ThreadRequest, **filters: str) -> tuple[wire.McpServerStatus, ...]:
    async def fetch(cursor: str | None) -> tuple[Sequence[wire.McpServerStatus], str | None]:
        page: wire.ListMcpServerStatusResponse = await request(
            "mcpServerStatus/list", cursor=cursor, **filters
        )
        return page.data, page.next_cursor

    return tuple([status async for status in Pager("mcpServerStatus/list", fetch)])
