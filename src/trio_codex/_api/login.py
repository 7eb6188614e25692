"""Logins that the user completes in a browser, and their handles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import trio

from trio_codex import wire
from trio_codex._core.json import parse_object, string_of
from trio_codex._core.log import logger
from trio_codex._session.logins import mcp_key
from trio_codex._session.server import decode_result
from trio_codex.errors import DecodeError, RemoteProtocolError

if TYPE_CHECKING:
    import msgspec

    from trio_codex._session.logins import LoginNews
    from trio_codex._session.session import Session


class LoginHandle:
    """A pending login that the user completes elsewhere.

    Created by :meth:`Codex.login_chatgpt` and :meth:`Codex.login_chatgpt_device_code`. Use it as an async context
    manager, so that the server stops waiting if the scope exits before the login ends::

        async with await codex.login_chatgpt() as login:
            print(login.auth_url)
            completed = await login.wait()

    Attributes:
        login_id: The id of the login.
        auth_url: The page to open in a browser on the server's machine; ``None`` with a device code.
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
        # Keep the URL and the code out of the repr: they grant access to the login.
        return f"<LoginHandle {self.login_id}>"

    async def wait(self) -> wire.AccountLoginCompletedNotification:
        """Wait for the login to end.

        Returns:
            The server's notification, with ``success``, or with the reason in ``error``. A login that was cancelled
            or replaced by a newer browser login ended without success.

        Raises:
            ConnectionBroken: The connection ended first.
            ConnectionClosed: You closed the connection.
        """
        await trio.lowlevel.checkpoint()
        result = self._result
        if result is None:
            ended: wire.AccountLoginCompletedNotification = await self._news.wait(self.login_id)
            result = self._result = ended
        return result

    async def cancel(self) -> wire.CancelLoginAccountResponse:
        """Cancel the login on the server. The response says whether there was a login to cancel.

        Raises:
            CodexError: As for any request.
        """
        response: wire.CancelLoginAccountResponse = await self._session.server.request(
            "account/login/cancel", {"loginId": self.login_id}
        )
        return response

    async def __aenter__(self) -> Self:
        # Not a cancellation point: the login is already pending, and only a scope that was entered cancels it.
        await trio.lowlevel.cancel_shielded_checkpoint()
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(self, *_: object) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()
        ended = self._result or self._news.ended(self.login_id)
        if ended is None and self._session.connection.close_reason is None:
            # Shielded and bounded internally.
            await self._session.services.finish(cancel_login, self._session, self.login_id)  # noqa: ASYNC102


class McpLogin:
    """An OAuth login to an MCP server. Created by :meth:`McpServers.login`.

    The protocol has no way to cancel it; the server gives up after its timeout.

    Attributes:
        name: The name of the MCP server.
        authorization_url: The page to open in a browser on the server's machine.
    """

    def __init__(self, news: LoginNews, name: str, authorization_url: str, key: str) -> None:
        self._news = news
        self._key = key
        self.name = name
        self.authorization_url = authorization_url

    def __repr__(self) -> str:
        return f"<McpLogin to {self.name}>"

    async def wait(self) -> wire.McpServerOauthLoginCompletedNotification:
        """Wait for the login to end.

        Returns:
            The server's notification, with ``success``, or with the reason in ``error``.

        Raises:
            ConnectionBroken: The connection ended first.
            ConnectionClosed: You closed the connection.
        """
        ended: wire.McpServerOauthLoginCompletedNotification = await self._news.wait(self._key)
        return ended


async def start_login(
    session: Session, params: wire.ChatgptLoginAccountParams | wire.ChatgptDeviceCodeLoginAccountParams
) -> LoginHandle:
    """Start a login. If this is cancelled, so is the login."""
    news, method = session.logins, "account/login/start"

    async def undo(answer: msgspec.Raw | None) -> None:
        await trio.lowlevel.checkpoint()
        login_id = None if answer is None else string_of(parse_object(answer).get("loginId"))
        if login_id is None:
            logger.warning("a login may still be pending: the response to %s contains no readable id", method)
        else:
            await cancel_login(session, login_id)

    raw: msgspec.Raw | None = None
    try:
        answer = raw = await session.server.acquire(method, params, undo)
        return _handle(session, news, decode_result(method, answer))
    except RemoteProtocolError:
        # Not a cancellation point, and bounded internally.
        await session.services.finish(undo, raw)  # noqa: ASYNC102, ASYNC120
        raise


async def start_mcp_login(session: Session, params: wire.McpServerOauthLoginParams) -> McpLogin:
    news = session.logins
    news.forget(mcp_key(params.name))
    response: wire.McpServerOauthLoginResponse = await session.server.request("mcpServer/oauth/login", params)
    key = response.login_id or mcp_key(params.name)
    return McpLogin(news, params.name, response.authorization_url, key)


async def cancel_login(session: Session, login_id: str) -> None:
    """Cancel a login within ``interrupt_grace``, unless it has ended on its own."""
    await session.server.end("account/login/cancel", {"loginId": login_id})


def _handle(session: Session, news: LoginNews, response: wire.LoginAccountResponse) -> LoginHandle:
    match response:
        case wire.ChatgptLoginAccountResponse(login_id=login_id, auth_url=auth_url):
            return LoginHandle(session, news, login_id, auth_url=auth_url)
        case wire.ChatgptDeviceCodeLoginAccountResponse(
            login_id=login_id, verification_url=url, user_code=code
        ):
            return LoginHandle(session, news, login_id, verification_url=url, user_code=code)
        case _:
            raise DecodeError(
                "account/login/start", "$.type", "this is the response to another kind of login"
            )
