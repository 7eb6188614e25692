"""Attaching to peers that refuse, are silent, disconnect or are not Codex servers, and to Codex servers with TLS."""

import socket
import ssl
import traceback

import pytest
import trio
import trio.testing
from attach_failures import SECONDS, TOKEN, answering, answering_and_staying, forbid_sockets, refusal_of

from trio_codex import Attachment, BearerToken, ClientConfig, attach_codex, errors
from trio_codex._link.dial import RESPONSE_BYTES, SHOWN_CHARACTERS
from trio_codex.instruments import Instrument
from trio_codex.testing import assert_nothing_left
from trio_codex.testing._fake import FakeServer
from websocket_peer import accept, close_frame, frame, listening, serve_codex

# -- another kind of server listens
# -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 404, ""),
        (
            b"HTTP/1.1 404 Not Found\r\n\r\n<html>\n  no such page\n</html>",
            404,
            ": <html> no such page </html>",
        ),
        (
            b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 16\r\n\r\nmissing token...",
            401,
            ": missing token...",
        ),
        (b"HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", 401, ": no"),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", 403, ""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, ": ok"),
        (b"HTTP/1.1 301 Moved\r\nLocation: https://elsewhere/\r\nContent-Length: 0\r\n\r\n", 301, ""),
        (b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n", 426, ""),
        (b"HTTP/1.0 400 Bad Request\r\n\r\nold", 400, ": old"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 100\r\n\r\ncut off", 404, ": cut off"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Len", 404, ""),
        (b"HTTP/1.1 404 Not Found\r\n", 404, ""),
        (b"HTTP/1.1 500 Oops\r\n\r\n\xff\xfe", 500, ": \ufffd\ufffd"),
    ],
)
async def test_the_refusal_of_an_http_server_is_reported_with_status_and_text(answer, status, words):
    error = await refusal_of(answering(answer))
    assert type(error) is errors.AttachError
    assert error.status == status
    assert error.problem.endswith(f"HTTP status {status}{words}")


async def test_the_hint_of_a_refusal_depends_on_its_status():
    hints = {}
    for status in (301, 308, 401, 403, 404, 429, 502, 503):
        answer = b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status
        hints[status] = (await refusal_of(answering(answer))).hint
    assert "auth=BearerToken" in hints[401]
    assert "Origin" in hints[403]
    assert "address of a codex app-server" in hints[404]
    assert "redirects" in hints[301] == hints[308]
    assert "try again" in hints[429] != hints[503]
    assert "runs, then try again" in hints[502] == hints[503]


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"\x1b[2J\x1b]0;title\x07 no", r": \x1b[2J\x1b]0;title\x07 no"),
        (b"no\r\nERROR:root: forged", ": no ERROR:root: forged"),
        ("\u202eno\x85\x9b".encode(), r": \u202eno \x9b"),
    ],
    ids=["escape sequences", "lines", "invisible characters"],
)
async def test_the_text_of_a_refusal_cannot_control_a_terminal_or_forge_a_log_record(body, shown):
    error = await refusal_of(answering(b"HTTP/1.1 404 No\r\n\r\n" + body))
    assert error.problem.endswith(f"HTTP status 404{shown}")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 Not Found\r\n",
        b"HTTP/1.1 404 Not Found\r\nServer: it\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 100\r\n\r\nno such page",
    ],
)
async def test_the_received_part_of_an_endless_refusal_is_reported_within_start_timeout(answer):
    error = await refusal_of(answering_and_staying(answer), config=ClientConfig(start_timeout=SECONDS))
    assert type(error) is errors.AttachError
    assert error.status == 404
    assert error.problem.endswith(": no such page" if b"page" in answer else "404")


async def test_the_text_of_a_refusal_is_truncated():
    answer = b"HTTP/1.1 500 Oops\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000
    error = await refusal_of(answering(answer))
    assert len(error.problem) < 2 * SHOWN_CHARACTERS
    assert SHOWN_CHARACTERS < RESPONSE_BYTES


@pytest.mark.parametrize("status", [b"HTTP/1.1 401 No\r\n\r\n", b"", b"{"])
async def test_a_token_that_a_server_sends_back_is_not_in_the_error(status):
    async def echo(stream):
        async with stream:
            request = bytes(await stream.receive_some())
            [line] = [line for line in request.splitlines() if TOKEN.encode() in line]
            assert line == b"Authorization: Bearer " + TOKEN.encode()
            await stream.send_all(status + line + b"\r\n\r\n")

    error = await refusal_of(echo, auth=BearerToken(TOKEN))
    assert TOKEN not in "".join(traceback.format_exception(error))
    assert TOKEN not in repr(error)
    assert error.__cause__ is None


GARBAGE = {
    "zeros": bytes(1000),
    "text": b"220 mail.example ESMTP\r\n",
    "another version": b"HTTP/2 404 Not Found\r\n\r\n",
    "no status": b"HTTP/1.1\r\n\r\n",
    "a status that does not exist": b"HTTP/1.1 999 No\r\nContent-Length: 0\r\n\r\nx",
    "an invalid header": b"HTTP/1.1 101 Switching Protocols\r\nnothing\r\n\r\n",
    "an endless line": b"x" * 100_000,
    "a wrong key": (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n"
    ),
    "an upgrade to something else": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x0a",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_a_server_with_another_protocol_is_quoted(garbage):
    error = await refusal_of(answering(garbage))
    assert type(error) is errors.AttachError
    assert len(error.problem) < 3 * SHOWN_CHARACTERS
    assert "\n" not in error.problem


@pytest.mark.parametrize("chatty", [True, False])
async def test_an_ndjson_server_is_reported_with_the_function_that_connects_to_it(chatty):
    async def serve(stream):
        async with stream:
            if not chatty:
                await stream.receive_some()
            await stream.send_all(b'{"error":{"code":-32700,"message":"Parse error"},"id":null}\n')

    error = await refusal_of(serve)
    assert type(error) is errors.AttachError
    assert "JSON lines" in error.problem
    assert "connect_codex" in error.hint


# -- servers that do not answer or disconnect
# --------------------------------------------------------------------------------


async def test_a_server_that_accepts_and_never_answers_is_reported_within_start_timeout():
    async def mute(_):
        await trio.sleep_forever()

    for scheme in ("ws", "wss"):
        error = await refusal_of(mute, scheme, config=ClientConfig(start_timeout=SECONDS))
        assert type(error) is errors.StartTimeout
        assert "accepted the connection and did not answer within 0.15 s" in error.problem


async def test_a_server_that_never_answers_initialize_is_reported_within_start_timeout():
    async def mute(stream):
        peer, _ = await accept(stream)
        async for _ in peer:
            pass

    error = await refusal_of(mute, config=ClientConfig(start_timeout=SECONDS))
    assert type(error) is errors.StartTimeout
    assert "did not answer initialize within 0.15 s" in error.problem


async def test_a_server_that_sends_occasional_bytes_does_not_extend_start_timeout():
    async def trickle(stream):
        while True:
            await stream.send_all(b"H")
            await trio.sleep(SECONDS / 10)

    error = await refusal_of(trickle, config=ClientConfig(start_timeout=SECONDS))
    assert type(error) is errors.StartTimeout


@pytest.mark.parametrize("reset", [False, True], ids=["closes", "resets"])
@pytest.mark.parametrize(
    "point", ["accepted", "request", "status", "headers", "upgraded", "initialize", "answer"]
)
async def test_a_peer_that_disconnects_at_any_point_of_the_handshake_is_reported(point, reset):
    async def serve(stream):
        await leave(stream)
        if reset:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await trio.aclose_forcefully(stream)

    async def leave(stream):
        if point == "accepted":
            return
        if point in ("request", "status", "headers"):
            await stream.receive_some()
            status = b"HTTP/1.1 101 Switching Protocols\r\n"
            await stream.send_all(
                {"request": b"", "status": status[:-5], "headers": status + b"Upgrade: websocket\r\n"}[point]
            )
            return
        peer, _ = await accept(stream)
        if point == "upgraded":
            return
        await peer.receive_some()
        if point == "answer":
            await stream.send_all(frame(b'{"id":0,"result":{}}')[:-5])

    error = await refusal_of(serve)
    assert type(error) in (errors.AttachError, errors.StartError)
    assert (type(error) is errors.AttachError) or point in ("upgraded", "initialize", "answer")


async def test_a_server_that_closes_instead_of_answering_initialize_is_reported_with_its_reason():
    async def serve(stream):
        peer, _ = await accept(stream)
        await peer.receive_some()
        await stream.send_all(close_frame(1013, b"try again later"))
        await peer.receive_some()

    error = await refusal_of(serve)
    assert type(error) is errors.StartError
    assert "1013" in error.problem
    assert "try again later" in error.problem


# -- success ----------------------------------------------------------------------------------------------------


async def test_attaching_to_a_scripted_server_ends_with_a_close_frame():
    ended = []

    async def serve(stream):
        peer, request = await accept(stream)
        await FakeServer(peer).serve()
        ended.append((request.headers.get("Authorization"), bytes(peer.frames[-1].data)))
        left.set()

    left = trio.Event()
    with trio.fail_after(5):
        async with assert_nothing_left(), listening(serve) as address:
            async with attach_codex(f"ws://{address}", auth=BearerToken(TOKEN)) as codex:
                assert (codex.owned, codex.pid) == (False, None)
                await codex.thread_start()
            await left.wait()
    assert ended == [(f"Bearer {TOKEN}", b"\x03\xe8")]


async def test_messages_right_after_the_handshake_are_not_lost():
    class Held:
        """A stream that holds data back, and sends it together with the next write."""

        def __init__(self, stream):
            self.receive_some, self.data = stream.receive_some, b""

        async def send_all(self, data):
            await trio.lowlevel.checkpoint()
            self.data += data

    async def serve(stream):
        held = Held(stream)
        peer, _ = await accept(held)
        await stream.send_all(held.data + frame(b'{"method":"before","params":{}}'))
        peer.stream = stream
        await FakeServer(peer).serve()

    class Received(Instrument):
        def __init__(self):
            self.lines = []

        def frame_received(self, _, line):
            self.lines.append(line)

    received = Received()
    with trio.fail_after(5):
        async with listening(serve) as address, attach_codex(f"ws://{address}", instruments=[received]):
            assert received.lines[0] == b'{"method":"before","params":{}}'


async def test_the_record_of_turns_left_running_is_one_line_if_the_new_connection_is_refused(caplog):
    connections = []

    async def serve(stream):
        connections.append(stream)
        if len(connections) > 1:
            await answering(b"HTTP/1.1 503 No\r\n\r\nbusy")(stream)
            return
        peer, _ = await accept(stream)
        server = FakeServer(peer)
        server.give("turn/start", {"turn": {"id": "turn-1", "items": [], "status": "inProgress"}})
        await server.serve()

    with trio.fail_after(5):
        async with listening(serve) as address:
            with pytest.raises(errors.TurnLost):
                async with (
                    attach_codex(f"ws://{address}") as codex,
                    (await codex.thread_start()).turn("hi") as turn,
                ):
                    await trio.aclose_forcefully(connections[0])
                    await turn.wait()
    [record] = [each.getMessage() for each in caplog.records if "left running" in each.getMessage()]
    assert record.endswith("refused the connection with HTTP status 503: busy: turn-1")
    assert "\n" not in record


# -- TLS -----------------------------------------------------------------------------------------------------------


class Resolver(trio.abc.HostnameResolver):
    """A resolver that returns one address for every name, without a thread."""

    async def getaddrinfo(self, _host, port, *_):
        await trio.lowlevel.checkpoint()
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))]

    async def getnameinfo(self, *_):
        raise NotImplementedError


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_tls_works_with_a_context_that_trusts_the_certificate(host, server_context, trusting):
    trio.socket.set_custom_hostname_resolver(Resolver())
    with trio.fail_after(5):
        async with assert_nothing_left(), listening(serve_codex, ssl_context=server_context) as address:
            url = f"wss://{address.replace('127.0.0.1', host)}/path"
            attachment = Attachment(url, ssl_context=trusting, auth=BearerToken(TOKEN))
            async with attach_codex(attachment) as codex:
                await codex.thread_start()


async def test_an_untrusted_certificate_is_reported_with_the_argument_to_pass(server_context):
    error = await refusal_of(serve_codex, "wss", server_context=server_context)
    assert type(error) is errors.AttachError
    assert "certificate" in error.problem
    assert "ssl_context" in error.hint


async def test_a_certificate_for_another_name_is_reported(server_context, trusting):
    trio.socket.set_custom_hostname_resolver(Resolver())
    error = await refusal_of(
        serve_codex, "wss", host="other.example", server_context=server_context, ssl_context=trusting
    )
    assert type(error) is errors.AttachError
    assert "other.example" in error.problem
    assert "ssl_context" in error.hint
    assert "name" in error.hint


@pytest.mark.parametrize(
    ("begins", "ends", "problem", "hint"),
    [("20200101000000Z", "20210101000000Z", "expired", "Renew"), ("20990101000000Z", "21000101000000Z", "not yet", "clock")],
    ids=["expired", "not yet valid"],
)  # fmt: skip
async def test_a_certificate_at_the_wrong_time_is_reported_with_what_helps(
    begins, ends, problem, hint, dated_certificate
):
    server_context, trusting = dated_certificate(begins, ends)
    error = await refusal_of(serve_codex, "wss", server_context=server_context, ssl_context=trusting)
    assert problem in error.problem
    assert hint in error.hint


class AlertingServer:
    """A server-side TLS handshake, without I/O, whose alerts are sent to the client. Trio sends none."""

    def __init__(self, context):
        self._context = context

    async def __call__(self, stream):
        inbound, outbound = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._context.wrap_bio(inbound, outbound, server_side=True)
        failed = False
        while chunk := await stream.receive_some():
            inbound.write(chunk)
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                failed = True
            await stream.send_all(outbound.read())
            if failed:
                return


@pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda each: each.name
)
@pytest.mark.parametrize("refuses", ["no certificate", "the version"])
async def test_a_server_that_refuses_the_tls_of_the_client_is_not_one_without_tls(
    refuses, version, server_context, trusting
):
    server_context.minimum_version = server_context.maximum_version = version
    if refuses == "no certificate":
        server_context.verify_mode = ssl.CERT_REQUIRED
    else:
        [other] = {ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3} - {version}
        trusting.minimum_version = trusting.maximum_version = other
    error = await refusal_of(AlertingServer(server_context), "wss", ssl_context=trusting)
    assert "ALERT" in error.problem
    assert "client certificate" in error.hint
    assert "ws://" not in error.hint


@pytest.mark.parametrize("url", ["ws://127.0.0.1:1", "unix:///run/codex.sock"])
async def test_an_ssl_context_without_tls_is_a_value_error(url, trusting, monkeypatch):
    forbid_sockets(monkeypatch)
    with pytest.raises(ValueError, match="wss://"):
        async with attach_codex(url, ssl_context=trusting):
            pytest.fail("it attached without TLS")


async def test_a_server_side_ssl_context_is_reported(server_context):
    error = await refusal_of(serve_codex, "wss", server_context=server_context, ssl_context=server_context)
    assert type(error) is errors.AttachError
    assert "ssl_context" in error.hint


async def test_a_server_without_tls_is_reported_as_such(trusting):
    error = await refusal_of(
        answering(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"), "wss", ssl_context=trusting
    )
    assert type(error) is errors.AttachError
    assert "TLS" in error.problem
    assert "ws://" in error.hint


async def test_attaching_without_tls_to_a_tls_server_is_reported(server_context):
    error = await refusal_of(serve_codex, "ws", server_context=server_context)
    assert type(error) is errors.AttachError


async def test_a_refusal_over_tls_is_reported(server_context, trusting):
    error = await refusal_of(
        answering(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno"),
        "wss",
        server_context=server_context,
        ssl_context=trusting,
    )
    assert (error.status, error.problem[-2:]) == (401, "no")


@pytest.mark.parametrize("when", ["at once", "after the request"])
async def test_a_peer_that_disconnects_during_the_tls_handshake_is_reported(when, trusting):
    async def serve(stream):
        if when != "at once":
            await stream.receive_some()
        await stream.aclose()

    error = await refusal_of(serve, "wss", ssl_context=trusting)
    assert type(error) is errors.AttachError
