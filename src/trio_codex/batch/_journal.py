"""The journal of a batch: its tasks, how far each one is, and the outcomes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import attrs
import msgspec

from trio_codex import TokenUsage, errors
from trio_codex._database import Database, Format
from trio_codex.batch._tasks import decode_task, encode_task
from trio_codex.batch._values import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from trio_codex.batch._tasks import Task

NAME: Final = "batch.db"
"""The name of the journal in the directory of the batch."""

SHOWN: Final = 5
"""How many ids a difference names."""

FORMAT: Final = Format(
    owner="batch",
    application=0x74434A32,
    version=1,
    tables="""
create table settings(name text primary key, value text not null) without rowid;
create table tasks(
    id text primary key, task blob not null, attempt integer not null default 0, state text not null default 'ended',
    failures integer not null default 0, deaths integer not null default 0, seconds real not null default 0, usage blob
);
create table outcomes(number integer primary key autoincrement, id text unique not null, run integer not null, outcome blob);
""",
)


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
        path = self._path = out / NAME
        self.run: int = 0
        if not writes and not path.is_file():
            hint = "Name the directory that a batch was given as out."
            raise errors.JournalError(str(path), "does not exist", hint)
        if writes:
            self._make_directory(out)
        self._db = Database(path, FORMAT, writes=writes)

    def _make_directory(self, out: Path) -> None:
        path = str(self._path)
        try:
            out.mkdir(parents=True, exist_ok=True)
            others = [each for each in out.iterdir() if each.name != f"{NAME}.lock"]
        except OSError as exc:
            problem = f"cannot be opened: {exc.strerror}"
            raise errors.JournalError(path, problem, "Choose a directory that can be written.") from exc
        if others and not self._path.exists():
            problem = "does not exist, and the directory is not empty"
            raise errors.JournalError(path, problem, "Choose a new directory.")

    def close(self) -> None:
        """Merge the write-ahead log, and give up the lock."""
        self._db.close()

    # -- the batch as a whole ----------------------------------------------------------------------------------

    def begin(self, settings: Mapping[str, str], tasks: Iterable[Task]) -> None:
        """Begin a run: the first one, or one with the same settings and tasks, and perhaps with new tasks.

        Raises:
            BatchConflict: The settings or the tasks are not those of the earlier runs.
            ValueError: A task is not plain JSON.
        """
        encoded = {task.id: encode_task(task) for task in tasks}
        before = dict(self._db.rows("select name, value from settings"))
        run = int(before.pop("run", "0"))
        known = dict(self._db.rows("select id, task from tasks"))
        if run:
            differences = [*_settings_changed(before, settings), *_tasks_changed(known, encoded)]
            if differences:
                raise errors.BatchConflict(str(self._path.parent), tuple(differences))
        self.run = run + 1
        for row in (*settings.items(), ("run", str(self.run))):
            self._db.write_late("insert or replace into settings values(?, ?)", *row)
        for name, json in encoded.items():
            if name not in known:
                self._db.write_late("insert into tasks(id, task) values(?, ?)", name, json)
        self._db.commit()

    def todo(self) -> list[Task]:
        """Return the tasks that have no outcome, in their order. Those with an open attempt come first."""
        rows = self._db.rows(
            "select task from tasks where id not in (select id from outcomes) order by state='ended', rowid"
        )
        return [decode_task(json) for (json,) in rows]

    def count(self) -> int:
        """Return the number of tasks."""
        return int(self._db.value("select count(*) from tasks"))

    def open(self) -> tuple[str, ...]:
        """Return the ids of the tasks that have an open attempt and no outcome."""
        rows = self._db.rows(
            "select id from tasks where state!='ended' and id not in (select id from outcomes) order by rowid"
        )
        return tuple(name for (name,) in rows)

    # -- attempts ----------------------------------------------------------------------------------------------

    def progress(self, task: Task) -> Progress:
        """Return how far a task is."""
        ((*values, usage),) = self._db.rows(
            "select attempt, state, failures, deaths, seconds, usage from tasks where id=?", task.id
        )
        names = ("attempt", "state", "failures", "deaths", "seconds")
        return Progress(**dict(zip(names, values, strict=True)), usage=_decode_usage(usage))

    def save(self, task: Task, progress: Progress) -> None:
        """Record how far a task is."""
        self._db.write(
            "update tasks set attempt=?, state=?, failures=?, deaths=?, seconds=?, usage=? where id=?",
            progress.attempt, progress.state, progress.failures, progress.deaths, progress.seconds,
            _encode_usage(progress.usage), task.id,
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
        self._db.write(
            "insert into outcomes(id, run, outcome) values(?, ?, ?)",
            outcome.task.id, self.run, msgspec.json.encode(members),
        )  # fmt: skip

    def outcomes(self, after: int = 0, limit: int = -1) -> list[tuple[int, Outcome]]:
        """Return outcomes with their numbers, in order, after the one with the given number."""
        rows = self._db.rows(
            "select number, task, run, outcome from outcomes join tasks using(id) where number>? order by number limit ?",
            after, limit,
        )  # fmt: skip
        return [
            (number, _decode_outcome(task, json, resumed=run < self.run)) for number, task, run, json in rows
        ]

    def tally(self) -> tuple[dict[str, int], int]:
        """Return the number of outcomes by status, and the tokens that they have used."""
        rows = self._db.rows("select outcome from outcomes")
        statuses: dict[str, int] = {}
        tokens = 0
        for (json,) in rows:
            members = cast("dict[str, Any]", msgspec.json.decode(json))
            statuses[members["status"]] = statuses.get(members["status"], 0) + 1
            usage: dict[str, int | None] = members["usage"] or {}
            tokens += usage.get("total_tokens") or 0
        return statuses, tokens


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
