"""The real server behind a proxy that terminates TLS, as over a network."""

import base64
from contextlib import asynccontextmanager

import pytest
import trio

from shared_server import shared_server
from trio_codex import TurnStatus, attach_codex, errors
from trio_codex.testing import MockModel, offline_home
from websocket_peer import listening

pytestmark = pytest.mark.real


class Proxy:
    """Relays each connection to a loopback port without TLS, as a plain TCP proxy does.

    Attributes:
        connections: Open connections from clients.
        relayed_bytes: Bytes relayed in both directions.
    """

    def __init__(self, url):
        self._port = int(url.rpartition(":")[2])
        self.connections = []
        self.relayed_bytes = 0

    async def relay(self, stream):
        self.connections.append(stream)
        async with (
            stream,
            await trio.open_tcp_stream("127.0.0.1", self._port) as server,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._copy, stream, server, nursery.cancel_scope)
            await self._copy(server, stream, nursery.cancel_scope)

    async def _copy(self, source, sink, scope):
        try:
            async for chunk in source:
                self.relayed_bytes += len(chunk)
                await sink.send_all(chunk)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


@asynccontextmanager
async def behind_a_proxy(server_context, kind="token"):
    """Yield the proxy's URL, a client's credentials, the proxy, the model and the server process."""
    with trio.fail_after(30):
        async with MockModel() as model:
            with offline_home(model) as home:
                async with shared_server(home, kind) as (url, auth, process):
                    proxy = Proxy(url)
                    async with listening(proxy.relay, ssl_context=server_context) as address:
                        yield f"wss://{address}/", auth, proxy, model
                    assert process.returncode is None


@pytest.mark.parametrize("kind", ["token", "signed"])
async def test_a_session_works_through_a_tls_proxy_with_a_private_certificate(
    kind, server_context, trusting, tmp_path
):
    async with behind_a_proxy(server_context, kind) as (url, auth, _, model):
        model.say("Hello.")
        model.hang()
        async with attach_codex(url, auth=auth, ssl_context=trusting) as codex:
            thread = await codex.thread_start()
            assert (await thread.run("hi")).final_response == "Hello."
            path, data = str(tmp_path / "file"), base64.b64encode(b"x" * 2_000_000).decode()
            await codex.request("fs/writeFile", {"path": path, "dataBase64": data})
            assert (await codex.request("fs/readFile", {"path": path}))["dataBase64"] == data
            async with thread.turn("take your time") as turn:
                await model.wait_for_requests(2)
            assert turn.result.status is TurnStatus.interrupted


async def test_after_the_proxy_drops_the_connection_the_turn_is_interrupted_through_a_new_one(
    server_context, trusting
):
    async with behind_a_proxy(server_context) as (url, auth, proxy, model):
        model.hang()
        options = {"auth": auth, "ssl_context": trusting}
        async with attach_codex(url, **options) as codex:
            thread = await codex.thread_start()
            with pytest.raises(errors.TurnLost):
                async with thread.turn("take your time") as turn:
                    await model.wait_for_requests(1)
                    await trio.aclose_forcefully(proxy.connections[0])
                    await turn.wait()
        assert len(proxy.connections) == 2
        async with attach_codex(url, **options) as codex, await codex.thread_resume(thread.id) as thread:
            assert [turn.status async for turn in thread.turns()] == ["interrupted"]


async def test_an_untrusted_certificate_is_refused_before_the_token_is_sent(server_context):
    async with behind_a_proxy(server_context) as (url, auth, proxy, _):
        with pytest.raises(errors.AttachError, match="certificate") as caught:
            async with attach_codex(url, auth=auth):
                pytest.fail("it attached")
        assert "ssl_context" in caught.value.hint
        assert proxy.relayed_bytes == 0


async def test_a_proxy_without_a_server_behind_it_is_reported(server_context, trusting):
    async def gateway(stream):
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 11\r\n\r\nno upstream")

    with trio.fail_after(10):
        async with listening(gateway, ssl_context=server_context) as address:
            with pytest.raises(errors.AttachError, match="502: no upstream"):
                async with attach_codex(f"wss://{address}/", ssl_context=trusting):
                    pytest.fail("it attached")
