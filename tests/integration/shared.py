"""The real server for several clients at once: over WebSocket, of which this is just enough."""

import re
from contextlib import asynccontextmanager

import trio
import wsproto
from wsproto.events import AcceptConnection, Ping, Request, TextMessage

from trio_codex import connect_codex
from trio_codex._launch._binary import find_binary
from trio_codex._process.spawn import spawn_server
from trio_codex.testing import MockModel, offline_home


class LinesOverWebSocket(trio.abc.Stream):
    """A stream of lines, each a text message."""

    def __init__(self, stream):
        self._stream = stream
        self._socket = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self._unsent = b""
        self._received = b""

    async def connect(self, port):
        await self._stream.send_all(self._socket.send(Request(host=f"127.0.0.1:{port}", target="/")))
        (event,) = await self._events()
        assert isinstance(event, AcceptConnection)
        return self

    async def _events(self):
        data = await self._stream.receive_some()
        self._socket.receive_data(data or None)
        return list(self._socket.events())

    async def send_all(self, data):
        *lines, self._unsent = (self._unsent + bytes(data)).split(b"\n")
        for line in lines:
            await self._stream.send_all(self._socket.send(TextMessage(data=line.decode())))

    async def wait_send_all_might_not_block(self):
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes=None):
        while not self._received:
            for event in await self._events():
                if isinstance(event, TextMessage):
                    self._received += event.data.encode() + (b"\n" if event.message_finished else b"")
                elif isinstance(event, Ping):
                    await self._stream.send_all(self._socket.send(event.response()))
        data, self._received = self._received[:max_bytes], self._received[max_bytes or len(self._received) :]
        return data

    async def aclose(self):
        await self._stream.aclose()


@asynccontextmanager
async def two_clients(**home_options):
    """Two clients of one server."""
    with trio.fail_after(30):
        async with MockModel() as model:
            with offline_home(model, **home_options) as home:
                config = home.config()
                argv = [find_binary().path, "app-server", "--listen", "ws://127.0.0.1:0"]
                process = spawn_server(argv, env=config.environment(), cwd=config.cwd)
                try:
                    await process.started()
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(process.drain_stderr)
                        port = await _port_of(process)
                        clients = []
                        for _ in range(2):
                            stream = LinesOverWebSocket(await trio.open_tcp_stream("127.0.0.1", port))
                            clients.append(await connect_codex(nursery, await stream.connect(port)))
                        yield (*clients, model)
                        for client in clients:
                            await client.aclose()
                        nursery.cancel_scope.cancel()
                finally:
                    with trio.CancelScope(shield=True):  # bounded inside
                        await process.kill_tree()


async def _port_of(process):
    while not (found := re.search(r"ws://127\.0\.0\.1:(\d+)", process.stderr.tail())):  # noqa: ASYNC110
        await trio.sleep(0.01)
    return int(found[1])
