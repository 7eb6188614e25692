"""A real server that the client did not start, on a unix socket or a loopback port, with and without tokens."""

import os
import re
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from trio_codex import BearerToken, SignedBearer, attach_codex
from trio_codex._process.spawn import spawn_server
from trio_codex.binary import find_binary
from trio_codex.testing import MockModel, offline_home

TOKEN = "open-sesame-0123456789"
SECRET = "a secret of more than thirty-two bytes"

KINDS = ("unix", "tcp", "token", "signed")


def listening(kind, directory):
    """Return the ``--listen`` options of a server, and the credentials for a client."""
    if kind == "unix":
        return [f"unix://{directory}/server.sock"], None
    if kind == "daemon":  # on the socket below CODEX_HOME
        return ["unix://"], None
    if kind == "token":
        (directory / "token").write_text(TOKEN)
        return (
            ["ws://127.0.0.1:0", "--ws-auth", "capability-token", "--ws-token-file", f"{directory}/token"],
            BearerToken(TOKEN),
        )
    if kind == "signed":
        (directory / "secret").write_text(SECRET)
        secret = [
            "--ws-shared-secret-file",
            f"{directory}/secret",
            "--ws-issuer",
            "me",
            "--ws-audience",
            "it",
        ]
        return (
            ["ws://127.0.0.1:0", "--ws-auth", "signed-bearer-token", *secret],
            SignedBearer(SECRET, issuer="me", audience="it"),
        )
    return ["ws://127.0.0.1:0"], None


@asynccontextmanager
async def shared_server(home, kind="tcp", *, cwd=None):
    """Run the server. Yield its URL, the credentials for a client, and the process."""
    config = home.config()
    options, auth = listening(kind, home.tmp)
    async with listening_server(options, config.environment(), cwd or config.cwd) as (url, process):
        yield url, auth, process


@asynccontextmanager
async def listening_server(options, env, cwd=None):
    """Run a server with these ``--listen`` options. Yield its URL and the process."""
    process = spawn_server([find_binary().path, "app-server", "--listen", *options], env=env, cwd=cwd)
    try:
        await process.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.drain_stderr)
            yield await _address(process, options[0], env, cwd), process
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):  # bounded inside
            await process.kill_tree()


async def _address(process, url, env, cwd):
    if url.startswith("unix"):
        path = (
            url.removeprefix("unix://") or f"{env['CODEX_HOME']}/app-server-control/app-server-control.sock"
        )
        path = os.path.join(cwd or "", path)
        while not os.path.exists(path):  # noqa: ASYNC110, ASYNC240  # the server has no event for this
            await trio.sleep(0.01)
        return url
    while not (found := re.search(r"ws://127\.0\.0\.1:\d+", process.stderr.tail())):  # noqa: ASYNC110
        await trio.sleep(0.01)
    return found[0]


@asynccontextmanager
async def two_clients(kind="tcp", **home_options):
    """Yield two clients of one server, and its model."""
    with trio.fail_after(30):
        async with MockModel() as model:
            with offline_home(model, **home_options) as home:
                async with shared_server(home, kind) as (url, auth, process), AsyncExitStack() as stack:
                    clients = [
                        await stack.enter_async_context(attach_codex(url, auth=auth)) for _ in range(2)
                    ]
                    yield (*clients, model)
                    await stack.aclose()
                    assert process.returncode is None, "a client has ended the server"
