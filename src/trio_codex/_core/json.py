"""Read untrusted JSON. Nothing raises: a value of an unexpected type counts as absent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

Json: TypeAlias = bytes | msgspec.Raw
"""Unparsed JSON text."""

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Everything that parsing arbitrary bytes can raise: invalid JSON, invalid UTF-8, nesting beyond the parser's stack."""


def object_of(value: Any) -> dict[str, Any]:
    """Return ``value`` if it is a JSON object, and an empty object otherwise."""
    # An annotation instead of a cast(), which would be one more call for each object in each message.
    members: dict[str, Any] = value if value.__class__ is dict else {}
    return members


def list_of(value: Any) -> list[Any]:
    """Return ``value`` if it is a JSON array, and an empty array otherwise."""
    return list(cast("Iterable[Any]", value)) if isinstance(value, list) else []


def string_of(value: Any) -> str | None:
    """Return ``value`` if it is a string, and ``None`` otherwise."""
    return value if isinstance(value, str) else None


def integer_of(value: Any) -> int | None:
    """Return ``value`` if it is an integer, and ``None`` otherwise."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def parse_object(json: Json) -> dict[str, Any]:
    """Parse a JSON object; return an empty one for any other text."""
    try:
        return object_of(msgspec.json.decode(json))
    except UNREADABLE:
        return {}
