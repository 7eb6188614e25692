"""The batch: its scope, its iteration and its control."""

from __future__ import annotations

import hashlib
from collections import deque
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import trio

from trio_codex import Budget, CodexConfig, Restart, errors
from trio_codex.batch._attempt import Plan
from trio_codex.batch._context import TaskContext, solve_prompt
from trio_codex.batch._engine import Engine
from trio_codex.batch._journal import Journal, directory_of
from trio_codex.batch._servers import Servers
from trio_codex.batch._tasks import checked_tasks
from trio_codex.batch._values import BatchBudget, BatchStatus, Retry, is_joint
from trio_codex.batch._workspaces import CopyTree, EmptyDirectory, Workspace
from trio_codex.supervision._generations import Generations, with_absolute_paths
from trio_codex.supervision._journal import Journal as ThreadJournal
from trio_codex.supervision._scope import with_task
from trio_codex.supervision._supervisor import check_type
from trio_codex.supervision._values import Probe

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    import trio_codex.tools
    from trio_codex import Policy, ThreadStartOptions
    from trio_codex.batch._tasks import Task
    from trio_codex.batch._values import Outcome
    from trio_codex.instruments import Instrument

PAGE = 64
"""The number of outcomes read from the journal at a time."""

WORKSPACES = "workspaces"
"""The name of the workspace directory, in the directory of the batch."""

THREADS = "threads.db"
"""The name of the supervisor's journal, in the same directory."""

TMP_EXCLUDED = {"sandbox_workspace_write": {"exclude_slash_tmp": True, "exclude_tmpdir_env_var": True}}
"""Agents of a batch must not share temporary directories, where they could see each other's files."""

HASHED = frozenset({"base_instructions", "config", "developer_instructions"})
"""Thread options that no error may show: those that ``wire.ThreadStartParams`` elides."""

UNCOMPARED = frozenset({"policy", "tools"})
"""Thread options without a text form that could be compared with that of an earlier run."""


class Batch:
    """A running batch. Iterate over it for its outcomes. Created by :func:`open_batch`.

    Attributes:
        out: The absolute path of its directory.
    """

    def __init__(self, engine: Engine, journal: Journal, out: Path) -> None:
        self._engine = engine
        self._journal = journal
        self._buffer: deque[tuple[int, Outcome]] = deque()
        self._last = 0
        self._count = 0
        self._is_stopping = False
        self.out: Path = out

    def __repr__(self) -> str:
        status = self.status()
        return f"<Batch {str(self.out)!r}, {status.done} of {status.total} done>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome:
        """Return the next outcome: first those of earlier runs, then new ones as tasks end.

        Every outcome is returned once. Outcomes are read from the journal, so a slow consumer delays nothing.

        Raises:
            BatchStopped: The batch was stopped, or its scope has exited, and some tasks have no outcome.
            ConnectionClosed: Its scope has exited, and not all outcomes were returned. :func:`read_outcomes` returns them.
            Exception: What has ended the batch.
            StopAsyncIteration: Every task has an outcome, and all of them were returned.
        """
        await trio.lowlevel.checkpoint()
        while not self._buffer:
            # Get the event before the read, so that no outcome is missed in between.
            is_over = self._engine.is_over
            if not self._journal.is_closed:
                self._buffer.extend(self._journal.outcomes(self._last, PAGE))
            if self._buffer:
                self._last = self._buffer[-1][0]
            elif not is_over:
                await self._engine.changed()
            elif self._engine.failure is not None:
                raise self._engine.failure
            elif self._engine.left:
                raise errors.BatchStopped(self._engine.problem or "it was closed", self._engine.left)
            elif self._count < self.status().total:
                raise errors.ConnectionClosed("the batch is closed: read_outcomes() returns its outcomes")
            else:
                raise StopAsyncIteration
        self._count += 1
        return self._buffer.popleft()[1]

    def status(self) -> BatchStatus:
        """Return the progress of the batch."""
        return self._engine.status()

    @property
    def is_stopping(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._is_stopping

    def stop(self) -> None:
        """Start no more attempts. Running attempts finish, and then the iteration raises ``BatchStopped``."""
        self._is_stopping = True
        self._engine.stop("it was asked to stop")


class _Unfinished(Exception):
    """Raised in the supervisor's scope, so that interrupted turns continue in the next program."""


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def open_batch(
    tasks: Iterable[Task],
    solve: Callable[[TaskContext], Awaitable[Any]] | None = None,
    *,
    out: str | os.PathLike[str],
    config: CodexConfig | None = None,
    turns: int = 16,
    starting: int | None = None,
    servers: int | Literal["per-task"] = 1,
    policy: Policy | None = None,
    tools: Iterable[trio_codex.tools.Tool[..., Any]] = (),
    budget: BatchBudget | None = None,
    retry: Retry = Retry(),  # noqa: B008  # frozen
    restart: Restart = Restart(max_restarts=100),  # noqa: B008  # frozen
    workspace: Workspace = EmptyDirectory(),  # noqa: B008  # frozen
    on_death: Literal["fresh", "continue"] = "fresh",
    keep: Literal["failed", "all", "none"] = "failed",
    shard: tuple[int, int] | None = None,
    thread_options: ThreadStartOptions | None = None,
    allow_changes: bool = False,
    instruments: Sequence[Instrument] = (),
) -> AsyncGenerator[Batch]:
    """Run many tasks with limited concurrency for the duration of a scope. Exceptions from the body propagate unchanged.

    Each attempt at a task has its own thread and directory. Outcomes are stored in ``out``. Open the same directory
    again after a crash, an error or Ctrl-C: tasks with an outcome are not run again, and the others continue. Either
    every task gets an outcome, or an error is raised. Leaving the scope ends running attempts, on the server too.

    Args:
        tasks: The tasks, with unique ids.
        solve: An async function that solves one task, and returns plain JSON. If it raises, the outcome is ``failed``. By
            default, the prompt is run, and the value is the final response.
        out: The directory of the batch, on a local disk. It is created if it does not exist; otherwise it must
            be empty or contain the same batch.
        config: The configuration of the server.
        turns: How many attempts run concurrently.
        starting: How many attempts may be starting concurrently, that is, until their first turn runs. This phase costs
            the server most. By default the same as ``turns``.
        servers: How many servers share the work, on one ``CODEX_HOME``; or ``"per-task"``, so that an attempt that
            crashes its server interrupts no other attempt. With several servers, the limits of the whole batch are
            checked when a turn starts, and during a turn only against the usage of its own server.
        policy: As in :func:`~trio_codex.open_codex`.
        tools: As there.
        budget: The limits of tasks and of the batch.
        retry: Which attempts are repeated.
        restart: How often the server may be restarted.
        workspace: What the directories of attempts contain.
        on_death: What happens to an attempt with a turn that was interrupted because the server or the program died.
            With ``"fresh"``, it starts over in a new thread and a new workspace. With ``"continue"``, it continues
            with a follow-up. An attempt without an interrupted turn continues in either case.
        keep: Which workspaces are kept: those of tasks whose outcome is not ``ok``, all, or none.
        shard: ``(index, count)`` to run only a share of the tasks. The index starts at 0.
        thread_options: Options of each thread, such as ``sandbox`` or ``model``, except ``cwd`` and ``budget``.
        allow_changes: Whether the settings, and tasks without an outcome, may differ from those of earlier runs.
            Attempts at a changed task do not continue, and missing tasks are removed.
        instruments: As in :func:`~trio_codex.open_codex`.

    Raises:
        BatchConflict: ``out`` contains a batch with other tasks or settings.
        JournalInUse: Another program runs the batch.
        JournalError: The journal cannot be used, or ``out`` is not the directory of a batch.
        StartError: The server did not start.
        RestartLimitExceeded: The server failed too often; the body was cancelled.
        ValueError: Two tasks have the same id, a task is not plain JSON, an argument is out of range, or ``out`` is in the
            directory of a :class:`CopyTree`.
        TypeError: One of the tasks is not a :class:`Task`, or an argument has the wrong type.
    """
    _check(turns, starting, servers, solve, workspace, on_death, keep)
    options: Any = dict(thread_options or {})
    for name in ("budget", "cwd", "ephemeral"):
        if name in options:
            raise ValueError(f"thread_options cannot have {name!r}: the batch chooses it for each attempt")
    config = CodexConfig() if config is None else config
    budget, solve = BatchBudget() if budget is None else budget, solve or solve_prompt
    check_type("config", config, CodexConfig, "CodexConfig(…)")
    check_type("budget", budget, BatchBudget, "BatchBudget(…)")
    check_type("retry", retry, Retry, "Retry(…)")
    check_type("restart", restart, Restart, "Restart(…)")
    config = with_absolute_paths(config)
    tools = tuple(tools)
    settings = {
        "config_overrides": repr(tuple(config.config_overrides)),
        "on_death": on_death,
        "shard": repr(shard),
        "solve": "the prompt" if solve is solve_prompt else name_of(solve),
        "thread_options": compared(options),
        "tools": repr([tool.name for tool in tools]),
        "workspace": repr(workspace),
    }
    options["config"] = _without_tmp(options.get("config") or {})
    directory = directory_of(out)
    if isinstance(workspace, CopyTree) and workspace.contains(directory):
        raise ValueError(
            f"out is in {workspace.source}, so the copies would contain each other: choose another out"
        )
    chosen = checked_tasks(tasks, shard)
    with closing(Journal(directory, writes=True)) as journal:
        journal.begin(settings, chosen, allow_changes=allow_changes)
        plan = Plan(
            solve=solve,
            turns=turns,
            starting=starting or turns,
            budget=budget,
            retry=retry,
            workspace=workspace,
            workspaces=directory / WORKSPACES,
            on_death=on_death,
            keep=keep,
            options=options,
        )
        with closing(ThreadJournal(directory / THREADS)) as threads, suppress(_Unfinished):
            client = {"policy": policy, "tools": tools, "instruments": instruments}
            generations = partial(Generations, config, client, _joint(budget), restart, Probe(), threads)
            pool = Servers(servers, generations, partial(journal.agree, allow_changes=allow_changes))
            async with pool.open():
                engine = Engine(plan, journal, pool, threads)
                async with with_task(engine.run):
                    yield Batch(engine, journal, directory)
                if engine.left:
                    raise _Unfinished


def _check(
    turns: int,
    starting: int | None,
    servers: object,
    solve: object,
    workspace: object,
    on_death: str,
    keep: str,
) -> None:
    for name, number in (("turns", turns), ("starting", turns if starting is None else starting)):
        if not isinstance(number, int):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may not be typed
            raise TypeError(f"{name} expects a whole number, got {type(number).__name__}")
    if min(turns, turns if starting is None else starting) < 1:
        raise ValueError("turns and starting must be at least 1")
    if servers != "per-task" and not (isinstance(servers, int) and servers >= 1):
        raise ValueError(f"servers must be 'per-task' or a number greater than 0, not {servers!r}")
    if on_death not in ("fresh", "continue"):
        raise ValueError(f"on_death must be 'fresh' or 'continue', not {on_death!r}")
    if keep not in ("failed", "all", "none"):
        raise ValueError(f"keep must be 'failed', 'all' or 'none', not {keep!r}")
    if solve is not None and not callable(solve):
        raise TypeError(f"solve expects an async function, got {type(solve).__name__}")
    if not isinstance(workspace, Workspace):
        raise TypeError(f"workspace expects a workspace, got {type(workspace).__name__}")


def _without_tmp(config: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(config)
    for name, table in TMP_EXCLUDED.items():
        merged[name] = {**table, **merged.get(name, {})}
    return merged


def _joint(budget: BatchBudget) -> Budget | None:
    if not is_joint(budget):
        return None
    return Budget(tokens=budget.tokens, seconds=budget.seconds, turns=budget.turns)


def compared(options: Mapping[str, Any]) -> str:
    """Return thread options as text, to compare them. Those in :data:`HASHED` appear as hashes."""
    names = sorted(name for name in options if name not in UNCOMPARED)
    return repr([(name, _Hashed(options[name]) if name in HASHED else options[name]) for name in names])


class _Hashed:
    """A value whose ``repr`` shows its hash."""

    def __init__(self, value: object) -> None:
        self._text = repr(value)

    def __repr__(self) -> str:
        digest = hashlib.sha256(self._text.encode("utf-8", "surrogatepass")).hexdigest()
        return f"<elided: {digest[:16]}>"


def name_of(solve: object) -> str:
    """Return the name of a function, to compare it with that in an earlier program."""
    while isinstance(solve, partial):
        solve = cast("partial[object]", solve).func
    named: Any = solve if hasattr(solve, "__qualname__") else type(solve)
    return f"{named.__module__}:{named.__qualname__}"


def read_outcomes(out: str | os.PathLike[str]) -> list[Outcome]:
    """Return the outcomes of a batch so far, in the order in which the tasks ended. The batch may be running.

    Args:
        out: The directory of the batch.

    Raises:
        JournalError: There is no batch.
    """
    with closing(Journal(directory_of(out), writes=False)) as journal:
        return [outcome for _, outcome in journal.outcomes()]


def read_status(out: str | os.PathLike[str]) -> BatchStatus:
    """Return the progress of a batch. If it is not running, ``running`` lists the tasks whose attempts will continue.

    Args:
        out: The directory of the batch.

    Raises:
        JournalError: There is no batch.
    """
    with closing(Journal(directory_of(out), writes=False)) as journal:
        outcomes, tokens = journal.tally()
        return BatchStatus(total=journal.count(), running=journal.open(), outcomes=outcomes, tokens=tokens)
