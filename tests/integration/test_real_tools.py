"""Tools on the real server: what the model receives, and how calls end."""

import base64
import enum
import struct
import zlib
from contextlib import asynccontextmanager
from typing import Annotated

import attrs
import pytest
import trio

from trio_codex import errors, open_codex, tool, wire
from trio_codex.policies import ToolCallRequest
from trio_codex.testing import MockModel, Response, Text, ToolCall, offline_codex, offline_home
from trio_codex.tools import Namespace, ToolError, image

pytestmark = pytest.mark.real


@asynccontextmanager
async def offline(*tools):
    """Yield a client of the real server, its model and its home."""
    with trio.fail_after(20):
        async with offline_codex(tools=tools) as (codex, model, _):
            yield codex, model


@asynccontextmanager
async def a_home():
    with trio.fail_after(20):
        async with MockModel() as model:
            with offline_home(model) as home:
                yield home.config(), model


def a_png():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(4))) + chunk(b"IEND", b"")


def output_of(request, call_id):
    (item,) = [item for item in request.input if item.get("call_id") == call_id and "output" in item]
    return item["output"]


class Unit(enum.Enum):
    celsius = "C"
    kelvin = "K"


@attrs.frozen
class Place:
    """Somewhere.

    Attributes:
        name: Its name.
    """

    name: str
    near: "Place | None" = None


@tool
async def weather(place: Place, unit: Unit = Unit.celsius, days: Annotated[int, "At most ten."] = 1) -> str:
    """Tell the weather.

    Args:
        place: Where.
    """
    await trio.lowlevel.checkpoint()
    return f"sunny in {place.name} ({unit.name}, {days})"


async def test_the_model_receives_the_schema_of_a_tool_except_keywords_that_the_server_drops():
    async with offline(weather) as (codex, model):
        model.say("done")
        thread = await codex.thread_start()
        await thread.run("hello")
        (offered,) = [each for each in model.requests[0].body["tools"] if each.get("name") == "weather"]
        assert offered["description"] == "Tell the weather."
        place = {
            "type": "object",
            "description": "Somewhere.",
            "properties": {
                "name": {"type": "string", "description": "Its name."},
                "near": {"anyOf": [{"$ref": "#/$defs/Place"}, {"type": "null"}]},
            },
            "required": ["name"],
            "additionalProperties": False,
        }
        assert offered["parameters"] == {
            "type": "object",
            "properties": {
                "place": {"anyOf": [{"$ref": "#/$defs/Place"}], "description": "Where."},
                "unit": {"type": "string", "enum": ["C", "K"]},
                "days": {"type": "integer", "description": "At most ten."},
            },
            "required": ["place"],
            "additionalProperties": False,
            "$defs": {"Place": place},
        }


async def test_text_json_and_images_reach_the_model_and_their_items_succeed():
    picture = a_png()

    @tool
    async def draw() -> list[object]:
        await trio.lowlevel.checkpoint()
        return ["here it is", image(picture)]

    @tool(namespace=Namespace("app", "All of it."))
    async def data() -> dict[str, list[int]]:
        await trio.lowlevel.checkpoint()
        return {"a": [1, 2]}

    @tool
    async def nothing() -> None:
        await trio.lowlevel.checkpoint()

    async with offline(weather, draw, data, nothing) as (codex, model):
        model.respond(
            ToolCall("weather", {"place": {"name": "Bern"}, "unit": "K"}, call_id="c1"),
            ToolCall("draw", call_id="c2"),
            ToolCall("data", namespace="app", call_id="c3"),
            ToolCall("nothing", call_id="c4"),
        )
        model.say("done")
        thread = await codex.thread_start()
        result = await thread.run("hello")
        assert "app.data" in model.requests[0].tools
        second = model.requests[1]
        assert output_of(second, "c1") == "sunny in Bern (kelvin, 1)"
        url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
        text, shown = output_of(second, "c2")
        assert text == {"type": "input_text", "text": "here it is"}
        assert (shown["type"], shown["image_url"]) == ("input_image", url)
        assert output_of(second, "c3") == '{"a":[1,2]}'
        assert output_of(second, "c4") == "done"
        calls = [item for item in result.items if isinstance(item, wire.DynamicToolCallThreadItem)]
        # The calls run concurrently and may end in any order.
        assert sorted((item.id, item.status, item.success) for item in calls) == [
            (f"c{number}", "completed", True) for number in range(1, 5)
        ]


async def test_failed_calls_are_reported_to_the_model_and_the_turn_continues(caplog):
    @tool
    async def refuse() -> None:
        await trio.lowlevel.checkpoint()
        raise ToolError("not today")

    @tool
    async def crash() -> None:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError("by zero")

    @tool(timeout=0.1)
    async def dawdle() -> None:
        await trio.sleep_forever()

    async with offline(weather, refuse, crash, dawdle) as (codex, model):
        model.respond(
            ToolCall("refuse", call_id="c1"),
            ToolCall("crash", call_id="c2"),
            ToolCall("dawdle", call_id="c3"),
            ToolCall("weather", {"place": "Bern", "colour": "red"}, call_id="c4"),
        )
        model.say("I do without.")
        thread = await codex.thread_start()
        result = await thread.run("hello")
        assert result.final_response == "I do without."
        outputs = [output_of(model.requests[1], f"c{number}") for number in range(1, 5)]
        assert outputs == [
            "not today",
            "ZeroDivisionError: by zero",
            "The tool was cancelled: it did not finish within 0.1 s.",
            "Invalid arguments: place: expected an object, got a string; colour: is not a known field",
        ]
        calls = [item for item in result.items if isinstance(item, wire.DynamicToolCallThreadItem)]
        assert {(item.status, item.success) for item in calls} == {("failed", False)}
    assert [record.getMessage() for record in caplog.records] == ["the tool crash failed"]


async def test_leaving_the_turn_cancels_its_tool_calls_and_writes_no_response():
    started, ended = trio.Event(), trio.Event()

    @tool
    async def park() -> str:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with offline(park) as (codex, model):
        model.respond(ToolCall("park", call_id="c1"))
        thread = await codex.thread_start()
        async with thread.turn("hello") as turn:
            await started.wait()
        assert ended.is_set()
        assert turn.result.status == "interrupted"
        (record,) = codex.decisions
        assert (record.outcome, record.decision) == ("withdrawn", None)
        model.say("again")
        assert (await thread.run("go on")).final_response == "again"


async def test_a_tools_limit_is_shared_by_all_threads_of_a_client():
    running, most, met = 0, 0, trio.Event()

    @tool(limit=1)
    async def alone() -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await met.wait()
        running -= 1
        return "done"

    @tool
    async def meet() -> str:
        met.set()
        return "met"

    async with offline(alone, meet) as (codex, model):
        for name in "ab":
            script = model.script(lambda request, name=name: request.last_user_text == name)
            script.respond(ToolCall("alone", call_id=name))
            script.say("ok")
        meeting = model.script("meet")
        meeting.respond(ToolCall("meet"))
        meeting.say("ok")
        threads = [await codex.thread_start() for _ in range(3)]
        async with (
            codex.events("item/started") as items,
            threads[0].turn("a") as first,
            threads[1].turn("b") as second,
        ):
            asked = 0
            async for event in items:
                asked += isinstance(event.params.item, wire.DynamicToolCallThreadItem)
                if asked == 2:
                    break
            await threads[2].run("meet")
            results = [await first.wait(), await second.wait()]
        assert [result.final_response for result in results] == ["ok", "ok"]
        assert most == 1


@pytest.mark.parametrize("fork_context", [False, True])
async def test_a_child_agent_has_the_tools_only_if_it_inherits_the_context(fork_context):
    seen = []

    @tool
    async def look(request: ToolCallRequest) -> str:
        await trio.lowlevel.checkpoint()
        seen.append(request)
        return "seen"

    async with offline() as (codex, model):
        child = model.script("child work")
        child.respond(ToolCall("look", call_id="c1"))
        child.say("the child is done")
        # The model is called once more if it learns of the child's end in time.
        parent = model.script("parent work", default=Response(Text("the parent is done")))
        task = {"message": "child work", "fork_context": fork_context}
        parent.respond(ToolCall("spawn_agent", task, namespace="multi_agent_v1", call_id="s1"))
        gate = model.gate()
        parent.respond(gate, Text("the parent is done"))
        thread = await codex.thread_start(tools=[look])
        async with codex.events("turn/completed") as ended, thread.turn("parent work") as turn:
            assert (await ended.__anext__()).params.thread_id != thread.id
            gate.open()
            await turn.wait()
        of_child = [request for request in model.requests if request.thread_id != thread.id]
        assert ("look" in of_child[0].tools) is fork_context
        assert output_of(of_child[-1], "c1") == ("seen" if fork_context else "unsupported call: look")
        assert [(request.thread_id, request.ancestors) for request in seen] == (
            [(turn.children[0], (thread.id,))] if fork_context else []
        )


async def test_a_resumed_or_forked_thread_still_offers_its_tools_with_new_handlers():
    async with a_home() as (config, model):
        async with open_codex(config) as codex:
            model.say("hello")
            thread = await codex.thread_start(tools=[weather])
            await thread.run("hello")
        async with open_codex(config) as codex:
            for opening in (codex.thread_fork, codex.thread_resume):
                again = await opening(thread.id, tools=[weather])
                model.respond(ToolCall("weather", {"place": {"name": "Bern"}}, call_id=opening.__name__))
                model.say("done")
                await again.run("and now?")
                assert "weather" in model.requests[-2].tools
                assert output_of(model.requests[-1], opening.__name__).startswith("sunny in Bern")


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "a b"},
        {"name": "x" * 129},
        {"name": "mcp__a"},
        {"name": "a", "deferLoading": True},
    ],
    ids=str,
)
async def test_the_server_refuses_the_same_tools_as_the_client(spec):
    async with offline() as (codex, _):
        spec = {"type": "function", "description": "", "inputSchema": {"type": "object"}, **spec}
        with pytest.raises(errors.InvalidRequestError):
            await codex.request("thread/start", {"dynamicTools": [spec]})
