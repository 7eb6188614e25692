"""Merge the shards of a batch into one directory."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from trio_codex import errors
from trio_codex.batch._batch import THREADS
from trio_codex.batch._journal import NAME, Journal
from trio_codex.supervision import read_journal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Row = tuple[Any, ...]

OF_SHARDS: Final = {"run", "shard"}
"""Settings in which shards differ."""


class _Shard:
    """The contents of the journals of a shard.

    Raises:
        JournalError: There is none, or it cannot be read.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        # It checks that this is a journal, and of this version.
        Journal(out, writes=False).close()
        settings, tasks, outcomes = _read(out / NAME, "settings", "tasks", "outcomes")
        self.settings: dict[str, str] = {name: value for name, value in settings if name not in OF_SHARDS}
        self.tasks: dict[str, Row] = {row[0]: row for row in tasks}
        self.outcomes: dict[str, Row] = {row[1]: row for row in outcomes}
        self.threads_path: Path = out / THREADS
        self.threads: list[Row] = []
        self.keys: list[Row] = []
        if self.threads_path.exists():
            read_journal(self.threads_path)
            self.threads, self.keys = _read(self.threads_path, "threads", "keys")


def merge(outs: Iterable[str | os.PathLike[str]], into: str | os.PathLike[str]) -> None:
    """Merge the shards of a batch into one directory, which appears when it is complete. The shards stay as they are.

    Everything that reads or runs a batch works on it as if the batch had run there without ``shard``. A task without an
    outcome begins a new attempt if it is run there. Workspaces are not copied.

    Args:
        outs: The directories of the shards. They should not be running.
        into: The directory to create, on a local disk. It may exist if it is empty.

    Raises:
        MergeConflict: The shards have different settings, or the same task with another content or outcome.
        JournalError: One of them has no journal, or ``into`` is not empty or cannot be written.
        ValueError: There are no shards.
    """
    target = Path(os.path.abspath(into))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise errors.JournalError(str(target), "exists, and is not an empty directory", "Choose a new one.")
    shards = [_Shard(Path(out)) for out in outs]
    if not shards:
        raise ValueError("there are no shards to merge")
    owners = _owners(shards)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
            made = Path(scratch) / "merged"
            _write(shards, owners, made)
            made.rename(target)
    except (OSError, sqlite3.Error) as exc:
        hint = "Choose a directory that can be written."
        raise errors.JournalError(str(target), f"cannot be written: {exc}", hint) from exc


def _owners(shards: list[_Shard]) -> dict[str, _Shard]:
    """Return the shard from which each task is taken: the first that has its outcome, or else the first that has it.

    Raises:
        MergeConflict: The shards do not fit together.
    """
    owners: dict[str, _Shard] = {}
    for shard in shards:
        differences = list(_settings_differ(shards[0], shard))
        for name in shard.tasks:
            owner = owners.setdefault(name, shard)
            differences += _task_differs(name, owner, shard)
            if name in shard.outcomes and name not in owner.outcomes:
                owners[name] = shard
        if differences:
            raise errors.MergeConflict(str(shard.out), tuple(differences))
    return owners


def _settings_differ(first: _Shard, shard: _Shard) -> Iterator[str]:
    for name in sorted({*first.settings, *shard.settings}):
        one, other = first.settings.get(name, "none"), shard.settings.get(name, "none")
        if one != other:
            yield f"{name} is {other}, and {one} in {first.out}"


def _task_differs(name: str, owner: _Shard, shard: _Shard) -> Iterator[str]:
    if owner.tasks[name][1] != shard.tasks[name][1]:
        yield f"task {name!r} is another one in {owner.out}"
    elif name in owner.outcomes and name in shard.outcomes:
        one, other = (msgspec.json.decode(each.outcomes[name][-1]) for each in (owner, shard))
        members = [member for member in sorted({*one, *other}) if one.get(member) != other.get(member)]
        if members:
            statuses = f"{other['status']}, and {one['status']} in {owner.out}"
            yield f"task {name!r} has another outcome: it is {statuses}; {', '.join(members)} differ"


def _write(shards: list[_Shard], owners: dict[str, _Shard], out: Path) -> None:
    Journal(out, writes=True).close()
    with closing(sqlite3.connect(out / NAME)) as db, db:
        _insert(db, "settings", [*shards[0].settings.items(), ("shard", "None"), ("run", "1")])
        for shard in shards:
            mine = [name for name in shard.tasks if owners[name] is shard]
            _insert(db, "tasks", [shard.tasks[name] for name in mine])
            done = [row for name, row in shard.outcomes.items() if owners[name] is shard]
            _insert(db, "outcomes", [(None, name, 1, *rest) for _, name, _, *rest in done])
        # No attempt goes on here: its workspace is elsewhere.
        db.execute("update tasks set state='ended'")
    with_threads = [shard for shard in shards if shard.threads]
    if not with_threads:
        return
    with closing(sqlite3.connect(out / THREADS)) as db, db:
        with closing(_connected(with_threads[0].threads_path)) as source:
            source.backup(db)
        db.execute("delete from threads")
        db.execute("delete from keys")
        for shard in with_threads:
            for table, rows in (("threads", shard.threads), ("keys", shard.keys)):
                # The thread of an attempt is named by its task and its number.
                _insert(db, table, [row for row in rows if owners.get(row[0].rpartition("#")[0]) is shard])


def _insert(db: sqlite3.Connection, table: str, rows: list[Row]) -> None:
    if rows:
        places = ", ".join("?" * len(rows[0]))
        db.executemany(f"insert into {table} values({places})", rows)


def _connected(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


def _read(path: Path, *tables: str) -> list[list[Row]]:
    try:
        with closing(_connected(path)) as db:
            db.execute("begin")
            return [db.execute(f"select * from {table}").fetchall() for table in tables]
    except sqlite3.Error as exc:
        raise errors.JournalError(
            str(path), f"cannot be read: {exc}", "Check the file and its directory."
        ) from exc
