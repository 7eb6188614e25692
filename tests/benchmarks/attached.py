"""Events of one turn, by the transport: a pipe, a WebSocket over a unix socket or loopback, and trio-websocket.

All four cases use the same client. In the last case it runs over trio-websocket, adapted to a stream of lines.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import clients, events
from benchmarks.measuring import Stopwatch

TITLE = "Events by transport"
ROUNDS = 7

SERVER = Path(__file__).with_name("websocket_server.py")

prepare = events.prepare


async def measure(codex, setting):
    """Iterate over a turn, and return the cost of an event."""
    thread = await codex.thread_start()
    for text in events.TURNS:
        count = 0
        with Stopwatch() as watch:
            async with thread.turn(text) as turn:
                async for event in turn:
                    count += event.merged
    return events.summarize(watch, count, events.count_of(setting))


def stdio(setting):
    return clients.run_trio(lambda codex: measure(codex, setting), setting.directory)


@contextlib.contextmanager
def server_url(setting, kind):
    """Run the server, and yield its URL."""
    address = "tcp" if kind == "tcp" else f"{setting.directory}/server-{os.getpid()}.sock"
    command = [sys.executable, "-I", "-S", str(SERVER), setting.directory, address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        where = server.stdout.readline().strip()
        yield f"ws://127.0.0.1:{where}" if kind == "tcp" else f"unix://{where}"


def attached(setting, kind):
    import trio

    import trio_codex

    async def main(url):
        async with trio_codex.attach_codex(url) as codex:
            return await measure(codex, setting)

    with server_url(setting, kind) as url:
        return trio.run(main, url)


def trio_websocket(setting):
    import trio
    from trio_websocket import ConnectionClosed, open_websocket_url

    import trio_codex

    class Lines(trio.abc.Stream):
        """The messages of a WebSocket as lines."""

        def __init__(self, connection):
            self.connection = connection

        async def send_all(self, data):
            for line in bytes(data).splitlines():
                await self.connection.send_message(line.decode())

        async def wait_send_all_might_not_block(self):
            await trio.lowlevel.checkpoint()

        async def receive_some(self, max_bytes=None):
            try:
                return (await self.connection.get_message()).encode() + b"\n"
            except ConnectionClosed:
                return b""

        async def aclose(self):
            await self.connection.aclose()

    async def main(url):
        async with (
            open_websocket_url(url, max_message_size=2**30) as connection,
            trio.open_nursery() as nursery,
        ):
            codex = await trio_codex.connect_codex(nursery, Lines(connection))
            numbers = await measure(codex, setting)
            await codex.aclose()
        return numbers

    with server_url(setting, "tcp") as url:
        return trio.run(main, url)


CASES = {
    "stdio": stdio,
    "unix socket": lambda setting: attached(setting, "unix"),
    "loopback": lambda setting: attached(setting, "tcp"),
    "loopback, trio-websocket": trio_websocket,
}
