"""Relative paths keep their meaning in every generation, even after the program has changed its directory."""

import os
import socket

import attrs
import pytest
import trio
from supervised import kill, stage

from trio_codex import Attachment, open_supervisor
from trio_codex.batch import Task, open_batch
from trio_codex.binary import find_binary
from trio_codex.supervision._generations import with_absolute_socket


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Return a function that changes the directory; the original one is restored."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    return lambda: os.chdir(tmp_path / "elsewhere")


def relative(home):
    """Return a configuration with relative paths, and change to the directory that they refer to."""
    root = home.codex_home.parent
    os.chdir(root)
    (root / "codex").symlink_to(find_binary(None, None).path)
    (root / "project").mkdir()
    env = {name: value for name, value in home.env.items() if name != "CODEX_HOME"}
    return attrs.evolve(home.config(), cwd=None, env=env, codex_home="codex_home", codex_bin="./codex")


@pytest.mark.real
async def test_a_restarted_server_uses_the_same_paths(elsewhere):
    async with (
        stage() as on,
        open_supervisor(relative(on.home), journal="agents.db") as supervisor,
        supervisor.thread("a", cwd="project") as thread,
    ):
        root = on.home.codex_home.parent
        await thread.run("one", key="1")
        codex = await supervisor.ready()
        elsewhere()
        kill(codex)
        await thread.run("two", key="2")
        codex = await supervisor.ready()
        assert supervisor.generation == 2
        assert os.readlink(f"/proc/{codex.pid}/cwd") == str(root)
        assert (await codex.thread_read(thread.id)).cwd == str(root / "project")
        on.assert_each_once("one", "two")


@pytest.mark.real
async def test_later_servers_of_a_batch_use_the_same_paths(elsewhere):
    async def solve(ctx):
        elsewhere()
        return (await ctx.thread.run("hi")).final_response

    tasks = [Task("1", "hi"), Task("2", "hi")]
    async with (
        stage() as on,
        open_batch(tasks, solve, out="out", config=relative(on.home), servers="per-task", turns=1) as batch,
    ):
        assert [outcome.value async for outcome in batch] == ["did it", "did it"]


@pytest.mark.parametrize("scheme", ["unix", "UNIX"])
async def test_a_relative_socket_is_found_again(scheme, elsewhere, tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("codex.sock")
        attachment = with_absolute_socket(Attachment(f"{scheme}://codex.sock"))
        elsewhere()
        assert attachment.url == f"unix://{tmp_path}/codex.sock"
    for url in ("unix://", "ws://127.0.0.1:1", f"unix://{'x' * 100}"):
        assert with_absolute_socket(Attachment(url)).url == url
    await trio.lowlevel.checkpoint()
