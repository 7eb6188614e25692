"""Directories for attempts: empty ones, copies of a tree, and worktrees of a Git repository."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable
from urllib.parse import quote

import attrs
import trio

from trio_codex._database import release

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from trio_codex.batch._tasks import Task

MAX_NAME: Final = 120
"""Maximum length of a directory name made from an id. File systems allow 255 bytes."""

LOCK_POLL: Final = 0.02
"""Seconds between attempts to lock a repository. Adding a small worktree takes about as long."""

REPORTER: Final = (
    sys.executable,
    "-ISc",
    "import signal, subprocess, sys\n"
    "signal.signal(signal.SIGCHLD, signal.SIG_DFL)\n"
    "status = subprocess.call(sys.argv[1:], close_fds=False)\n"
    "print(f'\\n{abs(status)}', end='')",
)
"""Runs a command, and writes its exit status as the last line."""

CHOOSE_REPOSITORY: Final = frozenset(
    {
        "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_DIR", "GIT_GRAFT_FILE", "GIT_IMPLICIT_WORK_TREE",
        "GIT_INDEX_FILE", "GIT_INTERNAL_SUPER_PREFIX", "GIT_NAMESPACE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX",
        "GIT_SHALLOW_FILE", "GIT_WORK_TREE",
    }
)  # fmt: skip
"""Variables that make git use another repository than the one it is given. Git sets some of them for its hooks."""

REMOVAL_SECONDS: Final = 10.0
"""How long a removal may continue after the batch was cancelled."""


def _absolute(path: str | os.PathLike[str]) -> str:
    return os.path.abspath(os.path.expanduser(path))


@runtime_checkable
class Workspace(Protocol):
    """Creates the directory in which the agent of an attempt works. Its ``repr`` is part of the batch's settings."""

    async def create(self, path: Path) -> None:
        """Create the directory.

        Args:
            path: Its absolute path, which does not exist. Its parent does.
        """
        ...

    async def remove(self, path: Path) -> None:
        """Remove the directory, even if it was created only in part or not at all."""
        ...


@attrs.frozen
class EmptyDirectory:
    """An empty directory for each attempt."""

    async def create(self, path: Path) -> None:
        """Create it."""
        path.mkdir()  # noqa: ASYNC240  # microseconds
        await trio.lowlevel.checkpoint()

    async def remove(self, path: Path) -> None:
        """Remove the directory, with everything that the agent has written."""
        await _remove(path)


@attrs.frozen
class CopyTree:
    """A copy of a directory for each attempt. It shares blocks with the original if the file system supports that.

    Attributes:
        source: The directory.
    """

    source: str = attrs.field(converter=_absolute)

    def contains(self, path: Path) -> bool:
        """Return whether a path is in the directory, so that a copy there would contain itself."""
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.source))

    async def create(self, path: Path) -> None:
        """Copy the tree.

        Raises:
            OSError: The directory cannot be copied.
        """
        # "source/." is the directory even if the source is a link to it.
        await _run("cp", "-a", "--reflink=auto", "--", os.path.join(self.source, "."), str(path))

    async def remove(self, path: Path) -> None:
        """Remove the copy."""
        await _remove(path)


@attrs.frozen
class GitWorktree:
    """A worktree of a Git repository for each attempt, with a detached HEAD. Submodules are not checked out.

    Worktrees of a repository are added and removed one at a time, across all programs.

    Attributes:
        repository: The path of the repository.
        revision: The revision to check out.
    """

    repository: str = attrs.field(converter=_absolute)
    revision: str = "HEAD"

    async def create(self, path: Path) -> None:
        """Add the worktree.

        Raises:
            OSError: Git failed, or is not installed.
        """
        async with self._locked() as lock:
            await self._git(
                "worktree", "add", "--quiet", "--detach", "--", str(path), self.revision, lock=lock
            )

    async def remove(self, path: Path) -> None:
        """Remove the worktree, and its entry in the repository.

        Raises:
            OSError: The worktree cannot be removed.
        """
        async with self._locked() as lock:
            await _remove(path)
            await self._git("worktree", "prune", lock=lock)

    async def _git(self, *arguments: str, lock: int | None = None) -> str:
        # A file system monitor would be a program configured by the repository, and as a daemon it would hold the
        # lock.
        return await _run("git", "-c", "core.fsmonitor=false", "-C", self.repository, *arguments, lock=lock)

    @asynccontextmanager
    async def _locked(self) -> AsyncGenerator[int]:
        """Lock the repository, and yield the lock. Processes that inherit it hold it even if this program is killed."""
        import fcntl

        common = (await self._git("rev-parse", "--path-format=absolute", "--git-common-dir")).strip()
        lock = os.open(Path(common) / "trio-codex.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            while True:
                with suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                await trio.sleep(LOCK_POLL)
            yield lock
        finally:
            release(lock)


def directory_name(task: Task, attempt: int) -> str:
    """Return the directory name of an attempt. Different ids never share a name."""
    name = quote(task.id, safe=" ")
    if len(name) > MAX_NAME:
        name = (
            f"{name[:MAX_NAME]}-{hashlib.sha256(task.id.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
        )
    return f"{name}-{attempt}"


async def _remove(path: Path) -> None:
    await trio.lowlevel.checkpoint()
    try:
        path.rmdir()  # noqa: ASYNC240  # microseconds
    except FileNotFoundError:
        return
    except OSError:
        # An agent may have written a lot of files, so another process removes them.
        await _run("rm", "-rf", "--", str(path))


async def _run(*command: str, lock: int | None = None) -> str:
    """Run a command, and return its output. Kill it if cancelled.

    Args:
        command: The command and its arguments.
        lock: A file descriptor that the command inherits.

    Raises:
        OSError: The command failed, or cannot be found.
    """
    # If this program ignores SIGCHLD, it cannot wait for an exit status, so another process does.
    reports = signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
    if reports and getattr(sys, "frozen", False):
        # A frozen program would run itself instead of Python.
        raise OSError(f"{command[0]} may fail unnoticed, because this program ignores SIGCHLD")
    # Trio's own function would start a thread; this takes a millisecond.
    process = subprocess.Popen(  # noqa: ASYNC220  # as above
        (*REPORTER, *command) if reports else command,
        env={name: value for name, value in os.environ.items() if name not in CHOOSE_REPOSITORY},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=() if lock is None else (lock,),
        start_new_session=True,  # Ctrl-C in the terminal must reach only this program, which decides what to end
    )
    assert process.stdout is not None
    try:
        async with trio.lowlevel.FdStream(os.dup(process.stdout.fileno())) as stream:
            output = b"".join([chunk async for chunk in stream])
    except BaseException:
        # Also kill what the command has started, such as a git hook.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        process.stdout.close()
        status = process.wait()  # noqa: ASYNC222  # it has closed its output, or was killed
    if reports:
        output, _, reported = output.rpartition(b"\n")
        status = int(reported) if reported.isdigit() else 1
    text = output.decode("utf-8", "surrogateescape")
    if status:
        lines = text.strip().splitlines()
        raise OSError(f"{command[0]} failed: {lines[-1] if lines else f'exit status {status}'}")
    return text
