"""Admission of turns: any number of threads, one exclusive thread, or none during a drain."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class Turnstile:
    """Admits turns, many concurrently or one exclusively. A drain or a waiting exclusive turn holds back later turns.

    Attributes:
        inside: The names of the threads with an open turn, in order of admission.
        alone: The name of the thread with the exclusive turn.
        drains: The number of active or waiting drains.
    """

    def __init__(self) -> None:
        self.inside: list[str] = []
        self.alone: str | None = None
        self.drains: int = 0
        self._loners = 0
        self._changed = trio.Event()

    @asynccontextmanager
    async def turn(self, name: str, *, nested: bool) -> AsyncGenerator[None]:
        """Admit a turn.

        Args:
            name: The name of its thread.
            nested: Whether an open turn depends on it. Such a turn never waits, because that would deadlock.
        """
        await trio.lowlevel.checkpoint()
        while (self.drains or self._loners) and not nested:
            await self._changed.wait()
        self.inside.append(name)
        try:
            yield
        finally:
            self._leave(name)

    @asynccontextmanager
    async def lone_turn(self, name: str) -> AsyncGenerator[None]:
        """Admit a turn once no other turn is open, and admit no others until it has ended."""
        self._loners += 1
        try:
            await trio.lowlevel.checkpoint()
            while self.drains or self.inside:
                await self._changed.wait()
            self.alone = name
            self.inside.append(name)
            try:
                yield
            finally:
                self.alone = None
                self._leave(name)
        finally:
            self._loners -= 1
            self._wake()

    @asynccontextmanager
    async def drain(self, patience: float) -> AsyncGenerator[None]:
        """Admit no turn until the body has ended. The body starts once no turn is open, or after a timeout."""
        try:
            await self.close(patience)
            yield
        finally:
            self.drains -= 1
            self._wake()

    async def close(self, patience: float) -> None:
        """Admit no more turns, and wait until none is open, or until a timeout."""
        self.drains += 1
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(patience):  # noqa: ASYNC912  # there may be nothing to wait for
            while self.inside:
                await self._changed.wait()

    def _leave(self, name: str) -> None:
        self.inside.remove(name)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
