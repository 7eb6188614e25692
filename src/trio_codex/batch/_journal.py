"""The journal of a batch: its tasks, their progress, and the outcomes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import attrs
import msgspec

from trio_codex import TokenUsage, errors
from trio_codex._database import Database, Format
from trio_codex.batch._tasks import decode_task, encode_task
from trio_codex.batch._values import Outcome
from trio_codex.supervision._spending import total_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from trio_codex._database import Statement
    from trio_codex.batch._tasks import Task

NAME: Final = "batch.db"
"""The name of the journal in the directory of the batch."""

OFFLINE: Final = "offline"
"""The name of the home of an offline batch in that directory. It may exist before the journal."""

SHOWN: Final = 5
"""How many ids of tasks a difference lists."""

FORMAT: Final = Format(
    owner="batch",
    application=0x74434A32,
    version=1,
    tables="""
create table settings(name text primary key, value text not null) without rowid;
create table tasks(
    id text primary key, task blob not null, attempt integer not null default 0, state text not null default 'ended',
    failures integer not null default 0, deaths integer not null default 0, seconds real not null default 0, usage blob,
    current blob
);
create table outcomes(number integer primary key autoincrement, id text unique not null, run integer not null, outcome blob);
""",
)


def directory_of(out: str | os.PathLike[str]) -> Path:
    """Return the absolute path of the directory of a batch. A leading ``~`` is the home directory.

    Raises:
        JournalError: The path is relative, and the working directory was deleted.
    """
    try:
        return Path(os.path.abspath(os.path.expanduser(out)))
    except OSError as exc:
        problem = f"cannot be found: the working directory was deleted ({exc.strerror})"
        raise errors.JournalError(os.fspath(out), problem, "Pass an absolute path.") from exc


@attrs.define(kw_only=True)
class Progress:
    """The progress of a task.

    Attributes:
        attempt: The number of the latest attempt; 0 if there was none.
        state: The state of that attempt: ``"open"`` once its workspace is created, ``"over"`` once it will not continue, and
            ``"ended"`` once it is cleaned up.
        failures: How many attempts have failed for a transient reason.
        deaths: How many server deaths interrupted a turn of the task.
        seconds: Seconds during which attempts have run.
        usage: Tokens used by attempts before the latest one.
        current: Tokens used by the latest attempt. The journal of the supervisor counts them, too.
    """

    attempt: int = 0
    state: str = "ended"
    failures: int = 0
    deaths: int = 0
    seconds: float = 0.0
    usage: TokenUsage | None = None
    current: TokenUsage | None = None

    @property
    def total(self) -> TokenUsage | None:
        """Tokens used by all attempts."""
        return total_of(self.usage, self.current)


class Journal:
    """An open journal. Every method is synchronous and takes microseconds.

    Args:
        out: The directory of the batch.
        writes: Whether to open it for writing, which only one program at a time can do, and create it if necessary.

    Raises:
        JournalInUse: Another program writes.
        JournalError: There is no journal, or it cannot be used.
    """

    def __init__(self, out: Path, *, writes: bool) -> None:
        path = self._path = out / NAME
        self.run: int = 0
        # Not Path.is_file(), which raises for a path that is too long.
        if not writes and not os.path.isfile(path):
            hint = "Name the directory that a batch was given as out."
            raise errors.JournalError(str(path), "does not exist", hint)
        if writes:
            self._make_directory(out)
        self._db = Database(path, FORMAT, writes=writes)

    def _make_directory(self, out: Path) -> None:
        path = str(self._path)
        try:
            out.mkdir(parents=True, exist_ok=True)
            others = [each for each in out.iterdir() if each.name not in {f"{NAME}.lock", OFFLINE}]
        except OSError as exc:
            problem = f"cannot be opened: {exc.strerror}"
            raise errors.JournalError(path, problem, "Choose a directory that can be written.") from exc
        if others and not self._path.exists():
            problem = "does not exist, and the directory is not empty"
            raise errors.JournalError(path, problem, "Choose a new directory.")

    def close(self) -> None:
        """Merge the write-ahead log, and release the lock."""
        self._db.close()

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._db.is_closed

    # -- the whole batch ----------------------------------------------------------------------------------

    def begin(self, settings: Mapping[str, str], tasks: Iterable[Task], *, allow_changes: bool) -> None:
        """Begin a run: the first one, or another one with the same settings and tasks, and possibly new tasks.

        Args:
            settings: The settings, which must equal those of earlier runs.
            tasks: The tasks.
            allow_changes: Whether settings and tasks without an outcome may differ. Missing tasks are removed.

        Raises:
            BatchConflict: The settings or the tasks are not those of the earlier runs.
            ValueError: A task is not plain JSON.
        """
        encoded = {task.id: encode_task(task) for task in tasks}
        known = dict(self._db.rows("select id, task from tasks"))
        gone = {name for name in known if name not in encoded}
        other = {name for name, json in known.items() if encoded.get(name, json) != json}
        done = (
            {name for (name,) in self._db.rows("select id from outcomes")}
            if allow_changes
            else {*gone, *other}
        )
        differences = [] if allow_changes else [*self._changed(settings)]
        differences += [*_described(gone & done, "missing"), *_described(other & done, "different")]
        if differences:
            raise errors.BatchConflict(str(self._path.parent), tuple(differences))
        self.run = int(dict(self._settings()).get("run", "0")) + 1
        self._agree({**settings, "run": str(self.run)})
        for name in gone:
            self._db.write_late("delete from tasks where id=?", name)
        for name in other:
            # An attempt at the old task does not continue. Its number is not reused, because its workspace may still
            # exist.
            self._db.write_late(
                "update tasks set task=?, state=case state when 'ended' then state else 'over' end where id=?",
                encoded[name], name,
            )  # fmt: skip
        for name, json in encoded.items():
            if name not in known:
                self._db.write_late("insert into tasks(id, task) values(?, ?)", name, json)
        self._db.commit()

    def agree(self, settings: Mapping[str, str], *, allow_changes: bool) -> None:
        """Compare settings that become known later with those of earlier runs, and record them.

        Raises:
            BatchConflict: They differ.
        """
        if not allow_changes and (differences := tuple(self._changed(settings))):
            raise errors.BatchConflict(str(self._path.parent), differences)
        self._agree(settings)

    def _settings(self) -> list[tuple[str, str]]:
        return cast("list[tuple[str, str]]", self._db.rows("select name, value from settings"))

    def _changed(self, settings: Mapping[str, str]) -> Iterator[str]:
        before = dict(self._settings())
        for name, value in settings.items():
            if before.get(name, value) != value:
                yield f"{name} was {before[name]} and is now {value}"

    def _agree(self, settings: Mapping[str, str]) -> None:
        for row in settings.items():
            self._db.write_late("insert or replace into settings values(?, ?)", *row)
        self._db.commit()

    def todo(self) -> list[Task]:
        """Return the tasks that have no outcome, in their order. Those with an open attempt come first."""
        rows = self._db.rows(
            "select task from tasks where id not in (select id from outcomes) order by state in ('ended', 'over'), rowid"
        )
        return [decode_task(json) for (json,) in rows]

    def count(self) -> int:
        """Return the number of tasks."""
        return int(self._db.value("select count(*) from tasks"))

    def open(self) -> tuple[str, ...]:
        """Return the ids of the tasks that have an open attempt and no outcome."""
        rows = self._db.rows(
            "select id from tasks where state='open' and id not in (select id from outcomes) order by rowid"
        )
        return tuple(name for (name,) in rows)

    # -- attempts ----------------------------------------------------------------------------------------------

    def progress(self, task: Task) -> Progress:
        """Return the progress of a task."""
        ((*values, usage, current),) = self._db.rows(
            "select attempt, state, failures, deaths, seconds, usage, current from tasks where id=?", task.id
        )
        names = ("attempt", "state", "failures", "deaths", "seconds")
        given = dict(zip(names, values, strict=True))
        return Progress(
            **given, usage=_decode_usage(usage or b"null"), current=_decode_usage(current or b"null")
        )

    def save(self, task: Task, progress: Progress, *, late: bool = False) -> None:
        """Record the progress of a task.

        Args:
            task: The task.
            progress: Its progress.
            late: Whether it may wait for the next commit. If the program is killed before that commit, this record is
                lost.
        """
        statement, values = _saving(task, progress)
        (self._db.write_late if late else self._db.write)(statement, *values)

    # -- outcomes ----------------------------------------------------------------------------------------------

    def finish(self, outcome: Outcome, progress: Progress) -> None:
        """Record an outcome, and the progress of its task."""
        json = msgspec.json.encode(members_of(outcome))
        self._db.write(
            "insert into outcomes(id, run, outcome) values(?, ?, ?)",
            outcome.task.id, self.run, json, after=(_saving(outcome.task, progress),),
        )  # fmt: skip
        # A batch is never idle before its end, so without this the log would grow by 30 KiB for each task.
        self._db.checkpoint(idle=False)

    def uncleaned(self) -> list[Outcome]:
        """Return the outcomes whose last attempts were not cleaned up."""
        rows = self._db.rows(
            "select task, outcome from outcomes join tasks using(id) where state!='ended' order by number"
        )
        return [_decode_outcome(task, json, resumed=True) for task, json in rows]

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
        """Return the number of outcomes by status, and the tokens used by their tasks."""
        rows = self._db.rows("select outcome from outcomes")
        statuses: dict[str, int] = {}
        tokens = 0
        for (json,) in rows:
            members = cast("dict[str, Any]", msgspec.json.decode(json))
            statuses[members["status"]] = statuses.get(members["status"], 0) + 1
            usage: dict[str, int | None] = members["usage"] or {}
            tokens += usage.get("total_tokens") or 0
        return statuses, tokens


def _saving(task: Task, progress: Progress) -> Statement:
    return (
        "update tasks set attempt=?, state=?, failures=?, deaths=?, seconds=?, usage=?, current=? where id=?",
        (
            progress.attempt, progress.state, progress.failures, progress.deaths, progress.seconds,
            msgspec.json.encode(progress.usage), msgspec.json.encode(progress.current), task.id,
        ),
    )  # fmt: skip


def _described(ids: Iterable[str], what: str) -> Iterator[str]:
    names = sorted(ids)
    if names:
        shown = ", ".join(map(repr, names[:SHOWN]))
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        yield f"{'task' if len(names) == 1 else 'tasks'} {shown}{more}: {what}"


_decode_usage: Final = msgspec.json.Decoder(TokenUsage | None).decode


def members_of(outcome: Outcome) -> dict[str, Any]:
    """Return the members of an outcome, as the journal stores them."""
    # attrs.filters.exclude() would hash the definition of each field, which takes longer than the rest.
    return attrs.asdict(outcome, filter=lambda field, _: field.name not in ("task", "resumed"))


def _decode_outcome(task: bytes, json: bytes, *, resumed: bool) -> Outcome:
    members = cast("dict[str, Any]", msgspec.json.decode(json))
    usage = members.pop("usage")
    return Outcome(
        task=decode_task(task),
        usage=None if usage is None else TokenUsage(**usage),
        resumed=resumed,
        **members,
    )
