"""Relative paths belong to the server: they keep their meaning when this process changes its directory."""

import attrs
import pytest
import trio

from trio_codex import CodexConfig, LocalImageInput, MentionInput, SkillInput, open_codex
from trio_codex.testing import MockModel, fake_codex, offline_home


@pytest.fixture
def two_directories(tmp_path, monkeypatch):
    for name in ("then", "now", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "then")
    return tmp_path


@pytest.mark.real
async def test_client_and_server_resolve_relative_paths_in_the_same_way(two_directories, monkeypatch):
    then = two_directories / "then"
    with trio.fail_after(30):
        async with MockModel() as model:
            with offline_home(model) as home:
                # The server has the working directory of this process.
                async with open_codex(attrs.evolve(home.config(), cwd=None)) as codex:
                    monkeypatch.chdir(two_directories / "now")
                    async with codex.watch("file") as watch, codex.watch("~/file") as at_home:
                        assert (watch.path, at_home.path) == (f"{then}/file", f"{home.env['HOME']}/file")
                    assert (await codex.skills.list("project")).cwd == f"{then}/project"
                    thread = await codex.thread_start(cwd="project", runtime_workspace_roots=["project", "~"])
                    assert thread.info.cwd == f"{then}/project"
                    assert (await codex.thread_start(cwd="~/x")).info.cwd == f"{home.env['HOME']}/x"
                    async with codex.exec(["pwd"], cwd=".") as process:
                        assert await process.stdout.receive_some() == f"{then}\n".encode()


async def test_relative_files_in_turn_input_are_resolved_in_the_servers_directory(
    two_directories, monkeypatch
):
    then, home = two_directories / "then", two_directories / "home"
    given = [
        LocalImageInput("a.png"), LocalImageInput("~/b.png"), SkillInput("s", "s/SKILL.md"), MentionInput("f", "f.py"),
        MentionInput("app", "app://id"),
    ]  # fmt: skip
    expected = [f"{then}/a.png", f"{home}/b.png", f"{then}/s/SKILL.md", f"{then}/f.py", "app://id"]
    with trio.fail_after(5):
        async with fake_codex() as (codex, server), trio.open_nursery() as nursery:
            thread = await codex.thread_start()
            monkeypatch.chdir(two_directories / "now")
            server.take_over("turn/steer")

            @nursery.start_soon
            async def _():
                async with thread.turn(given) as turn:
                    await turn.steer(given)
                    await turn.wait()

            asked = await server.accept_turn()
            assert [item["path"] for item in asked.params["input"]] == expected
            asked = await server.expect("turn/steer")
            assert [item["path"] for item in asked.params["input"]] == expected
            await asked.answer({"turnId": "turn-1"})
            await server.end_turn()


async def test_a_tilde_in_the_servers_directory_means_the_home_directory(two_directories, monkeypatch):
    config = CodexConfig(cwd="~")
    monkeypatch.chdir(two_directories / "now")
    with trio.fail_after(10):
        async with fake_codex(config, process=True) as (codex, server), trio.open_nursery() as nursery:
            server.take_over("skills/list")
            nursery.start_soon(codex.skills.list, "a")
            asked = await server.expect("skills/list")
            assert asked.params["cwds"] == [str(two_directories / "home/a")]
            await asked.answer({"data": [{"cwd": "/", "errors": [], "skills": []}]})
