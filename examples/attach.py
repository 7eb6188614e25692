"""Attach two clients to one running server. Each of them ends only what it started, and never the server.

Run it with your own Codex login, or with --offline against a scripted model. The server is usually somebody else's;
this script starts one, so that there is a server to attach to.
"""

import tempfile
from functools import partial
from subprocess import DEVNULL

import trio
from _offline import example_config

from trio_codex import CodexConfig, attach_codex
from trio_codex.binary import find_binary


async def serve(nursery: trio.Nursery, config: CodexConfig, socket: trio.Path) -> None:
    """Start a server that listens on a unix socket, and wait until it does."""
    command = [find_binary(config.codex_bin).path, "app-server", "--listen", f"unix://{socket}"]
    run = partial(trio.run_process, check=False, env=config.environment(), cwd=config.cwd, stderr=DEVNULL)
    await nursery.start(run, command)
    with trio.fail_after(10):
        while not await socket.exists():  # noqa: ASYNC110  # there is nothing else to wait for
            await trio.sleep(0.05)


async def use(url: str) -> None:
    """Run a turn in each of two clients."""
    async with attach_codex(url) as ours:
        thread = await ours.thread_start()
        async with thread.turn("Take your time.") as turn:
            async for _ in turn.text():  # it is running
                break
            async with attach_codex(url) as theirs:
                result = await (await theirs.thread_start()).run("Be quick.")
                print(f"their turn: {result.final_response}")
            print(f"they have left; ours is waiting for: {turn.waiting_on}")
        print(f"our turn: {turn.result.status}")
    async with attach_codex(url) as later:
        print("the server has both threads:", sorted([each.preview async for each in later.threads()]))


async def main() -> None:
    """Run the example."""
    async with example_config("attach") as config, trio.open_nursery() as nursery:
        with tempfile.TemporaryDirectory() as directory:
            socket = trio.Path(directory, "codex.sock")
            await serve(nursery, config, socket)
            await use(f"unix://{socket}")
            nursery.cancel_scope.cancel()  # ends the server


if __name__ == "__main__":
    trio.run(main)
