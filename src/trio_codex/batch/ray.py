"""A batch on a Ray cluster: one Ray task for each share of it. Needs the ``ray`` extra.

The driver keeps the journal. Workers send outcomes immediately; if a worker is lost, its remaining tasks are run again.
"""

from __future__ import annotations

import importlib
import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from trio_codex import errors
from trio_codex.batch._batch import compared, name_of
from trio_codex.batch._journal import Journal, directory_of
from trio_codex.batch._shard import ShardSpec, run_shard
from trio_codex.batch._tasks import checked_tasks

try:
    # Ray's types do not describe the arguments of remote functions and actors.
    ray: Any = importlib.import_module("ray")
    _exceptions: Any = importlib.import_module("ray.exceptions")
    _queue: Any = importlib.import_module("ray.util.queue")
except ModuleNotFoundError as _error:
    raise ModuleNotFoundError(
        f"trio_codex.batch.ray needs {_error.name}, which the ray extra installs: pip install '.[ray]' in the checkout of trio-codex",
        name=_error.name,
    ) from _error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from trio_codex.batch._context import TaskContext
    from trio_codex.batch._tasks import Task
    from trio_codex.batch._values import Outcome

__all__ = ["run"]

MOST_DEATHS: Final = 3
"""How many workers of one share may die in a row without an outcome."""

CANCEL_SECONDS: Final = 30.0
"""How long workers may take to end their turns and servers before they are killed."""

COMPARED: Final = ("on_death", "thread_options", "workspace")
"""Options that must be the same when a batch is resumed."""

_DEATHS: Final = (_exceptions.NodeDiedError, _exceptions.OutOfMemoryError, _exceptions.WorkerCrashedError)


def _compared(name: str, value: Any) -> str:
    return compared(value or {}) if name == "thread_options" else repr(value)


@attrs.define
class _Share:
    """The work of one Ray task. ``left`` holds the remaining tasks; ``deaths`` counts workers lost since an outcome."""

    index: int
    left: dict[str, Task]
    starts: int = 0
    deaths: int = 0


def run(
    tasks: Iterable[Task],
    solve: str | Callable[[TaskContext], Awaitable[Any]] | None = None,
    *,
    out: str | os.PathLike[str],
    shards: int,
    options: Mapping[str, Any] | None = None,
    on_outcome: Callable[[Outcome], object] | None = None,
    scratch: str | os.PathLike[str] | None = None,
    ray_options: Mapping[str, Any] | None = None,
) -> list[Outcome]:
    """Run a batch on a Ray cluster, and wait for its end. Do not call it from Trio.

    Each share of the tasks is one Ray task with its own server. Outcomes are sent immediately, and stored in ``out``,
    a directory of the driver. After a crash, start it again with the same directory: tasks with an outcome are not
    run again. If a worker dies, its remaining tasks start over in another one. Ctrl-C, or an exception from
    ``on_outcome``, ends the turns on the servers before it propagates.

    Args:
        tasks: As in :func:`~trio_codex.batch.open_batch`.
        solve: As in :func:`~trio_codex.batch.open_batch`, or its name as ``"module:function"``.
        out: The directory of the batch, on a local disk of the driver.
        shards: How many Ray tasks share the work. Each one runs ``options["turns"]`` attempts concurrently.
        options: Other options of :func:`~trio_codex.batch.open_batch`. They apply to each share separately: a
            ``budget`` for a whole batch limits each share, not all of them together.
        on_outcome: Called with each outcome as it arrives, first with those of earlier runs.
        scratch: The directory for the journals and workspaces of shares, on the local disk of each worker. By default,
            ``shards`` in ``out``.
        ray_options: Options of the Ray tasks, such as ``num_cpus``, ``resources`` or ``scheduling_strategy``.

    Returns:
        The outcomes, in the order in which they were stored.

    Raises:
        BatchStopped: Some tasks have no outcome.
        BatchConflict: ``out`` contains a batch with other tasks or settings.
        JournalInUse: Another driver runs the batch.
        ShardFailed: A worker raised an exception that cannot be pickled.
        ValueError: Two tasks have the same id, a task is not plain JSON, or ``shards`` is less than 1.
        CodexError: As in :func:`~trio_codex.batch.open_batch`, from a worker.
        ray.exceptions.RayError: The cluster failed.
    """
    if shards < 1:
        raise ValueError("shards must be at least 1")
    directory = directory_of(out)
    chosen = dict(options or {})
    settings = {
        "engine": "ray",
        "solve": name_of(solve) if callable(solve) else solve or "the prompt",
        **{name: _compared(name, chosen[name]) if name in chosen else "the default" for name in COMPARED},
    }
    with closing(Journal(directory, writes=True)) as journal:
        journal.begin(settings, checked_tasks(tasks, None), allow_changes=bool(chosen.get("allow_changes")))
        if on_outcome is not None:
            for _, outcome in journal.outcomes():
                on_outcome(outcome)
        driver = _Driver(
            journal=journal,
            shares=_divided(journal.todo(), shards),
            solve=solve,
            options=chosen,
            scratch=Path(os.path.expanduser(scratch or directory / "shards")).absolute() / str(journal.run),
            ray_options={**(ray_options or {}), "max_retries": 0},  # the journal knows what to repeat
            on_outcome=on_outcome,
        )
        driver.run()
        return [outcome for _, outcome in journal.outcomes()]


@attrs.define(kw_only=True)
class _Driver:
    """Starts Ray tasks, and stores what they send."""

    journal: Journal
    shares: list[_Share]
    solve: Any
    options: Mapping[str, Any]
    scratch: Path
    ray_options: dict[str, Any]
    on_outcome: Callable[[Outcome], object] | None
    problem: str | None = None
    running: dict[Any, _Share] = attrs.field(factory=dict[Any, _Share])

    def run(self) -> None:
        """Run the remaining tasks.

        Raises:
            BatchStopped: Some tasks have no outcome.
            Exception: A worker raised another exception.
        """
        if not self.shares:
            return
        queue = _queue.Queue(actor_options={"num_cpus": 0})
        try:
            for share in self.shares:
                self._start(share, queue)
            self._receive(queue)
        finally:
            self._end_all()
            ray.kill(queue.actor)
        left = sum(len(share.left) for share in self.shares)
        if left:
            raise errors.BatchStopped(self.problem or "workers ended early", left)

    def _start(self, share: _Share, queue: Any) -> None:
        spec = ShardSpec(
            tasks=share.left.values(),
            out=self.scratch / f"{share.index}-{share.starts}",
            solve=self.solve,
            options=self.options,
        )
        share.starts += 1
        work = ray.remote(_work)
        self.running[work.options(**self.ray_options).remote(spec, share.index, queue)] = share

    def _receive(self, queue: Any) -> None:
        """Process the queue. The end of a Ray task also goes through it, so that it follows the task's outcomes."""
        open_shares = len(self.shares)
        waiting = list(self.running)
        received = queue.actor.get.remote()
        while open_shares:
            (ready, *_), _ = ray.wait([received, *waiting], num_returns=1)
            if ready != received:
                waiting.remove(ready)
                queue.put((None, ready))
                continue
            entry: Any
            index: int | None
            index, entry = ray.get(received)
            received = queue.actor.get.remote()
            if index is not None:
                self._store(self.shares[index], entry)
                continue
            ended = next(ref for ref in self.running if ref == entry)
            share = self.running.pop(ended)
            if self._is_lost(ended, share):
                self._start(share, queue)
                waiting.append(next(reversed(self.running)))
            else:
                open_shares -= 1

    def _store(self, share: _Share, outcome: Outcome) -> None:
        # A lost worker may have sent it just after its end was noticed.
        if share.left.pop(outcome.task.id, None) is not None:
            share.deaths = 0
            self.journal.finish(outcome, self.journal.progress(outcome.task))
            if self.on_outcome is not None:
                self.on_outcome(outcome)

    def _is_lost(self, ended: Any, share: _Share) -> bool:
        """Return whether a Ray task was lost with its worker, so that its share must be started again.

        Raises:
            Exception: The exception raised in the worker.
        """
        try:
            ray.get(ended)
        except _DEATHS as exc:
            share.deaths += 1
            if share.left and share.deaths >= MOST_DEATHS:
                self.problem = f"{share.deaths} workers died in a row without an outcome: {exc}".strip()
            return bool(share.left) and share.deaths < MOST_DEATHS
        except _exceptions.RayTaskError as exc:
            failure = exc.cause
        else:
            return False
        if not isinstance(failure, errors.BatchStopped):
            raise failure
        # Other workers may succeed; if not, they report it themselves.
        self.problem = failure.problem
        return False

    def _end_all(self) -> None:
        running, self.running = list(self.running), {}
        for ref in running:
            ray.cancel(ref)
        if running:
            _, stuck = ray.wait(running, num_returns=len(running), timeout=CANCEL_SECONDS)
            for ref in stuck:
                ray.cancel(ref, force=True)


def _work(spec: ShardSpec, index: int, queue: Any) -> None:
    """Run a share, in a worker. ``ray.cancel`` arrives as ``KeyboardInterrupt``."""
    run_shard(spec, on_outcome=lambda outcome: queue.put((index, outcome)))


def _divided(tasks: list[Task], shards: int) -> list[_Share]:
    shares = [{task.id: task for task in tasks[index::shards]} for index in range(min(shards, len(tasks)))]
    return [_Share(index, share) for index, share in enumerate(shares)]
