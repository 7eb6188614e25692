"""Show a turn in ``run``: progress on stderr, the answer on stdout.

Tracks both streams and the cursor position. The lock of :class:`Screen` keeps everything else from writing while a
question is open.
"""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import trio
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trio_codex import TurnStatus, wire
from trio_codex.cli._text import ESCAPE_SEQUENCE, one_line, printable, script_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from rich.console import RenderableType

    from trio_codex import Event, TokenUsage, TurnResult

OUTPUT_LINES: Final = 5
"""How many lines of a failed command's output to show: the last ones, where the error usually is."""

REASONING_LIMIT: Final = 160
"""Maximum number of characters of a reasoning summary: enough for its headline."""

DIFF_LINES: Final = 40
"""How many lines of a file change to show."""

WIDTH: Final = 200
"""Width of a table, in columns, if there is no terminal."""

DIFF_STYLES: Final = {"+": "green", "-": "red", "@": "cyan"}
PLAN_MARKS: Final = {"completed": ("✓", "green"), "inProgress": ("▸", "yellow"), "pending": ("·", "dim")}


class OutputConsole(Console):
    """A console that raises an error on a broken pipe instead of exiting silently, and always has a width."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if not self.width:
            # In the variable COLUMNS, 0 means that the width is unknown, as in a container without a terminal.
            self.width = shutil.get_terminal_size().columns

    def on_broken_pipe(self) -> None:
        """Reraise the exception; rich calls this in its handler."""
        raise

    def print_after(self, start: Text, text: Text) -> None:
        """Print ``text`` after ``start``. On a terminal it is wrapped between words, and indented to match.

        A word that is longer than a line is left to the terminal to wrap, so that a path can be copied from there.
        """
        indent = Text(" " * start.cell_len)
        first, *rest = text.split(" ", allow_blank=True)
        line = start + first
        for word in rest:
            if not self.is_terminal or line.cell_len + 1 + word.cell_len <= self.width:
                line = line + " " + word
            else:
                self.print(line, soft_wrap=True)
                line = indent + word
        self.print(line, soft_wrap=True)


class Screen:
    """Stdout for the answer and stderr for everything else; both may be the same terminal.

    Args:
        stderr: Whether everything else goes to stderr; if false, everything goes to stdout.

    Attributes:
        lock: Held while a question is open; other tasks wait with :meth:`free`.
        live: Whether stdout is a terminal, so that the answer can be shown as it is streamed.
    """

    def __init__(self, *, stderr: bool = True) -> None:
        self.lock = trio.Lock()
        self.live = sys.stdout.isatty()
        self._console = OutputConsole(stderr=stderr, highlight=False, markup=False, emoji=False)
        if not self._console.is_terminal:
            self._console.width = max(WIDTH, self._console.width)
        self._is_mid_line = False

    async def free(self) -> None:
        """Wait until no question is open."""
        if self.lock.locked():
            async with self.lock:
                pass
        else:
            await trio.lowlevel.checkpoint_if_cancelled()

    @asynccontextmanager
    async def asking(self) -> AsyncGenerator[None]:
        """Hold the screen and its input for a question."""
        async with self.lock:
            yield

    def note(self, text: Text | str, style: str = "", *, indent: int = 0, mark: Text | str = "") -> None:
        """Write a line on stderr after ``mark``; on a terminal, wrapped lines are indented to match.

        A ``str`` is made printable; a ``Text`` must already be.
        """
        self.end_line()
        self._write(text, style, indent, mark)

    def _write(self, text: Text | str, style: str, indent: int, mark: Text | str) -> None:
        line = Text(printable(text), style) if isinstance(text, str) else text
        start = Text(" " * indent) + (Text(mark, style) if isinstance(mark, str) else mark)
        if self._console.is_terminal and start:
            grid = Table.grid()
            grid.add_column(no_wrap=True)
            grid.add_column(overflow="fold")
            grid.add_row(start, line)
            self._console.print(grid)
        else:
            # In a log file, lines are not wrapped.
            self._console.print(start + line, soft_wrap=not self._console.is_terminal)

    def display(self, renderable: RenderableType) -> None:
        """Write several lines with their own layout."""
        self.end_line()
        self._console.print(renderable)

    @property
    def width(self) -> int:
        """The number of columns; a sufficient default if there is no terminal."""
        return self._console.width

    def prompt(self, text: Text) -> None:
        """Write a prompt on stderr."""
        self.end_line()
        self._console.print(text, end="", soft_wrap=True)

    def stream(self, piece: str) -> None:
        """Write a delta of the answer on stdout."""
        text = printable(piece) if self.live else piece
        if text:
            sys.stdout.write(text)
            sys.stdout.flush()
            self._is_mid_line = not text.endswith("\n")

    def end_line(self) -> None:
        """Start a new line if the answer has left the cursor within one."""
        if self._is_mid_line:
            self._is_mid_line = False
            sys.stdout.write("\n")
            sys.stdout.flush()


class Progress:
    """Shows the events of one turn.

    The agent's messages go to stdout as they are streamed. Those that the model marks as commentary count as progress,
    and so does what follows the final answer.

    Args:
        screen: The screen to show them on.
        cwd: The directory that paths are shown relative to.
        only_final: Whether stdout receives only the final response, at the end of the turn.
    """

    def __init__(self, screen: Screen, cwd: str, *, only_final: bool = False) -> None:
        self._screen = screen
        self._cwd = cwd
        self._streams = not only_final
        self._is_answered = False
        self._warned: str | None = None
        self._asides: set[str] = set()
        self._streamed: dict[str, str] = {}
        self._held: wire.AgentMessageThreadItem | None = None
        self._last_command: str | None = None

    def show(self, event: Event) -> None:
        """Show an event, if it is relevant."""
        match event.params:
            case wire.AgentMessageDeltaNotification(item_id=item_id, delta=delta):
                if self._streams and item_id not in self._asides:
                    self._stream(item_id, delta)
            case wire.ItemStartedNotification(item=item):
                self._started(item)
            case wire.ItemCompletedNotification(item=item):
                self._completed(item)
            case wire.TurnPlanUpdatedNotification(plan=plan, explanation=explanation):
                self._plan(plan, explanation)
            case wire.ErrorNotification(error=error, will_retry=True):
                self._warn(error.message)
            case wire.ModelReroutedNotification(to_model=model):
                self._warn(f"the server switched to the model {model}")
            case wire.WarningNotification(message=message):
                self._warn(message)
            case _:
                pass

    def finish(self, result: TurnResult) -> None:
        """Write the answer, or the rest of it, and the token usage."""
        answer = result.final_response
        if self._held is not None and self._held.text != answer:
            self._aside(self._held.text)
        if answer is not None and answer not in self._streamed.values():
            self._screen.end_line()
            self._screen.stream(answer)
        self._screen.end_line()
        numbers = self.numbers(result)
        if numbers:
            self._screen.note(numbers, "dim")

    def numbers(self, result: TurnResult) -> str:
        """Format the token usage of the turn, and the duration of one that was not cut short."""
        parts: list[str] = []
        if result.usage is not None:
            parts.append(tokens(result.usage.total))
        if result.duration_ms is not None and result.status == TurnStatus.completed:
            parts.append(duration(result.duration_ms / 1000))
        return " · ".join(parts)

    def _warn(self, message: str) -> None:
        # The server repeats "waiting for network" for as long as it waits.
        if message != self._warned:
            self._screen.note(one_line(message), "yellow", mark="! ")
            self._warned = message

    def _tool(self, what: str) -> None:
        self._screen.note(one_line(what, 200), "cyan", mark="→ ")

    def _started(self, item: wire.ThreadItem) -> None:
        match item:
            case wire.AgentMessageThreadItem(id=item_id, phase=phase):
                if phase == "commentary" or (self._is_answered and phase != "final_answer"):
                    self._asides.add(item_id)
                self._is_answered = self._is_answered or phase == "final_answer"
            case wire.CommandExecutionThreadItem(id=item_id, command=command):
                self._screen.note(_command_line(command), mark=Text("$ ", "bold blue"))
                self._last_command = item_id
            case wire.McpToolCallThreadItem(server=server, tool=tool):
                self._tool(f"{server}.{tool}")
            case wire.DynamicToolCallThreadItem(tool=tool):
                self._tool(tool)
            case wire.CollabAgentToolCallThreadItem(tool=tool, prompt=prompt):
                self._tool(f"agent: {tool} {prompt or ''}")
            case wire.ContextCompactionThreadItem():
                self._tool("compacting the conversation")
            case _:
                pass

    def _completed(self, item: wire.ThreadItem) -> None:
        match item:
            case wire.AgentMessageThreadItem():
                self._message(item)
            case wire.CommandExecutionThreadItem():
                self._command_ended(item)
            case wire.FileChangeThreadItem():
                self._files_changed(item)
            case wire.ReasoningThreadItem(summary=summary) if summary:
                headline = one_line(" ".join(summary).replace("**", ""), REASONING_LIMIT)
                self._screen.note(headline, "dim italic", mark="∙ ")
            case wire.McpToolCallThreadItem(server=server, tool=tool, error=error) if error is not None:
                self._screen.note(one_line(f"{server}.{tool}: {error.message}"), "red", indent=2, mark="✗ ")
            case wire.WebSearchThreadItem(query=query) if query:
                self._tool(f"web search: {query}")
            case _:
                pass

    def _message(self, item: wire.AgentMessageThreadItem) -> None:
        if item.id in self._asides:
            self._aside(item.text)
        elif self._streams:
            streamed = self._streamed.get(item.id, "")
            if item.text.startswith(streamed):
                self._stream(item.id, item.text[len(streamed) :])
            self._screen.end_line()
        elif self._held is not None and self._held.phase == "final_answer" != item.phase:
            self._aside(item.text)
        else:
            if self._held is not None:
                self._aside(self._held.text)
            self._held = item

    def _stream(self, item_id: str, piece: str) -> None:
        if item_id not in self._streamed:
            self._screen.end_line()
            if self._screen.live or self._streamed:
                self._screen.stream("\n")
        self._streamed[item_id] = self._streamed.get(item_id, "") + piece
        self._screen.stream(piece)

    def _aside(self, text: str) -> None:
        self._screen.note(printable(text.strip()), "dim", mark="“ ")

    def _command_ended(self, item: wire.CommandExecutionThreadItem) -> None:
        name = "" if item.id == self._last_command else f"{one_line(script_of(item.command), 40)}: "
        self._last_command = None
        took = "" if item.duration_ms is None else f" · {duration(item.duration_ms / 1000)}"
        match str(item.status):
            case "completed" if item.exit_code in (0, None):
                self._screen.note(f"{name}✓{took}", "dim green", indent=2)
            case "declined":
                self._screen.note(f"{name}declined", "yellow", indent=2)
            case status:
                how = status if item.exit_code is None else f"exit {item.exit_code}"
                self._screen.note(f"{name}✗ {how}{took}", "red", indent=2)
                for line in (item.aggregated_output or "").splitlines()[-OUTPUT_LINES:]:
                    self._screen.note(clipped(line), "dim", indent=2, mark="│ ")

    def _files_changed(self, item: wire.FileChangeThreadItem) -> None:
        for change in item.changes:
            line = _change_line(change, str(item.status), self._cwd)
            self._screen.note(line, mark=Text("± ", "bold blue"))

    def _plan(self, plan: Iterable[wire.TurnPlanStep], explanation: str | None) -> None:
        self._screen.note(f"plan  {one_line(explanation, 100) if explanation else ''}".rstrip(), "bold")
        for step in plan:
            mark, style = PLAN_MARKS.get(str(step.status), ("?", ""))
            self._screen.note(one_line(step.step, 120), style, indent=2, mark=f"{mark} ")


def _command_line(command: str) -> Text:
    lines = script_of(command).strip().splitlines() or [""]
    more = f"  (+{len(lines) - 1} lines)" if len(lines) > 1 else ""
    return Text.assemble((one_line(lines[0], 200), "bold"), (more, "dim"))


def _change_line(change: wire.FileUpdateChange, status: str, cwd: str) -> Text:
    line = Text.assemble(f"{verb(change)} ", (relative(change.path, cwd), "bold"), *tally(change))
    if status != "completed":
        line.append(f"  {status}", "yellow")
    return line


def clipped(line: str, limit: int = 200) -> str:
    """Return a printable line of a command's output."""
    text = printable(ESCAPE_SEQUENCE.sub("", line.rstrip()))
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def relative(path: str, cwd: str) -> str:
    """Return a printable path, relative to ``cwd`` if it is below it and ``cwd`` is not empty."""
    inside = cwd != "" and path.startswith(cwd.rstrip(os.sep) + os.sep)
    shown = os.path.relpath(path, cwd) if inside else path
    return printable(shown, strict=True).replace("\n", "\\x0a")


def verb(change: wire.FileUpdateChange) -> str:
    """Return the verb for a file change."""
    match change.kind:
        case wire.AddPatchChangeKind():
            return "add"
        case wire.DeletePatchChangeKind():
            return "delete"
        case wire.UpdatePatchChangeKind(move_path=str()):
            return "move"
        case _:
            return "edit"


def diff_lines(change: wire.FileUpdateChange) -> list[str]:
    """Return the lines of a change with their signs; for new and deleted files the server sends the bare content."""
    # Not splitlines(), which splits at characters that a terminal may not treat as line breaks.
    lines = change.diff.removesuffix("\n").split("\n")
    match change.kind:
        case wire.AddPatchChangeKind():
            return [f"+{line}" for line in lines]
        case wire.DeletePatchChangeKind():
            return [f"-{line}" for line in lines]
        case _:
            return [line for line in lines if not line.startswith(("--- ", "+++ "))]


def show_diff(screen: Screen, change: wire.FileUpdateChange) -> None:
    """Show the lines of a change in color, truncating long ones."""
    lines = diff_lines(change)
    for line in lines[:DIFF_LINES]:
        screen.note(clipped(line), DIFF_STYLES.get(line[:1], "dim"), indent=2)
    if len(lines) > DIFF_LINES:
        screen.note(f"… {len(lines) - DIFF_LINES} more lines", "dim", indent=2)


def tally(change: wire.FileUpdateChange) -> tuple[tuple[str, str], tuple[str, str]]:
    """Format the numbers of added and removed lines."""
    signs = [line[:1] for line in diff_lines(change)]
    return (f"  +{signs.count('+')}", "green"), (f" -{signs.count('-')}", "red")


def duration(seconds: float) -> str:
    """Format a duration: ``12 ms``, ``3.4 s``, ``2 min 5 s``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def tokens(usage: TokenUsage | wire.TokenUsageBreakdown) -> str:
    """Format a number of tokens."""
    cached = f" ({usage.cached_input_tokens:,} cached)" if usage.cached_input_tokens else ""
    return f"tokens: {usage.input_tokens or 0:,} in{cached}, {usage.output_tokens or 0:,} out"
