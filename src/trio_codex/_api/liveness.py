"""Detect a server that is stuck. Time during which this program was blocked never counts against it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from trio_codex.errors import RequestTimeout, RpcError

if TYPE_CHECKING:
    from trio_codex._session.session import Session

SAMPLES: Final = 10
"""Number of samples per silence. A silence is detected at most one sample late."""

QUESTION: Final = "thread/loaded/list"
"""A request that every server answers immediately."""


async def wait_unresponsive(session: Session, silence: float, within: float, failures: int) -> None:
    """Wait until a server is unresponsive. See :meth:`Codex.wait_unresponsive`."""
    failed = 0
    await trio.lowlevel.checkpoint()
    while failed < failures:
        if not failed:
            await _wait_silent(session, silence)
        failed = 0 if await _responds(session, within) else failed + 1


async def _wait_silent(session: Session, seconds: float) -> None:
    timeouts = session.timeouts
    silent = 0
    await trio.lowlevel.checkpoint()
    while silent < SAMPLES:
        reads = timeouts.reads
        await session.connection.sleep(seconds / SAMPLES)
        silent = silent + 1 if timeouts.reads == reads else 0


async def _responds(session: Session, within: float) -> bool:
    """Send a request; return whether the server sent anything."""
    reads = session.timeouts.reads
    with session.timeouts.move_on_after(within):
        try:
            await session.server.request_json(QUESTION, {"limit": 1})
        except (RequestTimeout, RpcError):
            await trio.lowlevel.checkpoint()
    return session.timeouts.reads != reads
