"""The interface of a server process: its streams, its exit status, and the shutdown of the whole process tree.

Owns the descriptors, the exit status and the shutdown sequence (:meth:`ServerProcess.stop`). It runs any command, and
is independent of JSON and Codex.

On Linux the server runs under a guard process (:mod:`trio_codex._process.guarded`). Elsewhere
:mod:`trio_codex._process.group` relies on a process group.
"""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, NoReturn

import trio

from trio_codex._process.pipes import RECEIVE_BYTES
from trio_codex._process.stderr import StderrRing
from trio_codex.errors import SpawnError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    class _Pollable(Protocol):
        def poll(self) -> int | None: ...


EOF_SHARE: Final = 0.6
"""Fraction of the grace period for which to wait for an exit on EOF before sending SIGTERM. The real server takes 65 ms
to exit on EOF, if its stdout is drained, and 33 ms on SIGTERM."""

END_BOUND: Final = 1.0
"""Timeout for SIGKILL to end the tree after the grace period. Only a process stuck in the kernel takes longer."""

_unreaped: list[_Pollable] = []
"""Children that were released before they exited. They are reaped at the next spawn, so that they do not stay zombies."""


class ServerProcess(ABC):
    """One server process and all its descendants.

    Created by :func:`~trio_codex._process.spawn.spawn_server`. The caller must call :meth:`stop`, or :meth:`abandon` where
    it cannot await.

    Attributes:
        stdin: The standard input. It and ``stdout`` may be used once :meth:`started` has returned.
        stdout: The standard output.
        stderr: The tail of stderr, as far as :meth:`drain_stderr` has read it.
        pid: The process id of the server itself; ``None`` until :meth:`started` has returned.
        returncode: The exit status, negative for a signal; ``None`` while it runs or if it is unknown.
        contained: Whether all descendants are guaranteed to end with it.
        starter: A description of what starts the server, for the error if that takes too long.
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
        """Wait until the server is running; return its process id. Cancellation has no effect on the server.

        Raises:
            SpawnError: The server could not be started. :meth:`stop` must still be called.
            trio.ClosedResourceError: It was stopped first.
        """
        await self._settle(lambda: self.pid is not None)
        if self.pid is None:
            self._raise_failure()
        return self.pid

    async def wait(self) -> int:
        """Wait until the server has exited. A checkpoint; any number of tasks may wait.

        Afterwards :attr:`stderr` includes everything that the server itself wrote there.

        Returns:
            The exit status, negative for a signal. If the guard was killed, the real status is unknown: the server is
            also killed, and the status reports that.

        Raises:
            SpawnError: The server never started.
            trio.ClosedResourceError: :meth:`abandon` was called first, or :meth:`stop` timed out: the tree may end
                later.
        """
        await self._settle(lambda: self.returncode is not None)
        if self.returncode is None:
            self._raise_failure()
        return self.returncode

    @trio.lowlevel.enable_ki_protection
    async def stop(self, grace: float) -> int | None:
        """Stop the server and all its descendants, and close every descriptor.

        It closes stdin, sends SIGTERM when most of ``grace`` has passed, and kills the whole tree when ``grace`` is
        over. Finally, it closes the streams, and tasks that use them get :exc:`trio.ClosedResourceError`. Another task
        must keep draining stdout meanwhile, or the server will not exit on EOF.

        It takes at most ``grace`` plus about a second. Cancellation ends the grace period: the tree is killed behind a
        shield of at most a second, and :exc:`trio.Cancelled` propagates. A second call waits for the first.

        Returns:
            The exit status of the server; ``None`` if it never started or could not be killed.
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
        """Kill the server and all its descendants immediately, and close every descriptor.

        It takes at most about a second. It also ends the grace period of a :meth:`stop` in progress.
        """
        self.kill()
        await self.stop(0)

    async def _end_server(self, ask_at: float, kill_at: float) -> None:
        """Wait until ``kill_at`` for the server to exit; send SIGTERM at ``ask_at``."""
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
        """Read stderr into :attr:`stderr` until all its writers are gone or the process is closed."""

    @abstractmethod
    def terminate(self) -> None:
        """Send SIGTERM to the server. Does nothing once it has exited."""

    @abstractmethod
    def kill(self) -> None:
        """Kill the server and all its descendants. Once it has exited, kill those that remain."""

    @abstractmethod
    def abandon(self) -> None:
        """Close every descriptor without waiting; remaining processes are killed in the background.

        Call this after a failure between :func:`~trio_codex._process.spawn.spawn_server` and the start of the task that
        owns the process. Does nothing after :meth:`stop`.
        """

    @abstractmethod
    async def _settle(self, done: Callable[[], bool]) -> None:
        """Wait until ``done()`` is true, or can no longer become true."""

    @abstractmethod
    async def _end_tree(self) -> None:
        """Wait until the whole tree is gone; kill it first, unless the server has exited on its own."""

    @abstractmethod
    def _close_stdin(self) -> None:
        """Close stdin, synchronously."""

    def _spawn_error(self, problem: str, hint: str, cause: OSError | None = None) -> Callable[[], SpawnError]:
        """Return a function that creates a new error for each task that waits for a failed start."""

        def make() -> SpawnError:
            error = SpawnError(
                problem, phase="spawn", hint=hint, binary=self._argv[0], stderr_tail=self.stderr.tail()
            )
            error.__cause__ = cause
            return error

        return make

    def _raise_failure(self) -> NoReturn:
        if self._failure is not None:
            raise self._failure()
        raise trio.ClosedResourceError("the process was abandoned before it exited")


def reap_later(process: _Pollable) -> None:
    """Schedule a child that has not exited yet to be reaped at a later spawn."""
    _unreaped.append(process)


def reap() -> bool:
    """Reap released children that have exited; return whether any is still running."""
    _unreaped[:] = [process for process in _unreaped if process.poll() is None]
    return bool(_unreaped)


def sip(stream: Any, ring: StderrRing) -> None:
    """Read the available output into a buffer, so that it is complete when the server's exit is reported."""
    with contextlib.suppress(OSError):
        for _ in range(16):  # another process may be writing endlessly
            if not (chunk := os.read(stream.fileno(), RECEIVE_BYTES)):
                return
            ring.feed(chunk)
