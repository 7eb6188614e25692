"""Show what ``chat`` displays of a turn in addition to ``run``: live command output, diffs, and token usage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs
from rich.text import Text

from trio_codex import TurnStatus, wire
from trio_codex.cli._render import Progress, Screen, clipped, duration, show_diff, tokens

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

    from trio_codex import Event, Thread, TurnResult

COMMAND_LINES: Final = 20
"""How many lines of a command's output to keep: the last ones, where the error usually is."""

RUNNING_LINES: Final = 6
"""How many of these lines to show while the command runs."""


class ChatProgress(Progress):
    """Shows the events of one turn of a chat.

    Args:
        screen: The screen to show them on.
        cwd: The directory that paths are shown relative to.
        thread: The thread of the turn.
        diffs_seen: The items whose changes were shown with a question.

    Attributes:
        messages: The user's messages that have reached the agent.
    """

    def __init__(self, screen: Screen, cwd: str, thread: Thread, diffs_seen: Container[str]) -> None:
        super().__init__(screen, cwd)
        self._thread = thread
        self._diffs_seen = diffs_seen
        self._outputs: dict[str, str] = {}
        self.messages: list[str] = []

    def show(self, event: Event) -> None:
        """Show an event, if it is relevant."""
        match event.params:
            case wire.CommandExecutionOutputDeltaNotification(item_id=item_id, delta=delta):
                self._outputs[item_id] = self._outputs.get(item_id, "") + delta
            case wire.ItemCompletedNotification(item=wire.UserMessageThreadItem(content=content)):
                self.messages.append(text_of(content))
            case _:
                super().show(event)

    def numbers(self, result: TurnResult) -> str:
        """Show the token usage of the turn and of the thread so far."""
        parts: list[str] = []
        if result.turn_usage is not None:
            parts.append(tokens(result.turn_usage))
            if self._thread.usage not in (None, result.turn_usage):
                total = self._thread.usage
                parts.append(f"in total: {total.input_tokens or 0:,} in, {total.output_tokens or 0:,} out")
        if result.duration_ms is not None and result.status == TurnStatus.completed:
            parts.append(duration(result.duration_ms / 1000))
        return " · ".join(parts)

    def underway(self) -> Iterator[Text]:
        """Return the last lines of running commands. The server reports their output only some time after they start."""
        for output in self._outputs.values():
            for line in lines_of(output)[-RUNNING_LINES:]:
                yield Text(f"  │ {line}", "dim", no_wrap=True, overflow="ellipsis")

    def finish(self, result: TurnResult) -> None:
        """Write the rest of the turn."""
        for output in self._outputs.values():
            self._show_output(output)
        self._outputs.clear()
        super().finish(result)

    def _command_ended(self, item: wire.CommandExecutionThreadItem) -> None:
        # The complete output; the streamed output lacks the beginning.
        streamed = self._outputs.pop(item.id, "")
        self._show_output(item.aggregated_output or streamed)
        super()._command_ended(attrs.evolve(item, aggregated_output=None))

    def _show_output(self, output: str) -> None:
        lines = lines_of(output)
        if len(lines) > COMMAND_LINES:
            self._screen.note(f"… {len(lines) - COMMAND_LINES} lines", "dim", indent=2)
        for line in lines[-COMMAND_LINES:]:
            self._screen.note(line, "dim", indent=2, mark=Text("│ ", "dim"))

    def _files_changed(self, item: wire.FileChangeThreadItem) -> None:
        super()._files_changed(item)
        if item.id not in self._diffs_seen and item.status == wire.PatchApplyStatus.completed:
            for change in item.changes:
                show_diff(self._screen, change)


def lines_of(output: str) -> list[str]:
    """Return the printable lines of a command's output, with only the last version of overwritten text."""
    lines = output.removesuffix("\n").split("\n") if output else []
    return [clipped(line.rstrip("\r").rpartition("\r")[2]) for line in lines]


def text_of(content: Sequence[wire.UserInput]) -> str:
    """Return the text of a user message, without attachments."""
    return "\n".join(part.text for part in content if isinstance(part, wire.TextUserInput))
