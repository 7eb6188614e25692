"""The client's side of a server under a guard process (Linux).

It uses the protocol of :mod:`trio_codex._process.guard`. Spawning is synchronous, and all waits are on descriptors, so
it needs neither threads nor SIGCHLD.
"""

from __future__ import annotations

import contextlib
import errno
import marshal
import os
import signal
import socket
import subprocess
import warnings
from typing import IO, TYPE_CHECKING, Final

import trio

from trio_codex._process import guard
from trio_codex._process.pipes import RECEIVE_BYTES, ServerStreams, above_standard_streams
from trio_codex._process.server import ServerProcess, reap_later, sip
from trio_codex.errors import SpawnError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_GUARD_CODE: Final = (
    f"import sys; sys.path.append({os.path.dirname(guard.__file__)!r}); "
    "import guard; guard.main(*map(int, sys.argv[2:]))"
)
"""Imports the guard instead of running its file, so that its cached bytecode is used."""


class GuardedProcess(ServerProcess):
    """The server under a guard process (Linux).

    The guard's socket reports the process id, the exit status, and the reason if the server cannot be started. Signals
    also go through the guard, because only the parent of a process can be sure that its id has not been reused.
    """

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], cwd: str | os.PathLike[str] | None, python: str
    ) -> None:
        super().__init__(argv)
        self.starter = f"the guard process (run by {python})"
        self._python = python
        self._owner = os.getpid()
        self._owns = False
        """Whether there are descriptors to close."""
        self._cwd = cwd
        self._identity: guard.Process | None = None
        self._guard_gone = False
        self._unfinished = b""
        self._listening = trio.Lock()  # only one task at a time may wait for a descriptor
        plan = marshal.dumps(
            (
                [os.fsencode(argument) for argument in argv],
                {os.fsencode(name): os.fsencode(value) for name, value in env.items()},
                None if cwd is None else os.fsencode(cwd),
            )
        )
        try:
            self._start_guard(plan)
        except OSError as error:
            raise SpawnError(
                f"the guard process cannot be started: {error.strerror}",
                phase="spawn",
                hint=f"It is run by {python}: set guard_python to another Python interpreter, or guard=False."
                if isinstance(error, FileNotFoundError | PermissionError)
                else "Check the limits on descriptors and processes.",
                binary=argv[0],
            ) from error
        self.stdin, self.stdout = self._streams.stdin, self._streams.stdout
        self._owns = True

    def __del__(self) -> None:
        if self._owns and os.getpid() == self._owner:  # a forked copy owns nothing
            warnings.warn(f"{self!r} was never stopped", ResourceWarning, stacklevel=1, source=self)
            # No task can be waiting for the descriptors. On EOF the guard ends the server; the streams close themselves.
            _hang_up(self._control)
            if self._guard_fd >= 0:
                os.close(self._guard_fd)
            reap_later(self._popen)

    def _start_guard(self, plan: bytes) -> None:
        """Start the guard. If that fails, no descriptor stays open and no process is left."""
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            theirs.enter_context(above_standard_streams())
            self._streams = ServerStreams()
            ours.callback(self._streams.close)
            theirs.callback(self._streams.close_lent)
            self._control, control = socket.socketpair()
            ours.enter_context(self._control)
            theirs.enter_context(control)
            self._control.setblocking(False)
            file = theirs.enter_context(_open_anonymous())
            file.write(plan)
            file.seek(0)
            passed = (control.fileno(), file.fileno())
            stdin, stdout, stderr = self._streams.lent
            self._popen = subprocess.Popen(
                [self._python, "-I", "-S", "-c", _GUARD_CODE, "guard", *map(str, passed), str(os.getpid())],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                pass_fds=passed,
                start_new_session=True,  # Ctrl-C in the terminal must reach only the client
            )
            ours.callback(reap_later, self._popen)
            self._guard_fd = guard.open_pidfd(self._popen.pid)
            ours.pop_all()

    async def drain_stderr(self) -> None:
        await trio.lowlevel.checkpoint()
        with contextlib.suppress(trio.ClosedResourceError):
            while chunk := await self._streams.stderr.receive_some(RECEIVE_BYTES):
                self.stderr.feed(chunk)

    def terminate(self) -> None:
        if self.returncode is None:
            self._command(guard.TERMINATE)

    def kill(self) -> None:
        # Send it even if the server has exited, to end the grace period of the processes that it left behind.
        self._command(guard.KILL)

    def abandon(self) -> None:
        if self._closed:
            return
        self._stopping = True
        if self.returncode is None:
            self.kill()
        self._sip_stderr()
        self._closed = True
        self._owns = False
        self._streams.close()
        trio.lowlevel.notify_closing(self._control)
        _hang_up(self._control)
        if self._guard_fd >= 0:
            trio.lowlevel.notify_closing(self._guard_fd)
            os.close(self._guard_fd)
        if self._popen.poll() is None:
            if self.pid is None:
                # The guard has not started the server yet. If the guard is about to start the server, it notices that
                # its keeper was killed, and ends the server.
                self._popen.kill()
            reap_later(self._popen)
        self._stopped.set()

    async def _settle(self, done: Callable[[], bool]) -> None:
        await trio.lowlevel.checkpoint()
        while not (done() or self._failure or self._guard_gone or self._closed):
            # Acquire the lock again for each report, because another task may read the one that this task waits for.
            async with self._listening:
                if not (done() or self._failure or self._guard_gone or self._closed):
                    with contextlib.suppress(trio.ClosedResourceError):
                        await trio.lowlevel.wait_readable(self._control)
                        self._listen()

    async def _end_tree(self) -> None:
        if self.returncode is None:
            self.kill()
        self._popen.send_signal(signal.SIGCONT)  # in case the guard was stopped
        while self._popen.poll() is None:
            if self._guard_fd >= 0:
                await trio.lowlevel.wait_readable(self._guard_fd)
            else:
                await trio.sleep(0.002)
        # EOF on the socket follows the last report, once both processes of the guard have exited.
        await self._settle(lambda: False)
        await trio.lowlevel.checkpoint()

    def _close_stdin(self) -> None:
        self._streams.stdin.close()

    def _command(self, command: bytes) -> None:
        if not self._closed and not self._guard_gone:
            try:
                self._control.send(command, socket.MSG_NOSIGNAL)
            except OSError:  # the guard is gone: read its last reports, and clean up
                self._listen()

    def _listen(self) -> None:
        """Process what the guard has reported; never blocks."""
        if self._closed:  # closed since the wakeup
            return
        try:
            data = self._control.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        for word, *values in (line.decode().split() for line in lines):
            if word == "pid":
                self.pid = int(values[0])
                self.contained = values[1] == "1"
                self._identity = guard.look_up(self.pid)
            elif word == "exit":
                self._sip_stderr()
                self.returncode = int(values[0])
            else:
                self._sip_stderr()
                self._failure = self._explain(values[0], int(values[1]))
        if not data and not self._guard_gone:
            self._guard_gone = True
            self._on_guard_gone()

    def _on_guard_gone(self) -> None:
        """Handle the end of the guard. It is normal after the server has exited; otherwise the guard was killed."""
        if self.returncode is not None or self._failure is not None:
            return
        self._sip_stderr()
        if self.pid is None:
            self._failure = self._spawn_error(
                "the guard process ended before it could start the server",
                f"It is run by {self._python}: set guard_python to a Python interpreter that works with -I -S,"
                " or guard=False.",
            )
        else:
            # The guard reports the server's exit before it reaps it. There was no report, so this id still belongs to
            # the server.
            if self._identity is not None:
                _kill_unguarded(self._identity)
            self.returncode = -signal.SIGKILL

    def _sip_stderr(self) -> None:
        sip(self._streams.stderr, self.stderr)

    def _explain(self, step: str, number: int) -> Callable[[], SpawnError]:
        """Return a function that creates a new error from the guard's report of a failed start."""
        binary = self._argv[0]
        if step == "cwd":
            return self._spawn_error(
                f"the working directory cannot be entered: {os.strerror(number)}: {os.fspath(self._cwd or '')}",
                "Pass a cwd that exists and that you may enter.",
                OSError(number, os.strerror(number), os.fspath(self._cwd or "")),
            )
        hint = "Pass the path of a codex binary for this system as codex_bin, or install the runtime extra."
        problem = f"the server cannot be run: {os.strerror(number)}"
        if number == errno.ENOEXEC:
            problem = "the server cannot be run: it is neither a program for this system nor a script with a #! line"
        elif number == errno.ENOENT and os.path.exists(binary):
            problem = "the server cannot be run: the interpreter or loader that it names does not exist"
        elif os.path.isdir(binary):
            problem = "the server cannot be run: it is a directory"
        elif number == errno.E2BIG:
            hint = "Shorten its arguments and its environment: the system limits their size."
        return self._spawn_error(problem, hint, OSError(number, os.strerror(number), binary))


def _hang_up(control: socket.socket) -> None:
    """Close the socket so that the guard sees EOF even if a forked copy of us still holds it."""
    with contextlib.suppress(OSError):
        control.shutdown(socket.SHUT_RDWR)
    control.close()


def _open_anonymous() -> IO[bytes]:
    try:
        return open(os.memfd_create("trio-codex-plan"), "wb")
    except (OSError, AttributeError):  # an old C library or kernel
        import tempfile

        return tempfile.TemporaryFile()


def _kill_unguarded(root: guard.Process) -> None:
    """Kill the server and its current descendants, which is the best a client can do without its guard."""
    tree = {root.pid: root}
    guard.send_signal(root, signal.SIGSTOP)
    for _ in range(10):  # a stopped process can neither fork nor exit unseen
        now = guard.look_up(root.pid)
        if now is None or now.start != root.start:  # it has died, and another process may have its id
            break
        new = [process for process in guard.descendants(root.pid) if process.pid not in tree]
        for process in new:
            guard.send_signal(process, signal.SIGSTOP)
            tree[process.pid] = process
        if not new:
            break
    for process in tree.values():
        guard.send_signal(process, signal.SIGKILL)
