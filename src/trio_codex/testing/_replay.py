"""Play a recording back: an in-memory server repeats its lines as the client reaches the same points.

Messages from the client are compared by content and order (strict) or only waited for (lenient). Ids that the client
generates on each run are translated both ways by :mod:`._replay_names`.
"""

from __future__ import annotations

import difflib
from collections import deque
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio
import trio.testing

from trio_codex import Codex, CodexConfig
from trio_codex._api.lifecycle import ClientLifecycle
from trio_codex._link.services import open_services
from trio_codex.recording import Recording, RecordingError, read_recording
from trio_codex.recording._recorder import LONGEST_LINE

from ._replay_names import Names

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

    from trio_codex import Budget, Policy
    from trio_codex._tools.tool import AnyTool
    from trio_codex.instruments import Instrument
    from trio_codex.recording import Entry

NO_ANSWER: Final = -32601
"""The error code for a request that the recording has no response to."""


class ReplayMismatch(AssertionError):
    """The client sent a message that differs from the recorded one."""


@asynccontextmanager
async def replay(
    recording: Recording | str | os.PathLike[str],
    config: CodexConfig | None = None,
    *,
    policy: Policy | None = None,
    tools: Iterable[AnyTool] = (),
    budget: Budget | None = None,
    instruments: Sequence[Instrument] = (),
    connection: int = 1,
    strict: bool = True,
    timed: bool = False,
) -> AsyncGenerator[Codex]:
    """Connect a client to a server that replays a recording. Exceptions from the body propagate unchanged.

    Args:
        recording: The recording, or the path of its file.
        config: The configuration that the recorded client had; fields about the process have no effect.
        policy: The policy, as in :func:`~trio_codex.open_codex`.
        tools: As there. They are called with the recorded arguments, whose content is missing if it was redacted.
        budget: As there.
        instruments: As there.
        connection: The number of the recorded connection to play.
        strict: Whether the client must send the same messages in the same order as when it was recorded. Its
            ``client_version`` may differ. If false, each request gets the next recorded response for its method,
            whatever its parameters. A request beyond the recording gets the last response for its method, or is
            refused if there was none. The server still waits for each recorded message: if the client omits one,
            nothing that followed it is sent.
        timed: Whether the server reproduces the recorded delays, in Trio time, which takes no real time under a
            :class:`trio.testing.MockClock`. If false, it responds at once.

    Raises:
        ReplayMismatch: The client sent something different from what was recorded or, if strict, left before it had
            sent everything. Replaces any exception from the body.
        RecordingError: The file is not a recording, or a line of the connection was too long to be recorded.
        OSError: The file cannot be read.
        StartError: The client failed to start, as it did when it was recorded.
        ValueError: The recording has no such connection, two tools have the same name, or ``experimental_api`` is off.
        TypeError: An entry of ``tools`` is not a tool, or cannot be described to an agent.
    """
    if not isinstance(recording, Recording):
        recording = read_recording(recording)
    player = _Player(recording, connection, strict, timed)
    client = ClientLifecycle(config or CodexConfig(), policy, tools, budget, instruments)
    try:
        async with open_services(client.close_with) as services:
            services.start_service(player.listen)
            services.start_service(player.play)
            yield Codex(await client.connect(services, player.stream), client)
    except Exception:
        # The body saw the mismatch as a broken connection.
        player.check()
        raise
    player.check()
    player.check_complete()


class _Player:
    """The server side of a replay.

    Attributes:
        stream: The client side of the connection.
    """

    def __init__(self, recording: Recording, connection: int, strict: bool, timed: bool) -> None:
        entries = recording.of(connection)
        if not entries:
            known = ", ".join(map(str, recording.connections)) or "none at all"
            raise ValueError(f"the recording has no connection {connection}, but {known}")
        self._opened_at = entries[0].at
        self._hangs_up = entries[-1].reason not in (None, "ConnectionClosed")
        lines = [entry for entry in entries if entry.kind in ("sent", "received")]
        if any(entry.message is None and entry.size > LONGEST_LINE for entry in lines):
            raise RecordingError(
                "the recording cannot be replayed: it contains a line that was too long to be recorded"
            )
        # JSON other than an object is junk, in either direction.
        self._entries = [entry for entry in lines if isinstance(entry.message, dict)]
        self._redaction = recording.redaction
        self._strict = strict
        self._timed = timed
        client_end, self._own = trio.testing.memory_stream_pair()
        self.stream: trio.abc.Stream = client_end
        self._came: deque[dict[str, Any]] = deque()
        self._changed = trio.Event()
        self._gone = False
        self._names = Names()
        self._answers: dict[str, dict[str, Any]] = {}
        self._mismatch: str | None = None
        self._unsent = deque(entry for entry in self._entries if entry.kind == "sent")

    def check(self) -> None:
        """Raise an error if the client sent something that was not recorded."""
        if self._mismatch is not None:
            raise ReplayMismatch(self._mismatch) from None

    def check_complete(self) -> None:
        """Raise an error if the client did not send everything that was recorded."""
        # Count everything that has arrived: the server may still have been reproducing a delay.
        missing = [*self._unsent][len(self._came) :]
        if self._strict and missing:
            raise ReplayMismatch(f"the client disconnected without sending\n{_shown(missing[0].message)}")

    # -- from the client ---------------------------------------------------------------------------------------

    async def listen(self) -> None:
        """Receive from the client until it closes the connection."""
        await trio.lowlevel.checkpoint()
        rest = b""
        with suppress(trio.ClosedResourceError, trio.BrokenResourceError):
            async for chunk in self._own:
                *lines, rest = (rest + chunk).split(b"\n")
                self._came.extend(map(msgspec.json.decode, lines))
                self._wake()
        self._gone = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _next(self) -> dict[str, Any] | None:
        """Wait for the next line from the client; ``None`` once it has disconnected."""
        await trio.lowlevel.checkpoint()
        while not self._came:
            if self._gone:
                return None
            await self._changed.wait()
        return self._came.popleft()

    # -- from the server ----------------------------------------------------------------------------------------

    async def play(self) -> None:
        """Play the recording, then answer further messages from the client."""
        await trio.lowlevel.checkpoint()
        methods = {entry.message["id"]: entry.method for entry in self._entries if _is_request(entry)}
        at = self._opened_at
        for number, entry in enumerate(self._entries, start=1):
            if entry.kind == "sent":
                if not await self._take(entry, self._entries[number:]):
                    return
                self._unsent.popleft()
            else:
                if self._timed:
                    await trio.sleep(max(0.0, entry.at - at))
                await self._say(entry.message, methods)
            at = entry.at
        if self._hangs_up:
            await self._own.aclose()
        while (message := await self._next()) is not None:
            if self._strict and "id" in message:
                await self._fail(
                    f"the client sent a message after the end of the recording\n{_shown(message)}"
                )
                return
            await self._answer_beyond(message)

    async def _say(self, recorded: dict[str, Any], methods: Mapping[Any, str | None]) -> None:
        message = self._names.said(recorded)
        if "method" not in message and (method := methods.get(recorded.get("id"))) is not None:
            self._answers[method] = message
        await self._send(message)

    async def _send(self, message: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._own.send_all(msgspec.json.encode(message) + b"\n")

    async def _take(self, entry: Entry, later: Sequence[Entry]) -> bool:
        """Wait for the message that the client sent at this point; return whether to continue."""
        await trio.lowlevel.checkpoint()
        early: list[dict[str, Any]] = []
        while (message := await self._next()) is not None:
            if self._strict:
                return await self._compare(entry.message, message)
            if _are_alike(entry.message, message):
                self._names.learn(entry.message, message)
                self._came.extendleft(reversed(early))
                return True
            if any(each.kind == "sent" and _are_alike(each.message, message) for each in later):
                early.append(message)
            else:
                await self._answer_beyond(message)
        return False

    async def _compare(self, recorded: dict[str, Any], sent: dict[str, Any]) -> bool:
        await trio.lowlevel.checkpoint()
        self._names.learn(recorded, sent)
        expected = _comparable(self._names.translated(recorded))
        got = _comparable(sent if self._redaction is None else self._redaction.message(sent))
        if expected == got:
            return True
        difference = difflib.unified_diff(
            _shown(expected).splitlines(), _shown(got).splitlines(), "recorded", "sent", n=99, lineterm=""
        )
        await self._fail(
            "\n".join(["the client sent a message that differs from the recorded one", *difference])
        )
        return False

    async def _answer_beyond(self, message: dict[str, Any]) -> None:
        """Answer a request that is not in the recording."""
        await trio.lowlevel.checkpoint()
        if "method" not in message or "id" not in message:
            return
        error = {"code": NO_ANSWER, "message": f"the recording has no response to {message['method']}"}
        answer = self._answers.get(message["method"], {"error": error})
        await self._send({**answer, "id": message["id"]})

    async def _fail(self, problem: str) -> None:
        """Record the mismatch and close the connection, so that the client does not wait for lines that never come."""
        self._mismatch = problem
        await self._own.aclose()


def _is_request(entry: Entry) -> bool:
    return entry.kind == "sent" and "method" in entry.message and "id" in entry.message


def _are_alike(recorded: dict[str, Any], sent: dict[str, Any]) -> bool:
    if "method" in recorded:
        return recorded["method"] == sent.get("method") and ("id" in recorded) == ("id" in sent)
    return "method" not in sent and recorded.get("id") == sent.get("id")


def _comparable(message: dict[str, Any]) -> dict[str, Any]:
    """Remove the members that differ between runs: the id of a request, its trace context, and the client's version."""
    volatile = {"id", "trace"} if "method" in message else {"trace"}
    comparable = {name: value for name, value in message.items() if name not in volatile}
    match message:
        case {"method": "initialize", "params": {"clientInfo": {"version": _, **client}, **params}}:
            comparable["params"] = {**params, "clientInfo": client}
        case _:
            pass
    return comparable


def _shown(message: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(message, order="sorted"), indent=2).decode()
