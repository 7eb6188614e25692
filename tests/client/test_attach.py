"""Attaching to an unsuitable server raises a typed error with a hint in time, and leaves nothing behind."""

import os
import resource
import socket
import subprocess
import sys
import tempfile
import textwrap
import traceback
from contextlib import suppress

import attrs
import pytest
import trio
import trio.testing

from trio_codex import Attachment, BearerToken, ClientConfig, SignedBearer, attach_codex, errors
from trio_codex._link.dial import RESPONSE_BYTES, SHOWN_CHARACTERS, parse_address
from trio_codex.instruments import Instrument
from trio_codex.testing import assert_nothing_left
from trio_codex.testing._fake import FakeServer
from websocket_peer import accept, close_frame, frame, listening, serve_codex

SECONDS = 0.15
"""The ``start_timeout`` for servers that never answer."""

TOKEN = "open-sesame-0123456789"


async def refusal(url, **options):
    """Attach, check that nothing of the attempt is left, and return the error."""
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
    """Return the error for a server that handles a connection like this."""
    async with assert_nothing_left(), listening(serve, ssl_context=server_context) as address:
        return await failure(f"{scheme}://{host}:{address.rpartition(':')[2]}/", **options)


def answering(data):
    """Return a server that reads the request, sends this, and closes."""

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


# -- the address ---------------------------------------------------------------------------------------------------

NO_ADDRESSES = [
    "",
    "codex",
    "127.0.0.1:4500",
    "http://127.0.0.1:4500",
    "https://127.0.0.1",
    "ws:",
    "ws://",
    "ws:///path",
    "wss://:443",
    "ws:127.0.0.1",
    "unix:/run/codex.sock",
    "tcp://127.0.0.1:1",
    "ws://127.0.0.1:0",
    "ws://127.0.0.1:70000",
    "ws://127.0.0.1:port",
    "ws://[::1",
    "ws://127.0.0.1/#fragment",
    "ws://127.0.0.1/a b",
    "ws://127.0.0.1/\r\nX-Header:1",
    " ws://127.0.0.1",
    "wss://a..b/é",
    "wss://" + 64 * "a" + ".example",
    "unix:///run/a\0b",
    "unix:///run/\ud800",
]


@pytest.mark.parametrize("url", NO_ADDRESSES)
async def test_an_invalid_address_is_a_value_error_before_anything_is_sent(url, monkeypatch):
    forbid_sockets(monkeypatch)
    async with assert_nothing_left():
        with pytest.raises(ValueError, match=r"."):
            async with attach_codex(url, insecure=True):
                pytest.fail("it attached")


async def test_a_missing_ws_extra_is_named(monkeypatch):
    for name in ("trio_codex._link.dial", "trio_codex._link.websocket"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "websockets.exceptions", None)
    with pytest.raises(ModuleNotFoundError, match="needs websockets, which the ws extra installs") as caught:
        async with attach_codex("unix://"):
            pytest.fail("it was entered")
    assert caught.value.name == "websockets.exceptions"


@pytest.mark.parametrize(
    "url",
    [
        "ws://me:secret@127.0.0.1",
        "wss://me:secret@host/",
        "ws://secret@127.0.0.1",
        "http://secret:secret@host/",
    ],
)
async def test_credentials_in_the_url_are_refused_and_not_shown(url, monkeypatch):
    forbid_sockets(monkeypatch)
    with pytest.raises(ValueError, match="auth=BearerToken") as caught:
        async with attach_codex(url):
            pytest.fail("it attached")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "host",
    [
        "192.0.2.1",
        "server.example",
        "0.0.0.0",  # every interface is not loopback
        "[2001:db8::1]",
        "127.0.0.1.example",
        "localhost.example",
        "2130706433",
    ],
)
async def test_another_machine_needs_tls_or_explicit_permission(host, monkeypatch):
    forbid_sockets(monkeypatch)
    with pytest.raises(ValueError, match=r"wss://.*insecure=True"):
        async with attach_codex(f"ws://{host}:4500"):
            pytest.fail("it attached")
    for allowed, insecure in ((f"wss://{host}:4500", False), (f"ws://{host}:4500", True)):
        assert parse_address(allowed, codex_home=None, insecure=insecure).port == 4500


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "[::1]", "localhost", "LOCALHOST"])
def test_loopback_needs_neither_tls_nor_permission(host):
    address = parse_address(f"ws://{host}:4500", codex_home=None, insecure=False)
    assert (address.host, address.port) == (host.strip("[]").lower(), 4500)


@pytest.mark.parametrize("scheme", ["unix", "UNIX"])
def test_a_unix_address_is_a_literal_path_or_the_socket_of_the_daemon(scheme):
    for path in ("/run/codex.sock", "relative.sock", "/with space?#%20"):
        parsed = parse_address(f"{scheme}://{path}", codex_home=None, insecure=False).path
        assert parsed == os.path.join(os.getcwd(), path)
    address = parse_address(f"{scheme}://", codex_home="/home/me/.codex", insecure=False)
    assert address.path == "/home/me/.codex/app-server-control/app-server-control.sock"
    with pytest.raises(ValueError, match="CODEX_HOME"):
        parse_address(f"{scheme}://", codex_home=None, insecure=False)


@pytest.mark.parametrize(
    "options",
    [
        {"url": None},
        {"url": b"ws://127.0.0.1"},
        {"auth": TOKEN},
        {"config": "gpt-5"},
        {"ssl_context": True},
        {"policy": "accept"},
        {"tools": None},
        {"budget": 1},
        {"instruments": "log"},
    ],
    ids=lambda options: next(iter(options)),
)
async def test_an_argument_of_the_wrong_type_is_a_type_error_that_names_it(options, monkeypatch):
    forbid_sockets(monkeypatch)
    with pytest.raises(TypeError, match=next(iter(options))) as caught:
        async with attach_codex(**{"url": "ws://127.0.0.1", **options}):
            pytest.fail("it attached")
    assert TOKEN not in str(caught.value)


async def test_a_query_which_may_contain_a_token_is_sent_but_not_shown():
    async def serve(stream):
        async with stream:
            assert TOKEN.encode() in await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 404 Not Found\r\n\r\n")

    async with assert_nothing_left(), listening(serve) as address:
        error = await failure(f"ws://{address}/path?token={TOKEN}")
    assert f"ws://{address}/path refused" in error.problem
    assert TOKEN not in "".join(traceback.format_exception(error))
    error = await failure(f"ws://{address}/path?token={TOKEN}")
    assert TOKEN not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: BearerToken(TOKEN.encode()), "token"),
        (lambda: BearerToken(None), "token"),
        (lambda: SignedBearer(None), "secret"),
        (lambda: SignedBearer(bytearray(TOKEN, "ascii") * 2), "secret"),
        (lambda: SignedBearer(TOKEN * 2, issuer=TOKEN.encode()), "issuer"),
        (lambda: SignedBearer(TOKEN * 2, audience=[TOKEN]), "audience"),
    ],
)
def test_a_token_of_the_wrong_type_is_a_type_error_that_does_not_show_it(make, name):
    with pytest.raises(TypeError, match=name) as caught:
        make()
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"auth": BearerToken(TOKEN)}, {"config": ClientConfig()}, {"ssl_context": "any"}, {"insecure": True}],
    ids=lambda options: next(iter(options)),
)
async def test_an_attachment_excludes_arguments_that_it_already_contains(options, monkeypatch):
    forbid_sockets(monkeypatch)
    with pytest.raises(TypeError, match=f"{next(iter(options))}.*Attachment"):
        async with attach_codex(Attachment("ws://127.0.0.1:4500"), **options):
            pytest.fail("it attached")


def test_an_attachment_is_checked_at_construction_and_does_not_show_its_token():
    secret = "a secret of more than thirty-two bytes"
    for auth in (BearerToken(TOKEN), SignedBearer(secret)):
        attachment = Attachment("wss://host/path", auth=auth, config=ClientConfig(client_name="me"))
        assert attachment == attrs.evolve(attachment)
        assert "wss://host/path" in repr(attachment)
        assert TOKEN not in repr(attachment)
        assert secret not in repr(attachment)
    assert TOKEN not in repr(Attachment(f"ws://127.0.0.1:4500/?token={TOKEN}"))
    assert "'unix:///what?'" in repr(Attachment("unix:///what?"))
    with pytest.raises(ValueError, match="auth=BearerToken") as caught:
        Attachment("ws://me:hidden@127.0.0.1")
    assert "hidden" not in str(caught.value)
    with pytest.raises(TypeError, match="auth"):
        Attachment("ws://127.0.0.1", auth=TOKEN)


def forbid_sockets(monkeypatch):
    for name in ("open_tcp_stream", "open_unix_socket", "open_ssl_over_tcp_stream"):
        monkeypatch.setattr(trio, name, lambda *_, **__: pytest.fail("it connected"))


# -- no server listens
# ------------------------------------------------------------------------------------------------


async def test_a_missing_socket_is_reported_with_the_command_that_creates_one(tmp_path):
    url = f"unix://{tmp_path}/none.sock"
    error = await refusal(url)
    assert type(error) is errors.AttachError
    assert url in error.problem
    assert f"--listen {url}" in error.hint
    assert isinstance(error.__cause__, FileNotFoundError)


async def test_a_file_that_is_not_a_socket_and_a_socket_without_a_server_are_reported(tmp_path):
    (tmp_path / "file").touch()
    with socket.socket(socket.AF_UNIX) as unserved:
        unserved.bind(str(tmp_path / "unserved"))
    for name in ("file", "unserved"):
        error = await refusal(f"unix://{tmp_path}/{name}")
        assert type(error) is errors.AttachError
        assert isinstance(error.__cause__, ConnectionRefusedError)


async def test_a_relative_path_leads_to_the_same_socket_after_a_change_of_directory(tmp_path, monkeypatch):
    connections = []

    async def serve(stream):
        peer, _ = await accept(stream)
        connections.append(stream)
        server = FakeServer(peer)
        server.give("turn/start", {"turn": {"id": "turn-1", "items": [], "status": "inProgress"}})
        await server.serve()

    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("codex.sock")
        listener.listen()
        async with trio.open_nursery() as nursery:
            stream_listener = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
            nursery.start_soon(trio.serve_listeners, serve, [stream_listener])
            with trio.fail_after(10), pytest.raises(errors.TurnLost):
                async with (
                    attach_codex("unix://codex.sock", config=ClientConfig(interrupt_grace=0.5)) as codex,
                    (await codex.thread_start()).turn("hi") as turn,
                ):
                    monkeypatch.chdir("/")
                    await trio.aclose_forcefully(connections[0])
                    await turn.wait()
            nursery.cancel_scope.cancel()
    assert len(connections) == 2, "no client connected to end the turn"


async def test_a_path_that_is_too_long_for_a_socket_is_reported(tmp_path):
    error = await refusal(f"unix://{tmp_path}/{'x' * 200}")
    assert type(error) is errors.AttachError
    assert "too long" in error.problem


async def test_a_socket_without_permission_is_reported_with_its_owner():
    me = os.geteuid()
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as served:
        served.bind(f"{directory}/other.sock")
        served.listen()
        os.chmod(directory, 0o755)
        os.chmod(f"{directory}/other.sock", 0o600 if me == 0 else 0)
        if me == 0:
            os.seteuid(65534)  # root has access everywhere
        try:
            error = await refusal(f"unix://{directory}/other.sock")
        finally:
            os.seteuid(me)
    assert type(error) is errors.AttachError
    assert "Permission denied" in error.problem
    assert "the user who started the server" in error.hint


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_a_port_without_a_server_is_reported(scheme):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        error = await refusal(f"{scheme}://127.0.0.1:{closed.getsockname()[1]}")
    assert type(error) is errors.AttachError
    assert "refused" in error.problem
    assert "--listen" in error.hint


async def test_an_unreachable_machine_is_reported_within_start_timeout(monkeypatch):
    async def unreachable(*_):
        await trio.sleep_forever()

    monkeypatch.setattr(trio, "open_tcp_stream", unreachable)
    error = await refusal("ws://127.0.0.1:4500", config=ClientConfig(start_timeout=SECONDS))
    assert type(error) is errors.StartTimeout
    assert "cannot connect to ws://127.0.0.1:4500: no answer within 0.15 s" in error.problem


async def test_without_a_free_descriptor_the_limit_is_reported(monkeypatch):
    taken = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(200, soft), hard))
        with suppress(OSError):
            while True:  # noqa: ASYNC913  # until no descriptor is free
                taken.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(errors.AttachError) as caught:
            async with attach_codex("ws://127.0.0.1:1"):
                pytest.fail("it attached")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)
    assert "Too many open files" in caught.value.problem
    assert "ulimit -n" in caught.value.hint


def test_without_a_descriptor_for_the_imports_of_the_first_attachment_the_limit_is_reported():
    done = run_python("""
        import os, resource, trio
        from trio_codex import attach_codex, errors

        async def main():
            taken = []
            try:
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                pass
            try:
                async with attach_codex("ws://127.0.0.1:1"):
                    pass
            except errors.AttachError as exc:
                os.closerange(taken[0], taken[-1] + 1)
                print(exc.problem, exc.hint)

        resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        trio.run(main)
    """)
    assert "Too many open files" in done
    assert "ulimit -n" in done


def test_a_lost_connection_does_not_kill_a_program_that_has_reset_sigpipe():
    done = run_python("""
        import signal, trio, trio.testing
        from trio_codex import attach_codex, errors
        from trio_codex.testing import fake_websocket

        async def main():
            async with fake_websocket() as (url, server), attach_codex(url) as codex:
                channel = codex._session.connection._channel
                await trio.testing.wait_all_tasks_blocked()
                await server.hang_up()
                try:
                    while True:
                        await channel.send_all(channel.frame(b"{}"))
                except trio.BrokenResourceError:
                    print("alive")

        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        trio.run(main)
    """)
    assert done == "alive\n"


def run_python(program):
    """Run a program in a separate process, and return its output."""
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


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
    for status in (401, 403, 404):
        answer = b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status
        hints[status] = (await refusal_of(answering(answer))).hint
    assert "auth=BearerToken" in hints[401]
    assert "Origin" in hints[403]
    assert "address of a codex app-server" in hints[404]


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
        """A stream that holds back data, to send it together with the next write."""

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


@pytest.mark.parametrize("url", ["ws://127.0.0.1:1", "unix:///run/codex.sock"])
async def test_an_ssl_context_without_tls_is_a_value_error(url, trusting, monkeypatch):
    forbid_sockets(monkeypatch)
    with pytest.raises(ValueError, match="wss://"):
        async with attach_codex(url, ssl_context=trusting):
            pytest.fail("it attached without TLS")


async def test_an_ssl_context_for_servers_is_reported(server_context):
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
