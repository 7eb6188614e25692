"""The journal of a batch: its tasks, how far each one is, and the outcomes, in SQLite.

A commit reaches the operating system, not the disk: it survives the death of any process, and a loss of power may undo the
latest ones. One program at a time writes, which a lock on a file beside it ensures; any number may read.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, cast

import attrs
import msgspec

from trio_codex import TokenUsage, errors
from trio_codex.batch._tasks import decode_task, encode_task
from trio_codex.batch._values import Outcome

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping
    from pathlib import Path

    from trio_codex.batch._tasks import Task

SCHEMA: Final = 1
"""The version of the tables below. A journal of another one is refused."""

APPLICATION: Final = 0x74434A32
"""The mark that tells a journal from any other SQLite database."""

NAME: Final = "batch.db"
"""The name of the journal in the directory of the batch."""

OFFLINE: Final = "offline"
"""The name of the home that a batch without an account has there, which may be older than the journal."""

SHOWN: Final = 5
"""How many ids a difference names."""

_TABLES: Final = """
create table settings(name text primary key, value text not null) without rowid;
create table tasks(
    id text primary key, task blob not null, attempt integer not null default 0, state text not null default 'ended',
    failures integer not null default 0, deaths integer not null default 0, seconds real not null default 0, usage blob
);
create table outcomes(number integer primary key autoincrement, id text unique not null, run integer not null, outcome blob);
"""


@attrs.define(kw_only=True)
class Progress:
    """How far a task without an outcome is.

    Attributes:
        attempt: The number of its latest attempt; 0 if there was none.
        state: ``"begun"`` from before its workspace is made, ``"open"`` from before its thread is started, and ``"ended"``
            once it is not to go on.
        failures: How many attempts have failed for a passing reason.
        deaths: At how many deaths of the server it had a turn open.
        seconds: Seconds during which attempts have run.
        usage: Tokens used by attempts.
    """

    attempt: int = 0
    state: str = "ended"
    failures: int = 0
    deaths: int = 0
    seconds: float = 0.0
    usage: TokenUsage | None = None


class Journal:
    """An open journal. Every method is synchronous, and takes microseconds.

    Args:
        out: The directory of the batch.
        writes: Whether to write, which only one program at a time can do. It creates what does not exist.

    Raises:
        JournalInUse: Another program writes.
        JournalError: There is no journal, or it cannot be used.
    """

    def __init__(self, out: Path, *, writes: bool) -> None:
        self._path = out / NAME
        self._lock: int | None = None
        self.run: int = 0
        try:
            with self._checked("cannot be opened"):
                if writes:
                    self._lock = self._take_lock(out)
                elif not self._path.is_file():
                    raise self._error("does not exist", "Name the directory that a batch was given as out.")
                self._db = sqlite3.connect(self._path, isolation_level=None)
                try:
                    self._prepare(writes=writes)
                except BaseException:
                    self._db.close()
                    raise
        except BaseException:
            self._unlock()
            raise

    def _take_lock(self, out: Path) -> int:
        import fcntl

        out.mkdir(parents=True, exist_ok=True)
        if not self._path.exists() and any(
            each.name not in {f"{NAME}.lock", OFFLINE} for each in out.iterdir()
        ):
            raise self._error("does not exist, and the directory is not empty", "Choose a new directory.")
        lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise errors.JournalInUse(
                str(self._path),
                "is in use",
                "Another program runs this batch: end it, or choose another directory.",
            ) from None
        return lock

    def _prepare(self, *, writes: bool) -> None:
        found = self._value("pragma application_id"), self._value("pragma user_version")
        if writes and found == (0, 0) and not self._value("select count(*) from sqlite_master"):
            self._db.execute("pragma journal_mode=wal")
            self._db.executescript(
                f"begin; {_TABLES} pragma application_id={APPLICATION}; pragma user_version={SCHEMA}; commit;"
            )
        elif found[0] != APPLICATION:
            raise self._error("is a database, but not the journal of a batch", "Choose another directory.")
        elif found[1] != SCHEMA:
            problem = f"has version {found[1]}; this trio-codex knows {SCHEMA}"
            raise self._error(problem, "Use the trio-codex that wrote it, or start a new batch.")
        if writes:
            self._db.execute("pragma synchronous=normal")
            # An automatic checkpoint can stop the program for a quarter of a second.
            self._db.execute("pragma wal_autocheckpoint=0")

    def close(self) -> None:
        """Merge the write-ahead log, and give up the lock."""
        if self._lock is not None:
            # On a full disk the log cannot be merged; nothing that it contains is lost.
            with suppress(sqlite3.OperationalError):
                self._db.execute("pragma wal_checkpoint(truncate)")
        self._db.close()
        self._unlock()

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    # -- the batch as a whole ----------------------------------------------------------------------------------

    def begin(self, settings: Mapping[str, str], tasks: Iterable[Task]) -> None:
        """Begin a run: the first one, or one with the same settings and tasks, and perhaps with new tasks.

        Raises:
            BatchConflict: The settings or the tasks are not those of the earlier runs.
            ValueError: A task is not plain JSON.
        """
        encoded = {task.id: encode_task(task) for task in tasks}
        before = dict(self._all("select name, value from settings"))
        run = int(before.pop("run", "0"))
        known = dict(self._all("select id, task from tasks"))
        if run:
            differences = [*_settings_changed(before, settings), *_tasks_changed(known, encoded)]
            if differences:
                raise errors.BatchConflict(str(self._path.parent), tuple(differences))
        self.run = run + 1
        with self._checked("cannot be written"), self._db:
            self._db.execute("begin immediate")
            rows = [*settings.items(), ("run", str(self.run))]
            self._db.executemany("insert or replace into settings values(?, ?)", rows)
            new = [(name, json) for name, json in encoded.items() if name not in known]
            self._db.executemany("insert into tasks(id, task) values(?, ?)", new)

    def todo(self) -> list[Task]:
        """Return the tasks that have no outcome, in their order. Those with an open attempt come first."""
        rows = self._all(
            "select task from tasks where id not in (select id from outcomes) order by state='ended', rowid"
        )
        return [decode_task(json) for (json,) in rows]

    def count(self) -> int:
        """Return the number of tasks."""
        return int(self._value("select count(*) from tasks"))

    def open(self) -> tuple[str, ...]:
        """Return the ids of the tasks that have an open attempt and no outcome."""
        rows = self._all(
            "select id from tasks where state!='ended' and id not in (select id from outcomes) order by rowid"
        )
        return tuple(name for (name,) in rows)

    # -- attempts ----------------------------------------------------------------------------------------------

    def progress(self, task: Task) -> Progress:
        """Return how far a task is."""
        ((*values, usage),) = self._all(
            "select attempt, state, failures, deaths, seconds, usage from tasks where id=?", task.id
        )
        names = ("attempt", "state", "failures", "deaths", "seconds")
        return Progress(**dict(zip(names, values, strict=True)), usage=_decode_usage(usage))

    def save(self, task: Task, progress: Progress) -> None:
        """Record how far a task is."""
        with self._checked("cannot be written"):
            self._db.execute(
                "update tasks set attempt=?, state=?, failures=?, deaths=?, seconds=?, usage=? where id=?",
                (
                    progress.attempt, progress.state, progress.failures, progress.deaths, progress.seconds,
                    _encode_usage(progress.usage), task.id,
                ),
            )  # fmt: skip

    # -- outcomes ----------------------------------------------------------------------------------------------

    def finish(self, outcome: Outcome) -> None:
        """Record an outcome."""
        members = {
            "status": outcome.status,
            "value": outcome.value,
            "error": outcome.error,
            "usage": None if outcome.usage is None else attrs.asdict(outcome.usage),
            "attempts": outcome.attempts,
            "seconds": outcome.seconds,
            "thread_id": outcome.thread_id,
        }
        with self._checked("cannot be written"):
            self._db.execute(
                "insert into outcomes(id, run, outcome) values(?, ?, ?)",
                (outcome.task.id, self.run, msgspec.json.encode(members)),
            )

    def outcomes(self, after: int = 0, limit: int = -1) -> list[tuple[int, Outcome]]:
        """Return outcomes with their numbers, in order, after the one with the given number."""
        rows = self._all(
            "select number, task, run, outcome from outcomes join tasks using(id) where number>? order by number limit ?",
            after, limit,
        )  # fmt: skip
        return [
            (number, _decode_outcome(task, json, resumed=run < self.run)) for number, task, run, json in rows
        ]

    def tally(self) -> tuple[dict[str, int], int]:
        """Return the number of outcomes by status, and the tokens that they have used."""
        rows = self._all("select outcome from outcomes")
        statuses: dict[str, int] = {}
        tokens = 0
        for (json,) in rows:
            members = cast("dict[str, Any]", msgspec.json.decode(json))
            statuses[members["status"]] = statuses.get(members["status"], 0) + 1
            usage: dict[str, int | None] = members["usage"] or {}
            tokens += usage.get("total_tokens") or 0
        return statuses, tokens

    # -- SQLite ------------------------------------------------------------------------------------------------

    def _all(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._checked("cannot be read"):
            return self._db.execute(statement, values).fetchall()

    def _value(self, statement: str) -> Any:
        return self._db.execute(statement).fetchone()[0]

    @contextmanager
    def _checked(self, what: str) -> Generator[None]:
        try:
            yield
        except OSError as exc:
            raise self._error(f"{what}: {exc.strerror}", "Choose a directory that can be written.") from exc
        except sqlite3.Error as exc:
            hint = (
                "Make room on the disk."
                if "full" in str(exc)
                else "Check the file and the directory it is in."
            )
            raise self._error(f"{what}: {exc}", hint) from exc

    def _error(self, problem: str, hint: str) -> errors.JournalError:
        return errors.JournalError(str(self._path), problem, hint)


def _settings_changed(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for name in sorted({*before, *now}):
        old, new = before.get(name, "none"), now.get(name, "none")
        if old != new:
            yield f"{name} was {old}, and is {new}"


def _tasks_changed(before: Mapping[str, bytes], now: Mapping[str, bytes]) -> Iterator[str]:
    gone = [name for name in before if name not in now]
    other = [name for name, json in before.items() if name in now and now[name] != json]
    for names, what in ((gone, "missing"), (other, "different")):
        if names:
            shown = ", ".join(map(repr, names[:SHOWN]))
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            yield f"{'task' if len(names) == 1 else 'tasks'} {shown}{more}: {what}"


def _encode_usage(usage: TokenUsage | None) -> bytes | None:
    return None if usage is None else msgspec.json.encode(attrs.asdict(usage))


def _decode_usage(json: bytes | None) -> TokenUsage | None:
    return None if json is None else TokenUsage(**msgspec.json.decode(json))


def _decode_outcome(task: bytes, json: bytes, *, resumed: bool) -> Outcome:
    members = cast("dict[str, Any]", msgspec.json.decode(json))
    usage = members.pop("usage")
    return Outcome(
        task=decode_task(task),
        usage=None if usage is None else TokenUsage(**usage),
        resumed=resumed,
        **members,
    )
