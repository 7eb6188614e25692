"""The tools of a client or a thread, and the limits on their concurrent calls."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import trio

from trio_codex import wire
from trio_codex._core.arguments import check_collection, described

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable
    from contextlib import AbstractAsyncContextManager

    from trio_codex._tools.tool import AnyTool as AnyTool
    from trio_codex._values.tool_result import ToolResult
    from trio_codex.policies import ToolCallRequest


class Toolbox:
    """The tools of a client or a thread by name, and the limits on their calls.

    The limits of the client's toolbox apply to all toolboxes of the client.

    Raises:
        ValueError: Two tools have the same name.
        TypeError: The tools are not a list of tools, or one cannot be described to the agent.
    """

    def __init__(self, tools: Iterable[AnyTool] = (), client_tools: Toolbox | None = None) -> None:
        self._tools: dict[tuple[str | None, str], AnyTool] = {}
        # Keyed by the function, not the tool: each lookup of a method creates a new tool.
        self._limiters: WeakValueDictionary[Hashable, trio.CapacityLimiter] = (
            WeakValueDictionary() if client_tools is None else client_tools._limiters
        )
        self._limiter_of: dict[AnyTool, trio.CapacityLimiter] = {}
        check_collection("tools", tools, "write tools=[…], with functions made into tools by @tool")
        for tool in tools:
            _check(tool)
            key = (None if tool.namespace is None else tool.namespace.name, tool.name)
            if key in self._tools:
                raise ValueError(f"two tools are named {tool.full_name}")
            self._tools[key] = tool
        self.specs()

    def __len__(self) -> int:
        return len(self._tools)

    def find(self, namespace: str | None, name: str) -> AnyTool | None:
        """Return the tool of this name."""
        return self._tools.get((namespace, name))

    def specs(self, own: Toolbox | None = None) -> list[wire.DynamicToolSpec]:
        """Return the descriptions of the tools for the server. A thread's own tools replace those with the same name.

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
                raise ValueError(f"the namespace {space.name} has two different descriptions")
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
        """Call a tool. Failures are reported to the agent, so this never raises an :class:`Exception`.

        Cancellation propagates, and so do ``KeyboardInterrupt`` and ``SystemExit``.
        """
        from trio_codex._tools.calling import call

        return await call(self.find(request.namespace, request.tool), request, self._slot)

    async def call_on_shared_server(self, request: ToolCallRequest, *, may_be_repeated: bool) -> ToolResult:
        """Call a tool, as :meth:`call` does, and remember its result for the next client of this process.

        Args:
            request: The agent's request.
            may_be_repeated: Whether this process may have answered it over an earlier connection. If so, the result
                is repeated, and the tool is not called.
        """
        from trio_codex._tools.answered import remember, remembered

        tool = self.find(request.namespace, request.tool)
        if may_be_repeated and tool is not None and (result := remembered(tool, request)) is not None:
            await trio.lowlevel.checkpoint()
            return result
        result = await self.call(request)
        if tool is not None:
            remember(tool, request, result)
        return result

    def _slot(self, tool: AnyTool) -> AbstractAsyncContextManager[object]:
        if tool.limit is None:
            return nullcontext()
        limiter = self._limiter_of.get(tool)
        if limiter is None:
            key = (tool.function, tool.full_name, tool.limit)
            limiter = self._limiters.get(key) or trio.CapacityLimiter(tool.limit)
            self._limiter_of[tool] = self._limiters[key] = limiter
        return limiter


def _check(tool: object) -> None:
    # Imported only when there is a tool: most clients have none.
    from trio_codex._tools.tool import Tool

    if not isinstance(tool, Tool):
        raise TypeError(f"tools expects functions decorated with @tool, got {described(tool)}")
