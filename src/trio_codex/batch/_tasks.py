"""Tasks, and reading them from files."""

from __future__ import annotations

import codecs
import csv
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import attrs
import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

OPTIONS: Final = frozenset(
    {"approval_mode", "effort", "model", "output_schema", "sandbox", "service_tier", "summary"}
)
"""The turn options that a task may have."""

MAX_ID: Final = 200
"""Maximum length of an id in characters."""


def _check_options(_: object, __: Any, options: Mapping[str, Any]) -> None:
    unknown = sorted(set(options) - OPTIONS)
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r}; a task may have {', '.join(sorted(OPTIONS))}")


def _check_id(_: object, __: Any, value: str) -> None:
    if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # read from files
        raise TypeError(f"the id of a task is a string, not {type(value).__name__}")
    if not 0 < len(value) <= MAX_ID:
        raise ValueError(f"the id of a task has 1 to {MAX_ID} characters, not {len(value)}")


def _check_prompt(_: object, __: Any, value: str) -> None:
    if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # read from files
        raise TypeError(f"the prompt of a task is a string, not {type(value).__name__}")
    if not value.strip():
        raise ValueError("the prompt of a task is empty")


@attrs.frozen
class Task:
    """One task of a batch.

    Attributes:
        id: Its id, unique in the batch, with at most 200 characters.
        prompt: The prompt to run.
        options: Options of its turns: ``approval_mode``, ``effort``, ``model``, ``output_schema``, ``sandbox``,
            ``service_tier`` or ``summary``, as in :class:`~trio_codex.TurnOptions`. With an ``output_schema``, the value
            is the final response as JSON.
        data: Anything else that the solver needs, as plain JSON.

    Raises:
        ValueError: The id or the prompt is empty, or an option is unknown.
        TypeError: The id or the prompt is not a string.
    """

    id: str = attrs.field(validator=_check_id)
    prompt: str = attrs.field(validator=_check_prompt, repr=False)
    options: Mapping[str, Any] = attrs.field(
        factory=dict[str, Any], kw_only=True, validator=_check_options, repr=False
    )
    data: Any = attrs.field(default=None, kw_only=True, repr=False)


def read_tasks(path: str | os.PathLike[str]) -> list[Task]:
    """Read tasks from a file.

    In JSON Lines, each line is an object with ``id``, ``prompt``, the options of :class:`Task`, and ``data``. In CSV, the
    first line names the columns: ``id``, ``prompt`` and options; all other columns become ``data``. A task without an id
    gets the number of its line.

    Args:
        path: The path of the file. A file whose name ends in ``.csv`` is read as CSV.

    Raises:
        ValueError: A line is not a task, or two tasks have the same id. The message names the line.
        OSError: The file cannot be read.
    """
    source = Path(os.path.expanduser(path))
    with source.open("rb") as file:
        lines = enumerate(file, 1)
        if source.suffix.lower() == ".csv":
            return _collect(source, _csv_rows(source, (_text(source, *line) for line in lines)))
        stripped = ((number, line.removeprefix(codecs.BOM_UTF8).strip()) for number, line in lines)
        return _collect(source, ((number, line) for number, line in stripped if line))


def _text(source: Path, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as exc:
        raise ValueError(f"{source}:{number}: is not UTF-8: {exc}") from None


def _csv_rows(source: Path, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    # If not strict, the reader would take everything after an unclosed quotation mark as one field.
    reader = csv.reader(lines, strict=True)
    names: list[str] = []
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as exc:
            raise ValueError(f"{source}:{number}: is not CSV: {exc}") from None
        if row is None:
            return
        if not row:
            continue
        if not names:
            names = row
            if len({*names}) < len(names):
                raise ValueError(f"{source}:{number}: names a column twice")
            continue
        if len(row) > len(names):
            raise ValueError(f"{source}:{number}: has more fields than the first line names")
        members: dict[str, Any] = {name: value for name, value in zip(names, row, strict=False) if value}
        data = {name: members.pop(name) for name in list(members) if name not in {"id", "prompt", *OPTIONS}}
        if "output_schema" in members:
            members["output_schema"] = _parsed(source, number, members["output_schema"].encode())
        yield number, {**members, "data": data or None}


def _collect(source: Path, rows: Iterable[tuple[int, Any]]) -> list[Task]:
    tasks: list[Task] = []
    lines: dict[str, int] = {}
    for number, row in rows:
        value = _parsed(source, number, row) if isinstance(row, bytes) else row
        try:
            task = _task(value, number)
        except (TypeError, ValueError) as exc:
            raise ValueError(f"{source}:{number}: {exc}") from None
        if task.id in lines:
            raise ValueError(f"{source}:{number}: the id {task.id!r} is also that of line {lines[task.id]}")
        lines[task.id] = number
        tasks.append(task)
    return tasks


def _parsed(source: Path, number: int, line: bytes) -> Any:
    try:
        return msgspec.json.decode(line)
    except UnicodeDecodeError as exc:
        raise ValueError(f"{source}:{number}: is not UTF-8: {exc}") from None
    except (msgspec.DecodeError, RecursionError) as exc:
        raise ValueError(f"{source}:{number}: is not JSON: {exc}") from None


def _task(value: object, number: int) -> Task:
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    members = dict(cast("dict[str, Any]", value))
    identity, data = members.pop("id", str(number)), members.pop("data", None)
    if "prompt" not in members:
        raise ValueError("has no prompt")
    prompt = members.pop("prompt")
    # An id may be a number, as in most data sets.
    identity = str(identity) if isinstance(identity, int) else identity
    return Task(identity, prompt, options=members, data=data)


def encode_task(task: Task) -> bytes:
    """Return a task as JSON.

    Raises:
        ValueError: The task's options or data are not plain JSON.
    """
    members = {"id": task.id, "prompt": task.prompt, "options": dict(task.options), "data": task.data}
    try:
        return msgspec.json.encode(members, order="deterministic")
    except (TypeError, ValueError, RecursionError) as exc:
        raise ValueError(f"task {task.id!r} is not plain JSON: {exc}") from exc


def decode_task(json: bytes) -> Task:
    """Return a task from its JSON."""
    return Task(**msgspec.json.decode(json))


def checked_tasks(tasks: Iterable[Task], shard: tuple[int, int] | None) -> list[Task]:
    """Return the tasks of a shard.

    Raises:
        ValueError: Two tasks have the same id, or the shard is out of range.
        TypeError: One of them is not a task.
    """
    if shard is not None and not 0 <= shard[0] < shard[1]:
        raise ValueError(f"shard expects (index, count) with 0 <= index < count, got {shard!r}")
    found: dict[str, Task] = {}
    for task in tasks:
        if not isinstance(task, Task):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may not be typed
            raise TypeError(f"tasks expects instances of Task, got {type(task).__name__}")
        if task.id in found:
            raise ValueError(f"two tasks have the id {task.id!r}")
        found[task.id] = task
    return [task for task in found.values() if shard is None or _shard_of(task, shard[1]) == shard[0]]


def _shard_of(task: Task, count: int) -> int:
    # Assign tasks by id, so that shards do not change when tasks are added.
    return (
        int.from_bytes(hashlib.sha256(task.id.encode("utf-8", "surrogatepass")).digest()[:8], "big") % count
    )
