"""Logins that a person finishes in a browser: owns the handle of one, and the news of how it ended.

The server may report the end of a login before its answer to the request that began it has been taken in, so the news
are collected from before that request on.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, Self

import trio

from trio_codex import wire
from trio_codex.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from trio_codex._client._session import Session
    from trio_codex._turns._event import Event

COMPLETED: Final = "account/login/completed"
MCP_COMPLETED: Final = "mcpServer/oauthLogin/completed"

ENDED_KEPT: Final = 64
"""Ends of logins that are remembered until somebody asks. A client has one or two pending at a time."""


class LoginNews:
    """Hears how logins end, for as long as the client lives. A listener of the router."""

    def __init__(self) -> None:
        self._ended: OrderedDict[str, wire.Wire] = OrderedDict()
        self._changed: trio.Event = trio.Event()
        self._error: Callable[[], Exception] | None = None

    def put(self, event: Event) -> None:
        """Take the news."""
        params = event.params
        key = _key_of(params)
        if key is not None:
            self._ended[key] = params
            if len(self._ended) > ENDED_KEPT:
                self._ended.popitem(last=False)
            self._wake()

    def end(self, error: Callable[[], Exception] | None = None) -> None:
        """Note that there will be no more, and why."""
        self._error = error
        self._wake()

    def release(self) -> None:
        """Forget everything."""
        self._ended.clear()

    def forget(self, key: str) -> None:
        """Forget how an earlier login of this key ended."""
        self._ended.pop(key, None)

    def ended(self, key: str) -> Any:
        """Give how a login ended; ``None`` if it has not."""
        return self._ended.get(key)

    async def wait(self, key: str) -> Any:
        """Wait until a login has ended; give how."""
        await trio.lowlevel.checkpoint()
        while (ended := self._ended.get(key)) is None:
            if self._error is not None:
                raise self._error()
            await self._changed.wait()
        return ended

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _key_of(params: wire.Wire) -> str | None:
    match params:
        case wire.AccountLoginCompletedNotification(login_id=login_id):
            return login_id
        case wire.McpServerOauthLoginCompletedNotification(login_id=login_id, name=name):
            return login_id or _mcp_key(name)
        case _:
            return None


def _mcp_key(name: str) -> str:
    """Stand in for the id of a login to an MCP server, which older servers do not give."""
    return f"mcpServer {name}"


class LoginHandle:
    """A login that is under way until a person has finished it elsewhere.

    Made by ``login_chatgpt`` and ``login_chatgpt_device_code`` of the client. Use it as an async context manager, so that
    the server stops waiting if the scope is left before its end::

        async with await codex.login_chatgpt() as login:
            print(login.auth_url)
            completed = await login.wait()

    Attributes:
        login_id: Its id.
        auth_url: The page to open in a browser on the machine of the server; ``None`` with a device code.
        verification_url: The page to open on any machine; ``None`` without a device code.
        user_code: The code to enter there; ``None`` without a device code.
    """

    def __init__(
        self,
        session: Session,
        news: LoginNews,
        login_id: str,
        *,
        auth_url: str | None = None,
        verification_url: str | None = None,
        user_code: str | None = None,
    ) -> None:
        self._session = session
        self._news = news
        self.login_id = login_id
        self.auth_url = auth_url
        self.verification_url = verification_url
        self.user_code = user_code
        self._result: wire.AccountLoginCompletedNotification | None = None

    def __repr__(self) -> str:
        # Whoever has the URL or the code can take part in the login.
        return f"<LoginHandle {self.login_id}>"

    async def wait(self) -> wire.AccountLoginCompletedNotification:
        """Wait for its end.

        Returns:
            What the server says of it, with ``success``, or with the reason in ``error``. A login that was cancelled, or that a
            newer browser login took the place of, ended without success.

        Raises:
            ConnectionBroken: The connection ended first.
            ConnectionClosed: You closed it.
        """
        await trio.lowlevel.checkpoint()
        result = self._result
        if result is None:
            ended: wire.AccountLoginCompletedNotification = await self._news.wait(self.login_id)
            result = self._result = ended
        return result

    async def cancel(self) -> wire.CancelLoginAccountResponse:
        """Make the server stop waiting. What it answers says whether there was a login to cancel.

        Raises:
            CodexError: As every request.
        """
        response: wire.CancelLoginAccountResponse = await self._session.request(
            "account/login/cancel", {"loginId": self.login_id}
        )
        return response

    async def __aenter__(self) -> Self:
        # Not a cancellation point: the server waits already, and only a scope that was entered makes it stop.
        await trio.lowlevel.cancel_shielded_checkpoint()
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()
        ended = self._result or self._news.ended(self.login_id)
        if ended is None and self._session.connection.death is None:
            # Shielded and bounded inside.
            await self._session.services.finish(cancel_login, self._session, self.login_id)  # noqa: ASYNC102


class McpLogin:
    """An OAuth login to an MCP server. Made by :meth:`McpServers.login`.

    The protocol cannot cancel it; the server gives it up after its time-out.

    Attributes:
        name: The MCP server.
        authorization_url: The page to open in a browser on the machine of the server.
    """

    def __init__(self, news: LoginNews, name: str, authorization_url: str, key: str) -> None:
        self._news = news
        self._key = key
        self.name = name
        self.authorization_url = authorization_url

    def __repr__(self) -> str:
        return f"<McpLogin to {self.name}>"

    async def wait(self) -> wire.McpServerOauthLoginCompletedNotification:
        """Wait for its end.

        Returns:
            What the server says of it, with ``success``, or with the reason in ``error``.

        Raises:
            ConnectionBroken: The connection ended first.
            ConnectionClosed: You closed it.
        """
        ended: wire.McpServerOauthLoginCompletedNotification = await self._news.wait(self._key)
        return ended


async def start_login(
    session: Session, params: wire.ChatgptLoginAccountParams | wire.ChatgptDeviceCodeLoginAccountParams
) -> LoginHandle:
    """Begin a login; if this is cancelled, so is the login."""
    news = _hear(session)

    async def undo(response: wire.LoginAccountResponse) -> None:
        await cancel_login(session, _handle(session, news, response).login_id)

    return _handle(session, news, await session.acquire("account/login/start", params, undo))


async def start_mcp_login(session: Session, params: wire.McpServerOauthLoginParams) -> McpLogin:
    """Begin an OAuth login to an MCP server."""
    news = _hear(session)
    news.forget(_mcp_key(params.name))
    response: wire.McpServerOauthLoginResponse = await session.request("mcpServer/oauth/login", params)
    key = response.login_id or _mcp_key(params.name)
    return McpLogin(news, params.name, response.authorization_url, key)


async def cancel_login(session: Session, login_id: str) -> None:
    """Cancel a login within ``interrupt_grace``, unless it has ended by itself."""
    await session.end("account/login/cancel", {"loginId": login_id})


def _hear(session: Session) -> LoginNews:
    if session.logins is None:
        session.logins = LoginNews()
        session.router.attach(session.logins, COMPLETED, MCP_COMPLETED)
    return session.logins


def _handle(session: Session, news: LoginNews, response: wire.LoginAccountResponse) -> LoginHandle:
    match response:
        case wire.ChatgptLoginAccountResponse(login_id=login_id, auth_url=auth_url):
            return LoginHandle(session, news, login_id, auth_url=auth_url)
        case wire.ChatgptDeviceCodeLoginAccountResponse(
            login_id=login_id, verification_url=url, user_code=code
        ):
            return LoginHandle(session, news, login_id, verification_url=url, user_code=code)
        case _:
            raise DecodeError("account/login/start", "$.type", "this is the answer to another kind of login")
