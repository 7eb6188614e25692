"""Run the async function that implements a command, and describe what the operating system refuses."""

from __future__ import annotations

import contextlib
import errno
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import trio

from trio_codex.cli._startup import INTERRUPTED
from trio_codex.cli._text import CommandFailed, one_line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

ENDING: Final = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""The signals that cancel a command."""

REPEATED_SECONDS: Final = 1.0
"""Within this time, another signal is part of the first one: ``timeout`` and a terminal that closes send several."""

BY_SIGNAL: Final = 128
"""What shells add to the number of the signal that ended a program."""


def execute(
    function: Callable[..., Awaitable[int]], *args: Any, interrupted: str = "interrupted", **kwargs: Any
) -> int:
    """Run an async function, and return the exit status that it returns.

    SIGTERM and SIGHUP cancel it: its turn ends on the server, and the terminal is restored. Then the signal ends the
    program.

    Args:
        function: The function.
        *args: Its positional arguments.
        interrupted: The message after Ctrl-C, if the function has none of its own.
        **kwargs: Its keyword arguments.

    Raises:
        CommandFailed: It was interrupted, or the operating system refused something.
    """
    ended_by: list[int] = []

    async def main() -> int:
        with _cancelled_by_signals(ended_by):
            return await function(*args, **kwargs)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        signal.raise_signal(ended_by[0])
        return BY_SIGNAL + ended_by[0]  # for the first process of a container, which the signal does not end

    try:
        return trio.run(main)
    except KeyboardInterrupt:
        raise CommandFailed(interrupted, INTERRUPTED) from None
    except BaseExceptionGroup as group:
        # From a nursery of the user's function.
        if group.split(KeyboardInterrupt)[1] is not None:
            raise
        raise CommandFailed(interrupted, INTERRUPTED) from None
    except OSError as exc:
        # Flush here: on a broken pipe, click would exit itself and leave its own wrapper around stdout.
        raise CommandFailed(refusal(exc)) from exc


@contextlib.contextmanager
def _cancelled_by_signals(received: list[int]) -> Generator[None]:
    """Cancel the body when the program receives one of :data:`ENDING`, unless it is ignored, as under ``nohup``.

    A later signal ends the program immediately, even if its output is not read.
    """
    token = trio.lowlevel.current_trio_token()
    first_at = 0.0
    with trio.CancelScope() as scope:

        def cancel(number: int, frame: object) -> None:
            nonlocal first_at
            if not received:
                first_at = time.monotonic()
                received.append(number)
                token.run_sync_soon(scope.cancel)
            elif time.monotonic() > first_at + REPEATED_SECONDS:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)

        heeded = [number for number in ENDING if signal.getsignal(number) is signal.SIG_DFL]
        for number in heeded:
            signal.signal(number, cancel)
        try:
            yield
        finally:
            for number in heeded:
                signal.signal(number, signal.SIG_DFL)


def refusal(error: OSError) -> str:
    """Describe an ``OSError`` in one line, which is empty if the reader of the output has exited, as ``head`` does."""
    if error.errno == errno.EPIPE:
        return ""
    if error.filename is not None:
        return one_line(f"{error.filename}: {error.strerror}")
    if error.errno in (errno.ENOSPC, errno.EIO):
        return f"the output cannot be written: {error.strerror}"
    return one_line(error.strerror or str(error))
