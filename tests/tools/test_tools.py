"""Tools: the schema of a function, and the arguments that it is called with."""

import functools
import inspect
import json
from typing import Annotated, Literal

import attrs
import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tools.tool_calls import Box, call, texts, weather
from trio_codex import tool, wire
from trio_codex._tools.json_types import Field
from trio_codex._tools.json_values import ValidationFailure, fields_from_json, from_json
from trio_codex._tools.toolbox import Toolbox
from trio_codex.policies import ToolCallRequest
from trio_codex.tools import Namespace, Tool, ToolResult


async def get(key: str) -> str:
    await trio.lowlevel.checkpoint()
    return key


# -- descriptions --------------------------------------------------------------------------------------------------


async def test_a_tool_can_be_called_and_inspected_like_its_function():
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


async def test_a_method_is_a_tool_bound_to_its_object():
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
def test_names_that_the_server_would_refuse_are_rejected_immediately(options, problem):
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
    # A decimal number becomes the nearest float, as everywhere in JSON.
    assert type_(json.loads(text)) == value
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


def test_the_models_structured_answer_is_converted_strictly():
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
