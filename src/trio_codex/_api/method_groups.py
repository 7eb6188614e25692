"""The base of the generated request methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from trio_codex import wire


class TypedRequest(Protocol):
    """A function that sends a request and returns its typed result, or raises what the generated methods document."""

    async def __call__(self, method: str, params: wire.Wire | None, /) -> Any:
        """Send the request and wait for its result."""
        ...


class Group:
    """Request methods that share the first segment of their wire names."""

    def __init__(self, request: TypedRequest) -> None:
        self._request = request
