"""Run the async function that implements a command, and describe what the operating system refuses."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import trio

from trio_codex.cli._startup import INTERRUPTED
from trio_codex.cli._text import CommandFailed, one_line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def execute(
    function: Callable[..., Awaitable[int]], *args: Any, interrupted: str = "interrupted", **kwargs: Any
) -> int:
    """Run an async function, and return the exit status that it returns.

    Args:
        function: The function.
        *args: Its positional arguments.
        interrupted: The message after Ctrl-C, if the function has none of its own.
        **kwargs: Its keyword arguments.

    Raises:
        CommandFailed: It was interrupted, or the operating system refused something.
    """

    async def main() -> int:
        return await function(*args, **kwargs)

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


def refusal(error: OSError) -> str:
    """Describe an ``OSError`` in one line, which is empty if the reader of the output has exited, as ``head`` does."""
    if error.errno == errno.EPIPE:
        return ""
    if error.filename is not None:
        return one_line(f"{error.filename}: {error.strerror}")
    if error.errno in (errno.ENOSPC, errno.EIO):
        return f"the output cannot be written: {error.strerror}"
    return one_line(error.strerror or str(error))
