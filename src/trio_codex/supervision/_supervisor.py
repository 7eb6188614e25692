"""The supervisor."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Unpack

import trio

from trio_codex import Attachment, Budget, CodexConfig
from trio_codex.supervision._generations import Generations
from trio_codex.supervision._journal import Journal
from trio_codex.supervision._scope import with_task
from trio_codex.supervision._thread import SupervisedThread
from trio_codex.supervision._values import Generation, Probe, Restart, SupervisorStatus

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Iterable, Sequence

    import trio_codex.tools
    from trio_codex import Codex, Policy, ThreadStartOptions
    from trio_codex.instruments import Instrument


class Supervisor:
    """Restarts a server, or reconnects to one, and runs turns that outlive it. See :func:`open_supervisor`."""

    def __init__(self, generations: Generations) -> None:
        self._generations = generations

    def __repr__(self) -> str:
        return f"<Supervisor, generation {self.generation}, {self._generations.state}>"

    @property
    def generation(self) -> int:
        """The number of the current generation, or of the latest one. The first is 1."""
        return self._generations.number

    async def ready(self) -> Codex:
        """Wait for a generation that is ready, and return its client.

        Operations on this client are not durable: they end with the generation.

        Raises:
            RestartLimitExceeded: The supervisor has given up.
            ConnectionClosed: The supervisor's scope has exited.
        """
        return (await self._generations.wait_ready()).codex

    def generations(self) -> tuple[Generation, ...]:
        """Return the latest 100 generations, oldest first, and the current one."""
        return self._generations.all()

    def status(self) -> SupervisorStatus:
        """Return what the supervisor is doing, or was doing when its scope exited."""
        generations = self._generations
        return SupervisorStatus(
            state=generations.state,
            generation=generations.number,
            restarts=max(0, generations.number - 1),
            threads=tuple(sorted(generations.open_threads)),
            turns=tuple(generations.turnstile.inside),
            quarantined=tuple(sorted(generations.quarantined)),
            tokens=generations.tokens(),
        )

    async def restart(self, reason: str, *, drain_timeout: float = 60) -> None:
        """Replace the server, for example after an upgrade. Threads continue in the next generation.

        New prompts wait, except those started by a callback of an open turn, or in the body of its scope. After
        ``drain_timeout``, open turns are interrupted, and continue in the next generation. Such a restart does not
        count toward the limit.

        Args:
            reason: The reason, shown by :meth:`generations`.
            drain_timeout: How long to wait for open turns, in seconds.

        Raises:
            ValueError: The time is negative or NaN; nothing has changed.
            RestartLimitExceeded: The next server did not start.
            ConnectionClosed: The supervisor's scope has exited.
        """
        patience = trio.move_on_after(drain_timeout)  # noqa: ASYNC122  # an invalid time must change nothing
        await self._generations.restart(reason, patience)

    async def drain(self, *, timeout: float = 60) -> None:  # noqa: ASYNC109  # how long open turns may take, not this call
        """Admit no more prompts, and wait until open turns have ended. Call this before ending the program.

        A prompt that is not admitted waits until it is cancelled, or the supervisor's scope exits. The next program
        runs it.

        Args:
            timeout: How long to wait, in seconds. The next program continues turns that are still open then.

        Raises:
            ValueError: The time is negative or NaN; prompts are still admitted.
        """
        patience = trio.move_on_after(timeout)  # noqa: ASYNC122  # an invalid time must change nothing
        await self._generations.drain(patience)

    def thread(self, name: str, **options: Unpack[ThreadStartOptions]) -> SupervisedThread:
        """Return a thread that outlives its server, as a scope.

        Args:
            name: The name of the thread in the journal. An unknown name starts a new thread.
            **options: See :class:`~trio_codex.ThreadStartOptions`. They apply in every generation, except those
                for new threads only. The thread cannot be ephemeral.

        Raises:
            ValueError: The name is empty, or the thread could not be durable.
        """
        return SupervisedThread(self._generations, name, options)


def check_type(name: str, value: object, expected: type | tuple[type, ...], hint: str) -> None:
    """Raise ``TypeError`` if an argument has the wrong type."""
    if not isinstance(value, expected):
        raise TypeError(f"{name} expects {hint}, got {type(value).__name__}")


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def open_supervisor(
    config: CodexConfig | Attachment | None = None,
    *,
    policy: Policy | None = None,
    tools: Iterable[trio_codex.tools.Tool[..., Any]] = (),
    budget: Budget | None = None,
    instruments: Sequence[Instrument] = (),
    restart: Restart = Restart(),  # noqa: B008  # frozen
    probe: Probe | None = Probe(),  # noqa: B008  # frozen
    journal: str | os.PathLike[str] | None = None,
) -> AsyncGenerator[Supervisor]:
    """Keep a server alive for the duration of a scope, and run turns that outlive it.

    Each *generation* is a complete scope of :func:`~trio_codex.open_codex`, or of :func:`~trio_codex.attach_codex`.
    When it ends, another one is started, and the threads of the supervisor continue in it. With a journal, they also
    continue in the next program that opens it. Exceptions raised by the body propagate unchanged.

    Args:
        config: The configuration of the client and its server, or where to attach; by default the user's own setup.
        policy: As in :func:`~trio_codex.open_codex`.
        tools: As in :func:`~trio_codex.open_codex`.
        budget: The joint budget of all its turns, across generations and across programs with the same journal.
        instruments: As in :func:`~trio_codex.open_codex`.
        restart: How often to restart, and after which delays.
        probe: How to detect a stuck server; ``None`` to disable detection.
        journal: The path of an SQLite database, on a local disk, that is created if it does not exist. By default the
            journal is in memory, and threads survive only server deaths.

    Raises:
        StartError: The first start failed.
        RestartLimitExceeded: The server failed too often, or a restart would fail in the same way; the body was
            cancelled.
        JournalInUse: Another supervisor has the journal open.
        JournalError: The journal cannot be used.
        ValueError: As in :func:`~trio_codex.open_codex`.
        TypeError: An argument has the wrong type, or a tool has no valid schema.
    """
    config = CodexConfig() if config is None else config
    check_type("config", config, (CodexConfig, Attachment), "CodexConfig(…) or Attachment(…)")
    check_type("budget", budget, (Budget, type(None)), "Budget(…), or None")
    check_type("restart", restart, Restart, "Restart(…)")
    check_type("probe", probe, (Probe, type(None)), "Probe(…), or None")
    client = {"policy": policy, "tools": tuple(tools), "instruments": instruments}
    opened = Journal(journal)
    try:
        async with supervise(Generations(config, client, budget, restart, probe, opened)) as supervisor:
            yield supervisor
    finally:
        opened.close()


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def supervise(generations: Generations) -> AsyncGenerator[Supervisor]:
    """Keep a server alive for the duration of a scope. Several supervisors in one program may share a journal.

    Raises:
        CodexError: As in :func:`open_supervisor`, except for errors of the journal.
    """
    async with with_task(generations.serve, generations.close):
        await generations.wait_ready()
        yield Supervisor(generations)
