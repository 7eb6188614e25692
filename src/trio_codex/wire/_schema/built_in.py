"""The built-in protocol, read from the wire classes as they are imported."""

from __future__ import annotations

from collections import abc
from enum import StrEnum
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Final, Literal, Union, get_args, get_origin

import attrs

from trio_codex import wire
from trio_codex.wire import _registry
from trio_codex.wire._base import Null, Wire, wire_name
from trio_codex.wire._lookup import fields_of
from trio_codex.wire._schema import ir

if TYPE_CHECKING:
    from collections.abc import Mapping

PLAIN: Final = {
    str: ir.STR, int: ir.INT, float: ir.FLOAT, bool: ir.BOOL, NoneType: ir.NONE, Any: ir.ANY, Null: ir.NULL
}  # fmt: skip

METHODS: Final[Mapping[ir.Table, Mapping[str, tuple[str | None, str | None]]]] = {
    "ClientRequest": {name: spec[:2] for name, spec in _registry.CLIENT_REQUESTS.items()},
    "ServerRequest": {name: spec[:2] for name, spec in _registry.SERVER_REQUESTS.items()},
    "ServerNotification": {name: (params, None) for name, params in _registry.NOTIFICATIONS.items()},
    "ClientNotification": {name: (params, None) for name, params in _registry.CLIENT_NOTIFICATIONS.items()},
}
"""The params and the result of each method, by table."""


class BuiltIn(dict[str, ir.Definition]):
    """The definitions of :mod:`trio_codex.wire` by name. Each is read when it is first used."""

    def __missing__(self, name: str) -> ir.Definition:
        self[name] = definition = _definition(name, getattr(wire, name))
        return definition

    def methods(self, table: ir.Table) -> list[ir.Method]:
        """Read a table of methods."""
        return [
            ir.Method(name=name, params=ir.NONE if params is None else ir.Ref(params), result=result)
            for name, (params, result) in METHODS[table].items()
        ]


def _definition(name: str, found: Any) -> ir.Definition:
    if isinstance(found, type) and issubclass(found, StrEnum):
        return ir.Enum(
            name=name, members=tuple(ir.Member(name=each.name, value=each.value) for each in found)
        )
    if not (isinstance(found, type) and issubclass(found, Wire)):
        return ir.Alias(name=name, type=_type(found))
    shape = found.__wire__
    return ir.Class(
        name=name,
        fields=tuple(
            _field(found, each) for each in fields_of(found) if not (shape.open and each.name == "additional")
        ),
        tag=shape.tag,
        key=shape.key,
        closed=shape.closed,
        open=shape.open,
    )


def _field(cls: type[Wire], attribute: attrs.Attribute[Any]) -> ir.Field:
    return ir.Field(
        name=attribute.name,
        wire=wire_name(cls, attribute.name),
        type=_type(attribute.type),
        required=attribute.default is attrs.NOTHING,
        clears=attribute.name in cls.__wire__.clears,
    )


def _type(annotation: Any) -> ir.Type:
    """Read a resolved annotation."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return ir.Union(tuple(map(_type, arguments)))
    if origin is Literal:
        return ir.Const(arguments)
    if origin is abc.Sequence:
        return ir.Seq(_type(arguments[0]))
    if origin is abc.Mapping:
        return ir.Map(_type(arguments[1]))
    return PLAIN[annotation] if annotation in PLAIN else ir.Ref(annotation.__name__)
