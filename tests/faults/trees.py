"""Run the real server with child processes that are hard to end. As a program, wait to be killed."""

import os
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from trio_codex import CodexConfig, Sandbox, errors, open_codex
from trio_codex.testing import Command, MockModel, Response, Text, offline_home

KINDS = ("plain", "session", "background", "sandboxed", "mcp")
"""A command of a running turn, its child in another session, a command in the background, a sandboxed command, and an
MCP server that ignores SIGTERM and EOF on its stdin."""


def tree_of(marker):
    """Return the processes of a tree by kind: those whose command line contains the marker. Wrappers are left out."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            for kind in KINDS:
                name = f"{marker}{KINDS.index(kind)}".encode()
                if words[-2:-1] == [name] and words[0].rpartition(b"/")[2] in (
                    b"sleep",
                    b"python",
                    b"python3",
                ):
                    found[kind] = int(entry.name)
    return found


@asynccontextmanager
async def grown(marker, **options):
    """Yield a client whose server has one process of each kind below it.

    Args:
        marker: A number of seconds for which no other process sleeps.
        **options: Options of the client's configuration.
    """
    plain, session, background, sandboxed, mcp = (f"{marker}{number}" for number in range(len(KINDS)))
    server = str(Path(__file__).parent / "mcp_server.py")
    async with MockModel() as model:
        with offline_home(
            model,
            sandbox_mode="danger-full-access",
            mcp_servers={"stubborn": {"command": sys.executable, "args": ["-I", "-S", server, mcp]}},
        ) as home:
            model.default = Response(Text("done"))
            config = CodexConfig(env=home.env, inherit_env=False, cwd=home.workspace, **options)
            async with open_codex(config) as codex, trio.open_nursery() as nursery:
                await grow(
                    codex, model, nursery, "leave one behind", f"exec sleep {background}", Sandbox.full_access
                )
                await grow(codex, model, nursery, "be careful", f"exec sleep {sandboxed}", Sandbox.read_only)
                command = f"setsid sleep {session} & exec sleep {plain}"
                await grow(codex, model, nursery, "run it", command, Sandbox.full_access)
                while tree_of(marker).keys() != {*KINDS}:  # noqa: ASYNC110  # processes send no event when they start
                    await trio.sleep(0.01)
                yield codex
                nursery.cancel_scope.cancel()


async def grow(codex, model, nursery, words, command, sandbox):
    """Let the agent run a command in the foreground, or until it moves to the background."""
    behind = words == "leave one behind"
    script = model.script(words, default=Response(Text("it runs")))
    script.respond(Command(command, yield_time_ms=250 if behind else 60_000))
    thread = await codex.thread_start(sandbox=sandbox)
    if behind:
        await thread.run(words)
    else:
        nursery.start_soon(run, thread, words)


async def run(thread, words):
    """Run a turn that ends with the client or the server."""
    with suppress(errors.TurnLost):
        await thread.run(words)


async def main():
    async with grown(sys.argv[1]) as codex:
        sys.stdout.write(f"{codex.pid}\n")
        sys.stdout.flush()
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main)
