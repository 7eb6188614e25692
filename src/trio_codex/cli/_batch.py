"""``trio-codex batch``: run tasks, show their progress, print their outcomes, and write reports."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Literal, Self

import attrs
import click
import trio
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from trio_codex import errors
from trio_codex._core.user_code import import_function
from trio_codex.batch import (
    BatchBudget,
    CopyTree,
    EmptyDirectory,
    GitWorktree,
    Retry,
    merge,
    open_batch,
    read_outcomes,
    read_status,
    read_tasks,
    write_report,
)
from trio_codex.cli._attach import open_client, require_login, without_waiting
from trio_codex.cli._render import OutputConsole
from trio_codex.cli._startup import INTERRUPTED
from trio_codex.cli._text import CommandFailed, camel_case, one_line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from rich.progress import Task as RichTask

    from trio_codex import CodexConfig
    from trio_codex.batch import Batch, BatchStatus, Outcome, TaskContext, Workspace

NOT_ALL_OK = 3
"""The exit status if every task has an outcome, but some are not ok."""


async def run_batch(
    file: str,
    *,
    out: str,
    config: CodexConfig,
    offline: bool,
    solve: str | None,
    task_tokens: int | None,
    task_seconds: float | None,
    tokens: int | None,
    attempts: int,
    workspace: str,
    shard: str | None,
    model: str | None,
    sandbox: str | None,
    servers: str,
    **options: Any,
) -> int:
    """Run the tasks of a file, and return the exit status. The other options are those of :func:`open_batch`.

    Raises:
        CommandFailed: The batch has stopped, or was interrupted.
        CodexError: The batch or the server failed.
        UsageError: An option or a line of the file is wrong.
    """
    try:
        tasks = read_tasks(file)
    except (ValueError, UnicodeDecodeError) as exc:
        raise click.UsageError(one_line(str(exc))) from exc
    solver = None if solve is None else _solver(solve)
    thread_options: Any = {
        name: value for name, value in (("model", model), ("sandbox", sandbox)) if value is not None
    }
    async with AsyncExitStack() as stack:
        if offline:
            from trio_codex.cli._offline_model import scripted_home

            config = (await stack.enter_async_context(scripted_home(_offline_directory(out)))).config(config)
        else:
            # Otherwise every task would fail after minutes of retries, and have an outcome that the next run keeps.
            async with open_client(config) as codex:
                await require_login(codex, config)
        try:
            batch = await stack.enter_async_context(
                open_batch(
                    tasks,
                    solver,
                    out=out,
                    config=without_waiting(config),
                    budget=BatchBudget(task_tokens=task_tokens, task_seconds=task_seconds, tokens=tokens),
                    retry=Retry(attempts=attempts),
                    workspace=_workspace(workspace),
                    shard=_shard(shard),
                    thread_options=thread_options,
                    servers=_servers(servers),
                    **options,
                )
            )
        except ValueError as exc:
            raise click.UsageError(one_line(str(exc))) from exc
        await _watch(batch)
        return 0 if all(status == "ok" for status in batch.status().outcomes) else NOT_ALL_OK


def _offline_directory(out: str) -> str | None:
    """Return the home of an offline batch, in which later runs and reports find its threads.

    Returns:
        The directory, or ``None`` if ``out`` is some other directory, which :func:`open_batch` refuses.
    """
    if os.path.isdir(out) and os.listdir(out) and not os.path.exists(os.path.join(out, "batch.db")):
        return None
    return os.path.join(out, "offline")


async def _watch(batch: Batch) -> None:
    """Show outcomes until all tasks have one. Ctrl-C stops the batch; a second one interrupts it.

    Raises:
        CommandFailed: The batch has stopped.
    """
    console = OutputConsole(stderr=True)
    view = _Bar(console, batch) if console.is_terminal else _Lines()
    with trio.CancelScope() as scope, view:
        await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_interrupt, batch, console, scope)
            nursery.start_soon(view.refresh)
            stopped = None
            try:
                async for outcome in batch:
                    view.show(outcome)
            except errors.BatchStopped as exc:
                stopped = exc
            nursery.cancel_scope.cancel()
        if stopped is not None:
            status = INTERRUPTED if batch.is_stopping else 1
            raise CommandFailed(f"{one_line(str(stopped))}. Run the same command to resume", status)
    if scope.cancelled_caught:
        left = batch.status().total - batch.status().done
        tasks = "1 task" if left == 1 else f"{left} tasks"
        raise CommandFailed(f"interrupted with {tasks} left. Run the same command to resume", INTERRUPTED)


async def _stop_on_interrupt(batch: Batch, console: OutputConsole, scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async for _ in signals:
            if batch.is_stopping:
                scope.cancel()
                return
            batch.stop()
            running = len(batch.status().running)
            what = "the running task" if running == 1 else f"{running} running tasks"
            console.print(f"waiting for {what}; press Ctrl-C again to interrupt", highlight=False)


class _Lines:
    """One line on stdout for each outcome."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.stdout.flush()

    async def refresh(self) -> None:
        await trio.sleep_forever()

    def show(self, outcome: Outcome) -> None:
        sys.stdout.write(f"{_line(outcome)}\n")
        sys.stdout.flush()


class _Progress(Progress):
    """Leaves room for the ``^C`` that a terminal echoes, which would otherwise move the cursor to the next line."""

    def make_tasks_table(self, tasks: Iterable[RichTask]) -> Table:
        table = super().make_tasks_table(tasks)
        # The base class also calls this in its constructor, where the console is not known yet.
        table.width = self.console.width - len("^C") - 1 if hasattr(self, "live") else None
        return table


class _Bar:
    """A progress bar on a terminal, and one line above it for each outcome that is not ok."""

    def __init__(self, console: OutputConsole, batch: Batch) -> None:
        self._batch = batch
        self._progress = _Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[details]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True, min_width=5)),
            console=console,
            auto_refresh=False,  # it would start a thread
        )
        status = batch.status()
        self._task = self._progress.add_task("", total=status.total, details="", completed=status.done)
        self._began = trio.current_time(), status.done

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._update()
        self._progress.stop()

    async def refresh(self) -> None:
        while True:
            self._update()
            await trio.sleep(0.2)

    def _update(self) -> None:
        status = self._batch.status()
        began, before = self._began
        rate = (status.done - before) / max(trio.current_time() - began, 0.001)
        details = f"{_summary(status)} · {rate:.1f}/s"
        self._progress.update(self._task, completed=status.done, details=details)
        self._progress.refresh()

    def show(self, outcome: Outcome) -> None:
        if not outcome.is_ok:
            self._progress.console.print(_line(outcome), highlight=False, markup=False)


def show_status(out: str) -> int:
    """Print the progress of a batch, and return the exit status.

    Raises:
        CodexError: There is no batch.
    """
    status = read_status(out)
    click.echo(f"{status.done} of {status.total} done · {_summary(status)}")
    return 0


def show_results(out: str, form: str) -> int:
    """Print the outcomes of a batch, and return the exit status.

    Raises:
        CodexError: There is no batch.
    """
    rows = [_row(outcome) for outcome in read_outcomes(out)]
    if form == "jsonl":
        for row in rows:
            usage = None if row["usage"] is None else camel_case(row["usage"])
            click.echo(json.dumps(camel_case({**row, "usage": usage})))
        return 0
    columns = ("id", "status", "value", "error", "attempts", "seconds", "tokens", "thread_id")
    writer: csv.DictWriter[str] = csv.DictWriter(sys.stdout, columns, extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        tokens = None if row["usage"] is None else row["usage"]["total_tokens"]
        value = None if row["value"] is None else json.dumps(row["value"])
        writer.writerow({**row, "value": value, "tokens": tokens})
    return 0


async def report(out: str, *, config: CodexConfig, output: str | None, no_transcripts: bool) -> int:
    """Write a report, print where it is, and return the exit status.

    Raises:
        CodexError: There is no batch, or a server failed.
        OSError: The report cannot be written.
    """
    path = output or os.path.join(out, "report.html")
    await write_report(out, path, config=config, transcripts=not no_transcripts)
    click.echo(path)
    return 0


def merge_shards(outs: Sequence[str], into: str) -> int:
    """Merge shards, print the progress of their batch, and return the exit status.

    Raises:
        CodexError: They are not shards of one batch, or a directory cannot be read or written.
    """
    merge(outs, into)
    return show_status(into)


def _row(outcome: Outcome) -> dict[str, Any]:
    members = attrs.asdict(outcome, filter=attrs.filters.exclude("task", "resumed"))
    return {"id": outcome.task.id, **members, "seconds": round(outcome.seconds, 3)}


def _line(outcome: Outcome) -> str:
    error = "" if outcome.error is None else f": {outcome.error}"
    return one_line(f"{outcome.task.id} {outcome.status} after {outcome.seconds:.1f} s{error}")


def _summary(status: BatchStatus) -> str:
    counts = [f"{count} {name.replace('_', ' ')}" for name, count in sorted(status.outcomes.items())]
    return " · ".join([*counts, f"{len(status.running)} running", f"{status.tokens:,} tokens"])


def _solver(name: str) -> Callable[[TaskContext], Awaitable[Any]]:
    try:
        return import_function(name)
    except ValueError as exc:
        raise click.UsageError(f"--solve: {exc}") from exc


def _workspace(text: str) -> Workspace:
    kind, _, where = text.partition(":")
    if kind == "copy" and where:
        return CopyTree(where)
    if kind == "git" and where:
        repository, _, revision = where.partition("@")
        return GitWorktree(repository, revision or "HEAD")
    if text != "empty":
        raise click.UsageError(
            f"--workspace: {text!r} is not empty, copy:DIRECTORY or git:REPOSITORY[@REVISION]"
        )
    return EmptyDirectory()


def _servers(text: str) -> int | Literal["per-task"]:
    if text == "per-task":
        return "per-task"
    if not (text.isdecimal() and int(text)):
        raise click.UsageError(f"--servers: {text!r} is neither a positive number nor per-task")
    return int(text)


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise click.UsageError(f"--shard: {text!r} is not INDEX/COUNT with 0 <= INDEX < COUNT")
    return int(index), int(count)
