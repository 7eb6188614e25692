"""What the generated request methods stand on: one callable that sends a request and reads its result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from trio_codex import wire


class TypedRequest(Protocol):
    """Sends a request and gives its result as the type that the method has.

    It sends ``{}`` for a params object without content (the server refuses a request that has none), and no params for
    ``None``. It raises what the generated methods raise.
    """

    async def __call__(self, method: str, params: wire.Wire | None, /) -> Any:
        """Send the request and wait for its result."""
        ...


class Group:
    """Request methods that share the first segment of their wire names."""

    def __init__(self, request: TypedRequest) -> None:
        self._request = request
