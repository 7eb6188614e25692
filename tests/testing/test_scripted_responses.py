"""The contents of scripted responses, without a server."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing

import trio_codex.testing
from trio_codex.testing import (
    Command,
    Cut,
    Delay,
    Failed,
    Gate,
    Hang,
    HTTPFailure,
    Incomplete,
    ModelRequest,
    Patch,
    Pause,
    Permissions,
    Plan,
    Question,
    RawItem,
    Reasoning,
    Response,
    Script,
    Step,
    Text,
    ToolCall,
    Usage,
    UserInput,
)


def events(response: Response, number: int = 0) -> list[Any]:
    """Return the response's events as JSON, and its other frames unchanged."""
    return [decoded(frame) if isinstance(frame, bytes) else frame for frame in response.frames(number)]


def decoded(frame: bytes) -> dict[str, Any]:
    first, second, *rest = frame.decode().split("\n")
    assert rest == ["", ""]
    event = json.loads(second.removeprefix("data: "))
    assert first == f"event: {event['type']}"
    return event


def types(response: Response) -> list[Any]:
    return [each["type"] if isinstance(each, dict) else each for each in events(response)]


def call(step: Step) -> dict[str, Any]:
    """Return the single item of a step, with its arguments decoded."""
    _, done, _ = events(Response(step))
    item = done["item"]
    if isinstance(item.get("arguments"), str):
        item["arguments"] = json.loads(item["arguments"])
    return item


def test_an_empty_response_starts_and_completes() -> None:
    assert types(Response()) == ["response.created", "response.completed"]


def test_a_message_is_added_then_streamed_then_completed() -> None:
    _, added, first, second, done, _ = events(Response(Text("he", "llo")))
    assert added["item"] == {"type": "message", "role": "assistant", "id": "msg_0_0", "content": []}
    assert [first["delta"], second["delta"]] == ["he", "llo"]
    assert first["item_id"] == "msg_0_0"
    assert done["item"] == {**added["item"], "content": [{"type": "output_text", "text": "hello"}]}


def test_a_phase_is_shown_only_if_there_is_one() -> None:
    assert events(Response(Text("x", phase="commentary")))[1]["item"]["phase"] == "commentary"
    assert "phase" not in events(Response(Text("x")))[1]["item"]


def test_the_delay_is_only_between_deltas() -> None:
    assert [each for each in events(Response(Text("a", "b", "c", delay=0.5))) if isinstance(each, Pause)] == [
        Delay(0.5),
        Delay(0.5),
    ]
    assert not any(isinstance(each, Pause) for each in events(Response(Text("a", delay=0.5))))


@pytest.mark.parametrize("end", [Hang(), Cut(), Cut(clean=False)])
def test_an_end_in_the_middle_leaves_the_item_unfinished(end: Hang | Cut) -> None:
    assert types(Response(Text("par", end))) == [
        "response.created",
        "response.output_item.added",
        "response.output_text.delta",
        end,
    ]
    assert types(Response(Reasoning("par", end)))[-2:] == ["response.reasoning_summary_text.delta", end]


@pytest.mark.parametrize("end", [Hang(), Cut()])
def test_a_response_may_end_without_completion(end: Step) -> None:
    assert types(Response(Text("x"), end))[-2:] == ["response.output_item.done", end]


async def test_pauses_last_as_long_as_specified(autojump_clock: trio.testing.MockClock) -> None:
    started = trio.current_time()
    await Delay(5).take()
    assert trio.current_time() - started == 5
    with trio.move_on_after(1_000_000) as scope:
        await Hang().take()
    assert scope.cancelled_caught


def test_failures_end_the_response() -> None:
    failed = events(Response(Failed("rate_limit_exceeded", "slow down")))[-1]
    assert failed["type"] == "response.failed"
    assert failed["response"]["error"] == {"code": "rate_limit_exceeded", "message": "slow down"}
    incomplete = events(Response(Incomplete("content_filter")))[-1]
    assert incomplete["type"] == "response.incomplete"
    assert incomplete["response"]["incomplete_details"] == {"reason": "content_filter"}


def test_a_refusal_has_no_events() -> None:
    gate = Gate()
    assert events(Response(gate, HTTPFailure(429))) == [gate, HTTPFailure(429)]


def test_the_body_of_a_refusal_is_an_error_object_by_default() -> None:
    failure = HTTPFailure(429, error="insufficient_quota", message="pay")
    assert json.loads(failure.payload()) == {
        "error": {"type": "insufficient_quota", "code": "insufficient_quota", "message": "pay"}
    }
    assert json.loads(HTTPFailure(body={"a": 1}).payload()) == {"a": 1}
    assert HTTPFailure(body="text").payload() == b"text"


@pytest.mark.parametrize("end", [Hang(), Cut(), Failed(), Incomplete(), HTTPFailure(), Text("x", Hang())])
def test_nothing_follows_an_end(end: Step) -> None:
    with pytest.raises(ValueError, match="nothing can follow"):
        Response(end, Text("x"))


def test_nothing_follows_an_end_within_an_item() -> None:
    with pytest.raises(ValueError, match="nothing can follow"):
        Text("x", Cut(), "y")


def test_only_pauses_may_precede_a_refusal() -> None:
    with pytest.raises(ValueError, match="only pauses"):
        Response(Text("x"), HTTPFailure(500))


def test_ids_differ_between_steps_and_responses() -> None:
    response = Response(Text("a"), Text("b"), ToolCall("t"))
    ids = [
        event["item"][key]
        for number in (1, 2)
        for event in events(response, number)
        if event["type"] == "response.output_item.done"
        for key in ("id", "call_id")
        if key in event["item"]
    ]
    assert len(ids) == 8
    assert len(set(ids)) == 8


def test_usage_is_reported_at_the_end_of_the_response() -> None:
    usage = Usage(10, 4, cached_input_tokens=3, reasoning_output_tokens=2)
    for response in (Response(usage, Text("x")), Response(Usage(1, 1), Text("x"), usage)):
        assert events(response)[-1]["response"]["usage"] == {
            "input_tokens": 10,
            "input_tokens_details": {"cached_tokens": 3},
            "output_tokens": 4,
            "output_tokens_details": {"reasoning_tokens": 2},
            "total_tokens": 14,
        }


def test_a_tool_call_names_its_namespace_and_call() -> None:
    item = call(ToolCall("ask", {"n": 1}, namespace="mcp__held", call_id="c1"))
    assert (item["name"], item["namespace"], item["call_id"]) == ("ask", "mcp__held", "c1")
    assert item["arguments"] == {"n": 1}
    assert "namespace" not in call(ToolCall("ask"))


def test_string_arguments_are_sent_unchanged() -> None:
    assert events(Response(ToolCall("ask", "{not json")))[1]["item"]["arguments"] == "{not json"


def test_a_command_has_only_the_arguments_that_were_set() -> None:
    item = call(Command("ls"))
    assert item["name"] == "exec_command"
    assert item["arguments"] == {"cmd": "ls", "login": False, "yield_time_ms": 10_000}
    full = call(Command("ls", escalate="may I?", workdir="/w", tty=True, login=True, yield_time_ms=5))
    assert full["arguments"] == {
        "cmd": "ls",
        "login": True,
        "yield_time_ms": 5,
        "tty": True,
        "workdir": "/w",
        "sandbox_permissions": "require_escalated",
        "justification": "may I?",
    }


def test_a_patch_is_a_custom_tool_call() -> None:
    item = call(Patch("*** Begin Patch", call_id="p1"))
    assert (item["type"], item["name"]) == ("custom_tool_call", "apply_patch")
    assert (item["input"], item["call_id"]) == ("*** Begin Patch", "p1")


def test_questions_have_options() -> None:
    raw = {"id": "raw", "question": "?"}
    item = call(UserInput(Question("ok", "Sure?"), raw))
    assert item["name"] == "request_user_input"
    first, second = item["arguments"]["questions"]
    assert (first["id"], first["header"], first["question"]) == ("ok", "ok", "Sure?")
    assert first["options"] == [
        {"label": "Yes", "description": "Yes"},
        {"label": "No", "description": "No"},
    ]
    assert second == raw


def test_a_permission_request_contains_only_the_given_permissions() -> None:
    item = call(Permissions("why", write=("/w",)))
    assert item["name"] == "request_permissions"
    assert item["arguments"] == {"reason": "why", "permissions": {"file_system": {"write": ["/w"]}}}
    network = call(Permissions("why", read=("/r",), network=True))["arguments"]["permissions"]
    assert network == {"file_system": {"read": ["/r"]}, "network": {"enabled": True}}


def test_a_plan_keeps_the_order_of_its_steps() -> None:
    arguments = call(Plan({"b": "completed", "a": "pending"}))["arguments"]
    assert arguments == {"plan": [{"step": "b", "status": "completed"}, {"step": "a", "status": "pending"}]}
    assert call(Plan({}, explanation="why"))["arguments"]["explanation"] == "why"


def test_a_raw_item_is_sent_unchanged() -> None:
    assert call(RawItem({"type": "odd"})) == {"type": "odd"}


def test_responses_are_values() -> None:
    assert Response(Text("a", phase="commentary")) == Response(Text("a", phase="commentary"))
    assert Response(Text("a")) != Response(Text("b"))


def test_a_script_returns_its_responses_in_order_and_then_the_default() -> None:
    script = Script(default=Response())
    script.say("a")
    script.say("b")
    assert [script.take(), script.take(), script.take()] == [
        Response(Text("a"), Usage()),
        Response(Text("b"), Usage()),
        Response(),
    ]
    assert Script().take() is None


def test_each_convenience_method_queues_one_response() -> None:
    script = Script()
    script.run_command("a", "b", escalate="why")
    script.apply_patch("p")
    script.ask_user(Question("q", "?"))
    script.update_plan({"s": "pending"})
    script.request_permissions("why", network=True)
    script.call_tool("t")
    script.fail(401)
    script.fail_event("code", "message")
    script.incomplete()
    script.cut()
    script.hang()
    assert [script.take() for _ in range(script.left)] == [
        Response(Command("a", escalate="why"), Command("b", escalate="why")),
        Response(Patch("p")),
        Response(UserInput(Question("q", "?"))),
        Response(Plan({"s": "pending"})),
        Response(Permissions("why", network=True)),
        Response(ToolCall("t")),
        Response(HTTPFailure(401)),
        Response(Failed("code", "message")),
        Response(Incomplete()),
        Response(Cut()),
        Response(Hang()),
    ]


def request(*items: dict[str, Any]) -> ModelRequest:
    return ModelRequest(number=0, method="POST", path="/", headers={}, body={"input": items})


def message(text: str, role: str = "user") -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}


def test_user_messages_that_the_server_writes_are_ignored() -> None:
    asked = request(
        message("<environment_context>\n<cwd>/</cwd>\n</environment_context>"),
        message("first"),
        message("<b>bold</b> words"),
        message("answer", role="assistant"),
        message("<turn_aborted>\nby the user\n</turn_aborted>"),
    )
    assert asked.last_user_text == "<b>bold</b> words"
    assert len(asked.input_texts) == 5


def test_outputs_of_every_kind_of_tool_are_parsed() -> None:
    asked = request(
        {"type": "function_call_output", "call_id": "a", "output": "text"},
        {"type": "custom_tool_call_output", "call_id": "b", "output": [{"text": "x"}, {"text": "y"}]},
        {"type": "function_call", "call_id": "c"},
    )
    assert asked.function_outputs == {"a": "text", "b": "x\ny"}


def test_every_exported_name_exists() -> None:
    for name in trio_codex.testing.__all__:
        assert getattr(trio_codex.testing, name) is not None
    assert set(trio_codex.testing.__all__) <= set(dir(trio_codex.testing))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = trio_codex.testing.nonsense
