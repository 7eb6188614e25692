"""``trio-codex supervise``: run a function under a supervisor; and ``trio-codex journal``: show a journal."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trio_codex import Attachment, CodexConfig, open_supervisor
from trio_codex._core.user_code import import_function
from trio_codex.cli._attach import Attachment as Attaching
from trio_codex.cli._render import OutputConsole, Screen
from trio_codex.cli._text import CommandFailed, printable
from trio_codex.instruments import Systemd
from trio_codex.supervision import read_journal
from trio_codex.supervision._scope import with_task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_codex.cli._attach import AnySource
    from trio_codex.supervision import Supervisor

STATUS_SECONDS: Final = 1.0
"""Seconds between two updates of the status line."""

WIDE: Final = 76
"""Minimum number of columns for showing turns and tokens."""

DRAIN_SECONDS: Final = 60.0
"""How long open turns may take after SIGTERM. systemd kills a service after 90 s."""


async def supervise(where: str, *, source: AnySource, journal: str) -> int:
    """Run a function under a supervisor until it returns, or SIGTERM has drained it."""
    function = _load(where)
    match source:
        case Attaching(url=url, token=token, config=client):
            config: CodexConfig | Attachment = Attachment(url, auth=token, config=client)
        case CodexConfig():
            config = source
        case _:
            raise CommandFailed("supervise does not work with --offline")
    async with (
        open_supervisor(config, journal=journal, instruments=[Systemd()]) as supervisor,
        with_task(partial(_show_status, supervisor)),
    ):
        with trio.CancelScope() as program:
            async with with_task(partial(_drain_on_sigterm, supervisor, program)):
                await function(supervisor)
    return 0


def _load(where: str) -> Callable[[Supervisor], Awaitable[Any]]:
    try:
        return import_function(where)
    except ValueError as exc:
        raise CommandFailed(str(exc)) from exc


async def _drain_on_sigterm(supervisor: Supervisor, program: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            await supervisor.drain(timeout=DRAIN_SECONDS)
            program.cancel()


async def _show_status(supervisor: Supervisor) -> None:
    """Keep a status line on a terminal; elsewhere, print one whenever the generation changes."""
    await trio.lowlevel.checkpoint()
    console = OutputConsole(stderr=True, highlight=False, markup=False, emoji=False)
    shown = None
    # A status that cannot be written does not end the program.
    with suppress(OSError), ExitStack() as stack:
        live = None
        if console.is_terminal:
            # What the program prints goes above the status line.
            live = Live(console=console, auto_refresh=False, redirect_stdout=sys.stdout.isatty())
            stack.enter_context(live)
        while True:
            status = supervisor.status()
            known = status if live else (status.generation, status.state)
            if known != shown:
                shown = known
                line = (
                    f"{status.state}: generation {status.generation}, restarts: {status.restarts},"
                    f" threads: {len(status.threads)}, open turns: {len(status.turns)}, tokens: {status.tokens:,}"
                )
                if live is None:
                    console.print(line, soft_wrap=True)
                else:
                    live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)
            await trio.sleep(STATUS_SECONDS)


async def show_journal(path: str) -> int:
    """Show the threads in a journal, and the states of their prompts."""
    await trio.lowlevel.checkpoint()
    screen = Screen(stderr=False)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("name", overflow="fold")
    table.add_column("thread", no_wrap=True, min_width=36)  # so that ids can be copied
    with_counts = screen.width >= WIDE
    if with_counts:
        table.add_column("turns", justify="right", no_wrap=True)
        table.add_column("tokens", justify="right", no_wrap=True)
    table.add_column("prompts")
    for thread in read_journal(path):
        states = Counter(thread.keys.values())
        prompts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        counts = [str(thread.turns), f"{thread.tokens:,}"] if with_counts else []
        table.add_row(printable(thread.name), thread.id, *counts, prompts)
    screen.display(table)
    return 0
