"""Who may have an open turn: any number of threads, or one alone, or nobody during a drain."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class Turnstile:
    """Admits turns, many side by side or one alone. A drain, and whoever waits to be alone, keep out later ones.

    Attributes:
        inside: The names of the threads with an open turn, in order of admission.
        alone: The name of the thread whose turn is the only one.
        drains: How many drains go on or wait.
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
            nested: Whether a turn that is already open waits for it. Such a turn never waits, or both would for ever.
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
        """Admit a turn once no other one is open, and admit no other one until it has ended."""
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
        """Admit no turn until the body has ended. The body begins once no turn is open, or some seconds have passed."""
        try:
            await self.close(patience)
            yield
        finally:
            self.drains -= 1
            self._wake()

    async def close(self, patience: float) -> None:
        """Admit no turn from now on, and wait until none is open, or some seconds have passed."""
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
