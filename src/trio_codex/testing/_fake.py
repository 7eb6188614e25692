"""A scripted peer in memory: what the client sends arrives as values, and every answer is the test's own.

For what the real server cannot be brought to do. It knows the envelope of the protocol and nothing of its meaning; the
defaults are just enough for a client to come up and open a thread.
"""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import attrs
import msgspec
import trio
import trio.testing

from trio_codex import Budget, Codex, CodexConfig, Policy, connect_codex

from ._build import THREAD_ID, TURN_ID

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence

    from trio_codex._toolbox import AnyTool
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

    async def answer(self, result: Any) -> None:
        """Send the result."""
        await self.server.send({"id": self.id, "result": result})

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

    def __init__(self) -> None:
        client_end, self._own = trio.testing.memory_stream_pair()
        self._sending = trio.StrictFIFOLock()
        self.stream: trio.abc.Stream = client_end
        self.notified: list[str] = []
        self.answers: dict[int | str, Any] = {}
        self._defaults = dict(DEFAULTS)
        self._asked: deque[Asked] = deque()
        self._changed = trio.Event()
        self._rest = b""

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

    async def answer_to(self, request_id: int | str) -> Any:
        """Wait for the client's answer to a request of the server: a result, or an error object."""
        await self._until(lambda: request_id in self.answers)
        return self.answers[request_id]

    async def notify(self, method: str, params: Any) -> None:
        """Send a notification."""
        await self.send({"method": method, "params": params, "emittedAtMs": 0})

    async def ask(self, request_id: int | str, method: str, params: Any) -> None:
        """Send a request; :meth:`answer_to` gives the answer."""
        await self.send({"id": request_id, "method": method, "params": params})

    async def send(self, message: Any) -> None:
        """Send any JSON as a line."""
        await self.send_line(msgspec.json.encode(message))

    async def send_line(self, line: bytes) -> None:
        """Send any bytes and a newline."""
        async with self._sending:
            await self._own.send_all(line + b"\n")

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
        self, phase: str, item: Mapping[str, Any], turn_id: str = TURN_ID, thread_id: str = THREAD_ID
    ) -> None:
        """Announce that an item has ``started`` or ``completed``."""
        await self.notify(
            f"item/{phase}", {"threadId": thread_id, "turnId": turn_id, "item": item, f"{phase}AtMs": 0}
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
    """
    server = FakeServer()
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
