"""Merge the shards of a batch into one directory."""

from __future__ import annotations

import os
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from trio_codex import errors
from trio_codex._database import Database, Format
from trio_codex.batch._batch import THREADS
from trio_codex.batch._journal import FORMAT, NAME, Journal, directory_of
from trio_codex.supervision._journal import FORMAT as OF_THREADS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Row = tuple[Any, ...]

OF_SHARDS: Final = {"run", "shard"}
"""Settings that may differ between shards."""


class _Shard:
    """The contents of the journals of a shard.

    Raises:
        JournalError: A journal is missing or cannot be read.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        # This raises the right error for a directory without a journal.
        Journal(out, writes=False).close()
        settings, tasks, outcomes = _read(out / NAME, FORMAT, "settings", "tasks", "outcomes")
        self.settings: dict[str, str] = {name: value for name, value in settings if name not in OF_SHARDS}
        self.tasks: dict[str, Row] = {row[0]: row for row in tasks}
        self.outcomes: dict[str, Row] = {row[1]: row for row in outcomes}
        self.threads: list[Row] = []
        self.keys: list[Row] = []
        if (out / THREADS).exists():
            self.threads, self.keys = _read(out / THREADS, OF_THREADS, "threads", "keys")


def merge(outs: Iterable[str | os.PathLike[str]], into: str | os.PathLike[str]) -> None:
    """Merge the shards of a batch into one directory, which appears when it is complete. The shards are not changed.

    The directory can be read and run as if the batch had run there without ``shard``. Running it starts a new attempt
    at each task without an outcome. Workspaces are not copied.

    Args:
        outs: The directories of the shards. They should not be running.
        into: The directory to create, on a local disk. It may exist if it is empty.

    Raises:
        MergeConflict: The shards have different settings, or a task differs between them.
        JournalError: A shard has no journal, or ``into`` is not empty or cannot be written.
        ValueError: There are no shards.
    """
    target = directory_of(into)
    if os.path.exists(target) and (not target.is_dir() or any(target.iterdir())):
        raise errors.JournalError(
            str(target), "exists, and is not an empty directory", "Choose a new directory."
        )
    shards = [_Shard(directory_of(out)) for out in outs]
    if not shards:
        raise ValueError("there are no shards to merge")
    owners = _owners(shards)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
            made = Path(scratch) / "merged"
            _write(shards, owners, made)
            made.rename(target)
    except OSError as exc:
        hint = "Choose a directory that can be written."
        raise errors.JournalError(str(target), f"cannot be written: {exc}", hint) from exc


def _owners(shards: list[_Shard]) -> dict[str, _Shard]:
    """Return the shard from which each task is taken: the first with its outcome, or else the first with the task.

    Raises:
        MergeConflict: The shards are incompatible.
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
            yield f"{name} is {other}, but {one} in {first.out}"


def _task_differs(name: str, owner: _Shard, shard: _Shard) -> Iterator[str]:
    if owner.tasks[name][1] != shard.tasks[name][1]:
        yield f"task {name!r} differs from the one in {owner.out}"
    elif name in owner.outcomes and name in shard.outcomes:
        one, other = (msgspec.json.decode(each.outcomes[name][-1]) for each in (owner, shard))
        members = [member for member in sorted({*one, *other}) if one.get(member) != other.get(member)]
        if members:
            statuses = f"{other['status']} here, {one['status']} there"
            different = ", ".join(members)
            yield f"task {name!r} has a different outcome in {owner.out}: {statuses} (different: {different})"


def _write(shards: list[_Shard], owners: dict[str, _Shard], out: Path) -> None:
    out.mkdir()
    with closing(Database(out / NAME, FORMAT)) as db:
        _insert(db, "settings", [*shards[0].settings.items(), ("shard", "None"), ("run", "1")])
        for shard in shards:
            _insert(db, "tasks", [row for name, row in shard.tasks.items() if owners[name] is shard])
            done = [row for name, row in shard.outcomes.items() if owners[name] is shard]
            _insert(db, "outcomes", [(None, name, 1, *rest) for _, name, _, *rest in done])
        # Attempts cannot continue here, because their workspaces are elsewhere.
        db.write("update tasks set state='ended'")
    with closing(Database(out / THREADS, OF_THREADS)) as db:
        for shard in shards:
            for table, rows in (("threads", shard.threads), ("keys", shard.keys)):
                # The thread of an attempt is named by its task and number.
                _insert(db, table, [row for row in rows if owners.get(row[0].rpartition("#")[0]) is shard])
        db.commit()


def _insert(db: Database, table: str, rows: list[Row]) -> None:
    for row in rows:
        db.write_late(f"insert into {table} values({', '.join('?' * len(row))})", *row)


def _read(path: Path, kind: Format, *tables: str) -> list[list[Row]]:
    with closing(Database(path, kind, writes=False)) as db:
        return [db.rows(f"select * from {table}") for table in tables]
