"""Runs the command line as its users do: as a process, with pipes or on a terminal of its own."""

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
# A terminal sends Ctrl-C to the foreground of its session, so the process has to be in one that it controls.
ON_TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
NEWLINE = re.compile(r"\r+\n")
SECONDS = 15
"""For a process that does what it should; it takes about 1 s."""


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
    """A process and its pipes. Trio's own way to start one leaves a thread behind for a while."""

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
        """End it, if it has not ended."""
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
    """What a process left."""

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
    """Start it with pipes; wait for its end, or end it if the test fails."""
    process = Process([*(command or COMMAND), *map(str, args)], home=home, **more)
    try:
        with trio.fail_after(SECONDS):
            yield process
            await process.wait()
    finally:
        with trio.CancelScope(shield=True):
            await process.aclose()


async def run_cli(*args, home=None, stdin=b"", command=None, **more):
    """Run it to its end, without a terminal."""
    told = {}

    async def read(name, stream):
        told[name] = await rest(stream)

    started = started_cli(*args, home=home, command=command, **more)
    async with started as process, trio.open_nursery() as nursery:
        nursery.start_soon(read, "out", process.stdout)
        nursery.start_soon(read, "err", process.stderr)
        with contextlib.suppress(trio.BrokenResourceError):  # it has ended without reading it
            await process.stdin.send_all(stdin)
        await process.stdin.aclose()
    return Ended(process.returncode, told["out"], told["err"])


async def read_until(stream, text):
    """Read a stream until it said ``text``; give all that was read."""
    seen = b""
    while text.encode() not in seen:
        chunk = await stream.receive_some()
        assert chunk, f"it ended without {text!r}: {seen!r}"
        seen += chunk
    return seen.decode()


async def rest(stream):
    return b"".join([chunk async for chunk in stream]).decode()


class Terminal:
    """A terminal with the command on it."""

    def __init__(self, master, process):
        self._stream = trio.lowlevel.FdStream(master)
        self.process = process
        self.seen = ""
        self._bytes = b""
        self._read_to = 0

    async def expect(self, text):
        """Wait until it shows ``text``, after what was expected before."""
        while (at := self.seen.find(text, self._read_to)) < 0:
            more = False
            with trio.move_on_after(SECONDS):
                more = await self._more()
            assert more, f"it never showed {text!r}:\n{self.seen}"
        self._read_to = at + len(text)

    async def send(self, text):
        """Type."""
        await self._stream.send_all(text.encode())

    async def end(self):
        """Wait for the end of the process; give its status."""
        while await self._more():
            pass
        return await self.process.wait()

    async def _more(self):
        try:
            chunk = await self._stream.receive_some()
        except (OSError, trio.BrokenResourceError):
            chunk = b""  # nobody has the terminal open any more
        # From the beginning: what was read to must stay where it is, however the bytes come in pieces.
        self._bytes += chunk
        self.seen = NEWLINE.sub("\n", ESCAPES.sub("", self._bytes.decode("utf-8", "replace")))
        return bool(chunk)

    async def aclose(self):
        await self._stream.aclose()


@contextlib.asynccontextmanager
async def on_terminal(*args, home, columns=120):
    """Start it on a terminal."""
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
    """Ids of the processes, zombies not among them, that have ``mark`` in their environment."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if str(mark).encode() in Path("/proc", entry, "environ").read_bytes():
                found.append(int(entry))
    return found


def script(path, text):
    """Write a program."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path
