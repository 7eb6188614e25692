"""What every test gets: the hypothesis profile, and the proof that it left nothing behind.

Profiles, chosen by ``HYPOTHESIS_PROFILE``: ``dev`` (the default), ``ci`` (the default where ``CI=true``), ``long``.
"""

import contextlib
import gc
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("dev", deadline=None)
# The same inputs at each run: what fails there is what the change broke. New inputs are for the other two.
settings.register_profile("ci", deadline=None, max_examples=200, derandomize=True)
settings.register_profile(
    "long", deadline=None, max_examples=5000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") == "true" else "dev")
)

REAPING_SECONDS = 3
"""How long what a test left may take to vanish: a killed process is there until its parent has reaped it."""


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """Fail the test that leaves a child process, a thread or a descriptor."""
    before = _inventory()
    yield
    if not (left := _inventory() - before):
        return
    gc.collect()
    deadline = time.monotonic() + REAPING_SECONDS
    while (left := _inventory() - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    if left:
        pytest.fail(f"the test left behind: {', '.join(sorted(left))}", pytrace=False)


def _inventory():
    return {*_descendants(), *_threads(), *_descriptors()}


def _threads():
    return {f"thread {thread.ident} ({thread.name})" for thread in threading.enumerate()}


def _descriptors():
    found = set()
    with contextlib.suppress(FileNotFoundError):  # no /proc here
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # the one that read the listing
                found.add(f"descriptor {fd} ({os.readlink(f'/proc/self/fd/{fd}')})")
    return found


def _descendants():
    """Everything below this process, zombies included."""
    found, todo = set(), [os.getpid()]
    while todo:
        for task in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                todo += (children := task.read_text().split())
                found |= {f"process {pid} ({_command(pid)})" for pid in children}
    return found


def _command(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")[0]
    except OSError:
        return "ended"
