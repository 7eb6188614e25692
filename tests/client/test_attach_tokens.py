"""A token that a server sends back appears in no error, traceback, log record, recording or instrument."""

import logging
import re
import traceback
from contextlib import suppress

import pytest
import trio

from test_secrets import Reprs
from trio_codex import BearerToken, ClientConfig, SignedBearer, attach_codex, errors
from trio_codex.instruments import LogInstrument
from trio_codex.recording import Recorder
from trio_codex.testing._fake import FakeServer
from websocket_peer import accept, close_frame, frame, listening

SECRET = "a-shared-secret-of-more-than-32-bytes"
TOKEN = "open-sesame-0123456789"
SHORT = "sesam"
KINDS = {
    "bearer": BearerToken(TOKEN),
    "short": BearerToken(SHORT),
    "signed": SignedBearer(SECRET, issuer="me", audience="it"),
}
CONFIG = ClientConfig(start_timeout=0.5, request_timeout=0.5, interrupt_grace=0.2)


async def token_of(stream):
    """Read the request, and return its token."""
    request = b""
    while b"\r\n\r\n" not in request:
        request += await stream.receive_some()
    return re.search(rb"(?m)^Authorization: Bearer (\S+)", request)[1]


def answering(make):
    """Return a handler that answers the handshake with bytes made from the token."""

    async def serve(stream):
        async with stream:
            await stream.send_all(make(await token_of(stream)))
            if make is UNENDED:
                await trio.sleep_forever()

    return serve


def UNENDED(token):
    return b"HTTP/1.1 401 " + token + b"\r\nContent-Length: 1000\r\n\r\nnot " + token


ANSWERS = {
    "as the reason": lambda token: b"HTTP/1.1 401 " + token + b"\r\nContent-Length: 0\r\n\r\n",
    "as a header": lambda token: b"HTTP/1.1 403 No\r\nX: " + token + b"\r\nContent-Length: 0\r\n\r\n",
    "as the body": lambda token: b"HTTP/1.1 401 No\r\n\r\nBearer " + token + b" is wrong",
    "where the body is truncated": lambda token: (
        b"HTTP/1.1 401 No\r\n\r\n" + b" " * (2048 - 19 - len(token) + 1) + token + b" "
    ),
    "where the response is truncated": lambda token: b" " * (2048 - 2 * len(token) // 3) + token,
    "in an answer that never ends": UNENDED,
    "as a wrong header of an upgrade": lambda token: (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: " + token + b"\r\n\r\n"
    ),
    "as an invalid header": lambda token: b"HTTP/1.1 101 Switching Protocols\r\n" + token + b"\r\n\r\n",
    "as a line": lambda token: token + b"\r\n",
    "as JSON": lambda token: b'{"error":"' + token + b'"}\n',
    "as a URL": lambda token: b"HTTP/1.1 302 Found\r\nLocation: https://x/?" + token + b"\r\n\r\n" + token,
}


def upgraded(then):
    """Return a handler that calls a function after the handshake."""

    async def serve(stream):
        peer, request = await accept(stream)
        token = request.headers["Authorization"].removeprefix("Bearer ")
        await then(peer, token.encode())
        with suppress(trio.BrokenResourceError):
            await stream.aclose()

    return serve


async def close(peer, token):
    await peer.receive_some()
    await peer.send(close_frame(1008, token[:100]))
    await peer.receive_some()


async def refuse(peer, token):
    await peer.receive_some()
    await peer.send(
        frame(b'{"id":1,"error":{"code":-32600,"message":"no %b","data":["%b"]}}' % (token, token))
    )


async def mumble(peer, token):
    await peer.receive_some()
    await peer.send(frame(b"Hello, " + token))
    await peer.send(frame(token, 3))


async def close_later(peer, token):
    server = FakeServer(peer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve)
        asked = await server.expect("model/list")
        await asked.refuse(f"no {token.decode()}", data={token.decode(): token.decode()})
        await server.expect("model/list")
        await peer.send(close_frame(1008, b"expired: " + token[:100]))
        nursery.cancel_scope.cancel()


async def serve(peer, token):
    await FakeServer(peer).serve()


SERVERS = {
    **{f"sent back {name}": answering(make) for name, make in ANSWERS.items()},
    "the reason of a close": upgraded(close),
    "an error in place of initialize": upgraded(refuse),
    "a useless message": upgraded(mumble),
    "errors of a session": upgraded(close_later),
    "a session": upgraded(serve),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS)
async def test_a_token_that_a_server_sends_back_is_never_shown(server, kind, caplog, tmp_path, monkeypatch):
    caplog.set_level(logging.DEBUG)
    auth, tokens, shown, reprs = KINDS[kind], [SECRET], [], Reprs()
    mint = type(auth).mint
    monkeypatch.setattr(type(auth), "mint", lambda self: tokens.append(mint(self)) or tokens[-1])

    def look_at(error):
        shown.extend([repr(error), str(error), repr(error.args), *traceback.format_exception(error)])
        while error is not None:
            for each, _ in traceback.walk_tb(error.__traceback__):
                # Collect local variables, as error reporters do.
                if "/tests/" not in each.f_code.co_filename:
                    shown.extend(
                        f"{each.f_code.co_qualname} {key}={value!r}" for key, value in each.f_locals.items()
                    )
            error = error.__cause__ or error.__context__

    with trio.fail_after(10), Recorder(tmp_path / "session.jsonl") as recorder:
        instruments = [recorder, reprs, LogInstrument()]
        async with listening(server) as address:
            try:
                async with attach_codex(
                    f"ws://{address}", auth=auth, config=CONFIG, instruments=instruments
                ) as codex:
                    shown += [repr(codex), repr(codex.__dict__), repr(auth), str(auth)]
                    await codex.thread_start()
                    for _ in range(2):
                        try:
                            await codex.models()
                        except errors.CodexError as exc:
                            look_at(exc)
            except errors.CodexError as exc:
                look_at(exc)
    # The server of this test is in the same process.
    logged = [repr(vars(each)) for each in caplog.records if each.name != "websockets.server"]
    everything = "\n".join([*shown, *logged, *reprs.seen, (tmp_path / "session.jsonl").read_text()])
    assert len(tokens) > 1
    for token in tokens:
        parts = [token, *(token[:size] for size in (len(token) - 1, 2 * len(token) // 3) if len(token) > 8)]
        for part in parts:
            found = everything.find(part)
            assert found < 0, everything[max(0, found - 300) : found + 100]
