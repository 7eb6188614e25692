"""``trio-codex threads``: list, show, archive and delete stored threads."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click
import trio
from rich.table import Table
from rich.text import Text

from trio_codex import wire
from trio_codex.cli._attach import open_client
from trio_codex.cli._chat_progress import text_of
from trio_codex.cli._render import Screen, duration, relative, tally, verb
from trio_codex.cli._terminal import InputEndedError, Terminal, find_terminal
from trio_codex.cli._text import CommandFailed, explain, one_line, printable, script_of, sentence
from trio_codex.errors import RpcError

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Sequence

    from trio_codex import Codex
    from trio_codex.cli._attach import Source

TEXT_LIMIT: Final = 300
"""Maximum number of characters of a summarized message."""

WIDE: Final = 110
"""Minimum number of columns for showing the directory."""

STATUS_STYLES: Final = {"completed": "green", "failed": "red"}


async def show_list(*, source: Source, archived: bool, cwd: str | None, limit: int, as_json: bool) -> int:
    """List stored threads, most recently changed first."""
    screen = Screen(stderr=False)
    async with open_client(source) as codex:
        threads = await first(codex.threads(archived=archived, cwd=cwd, page_size=limit), limit)
    if as_json:
        for thread in threads:
            _write_json(wire.encode(thread))
    elif threads:
        screen.display(table(threads, screen.width))
    else:
        where = "" if cwd is None else f" of {printable(cwd)}"
        screen.note(f"no {'archived ' if archived else ''}threads{where}", "dim")
    return 0


async def show_thread(thread_id: str, *, source: Source, as_json: bool) -> int:
    """Show a thread: its turns, and a summary of their items."""
    screen = Screen(stderr=False)
    async with open_client(source) as codex:
        thread = await codex.thread_read(thread_id)
        turns = codex.thread_turns(thread_id, sort_direction="asc", items_view="full")
        if as_json:
            _write_json({"thread": wire.encode(thread)})
            async for turn in turns:
                _write_json({"turn": wire.encode(turn)})
            return 0
        screen.note(Text(title(thread), "bold"))
        facts = [thread.id, thread.model, printable(thread.cwd), f"updated {when(thread.updated_at)}"]
        screen.note(" · ".join(one_line(fact) for fact in facts if fact), "dim")
        async for turn in turns:
            took = "" if turn.duration_ms is None else f" · {duration(turn.duration_ms / 1000)}"
            began = "" if turn.started_at is None else f" · {when(turn.started_at)}"
            screen.note("")
            screen.note(
                f"{turn.status}{began}{took}", STATUS_STYLES.get(str(turn.status), "yellow"), mark="● "
            )
            show_items(screen, turn.items, thread.cwd)
            if turn.error is not None:
                screen.note(one_line(turn.error.message), "red", indent=2, mark="✗ ")
    return 0


def _write_json(value: object) -> None:
    click.echo(json.dumps(value))


async def archive(thread_ids: Sequence[str], *, source: Source) -> int:
    """Archive threads."""
    async with open_client(source) as codex:
        return await _each(thread_ids, codex.thread_archive, "archived")


async def unarchive(thread_ids: Sequence[str], *, source: Source) -> int:
    """Restore archived threads."""
    async with open_client(source) as codex:

        async def bring_back(thread_id: str) -> None:
            await codex.api.thread.unarchive(thread_id=thread_id)

        return await _each(thread_ids, bring_back, "restored")


async def delete(thread_ids: Sequence[str], *, source: Source, yes: bool) -> int:
    """Delete threads after confirmation.

    Raises:
        CommandFailed: The user did not confirm.
    """
    async with open_client(source) as codex:
        if not yes:
            await _agree(codex, thread_ids)
        return await _each(thread_ids, codex.thread_delete, "deleted")


async def _agree(codex: Codex, thread_ids: Sequence[str]) -> None:
    await trio.lowlevel.checkpoint()
    descriptor = find_terminal()
    if descriptor is None:
        raise CommandFailed("there is no terminal to ask on; --yes deletes without asking", 2)
    screen = Screen()
    for thread_id in thread_ids:
        screen.note(
            Text.assemble("  ", thread_id, "  ", (title(await codex.thread_read(thread_id), 60), "bold"))
        )
    what = "this thread" if len(thread_ids) == 1 else f"these {len(thread_ids)} threads"
    prompt = Text.assemble(("? ", "bold magenta"), (f"Permanently delete {what}?", "bold"), " [y]es  [n]o > ")
    try:
        answer = await Terminal(screen, descriptor).line(prompt)
    except InputEndedError:
        answer = ""
    if answer.lower() not in ("y", "yes"):
        raise CommandFailed("nothing was deleted")


async def _each(thread_ids: Sequence[str], async_fn: Callable[[str], Awaitable[object]], done: str) -> int:
    screen, complaints = Screen(stderr=False), Screen()
    status = 0
    for thread_id in thread_ids:
        try:
            await async_fn(thread_id)
        except RpcError as exc:
            complaints.note(f"{printable(thread_id)}: {sentence(*explain(exc))}", "red")
            status = 1
        else:
            screen.note(f"{done} {printable(thread_id)}")
    await trio.lowlevel.checkpoint()
    return status


# -- summaries -----------------------------------------------------------------------------------------------------


async def first(threads: AsyncIterable[wire.Thread], count: int) -> list[wire.Thread]:
    """Return the first ``count`` threads."""
    found: list[wire.Thread] = []
    async for thread in threads:
        found.append(thread)
        if len(found) == count:
            break
    return found


def table(threads: Iterable[wire.Thread], width: int, *, numbered: bool = False) -> Table:
    """Lay out threads as a table.

    Args:
        threads: The threads.
        width: The number of columns available. If it is small, the directory is left out.
        numbered: Whether to number the rows, so that the user can choose one.
    """
    grid = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    if numbered:
        grid.add_column("", justify="right", style="bold", no_wrap=True)
    grid.add_column("id", no_wrap=True, min_width=36)
    grid.add_column("updated", no_wrap=True, style="dim")
    # Rich narrows columns that may wrap; the cells themselves are truncated instead.
    grid.add_column("name", overflow="ellipsis")
    with_directory = width >= WIDE
    if with_directory:
        grid.add_column("directory", style="dim", overflow="ellipsis")
    for number, thread in enumerate(threads, 1):
        cells = [f"[{number}]"] if numbered else []
        cells += [thread.id, when(thread.updated_at), title(thread, 60)]
        if with_directory:
            cells.append(at_home(thread.cwd))
        grid.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in cells))
    return grid


def title(thread: wire.Thread, limit: int = 100) -> str:
    """Return the name of a thread, or the beginning of its text."""
    return one_line(thread.name or thread.preview or "(no messages)", limit)


def when(timestamp: float) -> str:
    """Format a time in the local time zone."""
    return f"{datetime.fromtimestamp(timestamp):%Y-%m-%d %H:%M}"


def at_home(path: str) -> str:
    """Format a path, with ``~`` for the home directory."""
    from os.path import expanduser

    home = expanduser("~").rstrip("/")
    shown = printable(path, strict=True)
    return f"~{shown[len(home) :]}" if home and (shown == home or shown.startswith(f"{home}/")) else shown


def show_items(screen: Screen, items: Iterable[wire.ThreadItem | Any], cwd: str) -> None:
    """Show the items of a turn, one per line."""
    for item in items:
        match item:
            case wire.UserMessageThreadItem(content=content):
                screen.note(one_line(text_of(content), TEXT_LIMIT), "bold", indent=2, mark="» ")
            case wire.AgentMessageThreadItem(text=text):
                screen.note(one_line(text, TEXT_LIMIT), indent=2, mark="“ ")
            case wire.CommandExecutionThreadItem(command=command, exit_code=code, status=status):
                how = "✓" if code == 0 else str(status) if code is None else f"✗ exit {code}"
                line = Text.assemble(one_line(script_of(command), 200), (f"  {how}", "dim"))
                screen.note(line, indent=2, mark=Text("$ ", "bold blue"))
            case wire.FileChangeThreadItem(changes=changes):
                for change in changes:
                    line = Text.assemble(f"{verb(change)} ", relative(change.path, cwd), *tally(change))
                    screen.note(line, indent=2, mark=Text("± ", "bold blue"))
            case wire.McpToolCallThreadItem(server=server, tool=tool):
                screen.note(one_line(f"{server}.{tool}", 200), "cyan", indent=2, mark="→ ")
            case wire.DynamicToolCallThreadItem(tool=tool):
                screen.note(one_line(tool, 200), "cyan", indent=2, mark="→ ")
            case wire.ReasoningThreadItem():
                pass
            case other:
                screen.note(one_line(str(getattr(other, "type", "?")), 100), "dim", indent=2, mark="· ")
