"""Remove secrets from the server's error responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from trio_codex._core.json import list_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_codex.errors import RpcError


def without_values(error: RpcError, hide: Callable[[str], str]) -> RpcError:
    """Return an error whose message and data contain no secrets.

    Args:
        error: The error.
        hide: Removes secrets from a string.
    """

    def hidden(value: Any) -> Any:
        if isinstance(value, str):
            return hide(value)
        if isinstance(value, dict):
            return {hide(str(name)): hidden(each) for name, each in cast("dict[str, Any]", value).items()}
        if isinstance(value, list):
            return [hidden(each) for each in list_of(value)]
        return value

    try:
        data = hidden(error.data)
    except RecursionError:
        data = None  # nested beyond the recursion limit
    return type(error)(error.code, hide(error.message), data, error.method)
