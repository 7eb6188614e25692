"""Scenarios from the official SDK's test suite about the client, and agents and budgets, on the real server.

Test names contain the numbers of the scenarios. ``tests/test_scenarios.py`` lists the scenarios without a test, with
the reason.
"""

import importlib.resources
import inspect
import itertools
import re

import pytest
import trio
from real import offline

import trio_codex
from trio_codex import Budget, Codex, LoginHandle, Thread, Turn, TurnStatus, errors, wire
from trio_codex.testing import Hang, Response, Text, ToolCall, Usage

real = pytest.mark.real

MAY_BE_BARE = {"request", "review"}
"""Methods with an optional positional argument: it is what they act on, not an option."""


@real
async def test_s49_one_message_may_be_many_megabytes_long():
    async with offline() as (codex, _, home):
        size = 6 * 1024 * 1024
        path = home.workspace / "large"
        path.write_bytes(b"x" * size)
        response = await codex.api.fs.read_file(path=str(path))
        assert len(response.data_base64) == size * 4 / 3


@pytest.mark.parametrize("cls", [Codex, Thread, Turn, LoginHandle], ids=lambda cls: cls.__name__)
def test_s55_public_methods_are_snake_case_typed_and_take_options_by_keyword(cls):
    for name, function in vars(cls).items():
        if name.startswith("_") or not inspect.isfunction(function):
            continue
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty
        positional = [
            one for one in signature.parameters.values() if one.kind.name == "POSITIONAL_OR_KEYWORD"
        ]
        assert all(one.default is inspect.Parameter.empty for one in positional) or name in MAY_BE_BARE, name
        for parameter in [*signature.parameters.values()][1:]:
            assert parameter.annotation is not inspect.Parameter.empty
            # `type[Any]` is any class; no more exact annotation exists.
            annotation = str(parameter.annotation).replace("type[Any]", "type")
            assert "Any" not in annotation or name == "request", f"{name}: {parameter}"


def test_s55_the_package_is_marked_as_typed():
    assert importlib.resources.files(trio_codex).joinpath("py.typed").is_file()


# -- agents --------------------------------------------------------------------------------------------------------


def script_an_agent(model):
    model.script("child work").respond(Text("the child says"), Usage(100, 20))
    parent = model.script("parent work")
    parent.respond(
        ToolCall("spawn_agent", {"message": "child work"}, namespace="multi_agent_v1"), Usage(10, 5)
    )
    return parent


@real
async def test_events_and_usage_of_an_agent_count_for_its_parent_turn():
    async with offline() as (codex, model, _):
        parent = script_an_agent(model)
        parent.respond(Text("I wait for it"), Hang())
        thread = await codex.thread_start()
        said, ended = [], False
        async with thread.turn("parent work") as turn, turn.agent_events() as events:
            async for event in events:
                match event.params:
                    case wire.AgentMessageDeltaNotification(delta=text):
                        said.append((event.thread_id, text))
                    case wire.TurnCompletedNotification():
                        ended = True
                        break
            await turn.interrupt()
            result = await turn.wait()
            assert said == [(turn.children[0], "the child says")]
        assert ended
        assert result.agents_usage.total_tokens == 120
        assert result.turn_usage.total_tokens == 135
        assert thread.usage.total_tokens == codex.usage.total_tokens == 135
        agent = await codex.thread_resume(turn.children[0])
        assert agent.info.parent_thread_id == thread.id


# -- budgets -------------------------------------------------------------------------------------------------------


@real
async def test_a_turn_that_exceeds_its_budget_ends_on_the_server():
    async with offline() as (codex, model, _):
        for _ in range(2):
            model.respond(ToolCall("exec_command", {"cmd": "true", "login": False}), Usage(40, 2))
        model.default = Response(Hang())
        thread = await codex.thread_start()
        with pytest.raises(errors.BudgetExceeded) as caught:
            await thread.run("work on and on", budget=Budget(tokens=80))
        assert (caught.value.limit, caught.value.used) == ("tokens", 84)
        assert caught.value.result.status is TurnStatus.interrupted
        [stored] = [turn async for turn in thread.turns()]
        assert stored.status == "interrupted"
        model.default = Response(Text("as before"))
        assert (await thread.run("and now?")).final_response == "as before"


@real
async def test_a_turn_that_exceeds_its_time_limit_ends_on_the_server():
    async with offline() as (codex, model, _):
        model.default = Response(Hang())
        thread = await codex.thread_start(budget=Budget(seconds=0.3))
        with pytest.raises(errors.BudgetExceeded) as caught:
            await thread.run("take your time")
        assert (caught.value.carrier, caught.value.limit) == ("thread", "seconds")
        [stored] = [turn async for turn in thread.turns()]
        assert stored.status == "interrupted"
        with pytest.raises(errors.BudgetExceeded):
            await thread.run("more")
        assert len(model.requests) <= 1


LIMITS = {"tokens": Budget(tokens=60), "turns": Budget(turns=1), "seconds": Budget(seconds=0.3)}
KEPT = [("turn", "tokens"), ("turn", "seconds"), *itertools.product(("thread", "client"), LIMITS)]


@real
@pytest.mark.parametrize(("carrier", "limit"), KEPT)
async def test_budgets_of_turns_threads_and_clients_are_enforced_and_report_usage(carrier, limit):
    def budget_of(what):
        return {"budget": LIMITS[limit]} if what == carrier else {}

    async with offline(**budget_of("client")) as (codex, model, _):
        thread = await codex.thread_start(**budget_of("thread"))
        model.respond(ToolCall("exec_command", {"cmd": "true", "login": False}), Usage(20, 2))
        if limit == "turns":
            model.say("done")
            await thread.run("once", **budget_of("turn"))
        else:
            model.respond(ToolCall("exec_command", {"cmd": "true", "login": False}), Usage(40, 2))
            model.default = Response(Hang())
        with pytest.raises(errors.BudgetExceeded) as caught:
            await thread.run("on and on", **budget_of("turn"))
        error = caught.value
        assert (error.carrier, error.limit, error.allowed) == (carrier, limit, getattr(LIMITS[limit], limit))
        if limit == "turns":
            assert (error.used, error.result) == (1, None)
        else:
            assert error.used > error.allowed
            assert error.result.status is TurnStatus.interrupted
        stored = [turn.status async for turn in thread.turns()]
        assert stored == ["completed" if limit == "turns" else "interrupted"]
        # An exhausted budget stops everything it covers, and nothing else.
        model.default = Response(Text("more"))
        other = await codex.thread_start()
        if carrier == "client":
            with pytest.raises(errors.BudgetExceeded):
                await other.run("me, too")
        else:
            assert (await other.run("me, too")).final_response == "more"


# -- server behavior ----------------------------------------------------------------------------------


@real
async def test_an_unknown_method_raises_a_typed_and_short_error():
    async with offline() as (codex, _, _home):
        with pytest.raises(errors.UnsupportedMethod) as caught:
            await codex.request("thread/rollback", {})
        assert len(caught.value.message) > 2000
        assert len(str(caught.value)) < 700


@real
async def test_the_startup_of_mcp_servers_is_reported_as_events():
    async with offline(mcp_servers={"broken": {"command": "/nonexistent"}}) as (codex, _, _home):
        async with codex.events("mcpServer/startupStatus/updated") as events:
            await codex.thread_start()
            states = []
            async for event in events:
                states.append((event.params.name, event.params.status))
                if event.params.status not in ("starting", wire.McpServerStartupState.starting):
                    break
        assert states[-1] == ("broken", "failed")
        with trio.fail_after(5), pytest.raises(errors.RpcError):
            await codex.mcp.login("broken")
