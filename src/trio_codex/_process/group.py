"""The server process without a guard: on systems other than Linux, or if no interpreter can run the guard.

Best effort, and not yet used in production on Windows. The server leads its own process group. Its descendants are
looked up while it is running (in ``/proc``, elsewhere with psutil), because they cannot be found after it has exited. A
process in another group survives if it was started after the lookup or its parent has exited.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from trio_codex._process.pipes import RECEIVE_BYTES, ServerStreams, above_standard_streams
from trio_codex._process.server import END_BOUND, ServerProcess, reap_later, sip

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from trio_codex.errors import SpawnError


class GroupProcess(ServerProcess):
    """The server in its own process group, started and awaited by Trio itself.

    Trio starts processes in a worker thread, so :meth:`started` starts the server, and ``stdin`` and ``stdout`` exist
    only after it has returned.
    """

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], cwd: str | os.PathLike[str] | None
    ) -> None:
        super().__init__(argv)
        self._env = env
        self._cwd = cwd
        self._process: trio.Process | None = None
        self._starting = trio.Lock()
        self._known = trio.Event()
        """Set once it is known whether the process exists."""
        self._streams: ServerStreams | None = None
        """Our own pipes; on Windows, Trio's pipes are used instead."""
        self._tree: list[Callable[[], None]] = []
        """Functions that kill each known descendant of the server, if its id has not been reused."""

    async def started(self) -> int:
        async with self._starting:
            if self._process is None and self._failure is None and not self._closed:
                await self._start()
                self._known.set()
        return await super().started()

    async def _start(self) -> None:
        try:
            # mypy and pyright choose the signature by platform; this one call serves all platforms.
            open_process: Any = trio.lowlevel.open_process
            # Trio opens a descriptor here, which must be above 2 as well.
            with above_standard_streams(), contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
                lent: Sequence[int] = (subprocess.PIPE,) * 3
                if sys.platform != "win32":
                    self._streams = ServerStreams()
                    ours.callback(self._streams.close)
                    theirs.callback(self._streams.close_lent)
                    lent = self._streams.lent
                process: trio.Process = await open_process(
                    list(self._argv),
                    stdin=lent[0],
                    stdout=lent[1],
                    stderr=lent[2],
                    env=dict(self._env),
                    cwd=self._cwd,
                    **_own_group(),
                )
                ours.pop_all()
        except OSError as error:
            self._failure = self._refusal(error)
            await trio.lowlevel.checkpoint()
            return
        self._process = process
        _raise_descriptor_limit(process.pid)
        if self._closed:  # closed meanwhile
            self._release()
            with trio.move_on_after(END_BOUND, shield=True):
                await process.wait()
            return
        self.stdin, self.stdout, _ = self._ends()
        self.pid = process.pid

    def _ends(self) -> tuple[Any, Any, Any]:
        """Return this side's ends of stdin, stdout and stderr."""
        assert self._process is not None
        owner: Any = self._process if self._streams is None else self._streams
        return owner.stdin, owner.stdout, owner.stderr

    def _refusal(self, error: OSError) -> Callable[[], SpawnError]:
        name = f": {error.filename}" if error.filename else ""
        hint = "Check the limits on descriptors and processes."
        if error.filename is not None:
            hint = "Pass the path of a codex binary for this system as codex_bin, and a cwd that exists."
        return self._spawn_error(f"the server cannot be run: {error.strerror}{name}", hint, error)

    async def drain_stderr(self) -> None:
        if self._process is not None:
            _, _, stderr = self._ends()
            with contextlib.suppress(trio.ClosedResourceError):
                while chunk := await stderr.receive_some(RECEIVE_BYTES):
                    self.stderr.feed(bytes(chunk))
        await trio.lowlevel.checkpoint()

    def terminate(self) -> None:
        if self._process is not None and self.returncode is None:
            self._process.terminate()
            if sys.platform != "win32":
                self._process.send_signal(signal.SIGCONT)  # a stopped process does not handle signals

    def kill(self) -> None:
        if self._process is None or self._closed:
            return
        if self._process.poll() is None:
            self._record_descendants()
        self._kill_descendants()
        self._process.kill()

    def abandon(self) -> None:
        if not self._stopped.is_set():
            self._stopping = True
            self.kill()
            self._closed = True
            self._release()
            self._known.set()
            self._stopped.set()

    def _release(self) -> None:
        """Kill the process if it is still running, close its streams, and schedule it to be reaped."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.kill()
            reap_later(self._process)
        for stream in self._ends():
            stream.close()

    async def _settle(self, done: Callable[[], bool]) -> None:
        await self._known.wait()
        if not done() and self._process is not None and not self._closed:
            # Trio waits on its own descriptor or in a thread, so closing our streams would not end this wait.
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._wait_process, nursery.cancel_scope)
                await self._stopped.wait()
                nursery.cancel_scope.cancel()

    async def _wait_process(self, scope: trio.CancelScope) -> None:
        assert self._process is not None
        returncode = await self._process.wait()
        if sys.platform != "win32":
            sip(self._ends()[2], self.stderr)
        self.returncode = returncode
        scope.cancel()

    async def _end_tree(self) -> None:
        self.kill()
        if self._process is not None:
            self.returncode = await self._process.wait()
        await trio.lowlevel.checkpoint()

    def _close_stdin(self) -> None:
        if self._process is None:
            self._closed = True
            self._known.set()
        else:
            self._record_descendants()
            self._ends()[0].close()

    def _record_descendants(self) -> None:
        """Record the descendants of the server, because they cannot be found after it has exited."""
        if self._process is None:
            return
        if sys.platform == "linux":
            from trio_codex._process import guard

            below = guard.descendants(self._process.pid)
            self._tree += [partial(guard.send_signal, process, signal.SIGKILL) for process in below]
            return
        try:
            psutil: Any = importlib.import_module("psutil")
        except ImportError:
            return  # no other process is known
        with contextlib.suppress(psutil.Error):  # it is gone, a zombie, or not accessible
            below = psutil.Process(self._process.pid).children(recursive=True)
            self._tree += [process.kill for process in below]

    def _kill_descendants(self) -> None:
        """Kill the recorded descendants and the group."""
        assert self._process is not None
        if sys.platform != "win32":
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
        for kill in self._tree:
            with contextlib.suppress(Exception):  # psutil raises if it is gone
                kill()


def _own_group() -> dict[str, Any]:
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True, "preexec_fn": _signal_reset()}


def _signal_reset() -> Callable[[], None] | None:
    """Return a function that resets a child's signal handlers and mask; ``None`` if there is nothing to reset.

    It runs Python code between fork and exec, which is risky in a program with threads, so it is used only if needed.
    """
    assert sys.platform != "win32"
    ignored = [
        number
        for number in signal.valid_signals()
        # subprocess restores the two signals that Python itself ignores.
        if number not in (signal.SIGPIPE, signal.SIGXFSZ) and signal.getsignal(number) == signal.SIG_IGN
    ]
    if not ignored and not signal.pthread_sigmask(signal.SIG_BLOCK, ()):
        return None

    def reset() -> None:
        for number in ignored:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    return reset


def _raise_descriptor_limit(pid: int) -> None:
    """Raise the server's soft descriptor limit to the hard limit, because each command that it runs uses some."""
    if sys.platform == "linux":
        import resource

        with contextlib.suppress(OSError, ValueError):  # it has exited, or a sandbox forbids it
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
