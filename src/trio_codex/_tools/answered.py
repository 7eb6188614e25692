"""Results of tool calls, for a server that asks again because the connection was lost before it received an answer.

A client that reconnects is a new one with the same tools, so results are remembered by function.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import msgspec

from trio_codex import wire

if TYPE_CHECKING:
    from trio_codex._tools.tool import AnyTool
    from trio_codex._values.tool_result import ToolResult
    from trio_codex.policies import ToolCallRequest

RESULTS_SIZE: Final = 1024 * 1024
"""Maximum size of the results remembered for each function, as JSON. The latest is always kept."""

RESULT_SIZE: Final = 200
"""Assumed size of a result, in addition to that of its content."""


class _Results:
    """The latest results of one function."""

    def __init__(self) -> None:
        self._results: OrderedDict[tuple[str, str | None, str], tuple[ToolResult, int]] = OrderedDict()
        self._size = 0

    def keep(self, call: ToolCallRequest, result: ToolResult) -> None:
        """Keep the result of a call, and drop the oldest above the limit."""
        _, replaced = self._results.pop(_key(call), (None, 0))
        size = RESULT_SIZE + len(msgspec.json.encode([wire.encode(item) for item in result.content]))
        self._results[_key(call)] = result, size
        self._size += size - replaced
        while self._size > RESULTS_SIZE and len(self._results) > 1:
            _, (_, dropped) = self._results.popitem(last=False)
            self._size -= dropped

    def find(self, call: ToolCallRequest) -> ToolResult | None:
        """Return the result of a call, if it is kept."""
        return self._results.get(_key(call), (None, 0))[0]


_results: WeakKeyDictionary[Any, _Results] = WeakKeyDictionary()


def remember(tool: AnyTool, call: ToolCallRequest, result: ToolResult) -> None:
    """Remember the result of a call."""
    _results.setdefault(_function_of(tool), _Results()).keep(call, result)


def remembered(tool: AnyTool, call: ToolCallRequest) -> ToolResult | None:
    """Return the result of a call, if it is remembered."""
    results = _results.get(_function_of(tool))
    return None if results is None else results.find(call)


def _function_of(tool: AnyTool) -> Any:
    # Each lookup of a bound method creates a new one, which does not outlive the client it was passed to.
    return getattr(tool.function, "__func__", tool.function)


def _key(call: ToolCallRequest) -> tuple[str, str | None, str]:
    return call.thread_id, call.turn_id, call.call_id
