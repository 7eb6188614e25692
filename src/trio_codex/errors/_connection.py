"""Errors of server startup, connections and requests."""

from __future__ import annotations

import warnings
from typing import Any

from trio_codex.errors._base import CodexError, describe_exit, error_class, format_stderr, shorten

# -- start, connection, process ------------------------------------------------------------------------------------


@error_class
class StartError(CodexError):
    """The server did not start or did not answer ``initialize``. Any process that was started has ended.

    Attributes:
        problem: What went wrong, in one sentence.
        phase: ``"find"``, ``"spawn"``, ``"handshake"`` or ``"connect"``.
        hint: How to fix it.
        binary: The path that was run or searched for.
        version: The version of the binary, if known.
        returncode: The exit status, negative for a signal; ``None`` if the process was still running.
        stderr_tail: The last lines it wrote to stderr.
    """

    problem: str
    phase: str = "spawn"
    hint: str | None = None
    binary: str | None = None
    version: str | None = None
    returncode: int | None = None
    stderr_tail: str = ""

    @property
    def mend(self) -> str | None:
        """The former name of ``hint``."""
        warnings.warn("StartError.mend is now called hint", DeprecationWarning, stacklevel=2)
        return self.hint

    def __str__(self) -> str:
        parts = [f"{self.problem} (phase: {self.phase}"]
        if self.binary is not None:
            parts.append(f"; binary: {self.binary}")
        if self.version is not None:
            parts.append(f" {self.version}")
        if self.returncode is not None:
            parts.append(f"; {describe_exit(self.returncode)}")
        parts.append(")")
        parts.append(format_stderr(self.stderr_tail))
        if self.hint is not None:
            parts.append(f"\n{self.hint}")
        return "".join(parts)


class SpawnError(StartError):
    """No process was started. If an ``OSError`` was the reason, it is the ``__cause__``."""


class StartTimeout(StartError):
    """The server was started but did not answer within ``start_timeout``. It has been terminated.

    ``stderr_tail`` leaves out the records of the server's log, which do not say why it did not answer.
    """


@error_class
class AttachError(StartError):
    """The client could not attach to a server: nothing listens there, or the connection was refused.

    Attributes:
        status: The HTTP status with which the connection was refused; ``None`` if it was not refused over HTTP.
    """

    phase: str = "connect"
    status: int | None = None


class ConnectionClosed(CodexError):
    """You closed the connection: its scope has exited or is exiting."""

    def __str__(self) -> str:
        return super().__str__() or "the client is closed"


@error_class
class ConnectionBroken(CodexError):
    """The connection ended, and you did not close it. Every pending operation on it raises this.

    Attributes:
        reason: Why it ended, in one sentence.
        phase: What the client was doing: ``"start"``, ``"running"`` or ``"close"``.
        pid: The process id of the server, if this client started it.
        returncode: Its exit status, negative for a signal; ``None`` if it was still running or this client did not
            start it.
        stderr_tail: The lines that it wrote to stderr shortly before the end; after a signal, without log records.
    """

    reason: str
    phase: str = "running"
    pid: int | None = None
    returncode: int | None = None
    stderr_tail: str = ""

    def __str__(self) -> str:
        who = "" if self.pid is None else f", pid {self.pid}"
        return f"{self.reason} (phase: {self.phase}{who}){format_stderr(self.stderr_tail)}"


class ServerExited(ConnectionBroken):
    """The connection ended because the server process exited."""


@error_class
class RequestTimeout(CodexError):
    """The server did not answer a request within its timeout. It may still act on the request.

    Attributes:
        method: The method of the request.
        seconds: The timeout. Time during which the event loop was blocked is not counted.
        problem: The likely cause in one sentence; ``None`` if unknown.
    """

    method: str
    seconds: float
    problem: str | None = None

    def __str__(self) -> str:
        problem = "" if self.problem is None else f": {self.problem}"
        return f"no answer to {self.method} within {self.seconds:g} s{problem}"


# -- protocol ------------------------------------------------------------------------------------------------------


class ProtocolError(CodexError):
    """Base class for violations of the protocol, by either side."""


class LocalProtocolError(ProtocolError):
    """The client was asked to send something that cannot be encoded. Nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The server sent something invalid. The connection stays open."""


@error_class
class FrameTooLong(RemoteProtocolError):
    """A line from the server exceeded ``max_line_bytes`` and was discarded.

    Attributes:
        method: The method of the request it answered.
        size: Its length in bytes.
        limit: The limit in bytes.
    """

    method: str
    size: int
    limit: int

    def __str__(self) -> str:
        return f"the response to {self.method} has {self.size} bytes; max_line_bytes is {self.limit}"


@error_class
class InvalidMessage(RemoteProtocolError):
    """A line from the server has the id of a request but is not a JSON-RPC response.

    Attributes:
        method: The method of that request.
        problem: What is wrong with the line.
    """

    method: str
    problem: str

    def __str__(self) -> str:
        return f"the response to {self.method} is not a valid JSON-RPC response: {self.problem}"


@error_class
class DecodeError(RemoteProtocolError):
    """A value from the server does not match the schema, in a way that cannot be tolerated.

    Attributes:
        what: The method or type that was decoded.
        path: The location in the value, such as ``$.turn.items[2].id``.
        problem: What is wrong at that location.
    """

    what: str
    path: str
    problem: str

    def __str__(self) -> str:
        return f"{self.what} does not match the schema at {self.path}: {shorten(self.problem)}"


@error_class
class ServerTooOld(CodexError):
    """This server version would silently ignore part of the request. Nothing was sent.

    Attributes:
        what: The option or input that is not supported.
        needed: The first server version that supports it.
        found: The version of this server.
    """

    what: str
    needed: str
    found: str

    def __str__(self) -> str:
        return f"{self.what} needs codex {self.needed} or later; this server is {self.found}"


# -- errors returned by the server ---------------------------------------------------------------------------------


@error_class
class RpcError(CodexError):
    """The server rejected a request.

    Attributes:
        code: The JSON-RPC error code.
        message: The server's message, not truncated, with the values of ``CodexConfig.env`` removed.
        data: The JSON attached to the error, with the same values removed; ``None`` if there is none.
        method: The method that was rejected.
    """

    code: int
    message: str
    data: Any = None
    method: str | None = None

    def __str__(self) -> str:
        where = "" if self.method is None else f"{self.method}: "
        return f"{where}{shorten(self.message)} ({self.code})"


class ParseError(RpcError):
    """-32700: the server could not parse the request."""


class InvalidRequestError(RpcError):
    """-32600: the server rejected the request. It uses this code for almost every rejection."""


@error_class
class UnsupportedMethod(InvalidRequestError):
    """This server does not have the method. Another version may.

    Attributes:
        since: The first server version that has the method, if nothing was sent because this server is older;
            ``None`` if the server rejected the request.
    """

    since: str | None = None


class ThreadInUse(InvalidRequestError):
    """Another server has the thread open. Only one server at a time can write to a thread.

    The thread becomes available once that server exits or unloads it. Leaving the thread's scope there does not
    unload it immediately.
    """


class MethodNotFoundError(RpcError):
    """-32601: the method exists but is not available for this thread or this server."""


class InvalidParamsError(RpcError):
    """-32602: a parameter is out of range."""


class InternalRpcError(RpcError):
    """-32603: the server failed internally."""


class ServerBusyError(RpcError):
    """-32001: the server is overloaded and did nothing. It is safe to send the request again later."""


class RetryLimitExceededError(ServerBusyError):
    """The server gave up after its own retries."""
