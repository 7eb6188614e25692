"""Serialize the first starts on a fresh ``CODEX_HOME``.

If several servers create the databases of one home at the same time, most of them fail ("failed to initialize sqlite state
runtime"); of 48 started at once, 4 survived. So a start on a home without databases holds a lock until its server has
answered. The lock is an ``flock`` on the home directory itself: it leaves no file behind, works between processes, and is
released when its holder dies.
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
"""One of the first databases that the server creates. The number in its name is the version of its schema."""

POLL_SECONDS: Final = 0.01
"""Mean interval between attempts to acquire the lock. A first start takes 120 ms. A blocking ``flock`` would need a
thread."""


@contextlib.asynccontextmanager
async def start_gate(codex_home: Path) -> AsyncGenerator[None, None]:
    """Run the body once no other first start on ``codex_home`` is in progress.

    The body should start a server and return once the server has answered ``initialize``. If the home already has
    databases, it runs immediately, and concurrently with others. The same applies if locking is impossible because the
    directory does not exist or the platform or file system lacks ``flock``; the server then reports any problem.

    This is a checkpoint. It waits for as long as the other start takes; the caller sets the timeout.

    ``codex_home`` is the directory of the databases: ``CODEX_SQLITE_HOME`` if that is set.
    """
    lock = await _acquire(codex_home)
    try:
        yield
    finally:
        _release(lock)
    await trio.lowlevel.checkpoint()


async def _acquire(home: Path) -> int | None:
    """Return the descriptor that holds the lock; ``None`` if it is not needed or not available."""
    await trio.lowlevel.checkpoint()
    try:
        import fcntl

        fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    except (ImportError, AttributeError, OSError, ValueError):  # ValueError: no path can have this name
        return None
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # Randomized, so that waiting clients do not all try at the same time.
                await trio.sleep(POLL_SECONDS * random.uniform(0.5, 1.5))
            except OSError:  # NFS and others do not lock directories
                _release(fd)
                return None
            else:
                break
    except BaseException:
        os.close(fd)
        raise
    # Check only with the lock held: before that, the database may exist without being ready.
    if _has_state(home):
        _release(fd)
        return None
    return fd


def _has_state(home: Path) -> bool:
    try:
        return next(home.glob(STATE_PATTERN), None) is not None
    except OSError:  # for example, no descriptor is free; the start will report the problem
        return False


def _release(fd: int | None) -> None:
    if fd is not None:
        import fcntl

        # Unlock explicitly, because a forked copy of this process may keep the descriptor open.
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)
