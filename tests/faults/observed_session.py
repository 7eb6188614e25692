"""Run a session against a misbehaving server, record what its caller observes, and find leftover processes."""

import itertools
import math
import os
import socket
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import attrs
import trio
import trio.testing

from trio_codex import ClientConfig, CodexConfig, attach_codex, errors, open_codex
from websocket_peer import accept, listening

SERVER = Path(__file__).parent / "server.py"
BOUND = 10
"""Seconds within which every session must end, including its timeouts. On an idle machine, all need far less."""

_numbers = itertools.count()


@attrs.define
class Seen:
    """The observations of one session's caller.

    Attributes:
        opened: Whether ``open_codex()`` yielded a client.
        error: What the start, ``thread_start()`` or the turn raised.
        later: What a further request raised.
        close_reason: What ``wait_closed()`` returned if the connection had ended.
        result: The turn's result.
        text: The text that was streamed.
        events: Methods and raw parameters of events that an ordinary session does not have: junk, notes, answers.
        pid: The process id of the server.
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
    """Return a configuration for a server with this fault, and the cookie in the environment of all its processes."""
    cookie = f"trio-codex-fault-{os.getpid()}-{next(_numbers)}"
    config = CodexConfig(
        launch_args_override=[sys.executable, "-I", "-S", str(SERVER), *fault],
        env={"PATH": os.environ["PATH"], "COOKIE": cookie},
        inherit_env=False,
        **{"max_line_bytes": 64 * 1024, "stop_grace": 0.5, **options},
    )
    return config, cookie


def left_of(cookie):
    """Return the processes that have the cookie in their environment or command line."""
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


async def play(*fault, patience=math.inf, over="pipe", **options):
    """Open a thread, run a turn, and close; return the observations. Whatever the fault, no process may be left."""
    seen = Seen()
    with trio.fail_after(BOUND):
        if over == "pipe":
            config, cookie = configured(*fault, **options)
            await observe(open_codex(config), seen, patience)
        else:
            cookie = configured()[1]
            config = ClientConfig(**{"max_line_bytes": 64 * 1024, **options})
            async with relayed(fault, cookie, resets=over == "websocket, reset") as url:
                await observe(attach_codex(url, config=config), seen, patience)
    assert left_of(cookie) == []
    return seen


async def observe(opening, seen, patience):
    """Run the session, and record what it raises."""
    try:
        async with opening as codex:
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
        assert not seen.opened, "closing raised an error that the body had already handled"
        seen.error = exc


@asynccontextmanager
async def relayed(fault, cookie, *, resets=False):
    """Relay a server with this fault over WebSockets; yield the URL. Only the first connection has the fault.

    A partly written line is sent as a fragment. The connection ends with the process, without a close frame.
    """
    faults = itertools.chain([fault], itertools.repeat(()))

    async def relay(stream):
        command = [sys.executable, "-I", "-S", str(SERVER), *(next(faults) or ["nothing"])]
        peer, _ = await accept(stream)
        # Not trio.run_process(): it starts the process in a worker thread, which outlives the test.
        with subprocess.Popen(  # noqa: ASYNC220
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"COOKIE": cookie}
        ) as process:
            try:
                await relay_streams(peer, taken(process.stdin), taken(process.stdout))
            finally:
                process.kill()
        if resets:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await trio.aclose_forcefully(stream)

    async def relay_streams(peer, stdin, stdout):
        async with (
            trio.lowlevel.FdStream(stdin) as stdin,
            trio.lowlevel.FdStream(stdout) as stdout,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(pass_on, peer, stdin)
            await pass_on(stdout, peer)
            nursery.cancel_scope.cancel()

    async with listening(relay) as address:
        yield f"ws://{address}"


def taken(pipe):
    """Return a duplicate of a pipe's descriptor, and close the pipe."""
    with pipe:
        return os.dup(pipe.fileno())


async def pass_on(source, sink):
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for chunk in source:
            await sink.send_all(chunk)
        if isinstance(sink, trio.lowlevel.FdStream):
            await sink.aclose()


async def use(codex, seen, patience):
    """Run one turn, as an ordinary program does, with a timeout."""
    thread = await codex.thread_start()
    turn = None
    with trio.move_on_after(patience):
        async with thread.turn("go") as turn:
            async for piece in turn.text():
                seen.text += piece
    if turn is not None:
        seen.result = turn.result


async def look_back(codex, seen):
    """Send one more request, which shows whether the connection is open. Events sent before its answer have arrived."""
    try:
        await codex.models()
    except errors.ConnectionBroken as exc:
        seen.later = exc
        seen.close_reason = await codex.wait_closed()
    except errors.RequestTimeout as exc:
        seen.later = exc
    await trio.testing.wait_all_tasks_blocked()


async def listen(events, seen):
    """Record the events that an ordinary session does not have."""
    with suppress(errors.ConnectionBroken):
        async for event in events:
            if event.method.startswith(("test/", "trio_codex/")):
                seen.events.append((event.method, event.raw))
