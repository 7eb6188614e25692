"""The mock model with the real app-server."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
from app_server_driver import LIMIT, app_server, played

from trio_codex.testing import (
    Command,
    Cut,
    Failed,
    Gate,
    HTTPFailure,
    Incomplete,
    MockModel,
    Question,
    RawEvent,
    RawItem,
    Reasoning,
    Response,
    Step,
    Text,
    Usage,
    offline_home,
)

pytestmark = pytest.mark.real


async def test_a_message_arrives_in_deltas_with_its_phase_and_usage() -> None:
    async with played() as (model, server):
        model.say("he", "llo", phase="final_answer", usage=Usage(70, 7, cached_input_tokens=50))
        turn = await server.run_turn("hi")
        assert turn["status"] == "completed"
        deltas = [params["delta"] for params in server.params_of("item/agentMessage/delta")]
        assert deltas == ["he", "llo"]
        (message,) = server.completed_items("agentMessage")
        assert (message["text"], message["phase"]) == ("hello", "final_answer")
        used = (await server.notified("thread/tokenUsage/updated"))["tokenUsage"]["last"]
        assert (used["inputTokens"], used["cachedInputTokens"], used["outputTokens"]) == (70, 50, 7)
        assert used["totalTokens"] == 77
        assert model.requests[0].completed
        model.assert_all_used()


async def test_a_response_has_any_number_of_items_in_order() -> None:
    async with played() as (model, server):
        model.respond(
            Reasoning("thin", "king"),
            Text("first", phase="commentary"),
            Text("second", phase="final_answer"),
        )
        await server.run_turn("hi")
        deltas = [params["delta"] for params in server.params_of("item/reasoning/summaryTextDelta")]
        assert deltas == ["thin", "king"]
        (reasoning,) = server.completed_items("reasoning")
        assert reasoning["summary"] == ["thinking"]
        messages = server.completed_items("agentMessage")
        assert [(each["text"], each["phase"]) for each in messages] == [
            ("first", "commentary"),
            ("second", "final_answer"),
        ]
        assert len({each["id"] for each in messages}) == 2


async def test_the_output_of_a_command_reaches_the_model() -> None:
    async with played() as (model, server):
        model.run_command("echo from-the-command")
        model.say("done")
        turn = await server.run_turn("go")
        assert turn["status"] == "completed"
        (item,) = server.completed_items("commandExecution")
        assert (item["status"], item["exitCode"]) == ("completed", 0)
        (output,) = model.requests[1].function_outputs.values()
        assert "from-the-command" in output
        assert model.requests[1].last_user_text == "go"
        model.assert_all_used()


async def test_two_commands_run_from_one_response() -> None:
    async with played() as (model, server):
        model.run_command("echo one", "echo two")
        model.say("done")
        await server.run_turn("go")
        assert len(server.completed_items("commandExecution")) == 2
        outputs = list(model.requests[1].function_outputs.values())
        assert len(outputs) == 2
        assert "one" in outputs[0]
        assert "two" in outputs[1]


async def test_a_command_that_escalates_asks_the_client() -> None:
    async with played(approval_policy="on-request") as (model, server):
        model.run_command("touch made.txt", escalate="may I?")
        model.say("done")
        turn = await server.start_turn(await server.start_thread(), "go")
        request = await server.asked("item/commandExecution/requestApproval")
        assert request["params"]["reason"] == "may I?"
        await server.send(id=request["id"], result={"decision": "accept"})
        assert (await server.turn_end(turn))["status"] == "completed"
        assert (server.home.workspace / "made.txt").exists()


async def test_a_command_runs_in_its_workdir() -> None:
    async with played() as (model, server):
        model.run_command("pwd", workdir=str(server.home.tmp))
        model.say("done")
        await server.run_turn("go")
        (output,) = model.requests[1].function_outputs.values()
        assert str(server.home.tmp) in output


async def test_a_slow_command_becomes_a_background_terminal() -> None:
    async with played() as (model, server):
        model.run_command("sleep 60", yield_time_ms=250)
        model.say("going on")
        assert (await server.run_turn("go"))["status"] == "completed"
        (output,) = model.requests[1].function_outputs.values()
        assert "Process running with session ID" in output


async def test_a_command_can_have_a_terminal() -> None:
    async with played() as (model, server):
        model.respond(Command("test -t 1 && echo is-a-tty", tty=True, call_id="my-call"))
        model.say("done")
        await server.run_turn("go")
        assert "is-a-tty" in model.requests[1].function_outputs["my-call"]
        assert server.completed_items("commandExecution")[0]["id"] == "my-call"


async def test_a_patch_asks_the_client_and_changes_files() -> None:
    async with played(approval_policy="on-request") as (model, server):
        model.apply_patch("*** Begin Patch\n*** Add File: new.txt\n+new line\n*** End Patch\n")
        model.say("done")
        turn = await server.start_turn(await server.start_thread(), "go")
        request = await server.asked("item/fileChange/requestApproval")
        await server.send(id=request["id"], result={"decision": "accept"})
        assert (await server.turn_end(turn))["status"] == "completed"
        assert (server.home.workspace / "new.txt").read_text() == "new line\n"
        (item,) = server.completed_items("fileChange")
        assert item["status"] == "completed"


async def test_a_question_reaches_the_user_and_its_answer_reaches_the_model() -> None:
    async with played(features={"default_mode_request_user_input": True}) as (model, server):
        model.ask_user(Question("color", "Which one?", "Red", "Blue", header="Color"))
        model.say("done")
        turn = await server.start_turn(await server.start_thread(), "go")
        request = await server.asked("item/tool/requestUserInput")
        (question,) = request["params"]["questions"]
        assert (question["id"], question["header"], question["question"]) == (
            "color",
            "Color",
            "Which one?",
        )
        assert [option["label"] for option in question["options"]] == ["Red", "Blue"]
        await server.send(id=request["id"], result={"answers": {"color": {"answers": ["Blue"]}}})
        await server.turn_end(turn)
        (output,) = model.requests[1].function_outputs.values()
        assert json.loads(output) == {"answers": {"color": {"answers": ["Blue"]}}}


async def test_permissions_are_requested_from_the_client() -> None:
    features = {"request_permissions_tool": True}
    async with played(approval_policy="on-request", features=features) as (model, server):
        path = str(server.home.tmp)
        model.request_permissions("to write", write=[path])
        model.say("done")
        turn = await server.start_turn(await server.start_thread(), "go")
        request = await server.asked("item/permissions/requestApproval")
        assert request["params"]["reason"] == "to write"
        assert request["params"]["permissions"]["fileSystem"]["write"] == [path]
        granted = {"permissions": {"fileSystem": {"write": [path]}}, "scope": "turn"}
        await server.send(id=request["id"], result=granted)
        assert (await server.turn_end(turn))["status"] == "completed"


async def test_network_and_read_access_can_be_requested() -> None:
    features = {"request_permissions_tool": True}
    async with played(approval_policy="on-request", features=features) as (model, server):
        model.request_permissions("to look", read=["/etc"], network=True)
        model.say("done")
        turn = await server.start_turn(await server.start_thread(), "go")
        request = await server.asked("item/permissions/requestApproval")
        assert request["params"]["permissions"]["fileSystem"]["read"] == ["/etc"]
        assert request["params"]["permissions"]["network"] == {"enabled": True}
        await server.send(id=request["id"], result={"permissions": {}, "scope": "turn"})
        assert (await server.turn_end(turn))["status"] == "completed"


async def test_the_plan_is_updated() -> None:
    async with played(config="[tools.update_plan]\nenabled = true") as (model, server):
        model.update_plan({"read": "completed", "write": "in_progress"}, explanation="because")
        model.say("done")
        await server.run_turn("go")
        update = await server.notified("turn/plan/updated")
        assert update["explanation"] == "because"
        assert update["plan"] == [
            {"step": "read", "status": "completed"},
            {"step": "write", "status": "inProgress"},
        ]


@pytest.mark.parametrize("namespace", [None, "app"])
async def test_a_dynamic_tool_is_called(namespace: str | None) -> None:
    tool: dict[str, Any] = {
        "type": "function",
        "name": "lookup",
        "description": "Look something up",
        "inputSchema": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
    if namespace is not None:
        tool = {"type": "namespace", "name": namespace, "description": "An app", "tools": [tool]}
    async with played() as (model, server):
        model.call_tool("lookup", {"city": "Berlin"}, namespace=namespace)
        model.say("done")
        turn = await server.start_turn(await server.start_thread(dynamicTools=[tool]), "go")
        request = await server.asked("item/tool/call")
        asked = request["params"]
        assert (asked["tool"], asked["namespace"], asked["arguments"]) == (
            "lookup",
            namespace,
            {"city": "Berlin"},
        )
        answer = {"contentItems": [{"type": "inputText", "text": "sunny"}], "success": True}
        await server.send(id=request["id"], result=answer)
        await server.turn_end(turn)
        assert list(model.requests[1].function_outputs.values()) == ["sunny"]
        assert ("lookup" if namespace is None else "app.lookup") in model.requests[0].tools


async def test_invalid_arguments_are_reported_to_the_model() -> None:
    async with played() as (model, server):
        model.call_tool("exec_command", "{not json")
        model.say("sorry")
        assert (await server.run_turn("go"))["status"] == "completed"
        (output,) = model.requests[1].function_outputs.values()
        assert "failed to parse function arguments" in output


async def test_any_item_can_be_sent_raw() -> None:
    async with played() as (model, server):
        action = {"type": "search", "query": "trio"}
        item = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": action}
        model.respond(RawEvent("response.in_progress"), RawItem(item), Text("done"))
        assert (await server.run_turn("go"))["status"] == "completed"
        (search,) = server.completed_items("webSearch")
        assert search["query"] == "trio"


FAILURES: dict[str, tuple[Step, object]] = {
    "429": (HTTPFailure(429), {"responseTooManyFailedAttempts": {"httpStatusCode": 429}}),
    "usage limit": (HTTPFailure(429, error="usage_limit_reached"), "usageLimitExceeded"),
    "quota": (HTTPFailure(429, error="insufficient_quota"), "usageLimitExceeded"),
    "500": (HTTPFailure(500), "internalServerError"),
    "401": (HTTPFailure(401), {"httpConnectionFailed": {"httpStatusCode": 401}}),
    "404": (HTTPFailure(404), {"httpConnectionFailed": {"httpStatusCode": 404}}),
    "503": (HTTPFailure(503), {"httpConnectionFailed": {"httpStatusCode": 503}}),
    "400": (HTTPFailure(400, body="what?"), "other"),
    "server_error": (Failed(), "other"),
    "rate limit": (Failed("rate_limit_exceeded"), "rateLimitExceeded"),
    "quota event": (Failed("insufficient_quota"), "usageLimitExceeded"),
    "context window": (Failed("context_length_exceeded"), "contextWindowExceeded"),
    "overloaded": (Failed("server_is_overloaded"), "serverOverloaded"),
    "incomplete": (Incomplete(), "other"),
    "cut": (Cut(), "other"),
    "cut in a message": (Text("never en", Cut()), "other"),
    "cut in the body": (Text("never en", Cut(clean=False)), "other"),
}


async def test_each_failure_of_the_model_fails_the_turn_with_its_own_error() -> None:
    async with played() as (model, server):
        thread = await server.start_thread()
        for name, (step, expected) in FAILURES.items():
            model.respond(step)
            turn = await server.turn_end(await server.start_turn(thread, name))
            assert turn["status"] == "failed", name
            assert turn["error"]["codexErrorInfo"] == expected, name
        assert len(model.requests) == len(FAILURES)
        model.assert_all_used()


async def test_the_convenience_methods_fail_in_the_same_ways() -> None:
    async with played() as (model, server):
        thread = await server.start_thread()
        model.fail(429, error="usage_limit_reached", headers={"Retry-After": "1"})
        model.fail_event("rate_limit_exceeded", "slow down")
        model.incomplete("part of it", reason="content_filter")
        model.cut("part of it")
        errors = []
        for _ in range(4):
            turn = await server.turn_end(await server.start_turn(thread, "go"))
            errors.append(turn["error"])
        assert [error["codexErrorInfo"] for error in errors] == [
            "usageLimitExceeded",
            "rateLimitExceeded",
            "other",
            "other",
        ]
        assert "content_filter" in errors[2]["message"]
        assert "stream closed before response.completed" in errors[3]["message"]


async def test_a_request_beyond_the_script_fails_the_turn_with_an_explanation() -> None:
    async with played() as (model, server):
        turn = await server.run_turn("unheard of")
        assert turn["status"] == "failed"
        assert "nothing is scripted" in turn["error"]["message"]
        assert [request.last_user_text for request in model.unexpected] == ["unheard of"]
        with pytest.raises(AssertionError, match="unheard of"):
            model.assert_all_used()


async def test_the_default_answers_requests_beyond_the_script() -> None:
    async with played() as (model, server):
        model.default = Response(Text("ok"))
        model.say("scripted")
        thread = await server.start_thread()
        texts = []
        for _ in range(3):
            turn = await server.turn_end(await server.start_turn(thread, "go"))
            texts.append(turn["items"][0]["text"])
        assert texts == ["scripted", "ok", "ok"]
        model.assert_all_used()


def test_an_unused_response_is_reported() -> None:
    model = MockModel()
    model.say("never")
    model.script("some text").say("neither")
    with pytest.raises(AssertionError, match="2 scripted responses"):
        model.assert_all_used()


async def test_a_gate_stops_a_message_in_the_middle() -> None:
    async with played() as (model, server):
        gate = Gate()
        model.say("be", gate, "fore")
        turn = await server.start_turn(await server.start_thread(), "go")
        await gate.reached()
        assert (await server.notified("item/agentMessage/delta"))["delta"] == "be"
        assert not model.requests[0].closed.is_set()
        assert server.params_of("turn/completed") == []
        gate.open()
        assert (await server.turn_end(turn))["status"] == "completed"
        assert server.completed_items("agentMessage")[0]["text"] == "before"


async def test_a_gate_holds_back_the_next_response() -> None:
    async with played() as (model, server):
        gate = model.gate()
        model.fail(500)
        turn = await server.start_turn(await server.start_thread(), "go")
        await gate.reached()
        assert server.params_of("error") == []
        gate.open()
        assert (await server.turn_end(turn))["error"]["codexErrorInfo"] == "internalServerError"


async def test_the_delay_between_deltas_is_observed() -> None:
    async with played() as (model, server):
        model.respond(Text("a", "b", "c", delay=0.1))
        await server.run_turn("go")
        deltas = [each for each in server.log if each.get("method") == "item/agentMessage/delta"]
        assert [each["params"]["delta"] for each in deltas] == ["a", "b", "c"]
        # Two delays of 0.1 s; the server may have received the first delta late.
        assert deltas[-1]["emittedAtMs"] - deltas[0]["emittedAtMs"] > 100


async def test_interrupting_a_turn_drops_the_stream_of_the_model() -> None:
    async with played() as (model, server):
        model.hang("and then")
        thread = await server.start_thread()
        turn = await server.start_turn(thread, "go")
        await server.notified("item/agentMessage/delta")
        (request,) = await model.wait_for_requests(1)
        assert not request.closed.is_set()
        assert (request.thread_id, request.turn_id) == (thread, turn)
        await server.call("turn/interrupt", {"threadId": thread, "turnId": turn})
        assert (await server.turn_end(turn))["status"] == "interrupted"
        await request.closed.wait()
        assert not request.completed


async def test_concurrent_threads_can_have_separate_scripts() -> None:
    async with played() as (model, server):
        left, right = await server.start_thread(), await server.start_thread()
        gate = Gate()
        right_script = model.script(thread_id=right)
        right_script.say(gate, "right")
        left_script = model.script("go left")
        left_script.run_command("echo left")
        left_script.say("left")
        left_turn = await server.start_turn(left, "go left")
        right_turn = await server.start_turn(right, "go right")
        await gate.reached()
        assert (await server.turn_end(left_turn))["items"][0]["text"] == "left"
        gate.open()
        assert (await server.turn_end(right_turn))["items"][0]["text"] == "right"
        model.assert_all_used()


async def test_a_single_response_can_be_reserved_for_a_matching_request() -> None:
    async with played() as (model, server):
        thread = await server.start_thread()
        model.respond(Text("for b"), when=lambda request: request.last_user_text == "b")
        model.respond(Text("for any"))
        for text, expected in [("a", "for any"), ("b", "for b")]:
            turn = await server.turn_end(await server.start_turn(thread, text))
            assert turn["items"][0]["text"] == expected
        model.assert_all_used()


async def test_a_used_up_script_does_not_fall_back_to_the_common_one() -> None:
    async with played() as (model, server):
        thread = await server.start_thread()
        script = model.script("mine")
        model.say("common")
        turn = await server.turn_end(await server.start_turn(thread, "this is mine"))
        assert "nothing is scripted" in turn["error"]["message"]
        for default_of, expected in [(model, "default of the model"), (script, "default of the script")]:
            default_of.default = Response(Text(expected))
            turn = await server.turn_end(await server.start_turn(thread, "this is mine, too"))
            assert turn["items"][0]["text"] == expected
        assert model.left == 1


async def test_a_recorded_request_contains_what_the_server_sent() -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    async with played() as (model, server):
        model.say('{"n": 1}')
        model.say("two")
        thread = await server.start_thread()
        await server.turn_end(await server.start_turn(thread, "count", outputSchema=schema))
        await server.turn_end(await server.start_turn(thread, "again"))
        first, second = model.requests
        assert (first.number, first.method, first.path) == (0, "POST", "/v1/responses")
        assert first.model == "mock-model"
        assert first.last_user_text == "count"
        assert {"exec_command", "apply_patch", "multi_agent_v1.spawn_agent"} <= set(first.tools)
        assert first.text_format is not None
        assert first.text_format["type"] == "json_schema"
        assert first.output_schema == schema
        assert second.output_schema is None
        assert second.input_texts[-3:] == ["count", '{"n": 1}', "again"]
        assert first.headers["originator"] == "mock-model-test"
        assert "authorization" not in first.headers


async def test_a_child_agent_sends_requests_with_its_own_thread_id() -> None:
    async with played() as (model, server):
        parent = await server.start_thread()
        script = model.script(thread_id=parent)
        script.call_tool("spawn_agent", {"message": "child work"}, namespace="multi_agent_v1")
        script.say("spawned")
        model.script("child work").hang()
        await server.turn_end(await server.start_turn(parent, "go"))
        requests = await model.wait_for_requests(3)
        assert {request.thread_id == parent for request in requests} == {True, False}


async def test_closing_the_model_during_a_stream_disconnects_the_server() -> None:
    with trio.fail_after(LIMIT):
        async with AsyncExitStack() as outlives_the_model:
            async with MockModel() as model:
                model.hang("for ever")
                home = outlives_the_model.enter_context(offline_home(model))
                server = await outlives_the_model.enter_async_context(app_server(home))
                thread = await server.start_thread()
                turn = await server.start_turn(thread, "go")
                await server.notified("item/agentMessage/delta")
            assert model.requests[0].closed.is_set()
            assert not model.requests[0].completed
            assert (await server.turn_end(turn))["status"] == "failed"
            turn = await server.start_turn(thread, "again")
            info = (await server.turn_end(turn))["error"]["codexErrorInfo"]
            assert info == {"httpConnectionFailed": {"httpStatusCode": None}}
