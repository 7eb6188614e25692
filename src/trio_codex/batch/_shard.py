"""A share of a batch as a value, for engines that start a function in another process."""

from __future__ import annotations

import os
import pickle
import traceback
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import trio

from trio_codex import errors
from trio_codex._core.user_code import import_function
from trio_codex.batch._batch import open_batch
from trio_codex.batch._tasks import Task, read_tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from trio_codex.batch._context import TaskContext
    from trio_codex.batch._values import Outcome


def _path(value: str | os.PathLike[str]) -> str:
    return os.fspath(value)


def _tasks(value: str | os.PathLike[str] | Iterable[Task]) -> str | tuple[Task, ...]:
    return os.fspath(value) if isinstance(value, str | os.PathLike) else tuple(value)


@attrs.frozen(kw_only=True)
class ShardSpec:
    """A batch, or a share of it, as a value that can be pickled.

    Attributes:
        tasks: The tasks, or the path of a file for :func:`read_tasks`.
        out: The directory of the batch. With a ``shard``, each share has its own subdirectory, so all shares may use
            the same ``out``.
        solve: As in :func:`open_batch`, or its name as ``"module:function"``.
        shard: As in :func:`open_batch`.
        options: Its other options.
    """

    tasks: str | tuple[Task, ...] = attrs.field(converter=_tasks, repr=False)
    out: str = attrs.field(converter=_path)
    solve: str | Callable[[TaskContext], Awaitable[Any]] | None = None
    shard: tuple[int, int] | None = None
    options: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False)

    @property
    def directory(self) -> str:
        """The directory of this share, such as ``"runs/1/3-of-20"``."""
        if self.shard is None:
            return self.out
        return os.path.join(self.out, f"{self.shard[0]}-of-{self.shard[1]}")


def run_shard(
    spec: ShardSpec,
    *,
    on_outcome: Callable[[Outcome], object] | None = None,
    on_start: Callable[[Callable[[], None]], object] | None = None,
) -> list[Outcome]:
    """Run a share of a batch to its end, in a new Trio run. Do not call it from Trio.

    The specification, the outcomes and all exceptions can be pickled, whatever a solver or a policy raises. Ctrl-C
    ends the turns on the server, and propagates.

    Args:
        spec: What to run.
        on_outcome: Called with each outcome, first with those of earlier runs. If it raises, the run ends.
        on_start: Called before anything starts, with a function that ends the run. That function may be called at any time,
            in any thread, and in a signal handler. The run then interrupts its turns on the server, and raises
            ``BatchStopped``.

    Returns:
        The outcomes, in the order of :class:`Batch`.

    Raises:
        BatchStopped: Some tasks have no outcome. Existing outcomes can be read from the directory.
        ShardFailed: Something raised an exception that cannot be pickled.
        ValueError: The solver cannot be imported, or :func:`open_batch` raised this.
        CodexError: As in :func:`open_batch`.
    """
    try:
        return trio.run(partial(_run, spec, on_outcome, on_start))
    except Exception as exc:
        error = _portable(exc)
    # Raise outside the handler, because the context is pickled, too, and might not be picklable.
    error.__cause__ = error.__context__ = None
    raise error


async def _run(
    spec: ShardSpec,
    on_outcome: Callable[[Outcome], object] | None,
    on_start: Callable[[Callable[[], None]], object] | None,
) -> list[Outcome]:
    tasks = read_tasks(spec.tasks) if isinstance(spec.tasks, str) else spec.tasks
    outcomes: list[Outcome] = []
    left = len(tasks)
    options: Any = dict(spec.options)
    solve = import_function(spec.solve) if isinstance(spec.solve, str) else spec.solve
    with trio.CancelScope() as scope:
        if on_start is not None:
            on_start(partial(_cancel, trio.lowlevel.current_trio_token(), scope))
        async with open_batch(tasks, solve, out=spec.directory, shard=spec.shard, **options) as batch:
            left = batch.status().total
            async for outcome in batch:
                outcomes.append(outcome)
                if on_outcome is not None:
                    on_outcome(outcome)
    if scope.cancelled_caught:
        raise errors.BatchStopped("it was cancelled", left - len(outcomes))
    return outcomes


def _cancel(token: trio.lowlevel.TrioToken, scope: trio.CancelScope) -> None:
    try:
        token.run_sync_soon(scope.cancel, idempotent=True)
    except trio.RunFinishedError:
        return  # the run has already ended


def _portable(error: Exception) -> Exception:
    """Return an exception that can be pickled: this one, or one with its text."""
    try:
        # Some exceptions can be pickled but not unpickled.
        pickle.loads(pickle.dumps(error))
    except Exception:
        return errors.ShardFailed("".join(traceback.format_exception_only(error)).strip())
    return error
