"""The report of a batch: one self-contained HTML page."""

from __future__ import annotations

import base64
import hashlib
import os
import time
from contextlib import closing
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import trio

from trio_codex import CodexConfig, __version__
from trio_codex.batch._journal import Journal, directory_of, members_of
from trio_codex.batch._transcripts import fitted, read_transcripts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from trio_codex.batch._tasks import Task
    from trio_codex.batch._transcripts import Transcript
    from trio_codex.batch._values import Outcome

PAGE_BYTES: Final = 64 * 1024 * 1024
"""The intended limit on all transcripts together. Long texts are shortened to meet it."""

MOST_BYTES, LEAST_BYTES = 1024 * 1024, 16 * 1024
"""The largest and the smallest share of one task."""

PREVIEW: Final = 240
"""How many characters of a prompt, a value and an error the table shows."""


async def write_report(
    out: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    config: CodexConfig | None = None,
    transcripts: bool = True,
) -> None:
    """Write a report of a batch: a self-contained HTML page, which makes no requests.

    It contains a summary, the distributions of time and tokens, and for each task its outcome and the transcripts of its
    attempts with their timelines. The batch may be running. Very long texts are shortened.

    The transcripts are read by a server for each ``CODEX_HOME`` of the batch. The page lists threads that no longer
    exist or are on another machine.

    Args:
        out: The directory of the batch.
        path: Where to write the page. An existing file is replaced. If the path is a link, the file that it leads to is
            replaced.
        config: The configuration of the servers. Without a ``codex_home``, each one uses the home in which its threads
            were started.
        transcripts: Whether to read the transcripts. No server is started without them.

    Raises:
        JournalError: There is no batch.
        StartError: A server did not start.
        ConnectionBroken: A server died.
        OSError: The page cannot be written.
    """
    await trio.lowlevel.checkpoint()
    directory = directory_of(out)
    target = Path(os.path.expanduser(path))  # noqa: ASYNC240  # no access to the disk
    with closing(Journal(directory, writes=False)) as journal:
        outcomes = [outcome for _, outcome in journal.outcomes()]
        left, opened = journal.todo(), set(journal.open())
    # A link keeps its target. A device or a pipe is written to, and not replaced.
    is_file = target.is_file() or not target.exists()  # noqa: ASYNC240  # on a local disk
    target = Path(os.path.realpath(target)) if is_file else target  # noqa: ASYNC240  # as above
    scratch = target.with_name(f".{target.name}.{os.getpid()}") if is_file else target
    try:
        # Check the path first, because reading the transcripts takes time.
        with scratch.open("w", encoding="utf-8") as file:  # noqa: ASYNC230  # as above
            share = max(LEAST_BYTES, min(MOST_BYTES, PAGE_BYTES // max(len(outcomes) + len(left), 1)))
            found: dict[str, list[Transcript]] = {}
            if transcripts:
                found = await read_transcripts(directory, outcomes, config or CodexConfig(), share)
            rows = [_ended(outcome) for outcome in outcomes]
            rows += [_left(task, "unfinished" if task.id in opened else "waiting") for task in left]
            batch = {
                "out": os.path.abspath(directory),  # noqa: ASYNC240  # no access to the disk
                "written": round(time.time() * 1000),
                "version": __version__,
                "tasks": [
                    {
                        **_preview(row),
                        "spans": [thread.span for thread in found.get(row["id"], []) if thread.span],
                    }
                    for row in rows
                ],
            }
            file.writelines(_page(batch, (_details(row, found.get(row["id"], []), share) for row in rows)))
        if is_file:
            scratch.replace(target)
    finally:
        if is_file:
            scratch.unlink(missing_ok=True)


def _ended(outcome: Outcome) -> dict[str, Any]:
    return {
        **_left(outcome.task, outcome.status),
        **members_of(outcome),
        "seconds": round(outcome.seconds, 3),
    }


def _left(task: Task, status: str) -> dict[str, Any]:
    return {
        "id": task.id,
        "status": status,
        "prompt": task.prompt,
        "options": dict(task.options),
        "data": task.data,
    }


def _preview(row: dict[str, Any]) -> dict[str, Any]:
    value, usage = row.get("value"), cast("dict[str, Any]", row.get("usage") or {})
    text = value if isinstance(value, str) else "" if value is None else msgspec.json.encode(value).decode()
    return {
        "id": row["id"],
        "status": row["status"],
        "seconds": row.get("seconds"),
        "attempts": row.get("attempts"),
        "usage": usage,
        "prompt": row["prompt"][:PREVIEW],
        "result": (row.get("error") or text)[:PREVIEW],
    }


def _details(row: dict[str, Any], threads: list[Transcript], share: int) -> bytes:
    rest = msgspec.json.decode(fitted(row, share))
    return msgspec.json.encode({**rest, "threads": [thread.json for thread in threads]})


def _page(batch: Mapping[str, Any], details: Iterable[bytes]) -> Iterator[str]:
    """Yield the parts of the page. The browser allows the page only its own script and styles."""
    files = resources.files("trio_codex.batch")
    template, style, script = (
        files.joinpath(f"_report.{kind}").read_text("utf-8") for kind in ("html", "css", "js")
    )
    before, after = template.split("<!-- data -->")
    before = before.replace("{style hash}", _hash(style)).replace("{script hash}", _hash(script))
    yield before.replace("{style}", style)
    yield _data("batch", msgspec.json.encode(batch))
    for number, json in enumerate(details):
        yield _data(f"task-{number}", json)
    yield after.replace("{script}", script)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _data(name: str, json: bytes) -> str:
    text = json.decode().replace("<", "\\u003c")  # so that no text can end the element
    return f'<script type="application/json" id="{name}">{text}</script>\n'
