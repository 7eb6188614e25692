"""Import and call the user's functions: policies, tools, solvers and functions to retry. No other module calls them.

Callers without Trio cannot provide Trio coroutines. For them, a bridge set here runs the function in the right place: in a
worker thread, or in the caller's event loop. Functions of this package are Trio coroutines and never cross it.
"""

from __future__ import annotations

import functools
import importlib
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from trio_codex._core.arguments import is_async_callable as is_async_callable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Bridge(Protocol):
    """Runs one of the user's functions outside Trio, and waits for its result."""

    async def run(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        is_async: bool,
    ) -> Any:
        """Run the function and return its result, or raise its exception."""
        ...


BRIDGE: Final[ContextVar[Bridge | None]] = ContextVar("trio_codex_bridge", default=None)
"""The bridge of the client in whose task this runs; ``None`` for a Trio program."""


async def call_user(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:  # noqa: ASYNC910  # the function's own
    """Call an async function, the user's or this package's, and return its result."""
    bridge = BRIDGE.get()
    if bridge is None or _is_ours(function):
        return await function(*args, **kwargs)
    return await bridge.run(function, args, kwargs, is_async=is_async_callable(function))


def import_function(name: str) -> Callable[..., Any]:
    """Import a function by its name, ``"module:function"``. Modules in the working directory come first.

    Raises:
        ValueError: There is no such function.
    """
    module, _, function = name.partition(":")
    if not module or not function:
        raise ValueError(f"{name!r} cannot be imported: write MODULE:FUNCTION, such as agents:main")
    if "" not in sys.path:
        # The working directory, where scripts usually are and where engines start their workers.
        sys.path.insert(0, "")
    try:
        found: Any = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as exc:
        raise ValueError(f"{name!r} cannot be imported: {exc}") from exc
    if not callable(found):
        raise ValueError(f"{name!r} is not a function")
    return cast("Callable[..., Any]", found)


def _is_ours(function: object) -> bool:
    while isinstance(function, functools.partial):
        function = cast("functools.partial[object]", function).func
    function = getattr(function, "__func__", function)
    if not hasattr(function, "__globals__"):
        function = getattr(type(function), "__call__", None)  # noqa: B004  # the method itself, not whether there is one
    # Not __module__: functools.wraps() copies that of the wrapped function.
    module: str = getattr(function, "__globals__", {}).get("__name__", "")
    return module.partition(".")[0] == "trio_codex"
