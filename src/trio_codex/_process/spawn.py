"""Start a server: under a guard process where possible, in a process group elsewhere."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Final

import trio

from trio_codex.errors import SpawnError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trio_codex._process.server import ServerProcess

_PYTHON_NAME: Final = re.compile(r"(?:python|pypy|graalpy)", re.IGNORECASE)


@trio.lowlevel.enable_ki_protection
def spawn_server(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str | os.PathLike[str] | None = None,
    guarded: bool | None = None,
    guard_python: str | None = None,
) -> ServerProcess:
    """Start a server; :meth:`ServerProcess.started` waits until it is running.

    Synchronous, so that no cancellation can occur between the call and a ``try``. The caller must call
    :meth:`ServerProcess.stop`.

    Args:
        argv: The command to run. A name without a slash is looked up on the ``PATH`` of ``env``.
        env: The complete environment: nothing is inherited or added.
        cwd: The working directory, or ``None`` for that of this process.
        guarded: Whether to use a guard process; ``None`` means where possible: on Linux, if an interpreter is found.
        guard_python: The interpreter that runs the guard; ``None`` for the one from :func:`find_guard_python`.

    Raises:
        SpawnError: The pipes or the guard could not be created, with an ``OSError`` as the cause.
        ValueError: ``argv`` is empty, or a string in it or in ``env`` cannot be passed to a program.
    """
    _check(argv, env, cwd, guard_python)
    python = guard_python or find_guard_python()
    if guarded is None:
        guarded = sys.platform == "linux" and python is not None
    if guarded:
        from trio_codex._process.guarded import GuardedProcess

        if python is None:
            raise SpawnError(
                "no Python interpreter found to run the guard process",
                phase="spawn",
                hint="Set guard_python to a Python interpreter, or guard=False.",
                binary=argv[0],
            )
        return GuardedProcess(argv, env, cwd, python)
    from trio_codex._process.group import GroupProcess

    return GroupProcess(argv, env, cwd)


def find_guard_python() -> str | None:
    """Return the running Python interpreter, or else another of the same installation; ``None`` if there is none.

    In a frozen program and in one that embeds Python, ``sys.executable`` is the program itself, which would run again
    instead of the guard.
    """
    own = sys.executable
    if own and not getattr(sys, "frozen", False) and _PYTHON_NAME.match(os.path.basename(own)):
        return own
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    candidates = (os.path.join(prefix, "bin", name) for prefix in (sys.exec_prefix, sys.base_exec_prefix))
    return next((path for path in candidates if os.access(path, os.X_OK)), None)


def _check(
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str | os.PathLike[str] | None,
    guard_python: str | None,
) -> None:
    if not argv or not argv[0]:
        raise ValueError("argv is empty")
    for what, texts in (
        ("an argument", argv),
        ("an environment variable", (*env, *env.values())),
        ("the working directory", (os.fspath(cwd or ""),)),
        ("guard_python", (guard_python or "",)),
    ):
        if any("\0" in text for text in texts):
            raise ValueError(f"{what} contains a NUL character")
        try:
            for text in texts:
                os.fsencode(text)
        except UnicodeEncodeError:
            # Not as the cause, because it quotes the value.
            raise ValueError(f"{what} contains a character that no program can receive") from None
    for name in env:
        if not name or "=" in name:
            raise ValueError(f"{name!r} cannot be the name of an environment variable")
