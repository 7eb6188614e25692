"""The commands of a chat: their names, and the implementation of those that only show information."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import trio
from rich.table import Table
from rich.text import Text

from trio_codex.cli._render import duration, tokens
from trio_codex.cli._text import one_line
from trio_codex.cli._threads import at_home

if TYPE_CHECKING:
    from trio_codex import Codex, Thread, Turn
    from trio_codex.cli._render import Screen

HELP: Final = {
    "/status": "show what the turn is waiting for, the thread, the model and the tokens",
    "/model [NAME]": "use another model from the next turn on; without a name, list them",
    "/resume [ID]": "resume a stored thread; without an id, choose one from a list",
    "/fork": "continue in a copy of this thread; the original stays unchanged",
    "/help": "this list",
    "/quit": "quit, like Ctrl-D",
}


def command_of(line: str) -> tuple[str, str] | None:
    """Parse a command into its name and argument; ``None`` for any other line, including a path."""
    match = re.fullmatch(r"/([a-z]+)(?:\s+(.*))?", line.strip(), re.DOTALL)
    return None if match is None else (match[1], (match[2] or "").strip())


def show_help(screen: Screen) -> None:
    """Show the commands and other available actions."""
    grid = _grid()
    for name, does in HELP.items():
        grid.add_row(Text(name, "bold"), does)
    grid.add_row("", "")
    grid.add_row(Text("during a turn", "bold"), "a line steers the turn, Ctrl-C interrupts it")
    grid.add_row(
        Text("at the prompt", "bold"), "Ctrl-C clears the line; press it twice on an empty line to quit"
    )
    screen.display(grid)


def show_status(screen: Screen, codex: Codex, thread: Thread, turn: Turn | None, model: str | None) -> None:
    """Show the status of the chat."""
    grid = _grid()
    if turn is None:
        state = "none is running"
    else:
        silent = duration(trio.current_time() - turn.last_event_at)
        state = f"waiting for: {turn.waiting_on or 'nothing'}; last event {silent} ago"
    where = f"process {codex.pid}" if codex.owned else "attached"
    rows = {
        "turn": state,
        "thread": thread.id,
        "directory": at_home(thread.info.cwd),
        "model": one_line(model or "as configured"),
        "used here": "nothing yet" if thread.usage is None else tokens(thread.usage),
        "server": f"codex {codex.metadata.server_version or '?'}, {where}",
    }
    for name, value in rows.items():
        grid.add_row(Text(name, "dim"), Text(value))
    screen.display(grid)


async def show_models(screen: Screen, codex: Codex, current: str | None) -> None:
    """Show the server's models."""
    grid = _grid()
    models = (await codex.models()).data
    for model in models:
        mark = "▸" if model.model == current else "default" if model.is_default else ""
        grid.add_row(
            Text(one_line(model.model), "bold"), Text(mark), Text(one_line(model.description, 100), "dim")
        )
    if current is not None and all(model.model != current for model in models):
        grid.add_row(Text(one_line(current), "bold"), Text("▸"), Text("not listed by the server", "dim"))
    screen.display(grid)


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    return grid
