"""Find the user's terminal, and read lines from it without a thread."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

import trio
from rich.text import Text

from trio_codex.cli._text import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Generator

    from trio_codex.cli._render import Screen


class InputEndedError(Exception):
    """The input has ended, so no user can answer."""


class Terminal:
    """Prompts for lines on the screen, and reads them.

    Args:
        screen: The screen to prompt on.
        descriptor: The descriptor to read answers from.
    """

    def __init__(self, screen: Screen, descriptor: int) -> None:
        self._screen = screen
        self._descriptor = descriptor

    def drop_typed_ahead(self) -> None:
        """Discard input typed before the question was shown: it is not an answer to it."""
        try:
            import termios
        except ImportError:  # not on Windows
            return
        with contextlib.suppress(OSError, termios.error):
            termios.tcflush(self._descriptor, termios.TCIFLUSH)

    async def line(self, prompt: Text, *, secret: bool = False) -> str:
        """Prompt for a line; return it without surrounding whitespace.

        Args:
            prompt: The prompt.
            secret: Whether to hide the input.

        Raises:
            InputEndedError: The input has ended.
        """
        with _echo_off(self._descriptor) if secret else contextlib.nullcontext():
            self._screen.prompt(prompt)
            line = await read_line(self._descriptor)
        if secret or line is None:
            self._screen.note("")
        if line is None:
            raise InputEndedError
        return line.strip()


class StdinLines:
    """Lines from stdin, which may be a pipe, a file, or a terminal whose output goes elsewhere.

    Args:
        screen: The screen to prompt on, if stdin is a terminal.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._descriptor = sys.stdin.fileno()
        self._unread = bytearray()
        self._has_ended = False
        self.typed = sys.stdin.isatty()

    async def line(self, prompt: Text | None = None) -> str:
        """Return the next line.

        Raises:
            InputEndedError: There are no more lines.
        """
        await trio.lowlevel.checkpoint()
        if self.typed:
            self._screen.prompt(prompt or Text("» "))
        while b"\n" not in self._unread and not self._has_ended:
            await self._read()
        line, _, self._unread = self._unread.partition(b"\n")
        if not line and not self._unread and self._has_ended:
            raise InputEndedError
        return line.decode("utf-8", "replace")

    async def _read(self) -> None:
        try:
            await trio.lowlevel.wait_readable(self._descriptor)
        except PermissionError:  # a file: always readable, and not supported by epoll
            await trio.lowlevel.checkpoint()
        try:
            chunk = os.read(self._descriptor, 65536)
        except OSError as exc:
            raise CommandFailed(f"stdin cannot be read: {exc.strerror}") from exc
        self._unread += chunk
        self._has_ended = not chunk


def find_terminal() -> int | None:
    """Find a descriptor to read answers from: stdin, or the controlling terminal if the prompt came through a pipe.

    Returns ``None`` if the user would not see the questions.
    """
    if not sys.stderr.isatty():
        return None
    if sys.stdin.isatty():
        return sys.stdin.fileno()
    try:
        return os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, AttributeError):
        return None


async def read_line(terminal: int) -> str | None:
    """Read a line without a thread; ``None`` at the end of input. Cancel-safe between lines."""
    line = bytearray()
    while True:
        await trio.lowlevel.wait_readable(terminal)
        try:
            chunk = os.read(terminal, 4096)
        except OSError:
            return None
        line += chunk
        if not chunk:
            return None
        if chunk.endswith(b"\n"):
            return line.decode("utf-8", "replace")


@contextlib.contextmanager
def _echo_off(terminal: int) -> Generator[None]:
    import termios

    before = termios.tcgetattr(terminal)
    silent = list(before)
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
