"""One first start at a time on a fresh ``CODEX_HOME``.

Servers that create the state databases of one home at the same moment fail ("failed to initialize sqlite state
runtime"): of 48, 4 survived. So a start on a home without them holds a lock until its server has answered; the others
wait for it. The lock is an ``flock`` on the home directory itself: it leaves no file, holds between processes, and ends
with whoever held it.
"""

from __future__ import annotations

import contextlib
import os
import random
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

STATE_PATTERN: Final = "state_*.sqlite"
"""The database that the server creates among the first; the number in its name grows with its schema."""

POLL_SECONDS: Final = 0.01
"""Mean time between two tries for the lock, next to 120 ms for a first start. To wait inside ``flock`` would need a
thread."""


@contextlib.asynccontextmanager
async def start_gate(codex_home: Path) -> AsyncGenerator[None, None]:
    """Hold the body back while another first start on ``codex_home`` is under way.

    The body is to start a server and return once that has answered ``initialize``. On a home that has its databases the
    body runs at once, and side by side with others. Where there is no lock to be had (no such directory, no ``flock``,
    a file system without it), too: the server itself tells what is wrong.

    A checkpoint; it waits as long as the other start does, so a deadline is the caller's.

    Args:
        codex_home: The directory that holds the databases: ``CODEX_SQLITE_HOME`` where that is set.
    """
    lock = await _acquire(codex_home)
    try:
        yield
    finally:
        _release(lock)
    await trio.lowlevel.checkpoint()


async def _acquire(home: Path) -> int | None:
    """Return the descriptor that holds the lock, or ``None`` if none is needed, or to be had."""
    await trio.lowlevel.checkpoint()
    try:
        import fcntl

        fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    except (ImportError, AttributeError, OSError):
        return None
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # Spread out, or they would all try at the same moments.
                await trio.sleep(POLL_SECONDS * random.uniform(0.5, 1.5))
            except OSError:  # NFS and others do not lock directories
                _release(fd)
                return None
            else:
                break
    except BaseException:
        os.close(fd)
        raise
    # Only now: while somebody else holds the lock, the database may be there but not be ready.
    if _has_state(home):
        _release(fd)
        return None
    return fd


def _has_state(home: Path) -> bool:
    try:
        return next(home.glob(STATE_PATTERN), None) is not None
    except OSError:  # no descriptor is left, say: the start will tell what is wrong
        return False


def _release(fd: int | None) -> None:
    if fd is not None:
        import fcntl

        # By hand, because a forked copy of this process, if there is one, keeps the descriptor open.
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)
