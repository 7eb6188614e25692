"""Tools: their descriptions, arguments, results and failures. The server is scripted."""

import contextvars
import functools
import gc
import inspect
import json
import logging
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Literal

import attrs
import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trio_codex import CodexConfig, Policy, connect_codex, open_codex, policies, tool, wire
from trio_codex._tools.calling import result_of
from trio_codex._tools.json_types import Field
from trio_codex._tools.json_values import ValidationFailure, fields_from_json, from_json
from trio_codex._tools.toolbox import Toolbox
from trio_codex.policies import ToolCallRequest
from trio_codex.testing import fake_codex
from trio_codex.testing._fake import DEFAULTS
from trio_codex.tools import Image, Namespace, Tool, ToolError, ToolResult, image

PNG = b"\x89PNG\r\n\x1a\n rest"


def called(name, arguments=None, namespace=None):
    params = wire.DynamicToolCallParams(
        arguments=arguments,
        call_id="c1",
        thread_id="thread-1",
        tool=name,
        turn_id="turn-1",
        namespace=namespace,
    )
    return ToolCallRequest(
        thread_id="thread-1",
        turn_id="turn-1",
        call_id="c1",
        tool=name,
        namespace=namespace,
        arguments=arguments,
        params=params,
    )


async def get(key: str) -> str:
    await trio.lowlevel.checkpoint()
    return key


async def call(*tools, arguments=None, namespace=None):
    return await Toolbox(tools).call(called(tools[0].name, arguments, namespace))


def texts(result):
    return [item.text for item in result.content]


@tool
async def weather(city: str, days: Annotated[int, "Up to ten."] = 1) -> str:
    """Tell the weather.

    Args:
        city: Where.
        days: For how long.
    """
    await trio.lowlevel.checkpoint()
    return f"{city}: sunny for {days}"


# -- descriptions --------------------------------------------------------------------------------------------------


async def test_a_tool_is_still_its_function():
    assert await weather("Bern", days=2) == "Bern: sunny for 2"
    assert inspect.signature(weather) == inspect.signature(weather.function)
    assert inspect.getdoc(weather).startswith("Tell the weather.")


def test_a_tool_describes_itself_by_its_signature_and_docstring():
    assert wire.encode(weather.spec()) == {
        "type": "function",
        "name": "weather",
        "description": "Tell the weather.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Where."},
                "days": {"type": "integer", "description": "Up to ten.", "default": 1},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    }


def test_a_tool_can_override_its_name_and_description():
    @tool(name="other", description="Another.", namespace=Namespace("app", "All of it."), defer_loading=True)
    async def function() -> None: ...

    assert function.full_name == "app.other"
    assert wire.encode(Toolbox([function]).specs()) == [
        {
            "type": "namespace",
            "name": "app",
            "description": "All of it.",
            "tools": [
                {
                    "type": "function",
                    "name": "other",
                    "description": "Another.",
                    "inputSchema": {
                        "type": "object",
                        "properties": {},
                        "required": [],
                        "additionalProperties": False,
                    },
                    "deferLoading": True,
                }
            ],
        }
    ]


class Store:
    def __init__(self, content):
        self.content = content

    @tool(limit=1)
    async def read(self, key: str, /) -> str:
        await trio.lowlevel.checkpoint()
        return self.content[key]

    async def keys(self) -> list[str]:
        await trio.lowlevel.checkpoint()
        return list(self.content)


async def test_a_method_is_a_tool_of_its_object():
    store = Store({"a": "1"})
    assert await store.read("a") == "1"
    assert texts(await call(store.read, arguments={"key": "a"})) == ["1"]
    assert texts(await call(tool(store.keys, name="keys"))) == ['["a"]']
    assert isinstance(Store.read, Tool)
    with pytest.raises(TypeError, match="self"):
        Toolbox([Store.read])


async def keyword_weather(*, days: int, city: str) -> str:
    """Tell.

    Args:
        days: For how long.
        city: Where.
    """
    await trio.lowlevel.checkpoint()
    return f"{city}: sunny for {days}"


async def test_a_partial_function_is_a_tool_without_its_bound_parameters():
    bern = tool(functools.partial(weather.function, "Bern"), name="bern")
    assert list(bern.input_schema["properties"]) == ["days"]
    assert texts(await call(bern, arguments={"days": 3})) == ["Bern: sunny for 3"]


def test_a_partial_function_has_the_description_of_its_function_by_default():
    bern = functools.partial(keyword_weather, city="Bern")
    made = tool(bern, name="bern")
    assert (made.description, inspect.getdoc(made)) == ("Tell.", inspect.getdoc(keyword_weather))
    assert made.input_schema["properties"]["days"]["description"] == "For how long."
    bern.__doc__ = "Tell of Bern."
    assert tool(bern, name="bern").description == "Tell of Bern."


async def test_a_parameter_annotated_as_the_request_receives_it_and_is_absent_from_the_schema():
    @tool
    async def who(request: ToolCallRequest, maybe: ToolCallRequest | None = None) -> str:
        await trio.lowlevel.checkpoint()
        assert maybe is request
        return f"{request.thread_id} {request.turn_id} {request.call_id}"

    assert who.input_schema["properties"] == {}
    assert texts(await call(who)) == ["thread-1 turn-1 c1"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"name": ""}, "letters"),
        ({"name": "a b"}, "letters"),
        ({"name": "é"}, "letters"),
        ({"name": "a\n"}, "letters"),
        ({"name": "x" * 129}, "128"),
        ({"name": "mcp"}, "MCP"),
        ({"name": "mcp__a"}, "MCP"),
        ({"namespace": "a.b"}, "letters"),
        ({"namespace": "x" * 65}, "64"),
        ({"namespace": "mcp__a"}, "MCP"),
        ({"namespace": "functions"}, "reserved"),
        ({"defer_loading": True}, "namespace"),
        ({"limit": 0}, "limit"),
        ({"timeout": -1.0}, "timeout"),
    ],
    ids=str,
)
def test_names_that_the_server_would_refuse_are_rejected_at_once(options, problem):
    with pytest.raises(ValueError, match=problem):
        tool(weather.function, **options)


TAKEN = (
    "apply_patch",
    "exec_command",
    "request_user_input",
    "shell_command",
    "update_goal",
    "view_image",
    "write_stdin",
)


@pytest.mark.parametrize("name", TAKEN)
def test_a_name_of_a_server_tool_is_rejected_outside_a_namespace(name):
    with pytest.raises(
        ValueError, match=f"its own tool named '{name}' .* choose another name, or use a namespace"
    ):
        tool(name=name)(get)
    assert tool(name=name, namespace="app")(get).full_name == f"app.{name}"


@pytest.mark.parametrize(
    "make", [lambda: tool(name="update_plan")(get), lambda: tool(get, name="update_plan")]
)
def test_a_name_that_is_sometimes_taken_causes_a_warning_at_the_line_that_uses_it(make):
    with pytest.warns(UserWarning, match="its own tool named 'update_plan' and never offers") as caught:
        make()
    (warning,) = caught
    assert warning.filename == __file__


def test_the_description_of_a_namespace_is_bounded_and_unique():
    with pytest.raises(ValueError, match="1024"):
        Namespace("app", "x" * 1025)
    one = tool(weather.function, namespace=Namespace("app", "One."), name="one")
    two = tool(weather.function, namespace=Namespace("app", "Two."), name="two")
    silent = tool(weather.function, namespace="app", name="three")
    assert Toolbox([silent, one]).specs()[0].description == "One."
    with pytest.raises(ValueError, match="two different descriptions"):
        Toolbox([one, two])


async def _variadic(*names: str) -> None: ...
async def _bare(name) -> None: ...
async def _complex(name: complex) -> None: ...
async def _lost(name: "Nowhere") -> None: ...  # noqa: F821
async def _fine(name: int) -> "Nowhere": ...  # noqa: F821


@pytest.mark.parametrize(
    ("function", "problem"),
    [(_variadic, "names"), (_bare, "annotation"), (_complex, "complex"), (_lost, "Nowhere")],
)
def test_an_unsupported_signature_is_rejected_before_anything_is_sent(function, problem):
    made = tool(function)
    with pytest.raises(TypeError, match=problem):
        Toolbox([made])


def test_only_annotations_of_parameters_must_be_defined_at_run_time():
    Toolbox([tool(_fine)])


def test_only_async_functions_become_tools_and_only_tools_are_accepted():
    with pytest.raises(TypeError, match="async"):
        tool(print)
    with pytest.raises(TypeError, match="@tool"):
        Toolbox([weather.function])


def test_two_tools_with_the_same_name_are_rejected_unless_their_namespaces_differ():
    spaced = tool(weather.function, namespace="app")
    box = Toolbox([weather, spaced])
    assert box.find(None, "weather") is weather
    assert box.find("app", "weather") is spaced
    assert box.find("app", "other") is None
    with pytest.raises(ValueError, match=r"app\.weather"):
        Toolbox([spaced, tool(weather.function, namespace="app")])


# -- arguments -----------------------------------------------------------------------------------------------------


@attrs.frozen
class Box:
    width: int
    depth: int = 2


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"city": 5}, "city: expected a string, got an integer"),
        ({}, "city: is missing"),
        (None, "city: is missing"),
        ({"city": "Bern", "day": 1}, "day: is not a known field"),
        ({"city": "Bern", "days": "two"}, "days: expected an integer, got a string"),
        ([], "expected an object, got an array"),
        ({"city": 1, "x": 2}, "city: expected a string, got an integer; x: is not a known field"),
    ],
    ids=str,
)
async def test_invalid_arguments_are_reported_to_the_agent(arguments, problem, caplog):
    result = await call(weather, arguments=arguments)
    assert texts(result) == [f"Invalid arguments: {problem}"]
    assert not result.success
    assert not caplog.records


def reads(type_, value):
    """Return the value that a parameter of this type receives, or the error for the agent."""
    try:
        return fields_from_json([Field("x", type_, True, attrs.NOTHING)], {"x": value}, spelled=True)["x"]
    except ValidationFailure as exc:
        return str(exc)


def same(one, other):
    return one == other and one.__class__ is other.__class__


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans())
def test_numbers_and_booleans_written_as_strings_are_converted_without_loss(value):
    text = json.dumps(value)
    assert same(reads(type(value), text), value)
    assert same(reads(list[type(value)], [text, value])[0], value)
    assert same(reads(type(value) | None, text), value)
    assert same(reads(Annotated[type(value), "described"], text), value)
    assert same(reads(str | type(value), text), text)
    assert same(reads(type(value) | str, text), text)


@given(st.sampled_from([int, float, bool]), st.text("0123456789.+-eE_ \ntrufalsNI\udcff") | st.text())
def test_a_string_that_is_not_a_json_number_or_boolean_is_reported_to_the_agent(type_, text):
    value = reads(type_, text)
    if isinstance(value, str):
        assert "got a string" in value
        return
    assert text == text.strip()
    assert value.__class__ is type_
    assert json.loads(text) == value
    assert type_ is float or isinstance(json.loads(text), type_)


async def test_numbers_sent_as_strings_reach_the_tool_as_numbers():
    @tool
    async def order(count: int, price: float, gift: bool, note: str | int = 0) -> str:
        await trio.lowlevel.checkpoint()
        return repr((count, price, gift, note))

    result = await call(order, arguments={"count": "2", "price": "1.5", "gift": "true", "note": "7"})
    assert result == ToolResult.of_text("(2, 1.5, True, '7')")


@pytest.mark.parametrize("text", ["True", "yes", "1", "0", "", "null"])
def test_only_true_and_false_are_booleans(text):
    assert reads(bool, text) == "x: expected a boolean, got a string"


def test_a_union_prefers_a_string_over_the_number_that_it_spells():
    assert reads(int | Literal["auto"], "auto") == "auto"
    assert same(reads(int | Literal["12"], "12"), "12")
    assert same(reads(int | Literal["auto"], "12"), 12)
    assert reads(list[int] | list[str], ["1"]) == ["1"]
    assert same(reads(int | bool, "true"), True)
    assert reads(Annotated[int, msgspec.Meta(ge=50)], "12") == "x: expected `int` >= 50"


def test_the_structured_answer_of_a_model_is_converted_strictly():
    with pytest.raises(ValidationFailure, match="expected an integer, got a string"):
        from_json(list[int], ["12"])


async def test_arguments_have_their_annotated_types_and_absent_ones_their_defaults():
    seen = []

    @tool
    async def pack(box: Box, more: list[Box], /, note: str = "none", *, fast: bool = False) -> None:
        await trio.lowlevel.checkpoint()
        seen.append((box, more, note, fast))

    result = await call(
        pack, arguments={"more": [{"width": 3}], "box": {"width": 1}, "fast": True, "note": None}
    )
    assert result.success, texts(result)
    assert seen == [(Box(1), [Box(3)], "none", True)]


# -- results ------------------------------------------------------------------------------------------------------

IMAGE = wire.InputImageDynamicToolCallOutputContentItem(
    image_url="data:image/png;base64,iVBORw0KGgogcmVzdA=="
)


def as_text(text):
    return wire.InputTextDynamicToolCallOutputContentItem(text=text)


@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("text", [as_text("text")]),
        ("", [as_text("")]),
        (None, [as_text("done")]),
        (3, [as_text("3")]),
        (["a", "b"], [as_text('["a","b"]')]),
        (Box(1), [as_text('{"width":1,"depth":2}')]),
        (PNG, [IMAGE]),
        (image(PNG), [IMAGE]),
        (["a", PNG, 3], [as_text("a"), IMAGE, as_text("3")]),
        (ToolResult(["a", image(PNG)]), [as_text("a"), IMAGE]),
        (ToolResult((IMAGE,)), [IMAGE]),
    ],
    ids=repr,
)
def test_return_values_become_the_content_of_a_result(value, content):
    assert result_of(value) == ToolResult(content)


def test_the_content_of_a_result_must_not_be_a_bare_string():
    with pytest.raises(TypeError, match="as a list"):
        ToolResult("no")


async def test_a_tool_can_return_a_failed_result():
    @tool
    async def refuse() -> ToolResult:
        await trio.lowlevel.checkpoint()
        return ToolResult.of_text("no", success=False)

    result = await call(refuse)
    assert (texts(result), result.success) == (["no"], False)


async def test_a_return_value_that_cannot_be_serialized_fails_the_call(caplog):
    @tool
    async def strange() -> object:
        await trio.lowlevel.checkpoint()
        return object()

    result = await call(strange)
    assert (texts(result), result.success) == (["TypeError: cannot serialize an object as JSON"], False)
    assert len(caplog.records) == 1


async def test_lone_surrogates_are_escaped_because_the_server_drops_lines_with_them():
    @tool
    async def names(*, fail: bool = False) -> str:
        await trio.lowlevel.checkpoint()
        if fail:
            raise ToolError("a\ud800")
        return "b\ud800"

    assert texts(await call(names)) == ["b\\ud800"]
    assert texts(await call(names, arguments={"fail": True})) == ["a\\ud800"]
    assert texts(result_of(["b\udcff", {"c": Path("d\udcff"), "é": b"e"}])) == [
        r'["b\udcff",{"c":"d\udcff","\u00e9":"ZQ=="}]'
    ]
    assert ToolResult([as_text("f\ud800")]) == ToolResult(["f\\ud800"])


def test_the_media_type_of_an_image_is_detected_from_its_first_bytes(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    assert image(tmp_path / "a.png").url == IMAGE.image_url
    assert image("https://example.org/a.png") == Image("https://example.org/a.png")
    assert image(b"RIFF....WEBP").url.startswith("data:image/webp;")
    assert image(b"?", "image/x").url == "data:image/x;base64,Pw=="
    assert "iVBOR" not in repr(image(PNG))
    with pytest.raises(ValueError, match="media type"):
        image(b"text")
    with pytest.raises(ValueError, match="URL"):
        image(str(tmp_path / "a.png"))


# -- failures ------------------------------------------------------------------------------------------------------


async def raising(exc):
    @tool
    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise exc

    return await call(fail)


async def test_a_tool_error_is_reported_to_the_agent_and_not_logged(caplog):
    result = await raising(ToolError("there is no such city"))
    assert (texts(result), result.success) == (["there is no such city"], False)
    assert not caplog.records


async def test_any_other_error_is_reported_with_its_type_and_logged_with_its_traceback(caplog):
    result = await raising(ZeroDivisionError("by zero"))
    assert (texts(result), result.success) == (["ZeroDivisionError: by zero"], False)
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.ERROR, "trio_codex")
    assert "fail" in record.getMessage()
    assert record.exc_info[0] is ZeroDivisionError
    assert "Traceback" not in texts(result)[0]
    assert texts(await raising(TimeoutError())) == ["TimeoutError"]


async def test_an_exception_group_is_reported_as_its_members(caplog):
    assert texts(await raising(ExceptionGroup("", [ToolError("a")]))) == ["a"]
    assert not caplog.records
    group = ExceptionGroup("", [ToolError("a"), ExceptionGroup("", [ValueError("b")])])
    assert texts(await raising(group)) == ["a\nValueError: b"]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("exc", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
async def test_system_exit_and_keyboard_interrupt_propagate(exc):
    with pytest.raises(type(exc)):
        await raising(exc)
    with pytest.RaisesGroup(type(exc), ValueError):
        await raising(BaseExceptionGroup("", [exc, ValueError()]))


async def test_a_call_that_exceeds_its_timeout_fails(autojump_clock):
    @tool(timeout=2.5)
    async def sleep(seconds: float) -> str:
        await trio.sleep(seconds)
        return "awake"

    result = await call(sleep, arguments={"seconds": 3})
    assert not result.success
    assert texts(result) == ["The tool was cancelled: it did not finish within 2.5 s."]
    assert texts(await call(sleep, arguments={"seconds": 2})) == ["awake"]


async def test_cancellation_propagates_and_errors_of_a_cancelled_tool_are_only_logged(caplog):
    @tool
    async def stubborn() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("in cleanup")

    for made in (stubborn, tool(trio.sleep_forever)):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(functools.partial(call, made))
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught
    assert [record.getMessage() for record in caplog.records] == ["the tool stubborn failed"]


async def test_a_limit_applies_across_all_toolboxes_of_a_client_and_further_calls_wait():
    running, most, gate = 0, 0, trio.Event()

    @tool(limit=2)
    async def count() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1

    client = Toolbox([count])
    boxes = [client, Toolbox([count], client), Toolbox([], client)]
    results = []

    async def collect(box):
        results.append(await box.call(called("count")))

    async with trio.open_nursery() as nursery:
        for box in boxes * 2:
            nursery.start_soon(collect, box)
        await trio.testing.wait_all_tasks_blocked()
        assert running == 2
        gate.set()
    assert most == 2
    assert [result.success for result in results].count(
        True
    ) == 4  # the third toolbox does not have this tool


async def test_the_limit_of_a_method_applies_per_object_across_lookups():
    running, gate = [], trio.Event()

    class Counter:
        @tool(limit=1)
        async def count(self) -> None:
            running.append(self)
            await gate.wait()

    one, other, client = Counter(), Counter(), Toolbox()
    boxes = [Toolbox([counter.count], client) for counter in (one, one, other)]
    async with trio.open_nursery() as nursery:
        for box in boxes:
            nursery.start_soon(box.call, called("count"))
        await trio.testing.wait_all_tasks_blocked()
        assert running in ([one, other], [other, one])
        gate.set()
    assert running.count(one) == 2


async def test_the_timeout_does_not_include_the_wait_for_the_limit(autojump_clock):
    @tool(limit=1, timeout=3)
    async def slow() -> None:
        await trio.sleep(2)

    box, results = Toolbox([slow]), []

    async def collect():
        results.append((await box.call(called("slow"))).success)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(collect)
    assert results == [True] * 4


async def test_the_limiter_of_an_unreferenced_tool_is_released():
    client = Toolbox()

    @tool(limit=1)
    async def short() -> None:
        await trio.lowlevel.checkpoint()

    box = Toolbox([short], client)
    await box.call(called("short"))
    assert len(client._limiters) == 1
    del short, box
    gc.collect()
    assert len(client._limiters) == 0


# -- in a client ---------------------------------------------------------------------------------------------------


def asked(name, arguments=None, thread_id="thread-1", **more):
    return {
        "threadId": thread_id,
        "turnId": "turn-1",
        "callId": "c1",
        "tool": name,
        "namespace": None,
        "arguments": arguments or {},
        **more,
    }


@asynccontextmanager
async def started_turn(server, thread):
    accepted = trio.Event()

    async def accept():
        await server.accept_turn()
        accepted.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        async with thread.turn("go") as turn:
            await accepted.wait()
            yield turn


def say(text, name="say"):
    async def function() -> str:
        await trio.lowlevel.checkpoint()
        return text

    return tool(function, name=name)


async def test_tools_of_a_thread_take_precedence_over_those_of_the_client_and_over_policies():
    async def policy(request: policies.ToolCallRequest) -> ToolResult:
        await trio.lowlevel.checkpoint()
        return ToolResult.of_text("policy")

    tools = [say("client"), say("client", "more")]
    with trio.fail_after(5):
        async with fake_codex(policy=Policy(tool_call=policy), tools=tools) as (codex, server):
            own = say("thread")
            await codex.thread_start(tools=[own])
            for number, (name, text) in enumerate(
                [("say", "thread"), ("more", "client"), ("other", "policy")]
            ):
                await server.ask(number, "item/tool/call", asked(name))
                answer = await server.answer_to(number)
                assert answer == {"contentItems": [{"type": "inputText", "text": text}], "success": True}
            assert [str(record.decided_by) for record in codex.decisions] == ["tool", "tool", "client"]


async def test_every_thread_is_started_with_the_clients_tools_and_its_own():
    with trio.fail_after(5):
        async with fake_codex(tools=[say("client"), say("client", "more")]) as (codex, server):
            server.take_over("thread/start")
            for own, names in (
                ([say("thread"), say("thread", "third")], ["say", "more", "third"]),
                ([], ["say", "more"]),
            ):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(functools.partial(codex.thread_start, tools=own))
                    start = await server.expect("thread/start")
                    assert [spec["name"] for spec in start.params["dynamicTools"]] == names
                    await start.answer(DEFAULTS["thread/start"])


async def test_without_tools_the_request_does_not_mention_them():
    with trio.fail_after(5):
        async with fake_codex(CodexConfig(experimental_api=False)) as (codex, server):
            server.take_over("thread/start")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(codex.thread_start)
                start = await server.expect("thread/start")
                assert "dynamicTools" not in start.params
                await start.answer(DEFAULTS["thread/start"])


@pytest.mark.parametrize("opening", ["thread_resume", "thread_fork"])
async def test_tools_of_a_resumed_or_forked_thread_are_not_declared_to_the_server(opening):
    with trio.fail_after(5):
        async with fake_codex() as (codex, server):
            thread = await getattr(codex, opening)("thread-1", tools=[say("again")])
            await server.ask(0, "item/tool/call", asked("say", thread_id=thread.id))
            assert (await server.answer_to(0))["success"] is True


async def test_tools_without_the_experimental_api_are_rejected_before_anything_is_sent():
    plain = CodexConfig(experimental_api=False, codex_bin="/nowhere")
    with pytest.raises(ValueError, match="experimental_api"):
        async with open_codex(plain, tools=[weather]):
            pytest.fail("it opened")
    with pytest.raises(ValueError, match="two tools"):
        async with open_codex(CodexConfig(codex_bin="/nowhere"), tools=[weather, weather]):
            pytest.fail("it opened")
    with trio.fail_after(5):
        async with fake_codex(plain) as (codex, server):
            server.take_over("thread/start", "thread/resume")
            with pytest.raises(ValueError, match="experimental_api"):
                await codex.thread_start(tools=[weather])
            with pytest.raises(ValueError, match="experimental_api"):
                await codex.thread_resume("thread-1", tools=[weather])
            with pytest.raises(ValueError, match="two tools"):
                await codex.thread_fork("thread-1", tools=[weather, weather])
            assert server.unexpected() == []


async def test_connecting_with_invalid_tools_leaves_the_nursery_empty():
    ours, _ = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        with pytest.raises(ValueError, match="two tools"):
            await connect_codex(nursery, ours, tools=[weather, weather])
        assert not nursery.child_tasks


async def test_the_end_of_a_turn_cancels_its_pending_calls_without_a_response():
    started, ended = trio.Event(), trio.Event()

    @tool
    async def park() -> None:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    with trio.fail_after(5):
        async with fake_codex(tools=[park]) as (codex, server):
            thread = await codex.thread_start()
            async with started_turn(server, thread):
                await server.ask(7, "item/tool/call", asked("park"))
                await started.wait()
                await server.end_turn()
                await ended.wait()
            server.give("ping", {})
            await codex.request("ping")  # everything written before has arrived
            assert 7 not in server.answers


async def test_a_tool_runs_in_the_context_of_its_turn():
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")

    @tool
    async def look() -> str:
        await trio.lowlevel.checkpoint()
        return variable.get()

    with trio.fail_after(5):
        async with fake_codex(tools=[look]) as (codex, server):
            thread = await codex.thread_start()
            variable.set("inside")
            async with started_turn(server, thread):
                await server.ask(0, "item/tool/call", asked("look"))
                assert (await server.answer_to(0))["contentItems"][0]["text"] == "inside"
                await server.end_turn()
