"""Show a recording as a timeline, each entry with its time.

Nothing is replayed to a client here; the entries are shown unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import trio
from rich.text import Text

from trio_codex import Event, wire
from trio_codex.cli._render import Progress, Screen, duration, show_diff
from trio_codex.cli._text import one_line
from trio_codex.recording import read_recording

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_codex.recording import Entry

QUIET: Final = frozenset({"initialize", "initialized", "turn/start", "turn/steer", "turn/interrupt"})
"""Client messages that are not shown, because they are obvious or other entries show them."""


async def show(file: str, speed: float | None) -> int:
    """Show a recording; return the exit status."""
    recording = read_recording(file)
    timeline = Timeline(several=len(recording.connections) > 1)
    if recording.redaction is not None:
        timeline.note("recorded without content", "dim")
    at = 0.0
    for entry in recording.entries:
        if speed is not None:
            await trio.sleep(max(0.0, entry.at - at) / speed)
        at = entry.at
        timeline.show(entry)
    timeline.end_line()
    await trio.lowlevel.checkpoint()
    if recording.truncated:
        timeline.note(
            "the recording ends in the middle of a line: its process was killed, or the disk was full",
            "red",
        )
        return 1
    return 0


class Timeline(Screen):
    """A screen that prefixes each line with its time.

    Args:
        several: Whether there are several connections, so that lines must name theirs.
    """

    def __init__(self, *, several: bool = False) -> None:
        super().__init__(stderr=False)
        self.live = True
        self._several = several
        self._when = ""
        self._turns: dict[Any, Progress] = {}
        self._asked: dict[tuple[int, Any], str] = {}
        self._cwds: dict[Any, str] = {}

    def note(self, text: Text | str, style: str = "", *, indent: int = 0, mark: Text | str = "") -> None:
        """Write a line, prefixed with its time."""
        start = Text(" " * indent) + (Text(mark, style) if isinstance(mark, str) else mark)
        super().note(text, style, mark=Text(self._when, "dim") + start)

    def show(self, entry: Entry) -> None:
        """Show an entry, if it is relevant."""
        number = f"{entry.connection}│ " if self._several else ""
        self._when = f"{entry.at:8.3f}  {number}"
        match entry.kind:
            case "sent":
                self._sent(entry)
            case "received":
                self._received(entry)
            case "decision":
                self._decided(entry.decision or {})
            case "discarded":
                self.note(f"discarded a line of {entry.size} bytes: {entry.reason}", "yellow", mark="! ")
            case "opened":
                self.note("connection opened", "dim")
            case _:
                self.note(f"connection ended: {entry.reason}", "dim")

    def _sent(self, entry: Entry) -> None:
        message, method = _object(entry.message), entry.method
        if method is None:
            return
        self._asked[entry.connection, message.get("id")] = method
        params = _object(message.get("params"))
        match method:
            case "turn/start":
                self.note(one_line(_text_of(params), 200), "bold", mark="▶ ")
            case "turn/steer":
                self.note(one_line(_text_of(params), 200), "bold", mark="↪ ")
            case "turn/interrupt":
                self.note("interrupt", "bold", mark="■ ")
            case _ if method not in QUIET:
                self.note(method, "dim", mark="→ ")
            case _:
                pass

    def _received(self, entry: Entry) -> None:
        message, method = _object(entry.message), entry.method
        if method is None:
            opened = _object(message.get("result"))
            self._cwds[_object(opened.get("thread")).get("id")] = str(opened.get("cwd"))
            error = _object(message.get("error"))
            if error:
                asked = self._asked.get((entry.connection, message.get("id")), "a request")
                problem = one_line(str(error.get("message")), 120)
                self.note(f"{asked}: {problem} ({error.get('code')})", "red", mark="✗ ")
            return
        params = _object(message.get("params"))
        if "id" in message:
            what = params.get("command") or params.get("tool") or params.get("message") or ""
            self.note(
                Text.assemble((one_line(method), "yellow"), f"  {one_line(str(what), 120)}"),
                mark=Text("? ", "yellow"),
            )
            return
        json = msgspec.json.encode(params)
        event = Event(method, json, len(json), message.get("emittedAtMs"))
        key = (entry.connection, params.get("threadId"))
        cwd = self._cwds.get(params.get("threadId"), ".")
        progress = self._turns.setdefault(key, Progress(self, cwd))
        progress.show(event)
        match event.params:
            case wire.ItemCompletedNotification(item=wire.FileChangeThreadItem(changes=changes)):
                for change in changes:
                    show_diff(self, change)
            case wire.TurnCompletedNotification(turn=turn):
                self._turns.pop(key, None)
                took = "" if turn.duration_ms is None else f" · {duration(turn.duration_ms / 1000)}"
                style = (
                    "green" if turn.status == "completed" else "red" if turn.status == "failed" else "yellow"
                )
                self.note(f"turn {turn.status}{took}", style, mark="● ")
            case _:
                pass

    def _decided(self, decision: dict[str, Any]) -> None:
        what = decision.get("decision") or decision.get("outcome")
        who = f"by {decision.get('decided_by')}"
        if decision.get("policy"):
            who += f", {decision['policy']}"
        why = f": {decision['reason']}" if decision.get("reason") else ""
        self.note(
            one_line(f"{what} {who}, after {duration(decision.get('seconds') or 0.0)}{why}", 200), mark="= "
        )


def _object(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _text_of(params: dict[str, Any]) -> str:
    items = params.get("input")
    texts = (
        [_object(item).get("text") for item in cast("Iterable[Any]", items)]
        if isinstance(items, list)
        else []
    )
    return " ".join(text for text in texts if isinstance(text, str)) or "(no text)"
