"""Tools and typed output as type checkers see them. Never run: mypy and pyright read it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, assert_type

import attrs
import trio

from trio_codex import Thread, Turn, TurnResult, open_codex, policies, tool
from trio_codex.tools import Image, Namespace, Tool, ToolError, ToolResult, image


@attrs.frozen
class Plan:
    steps: list[str]


@dataclass
class Answer:
    text: str


class Options(TypedDict):
    depth: int


@tool
async def weather(city: str, days: int = 1) -> str:
    await trio.lowlevel.checkpoint()
    raise ToolError(f"nothing is known of {city} for {days}")


@tool(name="look", namespace=Namespace("app", "All of it."), limit=1, timeout=2.5, defer_loading=True)
async def look(request: policies.ToolCallRequest) -> ToolResult:
    await trio.lowlevel.checkpoint()
    return ToolResult([request.call_id, image(Path("a.png"))])


class Store:
    @tool
    async def read(self, key: str) -> Image:
        await trio.lowlevel.checkpoint()
        return image(key)

    async def keys(self) -> list[str]:
        await trio.lowlevel.checkpoint()
        return []


async def calling() -> None:
    assert_type(await weather("Bern", days=2), str)
    assert_type(weather.name, str)
    assert_type(weather.input_schema, dict[str, Any])
    assert_type(await Store().read("a"), Image)
    bound = tool(Store().keys, namespace="store")
    assert_type(await bound(), list[str])
    assert_type(bound.namespace, Namespace | None)
    tools: list[Tool[..., Any]] = [weather, look, Store().read]
    async with open_codex(tools=tools) as codex:
        await codex.thread_start(tools=[weather, look])
        await codex.thread_resume("id", tools=(Store().read,))
        await codex.thread_fork("id", tools=tools)


async def outputs(thread: Thread) -> None:
    result = await thread.run("plan", output_type=Plan, model="m")
    assert_type(result, TurnResult[Plan])
    assert_type(result.output, Plan)
    assert_type((await thread.run("answer", output_type=Answer)).output, Answer)
    assert_type((await thread.run("options", output_type=Options)).output, Options)
    assert_type((await thread.run("list", output_type=list[Plan])).output, list[Plan])
    assert_type((await thread.run("text")).output, None)
    async with thread.turn("plan", output_type=Plan) as turn:
        assert_type(turn, Turn[Plan | None])
        assert_type(await turn.wait(), TurnResult[Plan | None])
    assert_type(turn.result.output, Plan | None)
    takes_any(result)
    takes_any(turn.result)


def takes_any(result: TurnResult) -> None:
    assert_type(result.output, Any)
