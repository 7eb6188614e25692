"""The servers of a batch: one, several, or one for each attempt. They share a home and a journal."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, cast

import trio

from trio_codex import errors
from trio_codex.supervision._supervisor import supervise

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractAsyncContextManager

    from trio_codex.supervision import Supervisor
    from trio_codex.supervision._generations import Generations


class Servers:
    """The servers of one batch.

    Args:
        count: How many servers to start, or ``"per-task"``.
        generations: Creates the generations of a server.
        agree: Called with the settings that only a server knows, before anything runs on it.
    """

    def __init__(
        self,
        count: int | Literal["per-task"],
        generations: Callable[[], Generations],
        agree: Callable[[dict[str, str]], object],
    ) -> None:
        self._count: int | Literal["per-task"] = count
        self._generations = generations
        self._agree = agree
        self._busy: Counter[Supervisor] = Counter()

    @asynccontextmanager
    async def _start(self) -> AsyncGenerator[Supervisor]:
        """Start a server, and keep it alive for the duration of a scope.

        Raises:
            BatchConflict: The server's settings differ from those of an earlier run.
            CodexError: As in :func:`open_supervisor`.
        """
        async with supervise(self._generations()) as supervisor:
            self._agree(await _settings_of(supervisor))
            yield supervisor

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Keep the shared servers alive for the duration of a scope."""
        await trio.lowlevel.checkpoint()
        async with AsyncExitStack() as stack:
            for _ in range(self._count if isinstance(self._count, int) else 0):
                self._busy[await stack.enter_async_context(self._start())] = 0
            yield

    def one(self) -> AbstractAsyncContextManager[Supervisor]:
        """Return a scope that yields the server for an attempt: the one with the fewest attempts, or a new one."""
        return self._shared() if self._busy else self._start()

    @asynccontextmanager
    async def _shared(self) -> AsyncGenerator[Supervisor]:
        supervisor = min(self._busy, key=self._busy.__getitem__)
        self._busy[supervisor] += 1
        try:
            await trio.lowlevel.checkpoint()
            yield supervisor
        finally:
            self._busy[supervisor] -= 1


async def _settings_of(supervisor: Supervisor) -> dict[str, str]:
    """Return the settings that come from the configuration of a server."""
    while True:  # noqa: ASYNC913  # a request is a cancellation point
        with suppress(errors.ConnectionBroken):
            codex = await supervisor.ready()
            try:
                config = cast("Any", (await codex.api.config.read()).config)
            except (errors.RpcError, errors.DecodeError):
                return {}  # an older server, or a broken configuration, which the first thread will report
            return {"model": str(config.model), "model_provider": str(config.model_provider)}
