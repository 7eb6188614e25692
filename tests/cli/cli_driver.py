"""Run the command line as a process, with pipes or on a pseudo-terminal."""

import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import trio

COMMAND = [sys.executable, "-m", "trio_codex.cli"]
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


class Process:
    """A process and its pipes. Does not use Trio's `open_process`, whose worker thread would outlive the test."""

    def __init__(self, command, *, home=None, pipes=None, **more):
        pipe = subprocess.PIPE
        stdin, stdout, stderr = (pipes, pipes, pipes) if pipes is not None else (pipe, pipe, pipe)
        self._process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=environment(home, **more),
            cwd=home.workspace if home else None,
            start_new_session=True,
        )
        self.stdin, self.stdout, self.stderr = map(
            _stream, (self._process.stdin, self._process.stdout, self._process.stderr)
        )

    @property
    def returncode(self):
        return self._process.returncode

    def send_signal(self, number):
        self._process.send_signal(number)

    async def wait(self):
        pidfd = os.pidfd_open(self._process.pid)
        try:
            await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)
        return self._process.wait()

    async def aclose(self):
        """Kill the process if it is still running."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for stream in filter(None, (self.stdin, self.stdout, self.stderr)):
            await trio.aclose_forcefully(stream)


def _stream(pipe):
    if pipe is None:
        return None
    with pipe:
        return trio.lowlevel.FdStream(os.dup(pipe.fileno()))


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
    process = Process([*(command or COMMAND), *map(str, args)], home=home, **more)
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

    async def expect(self, text):
        """Wait until the terminal shows ``text``, after the previously expected text."""
        while (at := self.seen.find(text, self._read_to)) < 0:
            more = False
            with trio.move_on_after(SECONDS):
                more = await self._more()
            assert more, f"the terminal never showed {text!r}:\n{self.seen}"
        self._read_to = at + len(text)

    async def send(self, text):
        """Type text."""
        await self._stream.send_all(text.encode())

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
async def on_terminal(*args, home, columns=120):
    """Start the command on a terminal."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    command = [sys.executable, "-I", "-S", "-c", ON_TERMINAL, *COMMAND, *map(str, args)]
    process = Process(command, home=home, pipes=slave, COLUMNS=columns)
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
