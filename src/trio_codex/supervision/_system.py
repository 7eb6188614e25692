"""What the operating system knows: whether a process still runs, out-of-memory kills, and file systems."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

NETWORK_FILE_SYSTEMS: Final = frozenset(
    {
        "afs", "ceph", "cifs", "coda", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "gfs2", "glusterfs",
        "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "smb3", "smbfs",
    }
)  # fmt: skip
"""File systems on which neither locks nor shared memory between processes can be relied on."""


def stamp_of(pid: int) -> str:
    """Return what identifies a running process for good: process ids are reused, also after a reboot."""
    return f"{pid} {_started(pid)} {_boot()}"


def still_runs(stamp: str) -> bool:
    """Return whether the process with this stamp runs. A zombie does not."""
    pid = int(stamp.partition(" ")[0])
    if Path("/proc/self/stat").exists():
        return stamp == stamp_of(pid) and bool(_started(pid))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _started(pid: int) -> str:
    """Return when a process started, in clock ticks since boot; empty if it is gone or the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    # Counted from the state, which is the third field of all and the first after the name.
    return "" if fields[0] in "ZX" else fields[19]


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def oom_kills() -> int:
    """Return how many processes the kernel has killed because memory ran out; 0 if it does not tell."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def network_file_system(path: Path) -> str | None:
    """Return the type of the network file system that has a path; ``None`` if it is local or unknown."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return None
    kind, depth, wanted = "", -1, Path(os.path.realpath(path))
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = Path(before.split()[4].encode().decode("unicode_escape"))
        # The last mount of those at the same place is the visible one.
        if wanted.is_relative_to(mount) and len(mount.parts) >= depth:
            kind, depth = after.split()[0], len(mount.parts)
    return kind if kind in NETWORK_FILE_SYSTEMS else None
