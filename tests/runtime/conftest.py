"""Fixtures for both kinds of server processes, and for forked copies of the program."""

import contextlib
import functools
import gc
import os
import signal

import pytest
import trio

from process.running_server import ENV, nothing_left, run_here, running
from runtime.close_sequences import BODY_ERRORS
from trio_codex._process.spawn import spawn_server


@contextlib.contextmanager
def _forked_copy(do=None):
    """Fork a copy of this process, which calls ``do`` and then holds all descriptors open.

    Yield a function that waits until ``do`` has returned.
    """
    done, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if do is not None:
                do()
            os.write(tell, b"x")
            while True:
                signal.pause()
        finally:
            os._exit(1)
    os.close(tell)
    try:
        yield lambda: os.read(done, 1)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(done)


@pytest.fixture
def forked_copy():
    return _forked_copy


@pytest.fixture(params=[True, False], ids=["guarded", "group"])
def spawn(request, monkeypatch):
    """Both kinds of process: with a guard, and without one, as on other systems."""
    if not request.param:
        monkeypatch.setattr(trio.to_thread, "run_sync", run_here)
    return functools.partial(spawn_server, env=ENV, guarded=request.param)


@pytest.fixture(params=[True, False], ids=["guarded", "group"])
def run(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(trio.to_thread, "run_sync", run_here)
    return functools.partial(running, guarded=request.param)


@pytest.fixture
def no_leaks():
    """Check that a guarded server, which needs no threads, leaves nothing behind in this process."""
    gc.collect()
    gc.freeze()  # the second collection covers only objects made by the test
    with nothing_left():
        yield
        gc.collect()


@pytest.fixture(params=BODY_ERRORS)
def error(request):
    """Raised by the body of a nursery."""
    return BODY_ERRORS[request.param]()
