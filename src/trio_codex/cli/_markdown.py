"""Markdown that comes in pieces: what of it is final, and can be shown for good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.markdown import Heading, Markdown
from rich.text import Text
from rich.theme import Theme

from trio_codex.cli._text import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

THEME: Final = Theme(
    {
        # Rich's own have a background, or the centre of the screen, for what is part of a conversation.
        "markdown.code": "cyan",
        "markdown.h1": "bold",
        "markdown.h2": "bold",
        "markdown.h3": "bold",
    }
)


class _PlainHeading(Heading):
    """A heading on the left, like the text below it."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        yield self.text


class _ChatMarkdown(Markdown):
    elements = {**Markdown.elements, "heading_open": _PlainHeading}  # noqa: RUF012  # as its base class has it


def rendered(text: str) -> Markdown:
    """Make text of the agent something that is shown as Markdown.

    Args:
        text: It is not to be trusted with the terminal: links show where they lead, and controls are escaped.
    """
    return _ChatMarkdown(printable(text), code_theme="ansi_dark", hyperlinks=False)


class MarkdownStream:
    """Text of the agent that has come so far, without what was taken as final.

    Attributes:
        tail: What is not final: a paragraph, a list or a block of code that may go on.
    """

    def __init__(self) -> None:
        self.tail = ""

    def feed(self, piece: str) -> str:
        """Take a piece; give what is final by it, which may be nothing."""
        self.tail += piece
        # Only a new line can begin another block.
        return self._take(self._last_block_at()) if "\n" in piece else ""

    def finish(self) -> str:
        """Give the rest."""
        return self._take(len(self.tail))

    def _take(self, end: int) -> str:
        final, self.tail = self.tail[:end], self.tail[end:]
        return final

    def _last_block_at(self) -> int:
        starts = [token.map[0] for token in rendered(self.tail).parsed if token.level == 0 and token.map]
        lines = self.tail.split("\n")
        return sum(len(line) + 1 for line in lines[: starts[-1]]) if starts else 0


def rows_of(console: Console, options: ConsoleOptions, text: str) -> list[Text]:
    """Lay Markdown out in rows, without the blank ones around it, which depend on what it begins and ends with."""
    lines = console.render_lines(rendered(text), options, pad=False)
    rows = [
        Text.assemble(
            *((segment.text, segment.style or "") for segment in line), no_wrap=True, overflow="crop"
        )
        for line in lines
    ]
    for row in rows:
        row.rstrip()
    while rows and not rows[-1].plain.strip():
        rows.pop()
    while rows and not rows[0].plain.strip():
        del rows[0]
    return rows
