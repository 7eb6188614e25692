"""The journal of a supervisor: names, ids, keys, hashes and states, in SQLite. No prompts and no answers.

Every write is committed before the line that depends on it is sent. A commit reaches the operating system, not the disk:
it survives the death of any process, and a loss of power may undo the latest ones. One supervisor at a time writes, which
a lock on a file beside the journal ensures; any number of processes may read.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import attrs

from trio_codex import errors
from trio_codex.supervision._spending import Spent
from trio_codex.supervision._system import network_file_system

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

SCHEMA: Final = 1
"""The version of the tables below. A journal of a newer one is refused."""

APPLICATION: Final = 0x74434A31
"""The mark that tells a journal from any other SQLite database."""

CHECKPOINT_BYTES: Final = 4 * 1024 * 1024
"""Size of the write-ahead log from which it is merged while no turn is open. The merge may stop this program for some
milliseconds, and for 250 when others write to the same disk, so SQLite's own trigger is off."""

MOST_BYTES: Final = 64 * 1024 * 1024
"""Size from which it is merged even if turns are open."""

_TABLES: Final = """
create table threads(
    name text primary key, id text not null, home text, accepted integer not null default 0, server text, anchor text,
    deaths integer not null default 0, tokens integer not null default 0, turns integer not null default 0,
    seconds real not null default 0
);
create table keys(
    name text not null, key text not null, digest text not null, attempt integer not null, state text not null,
    anchor text, turn text, status text, by_us integer not null default 0, primary key(name, key)
) without rowid;
"""

State: TypeAlias = Literal["sending", "running", "ended"]


@attrs.frozen(kw_only=True)
class ThreadRow:
    """What the journal knows about a thread.

    Attributes:
        name: The name that the program gave it.
        id: Its id on the server.
        home: The ``CODEX_HOME`` of the server.
        accepted: Whether one of its turns is known to have reached the history.
        server: The stamp of the server process that had it last; ``None`` if it is not known.
        anchor: The newest turn before the latest prompt was sent; ``None`` if there was none.
        deaths: At how many deaths of the server in a row it had an open turn.
        tokens: Tokens used by its turns.
        turns: The number of turns started.
        seconds: Seconds during which a turn was open.
    """

    name: str
    id: str
    home: str | None = None
    accepted: int = 0
    server: str | None = None
    anchor: str | None = None
    deaths: int = 0
    tokens: int = 0
    turns: int = 0
    seconds: float = 0.0


@attrs.frozen(kw_only=True)
class KeyRow:
    """What the journal knows about a prompt.

    Attributes:
        name: The name of its thread.
        key: Its key.
        digest: The hash of its input and options.
        attempt: The number of the latest message sent for it: 1 for the prompt itself, more for follow-ups.
        state: ``"sending"`` from before that message is sent, ``"running"`` from its first item on, ``"ended"``.
        anchor: The newest turn before that message was sent; ``None`` if there was none.
        turn: The id of its turn; ``None`` while it is not known.
        status: How the turn ended.
        by_us: Whether the program, and not a death, interrupted it.
    """

    name: str
    key: str
    digest: str
    attempt: int
    state: State
    anchor: str | None = None
    turn: str | None = None
    status: str | None = None
    by_us: int = 0


class Journal:
    """An open journal. Every method is synchronous, and takes microseconds.

    Args:
        path: The path of the database; ``None`` for one in memory.

    Raises:
        JournalInUse: Another supervisor has it open.
        JournalError: It cannot be opened, is no journal, or is that of a newer version.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.is_durable: bool = path is not None
        self._is_closed = False
        self._path = ":memory:" if path is None else os.fspath(path)
        self._lock: int | None = None if path is None else self._take_lock(Path(self._path))
        try:
            with self._checked("cannot be opened"):
                self._db = sqlite3.connect(self._path, isolation_level=None)
                try:
                    self._prepare()
                except BaseException:
                    self._db.close()
                    raise
        except BaseException:
            self._unlock()
            raise

    @classmethod
    def reading(cls, path: str | os.PathLike[str]) -> Journal:
        """Open an existing journal to read it.

        Raises:
            JournalError: There is none, or it cannot be read.
        """
        journal = cls.__new__(cls)
        journal.is_durable, journal._is_closed, journal._lock = True, False, None
        journal._path = os.fspath(path)
        with journal._checked("cannot be read"):
            journal._db = sqlite3.connect(
                f"{Path(path).absolute().as_uri()}?mode=ro", uri=True, isolation_level=None
            )
            found = journal._value("pragma application_id"), journal._value("pragma user_version")
        if found[0] != APPLICATION or found[1] > SCHEMA:
            journal._db.close()
            raise journal._error("is no journal of this version", "Check the path.")
        return journal

    def _take_lock(self, path: Path) -> int:
        if (kind := network_file_system(path.parent)) is not None:
            raise errors.JournalError(
                str(path), f"is on a network file system ({kind})", "Choose a path on a local disk."
            )
        import fcntl

        try:
            lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            problem = f"cannot be opened: {exc.strerror}"
            raise errors.JournalError(str(path), problem, "Choose a path that can be written.") from exc
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(lock)
            raise errors.JournalInUse(
                str(path), "is in use", "End the other supervisor, or give each one a journal of its own."
            ) from exc
        return lock

    def _prepare(self) -> None:
        found = self._value("pragma application_id"), self._value("pragma user_version")
        if found == (0, 0) and not self._value("select count(*) from sqlite_master"):
            self._db.executescript(
                f"begin; {_TABLES} pragma application_id={APPLICATION}; pragma user_version={SCHEMA}; commit;"
            )
        elif found[0] != APPLICATION:
            raise self._error("is a database, but no journal", "Choose another path.")
        elif found[1] > SCHEMA:
            raise self._error(
                f"has version {found[1]}; this trio-codex knows {SCHEMA}",
                "Upgrade trio-codex, or start a new one.",
            )
        self._db.execute("pragma journal_mode=wal")
        self._db.execute("pragma synchronous=normal")
        self._db.execute("pragma wal_autocheckpoint=0")
        # Find out now, and not in the middle of the first prompt, whether it can be written.
        self._db.execute(f"pragma user_version={SCHEMA}")

    def close(self) -> None:
        """Merge the write-ahead log, and give up the lock. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            if self._lock is not None:
                self._merge("truncate")
            self._db.close()
            self._unlock()

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def checkpoint(self, *, idle: bool) -> None:
        """Merge the write-ahead log if it is large."""
        try:
            size = os.stat(f"{self._path}-wal").st_size
        except OSError:
            return
        if size > (CHECKPOINT_BYTES if idle else MOST_BYTES):
            self._merge("truncate" if idle else "passive")

    def _merge(self, how: str) -> None:
        # On a full disk the log cannot be merged; nothing that it contains is lost.
        with suppress(sqlite3.OperationalError):
            self._db.execute(f"pragma wal_checkpoint({how})")

    # -- threads -----------------------------------------------------------------------------------------------

    def thread(self, name: str) -> ThreadRow | None:
        """Return the row of a thread."""
        row = self._row("select * from threads where name=?", name)
        return None if row is None else ThreadRow(**row)

    def spent(self, name: str | None = None) -> Spent:
        """Return what the turns of a thread have used, or those of all threads."""
        (row,) = self._rows(
            "select coalesce(sum(tokens), 0) tokens, coalesce(sum(turns), 0) turns, coalesce(sum(seconds), 0.0) seconds"
            " from threads where name=?1 or ?1 is null",
            name,
        )
        return Spent(**row)

    def threads(self) -> list[ThreadRow]:
        """Return the rows of all threads."""
        return [ThreadRow(**row) for row in self._rows("select * from threads order by name")]

    def started(self, name: str, thread_id: str, home: str | None, server: str | None) -> None:
        """Record that the server has started a thread, before its first turn."""
        self._write(
            "insert into threads(name, id, home, server) values(?, ?, ?, ?) on conflict(name) do update set"
            " id=excluded.id, home=excluded.home, server=excluded.server, accepted=0, anchor=null",
            name, thread_id, home, server,
        )  # fmt: skip

    def resumed(self, name: str, server: str | None) -> None:
        """Record which server has a thread now, before anything is sent on it."""
        self._write("update threads set server=? where name=?", server, name)

    def died(self, name: str, deaths: int) -> None:
        """Record at how many deaths in a row a thread had an open turn."""
        self._write("update threads set deaths=? where name=?", deaths, name)

    def used(self, name: str, tokens: int, seconds: float, total: int) -> None:
        """Record what a turn has used.

        Args:
            name: The name of the thread.
            tokens: Tokens.
            seconds: Seconds.
            total: The tokens of the whole thread, as the server counts them; 0 if it has not reported any. They include
                those of turns that a death of the program has cut off.
        """
        self._write(
            "update threads set tokens=max(tokens+?, ?), seconds=seconds+? where name=?",
            tokens, total, seconds, name,
        )  # fmt: skip

    # -- keys --------------------------------------------------------------------------------------------------

    def key(self, name: str, key: str) -> KeyRow | None:
        """Return the row of a prompt."""
        row = self._row("select * from keys where name=? and key=?", name, key)
        return None if row is None else KeyRow(**row)

    def keys(self, name: str) -> list[KeyRow]:
        """Return the rows of all prompts of a thread."""
        return [KeyRow(**row) for row in self._rows("select * from keys where name=? order by key", name)]

    def sending(self, name: str, key: str, digest: str, attempt: int, anchor: str | None) -> None:
        """Record that a message is about to be sent."""
        with self._checked("cannot be written"), self._db:
            self._db.execute("begin immediate")
            self._db.execute(
                "insert into keys(name, key, digest, attempt, state, anchor) values(?, ?, ?, ?, 'sending', ?)"
                " on conflict(name, key) do update set attempt=excluded.attempt, state='sending',"
                " anchor=excluded.anchor, turn=null, status=null, by_us=0",
                (name, key, digest, attempt, anchor),
            )
            self._db.execute("update threads set anchor=?, turns=turns+1 where name=?", (anchor, name))

    def running(self, name: str, key: str, turn: str) -> None:
        """Record that the server is working on a message."""
        with self._checked("cannot be written"), self._db:
            self._db.execute("begin immediate")
            self._db.execute(
                "update keys set state='running', turn=? where name=? and key=?", (turn, name, key)
            )
            self._db.execute("update threads set accepted=1 where name=?", (name,))

    def ended(self, name: str, key: str, turn: str, status: str, *, by_us: bool) -> None:
        """Record how the turn of a message ended."""
        self._write(
            "update keys set state='ended', turn=?, status=?, by_us=? where name=? and key=?",
            turn, status, int(by_us), name, key,
        )  # fmt: skip

    # -- SQLite ------------------------------------------------------------------------------------------------

    def _write(self, statement: str, *values: object) -> None:
        with self._checked("cannot be written"):
            self._db.execute(statement, values)

    def _row(self, statement: str, *values: object) -> dict[str, Any] | None:
        return next(iter(self._rows(statement, *values)), None)

    def _rows(self, statement: str, *values: object) -> list[dict[str, Any]]:
        with self._checked("cannot be read"):
            cursor = self._db.execute(statement, values)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _value(self, statement: str) -> Any:
        return self._db.execute(statement).fetchone()[0]

    @contextmanager
    def _checked(self, what: str) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            text = str(exc)
            hint = "Check the file and the directory it is in."
            if "not a database" in text or "malformed" in text:
                hint = "Choose another path, or restore the file."
            elif "full" in text:
                hint = "Make room on the disk. Nothing was sent that the journal does not have."
            elif "readonly" in text or "unable to open" in text:
                hint = "Choose a path that can be written."
            raise self._error(f"{what}: {text}", hint) from exc

    def _error(self, problem: str, hint: str) -> errors.JournalError:
        return errors.JournalError(self._path, problem, hint)


@attrs.frozen(kw_only=True)
class JournaledThread:
    """A thread in a journal.

    Attributes:
        name: Its name.
        id: Its id on the server.
        codex_home: The ``CODEX_HOME`` it is stored in.
        tokens: Tokens used by its turns.
        turns: The number of turns started.
        keys: What the journal says of each prompt: ``"sending"``, ``"running"``, or how it ended.
    """

    name: str
    id: str
    codex_home: str | None
    tokens: int
    turns: int
    keys: Mapping[str, str]


def read_journal(path: str | os.PathLike[str]) -> tuple[JournaledThread, ...]:
    """Read a journal, while a supervisor uses it or not. Nothing is written.

    Args:
        path: Its path.

    Raises:
        JournalError: There is none, or it cannot be read.
    """
    journal = Journal.reading(path)
    try:
        return tuple(
            JournaledThread(
                name=row.name,
                id=row.id,
                codex_home=row.home,
                tokens=row.tokens,
                turns=row.turns,
                keys={key.key: key.status or key.state for key in journal.keys(row.name)},
            )
            for row in journal.threads()
        )
    finally:
        journal.close()
