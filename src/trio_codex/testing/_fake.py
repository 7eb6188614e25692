"""A scripted peer in memory: what the client sends arrives as values, and every answer is the test's own.

For what the real server cannot be brought to do. It knows the envelope of the protocol, and of its meaning only what the
client may send; the defaults are just enough for a client to come up and open a thread.
"""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import attrs
import msgspec
import trio
import trio.testing

from trio_codex import Budget, Codex, CodexConfig, Policy, connect_codex, wire

from ._build import THREAD_ID, TURN_ID, notification, server_request
from ._build import result as result_of
from ._scrutiny import violation_of_answer, violation_of_request

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence

    from trio_codex._tools._toolbox import AnyTool
    from trio_codex.instruments import Instrument

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
}
"""Results that are sent at once unless the test takes the method over."""


BUILT: Final[Any] = object()
"""Make it from the fields that are given."""

Fault: TypeAlias = Literal["mute", "junk", "duplicate", "oversize", "cut", "hang_up"]
"""How the next line of the server goes wrong."""


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
    """The other end of a connection. Made by :func:`fake_codex`.

    Attributes:
        stream: The client's end.
        notified: Methods of the client's notifications.
        answers: The client's answers to requests of the server, by id.
    """

    def __init__(self, *, max_line_bytes: int = CodexConfig().max_line_bytes, validate: bool = True) -> None:
        client_end, self._own = trio.testing.memory_stream_pair()
        self._sending = trio.StrictFIFOLock()
        self.stream: trio.abc.Stream = client_end
        self.notified: list[str] = []
        self.answers: dict[int | str, Any] = {}
        self._defaults = dict(DEFAULTS)
        self._asked: deque[Asked] = deque()
        self._changed = trio.Event()
        self._rest = b""
        self._max_line_bytes = max_line_bytes
        self._validate = validate
        self._methods: dict[int | str, str] = {}
        self._fault: Fault | None = None

    def fault(self, name: Fault) -> None:
        """Let the next line that this server sends go wrong, once.

        Args:
            name: ``mute``: it is not sent, nor is any after it. ``junk``: a line that is no JSON comes before it.
                ``duplicate``: it comes twice. ``oversize``: it is longer than the client's ``max_line_bytes``. ``cut``: half
                of it comes, and the connection ends. ``hang_up``: the connection ends instead.
        """
        self._fault = name

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
        """Check that every request so far was expected, or answered by default.

        Raises:
            AssertionError: Nobody expected these.
        """
        if unexpected := self.unexpected():
            raise AssertionError(f"the client sent what nobody expected: {', '.join(unexpected)}")

    async def answer_to(self, request_id: int | str) -> Any:
        """Wait for the client's answer to a request of the server: a result, or an error object."""
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
        await self.send({"id": request_id, "method": method, "params": wire.encode(value)})

    async def send(self, message: Any) -> None:
        """Send any JSON as a line."""
        await self.send_line(msgspec.json.encode(message))

    async def send_line(self, line: bytes) -> None:
        """Send any bytes and a newline."""
        async with self._sending:
            match self._fault:
                case "mute":
                    return
                case "junk":
                    data = b"Loading configuration...\n" + line + b"\n"
                case "duplicate":
                    data = (line + b"\n") * 2
                case "oversize":
                    # The ids come first, as the real server writes them: that is what a client has to go by.
                    data = line[:-1] + b',"more":"' + b"x" * self._max_line_bytes + b'"}\n'
                case "cut":
                    data = line[: len(line) // 2]
                case "hang_up":
                    data = b""
                case None:
                    data = line + b"\n"
            ends, self._fault = self._fault in ("cut", "hang_up"), None
            await self._own.send_all(data)
            if ends:
                await self._own.aclose()

    async def hang_up(self) -> None:
        """Close the connection."""
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
        try:
            async for chunk in self._own:
                *lines, self._rest = (self._rest + chunk).split(b"\n")
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


@asynccontextmanager
async def fake_codex(
    config: CodexConfig | None = None,
    *,
    policy: Policy | None = None,
    tools: Iterable[AnyTool] = (),
    budget: Budget | None = None,
    instruments: Sequence[Instrument] = (),
    version: str = "0.163.0",
    strict: bool = True,
    validate: bool = True,
) -> AsyncGenerator[tuple[Codex, FakeServer]]:
    """Connect a client to a :class:`FakeServer` for the time of a scope; give both.

    What the body raises leaves in an exception group of the nursery that this opens.

    Args:
        config: As in :func:`~trio_codex.connect_codex`.
        policy: As there.
        tools: As there.
        budget: As there.
        instruments: As there.
        version: The version that the server claims to be.
        strict: Whether a request that nobody expected is an error at the end of the scope.
        validate: Whether what the client sends must fit the protocol. It is looked at as it comes, and ends the scope.

    Raises:
        AssertionError: After a body that did not raise: the client sent requests that nobody expected. In a group: it sent
            what the protocol does not have.
    """
    server = FakeServer(max_line_bytes=(config or CodexConfig()).max_line_bytes, validate=validate)
    server.give(
        "initialize",
        {**DEFAULTS["initialize"], "userAgent": f"fake/{version} (Fake; none) unknown (fake; 0)"},
    )
    async with trio.open_nursery() as serving:
        serving.start_soon(server.serve)  # noqa: ASYNC113  # what is sent before it runs waits in the stream
        async with trio.open_nursery() as nursery:
            codex = await connect_codex(
                nursery,
                server.stream,
                config=config,
                policy=policy,
                tools=tools,
                budget=budget,
                instruments=instruments,
            )
            yield codex, server
            await codex.aclose()
        serving.cancel_scope.cancel()
    if strict:
        server.assert_all_expected()
