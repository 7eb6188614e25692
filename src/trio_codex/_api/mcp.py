"""Requests about the MCP servers in the server's configuration, and about those that a thread has started.

Logins are in :mod:`~trio_codex._api.login`. The policies handle requests that an MCP server makes to its user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_codex import wire
from trio_codex._api.login import start_mcp_login
from trio_codex._api.paging import Pager

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trio_codex._api.login import McpLogin
    from trio_codex._api.terminals import ThreadRequest
    from trio_codex._session.session import Session


class McpServers:
    """The MCP servers in the server's configuration. Accessed as :attr:`Codex.mcp`.

    Each thread starts its own set of them: see :attr:`Thread.mcp`.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    async def list(self) -> tuple[wire.McpServerStatus, ...]:
        """Return the tools and resources of each MCP server, and whether it requires a login.

        To find out, the server starts all enabled MCP servers, waits for the slowest, and stops them again.

        Raises:
            CodexError: As in :meth:`Codex.request`, and ``DecodeError``.
        """
        return await _list(self._request)

    async def reload(self) -> None:
        """Reload the server's configuration. Open threads start, restart or stop MCP servers accordingly.

        This does not wait until they have started; :meth:`ThreadMcpServers.status` does.

        Raises:
            CodexError: As in :meth:`Codex.request`.
        """
        await self._session.server.request("config/mcpServer/reload")

    async def login(
        self,
        name: str,
        *,
        client_registration: wire.McpServerOauthClientRegistration | str | None = None,
        scopes: Sequence[str] | None = None,
        thread_id: str | None = None,
        timeout_secs: int | None = None,
    ) -> McpLogin:
        """Start an OAuth login to an MCP server, which the user completes in a browser.

        Args:
            name: The name of the MCP server in the configuration.
            client_registration: How to register as an OAuth client, for this login only.
            scopes: Scopes to request instead of the configured ones.
            thread_id: The thread whose configuration to use.
            timeout_secs: Seconds until the server gives up.

        Raises:
            InvalidRequestError: There is no such MCP server, or it does not support OAuth.
            CodexError: As in :meth:`Codex.request`, and ``DecodeError``.
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
        return await self._session.server.request(method, params)


class ThreadMcpServers:
    """The MCP servers started by a thread. Accessed as :attr:`Thread.mcp`.

    They start with the thread and stop when it is unloaded. To be notified of their startup, listen for
    ``mcpServer/startupStatus/updated`` with :meth:`Thread.events`.
    """

    def __init__(self, request: ThreadRequest) -> None:
        self._request = request

    async def list(self) -> tuple[wire.McpServerStatus, ...]:
        """Return the status, tools and resources of each MCP server, once all have started or failed to start.

        Raises:
            CodexError: As in :meth:`Codex.request`, and ``DecodeError``.
        """
        return await _list(self._request)

    async def status(self, name: str) -> wire.McpServerStatus:
        """Return the status, tools and resources of one MCP server, once it has started or failed to start.

        Args:
            name: The name of the MCP server in the configuration.

        Returns:
            Its status; ``runtime_status`` says whether it is connected, and ``tools_error`` why not.

        Raises:
            LookupError: The thread has no such MCP server.
            CodexError: As in :meth:`Codex.request`, and ``DecodeError``.
        """
        # Filter by name here, too, because older servers ignore the filter and report all MCP servers.
        for status in await _list(self._request, serverName=name):
            if status.name == name:
                return status
        raise LookupError(f"the thread has no MCP server {name!r}")

    async def call(
        self, name: str, tool: str, arguments: Mapping[str, wire.JSON] | None = None
    ) -> wire.McpServerToolCallResponse:
        """Call a tool. Waits until the MCP server has started.

        No approval is requested, because the call comes from you and not from the agent. Requests that the MCP server
        makes to its user during the call go to the thread's policy, then to the client's. With the approval policy
        ``never``, the server declines them on its own.

        If this is cancelled, the call runs to its end and its result is discarded, because the protocol cannot cancel
        it. Unloading the thread stops the MCP server, and the call with it.

        Args:
            name: The name of the MCP server.
            tool: The name of the tool.
            arguments: The arguments of the call.

        Returns:
            The result; ``is_error`` says whether the tool failed.

        Raises:
            InternalRpcError: There is no such MCP server or tool, the MCP server did not start, or it rejected the
                call.
            CodexError: As in :meth:`Codex.request`, and ``DecodeError``.
        """
        response: wire.McpServerToolCallResponse = await self._request(
            "mcpServer/tool/call", server=name, tool=tool, arguments=dict(arguments or {})
        )
        return response

    async def read_resource(self, name: str, uri: str) -> Sequence[wire.ResourceContent]:
        """Read a resource. Waits until the MCP server has started.

        Args:
            name: The name of the MCP server.
            uri: The URI of the resource, as listed in the ``resources`` of its status.

        Raises:
            InternalRpcError: There is no such MCP server or resource, or the MCP server did not start.
            CodexError: As in :meth:`Codex.request`, and ``DecodeError``.
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
