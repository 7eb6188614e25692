"""Run the command line as a process, with pipes or on a pseudo-terminal."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
from pathlib import Path

import trio

COMMAND = [sys.executable, "-m", "trio_codex.cli"]
FORKED = str(Path(__file__).with_name("forked_cli.py"))
SRC = str(Path(__file__).parents[2] / "src")
# A terminal sends Ctrl-C to the foreground process group of its session, so the process needs a session on this
# terminal.
ON_TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
NEWLINE = re.compile(r"\r+\n")
SECONDS = 15
"""Seconds before a process is killed. It normally takes about 1 s."""


def environment(home=None, **more):
    env = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "LANG": "C.UTF-8",
        "TERM": "xterm",
        "COLUMNS": "120",
    }
    return {
        **env,
        **(home.env if home else {}),
        "PYTHONPATH": SRC,
        **{name: str(each) for name, each in more.items()},
    }


class Forks:
    """An interpreter that has imported the command line, and runs commands in forks of itself."""

    def __init__(self):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, FORKED, str(theirs.fileno())]
            streams = dict.fromkeys(("stdin", "stdout"), subprocess.DEVNULL)
            self._process = subprocess.Popen(
                command, **streams, env=environment(), start_new_session=True, pass_fds=[theirs.fileno()]
            )
        self._socket = ours

    def start(self, arguments, env, cwd, streams, *, terminal):
        """Start a command. Return its process id, and a descriptor that its exit status can be read from."""
        request = {"arguments": arguments, "env": env, "cwd": str(cwd), "terminal": terminal}
        status, theirs = os.pipe()
        socket.send_fds(self._socket, [json.dumps(request).encode()], [*streams, theirs])
        os.close(theirs)
        return int(self._socket.recv(20)), status

    def close(self):
        """Wait for the interpreter to exit."""
        self._socket.close()
        self._process.wait(SECONDS)


forks = None
"""The interpreter that tests of the command line share, set while they run."""


class Process:
    """A process and its pipes. Does not use Trio's `open_process`, whose worker thread would outlive the test."""

    def __init__(self, arguments, *, home=None, command=None, terminal=None, **more):
        """Run the command line with arguments, or another command. Its streams are pipes unless there is a terminal."""
        env = environment(home, **more)
        cwd = home.workspace if home else os.getcwd()
        pipes = [os.pipe() for _ in range(3)] if terminal is None else []
        theirs = [pipes[0][0], pipes[1][1], pipes[2][1]] if pipes else [terminal] * 3
        ours = [pipes[0][1], pipes[1][0], pipes[2][0]] if pipes else []
        streams = [trio.lowlevel.FdStream(each) for each in ours] or [None] * 3
        self.stdin, self.stdout, self.stderr = streams
        # Python reads these variables at startup, so setting them in a fork has no effect.
        fresh = any(name == "LANG" or name.startswith("PYTHON") for name in more)
        self.returncode = None
        self._popen = None
        if forks and not command and not fresh:
            self.pid, self._status = forks.start(arguments, env, cwd, theirs, terminal=terminal is not None)
        else:
            on_terminal = [sys.executable, "-I", "-S", "-c", ON_TERMINAL] if terminal is not None else []
            self._popen = subprocess.Popen(
                [*on_terminal, *(command or COMMAND), *arguments],
                **dict(zip(("stdin", "stdout", "stderr"), theirs, strict=True)),
                env=env,
                cwd=cwd,
                start_new_session=True,
            )
            self.pid, self._status = self._popen.pid, os.pidfd_open(self._popen.pid)
        for each in {*theirs} - {terminal}:
            os.close(each)

    def send_signal(self, number):
        # Once the status has been read, the pipe is empty, but may not be closed yet.
        if self.returncode is None and not select.select([self._status], [], [], 0)[0]:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    async def wait(self):
        if self.returncode is None:
            await trio.lowlevel.wait_readable(self._status)
        return self._reap()

    def _reap(self):
        """Block until the process exits, and return its status."""
        if self.returncode is None:
            self.returncode = self._popen.wait() if self._popen else int(os.read(self._status, 20))
        return self.returncode

    async def aclose(self):
        """Kill the process if it is still running."""
        self.send_signal(signal.SIGKILL)
        self._reap()
        os.close(self._status)
        for stream in filter(None, (self.stdin, self.stdout, self.stderr)):
            await trio.aclose_forcefully(stream)


class Ended:
    """The exit status and output of a process."""

    def __init__(self, status, out, err):
        self.status = status
        self.out = out
        self.err = err

    @property
    def events(self):
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def complaint(self):
        """The one line on stderr."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("trio-codex: ")
        return lines[0]


@contextlib.asynccontextmanager
async def started_cli(*args, home=None, command=None, **more):
    """Start the command with pipes. Wait for its exit, or kill it if the test fails."""
    process = Process([*map(str, args)], home=home, command=command, **more)
    try:
        with trio.fail_after(SECONDS):
            yield process
            await process.wait()
    finally:
        with trio.CancelScope(shield=True):
            await process.aclose()


async def run_cli(*args, home=None, stdin=b"", command=None, **more):
    """Run the command to its exit, without a terminal."""
    told = {}

    async def read(name, stream):
        told[name] = await rest(stream)

    started = started_cli(*args, home=home, command=command, **more)
    async with started as process, trio.open_nursery() as nursery:
        nursery.start_soon(read, "out", process.stdout)
        nursery.start_soon(read, "err", process.stderr)
        with contextlib.suppress(trio.BrokenResourceError):  # the process exited without reading its input
            await process.stdin.send_all(stdin)
        await process.stdin.aclose()
    return Ended(process.returncode, told["out"], told["err"])


async def read_until(stream, text):
    """Read a stream up to ``text``, and return everything that was read."""
    seen = b""
    while text.encode() not in seen:
        chunk = await stream.receive_some()
        assert chunk, f"the stream ended without {text!r}: {seen!r}"
        seen += chunk
    return seen.decode()


async def rest(stream):
    return b"".join([chunk async for chunk in stream]).decode()


class Terminal:
    """A pseudo-terminal with the command running on it."""

    def __init__(self, master, process):
        self._stream = trio.lowlevel.FdStream(master)
        self.process = process
        self.seen = ""
        self._bytes = b""
        self._read_to = 0

    async def expect(self, *texts):
        """Wait until the terminal shows each text, in any order, after the previously expected text."""
        ends = []
        for text in texts:
            while (at := self.seen.find(text, self._read_to)) < 0:
                more = False
                with trio.move_on_after(SECONDS):
                    more = await self._more()
                assert more, f"the terminal never showed {text!r}:\n{self.seen}"
            ends.append(at + len(text))
        self._read_to = max(ends)

    async def send(self, text):
        """Type text."""
        await self._stream.send_all(text.encode())

    def is_normal(self):
        """Whether the terminal is as a program expects it: it echoes, edits lines, and shows its cursor."""
        mode = termios.tcgetattr(self._stream.fileno())[3]
        echoes = bool(mode & termios.ICANON and mode & termios.ECHO)
        return echoes and self._bytes.rfind(b"\x1b[?25h") >= self._bytes.rfind(b"\x1b[?25l")

    async def end(self):
        """Wait for the process to exit, and return its status."""
        while await self._more():
            pass
        return await self.process.wait()

    async def _more(self):
        try:
            chunk = await self._stream.receive_some()
        except (OSError, trio.BrokenResourceError):
            chunk = b""  # no process has the terminal open
        # Decode from the beginning, so that positions stay valid even if a chunk splits a character.
        self._bytes += chunk
        self.seen = NEWLINE.sub("\n", ESCAPES.sub("", self._bytes.decode("utf-8", "replace")))
        return bool(chunk)

    async def aclose(self):
        await self._stream.aclose()


@contextlib.asynccontextmanager
async def on_terminal(*args, home, columns=120, command=None):
    """Start the command, or another one, on a terminal."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = Process([*map(str, args)], home=home, command=command, terminal=slave, COLUMNS=columns)
    os.close(slave)
    terminal = Terminal(master, process)
    try:
        with trio.fail_after(2 * SECONDS):
            yield terminal
    finally:
        with trio.CancelScope(shield=True):
            await process.aclose()
            await terminal.aclose()


def processes_with(mark):
    """Return the ids of the processes, except zombies, that have ``mark`` in their environment."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if str(mark).encode() in Path("/proc", entry, "environ").read_bytes():
                found.append(int(entry))
    return found


def script(path, text):
    """Write an executable script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path
