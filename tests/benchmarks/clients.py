"""The clients that are compared, all with a scripted server: trio-codex, the official SDK, and the floor.

Each is imported where it is used, so no process loads the others.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

APP_SERVER = Path(__file__).with_name("app_server.py")
PIPE_BYTES = 1024 * 1024
"""The maximum capacity of a pipe for an unprivileged process."""


def server_command(directory, pipe_bytes=None):
    return [
        sys.executable, "-I", "-S", str(APP_SERVER), str(directory), *([str(pipe_bytes)] if pipe_bytes else [])
    ]  # fmt: skip


def run_trio(body, directory, pipe_bytes=None, **options):
    """Run ``await body(codex)`` with an ``open_codex`` client, and return its result."""
    import attrs
    import trio

    import trio_codex

    config = attrs.evolve(
        options.pop("config", trio_codex.CodexConfig()),
        launch_args_override=server_command(directory, pipe_bytes),
    )

    async def main():
        async with trio_codex.open_codex(config, **options) as codex:
            return await body(codex)

    return trio.run(main)


def open_blocking(directory):
    """Return a scope for a client of the blocking face."""
    from trio_codex import CodexConfig, blocking

    return blocking.open_codex(CodexConfig(launch_args_override=server_command(directory)))


def run_aio(body, directory):
    """Run ``await body(codex)`` with a client of the asyncio face, and return its result."""
    import asyncio

    from trio_codex import CodexConfig, aio

    async def main():
        async with aio.open_codex(CodexConfig(launch_args_override=server_command(directory))) as codex:
            return await body(codex)

    return asyncio.run(main())


def run_async_sdk(body, directory):
    """Run ``await body(codex)`` with an ``AsyncCodex``, and return its result."""
    import asyncio

    import openai_codex

    async def main():
        async with openai_codex.AsyncCodex(sdk_config(directory)) as codex:
            return await body(codex)

    return asyncio.run(main())


@contextlib.contextmanager
def open_sync_sdk(directory):
    """Open a ``Codex``."""
    import openai_codex

    with openai_codex.Codex(sdk_config(directory)) as codex:
        yield codex


def sdk_config(directory):
    import openai_codex

    return openai_codex.CodexConfig(launch_args_override=tuple(server_command(directory)))


class Floor:
    """The lower bound: a pipe, ``read``, split, parse. Owns the server process; independent of the protocol."""

    CHUNK = 64 * 1024
    """The default capacity of a pipe."""

    def __init__(self, command, **options):
        import msgspec

        self.encode, self.decode = msgspec.json.encode, msgspec.json.decode
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)
        self.fd = self.process.stdout.fileno()
        self.rest = []
        self.lines = []
        self.ids = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def send(self, method, params):
        self.ids += 1
        self.write({"id": self.ids, "method": method, "params": params})

    def write(self, message):
        os.write(self.process.stdin.fileno(), self.encode(message) + b"\n")

    def request(self, method, params):
        """Send a request, and return its result. Messages before the response are dropped."""
        self.send(method, params)
        while (message := self.next_message()).get("id") != self.ids or "method" in message:
            pass
        return message["result"]

    def start_turn(self, thread, text):
        return self.request("turn/start", {"threadId": thread, "input": [{"type": "text", "text": text}]})

    def wait_for(self, method):
        """Drop messages up to and including a notification."""
        while self.next_message().get("method") != method:
            pass

    def next_message(self):
        while not self.lines:
            self.lines = self.read_lines()
            self.lines.reverse()
        return self.decode(self.lines.pop())

    def parse_lines(self, count):
        """Parse this many lines."""
        count -= len(self.lines)
        for line in self.lines:
            self.decode(line)
        self.lines = []
        while count > 0:
            lines = self.read_lines()
            for line in lines:
                self.decode(line)
            count -= len(lines)

    def read_lines(self):
        """Read available data, and return the lines that it completes."""
        data = os.read(self.fd, self.CHUNK)
        if not data:
            raise EOFError("the server has ended")
        first, *lines = data.split(b"\n")
        self.rest.append(first)
        if not lines:
            return []
        lines.insert(0, b"".join(self.rest))
        self.rest = [lines.pop()]
        return lines
