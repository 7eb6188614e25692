"""Run the tasks of a batch: slots, attempts, and their outcomes."""

from __future__ import annotations

from collections import Counter, deque
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final, cast

import trio

from trio_codex import errors
from trio_codex.batch._attempt import Attempt, thread_name
from trio_codex.batch._brakes import Brakes, is_usage_limit, kind_of
from trio_codex.batch._clock import BatchClock
from trio_codex.batch._values import BatchStatus, is_joint
from trio_codex.supervision._scope import choose, leaves_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from trio_codex.batch._attempt import Plan
    from trio_codex.batch._journal import Journal, Progress
    from trio_codex.batch._servers import Servers
    from trio_codex.batch._tasks import Task
    from trio_codex.batch._values import Outcome
    from trio_codex.supervision._journal import Journal as ThreadJournal

_FATAL: Final = (
    errors.ConnectionClosed, errors.JournalError, errors.RestartLimitExceeded, errors.ThreadInUse,
)  # fmt: skip
"""Errors that end the batch: the supervisor has given up, or nothing can be recorded. A solver may raise them, too, because it may
have another client."""

_DEATHS: Final = (
    errors.ConnectionBroken, errors.HistoryLost, errors.KeyConflict, errors.ThreadGone, errors.TurnInterrupted,
    errors.TurnLost,
)  # fmt: skip
"""Errors after which an attempt cannot continue, and is repeated in a new thread."""


class Engine:
    """Runs the tasks of a batch, with one Trio task for each slot.

    Args:
        plan: How to run the tasks.
        journal: The journal.
        servers: The servers.
        threads: The journal of their supervisors.

    Attributes:
        problem: Why the batch stopped before every task had an outcome; ``None`` if it did not.
        failure: The exception that ended it; ``None`` if there was none.
        is_over: Whether it has ended.
    """

    def __init__(self, plan: Plan, journal: Journal, servers: Servers, threads: ThreadJournal) -> None:
        self._plan = plan
        self._journal = journal
        self._servers = servers
        self._threads = threads
        self._todo = deque(journal.todo())
        self._total = journal.count()
        statuses, self._tokens = journal.tally()
        self._statuses = Counter(statuses)
        self._running: dict[str, None] = {}
        self._brakes = Brakes(plan.retry)
        self._clock = BatchClock()
        self._slots = trio.Semaphore(plan.turns)
        self._starts = trio.Semaphore(plan.starting)
        self._alone = trio.Lock()
        self._stopped = trio.Event()
        self._changed = trio.Event()
        self.problem: str | None = None
        self.failure: Exception | None = None
        self.is_over: bool = False

    @property
    def left(self) -> int:
        """The number of tasks without an outcome."""
        return self._total - self._statuses.total()

    def status(self) -> BatchStatus:
        """Return the progress of the batch."""
        return BatchStatus(
            total=self._total,
            running=tuple(self._running),
            outcomes=dict(self._statuses),
            tokens=self._tokens,
        )

    def stop(self, problem: str) -> None:
        """Start no more attempts. Running attempts continue."""
        if self.problem is None:
            self.problem = problem
            self._todo.clear()
            self._stopped.set()

    async def changed(self) -> None:
        """Wait for another outcome, or for the end of the batch."""
        await self._changed.wait()

    # A task does not inherit KI protection from the code that spawned it.
    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:  # noqa: ASYNC910  # the first statement is a checkpoint
        """Run the tasks.

        Raises:
            CodexError: The supervisor has given up, or the journal cannot be written.
        """
        try:
            await trio.lowlevel.checkpoint()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._clock.run)
                try:
                    error = await self._run_workers()
                finally:
                    self._clock.stop()
        finally:
            # Tasks outside the scope may wait for outcomes, too.
            self.is_over = True
            self._wake()
        if error is not None:
            raise error

    async def _run_workers(self) -> BaseException | None:
        """Run the tasks. Return what ended them early, so that it can be raised without the group as its context."""
        error: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._clean_up_after_earlier_programs)
                for _ in range(min(self._plan.turns, len(self._todo))):
                    nursery.start_soon(self._work)
        except BaseExceptionGroup as group:  # noqa: ASYNC103  # returned
            error = choose(None, leaves_of(group))
            # A cancellation or an exit request is not meant for tasks outside the scope.
            self.failure = error if isinstance(error, Exception) else None
        return error  # noqa: ASYNC910  # leaving the nursery was the checkpoint

    @trio.lowlevel.enable_ki_protection
    async def _work(self) -> None:
        await trio.lowlevel.checkpoint()
        while self._todo:
            await self._complete(self._todo.popleft())

    async def _clean_up_after_earlier_programs(self) -> None:
        await trio.lowlevel.checkpoint()
        for outcome in self._journal.uncleaned():
            progress = self._journal.progress(outcome.task)
            await self._new_attempt(outcome.task, progress).clean_up(outcome)

    async def _complete(self, task: Task) -> None:
        """Run attempts at a task until it has an outcome, or the batch stops."""
        await trio.lowlevel.checkpoint()
        progress = self._journal.progress(task)
        is_done = False
        while not is_done and self.problem is None:
            if (until := self._brakes.until()) > trio.current_time():
                with trio.move_on_at(until):
                    await self._stopped.wait()
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
        """Take a slot, or all slots, so that only this task can cause a death of the server."""
        async with AsyncExitStack() as slots:
            if alone:
                await slots.enter_async_context(self._alone)
            for _ in range(self._plan.turns if alone else 1):
                await slots.enter_async_context(self._slots)
            yield

    # -- one attempt -------------------------------------------------------------------------------------------

    async def _attempt(self, task: Task, progress: Progress) -> bool:
        """Run one attempt, or continue one of an earlier program. Return whether the task has an outcome now."""
        await trio.lowlevel.checkpoint()
        is_resumed = progress.state == "open"
        if progress.state == "over":
            await self._new_attempt(task, progress).clean_up(None)
        if not is_resumed:
            progress.attempt = self._new_number(task, progress)
        attempt = self._new_attempt(task, progress)
        outcome: Outcome | None = None
        async with self._servers.one() as supervisor:
            try:
                async with AsyncExitStack() as scope:
                    try:
                        if not is_resumed:
                            await attempt.prepare()
                        value = await attempt.run(supervisor, self._starts, scope)
                        self._brakes.release()
                        outcome = attempt.outcome("timed_out" if attempt.is_late else "ok", value)
                    except Exception as exc:
                        outcome = self._judge(attempt, _single(exc), is_resumed=is_resumed)
                    attempt.end(outcome)
                    if outcome is not None:
                        self._statuses[outcome.status] += 1
                        self._tokens += 0 if outcome.usage is None else outcome.usage.total_tokens or 0
                        self._wake()
                    # Archive the thread first: its scope then exits without sending requests.
                    await attempt.archive(supervisor)
            finally:
                if progress.state == "over":
                    await attempt.clean_up(outcome)  # noqa: ASYNC102  # shielded and bounded inside
        return outcome is not None

    def _new_attempt(self, task: Task, progress: Progress) -> Attempt:
        return Attempt(self._plan, self._journal, task, progress, self._clock)

    def _new_number(self, task: Task, progress: Progress) -> int:
        number = progress.attempt + 1
        # A task that was removed from the batch, and is in it again, has lost its number, but not its threads.
        while self._threads.thread(thread_name(task, number)) is not None:
            number += 1
        return number

    def _judge(self, attempt: Attempt, error: Exception, *, is_resumed: bool) -> Outcome | None:
        """Return the outcome of a task whose attempt has raised, or ``None`` if another attempt follows.

        Raises:
            CodexError: The batch cannot continue.
        """
        progress, retry = attempt.progress, self._plan.retry
        is_foreign = attempt.is_from_solver(error)
        if isinstance(error, _FATAL) and not is_foreign:
            raise error
        if is_usage_limit(error):
            self.stop(f"the usage limit of the account is reached: {error}")
            return None
        # Without a limit of the batch, the solver has another client with a budget.
        if isinstance(error, errors.BudgetExceeded) and not (is_foreign and not is_joint(self._plan.budget)):
            if error.carrier == "client":
                self.stop(f"the budget of the batch is used up: {error}")
                return None
            return attempt.outcome("over_budget", error=error)
        if isinstance(error, errors.ThreadQuarantined):
            return attempt.outcome("quarantined", error=error)
        if isinstance(error, _DEATHS):
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


def _single(error: Exception) -> Exception:
    """Return the exception in a group, if it is the only one."""
    if not isinstance(error, ExceptionGroup):
        return error
    group = cast("ExceptionGroup[Exception]", error)
    return group if len(group.exceptions) != 1 else _single(group.exceptions[0])
