"""Calls of tools without a client."""

from typing import Annotated

import attrs
import trio

from trio_codex import tool, wire
from trio_codex._tools.toolbox import Toolbox
from trio_codex.policies import ToolCallRequest


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


@attrs.frozen
class Box:
    width: int
    depth: int = 2
