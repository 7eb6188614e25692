"""Connecting to a server that somebody else started: the address, the socket, TLS and the WebSocket handshake."""

from __future__ import annotations

import errno
import logging
import os
import ssl
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

import attrs
import trio
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.uri import parse_uri

from trio_codex._core.exceptions import leaves_of
from trio_codex._link.channel import CHUNK_BYTES
from trio_codex._link.websocket import WebSocketChannel
from trio_codex.errors import AttachError, shorten

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTROL_SOCKET: Final = ("app-server-control", "app-server-control.sock")
"""The socket of the daemon, below ``CODEX_HOME``."""

_SILENT: Final = logging.Logger("trio_codex.websocket", logging.CRITICAL)
"""The protocol would log the headers, and with them the token."""

BODY_BYTES: Final = 2048
"""How much of the body of a refusal an error shows."""


@attrs.frozen
class Address:
    """Where a server listens.

    Attributes:
        url: The URL without credentials.
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
        url: ``unix://PATH``, ``unix://`` for the daemon of ``codex_home``, ``ws://HOST:PORT`` or ``wss://…``.
        codex_home: The ``CODEX_HOME`` of the daemon.
        insecure: Whether to allow ``ws://`` to another machine.

    Raises:
        ValueError: It is none of these, has credentials, or would send everything in the clear over a network.
    """
    parts = urlsplit(url)
    if parts.scheme == "unix":
        path = url.removeprefix("unix://")
        if not path and codex_home is None:
            raise ValueError(
                "unix:// means the daemon of a CODEX_HOME, and none is known: set CODEX_HOME or HOME"
            )
        return Address(url, path or os.path.join(os.fspath(codex_home or ""), *CONTROL_SOCKET))
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError(
            f"{_bare(parts)!r} is no address of a server: use unix://PATH, ws://HOST:PORT or wss://HOST/PATH"
        )
    if parts.username is not None or parts.password is not None:
        raise ValueError("credentials do not belong into the URL: pass auth=BearerToken(…)")
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


async def dial(
    address: Address, headers: Mapping[str, str], max_message_bytes: int, ssl_context: ssl.SSLContext | None
) -> WebSocketChannel:
    """Connect and perform the WebSocket handshake. The caller sets the timeout.

    Raises:
        AttachError: Nobody listens there, or who listens there is no server for this client.
    """
    stream = await _open_stream(address, ssl_context)
    try:
        return await _upgrade(stream, address, headers, max_message_bytes)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise


async def _open_stream(address: Address, ssl_context: ssl.SSLContext | None) -> trio.abc.Stream:
    try:
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
    except OSError as exc:
        raise AttachError(
            f"cannot connect to {address.url}: {_described(exc)}", hint=_hint(address, exc)
        ) from exc


def _described(exc: OSError) -> str:
    # Trio tries every address of a host, and raises one error for all of them.
    if exc.errno is None and exc.__cause__ is not None:
        causes = [leaf for leaf in leaves_of(exc.__cause__) if isinstance(leaf, OSError)]
        exc = next(iter(causes), exc)
    return exc.strerror or str(exc)


def _hint(address: Address, exc: OSError) -> str:
    if isinstance(exc, PermissionError):
        return "Run as the user who started the server: its socket is for that user only."
    if address.path is not None and exc.errno in (errno.ENOENT, errno.ECONNREFUSED):
        return f"Start one with: codex app-server --listen unix://{address.path}"
    if isinstance(exc, ssl.SSLError):
        return "Pass an ssl_context that trusts its certificate."
    return "Check that a server listens there: codex app-server --listen ws://IP:PORT"


async def _upgrade(
    stream: trio.abc.Stream, address: Address, headers: Mapping[str, str], max_message_bytes: int
) -> WebSocketChannel:
    uri = parse_uri("ws://localhost/" if address.path is not None else address.url)
    protocol = ClientProtocol(uri, max_size=max_message_bytes, logger=_SILENT)
    request = protocol.connect()
    request.headers.update(headers)
    protocol.send_request(request)
    response = b""
    try:
        await stream.send_all(b"".join(protocol.data_to_send()))
        while protocol.handshake_exc is None and not protocol.events:
            chunk = await stream.receive_some(CHUNK_BYTES)
            response = (response + chunk)[:BODY_BYTES]
            if chunk:
                protocol.receive_data(chunk)
            else:
                protocol.receive_eof()
    except (trio.BrokenResourceError, ssl.SSLError) as exc:
        problem = f"cannot attach to {address.url}: the connection broke during the handshake"
        if isinstance(exc.__cause__, ssl.SSLError):
            problem = f"cannot attach to {address.url}: {exc.__cause__}"
        raise AttachError(problem, hint="Pass an ssl_context that trusts its certificate.") from exc
    if protocol.handshake_exc is not None:
        raise _refusal(protocol.handshake_exc, address, response) from protocol.handshake_exc
    del protocol.events[0]
    return WebSocketChannel(stream, protocol, max_message_bytes, address.url)


def _refusal(error: Exception, address: Address, response: bytes) -> AttachError:
    """Return the error for a handshake that failed."""
    if isinstance(error, InvalidStatus):
        status, body = error.response.status_code, bytes(error.response.body or b"")[:BODY_BYTES]
        words = shorten(body.decode(errors="replace").strip(), 200)
        problem = (
            f"{address.url} refused the connection with HTTP status {status}{': ' if words else ''}{words}"
        )
        hint = {
            401: "Pass auth=BearerToken(…) or auth=SignedBearer(…), as the server was started with --ws-auth.",
            403: "The server refuses connections of browsers and proxies that send an Origin.",
        }.get(status, "Check that this is the address of a codex app-server.")
        return AttachError(problem, hint=hint, status=status)
    if response.lstrip().startswith(b"{"):
        problem = f"{address.url} speaks JSON lines, not WebSocket"
        return AttachError(problem, hint="Connect to such a server with connect_codex().")
    shown = "closed the connection" if not response else f"answered {shorten(repr(response[:80]), 80)}"
    return AttachError(
        f"{address.url} is no WebSocket server: it {shown}",
        hint="Check that this is the address of a codex app-server.",
    )
