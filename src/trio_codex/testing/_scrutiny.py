"""Check messages from a client against the protocol, as defined by the wire types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from trio_codex import wire
from trio_codex._core.json import list_of
from trio_codex.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Iterator


def violation_of_request(method: str, params: Any) -> str | None:
    """Return a description of an invalid client request; ``None`` if it is valid or its method is unknown."""
    spec = wire.CLIENT_REQUESTS.get(method)
    if spec is None or spec.params is None:
        return None
    return _violation(f"the client sent {method}", spec.params, params)


def violation_of_answer(method: str, result: Any) -> str | None:
    """Return a description of a client's invalid result for a server request; ``None`` if it is valid."""
    spec = wire.SERVER_REQUESTS.get(method)
    return None if spec is None else _violation(f"the client answered {method}", spec.response, result)


def _violation(what: str, name: str, raw: Any) -> str | None:
    type_ = getattr(wire, name)
    try:
        value = wire.decode(type_, raw)
    except DecodeError as exc:
        return f"{what}, which is not a valid {name}: {exc.path}: {exc.problem}"
    unknown = list(_unknown_fields(raw, wire.encode(value), "$"))
    return f"{what} with fields that {name} does not have: {', '.join(unknown)}" if unknown else None


def _unknown_fields(raw: Any, known: Any, path: str) -> Iterator[str]:
    """Return the paths of members dropped while parsing. Nulls do not count: they equal absence."""
    if isinstance(raw, dict) and isinstance(known, dict):
        others = cast("dict[str, Any]", known)
        for key, value in cast("dict[str, Any]", raw).items():
            if key in others:
                yield from _unknown_fields(value, others[key], f"{path}.{key}")
            elif value is not None:
                yield f"{path}.{key}"
    elif isinstance(raw, list) and isinstance(known, list):
        pairs = zip(list_of(raw), list_of(known), strict=False)
        for index, (value, other) in enumerate(pairs):
            yield from _unknown_fields(value, other, f"{path}[{index}]")
