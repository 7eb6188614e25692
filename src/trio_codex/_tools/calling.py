"""Call a tool, and convert its return value or exception to a result."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import trio

from trio_codex._core.exceptions import describe_error, leaves_of, text_of
from trio_codex._core.log import logger
from trio_codex._core.user_code import call_user
from trio_codex._link.services import cancelled_and_failed
from trio_codex._tools.json_values import ValidationFailure, to_json
from trio_codex._tools.tool import ToolError
from trio_codex._values.tool_result import Image, ToolResult, image

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from trio_codex._tools.tool import AnyTool
    from trio_codex.policies import ToolCallRequest

NO_SUCH_TOOL = "This client has no such tool."
NO_RESULT = "done"
"""The result of a tool that returns ``None``. An empty result would look like a failure to the agent."""


async def call(
    tool: AnyTool | None,
    request: ToolCallRequest,
    slot: Callable[[AnyTool], AbstractAsyncContextManager[object]],
) -> ToolResult:
    """Call a tool, if it exists. See :meth:`Toolbox.call`.

    The call enters the context manager that ``slot`` returns, which limits the number of concurrent calls.
    """
    await trio.lowlevel.checkpoint()
    if tool is None:
        return ToolResult.of_text(NO_SUCH_TOOL, success=False)
    try:
        return await _run(tool, request, slot)
    except Exception as exc:
        return _failure(tool, exc)
    except BaseExceptionGroup as group:
        cancelled, failed = cancelled_and_failed(group)
        if failed is not None:
            _failure(tool, failed)
        raise cancelled from None


async def _run(
    tool: AnyTool,
    request: ToolCallRequest,
    slot: Callable[[AnyTool], AbstractAsyncContextManager[object]],
) -> ToolResult:
    try:
        bound = tool.bind(request)
    except ValidationFailure as exc:
        await trio.lowlevel.checkpoint()
        return ToolResult.of_text(f"Invalid arguments: {exc}", success=False)
    async with slot(tool):
        with trio.move_on_after(math.inf if tool.timeout is None else tool.timeout):
            return result_of(await call_user(tool.function, *bound.args, **bound.kwargs))
    return ToolResult.of_text(
        f"The tool was cancelled: it did not finish within {tool.timeout:g} s.", success=False
    )


def result_of(value: object) -> ToolResult:
    """Create a result from a tool's return value. Raise ``TypeError`` or ``ValueError`` if that is impossible."""
    match value:
        case ToolResult():
            return value
        case None:
            return ToolResult.of_text(NO_RESULT)
        case str():
            return ToolResult.of_text(value)
        case bytes():
            return ToolResult((image(value),))
        case Image():
            return ToolResult((value,))
        case list() | tuple() if _has_image(parts := cast("Sequence[object]", value)):
            return ToolResult([item for part in parts for item in result_of(part).content])
        case _:
            return ToolResult.of_text(to_json(value).decode())


def _has_image(parts: Sequence[object]) -> bool:
    return any(isinstance(part, (Image, bytes)) for part in parts)


def _failure(tool: AnyTool, exc: Exception) -> ToolResult:
    """Report a tool's exception to the agent, and log its traceback unless it is a ``ToolError``."""
    leaves = leaves_of(exc)
    if not all(isinstance(leaf, ToolError) for leaf in leaves):
        logger.error("the tool %s failed", tool.full_name, exc_info=exc)
    texts = [text_of(leaf) if isinstance(leaf, ToolError) else describe_error(leaf) for leaf in leaves]
    return ToolResult.of_text("\n".join(texts), success=False)
