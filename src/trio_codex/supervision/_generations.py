"""Generations: start a server, watch it, and replace it when it dies."""

from __future__ import annotations

import os
from collections import deque
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from trio_codex import Attachment, attach_codex, errors, open_codex
from trio_codex.errors import RestartLimitExceeded
from trio_codex.instruments import GenerationRecord, LogInstrument, notify
from trio_codex.supervision._limit import RestartLimit
from trio_codex.supervision._system import oom_kills, stamp_of
from trio_codex.supervision._turnstile import Turnstile
from trio_codex.supervision._values import Generation

if TYPE_CHECKING:
    from collections.abc import Generator

    from trio_codex import Budget, ClientConfig, Codex, CodexConfig
    from trio_codex.instruments import Instrument
    from trio_codex.supervision._journal import Journal
    from trio_codex.supervision._values import Probe, Restart

GENERATIONS_KEPT: Final = 100
"""The number of ended generations to remember."""

TICK_SECONDS: Final = 1.0
"""Seconds between notifications that a generation is alive, and between commits of late writes."""

SOCKET_PATH_BYTES: Final = 107
"""Maximum length of a socket path on Linux. A relative path may refer to a longer absolute one."""


@attrs.define(eq=False)
class _Opener:
    """An open turn that may depend on turns started in its context. ``around`` is the one in whose context it began."""

    generations: Generations
    around: _Opener | None
    is_open: bool = True


_OPENER: ContextVar[_Opener | None] = ContextVar("the turn in whose context this runs", default=None)


class Life:
    """One generation while it lives.

    Attributes:
        number: Its number.
        codex: Its client.
        stamp: The identity of the server process; ``None`` for an attached server.
        over: Set once it has ended, or the supervisor is ending it.
        retired: Set to make the supervisor end it.
        reason: Why the supervisor ends it.
        busy: The names of threads that are being opened or have an open turn.
        started: Trio time at which it was ready.
        oom_kills: The number of out-of-memory kills by the kernel at that time.
    """

    def __init__(self, number: int, codex: Codex) -> None:
        self.number: int = number
        self.codex: Codex = codex
        self.stamp: str | None = None if codex.pid is None else stamp_of(codex.pid)
        self.over: trio.Event = trio.Event()
        self.retired: trio.Event = trio.Event()
        self.reason: str = ""
        self.busy: list[str] = []
        self.started: float = trio.current_time()
        self.oom_kills: int = oom_kills()


class Generations:
    """The generations of one supervisor, and the state shared by its threads.

    Args:
        config: The configuration, or where to attach.
        client: The other arguments of each client.
        budget: The budget of all turns.
        restart: How often to restart.
        probe: How to detect a stuck server.
        journal: The journal.

    Attributes:
        journal: The journal.
        turnstile: Admits turns.
        number: The number of the current generation, or of the latest one.
        open_threads: The names of the open threads.
        strikes: The number of consecutive deaths at which each thread was busy.
        quarantined: The names of the quarantined threads.
        left: Turns whose scopes exited with an exception from the program, by thread and key.
        instruments: The instruments, and one that writes the log.
    """

    def __init__(
        self,
        config: CodexConfig | Attachment,
        client: dict[str, Any],
        budget: Budget | None,
        restart: Restart,
        probe: Probe | None,
        journal: Journal,
    ) -> None:
        self._config = (
            with_absolute_socket(config) if isinstance(config, Attachment) else with_absolute_paths(config)
        )
        self._client = client
        self.instruments: list[Instrument] = [*client.get("instruments", ())]
        # The loss of a server is always logged.
        if not any(isinstance(instrument, LogInstrument) for instrument in self.instruments):
            self.instruments.append(LogInstrument())
        self._budget = budget
        self._probe = probe
        self._is_owned = not isinstance(config, Attachment)
        self._restart = restart
        self._limit = RestartLimit(restart, counted=self._is_owned)
        self._life: Life | None = None
        self._changed = trio.Event()
        self._ended: deque[Generation] = deque(maxlen=GENERATIONS_KEPT)
        self._failure: errors.CodexError | None = None
        self.journal: Journal = journal
        self.turnstile: Turnstile = Turnstile()
        self.number: int = 0
        self.open_threads: set[str] = set()
        self.strikes: dict[str, int] = {}
        self.quarantined: set[str] = set()
        self.left: dict[tuple[str, str], str] = {}
        self._program_ends = False
        self._tokens = 0

    # -- for the program ---------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """What the supervisor is doing; see :class:`SupervisorStatus`."""
        if self._failure is not None:
            return "closed"
        if self.turnstile.drains:
            return "draining"
        return "restarting" if self._life is None else "ready"

    def all(self) -> tuple[Generation, ...]:
        """Return the latest generations, oldest first, including the current one."""
        life = self._life
        return (*self._ended, *(() if life is None else (_describe(life),)))

    def tokens(self) -> int:
        """Return the tokens used by all threads, or the latest known number if the journal cannot be read."""
        with suppress(errors.JournalError):
            self._tokens = self.journal.spent().tokens
        return self._tokens

    async def wait_ready(self, after: int = 0) -> Life:
        """Wait for a generation with a higher number than the given one.

        Raises:
            RestartLimitExceeded: The supervisor has given up.
            ConnectionClosed: The supervisor's scope has exited.
        """
        await trio.lowlevel.checkpoint()
        while (life := self.current) is None or life.number <= after:
            if self._failure is not None:
                raise self._failure
            await self._changed.wait()
        return life

    @property
    def current(self) -> Life | None:
        """The current generation; ``None`` between generations, and once the supervisor is closed."""
        life = self._life
        return life if life is not None and life.codex.is_open and self._failure is None else None

    async def restart(self, reason: str, patience: trio.CancelScope) -> None:
        """Replace the current generation once no turn is open, or after a timeout."""
        life = await self.wait_ready()
        try:
            await self.turnstile.close(patience)
            life.reason = reason
            life.retired.set()
            await self.wait_ready(after=life.number)
        finally:
            self.turnstile.reopen()

    async def drain(self, patience: trio.CancelScope) -> None:
        """Admit no more turns, and wait for open ones, because the program ends."""
        self._program_ends = True
        await self.turnstile.close(patience)

    # -- for threads -------------------------------------------------------------------------------------------

    @property
    def config(self) -> ClientConfig:
        """The configuration of each client."""
        return self._config.config if isinstance(self._config, Attachment) else self._config

    @property
    def directory(self) -> str | os.PathLike[str]:
        """The directory to which relative paths refer."""
        return getattr(self._config, "cwd", None) or ""

    async def admit(self, name: str) -> None:
        """Wait until a turn of a thread may start, and admit it. Call ``turnstile.leave()`` when it has ended.

        Raises:
            ThreadQuarantined: The thread crashes the server.
        """
        if name in self.quarantined:
            raise errors.ThreadQuarantined(name, self.strikes[name])
        opener, nested = _OPENER.get(), False
        while opener is not None and not nested:
            nested = opener.is_open and opener.generations is self
            opener = opener.around
        alone = self.strikes.get(name, 0) >= self._restart.strikes and self._is_owned and not nested
        await self.turnstile.enter(name, nested=nested, alone=alone)

    @contextmanager
    def nesting(self) -> Generator[None]:
        """Admit turns started in the body, or in callbacks of the turn opened there, without waiting for that turn."""
        around = _OPENER.get()
        while around is not None and not around.is_open:
            # A face exits a scope in another context, so its opener stays in the context of the caller.
            around = around.around
        opener = _Opener(self, around)
        token = _OPENER.set(opener)
        try:
            yield
        finally:
            # A task that was started in the body keeps its context.
            opener.is_open = False
            _OPENER.reset(token)

    def rest_of_budget(self) -> Budget | None:
        """Return what is left of the joint budget.

        Raises:
            BudgetExceeded: Nothing is left.
        """
        return None if self._budget is None else self.journal.spent().rest_of(self._budget, "client")

    def healthy(self, name: str) -> None:
        """Record that a thread's turn ended and the server did not die."""
        if self.strikes.pop(name, 0):
            self.journal.died(name, 0)

    def settle_left(self, name: str | None = None) -> None:
        """Record the turns in ``left`` as interrupted by the program, because the program continues.

        Args:
            name: The name of a thread; by default, all of them.
        """
        for where in [each for each in self.left if name in (None, each[0])]:
            self.journal.ended(*where, self.left[where], "interrupted", by_us=True)
            del self.left[where]

    # -- the task of the supervisor ----------------------------------------------------------------------------

    async def serve(self) -> None:
        """Keep a generation alive until cancelled.

        Raises:
            StartError: The first start failed.
            RestartLimitExceeded: There were too many restarts, or another one would fail in the same way.
        """
        exits: deque[str] = deque(maxlen=GENERATIONS_KEPT)
        while True:  # noqa: ASYNC913  # starting a server is a cancellation point
            try:
                async with self._open() as codex:
                    cause = await self._live(codex)
            except errors.StartError as exc:
                if self.number == 0:
                    raise
                cause = exc
            if isinstance(cause, str):
                continue
            exits.append("\n".join([str(cause).splitlines()[0], *getattr(cause, "__notes__", ())]))
            delay = None if _is_incurable(cause) else self._limit.delay(trio.current_time())
            if delay is None:
                problem = "another start would fail as well" if _is_incurable(cause) else self._limit.problem
                self._failure = RestartLimitExceeded(problem, tuple(exits))
                self._wake()
                raise self._failure from cause
            slept_at = trio.current_time()
            await trio.sleep(delay)
            self._limit.excuse(trio.current_time() - slept_at - delay)

    def _open(self) -> AbstractAsyncContextManager[Codex]:
        budget = None
        with suppress(errors.BudgetExceeded, errors.JournalError):  # the next prompt raises it
            budget = self.rest_of_budget()
        if isinstance(self._config, Attachment):
            return attach_codex(self._config, budget=budget, **self._client)
        return open_codex(self._config, budget=budget, **self._client)

    async def _live(self, codex: Codex) -> Exception | str:
        """Announce a generation, wait for its end, and return the cause."""
        self.number += 1
        self._limit.up()
        life = self._life = Life(self.number, codex)
        record = GenerationRecord(life.number, codex.pid, life.started)
        self._wake()
        notify(self.instruments, "generation_started", record)
        cause: Exception | str = "the supervisor was closed"
        try:
            cause = await self._wait_over(life, record)
        finally:
            # Do this before the client's scope exits, so that no task uses the client meanwhile.
            life.over.set()
            self._life = None
            record.ended_at, record.cause = trio.current_time(), cause
            self._ended.append(attrs.evolve(_describe(life), ended=record.ended_at, cause=cause))
            if isinstance(cause, Exception):
                self._count_strikes(life)
            self._wake()
            notify(self.instruments, "generation_ended", record)
        return cause

    async def _wait_over(self, life: Life, record: GenerationRecord) -> Exception | str:
        causes: list[Exception] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when, life.retired, nursery.cancel_scope)
            nursery.start_soon(self._tick, record)
            if self._probe is not None:
                nursery.start_soon(_watch, life.codex, self._probe)
            causes.append(await life.codex.wait_closed())
            nursery.cancel_scope.cancel()
        if not causes:
            return life.reason
        (cause,) = causes
        if getattr(cause, "returncode", None) == -9 and oom_kills() > life.oom_kills:
            cause.add_note("The kernel killed a process because memory ran out, probably this one.")
        return cause

    @trio.lowlevel.enable_ki_protection
    async def _tick(self, record: GenerationRecord) -> None:
        while True:
            notify(self.instruments, "generation_alive", record)
            self._commit()
            await trio.sleep(TICK_SECONDS)

    def _commit(self) -> None:
        """Commit late writes. If this fails, they are kept, and the next prompt raises the error before it is sent."""
        with suppress(errors.JournalError):
            self.journal.commit()

    def _count_strikes(self, life: Life) -> None:
        # If a generation lived for long, the requests at its start did not cause its death.
        is_early = trio.current_time() - life.started <= self._restart.period
        for name in set(life.busy) if self._is_owned else ():
            self.strikes[name] = self.strikes.get(name, 0) + 1 if is_early else 1
            self.journal.died(name, self.strikes[name])
            if name == self.turnstile.alone and is_early:
                self.quarantined.add(name)
        self._commit()

    def close(self, error: BaseException | None) -> None:
        """Refuse all operations from now on, because the body has ended.

        If an exception leaves the supervisor, or after a drain, the program is ending. The turns that it interrupted stay
        open, and the next program continues them.
        """
        if self._failure is None:
            self._failure = errors.ConnectionClosed("the supervisor is closed")
        self._wake()
        self.turnstile.end()
        self.tokens()  # for a status after the journal is closed
        if error is None and not self._program_ends:
            self.settle_left()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def with_absolute_socket(attachment: Attachment) -> Attachment:
    """Return where to attach, even from another working directory."""
    path = attachment.url.removeprefix("unix://")
    if path in ("", attachment.url):
        return attachment
    with suppress(OSError):  # the working directory was deleted
        path = os.path.abspath(os.path.expanduser(path))
    is_short = len(os.fsencode(path)) <= SOCKET_PATH_BYTES
    return attrs.evolve(attachment, url=f"unix://{path}") if is_short else attachment


def with_absolute_paths(config: CodexConfig) -> CodexConfig:
    """Return a configuration with which a later start does the same, even in another working directory."""
    try:
        # A name without a directory is looked up on PATH.
        programs = {
            name: os.path.abspath(os.path.expanduser(path))
            for name in ("codex_bin", "guard_python")
            if (path := getattr(config, name)) is not None and os.path.dirname(path)
        }
        return attrs.evolve(config, cwd=os.path.abspath(config.cwd or os.curdir), **programs)
    except FileNotFoundError:  # the working directory was deleted
        return config


def _describe(life: Life) -> Generation:
    return Generation(number=life.number, started=life.started, pid=life.codex.pid)


# A task does not inherit KI protection from the code that spawned it.
@trio.lowlevel.enable_ki_protection
async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


@trio.lowlevel.enable_ki_protection
async def _watch(codex: Codex, probe: Probe) -> None:
    """Give up on a server that stops responding."""
    await trio.lowlevel.checkpoint()
    try:
        await codex.wait_unresponsive(silence=probe.every, within=probe.timeout, failures=probe.failures)
    except (errors.ConnectionBroken, errors.ConnectionClosed):
        return  # it died on its own, and wait_closed() returns the cause
    seconds = probe.every + probe.failures * probe.timeout
    codex.give_up(f"the server has not responded for {seconds:g} s")


def _is_incurable(cause: Exception) -> bool:
    """Return whether another start would fail in the same way."""
    match cause:
        case errors.AttachError(status=401 | 403):
            return True
        # There is no binary, or the server's exit status indicates a bad configuration or argument.
        case errors.StartError(phase="find") | errors.StartError(returncode=1 | 2):
            return True
        case _:
            return False
