"""Check that a scope leaves nothing behind, by comparing inventories of this process before and after it.

Covers tasks, threads, descriptors and processes. Independent of Codex.
"""

from __future__ import annotations

import contextlib
import fnmatch
import gc
import importlib
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import trio

from trio_codex._process.guard import table_is_ours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

GRACE_SECONDS: Final = 3.0
"""How long to wait for tasks, threads and processes that are ending. A killed process exists until its parent reaps it."""

POLL_SECONDS: Final = 0.01


class assert_nothing_left:  # lower case: it is used like a function
    """Check that a scope leaves no task, thread, descriptor or process that was not there before it.

    ``async with``, inside a Trio run, also checks the tasks of that run. Use ``with`` outside of a run, for example in
    a fixture around tests::

        @pytest.fixture(autouse=True)
        def nothing_left_behind():
            with assert_nothing_left():
                yield

    If the body raises, its exception propagates unchanged and nothing is checked. All descendants of this process are
    checked, including zombies, but not processes that were reparented elsewhere. Descriptors are read from ``/proc``,
    so they are checked only on Linux.

    Args:
        grace: How long to wait for anything that is still ending, in seconds.
        ignore: Glob patterns of allowed leftovers, such as ``"thread * (Trio thread *)"`` for the idle worker threads
            that Trio keeps for ten seconds.

    Raises:
        AssertionError: Something remains at the end of the scope.
        RuntimeError: ``with`` was used inside a Trio run, where its wait would block the tasks that are ending.
    """

    def __init__(self, *, grace: float = GRACE_SECONDS, ignore: Sequence[str] = ()) -> None:
        self._grace = grace
        self._ignore = ignore
        self._before: dict[object, str] = {}

    def __enter__(self) -> Self:
        """Record the inventory."""
        if trio.lowlevel.in_trio_run():
            raise RuntimeError("inside a Trio run, use `async with` instead of `with`")
        self._before = _inventory()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Compare inventories until nothing is left or the grace period is over."""
        if exc_type is not None:
            return
        for pause in self._until_gone(time.monotonic):
            time.sleep(pause)

    async def __aenter__(self) -> Self:
        """Record the inventory. A checkpoint."""
        await trio.lowlevel.checkpoint()
        self._before = _inventory()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Compare inventories until nothing is left or time is up. A checkpoint, unless the body raised."""
        if exc_type is not None:
            return  # noqa: ASYNC910  # the body's exception passed through one
        await trio.lowlevel.checkpoint()  # noqa: ASYNC102  # the body was not cancelled
        for pause in self._until_gone(trio.current_time):
            await trio.sleep(pause)  # noqa: ASYNC102

    def _until_gone(self, now: Callable[[], float]) -> Iterator[float]:
        if not self._left():
            return
        gc.collect()
        deadline = now() + self._grace
        while left := self._left():
            if now() >= deadline:
                raise AssertionError(f"left behind: {', '.join(left)}")
            yield POLL_SECONDS

    def _left(self) -> list[str]:
        after = _inventory()
        names = {after[key] for key in after.keys() - self._before.keys()}
        return sorted(
            name for name in names if not any(fnmatch.fnmatchcase(name, glob) for glob in self._ignore)
        )


def _inventory() -> dict[object, str]:
    """Return the inventory: the name of each task, thread, descriptor and process, by a key that identifies it."""
    names = [*_descendants(), *_threads(), *_descriptors()]
    return {**{name: name for name in names}, **_tasks()}


def _tasks() -> dict[object, str]:
    if not trio.lowlevel.in_trio_run():
        return {}
    found: dict[object, str] = {}
    todo = [trio.lowlevel.current_root_task()]
    while todo:
        if (task := todo.pop()) is not None:
            found[task] = f"task {task.name}"
            todo += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return found


def _threads() -> Iterator[str]:
    for thread in threading.enumerate():
        yield f"thread {thread.ident} ({thread.name})"


def _descriptors() -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError):  # no /proc here
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # the descriptor that listed the directory
                yield f"descriptor {fd} ({os.readlink(f'/proc/self/fd/{fd}')})"


def _descendants() -> Iterator[str]:
    """Yield all descendants of this process, including zombies."""
    if sys.platform != "linux":
        psutil: Any = importlib.import_module("psutil")
        for process in psutil.Process().children(recursive=True):
            yield f"process {process.pid}"
        return
    todo = [str(os.getpid())] if table_is_ours() else []
    while todo:
        pid = todo.pop()
        for thread in _entries(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):  # it has exited in the meantime
                children = Path(f"/proc/{pid}/task/{thread}/children").read_text("ascii").split()
                todo += children
                yield from (f"process {child} ({_command(child)})" for child in children)


def _entries(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:  # the process has exited in the meantime
        return []


def _command(pid: str) -> str:
    try:
        # A process may have any bytes in its name.
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "backslashreplace")
        return stat.partition("(")[2].rpartition(")")[0]
    except OSError:
        return "ended"
