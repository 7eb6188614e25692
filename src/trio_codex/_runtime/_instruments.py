"""Who is told what happens: owns the table of hooks and instruments, and the records that the shell hands to them.

A client has one :class:`Instruments`. A place where something happens asks first whether anybody wants to know, so that a
client without instruments pays one look-up in an empty dictionary, and only then makes what the hook takes::

    if "frame_sent" in instruments:
        instruments.call("frame_sent", instruments.connection, line)

The hooks are the public methods of the base class that it is given; their meaning is documented there
(:class:`trio_codex.instruments.Instrument`). Nothing here knows what a hook is for.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

import attrs
import trio

from trio_codex._core._arguments import check_collection, check_type
from trio_codex._core._log import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import msgspec

    from trio_codex._core._rpc import RequestId, ServerRequest
    from trio_codex.errors import CodexError

_numbers = count(1)

RequestOutcome: TypeAlias = Literal["answered", "refused", "failed", "given up", "unsent"]
"""How a request of the client ended. ``refused``: with an error of the server. ``failed``: its answer cannot be read, or
the connection ended. ``given up``: its caller was cancelled, or it timed out; the server may have acted on it.
``unsent``: it was given up before the writer had it."""

ServerRequestOutcome: TypeAlias = Literal["answered", "refused", "withdrawn", "lost"]
"""How a request of the server ended. ``answered``: with a result, which may be a denial. ``refused``: with a JSON-RPC
error. ``withdrawn``: nobody wants an answer any more. ``lost``: the connection ended."""


@attrs.define(eq=False)
class RequestRecord:
    """One request of the client: the same object from its first hook to its last.

    Attributes:
        connection: The number of its connection.
        method: Its method.
        params: Its parameters, as plain JSON.
        lane: Whether it waits for a place in the request window (``window``) or not (``deferred``, ``control``).
        queued_at: Trio time at which it was asked for.
        id: Its id on the wire, once it is through the window.
        sent_at: Trio time at which the writer took it, if it did.
        ended_at: Trio time at which its outcome was known.
        outcome: How it ended.
        error: What it failed with.
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
        """Seconds from its being asked for to its outcome."""
        return None if self.ended_at is None else self.ended_at - self.queued_at


@attrs.define(eq=False)
class ServerRequestRecord:
    """One request of the server: the same object from its first hook to its last.

    Attributes:
        connection: The number of its connection.
        id: Its id.
        method: Its method.
        params: Its parameters, as they came; ``None`` if its line could not be read.
        received_at: Trio time at which it came.
        ended_at: Trio time at which its outcome was known.
        outcome: How it ended.
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
        """Seconds from its coming to its outcome."""
        return None if self.ended_at is None else self.ended_at - self.received_at


class Instruments(dict[str, dict[int, tuple[object, "Callable[..., Any]"]]]):
    """The instruments of one client and their methods, by the hooks that they override. A hook that none overrides is no key.

    Instruments are told apart by identity: they may be equal to each other, or have no hash, as attrs classes do.

    Args:
        instruments: The instruments.
        base: The class that says which hooks there are, by methods that do nothing.

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

    def call(self, hook: str, /, *args: object) -> None:
        """Call a hook of every instrument that overrides it. One that raises is removed; nobody else notices."""
        for instrument, method in list(self.get(hook, {}).values()):
            try:
                method(*args)
            except Exception as exc:
                self._remove(instrument, hook, exc)

    def trace(self, request: RequestRecord) -> Mapping[str, str] | None:
        """Ask for the trace that a request is part of; the first instrument that knows one tells."""
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
        for name, heard in list(self.items()):
            heard.pop(id(instrument), None)
            if not heard:
                del self[name]
        # Not its repr, which may show all that it has heard.
        name = type(instrument).__qualname__
        logger.error("an instrument was removed: %s of %s raised", hook, name, exc_info=error)


NO_INSTRUMENTS: Final = Instruments()
"""For whoever is given none."""


def _checked(trace: object) -> Mapping[str, str] | None:
    """Check what is sent along: the server drops a request whose trace it cannot read, without an answer."""
    if not trace:
        return None
    members = cast("Mapping[str, object]", trace)
    checked = {name: members[name] for name in ("traceparent", "tracestate") if name in members}
    if not all(isinstance(value, str) for value in checked.values()):
        raise TypeError("a trace context is made of strings")
    return cast("Mapping[str, str]", checked)


class RequestWatch:
    """Tells of the requests of both sides as a connection goes through them. Does nothing where nobody listens."""

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments
        self._server_requests: dict[RequestId, ServerRequestRecord] = {}

    def queued(self, method: str, params: object, lane: str) -> RequestRecord | None:
        """Tell that a request is asked for; give its record, or ``None`` if nobody cares."""
        if not self._instruments:
            return None
        record = RequestRecord(self._instruments.connection, method, params, lane, trio.current_time())
        self._instruments.call("request_queued", record)
        return record

    def sent(self, record: RequestRecord) -> None:
        """Tell that the writer took it."""
        record.sent_at = trio.current_time()
        self._instruments.call("request_sent", record)

    def ended(
        self, record: RequestRecord | None, outcome: RequestOutcome, error: CodexError | None = None
    ) -> None:
        """Tell its outcome."""
        if record is not None:
            record.ended_at, record.outcome, record.error = trio.current_time(), outcome, error
            self._instruments.call("request_ended", record)

    def asked(self, request: ServerRequest) -> None:
        """Tell that the server asks something."""
        if self._instruments:
            record = ServerRequestRecord(
                self._instruments.connection, request.id, request.method, request.params, trio.current_time()
            )
            self._server_requests[request.id] = record
            self._instruments.call("server_request_received", record)

    def settled(self, request_id: RequestId, outcome: ServerRequestOutcome) -> None:
        """Tell what became of it."""
        if (record := self._server_requests.pop(request_id, None)) is not None:
            record.ended_at, record.outcome = trio.current_time(), outcome
            self._instruments.call("server_request_ended", record)

    def lost(self) -> None:
        """Tell of what the server still wanted to know when the connection ended."""
        for request_id in list(self._server_requests):
            self.settled(request_id, "lost")
