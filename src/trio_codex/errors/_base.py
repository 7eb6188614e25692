"""The base class of all errors, and helpers for short messages."""

from __future__ import annotations

import re
from typing import TypeVar, dataclass_transform

import attrs

_ErrorT = TypeVar("_ErrorT", bound=type[BaseException])


@dataclass_transform(eq_default=False, field_specifiers=(attrs.field,))
def error_class(cls: _ErrorT) -> _ErrorT:
    """Define an attrs exception. Its fields become ``args``, so it can be copied and pickled without extra code."""
    return attrs.define(auto_exc=True, slots=False, eq=False, repr=False)(cls)


MESSAGE_LIMIT = 500
"""Maximum length of a server message in ``str()``. One error message lists every known method in 5 kB."""


STDERR_LINES = 5
"""Lines of the server's stderr shown by ``str()``; ``stderr_tail`` has more."""


_FRAME = re.compile(r"(?i:stack backtrace:)|\s+\d+: |\s+at \S+:\d+")


def shorten(text: str, limit: int = MESSAGE_LIMIT) -> str:
    """Truncate ``text`` to ``limit`` characters and mark the cut."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def escaped_line(text: str) -> str:
    """Return text from the server on one line, with escapes in place of what could control a terminal or forge a log record."""
    line = " ".join(text.split())
    return line if line.isprintable() else "".join(map(_printable, line))


def _printable(char: str) -> str:
    return char if char.isprintable() else ascii(char)[1:-1]


def format_stderr(stderr_tail: str) -> str:
    """Return the last lines of stderr for a message, without the frames of a Rust backtrace.

    With ``RUST_BACKTRACE`` set, dozens of frames follow the line that says what is wrong.
    """
    lines = [line for line in stderr_tail.splitlines() if line.strip() and not _FRAME.match(line)]
    return "".join(f"\nstderr: {line}" for line in lines[-STDERR_LINES:])


class CodexError(Exception):
    """Base class of every exception raised by trio-codex."""

    def __repr__(self) -> str:
        # The fields may be large: a result contains all items of its turn.
        return f"{type(self).__name__}({str(self)!r})"


class FaceError(CodexError):
    """A client of :mod:`trio_codex.blocking` or :mod:`trio_codex.aio` cannot be used from here.

    It is raised in a forked process, in another event loop, and in a callback that the client waits for.
    """


class InternalError(CodexError):
    """A bug in trio-codex; please report it. The ``__cause__`` shows what happened."""


def describe_exit(returncode: int) -> str:
    """Describe how a process ended, such as ``"exit status 1"`` or ``"killed by SIGKILL"``."""
    if returncode >= 0:
        return f"exit status {returncode}"
    import signal

    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"killed by signal {-returncode}"
