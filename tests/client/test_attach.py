"""Attaching to an address without a server raises a typed error with a hint in time, and leaves nothing behind."""

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
from attach_failures import (
    SECONDS,
    TOKEN,
    failure,
    forbid_sockets,
    refusal,
)

from trio_codex import Attachment, BearerToken, ClientConfig, SignedBearer, attach_codex, errors
from trio_codex._link.dial import parse_address
from trio_codex.testing import assert_nothing_left
from trio_codex.testing._fake import FakeServer
from websocket_peer import accept, listening

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
        "ws://me:secret@hos\u2100t/",  # urlsplit() quotes the credentials
        "ws://me:secret@[::1/",
        "ws:me:secret@host",
        "me:secret@host",
        "secret@host:4500",
        "//me:secret@host",
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
        "0.0.0.0",  # all interfaces, not only loopback
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
    for path in ("/run/codex.sock", "relative.sock", "/with space?#%20", "[1].sock", "me:here@\u2100"):
        url = Attachment(f"{scheme}://{path}").url
        parsed = parse_address(url, codex_home=None, insecure=False).path
        assert parsed == os.path.join(os.getcwd(), path)
    daemon = Attachment(f"{scheme}://").url
    address = parse_address(daemon, codex_home="/home/me/.codex", insecure=False)
    assert address.path == "/home/me/.codex/app-server-control/app-server-control.sock"
    with pytest.raises(ValueError, match="CODEX_HOME"):
        parse_address(daemon, codex_home=None, insecure=False)


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


@pytest.mark.parametrize("name", ["secret", "issuer", "audience"])
def test_a_lone_surrogate_is_refused_at_construction_by_an_error_without_the_secret(name):
    # As os.environ contains for a byte that is not UTF-8.
    values = {"secret": TOKEN * 2, name: TOKEN * 2 + "\udcff"}
    with pytest.raises(ValueError, match=name) as caught:
        SignedBearer(values.pop("secret"), **values)
    error = caught.value
    while error is not None:
        assert TOKEN not in repr(error)
        error = error.__cause__ or error.__context__


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
    assert Attachment("UNIX:///What?") == Attachment("unix:///What?")
    with pytest.raises(ValueError, match="auth=BearerToken") as caught:
        Attachment("ws://me:hidden@127.0.0.1")
    assert "hidden" not in str(caught.value)
    with pytest.raises(TypeError, match="auth"):
        Attachment("ws://127.0.0.1", auth=TOKEN)


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
    assert "shorter" in error.hint


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
