"""Dispatch hooks to instruments, and define the records of requests that hooks receive.

A client has one :class:`Instruments`. Each call site first checks whether any instrument overrides the hook, and only
then creates its arguments. Without instruments this costs one lookup in an empty dictionary::

    if "frame_sent" in instruments:
        instruments.emit("frame_sent", instruments.connection, line)

The hooks are the public methods of the base class, which documents them (:class:`trio_codex.instruments.Instrument`).
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

import attrs
import trio

from trio_codex._core.arguments import check_collection, check_type
from trio_codex._core.log import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import msgspec

    from trio_codex._core.rpc import RequestId, ServerRequest
    from trio_codex.errors import CodexError

_numbers = count(1)

RequestOutcome: TypeAlias = Literal["answered", "refused", "failed", "given up", "unsent"]
"""The outcome of a client request. ``refused``: the server returned an error. ``failed``: the response was unreadable
or the connection ended. ``given up``: the caller was cancelled or the request timed out; the server may have acted on
it. ``unsent``: it was given up before it was handed to the writer."""

ServerRequestOutcome: TypeAlias = Literal["answered", "refused", "withdrawn", "lost"]
"""The outcome of a server request. ``answered``: with a result, which may be a denial. ``refused``: with a JSON-RPC
error. ``withdrawn``: the server no longer needs an answer. ``lost``: the connection ended."""


@attrs.define(eq=False)
class RequestRecord:
    """A client request. All of its hooks receive the same object.

    Attributes:
        connection: The number of the connection.
        method: The method.
        params: The parameters, as plain JSON.
        lane: Whether it waits for a slot in the request window (``window``) or not (``deferred``, ``control``).
        queued_at: Trio time at which the request was made.
        id: The JSON-RPC id; ``None`` until one is allocated.
        sent_at: Trio time at which the request was handed to the writer; ``None`` before that.
        ended_at: Trio time at which the outcome became known; ``None`` before that.
        outcome: How the request ended; ``None`` before that.
        error: The exception, if it failed.
    """

    connection: int
    method: str
    params: object = attrs.field(repr=False)
    lane: str
    queued_at: float
    id: RequestId | None = None
    sent_at: float | None = None
    ended_at: float | None = None
    outcome: RequestOutcome | None = None
    error: CodexError | None = attrs.field(default=None, repr=False)

    @property
    def duration(self) -> float | None:
        """Seconds from making the request to its outcome."""
        return None if self.ended_at is None else self.ended_at - self.queued_at


@attrs.define(eq=False)
class ServerRequestRecord:
    """A server request. All of its hooks receive the same object.

    Attributes:
        connection: The number of the connection.
        id: The request id.
        method: The method.
        params: The raw parameters; ``None`` if the line could not be parsed.
        received_at: Trio time at which the request arrived.
        ended_at: Trio time at which the outcome became known; ``None`` before that.
        outcome: How the request ended; ``None`` before that.
    """

    connection: int
    id: RequestId
    method: str
    params: msgspec.Raw | None = attrs.field(repr=False)
    received_at: float
    ended_at: float | None = None
    outcome: ServerRequestOutcome | None = None

    @property
    def duration(self) -> float | None:
        """Seconds from its arrival to its outcome."""
        return None if self.ended_at is None else self.ended_at - self.received_at


class Instruments(dict[str, dict[int, tuple[object, "Callable[..., Any]"]]]):
    """The instruments of one client, as a mapping from each hook to the methods that override it.

    Hooks that no instrument overrides are absent. Instruments are distinguished by identity, because attrs classes may
    compare equal or be unhashable.

    Args:
        instruments: The instruments.
        base: The class that defines the hooks, as methods that do nothing.

    Attributes:
        connection: The number of the connection, unique in this process.
    """

    def __init__(self, instruments: Iterable[object] = (), base: type | None = None) -> None:
        super().__init__()
        self.connection: int = next(_numbers) if base is not None else 0
        hooks = [name for name in vars(base) if not name.startswith("_")] if base is not None else []
        check_collection("instruments", instruments, "write instruments=[…]")
        for instrument in instruments:
            if base is not None:
                hint = f"pass an object of a class that inherits from {base.__name__}"
                check_type("instruments", instrument, base, hint)
            for hook in hooks:
                method = getattr(instrument, hook)
                if getattr(method, "__func__", method) is not getattr(base, hook):
                    self.setdefault(hook, {})[id(instrument)] = instrument, method

    def emit(self, hook: str, /, *args: object) -> None:
        """Call a hook on every instrument that overrides it. An instrument that raises is removed."""
        for instrument, method in list(self.get(hook, {}).values()):
            try:
                method(*args)
            except Exception as exc:
                self._remove(instrument, hook, exc)

    def trace(self, request: RequestRecord) -> Mapping[str, str] | None:
        """Return the trace context for a request, from the first instrument that provides one."""
        for instrument, method in list(self.get("request_trace", {}).values()):
            try:
                trace = _checked(method(request))
            except Exception as exc:
                self._remove(instrument, "request_trace", exc)
                continue
            if trace:
                return trace
        return None

    def _remove(self, instrument: object, hook: str, error: Exception) -> None:
        for name, methods in list(self.items()):
            methods.pop(id(instrument), None)
            if not methods:
                del self[name]
        # Log the class, not the repr, which may show everything that the instrument has recorded.
        name = type(instrument).__qualname__
        logger.error("an instrument was removed: %s of %s raised", hook, name, exc_info=error)


NO_INSTRUMENTS: Final = Instruments()
"""The default: no instruments."""


def _checked(trace: object) -> Mapping[str, str] | None:
    """Validate a trace context: the server silently drops a request whose trace it cannot parse."""
    if not trace:
        return None
    members = cast("Mapping[str, object]", trace)
    checked = {name: members[name] for name in ("traceparent", "tracestate") if name in members}
    if not all(isinstance(value, str) for value in checked.values()):
        raise TypeError("expected strings in the trace context")
    return cast("Mapping[str, str]", checked)


class RequestWatch:
    """Calls the hooks for the requests of both sides. Does nothing for hooks that no instrument overrides."""

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments
        self._server_requests: dict[RequestId, ServerRequestRecord] = {}

    def queued(self, method: str, params: object, lane: str) -> RequestRecord:
        """Report that a request was made; return its record."""
        record = RequestRecord(self._instruments.connection, method, params, lane, trio.current_time())
        self._instruments.emit("request_queued", record)
        return record

    def sent(self, record: RequestRecord) -> None:
        """Report that a request is being written, unless it is repeated because the server was overloaded."""
        if record.sent_at is not None:
            return
        record.sent_at = trio.current_time()
        self._instruments.emit("request_sent", record)

    def ended(
        self, record: RequestRecord | None, outcome: RequestOutcome, error: CodexError | None = None
    ) -> None:
        if record is not None:
            record.ended_at, record.outcome, record.error = trio.current_time(), outcome, error
            self._instruments.emit("request_ended", record)

    def asked(self, request: ServerRequest) -> None:
        if self._instruments:
            record = ServerRequestRecord(
                self._instruments.connection, request.id, request.method, request.params, trio.current_time()
            )
            self._server_requests[request.id] = record
            self._instruments.emit("server_request_received", record)

    def settled(self, request_id: RequestId, outcome: ServerRequestOutcome) -> None:
        if (record := self._server_requests.pop(request_id, None)) is not None:
            record.ended_at, record.outcome = trio.current_time(), outcome
            self._instruments.emit("server_request_ended", record)

    def lost(self) -> None:
        """Report the server requests that were open when the connection ended."""
        for request_id in list(self._server_requests):
            self.settled(request_id, "lost")
