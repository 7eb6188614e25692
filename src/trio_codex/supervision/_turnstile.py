"""Admission of turns: any number of threads, one exclusive thread, or none during a drain."""

from __future__ import annotations

import trio


class Turnstile:
    """Admits turns, many concurrently or one exclusively. A drain or a waiting exclusive turn holds back later turns.

    Attributes:
        inside: The names of the threads with an open turn, in order of admission.
        alone: The name of the thread with the exclusive turn.
        drains: The number of active or waiting drains.
        is_closed: Whether nothing keeps a turn out, because the supervisor is closed and each turn fails.
    """

    def __init__(self) -> None:
        self.inside: list[str] = []
        self.alone: str | None = None
        self.drains: int = 0
        self.is_closed: bool = False
        self._loners = 0
        self._waiting = trio.lowlevel.ParkingLot()

    async def enter(  # noqa: ASYNC910  # an admitted turn has checkpoints, and an open turnstile must cost nothing
        self, name: str, *, nested: bool = False, alone: bool = False
    ) -> None:
        """Wait until a turn may start, and admit it. Call :meth:`leave` when it has ended.

        Args:
            name: The name of its thread.
            nested: Whether an open turn depends on it. Such a turn never waits, because that would deadlock.
            alone: Whether to wait until no other turn is open, and to admit no other turn until this one has ended.
        """
        if alone:
            await self._wait_alone()
            self.alone = name
        while (self.drains or self._loners) and not (nested or alone or self.is_closed):
            await self._waiting.park()
        self.inside.append(name)

    async def _wait_alone(self) -> None:
        self._loners += 1
        try:
            await trio.lowlevel.checkpoint()
            while (self.drains or self.inside) and not self.is_closed:
                await self._waiting.park()
        except BaseException:
            self._loners -= 1
            self._waiting.unpark_all()
            raise

    def leave(self, name: str) -> None:
        """Record that an admitted turn has ended."""
        self.inside.remove(name)
        if self.alone == name:
            self.alone = None
            self._loners -= 1
        self._waiting.unpark_all()

    async def close(self, patience: trio.CancelScope) -> None:
        """Admit no turn until :meth:`reopen`. Wait until none is open, or until the scope is cancelled."""
        self.drains += 1
        await trio.lowlevel.checkpoint()
        with patience:  # there may be nothing to wait for
            while self.inside:
                await self._waiting.park()

    def reopen(self) -> None:
        """Undo :meth:`close`."""
        self.drains -= 1
        self._waiting.unpark_all()

    def end(self) -> None:
        """Admit all turns from now on, so that those that wait fail."""
        self.is_closed = True
        self._waiting.unpark_all()
