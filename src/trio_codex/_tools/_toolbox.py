"""The tools of a client or of a thread: owns which there are, their calls, and what becomes of what a call returns or raises."""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias, cast
from weakref import WeakKeyDictionary

import attrs
import trio

from trio_codex import wire
from trio_codex._core._exceptions import describe_error, leaves_of
from trio_codex._runtime._nursery import cancelled_and_failed
from trio_codex._tools._tool import Tool, ToolError
from trio_codex._tools._tool_result import Image, ToolResult, image

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    from trio_codex.policies import ToolCallRequest

logger = logging.getLogger("trio_codex")

AnyTool: TypeAlias = Tool[Any, Any]

NO_SUCH_TOOL = "This client has no such tool."
NO_RESULT = "done"
"""What the agent gets from a tool that returns nothing: an empty result would look like a failure."""


class Toolbox:
    """Tools by their names, and their calls.

    Args:
        tools: The tools.
        beside: The toolbox of the client; the limits of tools hold over all its toolboxes.

    Raises:
        ValueError: Two tools have the same name.
        TypeError: Something is no tool, or cannot be described to the agent.
    """

    def __init__(self, tools: Iterable[AnyTool] = (), beside: Toolbox | None = None) -> None:
        self._tools: dict[tuple[str | None, str], AnyTool] = {}
        self._limiters: WeakKeyDictionary[AnyTool, trio.CapacityLimiter] = (
            WeakKeyDictionary() if beside is None else beside._limiters
        )
        for tool in tools:
            if not isinstance(tool, Tool):  # pyright: ignore[reportUnnecessaryIsInstance]  # a plain function, perhaps
                raise TypeError(f"{tool!r} is no tool; put @tool on it")
            key = _key(tool)
            if key in self._tools:
                raise ValueError(f"there are two tools named {tool.full_name}")
            self._tools[key] = tool
        self.specs()

    def __len__(self) -> int:
        return len(self._tools)

    def find(self, namespace: str | None, name: str) -> AnyTool | None:
        """Give the tool of this name."""
        return self._tools.get((namespace, name))

    def specs(self, own: Toolbox | None = None) -> list[wire.DynamicToolSpec]:
        """Describe the tools to the server.

        Args:
            own: Tools of a thread, which take the place of those with the same name.

        Raises:
            ValueError: A namespace has two descriptions.
            TypeError: A tool cannot be described.
        """
        specs: list[wire.DynamicToolSpec] = []
        namespaces: dict[str, tuple[str, list[wire.DynamicToolNamespaceTool]]] = {}
        for tool in (self._tools if own is None else self._tools | own._tools).values():
            spec, space = tool.spec(), tool.namespace
            if space is None:
                specs.append(spec)
                continue
            description, inner = namespaces.get(space.name, ("", []))
            if description and space.description and description != space.description:
                raise ValueError(f"the namespace {space.name} has two descriptions")
            inner.append(
                wire.FunctionDynamicToolNamespaceTool(
                    name=spec.name,
                    description=spec.description,
                    input_schema=spec.input_schema,
                    defer_loading=spec.defer_loading,
                )
            )
            namespaces[space.name] = (description or space.description, inner)
        specs += [
            wire.NamespaceDynamicToolSpec(name=name, description=description, tools=inner)
            for name, (description, inner) in namespaces.items()
        ]
        return specs

    async def call(self, request: ToolCallRequest) -> ToolResult:
        """Call a tool. Whatever becomes of the call is told to the agent: this raises no :class:`Exception`.

        Cancellation goes through, and so do ``KeyboardInterrupt`` and ``SystemExit``.
        """
        await trio.lowlevel.checkpoint()
        tool = self.find(request.namespace, request.tool)
        if tool is None:
            return ToolResult.of_text(NO_SUCH_TOOL, success=False)
        try:
            return _sendable(await self._run(tool, request))
        except Exception as exc:
            return _failure(tool, exc)
        except BaseExceptionGroup as group:
            cancelled, failed = cancelled_and_failed(group)
            if failed is not None:
                _failure(tool, failed)
            raise cancelled from None

    async def _run(self, tool: AnyTool, request: ToolCallRequest) -> ToolResult:
        from trio_codex._tools._json_values import Unfit

        try:
            bound = tool.bind(request)
        except Unfit as exc:
            await trio.lowlevel.checkpoint()
            return ToolResult.of_text(f"Invalid arguments: {exc}", success=False)
        async with self._place(tool):
            with trio.move_on_after(math.inf if tool.timeout is None else tool.timeout):
                return result_of(await tool.function(*bound.args, **bound.kwargs))
        return ToolResult.of_text(
            f"The tool was cancelled: it did not finish within {tool.timeout:g} s.", success=False
        )

    def _place(self, tool: AnyTool) -> AbstractAsyncContextManager[object]:
        if tool.limit is None:
            return nullcontext()
        limiter = self._limiters.get(tool)
        if limiter is None:
            limiter = self._limiters[tool] = trio.CapacityLimiter(tool.limit)
        return limiter


def _key(tool: AnyTool) -> tuple[str | None, str]:
    return (None if tool.namespace is None else tool.namespace.name, tool.name)


def result_of(value: object) -> ToolResult:
    """Make a result of what a tool returned.

    Raises:
        TypeError: It cannot be written as JSON.
        ValueError: It is bytes, and no image.
    """
    from trio_codex._tools._json_values import to_json

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
    """Tell the agent what a tool raised, and the log where it came from; a ``ToolError`` is no news to the log."""
    leaves = leaves_of(exc)
    if not all(isinstance(leaf, ToolError) for leaf in leaves):
        logger.error("the tool %s failed", tool.full_name, exc_info=exc)
    texts = [str(leaf) if isinstance(leaf, ToolError) else describe_error(leaf) for leaf in leaves]
    return _sendable(ToolResult.of_text("\n".join(texts), success=False))


def _sendable(result: ToolResult) -> ToolResult:
    """Spell lone surrogates out, as names of files may hold them: the line would be unreadable to the server (PROTOCOL Q10)."""
    return attrs.evolve(
        result,
        content=[
            item.evolve(text=item.text.encode(errors="backslashreplace").decode())
            if isinstance(item, wire.InputTextDynamicToolCallOutputContentItem)
            else item
            for item in result.content
        ],
    )
