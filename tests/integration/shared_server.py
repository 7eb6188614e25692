"""One real server with several clients: a stream of lines over its WebSocket."""

import re
import subprocess
from contextlib import asynccontextmanager
from functools import partial

import trio
import wsproto
from wsproto.events import AcceptConnection, Request, TextMessage

from trio_codex.binary import find_binary


class WebSocketLines(trio.abc.Stream):
    """Newline-delimited JSON on our side, a text message for each line on the other."""

    def __init__(self, stream):
        self.stream = stream
        self.protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self.sending = trio.Lock()
        self.unsent = b""
        self.received = bytearray()

    async def send_all(self, data):
        *lines, self.unsent = (self.unsent + data).split(b"\n")
        frames = b"".join(self.protocol.send(TextMessage(data=line.decode())) for line in lines)
        async with self.sending:
            await self.stream.send_all(frames)

    async def receive_some(self, max_bytes=None):
        while not self.received and (data := await self.stream.receive_some()):
            self.protocol.receive_data(data)
            for event in self.protocol.events():
                if isinstance(event, TextMessage):
                    self.received += event.data.encode() + b"\n" * event.message_finished
        taken = bytes(self.received[:max_bytes])
        del self.received[:max_bytes]
        return taken

    async def wait_send_all_might_not_block(self):
        await self.stream.wait_send_all_might_not_block()

    async def aclose(self):
        await self.stream.aclose()


async def connect(port):
    stream = WebSocketLines(await trio.open_tcp_stream("127.0.0.1", port))
    await stream.stream.send_all(stream.protocol.send(Request(host=f"127.0.0.1:{port}", target="/")))
    while True:
        stream.protocol.receive_data(await stream.stream.receive_some())
        for event in stream.protocol.events():
            assert isinstance(event, AcceptConnection)
            return stream


@asynccontextmanager
async def shared_server(home):
    """Run the real server on a port of its own; give the port."""
    command = [find_binary().path, "app-server", "--listen", "ws://127.0.0.1:0"]
    config = home.config()
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(
                trio.run_process, command, env=config.environment(), cwd=config.cwd, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False,
            )
        )  # fmt: skip
        said = b""
        while not (port := re.search(rb"ws://127\.0\.0\.1:(\d+)", said)):
            chunk = await process.stderr.receive_some()
            assert chunk, said.decode()
            said += chunk
        nursery.start_soon(_drain, process.stderr)
        try:
            yield int(port[1])
        finally:
            process.kill()


async def _drain(stream):
    async for _ in stream:
        pass
