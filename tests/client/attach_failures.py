"""Attaching to servers that fail, and the errors that result."""

import pytest
import trio
import trio.testing

from trio_codex import attach_codex, errors
from trio_codex.testing import assert_nothing_left
from websocket_peer import listening

SECONDS = 0.15
"""The ``start_timeout`` for servers that never answer."""

TOKEN = "open-sesame-0123456789"


async def refusal(url, **options):
    """Try to attach, check that the attempt leaves nothing behind, and return the error."""
    async with assert_nothing_left():
        return await failure(url, **options)


async def failure(url, **options):
    with trio.fail_after(5):
        with pytest.raises(errors.StartError) as caught:
            async with attach_codex(url, **options):
                pytest.fail("it attached")
    assert caught.value.hint
    assert caught.value.phase == "connect"
    return caught.value


async def refusal_of(serve, scheme="ws", *, host="127.0.0.1", server_context=None, **options):
    """Attach to a server with this handler, and return the error."""
    async with assert_nothing_left(), listening(serve, ssl_context=server_context) as address:
        return await failure(f"{scheme}://{host}:{address.rpartition(':')[2]}/", **options)


def answering(data):
    """Return a handler that reads the request, sends a response, and closes the connection."""

    async def serve(stream):
        async with stream:
            await stream.receive_some()
            await stream.send_all(data)

    return serve


def answering_and_staying(data):
    async def serve(stream):
        async with stream:
            await stream.receive_some()
            await stream.send_all(data)
            await trio.sleep_forever()

    return serve


def forbid_sockets(monkeypatch):
    for name in ("open_tcp_stream", "open_unix_socket", "open_ssl_over_tcp_stream"):
        monkeypatch.setattr(trio, name, lambda *_, **__: pytest.fail("it connected"))
