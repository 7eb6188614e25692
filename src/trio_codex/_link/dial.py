"""Connecting to a server that somebody else started: the address, the socket, TLS and the WebSocket handshake."""

from __future__ import annotations

import errno
import logging
import os
import re
import ssl
from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

import attrs
import trio
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus, InvalidURI
from websockets.uri import parse_uri

from trio_codex._core.exceptions import leaves_of
from trio_codex._core.secrets import Secrets
from trio_codex._link.channel import CHUNK_BYTES
from trio_codex._link.services import without_group
from trio_codex._link.socket_stream import SocketStream
from trio_codex._link.websocket import WebSocketChannel
from trio_codex.errors import AttachError, StartError, StartTimeout, escaped_line, shorten

CONTROL_SOCKET: Final = ("app-server-control", "app-server-control.sock")
"""The socket of the daemon, below ``CODEX_HOME``."""

SOCKET_PATH_BYTES: Final = 107
"""Maximum length of a socket path on Linux. A relative path may refer to a longer absolute one."""

_SILENT: Final = logging.Logger("trio_codex.websocket", logging.CRITICAL)
"""A logger that drops everything: the protocol would log the headers, which contain the token."""

RESPONSE_BYTES: Final = 2048
"""How much of a response is kept for an error. The text of a refusal is near its beginning."""

SHOWN_CHARACTERS: Final = 200
"""How much of a response an error shows."""

DESCRIPTORS_HINT: Final = "Check the limit on open files: ulimit -n."

WRONG_SERVER_HINT: Final = "Check that this is the address of a codex app-server."

_UNAVAILABLE_HINT: Final = "Check that the server behind this address runs, then try again."

_REFUSAL_HINTS: Final = {
    **dict.fromkeys((301, 302, 303, 307, 308), "Attach to the address that it redirects to."),
    401: "Pass auth=BearerToken(…) or auth=SignedBearer(…), as the server was started with --ws-auth.",
    403: "The server refuses connections from browsers and proxies that send an Origin.",
    429: "Wait, then try again: too many requests have reached this address.",
    **dict.fromkeys((502, 503, 504), _UNAVAILABLE_HINT),
}

_TRUST_HINT: Final = "Pass an ssl_context that trusts its certificate."

_NAME_HINT: Final = (
    "Attach to a name for which it was issued, or pass an ssl_context with check_hostname = False."
)

_CERTIFICATE_HINTS: Final = {
    9: "Check the clock of this machine: the certificate is not valid yet.",
    10: "Renew the certificate of the server, or check the clock of this machine.",
    62: _NAME_HINT,
    64: _NAME_HINT,
}
"""Hints for certificates that trust alone does not make valid, by the verification code of OpenSSL."""


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

    @property
    def shown(self) -> str:
        """The URL for messages, without the query, which may contain a token."""
        return self.url if self.path is not None else self.url.partition("?")[0]


def parse_address(url: str, *, codex_home: str | os.PathLike[str] | None, insecure: bool) -> Address:
    """Parse the URL of a server.

    Args:
        url: ``unix://PATH``, ``unix://`` for the daemon of ``codex_home``, ``ws://HOST:PORT`` or ``wss://…``, without
            credentials, and with its scheme in lower case.
        codex_home: The ``CODEX_HOME`` of the daemon.
        insecure: Whether to allow ``ws://`` to another machine.

    Raises:
        ValueError: It is none of these, or would send everything unencrypted over a network.
    """
    if url.startswith("unix://"):
        path = url[7:]
        if "\0" in path:
            raise ValueError(
                f"{url!r} is not the address of a server: a path cannot contain a null character"
            )
        if not path and codex_home is None:
            raise ValueError(
                "unix:// means the daemon of a CODEX_HOME, and none is known: set CODEX_HOME or HOME"
            )
        # If this path is too long for a socket, the daemon creates a link at this path.
        home = os.fspath(codex_home or "")
        return Address(
            url, _absolute(path) if path else os.path.realpath(os.path.join(home, *CONTROL_SOCKET))
        )
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname or any(each <= " " for each in url):
        raise ValueError(
            f"{_bare(parts)!r} is not the address of a server: use unix://PATH, ws://HOST:PORT or wss://HOST/PATH"
        )
    if parts.port == 0:
        raise ValueError("port 0 lets a server choose a port: use the one that the server printed")
    try:
        parts.hostname.encode("idna")
    except UnicodeError:
        raise ValueError(f"{parts.hostname!a} is not the name of a host") from None
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


def _absolute(path: str) -> str:
    """Return the absolute path, which stays valid if the working directory changes, unless it is too long for a socket."""
    try:
        absolute = os.path.abspath(os.path.expanduser(path))
        return absolute if len(os.fsencode(absolute)) <= SOCKET_PATH_BYTES else path
    except UnicodeError:
        raise ValueError(f"{path!a} is not a valid path") from None
    except OSError:  # the working directory was deleted
        return path


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
        token: The token that the request carries, if any.
        max_message_bytes: The size limit of an inbound message.
        ssl_context: The TLS configuration; the default trusts the certificate authorities of the system.

    Raises:
        ValueError: ``ssl_context`` was given for an address without TLS.
    """

    def __init__(
        self, address: Address, token: str | None, max_message_bytes: int, ssl_context: ssl.SSLContext | None
    ) -> None:
        self.secrets: Secrets = Secrets({"token": token}, min_length=1)
        if ssl_context is not None and not address.secure:
            raise ValueError(f"ssl_context is for wss://, and {address.shown} does not use TLS")
        self._address = address
        self._token = token
        self._max_message_bytes = max_message_bytes
        self._ssl_context = ssl_context
        self._is_connected = False
        self._response = b""
        """The beginning of the response."""

    async def dial(self) -> WebSocketChannel:
        """Connect and perform the handshake. The caller sets the timeout.

        Raises:
            AttachError: Nothing listens there, or the listener is not a server for this client.
        """
        stream = await self._open_stream()
        self._is_connected = True
        try:
            protocol = self._requested()
            problem = await self._shake_hands(stream, protocol)
            if problem is not None:
                raise problem from problem.__cause__
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return WebSocketChannel(stream, protocol, self._max_message_bytes, self._address.shown, self.secrets)

    async def _open_stream(self) -> trio.abc.Stream:
        address, error = self._address, None
        try:
            context = (self._ssl_context or ssl.create_default_context()) if address.secure else None
            if address.path is not None:
                stream = SocketStream(await trio.open_unix_socket(address.path))
            else:
                stream = SocketStream(await trio.open_tcp_stream(address.host, address.port))
            try:
                if context is None:
                    return stream
                return trio.SSLStream(stream, context, server_hostname=address.host, https_compatible=True)
            except ssl.SSLError:
                await trio.aclose_forcefully(stream)
                raise
        except OSError as exc:
            cause = _first_cause(exc)
            problem = f"cannot connect to {address.shown}: {cause.strerror or cause}"
            raise AttachError(problem, hint=_hint(address, cause)) from exc
        except BaseExceptionGroup as exc:  # noqa: ASYNC103  # raised below, outside the handler
            # Trio tries several addresses in a nursery, which groups a cancellation.
            error = without_group(exc)
        assert error is not None
        raise error

    async def _shake_hands(self, stream: trio.abc.Stream, protocol: ClientProtocol) -> AttachError | None:
        """Perform the handshake. Return the error, if any: if it were raised here, its traceback would contain the response."""
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
            cause = exc.__cause__ or exc
            error = self._refusal() or self._break(cause)
            error.__cause__ = cause.with_traceback(None)
            return error  # noqa: ASYNC910  # what failed was a checkpoint
        if isinstance(protocol.handshake_exc, InvalidStatus):
            response = protocol.handshake_exc.response
            return self._refused(response.status_code, bytes(response.body))
        if protocol.handshake_exc is not None:
            # Not as the cause, because it quotes the response.
            return self._refusal() or self._no_websocket()
        del protocol.events[0]
        return None

    def _requested(self) -> ClientProtocol:
        """Return the protocol, which has queued the request. No frame that raises an error contains the request."""
        uri = parse_uri("ws://localhost/" if self._address.path is not None else self._address.url)
        protocol = ClientProtocol(uri, max_size=self._max_message_bytes, logger=_SILENT)
        request = protocol.connect()
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        protocol.send_request(request)
        return protocol

    # -- errors ------------------------------------------------------------------------------------------------

    def timed_out(self, seconds: float) -> StartError:
        """Return the error for a timeout that cancelled :meth:`dial`, given what the server had sent by then."""
        shown, hint = self._address.shown, WRONG_SERVER_HINT
        problem = f"{shown} accepted the connection and did not answer within {seconds:g} s"
        if not self._is_connected:
            problem = f"cannot connect to {shown}: no answer within {seconds:g} s"
            hint = _hint(self._address, OSError())
        return self._refusal() or StartTimeout(problem, "connect", hint)

    def _refusal(self) -> AttachError | None:
        """Return the error for an incomplete HTTP response, if it refuses the connection."""
        head, _, body = self._response.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.[01] (\d{3})[ \r]", head)
        return None if status is None or status[1] == b"101" else self._refused(int(status[1]), body)

    def _refused(self, status: int, body: bytes) -> AttachError:
        words = shorten(escaped_line(self._hidden(body)), SHOWN_CHARACTERS)
        problem = f"{self._address.shown} refused the connection with HTTP status {status}"
        return AttachError(
            f"{problem}: {words}" if words else problem,
            hint=_REFUSAL_HINTS.get(status, WRONG_SERVER_HINT),
            status=status,
        )

    def _break(self, cause: BaseException) -> AttachError:
        """Return the error for a connection that broke before the handshake was complete."""
        problem, hint = "the connection broke during the handshake", WRONG_SERVER_HINT
        if isinstance(cause, ssl.SSLCertVerificationError):
            problem = f"its certificate is not valid here: {cause.verify_message}"
            hint = _CERTIFICATE_HINTS.get(cause.verify_code, _TRUST_HINT)
        elif isinstance(cause, ssl.SSLError):
            problem = f"the TLS handshake failed: {cause.reason or cause}"
            if "ALERT" in (cause.reason or ""):  # only a server that speaks TLS sends one
                hint = "Pass an ssl_context that this server accepts: it may demand a client certificate."
            else:
                hint = "Check that the server speaks TLS; if it does not, use ws://."
        return AttachError(f"cannot attach to {self._address.shown}: {problem}", hint=hint)

    def _no_websocket(self) -> AttachError:
        if self._response.lstrip().startswith(b"{"):
            problem, hint = (
                "speaks JSON lines, not WebSocket",
                "Connect to such a server with connect_codex().",
            )
        else:
            quoted = shorten(repr(self._hidden(self._response)), SHOWN_CHARACTERS)
            shown = f"answered {quoted}" if self._response else "closed the connection"
            problem, hint = f"is not a WebSocket server: it {shown}", WRONG_SERVER_HINT
        return AttachError(f"{self._address.shown} {problem}", hint=hint)

    def _hidden(self, data: bytes) -> str:
        """Return a response without secrets, and with single spaces for all whitespace."""
        return self.secrets.hide_if_cut(" ".join(data[:RESPONSE_BYTES].decode(errors="replace").split()))


def _first_cause(exc: OSError) -> OSError:
    """Return the error for one address: Trio tries all addresses of a host, and raises one error for all."""
    if exc.errno is not None or exc.__cause__ is None:
        return exc
    return next((leaf for leaf in leaves_of(exc.__cause__) if isinstance(leaf, OSError)), exc)


def _hint(address: Address, exc: OSError) -> str:
    if isinstance(exc, PermissionError):
        return "Run as the user who started the server: its socket is for that user only."
    if exc.errno in (errno.EMFILE, errno.ENFILE):
        return DESCRIPTORS_HINT
    if address.path is not None and len(os.fsencode(address.path)) > SOCKET_PATH_BYTES:
        return "Use a shorter path, such as a relative one."
    if address.path is not None:
        return f"Start one with: codex app-server --listen unix://{address.path}"
    if isinstance(exc, ssl.SSLError):
        return _TRUST_HINT
    return "Check that a server listens there: codex app-server --listen ws://IP:PORT"
