"""Run the tasks of a batch: slots, attempts, and what becomes of each one."""

from __future__ import annotations

from collections import Counter, deque
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import attrs
import msgspec
import trio

from trio_codex import Budget, errors
from trio_codex.batch._brakes import Brakes, is_usage_limit, kind_of
from trio_codex.batch._context import TaskContext, TaskThread
from trio_codex.batch._values import BatchStatus, Outcome
from trio_codex.batch._workspaces import REMOVAL_SECONDS, directory_name

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

    from trio_codex import ThreadStartOptions, TokenUsage
    from trio_codex.batch._journal import Journal, Progress
    from trio_codex.batch._tasks import Task
    from trio_codex.batch._values import BatchBudget, Retry, Status
    from trio_codex.batch._workspaces import Workspace
    from trio_codex.supervision import Supervisor

_FATAL: Final = (
    errors.ConnectionClosed, errors.JournalError, errors.RestartLimitExceeded, errors.ThreadInUse,
)  # fmt: skip
"""What ends the batch: the supervisor has given up, or nothing can be recorded."""

_DEATHS: Final = (
    errors.ConnectionBroken, errors.HistoryLost, errors.KeyConflict, errors.ThreadGone, errors.TurnInterrupted,
    errors.TurnLost,
)  # fmt: skip
"""What says that an attempt cannot go on after a death, and is to be repeated in a new thread."""


@attrs.frozen(kw_only=True)
class Plan:
    """How to run the tasks; see :func:`open_batch`."""

    solve: Callable[[TaskContext], Awaitable[Any]]
    turns: int
    starting: int
    budget: BatchBudget
    retry: Retry
    workspace: Workspace
    workspaces: Path
    on_death: Literal["fresh", "continue"]
    keep: Literal["failed", "all", "none"]
    options: ThreadStartOptions


class _Cut(Exception):
    """The attempt rests on a turn that an earlier program has interrupted."""


class Engine:
    """Runs the tasks of one batch, in one Trio task for each slot.

    Args:
        plan: How.
        journal: The journal.
        supervisor: Keeps the server alive.

    Attributes:
        problem: Why it has stopped before every task had an outcome; ``None`` if it has not.
        is_over: Whether it has ended.
    """

    def __init__(self, plan: Plan, journal: Journal, supervisor: Supervisor) -> None:
        self._plan = plan
        self._journal = journal
        self._supervisor = supervisor
        self._todo = deque(journal.todo())
        self._total = journal.count()
        statuses, self._tokens = journal.tally()
        self._statuses = Counter(statuses)
        self._running: dict[str, None] = {}
        self._brakes = Brakes(plan.retry)
        self._slots = trio.Semaphore(plan.turns)
        self._starts = trio.Semaphore(plan.starting)
        self._alone = trio.Lock()
        self._changed = trio.Event()
        self.problem: str | None = None
        self.is_over: bool = False

    @property
    def left(self) -> int:
        """The number of tasks without an outcome."""
        return self._total - self._statuses.total()

    def status(self) -> BatchStatus:
        """Return what the batch has done."""
        return BatchStatus(
            total=self._total,
            running=tuple(self._running),
            outcomes=dict(self._statuses),
            tokens=self._tokens,
        )

    def stop(self, problem: str) -> None:
        """Start no more attempts. Those that run go on."""
        if self.problem is None:
            self.problem = problem
            self._todo.clear()

    async def changed(self) -> None:
        """Wait for another outcome, or for the end."""
        await self._changed.wait()

    # A task does not inherit protection from the code that spawned it.
    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Run the tasks.

        Raises:
            CodexError: The supervisor has given up, or the journal cannot be written.
        """
        failure: BaseException | None = None
        await trio.lowlevel.checkpoint()
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(min(self._plan.turns, len(self._todo))):
                    nursery.start_soon(self._work)
        except BaseExceptionGroup as group:  # noqa: ASYNC103  # raised below, without the group as its context
            failure = _chosen(group)
        if failure is not None:
            raise failure
        self.is_over = True
        self._wake()

    @trio.lowlevel.enable_ki_protection
    async def _work(self) -> None:
        await trio.lowlevel.checkpoint()
        while self._todo:
            await self._complete(self._todo.popleft())

    async def _complete(self, task: Task) -> None:
        """Make attempts at a task until it has an outcome, or the batch stops."""
        await trio.lowlevel.checkpoint()
        progress = self._journal.progress(task)
        is_done = False
        while not is_done and self.problem is None:
            await self._brakes.wait()
            async with self._slot(alone=progress.deaths >= self._plan.retry.deaths):
                if self.problem is not None:
                    return
                self._running[task.id] = None
                try:
                    is_done = await self._attempt(task, progress)
                finally:
                    del self._running[task.id]

    @asynccontextmanager
    async def _slot(self, *, alone: bool) -> AsyncGenerator[None]:
        """Take a slot, or all of them, so that a server that dies does so of this task."""
        async with AsyncExitStack() as slots:
            if alone:
                await slots.enter_async_context(self._alone)
            for _ in range(self._plan.turns if alone else 1):
                await slots.enter_async_context(self._slots)
            yield

    # -- one attempt -------------------------------------------------------------------------------------------

    async def _attempt(self, task: Task, progress: Progress) -> bool:
        """Make one attempt, or go on with one of an earlier program. Return whether the task has an outcome now."""
        attempt = _Attempt(self._plan, self._supervisor, self._starts, task, progress)
        is_resumed = progress.state == "open"
        if progress.state == "ended":
            progress.attempt += 1
        try:
            if not is_resumed:
                progress.state = "begun"
                self._journal.save(task, progress)
                await attempt.prepare()
                progress.state = "open"
                self._journal.save(task, progress)
            value = await attempt.run()
            if is_resumed and attempt.is_interrupted:
                raise _Cut
            self._brakes.release()
            outcome: Outcome | None = attempt.outcome("timed_out" if attempt.is_late else "ok", value)
        except _FATAL:
            raise
        except Exception as exc:
            error = _single(exc)
            outcome = self._judge(attempt, error, is_resumed=is_resumed)
        progress.state = "ended"
        if outcome is None:
            self._journal.save(task, progress)
        else:
            self._journal.finish(outcome)
            self._statuses[outcome.status] += 1
            self._tokens += 0 if outcome.usage is None else outcome.usage.total_tokens or 0
            self._wake()
        is_kept = self._plan.keep == "failed" and outcome is not None and not outcome.is_ok
        await attempt.clean_up(keep=is_kept or self._plan.keep == "all")
        return outcome is not None

    def _judge(self, attempt: _Attempt, error: Exception, *, is_resumed: bool) -> Outcome | None:
        """Return the outcome of a task whose attempt has raised; ``None`` if there is to be another attempt.

        Raises:
            CodexError: The batch cannot go on.
        """
        progress, retry = attempt.progress, self._plan.retry
        if isinstance(error, _FATAL):
            raise error
        if is_usage_limit(error):
            self.stop(f"the usage limit of the account is reached: {error}")
            return None
        if isinstance(error, errors.BudgetExceeded):
            if error.carrier == "client":
                self.stop(f"the budget of the batch is used up: {error}")
                return None
            return attempt.outcome("over_budget", error=error)
        if isinstance(error, errors.ThreadQuarantined):
            return attempt.outcome("quarantined", error=error)
        if isinstance(error, (*_DEATHS, _Cut)):
            if not is_resumed:
                progress.deaths += 1
                if progress.deaths > retry.deaths:
                    return attempt.outcome("quarantined", error=error)
            return None
        kind = kind_of(error)
        if kind is not None:
            progress.failures += 1
            self._brakes.pull(kind)
            if progress.failures < retry.attempts:
                return None
        return attempt.outcome("failed", error=error)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class _Attempt:
    """One attempt at a task: its workspace, its thread, and what it uses."""

    def __init__(
        self, plan: Plan, supervisor: Supervisor, starts: trio.Semaphore, task: Task, progress: Progress
    ) -> None:
        self._plan = plan
        self._supervisor = supervisor
        self._starts = starts
        self._task = task
        self._thread: TaskThread | None = None
        self._thread_id: str | None = None
        self.progress: Progress = progress
        self.is_late: bool = False

    @property
    def is_interrupted(self) -> bool:
        return self._thread is not None and self._thread.is_interrupted

    @property
    def _directory(self) -> Path:
        return self._plan.workspaces / directory_name(self._task, self.progress.attempt)

    async def prepare(self) -> None:
        """Create the workspace. What an earlier program has left of it is removed first."""
        self._plan.workspaces.mkdir(exist_ok=True)
        await self._plan.workspace.remove(self._directory)
        await self._plan.workspace.create(self._directory)

    async def run(self) -> Any:
        """Call the solver, and return its value as plain JSON; ``None`` if the time is up."""
        plan, progress, started = self._plan, self.progress, trio.current_time()
        seconds = plan.budget.task_seconds
        try:
            with trio.CancelScope() as limit:
                if seconds is not None:
                    limit.deadline = started + seconds - progress.seconds
                async with AsyncExitStack() as start:
                    await start.enter_async_context(self._starts)
                    return await self._solve(start)
        finally:
            progress.seconds += trio.current_time() - started
            if self._thread is not None and self._thread.usage is not None:
                usage = self._thread.usage
                progress.usage = usage if progress.usage is None else progress.usage + usage
        self.is_late = True
        return None

    async def _solve(self, start: AsyncExitStack) -> Any:
        plan, task = self._plan, self._task
        options: Any = {**plan.options, "cwd": self._directory, "budget": self._rest_of_budget()}
        name = f"{task.id}#{self.progress.attempt}"
        async with self._supervisor.thread(name, **options) as thread:
            self._thread_id = thread.id
            interrupted: Any = "raise" if plan.on_death == "fresh" else "continue"
            turn_options: Any = dict(task.options)
            self._thread = TaskThread(thread, turn_options, interrupted, start)
            context = TaskContext(
                task=task,
                thread=self._thread,
                workspace=self._directory,
                attempt=self.progress.attempt,
                codex=await self._supervisor.ready(),
            )
            try:
                value = await plan.solve(context)
            finally:
                with suppress(errors.ThreadClosed):
                    self._thread_id = thread.id
            return msgspec.json.decode(msgspec.json.encode(value))

    def _rest_of_budget(self) -> Budget | None:
        """Return the budget of the thread: what earlier attempts have left.

        Raises:
            BudgetExceeded: They have left nothing.
        """
        budget, usage = self._plan.budget, self.progress.usage
        tokens, used = budget.task_tokens, 0 if usage is None else usage.total_tokens or 0
        if tokens is None and budget.task_turns is None:
            return None
        if tokens is not None and used >= tokens:
            raise errors.BudgetExceeded("thread", "tokens", tokens, used, usage)
        return Budget(tokens=None if tokens is None else tokens - used, turns=budget.task_turns)

    def outcome(self, status: Status, value: Any = None, error: Exception | None = None) -> Outcome:
        """Return the outcome of the task."""
        progress = self.progress
        text = None if error is None else f"{type(error).__name__}: {error}"
        if status == "timed_out":
            text = f"the attempts took more than {self._plan.budget.task_seconds:g} s"
        usage: TokenUsage | None = progress.usage
        return Outcome(
            task=self._task,
            status=status,
            value=value if status == "ok" else None,
            error=text,
            usage=usage,
            attempts=progress.attempt,
            seconds=progress.seconds,
            thread_id=self._thread_id,
        )

    async def clean_up(self, *, keep: bool) -> None:
        """Archive the thread, without which the server keeps it in memory, and remove the workspace."""
        await trio.lowlevel.checkpoint()
        if self._thread_id is not None:
            # A server that has died has freed it, and one that has not stored the thread has nothing to archive.
            with suppress(errors.RpcError, errors.ConnectionBroken, errors.RequestTimeout):
                await (await self._supervisor.ready()).thread_archive(self._thread_id)
        if not keep:
            with trio.move_on_after(REMOVAL_SECONDS, shield=True), suppress(OSError):
                await self._plan.workspace.remove(self._directory)


def _single(error: Exception) -> Exception:
    """Return the exception that a group holds, if it is the only one."""
    if not isinstance(error, ExceptionGroup):
        return error
    group = cast("ExceptionGroup[Exception]", error)
    return group if len(group.exceptions) != 1 else _single(group.exceptions[0])


def _chosen(error: BaseException) -> BaseException:
    """Return what to raise in place of a group: one of its errors, unless something else than errors is in it."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    return group if group.split(Exception)[1] is not None else _chosen(group.exceptions[0])
