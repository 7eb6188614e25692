"""The server process as the client sees it: its streams, its end, and the end of everything below it.

Owns the descriptors, the exit status and the order of ending (:meth:`ServerProcess.stop`). It knows nothing of JSON or
Codex beyond an argument vector.

On Linux the server runs under a guard process (:mod:`trio_codex._runtime._guarded`). Elsewhere :mod:`trio_codex._runtime._proctree` does
what it can with a process group.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, NoReturn

import trio

from trio_codex._runtime._pipes import RECEIVE_BYTES
from trio_codex._runtime._stderr import StderrRing
from trio_codex.errors import SpawnError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Protocol

    class _Pollable(Protocol):
        def poll(self) -> int | None: ...


EOF_SHARE: Final = 0.6
"""Of the grace, how much the server gets to end on EOF alone before SIGTERM. The real one needs 65 ms, and 33 ms on
SIGTERM; but one whose stdout nobody drains never ends on EOF."""

END_BOUND: Final = 1.0
"""Seconds, past the grace, for SIGKILL to end the tree. Only a process stuck in the kernel takes longer."""

_PYTHON_NAME: Final = re.compile(r"(?:python|pypy|graalpy)", re.IGNORECASE)

_unreaped: list[_Pollable] = []
"""Children that were let go before they had ended: taken in at the next spawn, so that none stays a zombie for long."""


class ServerProcess(ABC):
    """One server process and everything below it.

    Made by :func:`spawn_server`; whoever made it owes it :meth:`stop`, or :meth:`abandon` where nothing may be awaited.

    Attributes:
        stdin: Its standard input. It and ``stdout`` may be used once :meth:`started` has returned.
        stdout: Its standard output.
        stderr: The last of what it wrote on stderr, as far as :meth:`drain_stderr` has read.
        pid: The process id of the server itself; ``None`` until :meth:`started` has returned.
        returncode: Its exit status, negative for a signal; ``None`` while it runs or if nobody can know.
        contained: Whether nothing below it can escape its end.
        starter: What is to start the server, in words: the subject of an error when it takes too long.
    """

    stdin: trio.abc.SendStream
    stdout: trio.abc.ReceiveStream

    def __init__(self, argv: Sequence[str]) -> None:
        reap()
        self.stderr = StderrRing()
        self.pid: int | None = None
        self.returncode: int | None = None
        self.contained = False
        self.starter = "the system"
        self._argv = argv
        self._failure: Callable[[], SpawnError] | None = None
        self._closed = False
        self._stopping = False
        self._stopped = trio.Event()

    def __repr__(self) -> str:
        state = "running" if self.returncode is None else f"returncode={self.returncode}"
        return f"<{type(self).__name__} pid={self.pid} {'closed, ' if self._closed else ''}{state}>"

    async def started(self) -> int:
        """Wait until the server runs. A checkpoint; to be cancelled changes nothing.

        Returns:
            Its process id.

        Raises:
            SpawnError: It could not be started. :meth:`stop` is owed nevertheless.
            trio.ClosedResourceError: It was stopped first.
        """
        await self._settle(lambda: self.pid is not None)
        if self.pid is None:
            self._raise_failure()
        return self.pid

    async def wait(self) -> int:
        """Wait until the server has ended. A checkpoint; any number of tasks may wait.

        All that the server itself had written on stderr is then in :attr:`stderr`.

        Returns:
            Its exit status, negative for a signal. If its guard was killed, nobody can know how the server ended: it is
            killed, too, and the status says so.

        Raises:
            SpawnError: It never started.
            trio.ClosedResourceError: :meth:`abandon`, or the bound of :meth:`stop`, came first: the tree may end later.
        """
        await self._settle(lambda: self.returncode is not None)
        if self.returncode is None:
            self._raise_failure()
        return self.returncode

    @trio.lowlevel.enable_ki_protection
    async def stop(self, grace: float) -> int | None:
        """End the server and everything below it, and give back every descriptor.

        Its stdin is closed, it gets SIGTERM when most of ``grace`` has passed, and when all of it has, its whole tree is
        killed. Somebody else must go on draining stdout meanwhile, or it will not end on EOF. After that the streams are
        closed, tasks that use them get :exc:`trio.ClosedResourceError`.

        It takes no longer than ``grace`` and about a second. To be cancelled takes away the grace: the tree is killed,
        behind a shield of at most a second, and :exc:`trio.Cancelled` goes on. A second call waits for the first.

        Args:
            grace: Seconds for the server to end by itself.

        Returns:
            The exit status of the server; ``None`` if it never started, or could not be ended.
        """
        if self._stopping:
            await self._stopped.wait()
            return self.returncode
        self._stopping = True
        start = trio.current_time()
        self._close_stdin()
        try:
            await self._end_server(start + grace * EOF_SHARE, start + grace)
        finally:
            try:
                with trio.move_on_after(END_BOUND, shield=True):
                    await self._end_tree()
            finally:
                self.abandon()
        await trio.lowlevel.checkpoint()
        return self.returncode

    @trio.lowlevel.enable_ki_protection
    async def kill_tree(self) -> None:
        """End the server and everything below it at once, and give back every descriptor.

        It takes no longer than about a second; a :meth:`stop` that is under way loses its grace.
        """
        self.kill()
        await self.stop(0)

    async def _end_server(self, ask_at: float, kill_at: float) -> None:
        """Wait for the server to end until ``kill_at``, with SIGTERM at ``ask_at``."""
        if ask_at < kill_at:
            with trio.CancelScope(deadline=ask_at):
                await self._settle(lambda: self.returncode is not None)
        if ask_at < kill_at and self.returncode is None:
            self.terminate()
            with trio.CancelScope(deadline=kill_at):
                await self._settle(lambda: self.returncode is not None)
        await trio.lowlevel.checkpoint()

    @abstractmethod
    async def drain_stderr(self) -> None:
        """Read stderr into :attr:`stderr` until nobody can write there any more, or the process is closed."""

    @abstractmethod
    def terminate(self) -> None:
        """Ask the server to end (SIGTERM). Does nothing once it has ended."""

    @abstractmethod
    def kill(self) -> None:
        """End the server, and everything below it, at once. Does nothing once it has ended."""

    @abstractmethod
    def abandon(self) -> None:
        """Give back every descriptor now, without waiting for anything; what still runs is killed in the background.

        For the way out of a failure between :func:`spawn_server` and the task that owns the process. Does nothing
        after :meth:`stop`.
        """

    @abstractmethod
    async def _settle(self, done: Callable[[], bool]) -> None:
        """Return when ``done()``, or when that can no longer come."""

    @abstractmethod
    async def _end_tree(self) -> None:
        """Return when nothing of the tree is left; kill it first, unless the server has ended by itself."""

    @abstractmethod
    def _close_stdin(self) -> None:
        """Close stdin, synchronously."""

    def _raise_failure(self) -> NoReturn:
        if self._failure is not None:
            raise self._failure()
        raise trio.ClosedResourceError("the process was let go before it had ended")


def let_go(process: _Pollable) -> None:
    """Have a child that has not ended yet reaped at a later spawn."""
    _unreaped.append(process)


def reap() -> bool:
    """Take in the children that were let go and have ended since; tell whether any still runs."""
    _unreaped[:] = [process for process in _unreaped if process.poll() is None]
    return bool(_unreaped)


def sip(stream: Any, ring: StderrRing) -> None:
    """Read what is in the pipe right now, so that the server's last words are in the ring when its end is told."""
    with contextlib.suppress(OSError):
        for _ in range(16):  # somebody else may be writing without end
            if not (chunk := os.read(stream.fileno(), RECEIVE_BYTES)):
                return
            ring.feed(chunk)


@trio.lowlevel.enable_ki_protection
def spawn_server(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str | os.PathLike[str] | None = None,
    guarded: bool | None = None,
    guard_python: str | None = None,
) -> ServerProcess:
    """Begin to start a server. Synchronous, so that nothing can come between it and a ``try``.

    Whether it really runs, :meth:`ServerProcess.started` tells. From here on :meth:`ServerProcess.stop` is owed.

    Args:
        argv: What to run. Without a slash it is looked for on the ``PATH`` of ``env``.
        env: Its whole environment: nothing is inherited, nothing added.
        cwd: Its working directory, or ``None`` for ours.
        guarded: Whether under a guard process; ``None`` for where that works: on Linux, if there is an interpreter.
        guard_python: The interpreter that runs the guard; ``None`` for the one of :func:`find_guard_python`.

    Raises:
        SpawnError: Its pipes or its guard could not be made. An ``OSError`` is its cause.
        ValueError: ``argv`` is empty, or something in it or in ``env`` cannot be passed to any program.
    """
    _check(argv, env, cwd)
    python = guard_python or find_guard_python()
    if guarded is None:
        guarded = sys.platform == "linux" and python is not None
    if guarded:
        from trio_codex._runtime._guarded import GuardedProcess

        if python is None:
            raise SpawnError(
                "there is no Python interpreter to run the guard process",
                phase="spawn",
                mend="Set guard_python to one, or guard=False.",
                binary=argv[0],
            )
        return GuardedProcess(argv, env, cwd, python)
    from trio_codex._runtime._proctree import GroupProcess

    return GroupProcess(argv, env, cwd)


def find_guard_python() -> str | None:
    """Return the Python interpreter that runs this program, or else one of its installation; ``None`` if there is none.

    A frozen program is its own ``sys.executable``, and that of a program that embeds Python is the program: either would
    run itself in place of the guard.
    """
    own = sys.executable
    if own and not getattr(sys, "frozen", False) and _PYTHON_NAME.match(os.path.basename(own)):
        return own
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    candidates = (os.path.join(prefix, "bin", name) for prefix in (sys.exec_prefix, sys.base_exec_prefix))
    return next((path for path in candidates if os.access(path, os.X_OK)), None)


def _check(argv: Sequence[str], env: Mapping[str, str], cwd: str | os.PathLike[str] | None) -> None:
    if not argv or not argv[0]:
        raise ValueError("there is nothing to run: argv is empty")
    if any("\0" in text for text in (*argv, *env, *env.values(), os.fspath(cwd or ""))):
        raise ValueError(
            "an argument, an environment variable or the working directory holds a NUL character"
        )
    for name in env:
        if not name or "=" in name:
            raise ValueError(f"{name!r} cannot be the name of an environment variable")
