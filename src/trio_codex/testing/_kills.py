"""Kill the server of a supervisor at each of its steps in turn."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs
import trio

from trio_codex import Codex, CodexConfig
from trio_codex._api.lifecycle import ClientLifecycle
from trio_codex._link.channel import LineChannel
from trio_codex._link.services import open_services
from trio_codex.supervision import Restart, Supervisor
from trio_codex.supervision._generations import Generations
from trio_codex.supervision._journal import Journal
from trio_codex.supervision._scope import with_task

from ._stored_server import Died, Disk, StoredServer

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Awaitable, Callable


class Kills:
    """Kills a server at certain steps. A sweep passes an instance to its scenario, which opens its supervisors with it.

    Attributes:
        numbers: The steps at which the server dies, counted over all generations, starting at 1.
        steps: The steps so far, each described in a few words.
        killed: The steps at which the server died.
    """

    def __init__(self, *numbers: int) -> None:
        self.numbers: frozenset[int] = frozenset(numbers)
        self.steps: list[str] = []
        self.killed: list[str] = []
        self._disk = Disk()
        self._is_armed = False

    def _step(self, what: str) -> None:
        if not self._is_armed:
            return
        self.steps.append(what)
        if len(self.steps) in self.numbers:
            self.killed.append(what)
            raise Died

    @asynccontextmanager
    async def supervisor(
        self, *, journal: str | os.PathLike[str] | None = None, restart: Restart | None = None, **options: Any
    ) -> AsyncGenerator[Supervisor]:
        """Open a supervisor of an in-memory server, whose threads outlive both the server and the supervisor.

        Args:
            journal: As in :func:`~trio_codex.supervision.open_supervisor`.
            restart: As there.
            **options: ``policy``, ``tools``, ``budget`` and ``instruments``, as there.
        """
        opened = Journal(journal)
        try:
            budget = options.pop("budget", None)
            generations = _Generations(self, options, budget, restart or Restart(), opened)
            async with with_task(generations.serve, generations.close):
                await generations.wait_ready()
                yield Supervisor(generations)
        finally:
            opened.close()

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncGenerator[Codex]:
        """Start one server in memory, and connect a client that owns it."""
        server = StoredServer(self._disk, self._step)
        async with with_task(server.serve):
            lifecycle = ClientLifecycle(CodexConfig(), **options)
            async with open_services(lifecycle.close_with) as services:
                session = await lifecycle.use(services, _OwnedChannel(server))
                # The first start must succeed.
                self._is_armed = True
                yield Codex(session, lifecycle)

    def prompts(self) -> Counter[str]:
        """Return how often each text appears in the contexts of all threads together."""
        turns = [turn for thread in self._disk.threads.values() for turn in thread]
        return Counter(turn.context for turn in turns if turn.context is not None)

    def calls(self) -> Counter[str]:
        """Return how many turns with each text have called the model."""
        return Counter(context[-1] for context in self._disk.called)

    def assert_at_most_once(self, *texts: str) -> None:
        """Check that each prompt appears once in a context, and that the model was called for at most one turn with it.

        Raises:
            AssertionError: A prompt is missing or duplicated, or the model was called for several turns with it.
        """
        prompts, calls = self.prompts(), self.calls()
        wrong = {
            text: (prompts[text], calls[text]) for text in texts if prompts[text] != 1 or calls[text] > 1
        }
        if wrong:
            raise AssertionError(
                f"appearances in a context and model calls, per prompt: {wrong}; killed at: {', '.join(self.killed)}"
            )


class _Generations(Generations):
    def __init__(
        self, kills: Kills, client: dict[str, Any], budget: Any, restart: Restart, journal: Journal
    ) -> None:
        super().__init__(CodexConfig(), client, budget, restart, None, journal)
        self._kills = kills

    def _open(self) -> Any:
        return self._kills.client(**self._client)


class _OwnedChannel(LineChannel):
    """The client's end of a server in memory, which it may kill."""

    def __init__(self, server: StoredServer) -> None:
        super().__init__(server.client_end, server.client_end, CodexConfig().max_line_bytes)
        self._server = server

    @property
    def owned(self) -> bool:
        """Always true: the client may kill the server."""
        return True

    def kill(self) -> None:
        """Kill the server."""
        self._server.die()


@attrs.frozen
class KillSweep:
    """The coverage of a sweep of kills.

    Attributes:
        steps: The number of steps at which the server was killed.
        killed: How often it was killed at each kind of step.
    """

    steps: int
    killed: Counter[str]


async def sweep_kills(
    scenario: Callable[[Kills], Awaitable[object]], *, round_timeout: float = 3600
) -> KillSweep:
    """Run a scenario repeatedly, killing its server at each of its steps in turn, until it completes undisturbed.

    The scenario receives a :class:`Kills`, and opens its supervisors with it. A step is a line that the server reads, a
    line that it sends, or something that it writes to disk::

        async def scenario(kills):
            async with kills.supervisor() as supervisor, supervisor.thread("a") as thread:
                await thread.run("one", key="1")
            kills.assert_at_most_once("one")

        await sweep_kills(scenario)

    Run it under :class:`trio.testing.MockClock` with ``autojump_threshold=0``, so that delays take no time.

    Args:
        scenario: The function to run.
        round_timeout: Timeout of one round, in seconds of Trio's clock.

    Returns:
        The coverage of the sweep.

    Raises:
        Exception: Whatever a round raised, with a note that names the step at which the server was killed.
        trio.TooSlowError: A round did not end within ``round_timeout``.
    """
    number, killed = 0, Counter[str]()
    while True:
        number += 1
        kills = Kills(number)
        try:
            with trio.fail_after(round_timeout):
                await scenario(kills)
                await trio.lowlevel.checkpoint()
        except Exception as exc:
            exc.add_note(f"The server was killed at step {number}: {', '.join(kills.killed)}.")
            raise
        if not kills.killed:
            return KillSweep(number - 1, killed)
        killed.update(kills.killed)
