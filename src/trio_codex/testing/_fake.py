"""A scripted peer: what the client sends arrives as values, and every answer is the test's own.

For what the real server cannot be brought to do. It knows the envelope of the protocol, and of its meaning only what the
client may send; the defaults are just enough for a client to come up and open a thread.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

import attrs
import msgspec
import trio

from trio_codex import CodexConfig, wire

from ._build import THREAD_ID, TURN_ID, notification, server_request
from ._build import result as result_of
from ._fake_process import PROCESS_FAULTS, ProcessFault, ProcessStream, named, strike_order, write_order
from ._scrutiny import violation_of_answer, violation_of_request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
        "userAgent": "fake/0.163.0 (Fake; none) unknown (fake; 0)",
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
    # The client asks for it, to learn which of its lines were taken, when 32 of them may not have been.
    "thread/loaded/list": {"data": [], "nextCursor": None},
}
"""Results that are sent at once unless the test takes the method over."""


BUILT: Final[Any] = object()
"""Make it from the fields that are given."""

LineFault: TypeAlias = Literal["mute", "junk", "duplicate", "oversize", "cut", "hang_up"]
"""How a line of the server goes wrong; see :meth:`FakeServer.fault`."""

Moment: TypeAlias = Literal["before", "during", "after"]
"""When the process goes wrong, as seen from a line of its: *during* is when half of it is out."""


@attrs.frozen
class _Fault:
    name: LineFault | ProcessFault
    told: str
    moment: Moment


@attrs.frozen(eq=False)
class Asked:
    """A request of the client.

    Attributes:
        id: Its id.
        method: Its method.
        params: Its parameters.
    """

    server: FakeServer = attrs.field(repr=False)
    id: int | str
    method: str
    params: Any

    async def answer(self, result: Any = BUILT, /, **fields: Any) -> None:
        """Send the result: a value of the protocol or raw JSON; else one with these fields, made by :func:`result`."""
        value = result_of(self.method, **fields) if result is BUILT else result
        await self.server.send({"id": self.id, "result": wire.encode(value)})

    async def refuse(self, message: str, code: int = -32600, data: Any = None) -> None:
        """Send an error."""
        await self.server.send({"id": self.id, "error": {"code": code, "message": message, "data": data}})


class FakeServer:
    """The other end of a connection. Made by :func:`fake_codex` and :func:`fake_process`.

    What sends raises :exc:`trio.BrokenResourceError` once the client, or the process, has gone.

    Attributes:
        notified: Methods of the client's notifications.
        answers: The client's answers to requests of the server, by id.
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
        self, name: LineFault | ProcessFault, argument: int | str | None = None, *, moment: Moment = "before"
    ) -> None:
        """Let the next line that this server sends go wrong, once.

        Args:
            name: ``mute``: it is not sent, nor is any after it. ``junk``: a line that is no JSON comes before it.
                ``duplicate``: it comes twice. ``oversize``: it is longer than the client's ``max_line_bytes``. ``cut``: half
                of it comes, and the connection ends. ``hang_up``: the connection ends instead. Or what the process does at
                this line: any fault of :meth:`strike`.
            argument: As for :meth:`strike`.
            moment: When the process does it: ``before`` the line, ``during`` it (half of it is out), or ``after`` it.

        Raises:
            ValueError: There is no such fault, it is one of a process and this server is none, or it does not take that.
        """
        if name in PROCESS_FAULTS:
            self._process_for(name)
        elif name not in get_args(LineFault):
            raise ValueError(f"there is no fault {name!r}")
        elif moment != "before":
            raise ValueError(f"the fault {name!r} is one of the whole line")
        self._fault = _Fault(name, named(name, argument), moment)

    async def strike(
        self, name: ProcessFault, argument: int | str | None = None, *, at_eof: bool = False
    ) -> None:
        """Let the process of this server go wrong: see :func:`fake_process`.

        If none runs yet, the next one does it when it has started, before it reads anything. What comes after it is still
        done, in order, unless the fault is the end of the process.

        Args:
            name: ``exit``: with the status ``argument`` (0). ``kill``: by the signal of that name (``"KILL"``). ``stop``: by
                SIGSTOP; ``pause``: likewise, for 0.1 s. ``hang``: it does nothing more; ``deaf``: it reads nothing more.
                ``slow``: from now on its lines dribble out. ``stubborn``: it ignores SIGTERM, SIGINT, SIGHUP and the end of
                stdin. ``close_stdin``, ``close_stdout``: it goes on without. ``grandchild``: it leaves a process that holds
                its streams open: a ``"child"`` (the default), one in another ``"session"``, or a ``"daemon"`` that ignores
                what can be ignored. ``flood_stderr``: 10 MiB of a ``"line"`` without end (the default), of ``"lines"``,
                ``"bytes"`` that are no text, terminal ``"escapes"``, or ``"nul"``.
            argument: See there.
            at_eof: Not now, but when stdin ends.

        Raises:
            ValueError: There is no such fault, it does not take that argument, or this server is no process.
        """
        if name not in PROCESS_FAULTS:
            raise ValueError(f"there is no fault {name!r} of a process")
        await self._process_for(name).strike(named(name, argument), at_eof=at_eof)

    def _process_for(self, fault: str) -> ProcessStream:
        if not isinstance(self._own, ProcessStream):
            raise ValueError(f"the fault {fault!r} is one of a process: see fake_process()")
        return self._own

    def take_over(self, *methods: str) -> None:
        """Answer these methods by hand: they then come from :meth:`expect`."""
        for method in methods:
            self._defaults.pop(method, None)

    def give(self, method: str, result: Any) -> None:
        """Answer a method with this result from now on."""
        self._defaults[method] = result

    async def expect(self, method: str) -> Asked:
        """Wait for the next request and give it.

        Raises:
            AssertionError: It is another one.
        """
        asked = await self.expect_any()
        assert asked.method == method, f"expected {method}, the client sent {asked.method} {asked.params}"
        return asked

    async def expect_any(self) -> Asked:
        """Wait for the next request, whatever it is, and give it."""
        await self._until(lambda: bool(self._asked))
        return self._asked.popleft()

    def unexpected(self) -> list[str]:
        """Give the methods of the requests that nobody expected so far."""
        return [asked.method for asked in self._asked]

    def assert_all_expected(self) -> None:
        """Check that the script was used up: every request so far was expected, or answered by default, and no fault waits.

        Raises:
            AssertionError: Nobody expected these, or no line came that was to go wrong.
        """
        if unexpected := self.unexpected():
            raise AssertionError(f"the client sent what nobody expected: {', '.join(unexpected)}")
        if self._fault is not None:
            raise AssertionError(f"no line was sent after fault({self._fault.name!r})")

    async def answer_to(self, request_id: int | str) -> Any:
        """Wait for the client's answer to a request of the server, the latest with this id: a result, or an error object."""
        await self._until(lambda: request_id in self.answers)
        return self.answers[request_id]

    async def notify(self, method: str, params: Any = BUILT, /, **fields: Any) -> None:
        """Send a notification.

        Args:
            method: Its method.
            params: What it carries: a value of the protocol, or raw JSON. By default made of the fields.
            **fields: As for :func:`notification`.
        """
        value = notification(method, **fields) if params is BUILT else params
        await self.send({"method": method, "params": wire.encode(value), "emittedAtMs": 0})

    async def ask(self, request_id: int | str, method: str, params: Any = BUILT, /, **fields: Any) -> None:
        """Send a request; :meth:`answer_to` gives the answer.

        Args:
            request_id: Its id.
            method: Its method.
            params: What it carries: a value of the protocol, or raw JSON. By default made of the fields.
            **fields: As for :func:`server_request`.
        """
        value = server_request(method, **fields) if params is BUILT else params
        self._methods[request_id] = method
        # Of an earlier request with this id: it would be taken for the answer to this one.
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
            else:
                await self._send_wrong(line, fault.name)

    async def _send_wrong(self, line: bytes, fault: str) -> None:
        match fault:
            case "junk":
                data = b"Loading configuration...\n" + line + b"\n"
            case "duplicate":
                data = (line + b"\n") * 2
            case "oversize":
                # The ids come first, as the real server writes them: that is what a client has to go by.
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
        # At once, so that it is no error that the process does not live to write the rest.
        await self._process_for(fault.name).order(
            write_order(data[:out]) + strike_order(fault.told) + write_order(data[out:])
        )

    async def hang_up(self) -> None:
        """Close the connection. A process exits."""
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
        """Send a piece of an agent message."""
        params = {"threadId": thread_id, "turnId": turn_id, "itemId": item_id, "delta": text}
        await self.notify("item/agentMessage/delta", params)

    # -- serving -----------------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Read what the client sends until it closes the connection."""
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
        self._scrutinise(message)
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

    def _scrutinise(self, message: dict[str, Any]) -> None:
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
