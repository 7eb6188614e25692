"""MCP servers and skills: what goes over the wire, and unusual responses. The tests with the real server cover the rest."""

from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from trio_codex import CodexConfig, errors, wire
from trio_codex.testing import fake_codex


@asynccontextmanager
async def scripted(config=None):
    with trio.fail_after(5):
        async with fake_codex(config) as (codex, server), trio.open_nursery() as nursery:
            yield codex, server, nursery


def status(name):
    return {"name": name, "authStatus": "unsupported", "resources": [], "resourceTemplates": [], "tools": {}}


async def test_all_pages_of_mcp_servers_are_one_tuple():
    async with scripted() as (codex, server, nursery):
        server.take_over("mcpServerStatus/list")
        found = []

        async def list_them():
            found.extend(await (await codex.thread_start()).mcp.list())

        nursery.start_soon(list_them)
        asked = await server.expect("mcpServerStatus/list")
        assert "serverName" not in asked.params
        await asked.answer({"data": [status("a")], "nextCursor": "2"})
        asked = await server.expect("mcpServerStatus/list")
        assert asked.params["cursor"] == "2"
        await asked.answer({"data": [status("b")], "nextCursor": None})
        await trio.testing.wait_all_tasks_blocked()
        assert [each.name for each in found] == ["a", "b"]


async def test_the_status_of_one_mcp_server_is_selected_if_the_server_reports_all():
    async with scripted() as (codex, server, nursery):
        server.take_over("mcpServerStatus/list")
        thread = await codex.thread_start()
        found = []

        async def look_for(name):
            try:
                found.append((await thread.mcp.status(name)).name)
            except LookupError as error:
                found.append(str(error))

        for name in ("b", "c"):
            nursery.start_soon(look_for, name)
            asked = await server.expect("mcpServerStatus/list")
            assert asked.params["serverName"] == name
            await asked.answer({"data": [status("a"), status("b")], "nextCursor": None})
            await trio.testing.wait_all_tasks_blocked()
        assert found == ["b", "the thread has no MCP server 'c'"]


async def test_a_call_to_an_mcp_server_names_its_thread_and_always_has_arguments():
    async with scripted() as (codex, server, nursery):
        server.take_over("mcpServer/tool/call", "mcpServer/resource/read")
        thread = await codex.thread_start()
        nursery.start_soon(thread.mcp.call, "docs", "search")
        asked = await server.expect("mcpServer/tool/call")
        assert asked.params == {"threadId": thread.id, "server": "docs", "tool": "search", "arguments": {}}
        await asked.answer({"content": []})
        nursery.start_soon(thread.mcp.read_resource, "docs", "doc://1")
        asked = await server.expect("mcpServer/resource/read")
        assert asked.params == {"threadId": thread.id, "server": "docs", "uri": "doc://1"}
        await asked.answer({"contents": []})


async def test_skills_are_requested_with_absolute_paths():
    async with scripted(CodexConfig(cwd="/srv")) as (codex, server, nursery):
        server.take_over("skills/list", "skills/config/write", "skills/extraRoots/set")
        nursery.start_soon(codex.skills.list, "sub/../project")
        asked = await server.expect("skills/list")
        assert asked.params == {"cwds": ["/srv/project"], "forceReload": False}
        await asked.answer({"data": [{"cwd": "/srv/project", "errors": [], "skills": []}]})
        nursery.start_soon(codex.skills.set_extra_roots, Path("more"), "/else/where")
        asked = await server.expect("skills/extraRoots/set")
        assert asked.params == {"extraRoots": ["/srv/more", "/else/where"]}
        await asked.answer({})
        nursery.start_soon(lambda: codex.skills.disable(path="a/SKILL.md"))
        asked = await server.expect("skills/config/write")
        assert asked.params == {"enabled": False, "path": "/srv/a/SKILL.md"}
        await asked.answer({"effectiveEnabled": False})


async def test_a_response_without_the_requested_directory_is_invalid():
    async with scripted() as (codex, server, _):
        server.give("skills/list", {"data": []})
        with pytest.raises(errors.DecodeError, match=r"\$\.data"):
            await codex.skills.list()


async def test_reloading_waits_only_for_the_response():
    async with scripted() as (codex, server, _):
        server.give("config/mcpServer/reload", wire.McpServerRefreshResponse())
        assert await codex.mcp.reload() is None
