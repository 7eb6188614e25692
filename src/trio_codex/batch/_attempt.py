"""One attempt at a task: its workspace, its thread, and its usage."""

from __future__ import annotations

import math
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, Literal, cast

import attrs
import msgspec
import trio

from trio_codex import Budget, errors
from trio_codex._core.user_code import call_user
from trio_codex.batch._context import TaskContext, TaskThread
from trio_codex.batch._values import Outcome
from trio_codex.batch._workspaces import REMOVAL_SECONDS, directory_name
from trio_codex.supervision._spending import Spent, tokens_of, total_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from trio_codex import ThreadStartOptions
    from trio_codex.batch._clock import BatchClock
    from trio_codex.batch._journal import Journal, Progress
    from trio_codex.batch._tasks import Task
    from trio_codex.batch._values import BatchBudget, Retry, Status
    from trio_codex.batch._workspaces import Workspace
    from trio_codex.supervision import Supervisor


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


class Attempt:
    """One attempt at a task. It records its progress.

    Args:
        plan: How to run the tasks.
        journal: The journal.
        task: The task.
        progress: The progress of the task.
        clock: Measures and limits the time of the task.
    """

    def __init__(
        self, plan: Plan, journal: Journal, task: Task, progress: Progress, clock: BatchClock
    ) -> None:
        self._plan = plan
        self._clock = clock
        self._journal = journal
        self._task = task
        self._thread: TaskThread | None = None
        self._thread_id: str | None = None
        self._directory = plan.workspaces / directory_name(task, progress.attempt)
        self._before = progress.seconds, progress.current
        self._started: float | None = None
        self._is_solving = False
        self._turn_error: Exception | None = None
        self.progress: Progress = progress
        self.is_late: bool = False

    async def prepare(self) -> None:
        """Create the workspace, after removing the remains of an earlier program."""
        self._plan.workspaces.mkdir(exist_ok=True)
        await call_user(self._plan.workspace.remove, self._directory)
        try:
            await call_user(self._plan.workspace.create, self._directory)
        except trio.Cancelled:
            await self._remove()  # noqa: ASYNC102  # shielded and bounded inside
            raise
        self.progress.state = "open"
        self._journal.save(self._task, self.progress)

    async def run(self, supervisor: Supervisor, starts: trio.Semaphore, scope: AsyncExitStack) -> Any:
        """Call the solver, and return its value as plain JSON, or ``None`` if the time limit is exceeded.

        Args:
            supervisor: Supervises the server to run on.
            starts: Limits how many attempts start concurrently. Waiting for it does not count toward the task's time.
            scope: Leaves the thread.
        """
        async with AsyncExitStack() as start:
            await start.enter_async_context(starts)
            self._started = self._clock.now()
            limit = self._plan.budget.task_seconds
            rest = math.inf if limit is None else limit - self._before[0]
            try:
                with self._clock.limit(self._started + rest):
                    return await self._solve(supervisor, start, scope)
            finally:
                # Each turn has recorded its usage, and end() commits this record.
                self._record(late=True)
        self.is_late = True
        return None

    def _record(self, *, late: bool = False) -> None:
        """Record the usage so far, so that it counts even if this program is killed."""
        seconds, usage = self._before
        if self._started is not None:
            self.progress.seconds = seconds + self._clock.now() - self._started
        used = None if self._thread is None else self._thread.usage
        self.progress.current = total_of(usage, used)
        self._journal.save(self._task, self.progress, late=late)

    async def _solve(self, supervisor: Supervisor, start: AsyncExitStack, scope: AsyncExitStack) -> Any:
        plan, task = self._plan, self._task
        options: Any = {**plan.options, "cwd": self._directory, "budget": self._rest_of_budget()}
        turn_options: Any = dict(task.options)
        opening = supervisor.thread(thread_name(task, self.progress.attempt), **options)
        thread = await scope.enter_async_context(opening)
        self._thread_id = thread.id
        self._thread = TaskThread(
            thread,
            turn_options,
            "raise" if plan.on_death == "fresh" else "continue",
            on_start=start.aclose,
            on_end=self._record,
            on_error=self._note_turn_error,
        )
        context = TaskContext(
            task=task,
            thread=self._thread,
            workspace=self._directory,
            attempt=self.progress.attempt,
            codex=await supervisor.ready(),
        )
        try:
            self._is_solving = True
            value = await call_user(plan.solve, context)
            self._is_solving = False
        finally:
            with suppress(errors.ThreadClosed):
                self._thread_id = thread.id
        return msgspec.json.decode(msgspec.json.encode(value))

    def _note_turn_error(self, error: Exception) -> None:
        self._turn_error = error

    def is_from_solver(self, error: Exception) -> bool:
        """Return whether the solver has raised an error that comes neither from the batch nor from the attempt's thread."""
        return self._is_solving and error is not self._turn_error

    def _rest_of_budget(self) -> Budget | None:
        """Return the budget of the thread: the limits minus the usage of earlier attempts.

        Raises:
            BudgetExceeded: Nothing is left.
        """
        tokens, turns = self._plan.budget.task_tokens, self._plan.budget.task_turns
        if tokens is None and turns is None:
            return None
        return Spent(tokens_of(self.progress.usage)).rest_of(Budget(tokens=tokens, turns=turns), "thread")

    def outcome(self, status: Status, value: Any = None, error: Exception | None = None) -> Outcome:
        """Return the outcome of the task."""
        progress = self.progress
        text = None if error is None else _described(error)
        if status == "timed_out":
            text = f"the attempts took more than {self._plan.budget.task_seconds:g} s"
        return Outcome(
            task=self._task,
            status=status,
            value=value if status == "ok" else None,
            error=text,
            usage=progress.total,
            attempts=progress.attempt,
            seconds=progress.seconds,
            thread_id=self._thread_id,
        )

    def end(self, outcome: Outcome | None) -> None:
        """Record that the attempt is over, and the outcome of the task, if there is one."""
        progress = self.progress
        over = attrs.evolve(progress, state="over", usage=progress.total, current=None)
        if outcome is None:
            self._journal.save(self._task, over)
        else:
            self._journal.finish(outcome, over)
        # Only now: until this is stored, the next program may continue the attempt, in its workspace.
        progress.state, progress.usage, progress.current = over.state, over.usage, over.current

    async def archive(self, supervisor: Supervisor) -> None:
        """Archive the thread, to free its memory in the server. This also ends its commands."""
        await trio.lowlevel.checkpoint()
        if self._thread_id is not None:
            # If the server has died, its memory is free; if it has not stored the thread, there is nothing to archive.
            with suppress(errors.RpcError, errors.ConnectionBroken, errors.RequestTimeout):
                await (await supervisor.ready()).thread_archive(self._thread_id)

    async def clean_up(self, outcome: Outcome | None) -> None:  # noqa: ASYNC910  # the caller has archived
        """Remove the workspace. If this fails, it is repeated when the batch is opened again.

        Args:
            outcome: The outcome of the task, if it has one.
        """
        is_kept = self._plan.keep == "failed" and outcome is not None and not outcome.is_ok
        if is_kept or self._plan.keep == "all" or await self._remove():
            self.progress.state = "ended"
            # If this record is lost, the next program repeats the cleanup.
            self._journal.save(self._task, self.progress, late=True)

    async def _remove(self) -> bool:
        """Remove the workspace, even if cancelled. Return whether it was removed."""
        try:
            await call_user(self._plan.workspace.remove, self._directory)
        except trio.Cancelled:
            with trio.move_on_after(REMOVAL_SECONDS, shield=True), suppress(Exception):
                await call_user(self._plan.workspace.remove, self._directory)
            raise
        except Exception:
            return False  # noqa: ASYNC910  # the checkpoint is that of the workspace
        return True


def thread_name(task: Task, attempt: int) -> str:
    """Return the name of an attempt's thread in the journal of the supervisor."""
    return f"{task.id}#{attempt}"


def _described(error: Exception) -> str:
    """Return the class and the message of an exception, or those of a group, as text that UTF-8 can encode."""
    if isinstance(error, ExceptionGroup):
        return "; ".join(map(_described, cast("ExceptionGroup[Exception]", error).exceptions))
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception as exc:
        text = f"{type(error).__name__}, whose message raises {type(exc).__name__}"
    return text.encode("utf-8", "backslashreplace").decode()
