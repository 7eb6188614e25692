"""Helpers for the process tests: run fake servers, look up processes, and check that nothing is left."""

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

import trio

from trio_codex._process import guard as _guard
from trio_codex._process.spawn import spawn_server

HERE = Path(__file__).parent
ENV = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}


def fake(*behavior):
    """Return the command line of a fake server."""
    return [sys.executable, "-I", "-S", str(HERE / "server.py"), *map(str, behavior)]


def runs(pid):
    """Return whether the process exists and is not a zombie."""
    process = _guard.look_up(pid)
    return process is not None and not process.zombie


async def pause(pid):
    """Stop a process, and wait until none of its threads runs: SIGSTOP reaches those on other processors later."""

    def is_stopped():
        states = set()
        for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # this thread has ended
                states.add(stat.read_text().rpartition(")")[2].split()[0])
        return states == {"T"}

    os.kill(pid, signal.SIGSTOP)
    with trio.fail_after(5):
        await until(is_stopped)


async def run_here(function, **options):
    """Stand in for ``trio.to_thread.run_sync()``, whose worker thread stays around for several seconds."""
    await trio.lowlevel.checkpoint()
    return function()


async def until(predicate):
    """Wait for a state of another process, which sends no event. The caller sets the deadline."""
    while not predicate():  # noqa: ASYNC110
        await trio.sleep(0.005)


async def gone(*pids):
    with trio.fail_after(5):
        await until(lambda: not any(map(runs, pids)))


def descriptors():
    """Return the open descriptors of this process."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the listing itself
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
    return found


def snapshot():
    """Return the descriptors, threads and children of this process."""
    return descriptors(), set(threading.enumerate()), {child.pid for child in _guard.descendants(os.getpid())}


@contextlib.contextmanager
def nothing_left():
    """Fail if the body leaves a descriptor, a thread or a child, including zombies."""
    fds, threads, children = snapshot()
    yield
    fds_now, threads_now, children_now = snapshot()
    assert fds_now == fds
    assert threads_now <= threads  # an idle worker thread from an earlier test may have exited
    assert children_now <= children


class Running:
    """A started server, and the process ids that it printed."""

    def __init__(self, process, pids):
        self.process = process
        self.pids = pids
        self.guard = _guard.look_up(process.pid).parent


async def read_line(process):
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = await process.stdout.receive_some(1)
        assert byte, f"no line: {process.stderr.tail()}"
        line += byte
    return bytes(line)


async def drain(process):
    """Read stdout until EOF, as the connection's reader does."""
    size = 0
    with contextlib.suppress(trio.ClosedResourceError):
        while data := await process.stdout.receive_some():
            size += len(data)
    return size


@contextlib.asynccontextmanager
async def running(*argv, env=ENV, cwd=None, **options):
    """Yield a server that has printed ``ready``, with its streams drained. It is stopped at the end of the scope."""
    process = spawn_server(argv, env=env, cwd=cwd, **options)
    try:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                await process.started()
                nursery.start_soon(process.drain_stderr)
                word, *pids = (await read_line(process)).split()
                assert word == b"ready"
                nursery.start_soon(drain, process)
                yield Running(process, [int(pid) for pid in pids])
                await process.stop(5)
    finally:
        with trio.CancelScope(shield=True):
            await process.kill_tree()
