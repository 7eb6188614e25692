"""MCP servers and skills on the real server: status, calls, logins and configuration."""

import json
import sys

import pytest
import trio
from oauth_mcp import oauth_mcp
from real import offline

from trio_codex import CodexConfig, Policy, SkillInput, errors, policies, wire
from trio_codex.testing import mcp_server

pytestmark = pytest.mark.real

MUTE = {"command": sys.executable, "args": ["-c", "import sys; sys.stdin.read()"], "startup_timeout_sec": 0.5}
BROKEN = {"command": f"{sys.executable}-that-does-not-exist"}


def text_of(response):
    [content] = response.content
    return content["text"]


# -- status --------------------------------------------------------------------------------------------------


async def test_the_status_of_one_mcp_server_does_not_wait_for_the_others():
    async with offline(mcp_servers={"held": mcp_server(), "mute": {**MUTE, "startup_timeout_sec": 60}}) as (
        codex,
        _,
        _home,
    ):
        thread = await codex.thread_start()
        status = await thread.mcp.status("held")
        assert status.runtime_status == wire.McpServerConnectionStatus.connected
        assert status.server_info.name == "trio-codex-testing"
        assert set(status.tools) == {"ask", "ask_url", "plain", "safe"}
        assert [resource.uri for resource in status.resources] == ["note://greeting"]


async def test_the_status_of_all_servers_waits_until_each_has_started_or_failed():
    servers = {"held": mcp_server(), "mute": MUTE, "broken": BROKEN, "off": {**BROKEN, "enabled": False}}
    async with offline(mcp_servers=servers) as (codex, _, _home):
        thread = await codex.thread_start()
        found = {status.name: status for status in await thread.mcp.list()}
        assert {name: str(status.runtime_status) for name, status in found.items()} == {
            "held": "connected", "mute": "failed", "broken": "failed", "off": "disabled",
        }  # fmt: skip
        assert "timed out" in found["mute"].tools_error
        assert "No such file" in found["broken"].tools_error


async def test_a_slow_start_may_take_longer_than_the_request_timeout():
    slow = {**MUTE, "startup_timeout_sec": 1}
    async with offline(CodexConfig(request_timeout=0.5), mcp_servers={"slow": slow}) as (codex, _, _home):
        thread = await codex.thread_start()
        assert (await thread.mcp.status("slow")).runtime_status == "failed"


async def test_configured_servers_are_listed_without_a_thread():
    async with offline(mcp_servers={"held": mcp_server(), "broken": BROKEN}) as (codex, _, _home):
        broken, held = await codex.mcp.list()
        assert (broken.name, held.name) == ("broken", "held")
        assert broken.tools_error is not None
        assert "safe" in held.tools


async def test_an_unknown_mcp_server_raises_lookup_error():
    async with offline() as (codex, _, _home):
        thread = await codex.thread_start()
        assert await thread.mcp.list() == ()
        with pytest.raises(LookupError, match="'docs'"):
            await thread.mcp.status("docs")


async def test_after_a_reload_a_newly_configured_server_starts_in_open_threads():
    async with offline(mcp_servers={"held": mcp_server()}) as (codex, _, home):
        thread = await codex.thread_start()
        await thread.mcp.list()
        added = mcp_server()
        with (home.codex_home / "config.toml").open("a") as file:
            file.write(f"\n[mcp_servers.late]\ncommand = {json.dumps(added['command'])}\n")
            file.write(f"args = {json.dumps(added['args'])}\n")
        with pytest.raises(LookupError):
            await thread.mcp.status("late")
        await codex.mcp.reload()
        assert (await thread.mcp.status("late")).runtime_status == "connected"
        assert text_of(await thread.mcp.call("late", "safe", {"a": 1})) == '{"a": 1}'


async def test_a_thread_whose_scope_has_exited_has_no_mcp_servers():
    async with offline(mcp_servers={"held": mcp_server()}) as (codex, _, _home):
        async with await codex.thread_start() as thread:
            await thread.mcp.status("held")
        with pytest.raises(errors.ThreadClosed):
            await thread.mcp.status("held")


# -- calls and resources
# --------------------------------------------------------------------------------------------------


async def test_a_tool_is_called_without_a_turn_and_without_an_approval():
    asked = []

    async def note(request):
        asked.append(request)

    async with offline(
        mcp_servers={"held": mcp_server()}, approval_policy="on-request", policy=Policy(elicitation=note)
    ) as (codex, model, _home):
        thread = await codex.thread_start()
        response = await thread.mcp.call("held", "plain", {"word": "hi"})
        assert text_of(response) == '{"word": "hi"}'
        assert not response.is_error
        assert text_of(await thread.mcp.call("held", "plain")) == "{}"
        assert asked == []
        assert model.requests == []


async def test_the_policy_of_the_thread_answers_elicitations_of_a_tool():
    async def greet(request):
        assert (request.thread_id, request.turn_id, request.server_name) == (thread.id, None, "held")
        return policies.accept(content={"name": "Ada"})

    async with offline(mcp_servers={"held": mcp_server()}, approval_policy="on-request") as (codex, _, _home):
        thread = await codex.thread_start(policy=Policy(elicitation=greet))
        answer = json.loads(text_of(await thread.mcp.call("held", "ask")))
        assert (answer["action"], answer["content"]) == ("accept", {"name": "Ada"})


async def test_with_approval_policy_never_the_server_declines_elicitations():
    async def fail(_):
        pytest.fail("the policy was asked")

    async with offline(mcp_servers={"held": mcp_server()}) as (codex, _, _home):
        thread = await codex.thread_start(policy=Policy(elicitation=fail))
        assert json.loads(text_of(await thread.mcp.call("held", "ask")))["action"] == "decline"


async def test_two_calls_to_one_mcp_server_may_ask_at_the_same_time():
    both_asked = trio.Event()
    asked = []

    async def answer(request):
        asked.append(type(request).__name__)
        if len(asked) == 2:
            both_asked.set()
        await both_asked.wait()
        return policies.decline()

    async with offline(
        mcp_servers={"held": mcp_server()}, approval_policy="on-request", policy=Policy(elicitation=answer)
    ) as (codex, _, _home):
        thread = await codex.thread_start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(thread.mcp.call, "held", "ask")
            nursery.start_soon(thread.mcp.call, "held", "ask_url")
        assert sorted(asked) == ["FormElicitation", "UrlElicitation"]


async def test_after_a_cancelled_call_the_client_and_its_thread_stay_usable():
    asked = trio.Event()
    answers = trio.Event()

    async def answer(_):
        asked.set()
        await answers.wait()
        return policies.decline()

    async with offline(
        mcp_servers={"held": mcp_server()}, approval_policy="on-request", policy=Policy(elicitation=answer)
    ) as (codex, _, _home):
        thread = await codex.thread_start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(thread.mcp.call, "held", "ask")
            await asked.wait()
            nursery.cancel_scope.cancel()
        answers.set()  # the call continues, and its question can still be answered
        assert text_of(await thread.mcp.call("held", "safe")) == "{}"


@pytest.mark.parametrize("name", ["broken", "unknown"])
async def test_calling_a_tool_of_an_unknown_mcp_server_is_a_server_error(name):
    async with offline(mcp_servers={"broken": BROKEN}) as (codex, _, _home):
        thread = await codex.thread_start()
        with pytest.raises(errors.InternalRpcError):
            await thread.mcp.call(name, "safe")


async def test_a_resource_is_read():
    async with offline(mcp_servers={"held": mcp_server()}) as (codex, _, _home):
        thread = await codex.thread_start()
        [content] = await thread.mcp.read_resource("held", "note://greeting")
        assert isinstance(content, wire.TextResourceContent)
        assert (content.text, content.mime_type) == ("hello", "text/plain")
        with pytest.raises(errors.InternalRpcError):
            await thread.mcp.read_resource("held", "note://nothing")


# -- logins --------------------------------------------------------------------------------------------------------


def locked(app):
    return {"mcp_servers": {"locked": {"url": f"{app.url}/mcp"}}, "server_config": KEYLESS}


KEYLESS = {"mcp_oauth_credentials_store": "file"}
"""Store logins in a file instead of the user's keyring."""


async def test_a_login_completed_in_a_browser_connects_open_threads():
    async with oauth_mcp() as app, offline(**locked(app)) as (codex, _, _home):
        thread = await codex.thread_start()
        status = await thread.mcp.status("locked")
        assert status.auth_status == wire.McpAuthStatus.not_logged_in
        assert status.runtime_status == wire.McpServerConnectionStatus.authentication_required
        login = await codex.mcp.login("locked")
        assert login.name == "locked"
        await app.consent(login.authorization_url)
        assert (await login.wait()).success
        status = await thread.mcp.status("locked")
        assert status.auth_status == wire.McpAuthStatus.o_auth
        assert status.runtime_status == wire.McpServerConnectionStatus.connected
        assert text_of(await thread.mcp.call("locked", "secret")) == "42"


async def test_a_login_refused_by_the_user_ends_without_success():
    async with oauth_mcp(consents=False) as app, offline(**locked(app)) as (codex, _, _home):
        login = await codex.mcp.login("locked")
        await app.consent(login.authorization_url)
        ended = await login.wait()
        assert not ended.success
        assert "access_denied" in ended.error


async def test_a_login_that_nobody_completes_times_out():
    async with oauth_mcp() as app, offline(**locked(app)) as (codex, _, _home):
        login = await codex.mcp.login("locked", timeout_secs=1)
        ended = await login.wait()
        assert not ended.success
        assert "timed out" in ended.error


# -- skills --------------------------------------------------------------------------------------------------------


def write_skill(directory, name, body="Do it.\n"):
    path = directory / name / "SKILL.md"
    path.parent.mkdir(parents=True)
    path.write_text(f"---\nname: {name}\ndescription: Shows how.\n---\n{body}")
    return path


async def own(codex, **options):
    """Return whether each skill is enabled, without the server's built-in skills."""
    entry = await codex.skills.list(**options)
    return {skill.name: skill.enabled for skill in entry.skills if skill.scope != "system"}


async def test_a_skill_is_found_and_used():
    async with offline() as (codex, model, home):
        path = write_skill(home.workspace / ".codex" / "skills", "greeting", "Say ahoy.\n")
        [skill] = [skill for skill in (await codex.skills.list()).skills if skill.name == "greeting"]
        assert (skill.path, skill.description) == (str(path), "Shows how.")
        model.say("Ahoy.")
        thread = await codex.thread_start()
        await thread.run([SkillInput(skill.name, skill.path), "Greet me."])
        assert "Say ahoy." in json.dumps(model.requests[0].body)


async def test_skills_belong_to_a_directory_and_invalid_files_are_reported():
    async with offline() as (codex, _, home):
        write_skill(home.workspace / "project" / ".codex" / "skills", "inner")
        bad = home.codex_home / "skills" / "bad" / "SKILL.md"
        bad.parent.mkdir(parents=True)
        bad.write_text("no front matter\n")
        assert await own(codex) == {}
        assert await own(codex, cwd="project") == {"inner": True}
        [error] = (await codex.skills.list()).errors
        assert error.path == str(bad)


async def test_a_skill_is_disabled_and_enabled_by_name_or_path():
    async with offline() as (codex, _, home):
        path = write_skill(home.workspace / ".codex" / "skills", "demo")
        await codex.skills.disable("demo")
        assert await own(codex) == {"demo": False}
        await codex.skills.enable("demo")
        assert await own(codex) == {"demo": True}
        await codex.skills.disable(path=path)
        assert await own(codex) == {"demo": False}
        with pytest.raises(ValueError, match="either the name or the path"):
            await codex.skills.disable()
        with pytest.raises(ValueError, match="either the name or the path"):
            await codex.skills.enable("demo", path=path)


async def test_adding_a_skill_directory_finds_its_skills_and_notifies_the_client():
    async with offline() as (codex, _, home):
        write_skill(home.workspace / "more", "third")
        async with codex.events("skills/changed") as changes:
            await codex.skills.set_extra_roots("more")
            assert isinstance((await anext(changes)).params, wire.SkillsChangedNotification)
        assert await own(codex) == {"third": True}
        await codex.skills.set_extra_roots()
        assert await own(codex) == {}


async def test_a_forced_reload_finds_a_new_skill():
    async with offline() as (codex, _, home):
        await codex.skills.list()
        write_skill(home.workspace / ".codex" / "skills", "late")
        assert await own(codex) == {}
        assert await own(codex, rescan=True) == {"late": True}
