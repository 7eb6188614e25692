"""The terminal of a chat: output scrolls above, and input stays in the last row. One reader, without a thread.

While a line is edited, the terminal's echo and line editing are off, and the row is redrawn with every output. A
question and Ctrl-Z temporarily restore the terminal's normal mode.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import sys
from collections import deque
from typing import TYPE_CHECKING, Final

import trio
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from trio_codex.cli._editor import END_OF_INPUT, LineEditor
from trio_codex.cli._markdown import THEME, MarkdownStream, rows_of
from trio_codex.cli._render import Screen
from trio_codex.cli._terminal import InputEndedError
from trio_codex.cli._text import printable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterable

    from rich.console import ConsoleOptions, RenderableType, RenderResult

REFRESH_SECONDS: Final = 0.1
"""Minimum interval between redraws of unfinished output."""

ROWS_BELOW: Final = 6
"""Rows that unfinished output leaves free: for the status, the input, and some earlier output."""

_PASTE_ON: Final = "\x1b[?2004h"
_PASTE_OFF: Final = "\x1b[?2004l"


class ChatScreen(Screen):
    """A screen with an input row. Needs a terminal on stdin and stdout.

    Attributes:
        underway: Returns the rows that show work in progress.
        status: Returns the status above the input row, if any.
        editor: The line being edited.
    """

    def __init__(self) -> None:
        super().__init__(stderr=False)
        self.live = True
        self.status: Callable[[], str | None] = lambda: None
        self.underway: Callable[[], Iterable[Text]] = tuple
        self.editor = LineEditor()
        self._terminal = sys.stdin.fileno()
        self._console.push_theme(THEME)
        self._prompt = Text("» ", "bold green")
        self._lines: deque[str] = deque()
        self._answer = MarkdownStream()
        self._reader = trio.Lock()
        self._reading = trio.CancelScope()
        self._region: Live | None = None

    # -- output ------------------------------------------------------------------------------------------------

    def end_line(self) -> None:
        """Show the rest of the answer."""
        self._show_answer(self._answer.finish())

    def note(self, text: Text | str, style: str = "", *, indent: int = 0, mark: Text | str = "") -> None:
        """Write a line above unfinished output."""
        self._write(text, style, indent, mark)

    def display(self, renderable: RenderableType) -> None:
        """Write several lines above unfinished output."""
        self._console.print(renderable)

    def stream(self, piece: str) -> None:
        """Add a delta of the answer, which is Markdown."""
        self._show_answer(self._answer.feed(piece))

    def _show_answer(self, text: str) -> None:
        if text.strip():
            self._console.print(Group(Text(), *rows_of(self._console, self._console.options, text)))

    def say(self, line: str) -> None:
        """Write an entered line to the scrollback."""
        self._console.print()
        self.note(Text(printable(line), "bold"), mark=self._prompt)

    async def redraw(self) -> None:
        """Redraw changes to the answer and the status until cancelled."""
        drawn = None
        while True:
            await trio.sleep(REFRESH_SECONDS)
            shown = (self._answer.tail, self.status(), *(row.plain for row in self.underway()))
            if shown != drawn:
                drawn = shown
                self.refresh()

    def refresh(self) -> None:
        """Redraw unfinished output."""
        if self._region is not None:
            self._region.refresh()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows: list[Text] = list(self.underway())
        if self._answer.tail.strip():
            room = max(1, options.size.height - ROWS_BELOW)
            rows += [Text(), *rows_of(console, options, self._answer.tail)[-room:]]
        rows.append(Text())
        if status := self.status():
            rows.append(Text(status, "dim", no_wrap=True, overflow="ellipsis"))
        # Keep the last column free: a terminal may wrap after it.
        typed = self.editor.shown(options.max_width - self._prompt.cell_len - 1)
        rows.append(Text(no_wrap=True, overflow="crop").append(self._prompt).append(typed))
        yield Group(*rows)

    # -- input -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def opened(self) -> Generator[None]:
        """Set up the terminal for the chat, and restore it afterwards."""
        self._take()
        try:
            yield
        finally:
            self.end_line()
            self._give_back()

    async def line(self, prompt: Text | None = None) -> str:
        """Wait for the user to enter a line. Cancellation loses no input.

        Args:
            prompt: The prompt.

        Raises:
            InputEndedError: Ctrl-D on an empty line, or the terminal is gone.
        """
        await trio.lowlevel.checkpoint()
        before = self._prompt
        self._prompt = prompt or before
        self.refresh()
        try:
            while not self._lines:
                await self._read()
        finally:
            self._prompt = before
        if (line := self._lines.popleft()) == END_OF_INPUT:
            raise InputEndedError
        return line

    async def _read(self) -> None:
        async with self._reader:
            # A question cancels this wait, and takes the lock next.
            with trio.CancelScope() as self._reading:
                await trio.lowlevel.wait_readable(self._terminal)
                try:
                    data = os.read(self._terminal, 4096)
                except OSError:
                    data = b""
                self._lines.extend(self.editor.feed(data) if data else [END_OF_INPUT])
                self.refresh()

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncGenerator[None]:
        """Hold the terminal for a question."""
        async with super().asking():
            self._reading.cancel()
            async with self._reader:
                self._give_back()
                try:
                    yield
                finally:
                    self._take()

    def suspend(self) -> None:
        """Stop the program on Ctrl-Z, and return when it continues. Meanwhile the terminal is the shell's."""
        is_taken = self._region is not None  # if not, a question has already given the terminal back
        if is_taken:
            self._give_back()
        # Not SIGSTOP: the system ignores this signal if no shell could continue the program.
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)
        if is_taken:
            self._take()

    def _take(self) -> None:
        import termios

        self._before = termios.tcgetattr(self._terminal)
        mode = termios.tcgetattr(self._terminal)
        mode[3] &= ~(termios.ICANON | termios.ECHO)
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self._terminal, termios.TCSADRAIN, mode)
        sys.stdout.write(_PASTE_ON)
        self._region = Live(
            self,
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._region.start(refresh=True)

    def _give_back(self) -> None:
        import termios

        region, self._region = self._region, None
        if region is not None:
            region.stop()
        with contextlib.suppress(OSError):  # the terminal may be gone
            sys.stdout.write(_PASTE_OFF)
            sys.stdout.flush()
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetattr(self._terminal, termios.TCSADRAIN, self._before)


def can_be_typed_on() -> bool:
    """Return whether stdin and stdout are a terminal that supports redrawing."""
    if importlib.util.find_spec("termios") is None:  # on Windows
        return False
    return sys.stdin.isatty() and sys.stdout.isatty() and not Console().is_dumb_terminal
