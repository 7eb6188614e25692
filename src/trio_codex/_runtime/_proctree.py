"""The server process where there is no guard: everything but Linux. Best effort, and untested by users on Windows.

The server leads a process group of its own. What is below it is looked up with psutil while the server lives, because
afterwards nothing leads from it to what it left behind: a process that was started in the meantime, in another group,
survives.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import trio

from trio_codex._runtime._pipes import RECEIVE_BYTES
from trio_codex._runtime._process import END_BOUND, ServerProcess, let_go, sip
from trio_codex.errors import SpawnError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class GroupProcess(ServerProcess):
    """The server in a process group of its own, started and awaited by Trio itself.

    Trio starts a process in a worker thread, so ``stdin`` and ``stdout`` exist once :meth:`started` has returned, and
    :meth:`started` is what starts it.
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
        """Whether there is a process has been decided."""
        self._tree: list[Any] = []

    async def started(self) -> int:
        async with self._starting:
            if self._process is None and self._failure is None and not self._closed:
                await self._start()
                self._known.set()
        return await super().started()

    async def _start(self) -> None:
        try:
            # mypy and pyright choose the signature by platform; this is the one call for all of them.
            open_process: Any = trio.lowlevel.open_process
            process: trio.Process = await open_process(
                list(self._argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(self._env),
                cwd=self._cwd,
                **_own_group(),
            )
        except OSError as error:
            self._failure = self._refusal(error)
            await trio.lowlevel.checkpoint()
            return
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        if self._closed:  # meanwhile somebody gave up
            self._let_go()
            with trio.move_on_after(END_BOUND, shield=True):
                await process.wait()
            return
        self.stdin, self.stdout = process.stdin, process.stdout
        self.pid = process.pid

    def _refusal(self, error: OSError) -> Callable[[], SpawnError]:
        def make() -> SpawnError:
            refusal = SpawnError(
                f"the server cannot be run: {error.strerror}: {error.filename}",
                phase="spawn",
                mend="Pass the path of a codex binary for this system as codex_bin, and a cwd that exists.",
                binary=self._argv[0],
            )
            refusal.__cause__ = error
            return refusal

        return make

    async def drain_stderr(self) -> None:
        if self._process is not None and self._process.stderr is not None:
            with contextlib.suppress(trio.ClosedResourceError):
                while chunk := await self._process.stderr.receive_some(RECEIVE_BYTES):
                    self.stderr.feed(bytes(chunk))
        await trio.lowlevel.checkpoint()

    def terminate(self) -> None:
        if self._process is not None and self.returncode is None:
            self._process.terminate()
            if sys.platform != "win32":
                self._process.send_signal(signal.SIGCONT)  # a stopped process does not act on it

    def kill(self) -> None:
        if self._process is None or self._closed:
            return
        if self._process.poll() is None:
            self._look_below()
        self._kill_below()
        self._process.kill()

    def abandon(self) -> None:
        if not self._stopped.is_set():
            self._stopping = True
            self.kill()
            self._closed = True
            self._let_go()
            self._known.set()
            self._stopped.set()

    def _let_go(self) -> None:
        """Kill the process if it still runs, close its streams, and have it reaped later."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.kill()
            let_go(self._process)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            _close(stream)

    async def _settle(self, done: Callable[[], bool]) -> None:
        await self._known.wait()
        if not done() and self._process is not None and not self._closed:
            # Trio waits on a descriptor or in a thread of its own; neither ends by our letting go, so that does.
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._wait_process, nursery.cancel_scope)
                await self._stopped.wait()
                nursery.cancel_scope.cancel()

    async def _wait_process(self, scope: trio.CancelScope) -> None:
        assert self._process is not None
        returncode = await self._process.wait()
        if sys.platform != "win32":
            sip(self._process.stderr, self.stderr)
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
            self._look_below()
            _close(self._process.stdin)

    def _look_below(self) -> None:
        """Remember what is below the server: once it has died, nobody can tell any more."""
        if self._process is None:
            return
        try:
            psutil: Any = importlib.import_module("psutil")
        except ImportError:
            return  # the group is all that is known
        with contextlib.suppress(psutil.Error):  # gone, a zombie, or not ours to see
            self._tree += psutil.Process(self._process.pid).children(recursive=True)

    def _kill_below(self) -> None:
        """Kill what was seen below, and the group."""
        assert self._process is not None
        if sys.platform != "win32":
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
        for process in self._tree:
            with contextlib.suppress(Exception):  # psutil checks that it is still the same process
                process.kill()


def _own_group() -> dict[str, Any]:
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


def _close(stream: Any) -> None:
    """Close a stream of a process without a checkpoint: all of Trio's can, but their base classes do not say so."""
    if stream is not None:
        stream.close()
