"""Shared by the fault tests: a session against a misbehaving server, what its caller observed, and leftovers."""

import itertools
import math
import os
import sys
from contextlib import suppress
from pathlib import Path

import attrs
import trio
import trio.testing

from trio_codex import CodexConfig, errors, open_codex

SERVER = Path(__file__).parent / "server.py"
BOUND = 10
"""Seconds in which every session must be over, its budgets included. On an idle machine, none needs nearly as long."""

_numbers = itertools.count()


@attrs.define
class Seen:
    """What the caller of one session observed.

    Attributes:
        opened: Whether ``open_codex()`` yielded a client.
        error: What the start, ``thread_start()`` or the turn raised.
        later: What a request after that raised.
        close_reason: What ``wait_closed()`` returned, if the connection had ended.
        result: The turn's result.
        text: The text that was streamed.
        events: Methods and raw parameters of events that a plain session does not have: junk, notes, answers.
        pid: The server.
    """

    opened: bool = False
    error: Exception | None = None
    later: Exception | None = None
    close_reason: Exception | None = None
    result: object = None
    text: str = ""
    events: list = attrs.field(factory=list)
    pid: int | None = None


def configured(*fault, **options):
    """A client configuration for a server with this fault, and the cookie that identifies all processes that it starts."""
    cookie = f"trio-codex-fault-{os.getpid()}-{next(_numbers)}"
    config = CodexConfig(
        launch_args_override=[sys.executable, "-I", "-S", str(SERVER), *fault],
        env={"PATH": os.environ["PATH"], "COOKIE": cookie},
        inherit_env=False,
        **{"max_line_bytes": 64 * 1024, "stop_grace": 0.5, **options},
    )
    return config, cookie


def left_of(cookie):
    """The processes that have the cookie in their environment or command line; none is younger than its parent's end."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if cookie.encode() in text:
                found.append((int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ")))
    return found


async def play(*fault, patience=math.inf, **options):
    """Open a thread, run a turn, and leave; return what was observed. Nothing may be left, whatever the fault."""
    config, cookie = configured(*fault, **options)
    seen = Seen()
    with trio.fail_after(BOUND):
        try:
            async with open_codex(config) as codex:
                seen.opened, seen.pid = True, codex.pid
                async with codex.events() as events, trio.open_nursery() as nursery:
                    nursery.start_soon(listen, events, seen)
                    try:
                        await use(codex, seen, patience)
                    except errors.CodexError as exc:
                        seen.error = exc
                    await look_back(codex, seen)
                    nursery.cancel_scope.cancel()
        except errors.CodexError as exc:
            assert not seen.opened, "leaving raised what the body had dealt with"
            seen.error = exc
    assert left_of(cookie) == []
    return seen


async def use(codex, seen, patience):
    """Do what a plain program does, with a timeout for the turn."""
    thread = await codex.thread_start()
    turn = None
    with trio.move_on_after(patience):
        async with thread.turn("go") as turn:
            async for piece in turn.text():
                seen.text += piece
    if turn is not None:
        seen.result = turn.result


async def look_back(codex, seen):
    """Send one more request: what came before its answer has come, and a connection that ended says so."""
    try:
        await codex.models()
    except errors.ConnectionBroken as exc:
        seen.later = exc
        seen.close_reason = await codex.wait_closed()
    except errors.RequestTimeout as exc:
        seen.later = exc
    await trio.testing.wait_all_tasks_blocked()


async def listen(events, seen):
    """Record the other events of the connection."""
    with suppress(errors.ConnectionBroken):
        async for event in events:
            if event.method.startswith(("test/", "trio_codex/")):
                seen.events.append((event.method, event.raw))
