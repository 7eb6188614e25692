"""A scripted server: requests arrive as values, and the test decides every answer.

Use it for behavior that the real server does not show on demand. It knows the protocol's envelope and the messages that
a client may send. Its defaults are just enough for a client to connect and open a thread.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

import attrs
import msgspec
import trio

from trio_codex import CodexConfig, wire
from trio_codex.binary import TESTED

from ._build import THREAD_ID, TURN_ID, notification, server_request
from ._build import result as result_of
from ._fake_process import (
    PROCESS_FAULTS,
    ProcessFault,
    ProcessStream,
    encode_fault,
    strike_order,
    write_order,
)
from ._fake_websocket import WEBSOCKET_FAULTS, WebSocketFault, WebSocketStream, argument_of
from ._scrutiny import violation_of_answer, violation_of_request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

VERSION: Final = TESTED[1]
"""The version that a scripted server reports by default: the release that the wire types are generated from."""

_THREAD: Final[dict[str, Any]] = {
    "id": THREAD_ID,
    "sessionId": THREAD_ID,
    "forkedFromId": None,
    "preview": "",
    "ephemeral": False,
    "modelProvider": "fake",
    "createdAt": 0,
    "updatedAt": 0,
    "status": {"type": "idle"},
    "cwd": "/",
    "cliVersion": "0.0.0",
    "source": "appServer",
    "projectId": None,
    "turns": [],
}

_OPENED: Final[dict[str, Any]] = {
    "thread": _THREAD,
    "model": "fake",
    "modelProvider": "fake",
    "cwd": "/",
    "approvalPolicy": "on-request",
    "approvalsReviewer": "user",
    "sandbox": {"type": "readOnly"},
}

DEFAULTS: Final[Mapping[str, Any]] = {
    "initialize": {
        "userAgent": f"fake/{VERSION} (Fake; none) unknown (fake; 0)",
        "codexHome": "/",
        "platformFamily": "unix",
        "platformOs": "linux",
    },
    "thread/start": _OPENED,
    "thread/resume": _OPENED,
    "thread/fork": {**_OPENED, "thread": {**_THREAD, "id": "thread-2"}},
    "thread/delete": {},
    "thread/unsubscribe": {"status": "unsubscribed"},
    "thread/backgroundTerminals/clean": {},
    "thread/backgroundTerminals/terminate": {"terminated": True},
    # The client sends this after 32 unacknowledged lines, to learn which of them the server has read.
    "thread/loaded/list": {"data": [], "nextCursor": None},
}
"""Results that are sent immediately unless the test handles the method itself."""


BUILT: Final[Any] = object()
"""Build the value from the given fields."""

LineFault: TypeAlias = Literal["mute", "junk", "duplicate", "oversize", "cut", "hang_up"]
"""Faults of a line that the server sends; see :meth:`FakeServer.fault`."""

Moment: TypeAlias = Literal["before", "during", "after"]
"""When a process fault happens, relative to a line it writes: *during* means after half of the line."""


@attrs.frozen
class _Fault:
    name: LineFault | ProcessFault | WebSocketFault
    told: str
    moment: Moment
    number: int = 0


@attrs.frozen(eq=False)
class Asked:
    """A request from the client.

    Attributes:
        id: The request id.
        method: The method.
        params: The parameters.
    """

    server: FakeServer = attrs.field(repr=False)
    id: int | str
    method: str
    params: Any

    async def answer(self, result: Any = BUILT, /, **fields: Any) -> None:
        """Send the result: a protocol value, raw JSON, or a value that :func:`result` builds from these fields."""
        value = result_of(self.method, **fields) if result is BUILT else result
        await self.server.send({"id": self.id, "result": wire.encode(value)})

    async def refuse(self, message: str, code: int = -32600, data: Any = None) -> None:
        """Send an error response."""
        await self.server.send({"id": self.id, "error": {"code": code, "message": message, "data": data}})


class FakeServer:
    """A scripted server. Create one with :func:`fake_codex`, :func:`fake_process` or :func:`fake_websocket`.

    Every method that sends raises :exc:`trio.BrokenResourceError` once the client has disconnected or the process has
    exited.

    Attributes:
        notified: Methods of the notifications received from the client.
        answers: The client's responses to server requests, by id.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        max_line_bytes: int = CodexConfig().max_line_bytes,
        validate: bool = True,
    ) -> None:
        self._own = stream
        self._sending = trio.StrictFIFOLock()
        self.notified: list[str] = []
        self.answers: dict[int | str, Any] = {}
        self._defaults = dict(DEFAULTS)
        self._asked: deque[Asked] = deque()
        self._changed = trio.Event()
        self._max_line_bytes = max_line_bytes
        self._validate = validate
        self._methods: dict[int | str, str] = {}
        self._fault: _Fault | None = None
        self._muted = False

    def fault(
        self,
        name: LineFault | ProcessFault | WebSocketFault,
        argument: int | str | None = None,
        *,
        moment: Moment = "before",
    ) -> None:
        """Inject one fault into the next line that this server sends.

        Args:
            name: ``mute``: neither this line nor any later one is sent. ``junk``: a line that is not JSON precedes it.
                ``duplicate``: it is sent twice. ``oversize``: it is longer than the client's ``max_line_bytes``.
                ``cut``: half of it is sent, then the connection closes. ``hang_up``: the connection closes instead. Any
                fault of :meth:`strike` is also accepted, and happens at this line. Over a WebSocket, also ``fragments``:
                it is sent in fragments of ``argument`` bytes (1 by default); ``trickle``: byte by byte; ``masked``: as
                only a client may; ``opcode``: with the opcode ``argument`` (3 by default); ``pings``: behind
                ``argument`` pings (1,000 by default); ``close``: a close frame with the code ``argument`` (1011 by
                default) instead of it; ``half_open``: from now on nothing is sent or answered, not even a ping.
            argument: The fault's argument; as for :meth:`strike`, or as above.
            moment: When a process fault happens: ``before`` the line, ``during`` it (after half of it), or ``after``
                it.

        Raises:
            ValueError: The fault does not exist, does not take this argument, or needs a process or a WebSocket that
                this server lacks.
        """
        number = 0
        if name in PROCESS_FAULTS:
            self._process_for(name)
        elif name in WEBSOCKET_FAULTS:
            self._websocket_for(name)
            number = argument_of(name, argument)
        elif name not in get_args(LineFault):
            raise ValueError(f"there is no fault {name!r}")
        if name not in PROCESS_FAULTS and moment != "before":
            raise ValueError(f"the fault {name!r} applies to a whole line: leave out moment")
        told = "" if name in WEBSOCKET_FAULTS else encode_fault(name, argument)
        self._fault = _Fault(name, told, moment, number)

    async def strike(
        self, name: ProcessFault, argument: int | str | None = None, *, at_eof: bool = False
    ) -> None:
        """Inject a fault into this server's process; see :func:`fake_process`.

        If no process runs yet, the fault happens when the next one has started, before it reads anything. Later steps
        of the script still run in order, unless the fault ends the process.

        Args:
            name: ``exit``: exit with the status ``argument`` (0 by default). ``kill``: die by the signal ``argument``
                (``"KILL"`` by default). ``stop``: SIGSTOP itself; ``pause``: likewise, for 0.1 s. ``hang``: do nothing
                more; ``deaf``: read nothing more. ``slow``: write lines a few bytes at a time from now on.
                ``stubborn``: ignore SIGTERM, SIGINT, SIGHUP and EOF on stdin. ``close_stdin``, ``close_stdout``: close
                the stream and keep running. ``grandchild``: leave behind a process that holds the streams open: a
                ``"child"`` (the default), one in another ``"session"``, or a ``"daemon"`` that ignores every signal it
                can. ``flood_stderr``: write 10 MiB to stderr: one unterminated ``"line"`` (the default), many
                ``"lines"``, ``"bytes"`` that are not UTF-8, terminal ``"escapes"``, or ``"nul"``.
            argument: The fault's argument, as listed under ``name``.
            at_eof: Whether to wait for EOF on stdin first.

        Raises:
            ValueError: The fault does not exist, does not take this argument, or this server has no process.
        """
        if name not in PROCESS_FAULTS:
            raise ValueError(f"there is no process fault {name!r}")
        await self._process_for(name).strike(encode_fault(name, argument), at_eof=at_eof)

    def _process_for(self, fault: str) -> ProcessStream:
        if not isinstance(self._own, ProcessStream):
            raise ValueError(f"the fault {fault!r} needs a process: use fake_process()")
        return self._own

    def _websocket_for(self, fault: str) -> WebSocketStream:
        if not isinstance(self._own, WebSocketStream):
            raise ValueError(f"the fault {fault!r} needs a WebSocket: use fake_websocket()")
        return self._own

    def take_over(self, *methods: str) -> None:
        """Stop answering these methods by default; :meth:`expect` returns their requests instead."""
        for method in methods:
            self._defaults.pop(method, None)

    def give(self, method: str, result: Any) -> None:
        """Answer a method with this result from now on."""
        self._defaults[method] = result

    async def expect(self, method: str) -> Asked:
        """Wait for the next request and return it.

        Raises:
            AssertionError: The request has a different method.
        """
        asked = await self.expect_any()
        if asked.method != method:
            raise AssertionError(f"expected {method}, the client sent {asked.method} {asked.params}")
        return asked

    async def expect_any(self) -> Asked:
        """Wait for the next request, whatever its method, and return it."""
        await self._until(lambda: bool(self._asked))
        return self._asked.popleft()

    def unexpected(self) -> list[str]:
        """Return the methods of the requests received so far that no test code expected."""
        return [asked.method for asked in self._asked]

    def assert_all_expected(self) -> None:
        """Check that every request so far was expected or answered by default, and that no fault is pending.

        Raises:
            AssertionError: Some requests were not expected, or a fault is still waiting for a line.
        """
        if unexpected := self.unexpected():
            raise AssertionError(f"the client sent unexpected requests: {', '.join(unexpected)}")
        if self._fault is not None:
            raise AssertionError(f"no line was sent after fault({self._fault.name!r})")

    async def answer_to(self, request_id: int | str) -> Any:
        """Wait for the client's response to the latest server request with this id: a result or an error object."""
        await self._until(lambda: request_id in self.answers)
        return self.answers[request_id]

    async def notify(self, method: str, params: Any = BUILT, /, **fields: Any) -> None:
        """Send a notification.

        Args:
            method: The method.
            params: The parameters: a protocol value or raw JSON. Built from the fields by default.
            **fields: As for :func:`notification`.
        """
        value = notification(method, **fields) if params is BUILT else params
        await self.send({"method": method, "params": wire.encode(value), "emittedAtMs": 0})

    async def ask(self, request_id: int | str, method: str, params: Any = BUILT, /, **fields: Any) -> None:
        """Send a request; :meth:`answer_to` waits for the response.

        Args:
            request_id: The request id.
            method: The method.
            params: The parameters: a protocol value or raw JSON. Built from the fields by default.
            **fields: As for :func:`server_request`.
        """
        value = server_request(method, **fields) if params is BUILT else params
        self._methods[request_id] = method
        # Drop the response to an earlier request with this id, which could be mistaken for the response to this one.
        self.answers.pop(request_id, None)
        await self.send({"id": request_id, "method": method, "params": wire.encode(value)})

    async def send(self, message: Any) -> None:
        """Send any JSON as a line."""
        await self.send_line(msgspec.json.encode(message))

    async def send_line(self, line: bytes) -> None:
        """Send any bytes and a newline."""
        async with self._sending:
            fault, self._fault = self._fault, None
            self._muted = self._muted or (fault is not None and fault.name == "mute")
            if self._muted:
                return
            if fault is None:
                await self._own.send_all(line + b"\n")
            elif fault.name in PROCESS_FAULTS:
                await self._send_and_strike(line + b"\n", fault)
            elif fault.name in WEBSOCKET_FAULTS:
                await self._websocket_for(fault.name).send_wrong(line, fault.name, fault.number)
            else:
                await self._send_wrong(line, fault.name)

    async def _send_wrong(self, line: bytes, fault: str) -> None:
        match fault:
            case "junk":
                data = b"Loading configuration...\n" + line + b"\n"
            case "duplicate":
                data = (line + b"\n") * 2
            case "oversize":
                # The ids come first, as in the real server's output; a client may rely on that.
                data = line[:-1] + b',"more":"' + b"x" * self._max_line_bytes + b'"}\n'
            case "cut":
                data = line[: len(line) // 2]
            case _:
                data = b""
        await self._own.send_all(data)
        if fault in ("cut", "hang_up"):
            await self._own.aclose()

    async def _send_and_strike(self, data: bytes, fault: _Fault) -> None:
        out = {"before": 0, "during": len(data) // 2, "after": len(data)}[fault.moment]
        # A single order, so that it is not an error if the process dies before it writes the rest.
        await self._process_for(fault.name).order(
            write_order(data[:out]) + strike_order(fault.told) + write_order(data[out:])
        )

    async def hang_up(self) -> None:
        """Close the connection; a process exits."""
        await self._own.aclose()

    # -- turns, as the real server announces them --------------------------------------------------------------

    async def accept_turn(self, turn_id: str = TURN_ID, *, started: bool = True) -> Asked:
        """Wait for ``turn/start``, answer it, and announce the turn."""
        asked = await self.expect("turn/start")
        await asked.answer({"turn": {"id": turn_id, "items": [], "status": "inProgress"}})
        if started:
            await self.start_turn(turn_id, asked.params["threadId"])
        return asked

    async def start_turn(self, turn_id: str = TURN_ID, thread_id: str = THREAD_ID) -> None:
        """Announce that a turn has started."""
        turn: dict[str, Any] = {"id": turn_id, "items": [], "status": "inProgress"}
        await self.notify("turn/started", {"threadId": thread_id, "turn": turn})

    async def end_turn(
        self, turn_id: str = TURN_ID, thread_id: str = THREAD_ID, status: str = "completed", **turn: Any
    ) -> None:
        """Announce that a turn has ended."""
        ended: dict[str, Any] = {"id": turn_id, "items": [], "status": status, **turn}
        await self.notify("turn/completed", {"threadId": thread_id, "turn": ended})

    async def item(
        self,
        phase: str,
        item: wire.Wire | Mapping[str, Any],
        turn_id: str = TURN_ID,
        thread_id: str = THREAD_ID,
    ) -> None:
        """Announce that an item has ``started`` or ``completed``."""
        await self.notify(
            f"item/{phase}",
            {"threadId": thread_id, "turnId": turn_id, "item": wire.encode(item), f"{phase}AtMs": 0},
        )

    async def delta(
        self, text: str, item_id: str = "message-1", turn_id: str = TURN_ID, thread_id: str = THREAD_ID
    ) -> None:
        """Send a delta of an agent message."""
        params = {"threadId": thread_id, "turnId": turn_id, "itemId": item_id, "delta": text}
        await self.notify("item/agentMessage/delta", params)

    # -- serving -----------------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Read lines from the client until it closes the connection."""
        await trio.lowlevel.checkpoint()
        rest = b""
        try:
            async for chunk in self._own:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    await self._take(msgspec.json.decode(line))
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            return

    async def _take(self, message: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        self._scrutinize(message)
        if "method" not in message:
            self.answers[message["id"]] = message.get("result", message.get("error"))
        elif "id" not in message:
            self.notified.append(message["method"])
        elif message["method"] in self._defaults:
            await self.send({"id": message["id"], "result": self._defaults[message["method"]]})
        else:
            self._asked.append(Asked(self, message["id"], message["method"], message.get("params")))
        self._changed.set()
        self._changed = trio.Event()

    def _scrutinize(self, message: dict[str, Any]) -> None:
        violation = None
        if "method" in message and "id" in message:
            violation = violation_of_request(message["method"], message.get("params"))
        elif "result" in message:
            violation = violation_of_answer(self._methods.get(message["id"], ""), message["result"])
        if violation is not None and self._validate:
            raise AssertionError(violation)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()
        await trio.lowlevel.checkpoint()
