"""The intermediate representation of a protocol: types, definitions and methods, as attrs values.

A schema is read into it with the names of the wire (:mod:`~trio_codex.wire._schema.read`), and so are the wire classes
(:mod:`~trio_codex.wire._schema.built_in`). The code generator replaces those names with Python names. This module knows
neither JSON Schema nor Python text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

# -- types ---------------------------------------------------------------------------------------------------------


@attrs.frozen
class Plain:
    """A type that Python has: ``str``, ``int``, ``float``, ``bool``, ``None``; or ``JSON``; or the ``Null`` sentinel."""

    name: str


@attrs.frozen
class Ref:
    """A definition, by its name."""

    name: str


@attrs.frozen
class Const:
    """One of a fixed set of strings."""

    values: tuple[str, ...]


@attrs.frozen
class Seq:
    """An array."""

    item: Type


@attrs.frozen
class Map:
    """An object with arbitrary keys."""

    value: Type


@attrs.frozen
class Union:
    """One of several types, in this order."""

    members: tuple[Type, ...]


class Missing:
    """The type of :data:`MISSING`."""


MISSING = Missing()
"""The default of a field that has none."""

Default: TypeAlias = Missing | bool | int | str | tuple[str, ...] | None
"""The value of an absent field. A tuple stands for a list, created for each object."""


@attrs.frozen(kw_only=True)
class Field:
    """A property of an object."""

    name: str
    """The attribute; in a schema, the name on the wire."""
    wire: str
    type: Type
    required: bool = False
    default: Default = MISSING
    doc: str = ""
    experimental: bool = False
    since: str | None = None
    """The release of the server that added it; ``None`` if all tested releases have it."""
    clears: bool = False
    """Whether null differs from absence: it clears or disables."""


@attrs.frozen(kw_only=True)
class Class:
    """An object: a definition, or part of one if it has no name."""

    name: str = ""
    doc: str = ""
    title: str | None = None
    fields: tuple[Field, ...] = ()
    choices: tuple[str, ...] = ()
    """Properties of which exactly one is present."""
    parent: str | None = None
    """The union that it is a variant of. They share a module."""
    tag: str | None = None
    """The field that tells the variants of a union apart."""
    key: str | None = None
    """The only key of the object, if the fields are those of its value."""
    closed: bool = False
    """Whether the schema allows no other properties."""
    open: bool = False
    """Whether other properties carry data."""
    experimental: bool = False
    since: str | None = None


Type: TypeAlias = Plain | Ref | Const | Seq | Map | Union | Class

STR, INT, FLOAT, BOOL, NONE, ANY, NULL = map(Plain, ("str", "int", "float", "bool", "None", "JSON", "Null"))
UNKNOWN = Ref("UnknownVariant")
"""Any other object: the last member of every union that may grow."""


def members(type_: Type) -> tuple[Type, ...]:
    """Return the members of a union; any other type is its own only member."""
    return type_.members if isinstance(type_, Union) else (type_,)


def union(types: Iterable[Type]) -> Type:
    """Join types: one constant with all strings first, null last. Raw JSON absorbs the others."""
    strings: list[Const] = []
    flat: list[Type] = []
    for member in (member for type_ in types for member in members(type_)):
        if isinstance(member, Const):
            strings.append(member)
        elif isinstance(member, Class) or member not in flat:
            flat.append(member)
    if ANY in flat:
        return ANY
    if strings:
        flat.insert(0, Const(tuple(dict.fromkeys(value for one in strings for value in one.values))))
    flat.sort(key=lambda member: member == NONE)
    return flat[0] if len(flat) == 1 else Union(tuple(flat))


def optional(inner: Type) -> Type:
    """Return ``inner | None``. Raw JSON already includes null."""
    return union((inner, NONE))


def constant(type_: Type) -> str | None:
    """Return the only string that a type allows, or ``None`` if it allows anything else."""
    return type_.values[0] if isinstance(type_, Const) and len(type_.values) == 1 else None


# -- definitions ---------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Member:
    """A value of an enum."""

    name: str
    value: str
    doc: str = ""
    since: str | None = None


@attrs.frozen(kw_only=True)
class Enum:
    """A named set of known strings."""

    name: str
    doc: str = ""
    members: tuple[Member, ...]
    parent: str | None = None
    experimental: bool = False
    since: str | None = None


@attrs.frozen(kw_only=True)
class Alias:
    """A name for a type: a union, or a string with a meaning."""

    name: str
    doc: str = ""
    type: Type
    parent: str | None = None
    experimental: bool = False
    since: str | None = None


Definition: TypeAlias = Class | Enum | Alias

# -- methods -------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Method:
    """A request or a notification."""

    name: str
    params: Type = NONE
    result: str | None = None
    """The definition of the result; ``None`` for a notification, and in a schema, which does not link requests to results."""
    doc: str = ""
    experimental: bool = False
    since: str | None = None


Table: TypeAlias = Literal["ClientRequest", "ServerRequest", "ServerNotification", "ClientNotification"]
"""A table of methods, by the name of its envelope in the schema."""

# -- references --------------------------------------------------------------------------------------------------


def refs(what: Type | Definition | Field | Method) -> Iterator[str]:
    """Iterate over the names of the definitions that a part of the schema refers to. The result of a method comes last."""
    match what:
        case Ref(name):
            yield name
        case Seq(inner) | Map(inner) | Alias(type=inner) | Field(type=inner):
            yield from refs(inner)
        case Union(several) | Class(fields=several):
            for part in several:
                yield from refs(part)
        case Method(params=params, result=result):
            yield from refs(params)
            yield from () if result is None else (result,)
        case _:
            pass


def reachable(roots: Iterable[str], definitions: Mapping[str, Definition]) -> set[str]:
    """Return the names of the roots and of all definitions that they refer to, directly or indirectly."""
    seen: set[str] = set()
    pending = list(roots)
    while pending:
        name = pending.pop()
        if name not in seen:
            seen.add(name)
            pending.extend(refs(definitions[name]))
    return seen
