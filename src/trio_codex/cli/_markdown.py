"""Streamed Markdown: determine which part is final and can be written to the scrollback."""

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
        # Rich's own headings have a background or are centered, which does not suit a conversation.
        "markdown.code": "cyan",
        "markdown.h1": "bold",
        "markdown.h2": "bold",
        "markdown.h3": "bold",
    }
)


class _PlainHeading(Heading):
    """A left-aligned heading."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        yield self.text


class _ChatMarkdown(Markdown):
    elements = {**Markdown.elements, "heading_open": _PlainHeading}  # noqa: RUF012  # as in its base class


def rendered(text: str) -> Markdown:
    """Render text from the agent as Markdown.

    Args:
        text: The text, which is not trusted: links show their targets, and control characters are escaped.
    """
    return _ChatMarkdown(printable(text), code_theme="ansi_dark", hyperlinks=False)


class MarkdownStream:
    """The agent's text so far, without the parts already returned as final.

    Attributes:
        tail: The unfinished part: a paragraph, a list or a code block that may continue.
    """

    def __init__(self) -> None:
        self.tail = ""

    def feed(self, piece: str) -> str:
        """Add a delta; return the text that it makes final, which may be empty."""
        self.tail += piece
        # Only a newline can begin another block.
        return self._take(self._last_block_at()) if "\n" in piece else ""

    def finish(self) -> str:
        """Return the rest."""
        return self._take(len(self.tail))

    def _take(self, end: int) -> str:
        final, self.tail = self.tail[:end], self.tail[end:]
        return final

    def _last_block_at(self) -> int:
        starts = [token.map[0] for token in rendered(self.tail).parsed if token.level == 0 and token.map]
        lines = self.tail.split("\n")
        return sum(len(line) + 1 for line in lines[: starts[-1]]) if starts else 0


def rows_of(console: Console, options: ConsoleOptions, text: str) -> list[Text]:
    """Lay out Markdown in rows, without leading and trailing blank rows, which depend on its first and last block."""
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
