"""Connecting to a server that somebody else started: the address, the socket, TLS and the WebSocket handshake."""

from __future__ import annotations

import logging
import os
import re
import ssl
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

import attrs
import trio
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus, InvalidURI
from websockets.uri import parse_uri

from trio_codex._core.exceptions import leaves_of
from trio_codex._link.channel import CHUNK_BYTES
from trio_codex._link.services import without_group
from trio_codex._link.websocket import WebSocketChannel
from trio_codex.errors import AttachError, StartError, StartTimeout, shorten

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_codex._core.secrets import Secrets

CONTROL_SOCKET: Final = ("app-server-control", "app-server-control.sock")
"""The socket of the daemon, below ``CODEX_HOME``."""

_SILENT: Final = logging.Logger("trio_codex.websocket", logging.CRITICAL)
"""The protocol would log the headers, and with them the token."""

RESPONSE_BYTES: Final = 2048
"""How much of an answer is kept for an error. The words of a refusal come early."""

SHOWN_CHARACTERS: Final = 200
"""How much of an answer an error shows."""

WRONG_SERVER_HINT: Final = "Check that this is the address of a codex app-server."

_REFUSAL_HINTS: Final = {
    401: "Pass auth=BearerToken(…) or auth=SignedBearer(…), as the server was started with --ws-auth.",
    403: "The server refuses connections of browsers and proxies that send an Origin.",
}


@attrs.frozen
class Address:
    """Where a server listens.

    Attributes:
        url: The URL.
        path: The path of a unix socket; ``None`` for TCP.
        host: The host.
        port: The port.
        secure: Whether to use TLS.
    """

    url: str
    path: str | None = None
    host: str = "localhost"
    port: int = 80
    secure: bool = False


def parse_address(url: str, *, codex_home: str | os.PathLike[str] | None, insecure: bool) -> Address:
    """Parse the URL of a server.

    Args:
        url: ``unix://PATH``, ``unix://`` for the daemon of ``codex_home``, ``ws://HOST:PORT`` or ``wss://…``, without
            credentials.
        codex_home: The ``CODEX_HOME`` of the daemon.
        insecure: Whether to allow ``ws://`` to another machine.

    Raises:
        ValueError: It is none of these, or would send everything in the clear over a network.
    """
    parts = urlsplit(url)
    if parts.scheme == "unix" and url[4:7] == "://":
        path = url[7:]
        if not path and codex_home is None:
            raise ValueError(
                "unix:// means the daemon of a CODEX_HOME, and none is known: set CODEX_HOME or HOME"
            )
        # The daemon puts a link there where the path would be too long for a socket.
        return Address(
            url, path or os.path.realpath(os.path.join(os.fspath(codex_home or ""), *CONTROL_SOCKET))
        )
    if parts.username is not None or parts.password is not None:
        raise ValueError("leave credentials out of the URL: pass auth=BearerToken(…)")
    if parts.scheme not in ("ws", "wss") or not parts.hostname or any(each <= " " for each in url):
        raise ValueError(
            f"{_bare(parts)!r} is not the address of a server: use unix://PATH, ws://HOST:PORT or wss://HOST/PATH"
        )
    if parts.port == 0:
        raise ValueError("port 0 lets a server choose a port: use the one that the server printed")
    try:
        parse_uri(url)
    except InvalidURI as exc:
        raise ValueError(f"{_bare(parts)!r} is not the address of a server: {exc.msg}") from None
    secure = parts.scheme == "wss"
    if not (secure or insecure or _is_loopback(parts.hostname)):
        raise ValueError(
            f"ws:// to {parts.hostname} sends prompts and tokens in the clear: use wss://, a tunnel, or insecure=True"
        )
    return Address(url, None, parts.hostname, parts.port or (443 if secure else 80), secure)


def _bare(parts: SplitResult) -> str:
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Dialer:
    """One attempt to connect to a server and to perform the WebSocket handshake.

    Args:
        address: Where the server listens.
        headers: Further headers of the request.
        max_message_bytes: The size limit of an inbound message.
        ssl_context: For TLS; the default trusts the certificate authorities of the system.
        secrets: What errors must not show. A server may send the headers back.
    """

    def __init__(
        self,
        address: Address,
        headers: Mapping[str, str],
        max_message_bytes: int,
        ssl_context: ssl.SSLContext | None,
        secrets: Secrets,
    ) -> None:
        self._address = address
        self._headers = headers
        self._max_message_bytes = max_message_bytes
        self._ssl_context = ssl_context
        self._secrets = secrets
        self._is_connected = False
        self._response = b""
        """The beginning of the answer."""

    async def dial(self) -> WebSocketChannel:
        """Connect and perform the handshake. The caller sets the timeout.

        Raises:
            AttachError: Nobody listens there, or who listens there is no server for this client.
        """
        stream = await _open_stream(self._address, self._ssl_context)
        self._is_connected = True
        try:
            return await self._upgrade(stream)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise

    async def _upgrade(self, stream: trio.abc.Stream) -> WebSocketChannel:
        address = self._address
        uri = parse_uri("ws://localhost/" if address.path is not None else address.url)
        protocol = ClientProtocol(uri, max_size=self._max_message_bytes, logger=_SILENT)
        request = protocol.connect()
        request.headers.update(self._headers)
        protocol.send_request(request)
        try:
            await stream.send_all(b"".join(protocol.data_to_send()))
            while protocol.handshake_exc is None and not protocol.events:
                chunk = await stream.receive_some(CHUNK_BYTES)
                self._response = (self._response + chunk)[:RESPONSE_BYTES]
                if chunk:
                    protocol.receive_data(chunk)
                else:
                    protocol.receive_eof()
        except trio.BrokenResourceError as exc:
            raise self._refusal() or self._break(exc.__cause__) from exc
        # No causes: they quote the answer, and a traceback would show them.
        if isinstance(protocol.handshake_exc, InvalidStatus):
            response = protocol.handshake_exc.response
            raise self._refused(response.status_code, bytes(response.body))
        if protocol.handshake_exc is not None:
            raise self._refusal() or self._no_websocket()
        del protocol.events[0]
        return WebSocketChannel(stream, protocol, self._max_message_bytes, address.url)

    def timed_out(self, seconds: float) -> StartError:
        """Return the error for a timeout that cancelled :meth:`dial`, by what the server had answered until then."""
        if (refusal := self._refusal()) is not None:
            return refusal
        if not self._is_connected:
            return StartTimeout(
                f"cannot connect to {self._address.url}: no answer within {seconds:g} s",
                "connect",
                _hint(self._address, OSError()),
            )
        return StartTimeout(
            f"{self._address.url} accepted the connection and did not answer within {seconds:g} s",
            "connect",
            WRONG_SERVER_HINT,
        )

    def _refusal(self) -> AttachError | None:
        """Return the error for an HTTP answer that has not ended, or that ended early, if it refuses the connection."""
        head, _, body = self._response.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.[01] (\d{3})[ \r]", head)
        return None if status is None or status[1] == b"101" else self._refused(int(status[1]), body)

    def _refused(self, status: int, body: bytes) -> AttachError:
        words = shorten(self._one_line(body), SHOWN_CHARACTERS)
        return AttachError(
            f"{self._address.url} refused the connection with HTTP status {status}{': ' if words else ''}{words}",
            hint=_REFUSAL_HINTS.get(status, WRONG_SERVER_HINT),
            status=status,
        )

    def _break(self, cause: BaseException | None) -> AttachError:
        """Return the error for a connection that broke before the handshake was done."""
        problem, hint = "the connection broke during the handshake", WRONG_SERVER_HINT
        if isinstance(cause, ssl.SSLCertVerificationError):
            problem = f"its certificate is not valid here: {cause.verify_message}"
            hint = "Pass an ssl_context that trusts its certificate."
        elif isinstance(cause, ssl.SSLError):
            problem = f"the TLS handshake failed: {cause.reason or cause}"
            hint = "Check that the server speaks TLS; if it does not, use ws://."
        return AttachError(f"cannot attach to {self._address.url}: {problem}", hint=hint)

    def _no_websocket(self) -> AttachError:
        if self._response.lstrip().startswith(b"{"):
            return AttachError(
                f"{self._address.url} speaks JSON lines, not WebSocket",
                hint="Connect to such a server with connect_codex().",
            )
        quoted = shorten(repr(self._one_line(self._response)), SHOWN_CHARACTERS)
        shown = f"answered {quoted}" if self._response else "closed the connection"
        return AttachError(
            f"{self._address.url} is not a WebSocket server: it {shown}", hint=WRONG_SERVER_HINT
        )

    def _one_line(self, data: bytes) -> str:
        """Return an answer for an error, on one line and without secrets."""
        text = self._secrets.hide(data[:RESPONSE_BYTES].decode(errors="replace"))
        return " ".join(text.split())


async def _open_stream(address: Address, ssl_context: ssl.SSLContext | None) -> trio.abc.Stream:
    error: BaseException | None
    try:
        return await _connect(address, ssl_context)
    except OSError as exc:
        raise AttachError(
            f"cannot connect to {address.url}: {_described(exc)}", hint=_hint(address, exc)
        ) from exc
    except BaseExceptionGroup as exc:  # noqa: ASYNC103  # raised below, outside the handler
        # Trio tries several addresses in a nursery, which groups a cancellation.
        error = without_group(exc)
    assert error is not None
    raise error


async def _connect(address: Address, ssl_context: ssl.SSLContext | None) -> trio.abc.Stream:
    if address.path is not None:
        return await trio.open_unix_socket(address.path)
    if address.secure:
        return await trio.open_ssl_over_tcp_stream(
            address.host,
            address.port,
            https_compatible=True,
            ssl_context=ssl_context or ssl.create_default_context(),
        )
    return await trio.open_tcp_stream(address.host, address.port)


def _described(exc: OSError) -> str:
    # Trio tries every address of a host, and raises one error for all of them.
    if exc.errno is None and exc.__cause__ is not None:
        causes = [leaf for leaf in leaves_of(exc.__cause__) if isinstance(leaf, OSError)]
        exc = next(iter(causes), exc)
    return exc.strerror or str(exc)


def _hint(address: Address, exc: OSError) -> str:
    if isinstance(exc, PermissionError):
        return "Run as the user who started the server: its socket is for that user only."
    if address.path is not None:
        return f"Start one with: codex app-server --listen unix://{address.path}"
    if isinstance(exc, ssl.SSLError):
        return "Pass an ssl_context that trusts its certificate."
    return "Check that a server listens there: codex app-server --listen ws://IP:PORT"
