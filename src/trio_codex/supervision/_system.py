"""Queries to the operating system: running processes, and out-of-memory kills."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def stamp_of(pid: int) -> str:
    """Return a permanent identity of a running process, because process ids are reused."""
    return f"{pid} {_started(pid)} {_boot()}"


def still_runs(stamp: str) -> bool:
    """Return whether the process with this stamp is running. Zombies do not count."""
    pid = int(stamp.partition(" ")[0])
    return runs(pid) and (not table_is_ours() or stamp == stamp_of(pid))


def runs(pid: int) -> bool:
    """Return whether a process with this id is running. Zombies do not count, if they can be told apart."""
    if table_is_ours():
        return bool(_started(pid))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _started(pid: int) -> str:
    """Return when a process started, in clock ticks since boot; empty if it has ended or this is unknown."""
    if not table_is_ours():
        return ""
    try:
        # Read bytes, because process names may have any encoding.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return ""
    # The first field after the name is the state, field 3; the start time is field 22.
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode()


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def oom_kills() -> int:
    """Return how many processes the kernel has killed because memory ran out; 0 if unknown."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text("ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def table_is_ours() -> bool:
    """Return whether ``/proc`` exists and belongs to our PID namespace, so that its ids are those of our processes."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False
