"""The built-in policies on the real server: their decisions take effect, and the audit names the rule."""

import shlex
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from trio_codex import Policy, TurnStatus, policies
from trio_codex.errors import RequestWithdrawn
from trio_codex.policies import Inbox, allow_commands, allow_paths, first_of, with_timeout
from trio_codex.testing import (
    Command,
    Patch,
    Permissions,
    Question,
    ToolCall,
    UserInput,
    mcp_server,
    offline_codex,
)

pytestmark = pytest.mark.real


@asynccontextmanager
async def asking(policy, **home_options):
    """Yield a thread on the real server that asks for every approval it can."""
    with trio.fail_after(30):
        async with offline_codex(policy=policy, **home_options) as (codex, model, home):
            thread = await codex.thread_start(approval_policy="on-request")
            yield codex, thread, model, home


async def run(thread, model, *steps):
    """Make the model take these steps, and return the last result that it received."""
    model.respond(*steps)
    model.say("done")
    result = await thread.run("go")
    return result, model.requests[-1].body["input"][-1].get("output")


COMMANDS = {
    "touch a": True, "touch 'b c'": True, "touch 'd$x'": True, "touch \"it's\"": True, "touch -r a e": False,
    "touch f; touch g": False, "touch h > i": False, "touch $HOME/j": False, "touch k*": False, "/bin/touch l": False,
    "x=1 touch m": False, "touch n o": False, "touch p\ntouch q": False,
}  # fmt: skip


async def test_only_matching_commands_run():
    async with asking(allow_commands("touch *")) as (codex, thread, model, home):
        made = set()
        for number, (script, accepted) in enumerate(COMMANDS.items()):
            await run(thread, model, Command(script, escalate="please", login=number % 2 == 0))
            if accepted:
                made.add(shlex.split(script)[1])
            assert {path.name for path in home.workspace.iterdir()} == made, script
        records = codex.decisions
        assert [record.rule for record in records if record.decision] == ["allow_commands: touch *"] * 4
        assert [record.decided_by for record in records].count("default") == len(COMMANDS) - 4


async def test_files_are_changed_only_below_the_roots():
    async with asking(None) as (codex, thread, model, home):
        inside, outside = home.workspace / "inside", home.workspace / "outside"
        for directory in (inside, outside):
            directory.mkdir()
        (inside / "link").symlink_to(outside)
        policy = allow_paths(inside)

        async def patch(path):
            model.respond(Patch(f"*** Begin Patch\n*** Add File: {path}\n+text\n*** End Patch"))
            model.say("done")
            async with thread.turn("go", policy=policy) as turn:
                await turn.wait()
            return codex.decisions[-1].decision

        assert await patch("inside/new") == policies.accept()
        assert await patch("inside/link/new") is None
        assert await patch("inside/../outside/new") is None
        assert await patch(f"{outside}/new") is None
        assert (inside / "new").read_text() == "text\n"
        assert list(outside.iterdir()) == []
        move = "*** Begin Patch\n*** Update File: inside/new\n*** Move to: outside/new\n@@\n-text\n+more\n*** End Patch"
        model.apply_patch(move)
        model.say("done")
        async with thread.turn("go", policy=policy) as turn:
            await turn.wait()
        assert codex.decisions[-1].decision is None
        assert list(outside.iterdir()) == []


async def test_permissions_are_granted_only_below_the_roots():
    async with asking(None, features={"request_permissions_tool": True}) as (_, thread, model, home):
        policy = allow_paths(home.workspace, read=["/usr/share"])
        model.respond(
            Permissions(
                "why", read=("/usr/share/doc", "/etc"), write=(f"{home.workspace}/sub", "/opt"), network=True
            )
        )
        model.say("done")
        async with thread.turn("go", policy=policy) as turn:
            await turn.wait()
        told = model.requests[-1].body["input"][-1]["output"]
        assert f'"write":["{home.workspace}/sub"]' in told
        assert '"read":["/usr/share/doc"]' in told
        assert '"network":null' in told
        assert "/opt" not in told
        assert "/etc" not in told


async def test_a_granted_permission_keeps_its_denied_paths():
    async with asking(None, features={"request_permissions_tool": True}) as (_, thread, model, home):
        wanted = {
            "entries": [
                {"path": {"type": "path", "path": str(home.workspace)}, "access": "write"},
                {"path": {"type": "glob_pattern", "pattern": f"{home.workspace}/**/*.env"}, "access": "deny"},
            ]
        }
        arguments = {"reason": "why", "permissions": {"file_system": wanted}}
        model.respond(ToolCall("request_permissions", arguments))
        model.say("done")
        async with thread.turn("go", policy=allow_paths(home.workspace)) as turn:
            await turn.wait()
        told = model.requests[-1].body["input"][-1]["output"]
        assert '"access":"write"' in told
        assert '"access":"deny"' in told


async def test_the_first_policy_that_does_not_abstain_decides_and_is_named_in_the_audit():
    policy = first_of(allow_commands("touch a"), policies.decline_all)
    async with asking(policy) as (codex, thread, model, home):
        await run(thread, model, Command("touch a", escalate="please"))
        await run(thread, model, Command("touch b", escalate="please"))
        assert [path.name for path in home.workspace.iterdir()] == ["a"]
        assert [(record.policy, record.rule) for record in codex.decisions] == [
            ("first_of(allow_commands, decline_all)", "allow_commands: touch a"),
            ("first_of(allow_commands, decline_all)", "decline_all"),
        ]


async def test_the_turn_continues_if_nobody_answers_in_time():
    async with asking(with_timeout(Inbox(), 0.05)) as (codex, thread, model, home):
        result, _ = await run(thread, model, Command("touch a", escalate="please"))
        assert result.final_response == "done"
        assert codex.decisions[-1].rule == "with_timeout: 0.05 s"
        assert list(home.workspace.iterdir()) == []


async def test_another_task_can_answer_every_kind_of_request_through_an_inbox():
    inbox = Inbox()
    options = {
        "features": {"request_permissions_tool": True, "default_mode_request_user_input": True},
        "mcp_servers": {"held": mcp_server()},
    }
    told = []

    async def answer():
        async for pending in inbox:
            told.append(pending.kind)
            match pending.request:
                case policies.UserInputRequest():
                    await pending.answer(policies.answers({"colour": "Blue"}))
                case policies.FormElicitation():
                    await pending.accept(content={"name": "Ada"})
                case policies.PermissionsRequest():
                    await pending.answer(policies.grant(write=[options["workspace"]]))
                case _:
                    await pending.accept()

    async with asking(inbox, **options) as (_, thread, model, home), trio.open_nursery() as nursery:
        options["workspace"] = home.workspace
        nursery.start_soon(answer)
        do = partial(run, thread, model)
        await do(Command("touch a", escalate="please"))
        await do(Patch("*** Begin Patch\n*** Add File: b\n+text\n*** End Patch"))
        assert {path.name for path in home.workspace.iterdir()} == {"a", "b"}
        _, output = await do(UserInput(Question("colour", "Which?", "Red", "Blue")))
        assert output == '{"answers":{"colour":{"answers":["Blue"]}}}'
        _, output = await do(Permissions("why", write=(str(home.workspace),)))
        assert str(home.workspace) in output
        _, output = await do(ToolCall("ask", namespace="mcp__held"))
        assert '{"action": "accept", "content": {"name": "Ada"}}' in str(output)
        _, output = await do(ToolCall("plain", {"x": 1}, namespace="mcp__held"))
        assert '{"x": 1}' in str(output)
        await do(ToolCall("ask_url", namespace="mcp__held"))
        nursery.cancel_scope.cancel()
    assert told == ["command", "file_change", "user_input", "permissions", *["elicitation"] * 3]
    assert inbox.pending == ()


async def test_answering_after_the_turns_scope_exited_raises_and_runs_nothing():
    inbox = Inbox()
    async with asking(inbox) as (codex, thread, model, home):
        model.respond(Command("touch a", escalate="please"))
        async with thread.turn("go") as turn:
            pending = await anext(inbox)
        assert turn.result.status is TurnStatus.interrupted
        assert pending.withdrawn
        with pytest.raises(RequestWithdrawn):
            await pending.accept()
        assert list(home.workspace.iterdir()) == []
        assert codex.decisions[-1].outcome == "withdrawn"


async def test_waiting_requests_end_with_the_connection():
    inbox = Inbox(kinds=["command"])
    async with asking(first_of(inbox, Policy())) as (codex, thread, model, _):
        model.respond(Command("touch a", escalate="1"), Command("touch b", escalate="2"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(thread.run, "go")
            first, second = await anext(inbox), await anext(inbox)
            nursery.cancel_scope.cancel()
        assert first.withdrawn
        assert second.withdrawn
        assert codex.decisions[-1].outcome == "withdrawn"
