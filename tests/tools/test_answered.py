"""Results of tool calls that are remembered for a server that asks again."""

import gc

import attrs
from tool_calls import called

from trio_codex._tools import answered
from trio_codex._tools.answered import RESULTS_SIZE, remember, remembered
from trio_codex._values.tool_result import ToolResult
from trio_codex.tools import tool


def call(call_id="c1", turn_id="turn-1"):
    return attrs.evolve(called("look", {}), call_id=call_id, turn_id=turn_id)


def some_tool():
    @tool
    async def look() -> None:
        """Look."""

    return look


def test_a_result_is_remembered_for_its_function_and_its_call():
    look, other, result = some_tool(), some_tool(), ToolResult.of_text("seen")
    remember(look, call(), result)
    assert remembered(look, call()) is result
    assert [remembered(look, call("c2")), remembered(look, call(turn_id="turn-2"))] == [None, None]
    assert remembered(other, call()) is None
    again = ToolResult.of_text("again")
    remember(look, call(), again)
    assert remembered(look, call()) is again


def test_remembered_results_are_bounded_and_released_with_the_function():
    look = some_tool()
    for number in range(4):
        remember(look, call(str(number)), ToolResult.of_text("x" * (RESULTS_SIZE // 3)))
    assert [remembered(look, call(str(number))) is None for number in range(4)] == [True, True, False, False]
    remember(look, call("large"), ToolResult.of_text("x" * 2 * RESULTS_SIZE))
    assert remembered(look, call("large")) is not None
    assert remembered(look, call("3")) is None
    gc.collect()
    before = len(answered._results)
    del look
    gc.collect()
    assert len(answered._results) == before - 1


def test_the_result_of_a_method_is_remembered_for_the_next_client():
    class Camera:
        @tool
        async def look(self) -> None:
            """Look."""

    camera, result = Camera(), ToolResult.of_text("seen")
    remember(camera.look, call(), result)
    gc.collect()
    assert remembered(camera.look, call()) is result
