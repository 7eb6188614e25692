"""The state of one JSON-RPC connection, without I/O: ids, pending requests of both sides, and the error mapping.

Lines go in and events come out; the caller does the I/O. Arbitrary bytes produce events, never an exception. Wire types
are not needed here: ``params`` and ``result`` stay raw JSON until they are read.

Unlike standard JSON-RPC, messages have no ``jsonrpc`` member, and notifications have an ``emittedAtMs`` (PROTOCOL 3).
"""

from __future__ import annotations

import enum
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar, cast

import msgspec

from trio_codex import errors
from trio_codex._core.framing import (
    OVERSIZE_HEAD_BYTES,
    Frame,
    Line,
    OversizeLine,
    TruncatedLine,
    encode_message,
)
from trio_codex._core.json import UNREADABLE, integer_of, object_of, string_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
RequestId: TypeAlias = int | str

ABANDONED_IDS_KEPT: Final = 4096
"""How many ids of abandoned requests to remember, to tell late responses from stray ones. Some responses never
arrive."""

# -- events --------------------------------------------------------------------------------------------------------


# Structs, because one is created per line: they cost a third of an attrs class, at import too.
class Notification(msgspec.Struct, frozen=True, gc=False):
    """A notification from the server; ``params`` is raw JSON (empty if there are none), ``emitted_at`` in ms."""

    method: str = ""
    params: msgspec.Raw = msgspec.Raw()
    emitted_at: float | None = msgspec.field(default=None, name="emittedAtMs")


class OversizeNotification(msgspec.Struct, frozen=True):
    """A notification dropped because it was too long: its method, the first 4 KiB of its line, and its size."""

    method: str
    head: bytes
    size: int


class ServerRequest(msgspec.Struct, frozen=True):
    """A request from the server. ``params`` is ``None`` if its line was too long or unreadable."""

    id: RequestId
    method: str
    params: msgspec.Raw | None


class Reply(msgspec.Struct, Generic[T], frozen=True):
    """The response to a client request: a result as raw JSON, or an error to raise. ``token`` is the request's."""

    token: T
    method: str
    result: msgspec.Raw | None
    error: errors.CodexError | None = None


class JunkKind(enum.Enum):
    """Why a line was not usable."""

    NOT_JSON = "not JSON"
    NOT_JSON_RPC = "not a JSON-RPC message"
    TOO_LONG = "longer than max_line_bytes"
    TRUNCATED = "cut off by the end of the stream"
    STRAY_REPLY = "a response to an unknown request"
    LATE_REPLY = "a late response to an abandoned request"
    DUPLICATE_REQUEST = "a request with an id that is already in use"


class Junk(msgspec.Struct, frozen=True):
    """A line that was not usable: why, its first 4 KiB, and its length. The connection continues."""

    kind: JunkKind
    head: bytes
    size: int


class LateReply(msgspec.Struct, Generic[T], frozen=True):
    """The response to an abandoned request: its token, the error if it is one, and the unused line."""

    token: T
    error: errors.CodexError | None
    junk: Junk


Inbound: TypeAlias = OversizeNotification | ServerRequest | Reply[T] | LateReply[T] | Junk
"""Events that are returned one at a time."""

Message: TypeAlias = Notification | Inbound[T]
"""Every event that a line may produce."""

# -- state ---------------------------------------------------------------------------------------------------------


class _Pending(msgspec.Struct, Generic[T], frozen=True):
    method: str
    token: T


class RpcState(Generic[T]):
    """Pending requests of both sides of a connection. ``T`` is the type of the token returned with a response."""

    def __init__(self, max_line_bytes: int) -> None:
        self._max_line_bytes = max_line_bytes
        self._next_id = 1
        self._pending: dict[RequestId, _Pending[T]] = {}
        self._abandoned: dict[RequestId, T] = {}
        self._server_requests: set[RequestId] = set()
        self._closed = False
        self.junk: Counter[JunkKind] = Counter()
        """Number of lines that were not usable, by kind."""

    @property
    def pending(self) -> int:
        """Number of client requests that are waiting for a response."""
        return len(self._pending)

    @property
    def server_requests(self) -> frozenset[RequestId]:
        """Ids of server requests that are neither answered nor withdrawn."""
        return frozenset(self._server_requests)

    def request(self, method: str, params: object, token: T, trace: object = None) -> tuple[RequestId, bytes]:
        """Register a request; return its id and its line.

        ``token`` is returned with the response. ``trace`` is the W3C trace context, a member of the envelope. Params of
        ``None`` are sent as ``{}``, because the server requires the member (Q11).

        Raises:
            ConnectionClosed: :meth:`close` was called.
            LocalProtocolError: ``params`` cannot be encoded as JSON; nothing is registered.
        """
        if self._closed:
            raise errors.ConnectionClosed
        request_id = self._next_id
        message: dict[str, object] = {
            "id": request_id,
            "method": method,
            "params": {} if params is None else params,
        }
        if trace is not None:
            message["trace"] = trace
        line = encode_message(message)
        self._next_id += 1
        self._pending[request_id] = _Pending(method, token)
        return request_id, line

    def notification(self, method: str, params: object = None) -> bytes:
        """Return the line of a client notification."""
        return encode_message({"method": method} if params is None else {"method": method, "params": params})

    def forget(self, request_id: RequestId) -> None:
        """Unregister a request whose line was never written."""
        self._pending.pop(request_id, None)

    def reopen(self, request_id: RequestId, method: str, token: T) -> None:
        """Register a request again under its old id, because the server rejected it as overloaded."""
        self._pending[request_id] = _Pending(method, token)

    def abandon(self, request_id: RequestId) -> None:
        """Abandon a request whose line was written: if a response arrives, it becomes a :class:`LateReply`."""
        if (pending := self._pending.pop(request_id, None)) is not None:
            self._abandoned[request_id] = pending.token
            if len(self._abandoned) > ABANDONED_IDS_KEPT:
                del self._abandoned[next(iter(self._abandoned))]

    def respond(self, request_id: RequestId, result: object) -> bytes | None:
        """Return the response to a server request, or ``None`` if the request is no longer open.

        Raises:
            LocalProtocolError: ``result`` cannot be encoded as JSON; the request stays open.
        """
        return self._answer(request_id, {"id": request_id, "result": result})

    def refuse(self, request_id: RequestId, code: int, message: str) -> bytes | None:
        """Return an error response to a server request, or ``None`` if the request is no longer open."""
        return self._answer(request_id, {"id": request_id, "error": {"code": code, "message": message}})

    def withdraw(self, request_id: RequestId) -> bool:
        """Close a server request that the server has withdrawn; return whether it was open."""
        was_open = request_id in self._server_requests
        self._server_requests.discard(request_id)
        return was_open

    def close(self) -> list[T]:
        """Refuse further requests; return the tokens of pending ones. Idempotent."""
        self._closed = True
        tokens = [pending.token for pending in self._pending.values()]
        self._pending.clear()
        self._server_requests.clear()
        return tokens

    def receive(self, frames: Iterable[Frame]) -> Iterator[list[Notification] | Inbound[T]]:
        """Parse lines from the server lazily; yield their events, with consecutive notifications as one list.

        Never raises.
        """
        row: list[Notification] = []
        for frame in frames:
            envelope: _Envelope | None
            try:
                envelope = _decode_envelope(frame)
            except (TypeError, *UNREADABLE):
                envelope = None
            if envelope is not None and envelope.id is msgspec.UNSET and envelope.method:
                row.append(envelope)
                continue
            # Deliver notifications before the next message: one of them may withdraw a request.
            if row:
                yield row
                row = []
            message = (
                self._receive_unusual(frame)
                if envelope is None
                else self._classify(envelope, cast("Line", frame))
            )
            if isinstance(message, Notification):
                row.append(message)
            else:
                yield message
        if row:
            yield row

    def _receive_unusual(self, frame: Frame) -> Message[T]:
        """Handle a frame that the typed decoder refuses."""
        if isinstance(frame, TruncatedLine):
            return self._note(JunkKind.TRUNCATED, frame.head, frame.size)
        return (
            self._receive_oversize(frame) if isinstance(frame, OversizeLine) else self._receive_drifted(frame)
        )

    def _answer(self, request_id: RequestId, message: object) -> bytes | None:
        if request_id not in self._server_requests:
            return None
        line = encode_message(message)
        self._server_requests.remove(request_id)
        return line

    def _classify(self, envelope: _Envelope, frame: Line) -> Message[T]:
        if envelope.method:
            if envelope.id is msgspec.UNSET:
                return envelope
            if envelope.id is None:
                return self._note(JunkKind.NOT_JSON_RPC, frame)
            return self._open_server_request(envelope.id, envelope.method, envelope.params, frame, len(frame))
        if envelope.id is msgspec.UNSET or envelope.id is None:
            return self._note(JunkKind.NOT_JSON_RPC, frame)
        return self._settle(envelope.id, frame, envelope)

    def _open_server_request(
        self, request_id: RequestId, method: str, params: msgspec.Raw | None, head: Line, size: int
    ) -> ServerRequest | Junk:
        if self._closed or request_id in self._server_requests:
            return self._note(JunkKind.DUPLICATE_REQUEST, head, size)
        self._server_requests.add(request_id)
        return ServerRequest(request_id, method, params)

    def _settle(
        self, request_id: RequestId, frame: Line, envelope: _Envelope
    ) -> Reply[T] | LateReply[T] | Junk:
        pending = self._pending.pop(request_id, None)
        if pending is None:
            if request_id not in self._abandoned:
                return self._note(JunkKind.STRAY_REPLY, frame)
            token = self._abandoned.pop(request_id)
            error = None if envelope.error is msgspec.UNSET else _rpc_error("", envelope.error)
            return LateReply(token, error, self._note(JunkKind.LATE_REPLY, frame))
        has_result, has_error = envelope.result is not msgspec.UNSET, envelope.error is not msgspec.UNSET
        if has_error and not has_result:
            return Reply(pending.token, pending.method, None, _rpc_error(pending.method, envelope.error))
        if isinstance(envelope.result, msgspec.Raw) and not has_error:
            return Reply(pending.token, pending.method, envelope.result)
        problem = (
            "it has both a result and an error" if has_result else "it has neither a result nor an error"
        )
        return Reply(pending.token, pending.method, None, errors.InvalidMessage(pending.method, problem))

    def _receive_drifted(self, line: Line) -> Message[T]:
        """Handle a line with unexpected types, nesting beyond the decoder's stack, or invalid JSON."""
        try:
            value = msgspec.json.decode(line)
        except RecursionError:
            return self._salvage(line[:OVERSIZE_HEAD_BYTES], len(line), "it is nested too deeply")
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            return self._salvage(line[:OVERSIZE_HEAD_BYTES], len(line), str(exc))
        envelope = _lenient_envelope(value)
        return self._note(JunkKind.NOT_JSON_RPC, line) if envelope is None else self._classify(envelope, line)

    def _salvage(self, head: Line, size: int, problem: str) -> Reply[T] | ServerRequest | Junk:
        """Handle an unreadable line by its id and method, so that neither side waits forever for a response."""
        request_id, method = read_head(head)
        if request_id is not None and method is not None:
            opened = self._open_server_request(request_id, method, None, head, size)
            if isinstance(opened, ServerRequest):
                self.junk[JunkKind.NOT_JSON] += 1
            return opened
        if request_id is not None and (pending := self._pending.pop(request_id, None)):
            return Reply(pending.token, pending.method, None, errors.InvalidMessage(pending.method, problem))
        return self._note(JunkKind.NOT_JSON, head, size)

    def _receive_oversize(self, line: OversizeLine) -> Inbound[T]:
        request_id, method = read_head(line.head)
        if method is not None and request_id is not None:
            opened = self._open_server_request(request_id, method, None, line.head, line.size)
            if isinstance(opened, ServerRequest):
                self.junk[JunkKind.TOO_LONG] += 1
            return opened
        self.junk[JunkKind.TOO_LONG] += 1
        if method is not None:
            return OversizeNotification(method, line.head, line.size)
        if request_id is not None and (pending := self._pending.pop(request_id, None)):
            error = errors.FrameTooLong(pending.method, line.size, self._max_line_bytes)
            return Reply(pending.token, pending.method, None, error)
        return Junk(JunkKind.TOO_LONG, line.head, line.size)

    def _note(self, kind: JunkKind, head: Line, size: int | None = None) -> Junk:
        self.junk[kind] += 1
        return Junk(kind, bytes(head[:OVERSIZE_HEAD_BYTES]), len(head) if size is None else size)


# -- parsing -------------------------------------------------------------------------------------------------------


class _Envelope(Notification, frozen=True, gc=False):
    """Any message. If none of these members is set, it is a notification, as most messages are."""

    id: int | str | msgspec.UnsetType | None = msgspec.UNSET
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


# Accepts any frame: for anything other than a line, the decoder raises a TypeError.
_decode_envelope: Callable[[Any], _Envelope] = msgspec.json.Decoder(_Envelope).decode


def _lenient_envelope(value: object) -> _Envelope | None:
    """Parse an envelope whose members have unexpected types, as far as its kind is still clear."""
    message = object_of(value)
    method = message.get("method")
    if not message or not (method is None or isinstance(method, str)):
        return None
    members: dict[str, Any] = {"method": method or ""}
    if "id" in message:
        request_id = message["id"]
        usable = isinstance(request_id, int | str) and not isinstance(request_id, bool)
        members["id"] = request_id if usable else None
    emitted_at = message.get("emittedAtMs")
    if isinstance(emitted_at, int | float) and not isinstance(emitted_at, bool):
        members["emitted_at"] = emitted_at
    for member in ("params", "result", "error"):
        if member in message:
            members[member] = msgspec.Raw(msgspec.json.encode(message[member]))
    return _Envelope(**members)


_OBJECT = re.compile(rb"\s*\{")
_LEADING_MEMBER = re.compile(rb'\s*"(\w+)"\s*:\s*(-?\d{1,19}|"(?:[^"\\]|\\.)*")\s*[,}]')


def read_head(head: Line) -> tuple[RequestId | None, str | None]:
    """Read ``id`` and ``method`` from the beginning of a line that cannot be parsed as a whole.

    It reads only the scalar members before the first object or array, so it never returns a member of ``params``.
    """
    found: dict[bytes, object] = {}
    opened = _OBJECT.match(head)
    position = opened.end() if opened else len(head)
    while match := _LEADING_MEMBER.match(head, position):
        try:
            found.setdefault(match[1], msgspec.json.decode(match[2]))
        except UNREADABLE:
            break
        position = match.end()
    request_id, method = found.get(b"id"), found.get(b"method")
    return (
        request_id if isinstance(request_id, int | str) else None,
        method if isinstance(method, str) else None,
    )


# -- errors --------------------------------------------------------------------------------------------------------

_ERROR_CLASSES: Final[dict[int, type[errors.RpcError]]] = {
    -32700: errors.ParseError,
    -32600: errors.InvalidRequestError,
    -32601: errors.MethodNotFoundError,
    -32602: errors.InvalidParamsError,
    -32603: errors.InternalRpcError,
    -32001: errors.ServerBusyError,
}

_IN_USE_TEXT: Final = "already has an active writer"
"""The server's message for a thread that another server has open; the code is -32600, as for most errors."""

_RETRY_LIMIT_TEXTS: Final = ("retry limit", "too many failed attempts")


def rpc_error(code: int, message: str, data: object = None, method: str | None = None) -> errors.RpcError:
    """Return the exception for an error response from the server.

    The class depends on the code and, for some codes, on the message. ``data`` is ignored, because the server's overload
    error has none (PROTOCOL Q14). For an unknown method, the
    server sends an ordinary -32600 whose message begins with ``unknown variant`` (Q12).
    """
    cls = _ERROR_CLASSES.get(code, errors.RpcError)
    if cls is errors.InvalidRequestError and method is not None and f"unknown variant `{method}`" in message:
        cls = errors.UnsupportedMethod
    elif cls is errors.InvalidRequestError and _IN_USE_TEXT in message:
        cls = errors.ThreadInUse
    elif -32099 <= code <= -32000 and any(text in message.lower() for text in _RETRY_LIMIT_TEXTS):
        cls = errors.RetryLimitExceededError
    return cls(code, message, data, method)


def _rpc_error(method: str, raw: object) -> errors.CodexError:
    try:
        error = msgspec.json.decode(raw if isinstance(raw, msgspec.Raw) else b"null")
    except UNREADABLE as exc:
        return errors.InvalidMessage(method, f"its error cannot be read: {exc}")
    if not isinstance(error, dict):
        return errors.InvalidMessage(method, "its error is not an object")
    members = object_of(error)
    code, message = integer_of(members.get("code")), string_of(members.get("message"))
    if code is None:
        return errors.InvalidMessage(method, "its error has no integer code")
    if message is None:
        return errors.InvalidMessage(method, "its error has no message")
    return rpc_error(code, message, members.get("data"), method)
