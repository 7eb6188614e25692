"""The real server: the effect of each field of the configuration."""

import os

import attrs
import pytest
from real import offline, offline_parts

from trio_codex import CodexConfig, Sandbox, errors, open_codex, wire
from trio_codex.binary import find_binary

pytestmark = pytest.mark.real


async def environment_of(codex):
    """Return the environment that the server passes on to commands."""
    async with codex.exec(["env", "-0"], stdin=False, sandbox=Sandbox.full_access) as process:
        assert await process.wait() == 0
        printed = b"".join([piece async for piece in process.stdout])
    return dict(entry.split("=", 1) for entry in printed.decode().split("\0") if entry)


async def test_configuration_overrides_apply_to_this_server():
    overrides = ['model="another"', 'sandbox_mode="danger-full-access"']
    async with offline(CodexConfig(config_overrides=overrides)) as (codex, model, _home):
        model.say("ok")
        thread = await codex.thread_start()
        assert thread.info.model == "another"
        await thread.run("hi")
        assert model.requests[0].body["model"] == "another"


async def test_the_server_and_the_model_provider_receive_the_name_of_the_client():
    config = CodexConfig(client_name="my_agent", client_title="My Agent", client_version="7.8.9")
    async with offline(config) as (codex, model, _home):
        assert codex.metadata.user_agent.startswith("my_agent/")
        assert "(my_agent; 7.8.9)" in codex.metadata.user_agent
        model.say("ok")
        await (await codex.thread_start()).run("hi")
        assert model.requests[0].headers["originator"] == "my_agent"


async def test_opting_out_of_notifications_does_not_change_the_result():
    config = CodexConfig(opt_out_notifications=["item/agentMessage/delta", "thread/tokenUsage/updated"])
    async with offline(config) as (codex, model, _home):
        model.say("hel", "lo")
        thread = await codex.thread_start()
        async with thread.turn("hi") as turn:
            methods = {event.method async for event in turn}
        assert not methods & set(config.opt_out_notifications)
        assert turn.result.final_response == "hello"
        assert turn.result.turn_usage is None


async def test_launch_args_replace_the_default_command_line():
    argv = [find_binary().path, "-c", 'model="another"', "app-server"]
    config = CodexConfig(launch_args_override=argv, codex_bin="/nonexistent")
    async with offline(config) as (codex, _, _home):
        assert (await codex.thread_start()).info.model == "another"


@pytest.mark.parametrize("name", ["CODEX_HOME", "CODEX_SQLITE_HOME"])
async def test_a_relative_home_is_resolved_in_the_working_directory_of_the_server(name):
    async with offline_parts() as (config, _, home):
        directory = home.codex_home if name == "CODEX_HOME" else home.workspace
        env = {**config.env, name: directory.name}
        config = attrs.evolve(config, env=env, cwd=directory.parent)
        assert (config.home(), config.state_home()) == (home.codex_home, directory)
        async with open_codex(config) as codex:
            assert codex.metadata.codex_home == str(home.codex_home.resolve())
        assert list(directory.glob("state_*.sqlite"))


@pytest.mark.parametrize(
    ("inherit", "given"),
    [(True, {"MARK": "1", "OTHER_MARK": "2"}), (False, {}), (["MARK"], {"MARK": "1"})],
    ids=["all", "none", "by name"],
)
async def test_the_server_inherits_only_the_selected_environment(inherit, given, monkeypatch):
    monkeypatch.setenv("MARK", "1")
    monkeypatch.setenv("OTHER_MARK", "2")
    async with offline_parts() as (config, _, _home):
        env = {**config.env, "OWN": "3"}
        async with open_codex(attrs.evolve(config, env=env, inherit_env=inherit)) as codex:
            found = await environment_of(codex)
    marks = {name: value for name, value in found.items() if name in ("MARK", "OTHER_MARK", "OWN")}
    assert marks == {"OWN": "3", **given}


async def test_a_variable_can_be_removed_from_the_environment(monkeypatch):
    monkeypatch.setenv("MARK", "1")
    async with offline_parts() as (config, _, _home):
        env = {**config.env, "MARK": None}
        async with open_codex(attrs.evolve(config, env=env, inherit_env=True)) as codex:
            assert "MARK" not in await environment_of(codex)


async def test_a_variable_that_is_not_utf8_prevents_no_command(monkeypatch):
    monkeypatch.setenv("MARK", "1")
    monkeypatch.setenv("ODD_VALUE", "\udcff")
    monkeypatch.setenv("ODD_\udcff", "1")
    async with offline_parts() as (config, _, _home):
        for inherit in (True, ["MARK", "ODD_VALUE", "ODD_\udcff"]):
            async with open_codex(
                attrs.evolve(config, inherit_env=inherit, request_timeout=5, interrupt_grace=1)
            ) as codex:
                found = await environment_of(codex)
            assert found["MARK"] == "1"
            assert not any(name.startswith("ODD") for name in found)


async def test_the_server_runs_in_its_cwd_and_stores_threads_in_its_home(tmp_path):
    async with offline_parts() as (config, model, home):
        elsewhere = tmp_path / "codex_home"
        elsewhere.mkdir()
        (elsewhere / "config.toml").write_bytes((home.codex_home / "config.toml").read_bytes())
        env = {name: value for name, value in config.env.items() if name != "CODEX_HOME"}
        config = attrs.evolve(config, env=env, codex_home=elsewhere, cwd=tmp_path)
        async with open_codex(config) as codex:
            assert codex.metadata.codex_home == str(elsewhere)
            model.say("ok")
            thread = await codex.thread_start()
            await thread.run("hi")
            assert thread.info.cwd == str(tmp_path)
        assert any(thread.id in name for _, _, files in os.walk(elsewhere) for name in files)
        assert not any(thread.id in name for _, _, files in os.walk(home.codex_home) for name in files)


async def test_without_the_experimental_api_only_its_methods_are_refused():
    async with offline(CodexConfig(experimental_api=False)) as (codex, model, _home):
        model.say("ok")
        async with await codex.thread_start() as thread:
            assert (await thread.run("hi")).final_response == "ok"
            with pytest.raises(errors.InvalidRequestError, match="experimentalApi"):
                await thread.update_settings(service_tier=wire.NULL)
