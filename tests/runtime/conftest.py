"""What a program may do beside its client: fork."""

import contextlib
import os
import signal

import pytest


@contextlib.contextmanager
def _forked_copy(do=None):
    """A forked copy of this process, which holds all of its descriptors and does ``do`` first.

    The body is given what waits until that is done.
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
