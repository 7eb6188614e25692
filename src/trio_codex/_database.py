"""Journals in SQLite: identification, opening, locking, and errors.

A commit reaches the operating system, but not necessarily the disk: it survives the death of any process, but a power
failure may lose the latest commits. A lock on a file beside the database ensures that only one program writes at a
time; any number may read.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs

from trio_codex import errors

CHECKPOINT_BYTES: Final = 4 * 1024 * 1024
"""The size at which the write-ahead log is merged while the program is idle. SQLite's automatic merge is off,
because a merge may block the program for 250 ms."""

CHECK_EVERY: Final = 256
"""The number of writes after which the size of the log is checked."""

PATIENCE_MS: Final = 50
"""Milliseconds to wait for another program that has locked the database, for example a shell of SQLite. Nothing else
runs meanwhile."""

MOST_BYTES: Final = 64 * 1024 * 1024
"""The size at which the log is merged even if the program is busy."""

NETWORK_FILE_SYSTEMS: Final = frozenset(
    {
        "afs", "ceph", "cifs", "coda", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "gfs2", "glusterfs",
        "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "smb3", "smbfs",
    }
)  # fmt: skip
"""File systems on which locks and shared memory between processes are unreliable."""


Statement: TypeAlias = tuple[str, tuple[object, ...]]
"""A statement and its values."""


@attrs.frozen(kw_only=True)
class Format:
    """The properties that distinguish one kind of journal from all other databases.

    Attributes:
        owner: The owner of such a journal, for messages.
        application: The application id in the header of the file.
        version: The version of the tables. A journal of another version is refused.
        tables: The statements that create them.
    """

    owner: str
    application: int
    version: int
    tables: str


class Database:
    """An open journal. Every method is synchronous and takes microseconds.

    Args:
        path: The path of the database; ``None`` for one in memory.
        kind: The kind of journal.
        writes: Whether to open it for writing, which only one program at a time can do, and create it if necessary.

    Attributes:
        is_closed: Whether it was closed.

    Raises:
        JournalInUse: Another program writes.
        JournalError: The database cannot be opened, or has another kind or version.
    """

    def __init__(self, path: str | os.PathLike[str] | None, kind: Format, *, writes: bool = True) -> None:
        self._path = ":memory:" if path is None else os.fspath(path)
        self._file = self._path
        self._kind = kind
        self._lock: int | None = None
        self.is_closed: bool = False
        self._owner = os.getpid()
        self._writes = 0
        self._late: list[Statement] = []
        # Those of the open transaction.
        self._executed: list[Statement] = []
        try:
            if path is not None:
                # As SQLite does, so that all names of a file share one lock, even after a change of directory.
                self._file = os.path.realpath(os.path.expanduser(path))
            if writes and path is not None:
                self._lock = self._take_lock(Path(self._file))
            self._db = self._connect(writes=writes)
            try:
                self._prepare(writes=writes)
            except BaseException:
                self._db.close()
                raise
        except (OSError, sqlite3.Error) as exc:
            self._unlock()
            raise self._explained("cannot be opened" if writes else "cannot be read", exc) from exc
        except BaseException:
            self._unlock()
            raise

    def _connect(self, *, writes: bool) -> sqlite3.Connection:
        if writes:
            return sqlite3.connect(self._file, isolation_level=None)
        uri = Path(self._file).as_uri()
        db = sqlite3.connect(f"{uri}?mode=ro", uri=True, isolation_level=None)
        try:
            db.execute("pragma schema_version")
        except sqlite3.OperationalError:
            db.close()
            if os.path.exists(f"{self._file}-wal"):
                raise
            # To read, SQLite creates a log unless it is told that nobody writes. This program may not write, and no
            # other does.
            return sqlite3.connect(f"{uri}?immutable=1", uri=True, isolation_level=None)
        except BaseException:
            db.close()
            raise
        return db

    def _take_lock(self, path: Path) -> int:
        if (kind := network_file_system(path.parent)) is not None:
            raise self.error(f"is on a network file system ({kind})", "Choose a path on a local disk.")
        import fcntl

        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(lock)
            if not isinstance(exc, BlockingIOError):
                raise
            hint = (
                f"End the other program with this {self._kind.owner}, or choose another path for one of them."
            )
            raise errors.JournalInUse(self._path, "is in use", hint) from None
        return lock

    def _prepare(self, *, writes: bool) -> None:
        kind = self._kind
        found = self.value("pragma application_id"), self.value("pragma user_version")
        is_new = writes and found == (0, 0) and not self.value("select count(*) from sqlite_master")
        if not is_new and found[0] != kind.application:
            problem = f"is a database, but not the journal of a {kind.owner}"
            raise self.error(problem, "Choose another path.")
        if not is_new and found[1] != kind.version:
            problem = f"has version {found[1]}, but this trio-codex supports version {kind.version}"
            raise self.error(problem, "Upgrade trio-codex, or start a new journal.")
        if not writes:
            return
        patience = f"busy_timeout={PATIENCE_MS}"
        for setting in ("journal_mode=wal", "synchronous=normal", "wal_autocheckpoint=0", patience):
            self._db.execute(f"pragma {setting}")
        # This also checks at once whether an existing journal can be written.
        marks = f"pragma application_id={kind.application}; pragma user_version={kind.version};"
        self._db.executescript(f"begin immediate; {kind.tables if is_new else ''} {marks} commit;")

    def close(self) -> None:
        """Commit if possible, merge the write-ahead log, and release the lock. Idempotent.

        In a forked copy of the process that opened it, this does nothing: the journal and its lock belong to the parent.
        """
        if not self.is_closed and os.getpid() == self._owner:
            self.is_closed = True
            if self._lock is not None:
                # A full disk may lose uncommitted data, as a kill does.
                with suppress(errors.JournalError):
                    self._merge("truncate")
            self._db.close()
            self._unlock()

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            release(lock)

    def checkpoint(self, *, idle: bool) -> None:
        """Commit, and merge the write-ahead log, if it is large."""
        if self._writes < CHECK_EVERY:
            return
        self._writes = 0
        try:
            size = os.stat(f"{self._file}-wal").st_size
        except OSError:
            return
        if size > (CHECKPOINT_BYTES if idle else MOST_BYTES):
            self._merge("truncate" if idle else "passive")

    def _merge(self, how: str) -> None:
        self.commit()
        # On a full disk the log cannot be merged, but its content is not lost.
        with suppress(sqlite3.OperationalError):
            self._db.execute(f"pragma wal_checkpoint({how})")

    # -- reading and writing -----------------------------------------------------------------------------------

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query, including uncommitted changes."""
        self._catch_up()
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as exc:
            raise self._explained("cannot be read", exc) from exc

    def value(self, statement: str, *values: object) -> Any:
        """Return the first value of the first row."""
        return self.rows(statement, *values)[0][0]

    def write_late(self, statement: str, *values: object) -> None:
        """Execute a statement, and commit it with the next :meth:`write`. Until then, a kill loses it."""
        self._late.append((statement, values))

    def write(self, statement: str, *values: object, after: tuple[Statement, ...] = ()) -> None:
        """Execute a statement, and commit it together with earlier ones of :meth:`write_late`.

        Args:
            statement: The statement.
            *values: Its values.
            after: Statements to execute before it. Either all of them are committed, or none.

        Raises:
            JournalError: The commit failed. Only the statements of :meth:`write_late` are kept, for the next commit.
        """
        self._writes += 1
        if not (after or self._late or self._db.in_transaction):
            try:
                self._db.execute(statement, values)
            except sqlite3.Error as exc:
                raise self._rolled_back(exc) from exc
            return
        ours = *after, (statement, values)
        self._late += ours
        try:
            self.commit()
        except errors.JournalError:
            self._late = [each for each in self._late if not any(each is one for one in ours)]
            raise

    def commit(self) -> None:
        """Commit the statements of :meth:`write_late`.

        Raises:
            JournalError: The commit failed. They are kept for the next one.
        """
        self._catch_up()
        try:
            if self._db.in_transaction:
                self._db.execute("commit")
        except sqlite3.Error as exc:
            raise self._rolled_back(exc) from exc
        self._executed.clear()

    def _catch_up(self) -> None:
        late, self._late = self._late, []
        self._executed += late
        try:
            if late and not self._db.in_transaction:
                self._db.execute("begin immediate")
            for statement, values in late:
                self._db.execute(statement, values)
        except sqlite3.Error as exc:
            raise self._rolled_back(exc) from exc

    # -- errors ------------------------------------------------------------------------------------------------

    def _rolled_back(self, exc: sqlite3.Error) -> errors.JournalError:
        # After some errors, such as a full disk, SQLite has already rolled back.
        if self._db.in_transaction:
            self._db.execute("rollback")
        self._late, self._executed = [*self._executed, *self._late], []
        return self._explained("cannot be written", exc)

    def _explained(self, what: str, exc: Exception) -> errors.JournalError:
        if isinstance(exc, OSError):
            return self.error(f"{what}: {exc.strerror}", "Choose a path that can be written.")
        text = str(exc)
        hint = "Check the file and the directory it is in."
        if "not a database" in text or "malformed" in text:
            hint = "Choose another path, or restore the file."
        elif "full" in text:
            hint = "Free some disk space. Everything that was sent is in the journal."
        elif "locked" in text:
            hint = "End the transaction of the other program that has this file open."
        elif "readonly" in text or "unable to open" in text:
            hint = "Choose a path that can be written."
        return self.error(f"{what}: {text}", hint)

    def error(self, problem: str, hint: str) -> errors.JournalError:
        """Return an error of this journal."""
        return errors.JournalError(self._path, problem, hint)


def release(lock: int) -> None:
    """Release a lock that this process has taken, and close its descriptor.

    Closing alone would not release it while a forked copy of this process keeps the descriptor open.
    """
    import fcntl

    with suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_UN)
    os.close(lock)


def network_file_system(path: Path) -> str | None:
    """Return the type of the network file system that contains a path, or ``None`` if it is local or unknown."""
    try:
        # Read bytes, because mount points may have names in any encoding.
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return None
    kind, depth, wanted = "", -1, Path(os.path.realpath(path))
    for line in lines:
        before, _, after = line.partition(b" - ")
        # Octal escapes stand for spaces and similar characters.
        mount = Path(os.fsdecode(before.split()[4].decode("unicode_escape").encode("latin-1")))
        # Of several mounts at the same place, the last one is visible.
        if wanted.is_relative_to(mount) and len(mount.parts) >= depth:
            kind, depth = after.split()[0].decode("ascii", "replace"), len(mount.parts)
    return kind if kind in NETWORK_FILE_SYSTEMS else None
