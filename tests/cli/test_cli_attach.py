"""``--attach``: the commands on a server that somebody else started, and what the doctor reports about a daemon."""

import json
import os
import socket
import sys

import pytest
import trio
from cli_driver import on_terminal, processes_with, run_cli, script

from shared_server import TOKEN, shared_server
from trio_codex.testing import offline_home
from trio_codex.testing._fake import FakeServer
from websocket_peer import accept, listening

pytestmark = pytest.mark.real


@pytest.fixture
def home(model):
    """A home whose path is short enough for a unix socket."""
    with offline_home(model) as home:
        yield home


def token_file(home, mode=0o600, token=TOKEN):
    path = home.home / "my token"
    path.write_text(f"{token}\n")
    path.chmod(mode)
    return path


@pytest.mark.parametrize("kind", ["unix", "tcp", "token"])
async def test_run_attaches_and_leaves_the_server_running(model, home, kind):
    model.say("It is here.")
    async with shared_server(home, kind) as (url, _, process):
        token = ["--token-file", token_file(home)] if kind == "token" else []
        ended = await run_cli("run", "Where is it?", "--attach", url, *token, home=home)
        assert (ended.status, ended.out) == (0, "It is here.\n")
        assert "!" not in ended.err
        assert process.returncode is None
    assert processes_with(home.codex_home) == []


@pytest.mark.parametrize(
    ("kind", "options", "directory"),
    [
        ("unix", [], "workspace"),
        ("tcp", [], "home"),
        ("tcp", ["--cwd", "/not/on/this/machine"], "/not/on/this/machine"),
    ],
)
async def test_over_a_unix_socket_the_agent_works_in_this_directory_otherwise_in_the_servers(
    model, home, kind, options, directory
):
    model.say("Yes.")
    async with shared_server(home, kind, cwd=home.home) as (url, _, _):
        ended = await run_cli("run", "Hi.", "--attach", url, *options, home=home)
        assert ended.status == 0
        [thread] = (await run_cli("threads", "list", "--json", "--attach", url, home=home)).events
    assert thread["cwd"] == str(getattr(home, directory, directory))


async def test_chat_attaches_and_so_does_the_command_that_it_prints_to_continue(model, home):
    model.say("Hello.")
    async with shared_server(home, "token") as (url, _, _):
        token = token_file(home)
        options = ["--attach", url, "--token-file", token]
        async with on_terminal("chat", *options, home=home, columns=200) as terminal:
            await terminal.expect("/help")
            await terminal.send("Hi.\n")
            await terminal.expect("Hello.")
            await terminal.send("/status\n")
            await terminal.expect(", attached")
            await terminal.send("/quit\n")
            await terminal.expect(
                f"To continue later: trio-codex chat --attach {url} --token-file '{token}' --resume "
            )
            assert await terminal.end() == 0


async def test_doctor_examines_the_server_that_it_attaches_to(home):
    async with shared_server(home, "unix") as (url, _, _):
        ended = await run_cli("doctor", "--attach", url, home=home)
        assert (ended.status, ended.err) == (0, "")
        for name in ("attach", "version", "CODEX_HOME", "configuration", "login", "models", "sandbox"):
            assert f"✓ {name}" in ended.out
        assert "binary" not in ended.out
        report = json.loads((await run_cli("doctor", "--attach", url, "--json", home=home)).out)
    assert report["ok"]
    assert report["findings"][0]["details"]["url"] == url


async def test_the_query_of_the_url_which_may_contain_a_token_is_not_shown(model, home):
    model.say("Hello.")
    async with shared_server(home, "tcp") as (url, _, _):
        secret = f"{url}/?token={TOKEN}"
        for options in ([], ["--json"]):
            ended = await run_cli("doctor", "--attach", secret, *options, home=home)
            assert f"{url}/?" in ended.out
            assert TOKEN not in ended.out + ended.err
        async with on_terminal("chat", "--attach", secret, home=home, columns=200) as terminal:
            await terminal.expect("/help")
            await terminal.send("Hi.\n")
            await terminal.expect("Hello.")
            await terminal.send("/quit\n")
            await terminal.expect(f"To continue later: trio-codex chat --attach '{url}/?…' --resume ")
            assert await terminal.end() == 0


@pytest.mark.parametrize("mode", [[], ["--json"]])
async def test_a_turn_that_runs_out_of_time_and_cannot_be_interrupted_is_not_called_interrupted(mode, home):
    interrupted = trio.Event()

    async def serve(stream):
        peer, _ = await accept(stream)
        server = FakeServer(peer)
        server.give("account/read", {"account": None, "requiresOpenaiAuth": False})
        server.give("turn/start", {"turn": {"id": "turn-1", "items": [], "status": "inProgress"}})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve)
            await server.expect("turn/interrupt")
            interrupted.set()
            nursery.cancel_scope.cancel()

    async with listening(serve) as address:
        command = ("run", "Hi.", "--timeout", "0.2", *mode, "--attach", f"ws://{address}")
        ended = await run_cli(*command, home=home)
    assert interrupted.is_set()
    assert ended.status == 124
    assert ended.err.splitlines()[-1] == (
        "trio-codex: timed out after 0.2 s: the turn could not be interrupted, and may still be running"
    )
    if mode:
        assert ended.events[-1]["result"]["status"] == "lost"


@pytest.mark.parametrize("mode", [0o640, 0o604])
async def test_a_token_that_others_can_read_is_a_warning(model, home, mode):
    model.say("Yes.")
    async with shared_server(home, "token") as (url, _, _):
        token = token_file(home, mode)
        ended = await run_cli("run", "Hi.", "--attach", url, "--token-file", token, home=home)
    assert (ended.status, ended.out) == (0, "Yes.\n")
    assert ended.err.startswith(f"! other users can access {token}: chmod 600 '{token}'\n")


async def test_a_refused_token_is_reported_on_one_line_that_names_the_option_but_not_the_token(home):
    async with shared_server(home, "token") as (url, _, _):
        token = token_file(home, token="another-token-0123")
        for command in (["run", "Hi."], ["chat"], ["threads", "list"], ["doctor"]):
            ended = await run_cli(*command, "--attach", url, "--token-file", token, home=home)
            assert ended.status == 1
            assert "401" in ended.complaint
            assert "--token-file" in ended.complaint
            assert "another-token" not in ended.out + ended.err


@pytest.mark.parametrize(
    ("url", "status", "told"),
    [
        ("unix:///no/such.sock", 1, "codex app-server --listen unix:///no/such.sock"),
        ("ws://127.0.0.1:1", 1, "Check that a server listens there"),
        ("ws://codex.example.com", 2, "use wss:// or a tunnel"),
        ("ws://me:secret@localhost", 2, "pass --token-file"),
        ("http://localhost", 2, "unix://PATH, ws://HOST:PORT or wss://HOST/PATH"),
    ],
)
async def test_a_missing_server_is_reported_on_one_line_with_a_hint(home, url, status, told):
    ended = await run_cli("run", "Hi.", "--attach", url, home=home)
    assert ended.status == status
    assert told in ended.complaint
    assert "secret" not in ended.complaint


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--codex-bin", "codex"], "--codex-bin is for a server that the command starts"),
        (["--codex-home", "/tmp"], "--codex-home is for a server"),
        (["-c", "model=m"], "--config is for a server"),
        (["--token-file", "/no/such"], "/no/such"),
        (["--token-file", os.devnull], "does not contain a token"),
        (["--token-file", "/dev/zero"], "does not contain a token"),
    ],
)
async def test_options_that_conflict_with_attach_are_usage_errors(home, options, told):
    for command in (["run", "Hi."], ["chat"], ["threads", "list"], ["doctor"]):
        ended = await run_cli(*command, "--attach", "unix:///no/such.sock", *options, home=home)
        assert ended.status == 2
        assert told in ended.complaint


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["run", "Hi.", "--token-file", __file__], "--token-file requires --attach"),
        (["doctor", "--schema", "--attach", "unix://"], "--schema"),
        (["doctor", "--schema", "--token-file", __file__], "--schema"),
        (["run", "Hi.", "--attach", "ws://localhost:1", "--cwd", "here"], "must be absolute"),
    ],
)
async def test_missing_and_conflicting_options_are_usage_errors(home, args, told):
    ended = await run_cli(*args, home=home)
    assert ended.status == 2
    assert told in ended.complaint


async def test_a_missing_ws_extra_is_reported_on_one_line(home):
    without = [
        sys.executable,
        "-c",
        "import sys; sys.modules['websockets'] = None; from trio_codex.cli import main; main()",
    ]
    ended = await run_cli("run", "Hi.", "--attach", "unix://", home=home, command=without)
    assert ended.status == 1
    assert "[cli,ws]'" in ended.complaint
    async with shared_server(home, "daemon"):
        ended = await run_cli("doctor", home=home, command=without)
    assert (ended.status, ended.err) == (0, "")
    assert "· daemon" in ended.out
    assert "[cli,ws]'" in ended.out


# -- the daemon ----------------------------------------------------------------------------------------------------


async def daemon_of(home, *options):
    """Return what the doctor reports about the daemon."""
    ended = await run_cli("doctor", "--json", *options, home=home)
    [daemon] = [each for each in json.loads(ended.out)["findings"] if each["name"] == "daemon"]
    return daemon


async def test_doctor_reports_that_there_is_no_daemon_and_starts_none(home):
    daemon = await daemon_of(home)
    assert (daemon["status"], daemon["value"]) == ("ok", "none is running")
    assert "app-server-control" not in os.listdir(home.codex_home)
    assert processes_with(home.codex_home) == []


async def test_doctor_reports_the_version_of_a_daemon_and_whether_it_is_older_than_the_binary(home, tmp_path):
    async with shared_server(home, "daemon"):
        daemon = await daemon_of(home)
        assert daemon["status"] == "ok"
        assert daemon["details"]["version"] in daemon["value"]
        newer = script(tmp_path / "codex", "echo codex-cli 99.0.0")
        daemon = await daemon_of(home, "--codex-bin", newer)
        assert daemon["status"] == "warning"
        assert "older than the binary, 99.0.0" in daemon["value"]
        assert "daemon restart" in daemon["hint"]


@pytest.mark.parametrize("state", ["mute", "dead", "not a socket"])
async def test_doctor_warns_about_a_daemon_that_does_not_answer(home, state):
    path = home.codex_home / "app-server-control" / "app-server-control.sock"
    path.parent.mkdir()
    if state == "not a socket":
        path.touch()
    with socket.socket(socket.AF_UNIX) as listener:
        if state != "not a socket":
            listener.bind(str(path))
        if state == "mute":
            listener.listen()
        daemon = await daemon_of(home)
    assert daemon["status"] == "warning"
    assert ("within 2 s" in daemon["value"]) == (state == "mute")
    assert str(path) in daemon["value"]


async def test_a_url_without_a_path_means_the_daemon(model, home):
    model.say("Yes.")
    async with shared_server(home, "daemon"):
        ended = await run_cli("run", "Hi.", "--attach", "unix://", home=home)
    assert (ended.status, ended.out) == (0, "Yes.\n")
